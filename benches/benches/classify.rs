//! Lookups and changes of one table. The rules are those of the end-to-end scenarios: exact
//! 5-tuples, routes, an access list of twenty masks, lists of many more, a table of ports.

#[path = "common/call.rs"]
mod call;

use call::bench;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use sluice_benches::acl::PATTERNS;
use sluice_benches::tsc::{is_measuring, now};
use sluice_dataplane::classify::{RuleMatch, Table, Template};
use sluice_dataplane::limits::BATCH_MAX;
use sluice_dataplane::packet::key::{FlowKey, Mask};
use std::hint::black_box;

fn splitmix64(i: u64) -> u64 {
    let z = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The UDP packet of flow `i`: a source of its own in 10/8, a destination in 198.18/15.
fn flow(i: u64) -> FlowKey {
    let h = splitmix64(i);
    const PORTS: [u16; 8] = [53, 80, 123, 443, 5001, 6379, 8080, 9000];
    FlowKey {
        in_port: 1,
        eth_src: 0x0200_0000_0001,
        eth_dst: 0x0200_0000_0002,
        eth_type: 0x0800,
        ip_proto: 17,
        ip_ttl: 64,
        ip_src: 0x0a00_0000 | (i.wrapping_mul(0x9e37_79b1).wrapping_add(1) & 0xff_ffff) as u32,
        ip_dst: 0xc612_0000 + (h & 0x1_ffff) as u32,
        tp_src: 1024 + ((h >> 17 & 0xff_ffff) % 64512) as u16,
        tp_dst: PORTS[(h >> 41 & 7) as usize],
        ..FlowKey::ZERO
    }
}

/// A rule for each port, and one for the rest.
fn ports(n: u32) -> Vec<RuleMatch> {
    let mask = Mask { in_port: u32::MAX, ..Mask::ZERO };
    let rule = |in_port| RuleMatch::new(FlowKey { in_port, ..FlowKey::ZERO }, mask, 10);
    (1..n).map(rule).chain([RuleMatch::new(FlowKey::ZERO, Mask::ZERO, 0)]).collect()
}

fn prefix(len: u32) -> u32 {
    u32::MAX.checked_shl(32 - len).unwrap_or(0)
}

fn udp() -> Mask {
    Mask { eth_type: u16::MAX, ip_proto: u8::MAX, ..Mask::ZERO }
}

/// Exact 5-tuples.
fn exact(n: u64) -> Vec<RuleMatch> {
    let ones = u16::MAX;
    let mask = Mask { ip_src: u32::MAX, ip_dst: u32::MAX, tp_src: ones, tp_dst: ones, ..udp() };
    (0..n).map(|i| RuleMatch::new(flow(i), mask, 10)).collect()
}

/// Address and length of 10000 routes: 100 of /16, 8900 of /24, 1000 of /32.
fn routes() -> Vec<(u32, u32)> {
    let inside = (0..4450).map(|j| (20 << 24 | (j % 100) << 16 | (j / 100 * 5 % 256) << 8, 24));
    let outside = (0..4450).map(|j| (30 << 24 | (j / 256) << 16 | (j % 256) << 8, 24));
    let nets: Vec<(u32, u32)> = inside.chain(outside).collect();
    let hosts: Vec<(u32, u32)> =
        (0..1000).map(|j| (nets[j].0 | (1 + splitmix64(j as u64) % 254) as u32, 32)).collect();
    (0..100).map(|j| (20 << 24 | j << 16, 16)).chain(nets).chain(hosts).collect()
}

fn route_rules() -> Vec<RuleMatch> {
    let rule = |(address, len): (u32, u32)| {
        let mask = Mask { eth_type: u16::MAX, ip_dst: prefix(len), ..Mask::ZERO };
        RuleMatch::new(FlowKey { ip_dst: address, ..flow(0) }, mask, len as u16)
    };
    routes().into_iter().map(rule).collect()
}

fn route_flow(i: u64, routes: &[(u32, u32)]) -> FlowKey {
    let h = splitmix64(i);
    let (address, len) = routes[h as usize % routes.len()];
    FlowKey { ip_dst: address | (h >> 20) as u32 & !prefix(len), ..flow(i) }
}

fn acl(n: u64) -> Vec<RuleMatch> {
    access_list(n, |k| PATTERNS[(k % 20) as usize])
}

/// So many masks, made to be many: each source length with each destination length, and ports.
fn grid(n: u64, masks: u64) -> Vec<RuleMatch> {
    access_list(n, |k| {
        let m = k % masks;
        let (tp_src, tp_dst) =
            [(0, 0), (0, 0xffff), (0xfff0, 0xffff), (0xff00, 0)][m as usize / 357];
        (12 + (m % 21) as u32, 16 + (m / 21 % 17) as u32, tp_src, tp_dst)
    })
}

fn access_list(n: u64, mask_of: impl Fn(u64) -> (u32, u32, u16, u16)) -> Vec<RuleMatch> {
    let rule = |k: u64| {
        let (src, dst, tp_src, tp_dst) = mask_of(k);
        let of = if k.is_multiple_of(2) { k * 97 } else { 10_000_000 + k };
        let mask = Mask { ip_src: prefix(src), ip_dst: prefix(dst), tp_src, tp_dst, ..udp() };
        RuleMatch::new(flow(of), mask, (1000 + k * 617 % n.min(60_000)) as u16)
    };
    (0..n).map(rule).collect()
}

fn table(rules: &[RuleMatch], template: Option<Template>) -> Table {
    Table::build_as((0..).zip(rules), template)
}

/// Flows in an order that no cache foresees, of which a batch at a time is made into keys, since a
/// walk has just made its key when it looks it up.
struct Keys<'a> {
    numbers: Vec<u64>,
    flow: &'a dyn Fn(u64) -> FlowKey,
    next: usize,
    batch: Vec<FlowKey>,
}

impl<'a> Keys<'a> {
    fn new(n: u64, flow: &'a dyn Fn(u64) -> FlowKey) -> Self {
        let mut numbers: Vec<u64> = (0..n).collect();
        for i in (1..numbers.len()).rev() {
            numbers.swap(i, splitmix64(i as u64) as usize % (i + 1));
        }
        Self { numbers, flow, next: 0, batch: vec![FlowKey::ZERO; BATCH_MAX] }
    }

    fn fill(&mut self) -> &[FlowKey] {
        for key in &mut self.batch {
            *key = (self.flow)(self.numbers[self.next]);
            self.next = if self.next + 1 == self.numbers.len() { 0 } else { self.next + 1 };
        }
        &self.batch
    }
}

/// Cycles of `f` on one key, without the making of the key: median and first twentieth.
fn cycles_a_key<T>(keys: &mut Keys<'_>, mut f: impl FnMut(&FlowKey) -> T) -> (f64, f64) {
    // Many short rounds: on a machine with other work some of them are undisturbed. Those of slow
    // lookups have fewer batches.
    let start = now();
    keys.fill().iter().for_each(|key| drop(black_box(f(key))));
    let batches = (3_000_000 / (now() - start).max(1)).clamp(4, 300) as usize;
    let mut rounds: Vec<f64> = (0..501)
        .map(|_| {
            let mut cycles = 0;
            for _ in 0..batches {
                let batch = keys.fill();
                let start = now();
                for key in batch {
                    black_box(f(key));
                }
                cycles += now() - start;
            }
            cycles as f64 / (batches * BATCH_MAX) as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    (rounds[250], rounds[25])
}

fn measure<T>(
    c: &mut Criterion,
    name: &str,
    keys: &mut Keys<'_>,
    mut f: impl FnMut(&FlowKey) -> T,
) {
    let name = format!("classify/{name}");
    c.bench_function(&name, |b| {
        b.iter_batched_ref(
            || keys.fill().to_vec(),
            |batch| batch.iter().for_each(|k| drop(black_box(f(k)))),
            BatchSize::SmallInput,
        );
    });
    if is_measuring() {
        let (median, low) = cycles_a_key(keys, f);
        println!("{name:<32} tsc cycles: {median:.1} (low {low:.1})");
    }
}

fn lookups(c: &mut Criterion, name: &str, rules: &[RuleMatch], mut keys: Keys<'_>) {
    let own = table(rules, None);
    let tuples = table(rules, Some(Template::Tuples));
    if is_measuring() {
        let bytes = own.bytes() as f64 / rules.len() as f64;
        println!("{name}: {own}, {bytes:.0} bytes a rule", own = own.template());
    }
    measure(c, name, &mut keys, |k| own.lookup(k));
    measure(c, &format!("{name}_tuples"), &mut keys, |k| tuples.lookup(k));
    measure(c, &format!("{name}_wild"), &mut keys, |k| {
        let mut seen = Mask::ZERO;
        (own.lookup_wild(k, &mut seen), seen)
    });
}

fn all_lookups(c: &mut Criterion) {
    let flows = |n: u64| Keys::new(n, &flow);
    lookups(c, "few_4", &exact(4), flows(4));
    lookups(c, "few_8", &exact(8), flows(8));
    lookups(c, "exact_1k", &exact(1000), flows(1000));
    lookups(c, "exact_100k", &exact(100_000), flows(100_000));
    let routed = routes();
    let route_flow = |i| route_flow(i, &routed);
    lookups(c, "route_10k", &route_rules(), Keys::new(100_000, &route_flow));
    lookups(c, "acl_1k", &acl(1000), flows(100_000));
    lookups(c, "acl_2k", &acl(2000), flows(100_000));
    lookups(c, "acl_16k", &acl(16_000), flows(100_000));
    lookups(c, "acl_100k", &acl(100_000), flows(100_000));
    for masks in [64, 256, 1000] {
        lookups(c, &format!("masks_{masks}_16k"), &grid(16_000, masks), flows(100_000));
        lookups(c, &format!("masks_{masks}_100k"), &grid(100_000, masks), flows(100_000));
    }
    lookups(c, "ports_64", &ports(64), flows(100_000));
}

/// Three changes, of versions that are kept: what control does for each flow mod; and two of one
/// that nobody shares, as within a bundle.
fn changes(c: &mut Criterion, name: &str, rules: &[RuleMatch]) {
    let mut t = table(rules, None);
    let mut at = 0;
    bench(c, &format!("classify/{name}_change_3"), || {
        at = (at + 7919) % rules.len();
        let old = t.clone();
        t.remove(at as u32, &rules[at]);
        let between = std::mem::replace(&mut t, old.clone());
        t.remove(at as u32, &rules[at]);
        t.insert(at as u32, &rules[at]);
        (old, between)
    });
    bench(c, &format!("classify/{name}_bundle_2"), || {
        at = (at + 7919) % rules.len();
        t.remove(at as u32, &rules[at]);
        t.insert(at as u32, &rules[at]);
    });
}

fn all_changes(c: &mut Criterion) {
    changes(c, "exact_100k", &exact(100_000));
    changes(c, "route_10k", &route_rules());
    changes(c, "acl_1k", &acl(1000));
    if is_measuring() {
        let rules = exact(100_000);
        let mut rounds: Vec<u64> = (0..7)
            .map(|_| {
                let start = now();
                black_box(table(&rules, None));
                now() - start
            })
            .collect();
        rounds.sort_unstable();
        let [low, median] = [rounds[0], rounds[3]].map(|r| r / 1_000_000);
        println!("classify/build_100k: {median} Mcycles (low {low})");
    }
}

criterion_group!(benches, all_lookups, all_changes);
criterion_main!(benches);
