//! What is not compared, and why: each rule is narrow, and has its test.

use sluice_dataplane::limits::OUTPUTS_MAX;
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
/// Of SCTP, Open vSwitch's userspace translates addresses and not ports; of ICMP, it leaves the
/// identifiers.
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
    if (is_sctp(&packet.bytes) || is_icmp(&packet.bytes)) && touched(&["nat("]) {
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

fn is_icmp(bytes: &[u8]) -> bool {
    parsed(bytes).is_some_and(|(key, _)| matches!(key.base.ip_proto, 1 | 58))
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
    if !own.limited.is_empty() && counts_anew(case) && remembers(case) {
        return Some("bounds of loops");
    }
    if ovs.out.iter().any(|o| copies(o) >= OUTPUTS_MAX) {
        return Some("thousands of copies");
    }
    if is_forgetful(case, ovs) {
        return Some("writes of check_pkt_larger");
    }
    if translates_copies(case) {
        return Some("translations in copies");
    }
    if writes_bits(case) {
        return Some("writes of some bits behind a translation");
    }
    if !hidden_flows(case).is_empty() {
        return Some("a flow behind a clause");
    }
    loses_a_rest(case, ovs).then_some("a choice in a clone")
}

/// Whether a copy of a packet may be translated: Open vSwitch then goes on with the translated
/// bytes where the copy was made.
fn translates_copies(case: &Case) -> bool {
    let copies =
        |f: &CaseFlow| f.bridge > 0 || ["clone(", "group:"].iter().any(|w| f.text.contains(w));
    mentions(case, &["nat"]) && case.flows.iter().any(copies)
}

/// Whether some bits of a field may be written that a translation has changed.
fn writes_bits(case: &Case) -> bool {
    const ENDS: &[&str] = &["nw_src", "nw_dst", "ip_src", "ip_dst", "ipv6_src", "ipv6_dst"];
    let is_end = |word: &str| ENDS.iter().chain(PORTS).any(|end| word.contains(end));
    let writes = |f: &CaseFlow| {
        let actions = f.text.split_once("actions=").map_or("", |(_, actions)| actions);
        let actions = actions.to_ascii_lowercase();
        let mut ranges = actions.split([',', ':', '>']);
        let has_range = ranges.any(|w| is_end(w) && w.contains('[') && !w.contains("[]"));
        let mut sets = actions.split("set_field:").skip(1).filter_map(|set| set.split_once("->"));
        let is_masked = sets.any(|(value, rest)| {
            value.contains('/') && is_end(rest.split([',', ')']).next().unwrap_or(""))
        });
        has_range || is_masked
    };
    mentions(case, &["nat"]) && case.flows.iter().any(writes)
}

/// Whether both count the rounds of a loop in their own way: packets that meet a bound are then not
/// compared.
pub fn counts_anew(case: &Case) -> bool {
    let has_cables = case.flows.iter().any(|f| f.bridge != case.flows[0].bridge);
    let chooses = (0..BRIDGES.len()).any(|b| case.chooses_by_default(b));
    has_cables || chooses || mentions(case, &["clone(", "ct("])
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
    if case.flows.iter().any(|f| touches(&f.text, &["arp_op"])) {
        out.values_mut().flatten().for_each(|packet| shorten_arp_op(packet));
    }
    if case.flows.iter().any(|f| floods(&f.text)) {
        out.values_mut().for_each(|packets| packets.sort());
    }
    out
}

/// Whether labels of another Ethernet type are put on a packet that has some, or had some in a
/// copy. Open vSwitch compares the labels with those of the packet as it is, and not their type: as
/// many labels of the other type leave with the type of before.
fn mixes_label_types(case: &Case) -> bool {
    let mentions = |word| mentions(case, &[word]);
    mentions("push_mpls:0x8848") && (makes_copies(case) || mentions("pop_mpls"))
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

/// The operation 255, which Open vSwitch writes as 65535 (`get_arp_key`): eight bits of it are all
/// that flows see.
fn shorten_arp_op(packet: &mut [u8]) {
    let Some((key, layers)) = parsed(packet) else { return };
    let at = usize::from(layers.l3) + 6;
    if matches!(u16::from_be_bytes(key.base.eth_type), 0x0806 | 0x8035)
        && let Some(op) = packet.get_mut(at..at + 2)
        && *op == [0xff, 0xff]
    {
        op[0] = 0;
    }
}

fn floods(flow: &str) -> bool {
    ["NORMAL", "FLOOD", "ALL"].iter().any(|word| flow.contains(word))
}

#[cfg(test)]
mod tests;
