//! What changes do to flows.

use super::*;
use crate::flow::{Command, NoNames, parse_flow, parse_flow_mod};

fn change<T>(flows: &mut Flows, now_ns: u64, f: impl FnOnce(&mut Flows, Site<'_>) -> T) -> T {
    let mut ids = RuleIds::default();
    // Numbers that no flow has.
    let used = flows.all.iter().map(|s| s.number + 1).max().unwrap_or(0);
    (0..used).for_each(|_| _ = ids.take());
    f(flows, Site { bridge: 0, names: &NoNames, ids: &mut ids, version: 1, now_ns })
}

fn run(flows: &mut Flows, command: Command, text: &str) -> Result<Changed, StoreError> {
    let m = parse_flow_mod(text, Some(command), &NoNames).unwrap();
    change(flows, 5, |f, site| f.apply(&[m], site)).map(|o| o.changed)
}

fn texts(flows: &Flows) -> Vec<String> {
    flows.sorted().iter().map(|s| s.text(&NoNames)).collect()
}

#[test]
fn adding_again_replaces_and_resets_while_modifying_keeps() {
    let mut f = Flows::default();
    run(&mut f, Command::Add, "priority=5,ip,actions=output:1").unwrap();
    f.sorted()[0].rule.stats.add(3, 180, 9);
    let done = run(&mut f, Command::Modify, "ip,actions=output:2").unwrap();
    assert_eq!((done.modified, f.sorted()[0].rule.stats.packets()), (1, 3));
    run(&mut f, Command::Add, "priority=5,ip,actions=output:3").unwrap();
    assert_eq!(f.sorted()[0].rule.stats.packets(), 0);
    assert_eq!(texts(&f), ["priority=5,ip actions=output:3"]);
}

#[test]
fn deleting_is_loose_unless_strict() {
    let mut f = Flows::default();
    for t in ["ip,actions=1", "priority=7,tcp,actions=1", "arp,actions=1", "table=3,udp,actions=2"]
    {
        run(&mut f, Command::Add, t).unwrap();
    }
    assert_eq!(run(&mut f, Command::DeleteStrict, "priority=1,tcp").unwrap().deleted, 0);
    assert_eq!(run(&mut f, Command::Delete, "ip,table=0").unwrap().deleted, 2);
    assert_eq!(run(&mut f, Command::Delete, "out_port=2").unwrap().deleted, 1);
    assert_eq!(f.len(), 1);
}

#[test]
fn a_change_is_whole_or_not_at_all() {
    let mut f = Flows::default();
    run(&mut f, Command::Add, "priority=5,ip,actions=output:1").unwrap();
    let add = |t: &str| parse_flow_mod(t, Some(Command::Add), &NoNames).unwrap();
    let mods = [add("arp,actions=drop"), add("priority=5,tcp,check_overlap,actions=drop")];
    let refused = change(&mut f, 6, |f, site| f.apply(&mods, site)).unwrap_err();
    assert!(matches!(refused, StoreError::Overlap { .. }), "{refused}");
    assert_eq!(texts(&f), ["priority=5,ip actions=output:1"]);
}

#[test]
fn replacing_keeps_what_is_equal() {
    let mut f = Flows::default();
    run(&mut f, Command::Add, "priority=5,ip,actions=output:1").unwrap();
    run(&mut f, Command::Add, "priority=6,arp,actions=output:1").unwrap();
    f.sorted().iter().for_each(|s| s.rule.stats.add(1, 60, 9));
    let flow = |t: &str| parse_flow(t, &NoNames).unwrap();
    let mut pool = Pool::default();
    let new = ["priority=5,ip,actions=output:1", "udp,actions=drop"];
    let new = new.map(|t| pool.pack(flow(t))).into();
    let done = change(&mut f, 7, |f, site| f.replace(new, site)).unwrap().changed;
    assert_eq!((done.added, done.modified, done.deleted), (1, 0, 1));
    let kept: u64 = f.sorted().iter().map(|s| s.rule.stats.packets()).sum();
    assert_eq!(kept, 1);
}

#[test]
fn timeouts_count_from_the_last_packet_or_the_start() {
    let mut f = Flows::default();
    let s = 1_000_000_000;
    run(&mut f, Command::Add, "idle_timeout=10,ip,actions=1").unwrap();
    run(&mut f, Command::Add, "hard_timeout=20,arp,actions=1").unwrap();
    assert!(f.has_timeouts());
    f.sorted().iter().for_each(|x| x.rule.stats.add(1, 60, 5 * s));
    let expire = |f: &mut Flows, at| change(f, at, |f, site| f.expire(site)).changed.deleted;
    assert_eq!(expire(&mut f, 14 * s), 0);
    assert_eq!(expire(&mut f, 15 * s), 1);
    assert_eq!(expire(&mut f, 20 * s + 5), 1);
    assert!(f.is_empty() && !f.has_timeouts());
}

#[test]
fn a_refused_change_leaves_no_trace() {
    let mut f = Flows::default();
    for t in ["priority=5,ip,actions=output:1", "priority=5,arp,send_flow_rem,actions=output:1"] {
        run(&mut f, Command::Add, t).unwrap();
    }
    let before: Vec<(u32, String)> =
        f.sorted().iter().map(|s| (s.number, s.text(&NoNames))).collect();
    let m = |c, t: &str| parse_flow_mod(t, Some(c), &NoNames).unwrap();
    let mods = [
        m(Command::Modify, "ip,actions=output:9"),
        m(Command::Delete, "arp"),
        m(Command::Add, "priority=5,ip,actions=output:7"),
        m(Command::Add, "priority=5,udp,check_overlap,actions=drop"),
    ];
    assert!(change(&mut f, 6, |f, site| f.apply(&mods, site)).is_err());
    let after: Vec<(u32, String)> =
        f.sorted().iter().map(|s| (s.number, s.text(&NoNames))).collect();
    assert_eq!(before, after);
    let flow = parse_flow_mod("priority=5,arp", Some(Command::DeleteStrict), &NoNames).unwrap();
    assert!(f.find(&flow.flow).is_some(), "still found by its match");
}

#[test]
fn a_full_table_refuses_or_evicts_the_least_important() {
    let mut f = Flows::default();
    let add = |f: &mut Flows, t: &str| run(f, Command::Add, t);
    f.set_limit(0, TableLimit { flows_max: 2, evicts: false });
    add(&mut f, "udp,idle_timeout=9,importance=2,actions=1").unwrap();
    add(&mut f, "tcp,idle_timeout=9,importance=1,actions=1").unwrap();
    assert_eq!(add(&mut f, "arp,actions=1"), Err(StoreError::TableFull { table: 0, max: 2 }));
    add(&mut f, "tcp,idle_timeout=9,importance=1,actions=2").unwrap();
    f.set_limit(0, TableLimit { flows_max: 2, evicts: true });
    add(&mut f, "arp,actions=1").unwrap();
    let left = texts(&f);
    assert!(left.iter().any(|t| t.contains("udp")) && left.iter().any(|t| t.contains("arp")));
    add(&mut f, "icmp,actions=1").unwrap();
    assert_eq!(add(&mut f, "sctp,actions=1"), Err(StoreError::TableFull { table: 0, max: 2 }));
}

#[test]
fn who_asked_hears_of_removal_and_why() {
    let mut f = Flows::default();
    run(&mut f, Command::Add, "send_flow_rem,udp,hard_timeout=3,actions=1").unwrap();
    run(&mut f, Command::Add, "send_flow_rem,tcp,actions=1").unwrap();
    run(&mut f, Command::Add, "arp,actions=1").unwrap();
    let out = change(&mut f, 4_000_000_000, |f, site| f.expire(site));
    assert_eq!(out.removed[0].reason, RemovedReason::HardTimeout);
    let all = parse_flow_mod("", Some(Command::Delete), &NoNames).unwrap();
    let out = change(&mut f, 5, |f, site| f.apply(&[all], site)).unwrap();
    assert_eq!((out.changed.deleted, out.removed.len()), (2, 1));
    assert_eq!(out.removed[0].reason, RemovedReason::Delete);
}

#[test]
fn other_clauses_are_one_change_of_the_rule() {
    let mut f = Flows::default();
    run(&mut f, Command::Add, "priority=5,ip,actions=conjunction(3,1/2)").unwrap();
    let m = parse_flow_mod("ip,actions=conjunction(3,2/2)", Some(Command::Modify), &NoNames);
    let out = change(&mut f, 6, |f, site| f.apply(&[m.unwrap()], site)).unwrap();
    let [RuleChange::Put { number, rule }] = &out.changes[..] else { panic!("{:?}", out.changes) };
    assert_eq!(f.by_number(*number).map(|s| s.rule.cookie), Some(0));
    assert_eq!(rule.matching.clauses().map(|c| c[0].clause), Some(1));
    assert!(f.find(&parse_flow("priority=5,ip,actions=drop", &NoNames).unwrap()).is_some());
}

#[test]
fn a_chain_of_learners_goes_with_its_first_link() {
    let mut f = Flows::default();
    let n = 100_000;
    let link = |k: u32| {
        let next = k + 1;
        let text = format!(
            "table=1,cookie={k:#x},reg0={k},actions=learn(table=1,cookie={next:#x},delete_learned)"
        );
        parse_flow(&text, &NoNames).unwrap()
    };
    let mut pool = Pool::default();
    let flows: Vec<Packed> = (0..n).map(|k| pool.pack(link(k))).collect();
    let steps = flows.into_iter().map(Step::Add).collect();
    change(&mut f, 5, |f, site| f.run(steps, site)).unwrap();
    assert_eq!(f.len(), n as usize);
    run(&mut f, Command::Delete, "cookie=0/-1").unwrap();
    assert!(f.is_empty());
}

/// Adds and deletes in one change, refused at its end: what went is there again, by match too.
#[test]
fn places_are_found_again_after_a_refusal_among_many() {
    let mut f = Flows::default();
    let text = |k: u32| format!("priority={},ip,nw_dst=10.0.0.{},actions=1", k % 3, k % 250);
    let add = |t: &str| parse_flow_mod(t, Some(Command::Add), &NoNames).unwrap();
    let mods: Vec<FlowMod> = (0..500).map(|k| add(&text(k))).collect();
    change(&mut f, 5, |f, site| f.apply(&mods, site)).unwrap();
    let before = texts(&f);
    let all = parse_flow_mod("", Some(Command::Delete), &NoNames).unwrap();
    let mut mods = vec![all];
    mods.extend((100..300).map(|k| add(&text(k).replace("actions=1", "actions=2"))));
    mods.push(add("priority=1,ip,check_overlap,actions=3"));
    assert!(change(&mut f, 6, |f, site| f.apply(&mods, site)).is_err());
    assert_eq!(texts(&f), before);
    for k in 0..500 {
        assert!(f.find(&add(&text(k)).flow).is_some());
    }
}

#[test]
fn a_modification_resets_counters_and_sets_the_cookie_when_told_to_and_made() {
    let mut f = Flows::default();
    run(&mut f, Command::Add, "priority=5,ip,actions=output:1").unwrap();
    f.sorted()[0].rule.stats.add(3, 180, 9);
    let m = |c, t: &str| parse_flow_mod(t, Some(c), &NoNames).unwrap();
    let resets = m(Command::Modify, "reset_counts,cookie=0x7,ip,actions=output:2");
    let refused = m(Command::Add, "priority=5,tcp,check_overlap,actions=drop");
    let mods = [resets.clone(), refused];
    assert!(change(&mut f, 6, |f, site| f.apply(&mods, site)).is_err());
    assert_eq!(f.sorted()[0].rule.stats.packets(), 3, "it was refused");
    change(&mut f, 6, |f, site| f.apply(&[resets], site)).unwrap();
    let rule = &f.sorted()[0].rule;
    assert_eq!((rule.stats.packets(), rule.cookie), (0, 7));
    run(&mut f, Command::Modify, "ip,actions=output:3").unwrap();
    assert_eq!(f.sorted()[0].rule.cookie, 7, "none was given");
}

#[test]
fn replacing_changes_what_differs_and_keeps_to_the_limit() {
    let mut f = Flows::default();
    run(&mut f, Command::Add, "priority=5,ip,actions=output:1").unwrap();
    f.sorted()[0].rule.stats.add(1, 60, 9);
    let mut pool = Pool::default();
    let mut replace = |f: &mut Flows, texts: &[&str]| {
        let flows = texts.iter().map(|t| pool.pack(parse_flow(t, &NoNames).unwrap())).collect();
        change(f, 7, |f, site| f.replace(flows, site)).map(|o| o.changed)
    };
    for text in ["priority=5,ip actions=output:2", "cookie=0x9, priority=5,ip actions=output:2"] {
        let done = replace(&mut f, &[text]).unwrap();
        assert_eq!((done.added, done.modified, done.deleted), (0, 1, 0));
        assert_eq!((texts(&f), f.sorted()[0].rule.stats.packets()), (vec![text.to_owned()], 1));
    }
    let before = texts(&f);
    f.set_limit(0, TableLimit { flows_max: 1, evicts: false });
    let full = replace(&mut f, &["arp,actions=drop", "udp,actions=drop"]);
    assert_eq!(full, Err(StoreError::TableFull { table: 0, max: 1 }));
    assert_eq!(texts(&f), before);
}

#[test]
fn overlaps_and_evictions_are_a_tables_own() {
    let mut f = Flows::default();
    run(&mut f, Command::Add, "table=1,priority=5,ip,idle_timeout=1,actions=1").unwrap();
    run(&mut f, Command::Add, "priority=5,tcp,check_overlap,idle_timeout=9,actions=1").unwrap();
    f.set_limit(0, TableLimit { flows_max: 1, evicts: true });
    run(&mut f, Command::Add, "arp,actions=1").unwrap();
    assert_eq!(texts(&f).len(), 2);
    assert!(texts(&f)[0].contains("arp") && texts(&f)[1].contains("table=1"), "{:?}", texts(&f));
}

#[test]
fn a_number_that_is_free_comes_again_and_the_flow_is_listed_last() {
    let (mut f, mut ids) = (Flows::default(), RuleIds::default());
    let run = |f: &mut Flows, ids: &mut RuleIds, c, t: &str| {
        let m = parse_flow_mod(t, Some(c), &NoNames).unwrap();
        let site = Site { bridge: 0, names: &NoNames, ids, version: 4, now_ns: 5 };
        f.apply(&[m], site).unwrap();
    };
    for t in ["ip,actions=1", "arp,actions=1"] {
        run(&mut f, &mut ids, Command::Add, t);
    }
    run(&mut f, &mut ids, Command::Delete, "ip");
    run(&mut f, &mut ids, Command::Add, "udp,actions=1");
    ids.swept(4);
    run(&mut f, &mut ids, Command::Add, "tcp,actions=1");
    let numbers: Vec<u32> = f.sorted().iter().map(|s| s.number).collect();
    assert_eq!(numbers, [1, 2, 0]);
    assert_eq!(f.by_place.len(), f.len(), "no place is left of what went");
}
