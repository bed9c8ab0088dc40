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
    let bytes = PacketBuilder::eth([2; 6], [4; 6]).ipv4([1; 4], [2; 4]).echo_request(1, 2).build();
    assert!(is_incomparable(&nat, &CasePacket { port: "p1", bytes }));
    assert!(!is_incomparable(&case("sctp,actions=ct(commit,table=1)"), &sctp));
    for (text, is_left_out) in [
        ("actions=resubmit(,1)", false),
        ("actions=clone(output:1)", true),
        ("actions=group:1", true),
        ("actions=set_field:10.0.0.0/255.0.0.0->nw_dst", true),
        ("actions=load:1->NXM_OF_IP_DST[0..3]", true),
        ("actions=load:1->NXM_OF_IP_DST[],load:1->NXM_NX_REG0[0]", false),
        ("actions=set_field:10.0.0.1->nw_dst,set_field:1/1->reg0", false),
    ] {
        nat.flows.push(CaseFlow { bridge: 0, cookie: 2, text: text.into() });
        assert_eq!(why(&nat).is_some(), is_left_out, "{text}");
        let without = Case { flows: nat.flows.split_off(1), ..Case::default() };
        assert_eq!(why(&without), None, "{text}");
    }
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
    assert!(!is_left_out(&clones, &outcome(65)), "a flow may be met often without a loop");
    let limited = Outcome { limited: [0].into(), ..Outcome::default() };
    let is_limited = |c: &Case| left_out(c, &outcome(2), &limited).is_some();
    assert!(counts_anew(&clones) && !is_limited(&clones));
    assert!(is_limited(&case("actions=clone(NORMAL),resubmit(,0)")));
    assert!(!is_limited(&case("actions=NORMAL,resubmit(,0)")));
    let mut chooses = case("actions=group:1,resubmit(,0)");
    assert!(!counts_anew(&chooses));
    chooses.refs.push(group("type=select"));
    assert!(counts_anew(&chooses));
    let mut cables = case("actions=IN_PORT");
    assert!(!counts_anew(&cables));
    cables.flows.push(CaseFlow { bridge: 1, cookie: 2, text: "actions=IN_PORT".into() });
    assert!(counts_anew(&cables));
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
    let again = case("actions=pop_mpls:0x8847,push_mpls:0x8848,output:1");
    assert_eq!(output(&again, &frame(0x47)), output(&again, &frame(0x48)));
}

#[test]
fn the_largest_arp_operation_that_a_flow_can_write_may_be_longer() {
    let arp = |op: u16| {
        let mut bytes = PacketBuilder::eth([2; 6], [4; 6]).eth_type(0x0806).build();
        bytes.extend([0, 1, 8, 0, 6, 4]);
        bytes.extend(op.to_be_bytes());
        bytes.extend([0; 20]);
        Output::from([("p1".to_owned(), vec![bytes])])
    };
    let writes = case("arp,actions=move:NXM_OF_ETH_SRC[0..7]->NXM_OF_ARP_OP[0..7],output:1");
    let plain = case("arp,arp_op=1,actions=output:1");
    assert_eq!(output(&writes, &arp(0xffff)), output(&writes, &arp(0xff)));
    assert_ne!(output(&writes, &arp(0xffff)), output(&writes, &arp(0xfe)));
    assert_ne!(output(&plain, &arp(0xffff)), output(&plain, &arp(0xff)));
}
