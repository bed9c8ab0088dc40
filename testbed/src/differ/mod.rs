//! The differential run: random programs on sluice and on stock Open vSwitch, equal outcomes.
//!
//! Every program of flows goes to both, and to sluice three times: with its caches, with megaflows
//! alone, and without. Every packet goes in at the same port; what leaves is compared by port,
//! order and bytes, and the packets that each flow met are compared by number. `ovs` runs the
//! reference, `ours` the engine behind `sluice replay`, `generate` draws programs and packets from
//! a seed, `reduce` makes a case that differs small enough to read.
//!
//! # What differs on purpose
//! Rules in `normal`, each as narrow as its reason:
//!
//! - **Ports of fragments that actions name.** Both match fragments with ports of zero. Open
//!   vSwitch zeroes the fields for good, and then writes the zeroes into the packet.
//! - **Later fragments whose addresses change.** Open vSwitch's userspace datapath adjusts a
//!   transport checksum that is not there, in the middle of the data.
//! - **IP headers of another version than the Ethernet type says.** Open vSwitch does not look at
//!   the version; here they are no IP packets.
//! - **Neighbour messages cut before the target that a flow writes.** Dropped here by name
//!   (`edit_failed`); Open vSwitch sends them unchanged.
//! - **Frames cut inside the first MPLS label.** Open vSwitch counts only the first of equal ones.
//! - **Types of labels put on copies, or in the place of others.** Open vSwitch compares the labels
//!   of a packet with those that left before, or that it came with, but not their type (0x8847,
//!   0x8848), which then is that of before.
//! - **The ARP operation 255.** Written by a flow, Open vSwitch makes 65535 of it.
//! - **Writes to ARP packets of other hardware than Ethernet.** Open vSwitch reads nothing of
//!   them and writes to them all the same, where the fields of Ethernet's would be.
//! - **Frames with a length for a type, where copies get labels.** When the label comes off again
//!   for the next copy, Open vSwitch writes 0x05ff, its number for "no type".
//! - **NAT of SCTP's ports and of ICMP's identifiers.** Open vSwitch's userspace translates the
//!   addresses alone; here as in Linux.
//! - **Translations in copies.** What a bucket, a clone or the far side of a cable translates is
//!   translated there alone, as all else that they change. In Open vSwitch it stays on the packet,
//!   unless the `ct` is in the clone's own list and something follows that.
//! - **Writes of some bits behind a translation.** All of the field is written here, as flows see
//!   it; Open vSwitch writes the bits that the program has written or looked at.
//! - **A label that cannot be taken off, in a bucket.** Both end the bucket alone; Open vSwitch
//!   also throws away what left before it.
//! - **A `select` group that chooses by itself, inside a `clone`.** To compute its hash, Open
//!   vSwitch runs the packet through its datapath anew, and takes the end of the clone's list for
//!   the end of all lists around it: what follows the clone gets lost.
//! - **Flows with the match of a conjunction's clause.** Open vSwitch does not find one of lower
//!   priority when it looks for what the conjunction, met or not, leaves to others.
//! - **`push_mpls` of frames with two tags, where a controller is told.** Both put the label behind
//!   the one tag that they read, and so cut the second in two; but what tells a controller, Open
//!   vSwitch runs over the packet parsed anew, and there puts it behind both.
//! - **Counts behind `check_pkt_larger`.** Open vSwitch translates both outcomes and counts both.
//! - **Writes of `check_pkt_larger` and behind it, after the end of its list.** Open vSwitch
//!   forgets them there: `resubmit(,3),resubmit(,4)` does not see in 4 what 3 found.
//! - **Endless loops with `clone`, `ct`, cables, or a `select` group that chooses by itself.** The
//!   first two deepen here, so that the stack is bounded: the limit comes some rounds earlier.
//!   Behind a `ct` and such a group Open vSwitch begins to count anew, but allows six of them; what
//!   left before them has left, where here the error voids it; and its actions are bounded in
//!   bytes.
//! - **Packets that leave thousands of times.** `OUTPUTS_MAX` copies of one packet leave sluice;
//!   Open vSwitch knows only the limit of resubmits.
//! - **The order among the copies of a flood.** Open vSwitch's is that of a hash table.
//!
//! What programs leave out, because ovs-ofctl says something else than the text: `mod_vlan_*` of an
//! untagged match beside what OpenFlow 1.0 cannot say (it becomes a push), masks of `set_field`
//! over OpenFlow 1.0 (they get lost; the run uses later versions), writes to `in_port_oxm` (cannot
//! be shown again). Fragments do not meet programs with `ct`: Open vSwitch holds them until it has
//! the whole packet, sluice does not yet. `max_len` does not meet changes of tags: Open vSwitch
//! counts the bytes to cut before it writes them. `learn` does not meet what makes Open vSwitch run
//! a packet through its datapath anew (`ct`, `pop_mpls`, groups that choose by themselves) or look
//! at the tables anew (cables): behind those the packet sees what it taught itself. NAT is to one
//! address and port.
//!
//! An ovs-vswitchd that ends over a program (3.1 does, over some groups) is started anew and the
//! program named.

pub mod case;
mod compare;
mod generate;
mod normal;
mod ours;
mod ovs;
mod reduce;
mod unixctl;

use crate::chance;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use sluice_control::replay::Caches;

use case::{Case, Outcome};
use chance::Chance;
use compare::{Difference, compare, show_case};
use generate::Size;
use generate::verbs::Verbs;
use ovs::{Ovs, Trouble};

pub use ovs::missing;

/// Random programs on sluice and on stock Open vSwitch, compared.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "cargo xtask differ")]
pub struct Options {
    /// Programs to play
    #[arg(long, default_value_t = 300)]
    pub programs: u64,
    /// Where all choices come from; without it, the time of day
    #[arg(long)]
    pub seed: Option<u64>,
    /// Only this program of the seed, with its flows, packets and outcomes
    #[arg(long, requires = "seed")]
    pub case: Option<u64>,
    /// A file of flows and `# packet N in PORT: TEXT` lines instead of a drawn program
    #[arg(long, conflicts_with_all = ["seed", "case"])]
    pub file: Option<PathBuf>,
    /// Flows of the first bridge, at most
    #[arg(long, default_value_t = 40)]
    pub flows: u64,
    /// Different packets of a program
    #[arg(long, default_value_t = 16)]
    pub packets: u64,
    /// Differences after which the run ends
    #[arg(long, default_value_t = 3)]
    pub stop_after: u64,
    /// Leave the cases that differ as they were drawn
    #[arg(long)]
    pub no_reduce: bool,
}

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub programs: u64,
    pub flows: u64,
    pub packets: u64,
    /// Packets that came out, of all that went in.
    pub left: u64,
    /// Flows that some packet met.
    pub flows_hit: u64,
    /// Programs that were not compared, by the reason (`normal`).
    pub left_out: BTreeMap<&'static str, u64>,
    /// Programs that ended ovs-vswitchd.
    pub crashes: Vec<String>,
    /// Flows that only Open vSwitch takes, by sluice's message; and the other way round.
    pub refused: BTreeMap<String, (u64, String)>,
    /// Cases that differ, as text.
    pub failures: Vec<String>,
}

/// Runs and prints; fails when anything differs.
pub fn main(options: &Options) -> ExitCode {
    if let Some(what) = missing() {
        eprintln!("the differential run needs {what}");
        return ExitCode::FAILURE;
    }
    let start = Instant::now();
    match run(options) {
        Ok(summary) => {
            println!("{}", summary.text());
            println!("{:.1} s", start.elapsed().as_secs_f64());
            if summary.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Plays the programs of a seed.
pub fn run(options: &Options) -> crate::Result<Summary> {
    let (verbs, unknown) = Verbs::shared();
    let seed = options.seed.unwrap_or_else(time_of_day);
    println!("seed {seed}");
    if !unknown.is_empty() {
        println!("not yet shared: {}", unknown.join(", "));
    }
    let mut pair = Pair { ovs: Ovs::start()?, summary: Summary::default() };
    if let Some(file) = &options.file {
        let text = std::fs::read_to_string(file)
            .map_err(crate::Error::io(format!("read {}", file.display())))?;
        let case = case::from_text(&text).map_err(crate::Error::Unexpected)?;
        pair.one(&case, &file.display().to_string(), options)?;
        return Ok(pair.summary);
    }
    let size = Size { flows_max: options.flows, packets: options.packets };
    let cases = match options.case {
        Some(n) => n..n + 1,
        None => 0..options.programs,
    };
    for n in cases {
        let case = generate::case(&verbs, size, &mut Chance::of_case(seed, n));
        let name = format!("--seed {seed} --case {n}");
        pair.one(&case, &name, options)
            .map_err(|e| crate::Error::Unexpected(format!("{name}: {e}")))?;
        if (n + 1) % 100 == 0 {
            eprintln!("{} programs, {} differ", n + 1, pair.summary.failures.len());
        }
        if pair.summary.failures.len() as u64 >= options.stop_after {
            break;
        }
    }
    Ok(pair.summary)
}

fn time_of_day() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |d| d.as_micros() as u64)
}

/// Both switches, and what became of the run so far.
struct Pair {
    ovs: Ovs,
    summary: Summary,
}

impl Pair {
    /// Plays a case and notes a difference.
    fn one(&mut self, drawn: &Case, name: &str, options: &Options) -> crate::Result<()> {
        let Some((case, theirs)) = self.agree_on_flows(drawn)? else {
            println!("{name}: ovs-vswitchd has ended; it was started anew");
            self.summary.crashes.push(name.to_owned());
            return Ok(());
        };
        let found = differences(&case, &theirs);
        self.count(&case, &theirs);
        if options.case.is_some() || options.file.is_some() {
            println!("{}", show_case(&case));
            for (at, out) in theirs.out.iter().enumerate() {
                println!("packet {}: {}", at + 1, compare::show(out));
            }
        }
        let difference = match found {
            Verdict::Same => return Ok(()),
            Verdict::LeftOut(why) => {
                *self.summary.left_out.entry(why).or_default() += 1;
                return Ok(());
            }
            Verdict::Differs(difference) => difference,
        };
        let (small, difference) =
            if options.no_reduce { (case, difference) } else { self.reduce(&case, difference) };
        let (side, lines) = (difference.side, difference.lines.join("\n"));
        let text = format!("--- {name} ({side})\n{}\n{lines}\n", show_case(&small));
        println!("{text}");
        self.summary.failures.push(text);
        Ok(())
    }

    /// Leaves out what one of the two refuses, and plays the rest on Open vSwitch; `None` if that
    /// does not survive it.
    fn agree_on_flows(&mut self, drawn: &Case) -> crate::Result<Option<(Case, Outcome)>> {
        let mut case = drawn.clone();
        let refused = &mut self.summary.refused;
        case.flows.retain(|f| match ours::takes(&f.text) {
            Ok(()) => true,
            Err(why) => {
                note(refused, format!("sluice: {}", kind_of_refusal(&why)), &f.text);
                false
            }
        });
        loop {
            match self.ovs.play(&case) {
                Ok(outcome) => return Ok(Some((case, outcome))),
                Err(Trouble::Died) => return Ok(None),
                Err(Trouble::Broken(error)) => return Err(error),
                Err(Trouble::Refused { bridge, cookie, why }) => {
                    let gone =
                        case.flows.iter().position(|f| (f.bridge, f.cookie) == (bridge, cookie));
                    let Some(gone) = gone else { return Err(crate::Error::Unexpected(why)) };
                    let flow = case.flows.remove(gone);
                    let text = format!("Open vSwitch: {}", kind_of_refusal(reason(&why)));
                    note(&mut self.summary.refused, text, &flow.text);
                }
            }
        }
    }

    fn reduce(&mut self, case: &Case, found: Difference) -> (Case, Difference) {
        let mut last = found;
        let ovs = &mut self.ovs;
        let small = reduce::reduce(case, &mut |candidate| {
            if candidate.flows.iter().any(|f| ours::takes(&f.text).is_err()) {
                return false;
            }
            let Ok(theirs) = ovs.play(candidate) else { return false };
            match differences(candidate, &theirs) {
                Verdict::Differs(found) => last = found,
                _ => return false,
            }
            true
        });
        (small, last)
    }

    fn count(&mut self, case: &Case, theirs: &Outcome) {
        let s = &mut self.summary;
        s.programs += 1;
        s.flows += case.flows.len() as u64;
        s.packets += case.packets.len() as u64;
        s.left += theirs.out.iter().filter(|o| !o.is_empty()).count() as u64;
        s.flows_hit += theirs.hits.values().filter(|n| **n > 0).count() as u64;
    }
}

/// How a case came out.
enum Verdict {
    Same,
    /// Nothing was compared.
    LeftOut(&'static str),
    Differs(Difference),
}

/// Plays a case on sluice, with caches and without, and compares both with Open vSwitch.
fn differences(case: &Case, theirs: &Outcome) -> Verdict {
    let sides = [
        ("sluice without caches", Some(0), Some(0)),
        ("sluice with megaflows alone", Some(0), None),
        ("sluice", None, None),
    ];
    for (at, (side, microflows, megaflows)) in sides.into_iter().enumerate() {
        let own = match ours::play(case, Caches { microflows, megaflows, ..Caches::default() }) {
            Ok(own) => own,
            Err(why) => {
                let lines = vec![format!("it refuses the case: {why}")];
                return Verdict::Differs(Difference { side, lines });
            }
        };
        if at == 0
            && let Some(why) = normal::left_out(case, theirs, &own)
        {
            return Verdict::LeftOut(why);
        }
        if let Some(difference) = compare(case, theirs, &own, side) {
            return Verdict::Differs(difference);
        }
    }
    Verdict::Same
}

/// The line of ovs-ofctl's words that says why.
fn reason(why: &str) -> &str {
    let named = why.lines().find(|l| l.contains("OFPT_ERROR"));
    named.or_else(|| why.lines().next()).unwrap_or_default()
}

/// A refusal without what it quotes, so that equal ones are counted together.
fn kind_of_refusal(why: &str) -> String {
    let line = why.lines().last().unwrap_or_default();
    line.rsplit_once(": ").map_or(line, |(_, kind)| kind).trim().to_owned()
}

fn note(refused: &mut BTreeMap<String, (u64, String)>, why: String, flow: &str) {
    refused.entry(why).or_insert_with(|| (0, flow.to_owned())).0 += 1;
}

impl Summary {
    pub fn text(&self) -> String {
        let Self { programs, flows, packets, left, flows_hit, .. } = self;
        let refused: u64 = self.refused.values().map(|r| r.0).sum();
        let mut text = String::new();
        for (why, (n, example)) in &self.refused {
            text += &format!("{n} refused by {why}: {example}\n");
        }
        for (why, n) in &self.left_out {
            text += &format!("{n} programs not compared: {why}\n");
        }
        for name in &self.crashes {
            text += &format!("{name} ended ovs-vswitchd\n");
        }
        text + &format!(
            "{programs} programs, {flows} flows ({flows_hit} met, {refused} more refused by one \
             side), {packets} packets ({left} left): {} differ",
            self.failures.len()
        )
    }
}
