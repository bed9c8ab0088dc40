//! Memory of rules: bytes a rule once a file of flows is loaded, and at the peak of the load.
//!
//! ```text
//! exact 100000 rules of 107 B  load 900 ms  live 235 B a rule: control 39, rules 136, index 59;
//! peak 473 B; RSS 504 B, peak 504 B
//! ```
//! Live and peak come from a counting allocator (bytes asked for), RSS and its peak from the
//! kernel (`VmRSS`, `VmHWM` of /proc/self/status), both without what the process held before.
//! *index* is what the tables say of themselves, *rules* what the program keeps besides once
//! control's model is gone, *control* the rest. The text of the file is in the peak. Each case runs
//! in a process of its own, for a peak of RSS does not go down again.
//!
//! Boundary of the unsafe code: the allocator below hands every call on to the system's as it
//! came, and counts.

#![allow(unsafe_code, reason = "a global allocator is unsafe to implement; this one only counts")]

use sluice_control::config::Config;
use sluice_control::model::Model;
use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes every call on to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: the caller's promise is the system allocator's condition.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `at` came from `alloc` above, that is from the system's allocator.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Large blocks move by their page tables and are not copied, so both are never there.
        LIVE.fetch_sub(layout.size(), Relaxed);
        let live = LIVE.fetch_add(size, Relaxed) + size;
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: `at` came from `alloc` above, that is from the system's allocator.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What the rules of a case are like.
type Line = fn(u32) -> String;

const CASES: [(&str, Line); 4] =
    [("exact", exact), ("routes", route), ("acl", acl), ("distinct", distinct)];

/// A 5-tuple, all bits.
fn exact(n: u32) -> String {
    let (a, b, c) = (n / 62500, n % 250, n / 250 % 250);
    let (src, dst) = (1024 + n % 60000, 80 + n / 60000);
    format!(
        "table=3,priority=10,udp,nw_src=10.{a}.{c}.{b},nw_dst=198.18.{c}.{b},\
         tp_src={src},tp_dst={dst},actions=goto_table:4"
    )
}

/// Prefixes of 13 lengths, 32 next hops.
fn route(n: u32) -> String {
    let len = 20 + n % 13;
    let dst = std::net::Ipv4Addr::from((n * 4096 + 0x0a00_0000) >> (32 - len) << (32 - len));
    format!(
        "table=1,priority={len},ip,nw_dst={dst}/{len},actions=dec_ttl,\
         mod_dl_src:02:00:00:00:aa:01,mod_dl_dst:02:00:00:00:bb:{:02x},output:2",
        n % 32
    )
}

/// Rules of many fields under 12 masks, each with one of 100 cookies.
fn acl(n: u32) -> String {
    let (len, port) = (16 + n % 4 * 4, n % 3);
    let dst = std::net::Ipv4Addr::from((n << 12) >> (32 - len) << (32 - len));
    let exact = format!(",tp_dst={}", n >> 8);
    let tp = [String::new(), exact, format!(",tp_dst={}/0xfff0", n >> 8 << 4)];
    format!(
        "cookie={:#x},table=2,priority={},in_port=1,tcp,reg0={n},metadata=7,nw_src=10.0.0.0/8,\
         nw_dst={dst}/{len}{},actions=load:1->NXM_NX_REG1[],resubmit(,3)",
        n % 100,
        n % 1000,
        tp[port as usize]
    )
}

/// Each with actions of its own: the worst there is to share.
fn distinct(n: u32) -> String {
    let (a, b, c) = (n >> 16, n >> 8 & 255, n & 255);
    format!(
        "table=5,priority=10,ip,nw_dst=10.{a}.{b}.{c},actions=dec_ttl,\
         mod_dl_dst:02:00:00:{a:02x}:{b:02x}:{c:02x},output:2"
    )
}

fn status(word: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(word)).unwrap_or_default();
    let kib = line.trim_matches(|c: char| !c.is_ascii_digit());
    kib.parse::<usize>().unwrap_or(0) * 1024
}

fn model() -> Model {
    let text = "[[bridge]]\nname = \"br0\"\n\
                [[bridge.port]]\nname = \"p1\"\nnumber = 1\ntype = \"memory\"\n\
                [[bridge.port]]\nname = \"p2\"\nnumber = 2\ntype = \"memory\"\n";
    let config = Config::parse(Path::new("memory"), text).expect("a good configuration");
    Model::new(&config, 1).expect("a model")
}

fn measure(name: &str, line: Line, rules: u32) {
    // What the allocator and the first model take is no rule's.
    let mut model = model();
    let file = std::env::temp_dir().join(format!("rule-memory-{}", std::process::id()));
    let text = (0..rules).fold(String::new(), |mut t, n| {
        let _ = writeln!(t, "{}", line(n));
        t
    });
    std::fs::write(&file, &text).expect("a temporary file");
    let text_bytes = text.len();
    drop(text);
    let (live, rss) = (LIVE.load(Relaxed), status("VmRSS:"));
    PEAK.store(live, Relaxed);
    let start = Instant::now();
    let text = std::fs::read_to_string(&file).expect("what was written");
    model.load_flows(file.clone(), &text, "br0", 0).expect("good flows");
    drop(text);
    let program = model.program();
    let took = start.elapsed();
    let _ = std::fs::remove_file(&file);
    let (peak, hwm, now) = (PEAK.load(Relaxed), status("VmHWM:"), status("VmRSS:"));
    let all = LIVE.load(Relaxed) - live;
    let tables = program.bridges.iter().flat_map(|b| b.tables.iter().flatten());
    let index: usize = tables.map(|t| t.bytes()).sum();
    drop(model);
    let book = LIVE.load(Relaxed).saturating_sub(live).saturating_sub(index);
    let control = all.saturating_sub(book + index);
    let each = |bytes: usize| bytes / rules as usize;
    println!(
        "{name:8} {rules} rules of {} B  load {} ms  live {} B a rule: control {}, rules {}, \
         index {}; peak {} B; RSS {} B, peak {} B",
        each(text_bytes),
        took.as_millis(),
        each(all),
        each(control),
        each(book),
        each(index),
        each(peak - live),
        each(now.saturating_sub(rss)),
        each(hwm.saturating_sub(rss)),
    );
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // Cargo says `--bench` when it measures; with the tests a few rules do.
    let rules = if words.iter().any(|w| w == "--bench") { 100_000 } else { 1000 };
    let asked = |name: &str| words.iter().any(|w| w == name);
    if let Some((name, line)) = CASES.iter().find(|c| asked(c.0)) {
        return measure(name, *line, rules);
    }
    let own = std::env::current_exe().expect("this program");
    for (name, _) in CASES {
        let mut again = Command::new(&own);
        again.arg(name).args((rules > 1000).then_some("--bench"));
        assert!(again.status().is_ok_and(|s| s.success()), "{name}");
    }
}
