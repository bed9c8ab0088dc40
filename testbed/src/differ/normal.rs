//! What is not compared, and why: each rule is narrow, and has its test.

use sluice_dataplane::limits::{DEPTH_MAX, OUTPUTS_MAX};
use sluice_dataplane::packet::key::{
    FRAG_ANY, FRAG_LATER, FlowKey, MPLS_LABELS_MAX, PacketKey, PortIx,
};
use sluice_dataplane::packet::parse::{Layers, parse};
use sluice_dataplane::wire::ether::TYPE_NONE;
use sluice_dataplane::wire::mpls::BOS;

use super::case::{BRIDGES, Case, CaseFlow, CasePacket, Outcome, Output};
use super::ours;

/// Packets of which the two make something else on purpose.
///
/// A fragment matches with ports of zero in both. Open vSwitch makes them zero in the fields
/// themselves, at each lookup: a program that writes ports then writes zeroes into the packet. And
/// of a later fragment it "corrects" a transport checksum, in the middle of the data, when an
/// address changes.
///
/// Open vSwitch does not look at the version of an IP header: it takes a packet for what its
/// Ethernet type says. For sluice a wrong one is no IP packet.
///
/// A neighbour message that is cut before its target is dropped by sluice (`edit_failed`) when the
/// target is to be written; Open vSwitch sends it unchanged.
///
/// Both read one tag and put a label behind it, which cuts a second one in two. A program that
/// tells a controller Open vSwitch runs over the packet parsed anew: there it sees both tags.
///
/// Of SCTP, Open vSwitch's userspace translates addresses and not ports.
///
/// A frame with a length in the place of the type has no type to go back to when a label comes off
/// again, put on for a copy: Open vSwitch writes its own number for "none" (0x05ff).
///
/// More labels than both read cannot be popped; in a bucket, Open vSwitch then throws away what
/// left before, too.
///
/// A frame that ends inside its first MPLS label is counted by Open vSwitch when it is new, and not
/// when the same comes again.
pub fn is_incomparable(case: &Case, packet: &CasePacket) -> bool {
    let touched = |words: &[&str]| case.flows.iter().any(|f| touches(&f.text, words));
    if has_wrong_version(&packet.bytes) || has_cut_label(&packet.bytes) {
        return true;
    }
    if is_cut_neighbour(&packet.bytes) && touched(&["nd_"]) {
        return true;
    }
    let reparses = || touched(&["controller", "dec_"]);
    if has_two_tags(&packet.bytes) && touched(&["push_mpls"]) && reparses() {
        return true;
    }
    if is_sctp(&packet.bytes) && touched(&["nat("]) {
        return true;
    }
    if has_length(&packet.bytes) && touched(&["push_mpls"]) && makes_copies(case) {
        return true;
    }
    if has_deep_labels(&packet.bytes) && touched(&["pop_mpls"]) && !case.refs.is_empty() {
        return true;
    }
    let frag = frag_of(&packet.bytes);
    (frag & FRAG_ANY != 0 && touched(PORTS)) || (frag & FRAG_LATER != 0 && touched(ADDRESSES))
}

const PORTS: &[&str] = &["mod_tp_", "tcp_", "udp_", "sctp_", "icmp", "nd_"];
const ADDRESSES: &[&str] = &["nw_src", "nw_dst", "ip_src", "ip_dst", "ipv6_src", "ipv6_dst"];

/// What sluice's parser finds; `None` for a frame without an Ethernet header.
fn parsed(bytes: &[u8]) -> Option<(PacketKey, Layers)> {
    let (mut key, mut layers) = (PacketKey::default(), Layers::default());
    parse(bytes, PortIx(0), &mut key, &mut layers).ok().map(|()| (key, layers))
}

fn has_wrong_version(bytes: &[u8]) -> bool {
    let Some((key, layers)) = parsed(bytes) else { return false };
    let version = bytes.get(usize::from(layers.l3)).map_or(0, |b| b >> 4);
    match u16::from_be_bytes(key.base.eth_type) {
        0x0800 => version != 4,
        0x86dd => version != 6,
        _ => false,
    }
}

/// Length of neighbour solicitations and advertisements up to their options (RFC 4861 4.3, 4.4).
const ND_BYTES: u16 = 24;

fn is_cut_neighbour(bytes: &[u8]) -> bool {
    parsed(bytes).is_some_and(|(key, layers)| {
        let kind = u16::from_be_bytes(key.base.tp_src);
        let is_nd = key.base.ip_proto == 58 && matches!(kind, 135 | 136);
        is_nd && layers.end < layers.l4 + ND_BYTES
    })
}

fn has_cut_label(bytes: &[u8]) -> bool {
    parsed(bytes).is_some_and(|(key, layers)| {
        let is_mpls = matches!(u16::from_be_bytes(key.base.eth_type), 0x8847 | 0x8848);
        is_mpls && bytes.len() < usize::from(layers.l3) + 4
    })
}

fn has_length(bytes: &[u8]) -> bool {
    parsed(bytes).is_some_and(|(key, _)| key.base.eth_type == TYPE_NONE.to_be_bytes())
}

fn has_deep_labels(bytes: &[u8]) -> bool {
    parsed(bytes).is_some_and(|(key, _)| {
        let key = FlowKey::from_packet(&key, 0);
        key.mpls_labels() == MPLS_LABELS_MAX && key.mpls_lse[MPLS_LABELS_MAX - 1] & BOS == 0
    })
}

fn has_two_tags(bytes: &[u8]) -> bool {
    let is_tag = |at: usize| {
        let bytes = bytes.get(at..at + 2).and_then(|b| b.try_into().ok());
        bytes.is_some_and(|b| matches!(u16::from_be_bytes(b), 0x8100 | 0x88a8))
    };
    is_tag(12) && is_tag(16)
}

/// Whether it is SCTP.
pub fn is_sctp(bytes: &[u8]) -> bool {
    parsed(bytes).is_some_and(|(key, _)| key.base.ip_proto == 132)
}

/// The fragment bits of a packet (`ip_frag`).
pub fn frag_of(bytes: &[u8]) -> u8 {
    parsed(bytes).map_or(0, |(key, _)| key.base.ip_frag)
}

/// Whether actions name one of these fields.
fn touches(flow: &str, words: &[&str]) -> bool {
    let actions = flow.split_once("actions=").map_or("", |(_, actions)| actions);
    let actions = actions.to_ascii_lowercase();
    words.iter().any(|word| actions.contains(word))
}

/// Whether the packets of flows are not to be compared.
///
/// Open vSwitch runs what follows a `check_pkt_larger` for both outcomes, and counts both.
pub fn is_uncounted(case: &Case) -> bool {
    case.flows.iter().any(|f| f.text.contains("check_pkt_larger"))
}

/// Why a case is not to be compared at all, if it is not. `own` is sluice's outcome without caches.
///
/// *Bounds.* A `clone` and a `ct(table=...)` deepen a walk of sluice, which so keeps its stack
/// bounded; Open vSwitch begins to count anew behind a `ct` and a `select` group that chooses by
/// itself, has at most six of them, and bounds the bytes of its own actions, too. Where one of
/// these is in a loop, or a loop goes over cables, it ends some rounds earlier or later: packets
/// that meet the bound are left out, and all of a case where packets leave traces for others. And
/// one packet leaves sluice `OUTPUTS_MAX` times at most.
///
/// *Forgotten writes.* What `check_pkt_larger` and the actions behind it wrote, Open vSwitch
/// forgets at the end of their list, so whoever resubmitted to it never sees it.
///
/// *Hidden flows*, and *clones of a choice*: see [`hidden_flows`], [`loses_a_rest`].
pub fn left_out(case: &Case, ovs: &Outcome, own: &Outcome) -> Option<&'static str> {
    let copies = |o: &Output| o.values().map(Vec::len).sum::<usize>();
    let loops = ovs.hits.values().any(|n| *n >= u64::from(DEPTH_MAX));
    if loops && deepens(case) || !own.limited.is_empty() && counts_anew(case) && remembers(case) {
        return Some("bounds of loops");
    }
    if ovs.out.iter().any(|o| copies(o) >= OUTPUTS_MAX) {
        return Some("thousands of copies");
    }
    if is_forgetful(case, ovs) {
        return Some("writes of check_pkt_larger");
    }
    if looks_behind_nat(case) {
        return Some("lookups behind a translation");
    }
    if !hidden_flows(case).is_empty() {
        return Some("a flow behind a clause");
    }
    loses_a_rest(case, ovs).then_some("a choice in a clone")
}

/// Whether a packet that was translated may meet tables or writes with no `ct(table=)` before:
/// there Open vSwitch goes on with the addresses of before.
fn looks_behind_nat(case: &Case) -> bool {
    const ON: &[&str] = &["resubmit", "clone(", "group:", "write_actions"];
    let goes_on = |f: &CaseFlow| f.bridge > 0 || ON.iter().any(|word| f.text.contains(word));
    case.flows.iter().any(|f| f.text.contains("nat")) && case.flows.iter().any(goes_on)
}

/// Whether both count the rounds of a loop in their own way: packets that meet a bound are then not
/// compared.
pub fn counts_anew(case: &Case) -> bool {
    let has_cables = case.flows.iter().any(|f| f.bridge != case.flows[0].bridge);
    has_cables || deepens(case)
}

fn deepens(case: &Case) -> bool {
    let chooses = (0..BRIDGES.len()).any(|b| case.chooses_by_default(b));
    chooses || mentions(case, &["clone(", "ct("])
}

/// Whether what becomes of one packet may rest on one before it.
fn remembers(case: &Case) -> bool {
    mentions(case, &["ct(", "learn(", "NORMAL"])
}

fn mentions(case: &Case, words: &[&str]) -> bool {
    case.flows.iter().any(|f| words.iter().any(|word| f.text.contains(word)))
}

/// Flows with the match of a conjunction's clause, in the same table. Open vSwitch looks
/// again once a conjunction is met, or none is, and then no longer finds such a flow if its
/// priority is the lower one (`classifier_lookup__`: the rules of equal matches are one list, of
/// which only the head is seen).
pub fn hidden_flows(case: &Case) -> Vec<u64> {
    let is_clause = |f: &&CaseFlow| f.text.contains("conjunction(");
    let place = |f: &CaseFlow| Some((f.bridge, ours::place_of(&f.text)?));
    let clauses: Vec<_> = case.flows.iter().filter(is_clause).filter_map(place).collect();
    if clauses.is_empty() {
        return Vec::new();
    }
    let others = case.flows.iter().filter(|f| !is_clause(f));
    let hidden = others.filter(|f| place(f).is_some_and(|p| clauses.contains(&p)));
    hidden.map(|f| f.cookie).collect()
}

/// Whether a packet may have met, inside a `clone`, a `select` group that chooses by itself. For
/// the hash Open vSwitch runs the packet through its datapath anew, and then takes the end of the
/// clone's list for the end of all lists around it.
fn loses_a_rest(case: &Case, ovs: &Outcome) -> bool {
    case.flows.iter().any(|f| {
        let met = ovs.hits.get(&(f.bridge, f.cookie)).is_some_and(|n| *n > 0);
        met && f.text.contains("clone(") && case.chooses_by_default(f.bridge)
    })
}

/// Whether a packet met a `check_pkt_larger` in a list behind which another may go on.
fn is_forgetful(case: &Case, ovs: &Outcome) -> bool {
    let again = ["resubmit:", ",0)"].map(|w| case.flows.iter().any(|f| f.text.contains(w)));
    case.flows.iter().any(|f| {
        let met = ovs.hits.get(&(f.bridge, f.cookie)).is_some_and(|n| *n > 0);
        let first = !f.text.contains("table=") || f.text.starts_with("table=0,");
        met && f.text.contains("check_pkt_larger") && (!first || again.contains(&true))
    })
}

/// What is compared of what left for one packet.
///
/// In which order a flood takes the ports is open (Open vSwitch: that of a hash table), so copies
/// that reach one port over different bridges may overtake each other.
pub fn output(case: &Case, out: &Output) -> Output {
    let mut out = out.clone();
    if mixes_label_types(case) {
        out.values_mut().flatten().for_each(|packet| forget_label_type(packet));
    }
    if case.flows.iter().any(|f| floods(&f.text)) {
        out.values_mut().for_each(|packets| packets.sort());
    }
    out
}

/// Whether labels of both Ethernet types are put on copies of a packet. Open vSwitch compares the
/// labels of a copy with those that left before, and not their type: as many labels of the other
/// type leave with the type of the copy before.
fn mixes_label_types(case: &Case) -> bool {
    case.flows.iter().any(|f| f.text.contains("push_mpls:0x8848")) && makes_copies(case)
}

/// Whether packets are copied, changed, and then leave as they were before.
fn makes_copies(case: &Case) -> bool {
    let more = |f: &CaseFlow| f.bridge > 0 || f.text.contains("clone(");
    !case.refs.is_empty() || case.flows.iter().any(more)
}

/// Makes the two types of labelled frames one.
fn forget_label_type(packet: &mut [u8]) {
    let Some((key, layers)) = parsed(packet) else { return };
    let at = usize::from(layers.l3);
    if key.base.eth_type == [0x88, 0x48]
        && let Some(low) = at.checked_sub(1).and_then(|at| packet.get_mut(at))
    {
        *low = 0x47;
    }
}

fn floods(flow: &str) -> bool {
    ["NORMAL", "FLOOD", "ALL"].iter().any(|word| flow.contains(word))
}

#[cfg(test)]
mod tests {
    use super::super::case::Reference;
    use super::*;
    use sluice_dataplane::packet::build::PacketBuilder;

    fn case(flow: &str) -> Case {
        let flow = CaseFlow { bridge: 0, cookie: 1, text: flow.to_owned() };
        Case { flows: vec![flow], ..Case::default() }
    }

    fn group(kind: &str) -> Reference {
        let text = format!("group_id=1,{kind},bucket=actions=output:1");
        Reference { bridge: 0, what: "group", text }
    }

    fn packet(offset: Option<u16>) -> CasePacket {
        let b = PacketBuilder::eth([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2]);
        let b = offset.into_iter().fold(b, |b, at| b.fragment(7, at, true)).udp(1, 2);
        CasePacket { port: "p1", bytes: b.payload(&[0; 16]).build() }
    }

    #[test]
    fn only_fragments_that_a_program_changes_are_left_out() {
        let touches = case("udp,actions=mod_tp_dst:5,output:2");
        let matches = case("udp,tp_dst=5,actions=output:2");
        assert!(is_incomparable(&touches, &packet(Some(0))));
        assert!(!is_incomparable(&touches, &packet(None)));
        assert!(!is_incomparable(&matches, &packet(Some(0))));
        let moves = case("ip,actions=mod_nw_dst:10.0.0.3,output:2");
        assert!(is_incomparable(&moves, &packet(Some(8))));
        assert!(!is_incomparable(&moves, &packet(Some(0))));
    }

    #[test]
    fn an_ip_header_of_another_version_is_left_out() {
        let mut odd = packet(None);
        odd.bytes[14] = 0x55;
        assert!(is_incomparable(&case("actions=output:1"), &odd));
        odd.bytes[14] = 0x46;
        assert!(!is_incomparable(&case("actions=output:1"), &odd));
    }

    #[test]
    fn a_cut_label_is_left_out() {
        let mut bytes = PacketBuilder::eth([2; 6], [4; 6]).eth_type(0x8847).build();
        bytes.extend([0, 1, 1]);
        let mut cut = CasePacket { port: "p1", bytes };
        assert!(is_incomparable(&case("actions=output:1"), &cut));
        cut.bytes.push(64);
        assert!(!is_incomparable(&case("actions=output:1"), &cut));
    }

    #[test]
    fn what_sees_a_translation_in_its_own_way_is_left_out() {
        let mut nat = case("sctp,actions=ct(commit,nat(src=10.0.0.1:5),table=1),output:1");
        let why = |case: &Case| left_out(case, &Outcome::default(), &Outcome::default());
        assert_eq!(why(&nat), None);
        let bytes = PacketBuilder::eth([2; 6], [4; 6]).ipv4([1; 4], [2; 4]).sctp(1, 2, 3).build();
        let sctp = CasePacket { port: "p1", bytes };
        assert!(is_incomparable(&nat, &sctp) && !is_incomparable(&nat, &packet(None)));
        assert!(!is_incomparable(&case("sctp,actions=ct(commit,table=1)"), &sctp));
        nat.flows.push(CaseFlow { bridge: 0, cookie: 2, text: "actions=resubmit(,1)".into() });
        assert!(why(&nat).is_some());
        nat.flows.remove(0);
        assert_eq!(why(&nat), None);
    }

    #[test]
    fn a_length_is_left_out_where_copies_get_labels() {
        let frame = |eth_type: u16| {
            let bytes = PacketBuilder::eth([2; 6], [4; 6]).eth_type(eth_type).payload(&[0x42; 9]);
            CasePacket { port: "p1", bytes: bytes.build() }
        };
        let copies = case("actions=clone(push_mpls:0x8847,output:1),output:2");
        assert!(is_incomparable(&copies, &frame(9)));
        assert!(!is_incomparable(&copies, &frame(0x88b5)));
        assert!(!is_incomparable(&case("actions=push_mpls:0x8847,output:2"), &frame(9)));
        assert!(!is_incomparable(&case("actions=clone(output:1),output:2"), &frame(9)));
    }

    #[test]
    fn labels_that_cannot_be_popped_are_left_out_where_there_are_groups() {
        let labels = |n: u32| {
            let b = (0..n).fold(PacketBuilder::eth([2; 6], [4; 6]), |b, n| b.mpls(16 + n, 0, 9));
            CasePacket { port: "p1", bytes: b.ipv4([1; 4], [2; 4]).udp(1, 2).build() }
        };
        let mut pops = case("mpls,actions=pop_mpls:0x800,output:1");
        assert!(!is_incomparable(&pops, &labels(4)));
        pops.refs.push(group("type=all"));
        assert!(is_incomparable(&pops, &labels(4)) && !is_incomparable(&pops, &labels(3)));
        pops.flows[0].text = "mpls,actions=output:1".into();
        assert!(!is_incomparable(&pops, &labels(4)));
    }

    #[test]
    fn a_label_and_two_tags_are_left_out_where_a_controller_is_told() {
        let tagged = |n: usize| {
            let b = PacketBuilder::eth([2; 6], [4; 6]);
            let b = (0..n).fold(b, |b, _| b.tag(0x8100, 5)).ipv4([10, 0, 0, 1], [10, 0, 0, 2]);
            CasePacket { port: "p1", bytes: b.udp(1, 2).build() }
        };
        let pushes = case("actions=push_mpls:0x8847,output:1");
        let told = case("actions=strip_vlan,controller,push_mpls:0x8847,output:1");
        assert!(is_incomparable(&told, &tagged(2)));
        assert!(!is_incomparable(&told, &tagged(1)));
        assert!(!is_incomparable(&pushes, &tagged(2)));
        assert!(!is_incomparable(&case("actions=pop_vlan,output:1"), &tagged(2)));
    }

    #[test]
    fn a_cut_neighbour_message_is_left_out_where_it_is_written() {
        let nd = |len| {
            let b = PacketBuilder::eth([2; 6], [4; 6]).ipv6([1; 16], [2; 16]).ttl(255);
            let bytes = b.icmp(135, 0, [0; 4]).payload(&vec![0; len]).build();
            CasePacket { port: "p1", bytes }
        };
        let writes = case("icmp6,icmpv6_type=135,actions=set_field:::1->nd_target,output:1");
        assert!(is_incomparable(&writes, &nd(8)) && !is_incomparable(&writes, &nd(16)));
        assert!(!is_incomparable(&case("icmp6,actions=output:1"), &nd(8)));
    }

    #[test]
    fn only_floods_may_reorder() {
        let two = |a, b| Output::from([("p1".to_owned(), vec![vec![a], vec![b]])]);
        let (plain, floods) = (case("actions=output:1,output:1"), case("actions=output:1,FLOOD"));
        assert_ne!(output(&plain, &two(1, 2)), output(&plain, &two(2, 1)));
        assert_eq!(output(&floods, &two(1, 2)), output(&floods, &two(2, 1)));
        assert_ne!(output(&floods, &two(1, 2)), output(&floods, &two(2, 2)));
    }

    #[test]
    fn counts_behind_check_pkt_larger_and_loops_with_clones_are_left_out() {
        let outcome = |n| Outcome { hits: [((0, 1), n)].into(), ..Outcome::default() };
        let larger = case("actions=check_pkt_larger(100)->NXM_NX_REG0[0],output:1");
        assert!(is_uncounted(&larger) && !is_uncounted(&case("actions=output:1")));
        let clones = case("actions=clone(output:1),resubmit(,0)");
        let is_left_out = |c: &Case, o: &Outcome| left_out(c, o, &Outcome::default()).is_some();
        assert!(is_left_out(&clones, &outcome(65)) && !is_left_out(&clones, &outcome(2)));
        assert!(!is_left_out(&case("actions=resubmit(,0)"), &outcome(65)));
        let limited = Outcome { limited: [0].into(), ..Outcome::default() };
        let is_limited = |c: &Case| left_out(c, &outcome(2), &limited).is_some();
        assert!(counts_anew(&clones) && !is_limited(&clones));
        assert!(is_limited(&case("actions=clone(NORMAL),resubmit(,0)")));
        assert!(!is_limited(&case("actions=NORMAL,resubmit(,0)")));
        let mut chooses = case("actions=group:1,resubmit(,0)");
        assert!(!counts_anew(&chooses));
        chooses.refs.push(group("type=select"));
        assert!(counts_anew(&chooses) && is_left_out(&chooses, &outcome(65)));
        let mut cables = case("actions=IN_PORT");
        assert!(!counts_anew(&cables));
        cables.flows.push(CaseFlow { bridge: 1, cookie: 2, text: "actions=IN_PORT".into() });
        assert!(counts_anew(&cables) && !is_left_out(&cables, &outcome(65)));
        let behind = case("table=3,actions=check_pkt_larger(100)->NXM_NX_REG0[0]");
        assert!(is_left_out(&behind, &outcome(1)) && !is_left_out(&behind, &outcome(0)));
        assert!(!is_left_out(&larger, &outcome(1)));
        let sends = |n| {
            let out = Output::from([("p1".to_owned(), vec![vec![1]; n])]);
            Outcome { out: vec![out], ..Outcome::default() }
        };
        let plain = case("actions=output:1");
        assert!(is_left_out(&plain, &sends(OUTPUTS_MAX)) && !is_left_out(&plain, &sends(70)));
    }

    #[test]
    fn a_choice_in_a_clone_and_a_flow_behind_a_clause_are_left_out() {
        let met = Outcome { hits: [((0, 1), 1)].into(), ..Outcome::default() };
        let own = Outcome::default();
        let mut clones = case("actions=clone(group:1),output:2");
        assert_eq!(left_out(&clones, &met, &own), None);
        clones.refs.push(group("type=select"));
        assert!(left_out(&clones, &met, &own).is_some());
        assert_eq!(left_out(&clones, &Outcome::default(), &own), None, "nobody met it");
        clones.refs[0] = group("type=select,selection_method=hash,fields(eth_src)");
        assert_eq!(left_out(&clones, &met, &own), None);

        let mut clause = case("priority=9,tcp,actions=conjunction(1,1/2)");
        assert!(hidden_flows(&clause).is_empty());
        let mut add = |text: &str| {
            clause.flows.push(CaseFlow { bridge: 0, cookie: 2, text: text.to_owned() });
            !hidden_flows(&clause).is_empty()
        };
        assert!(!add("priority=7,udp,actions=output:1") && !add("table=1,tcp,actions=output:1"));
        assert!(!add("priority=3,tcp,actions=conjunction(2,1/2)"));
        assert!(add("priority=5,eth_type=0x800,nw_proto=6,actions=output:1"));
    }

    #[test]
    fn types_of_labels_count_where_copies_cannot_mix_them() {
        let frame = |low: u16| {
            let bytes = PacketBuilder::eth([2; 6], [4; 6]).eth_type(0x8800 | low).build();
            Output::from([("p1".to_owned(), vec![[bytes, vec![0, 0, 1, 64]].concat()])])
        };
        let plain = case("actions=push_mpls:0x8848,output:1");
        let copies = case("actions=clone(output:1),push_mpls:0x8848,output:1");
        assert_ne!(output(&plain, &frame(0x47)), output(&plain, &frame(0x48)));
        assert_eq!(output(&copies, &frame(0x47)), output(&copies, &frame(0x48)));
        assert_ne!(output(&copies, &frame(0x47)), output(&copies, &frame(0x49)));
    }
}
