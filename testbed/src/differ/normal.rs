//! What is not compared, and why: each rule is narrow, and has its test.

use sluice_dataplane::limits::{DEPTH_MAX, OUTPUTS_MAX};
use sluice_dataplane::packet::key::{FRAG_ANY, FRAG_LATER, PacketKey, PortIx};
use sluice_dataplane::packet::parse::{Layers, parse};

use super::case::{Case, CasePacket, Outcome, Output};

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

fn has_two_tags(bytes: &[u8]) -> bool {
    let is_tag = |at: usize| {
        let bytes = bytes.get(at..at + 2).and_then(|b| b.try_into().ok());
        bytes.is_some_and(|b| matches!(u16::from_be_bytes(b), 0x8100 | 0x88a8))
    };
    is_tag(12) && is_tag(16)
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

/// Whether a case is not to be compared at all.
///
/// A `clone` and a `ct(table=...)` deepen a walk of sluice, which so keeps its stack bounded. A
/// loop that ends by the limit ends a few rounds earlier. And one packet leaves sluice
/// `OUTPUTS_MAX` times at most.
///
/// What `check_pkt_larger` and the actions behind it wrote, Open vSwitch forgets at the end of
/// their list, so whoever resubmitted to it never sees it.
pub fn is_left_out(case: &Case, ovs: &Outcome) -> bool {
    let loops = ovs.hits.values().any(|n| *n >= u64::from(DEPTH_MAX));
    let deepens = |text: &str| ["clone(", "ct("].iter().any(|word| text.contains(word));
    let copies = |o: &Output| o.values().map(Vec::len).sum::<usize>();
    (loops && case.flows.iter().any(|f| deepens(&f.text)))
        || is_forgetful(case, ovs)
        || ovs.out.iter().any(|o| copies(o) >= OUTPUTS_MAX)
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
    if case.flows.iter().any(|f| floods(&f.text)) {
        out.values_mut().for_each(|packets| packets.sort());
    }
    out
}

fn floods(flow: &str) -> bool {
    ["NORMAL", "FLOOD", "ALL"].iter().any(|word| flow.contains(word))
}

#[cfg(test)]
mod tests {
    use super::super::case::CaseFlow;
    use super::*;
    use sluice_dataplane::packet::build::PacketBuilder;

    fn case(flow: &str) -> Case {
        let flow = CaseFlow { bridge: 0, cookie: 1, text: flow.to_owned() };
        Case { flows: vec![flow], ..Case::default() }
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
        assert!(is_left_out(&clones, &outcome(65)) && !is_left_out(&clones, &outcome(2)));
        assert!(!is_left_out(&case("actions=resubmit(,0)"), &outcome(65)));
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
}
