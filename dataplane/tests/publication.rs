//! The publication of programs to workers, in every order in which its steps can happen.
//!
//! Control changes rules and sends each version to two workers, each through a bounded ring. A
//! worker takes the next program between two batches and gives the old one back with the version
//! up to which its cache has been swept; an answer that finds its ring full waits, and no command
//! is taken meanwhile (`worker/mailbox.rs`). Cache entries name rules by number and credit whatever
//! rule the worker's program has under it, long after the walk (`pipeline/upkeep.rs`). So:
//!
//! > no entry of any worker's cache names a number under which the worker's program has
//! > another rule than the one that the entry was recorded for.
//!
//! This is a model in the sense of Holzmann: each state of control, rings and workers is visited
//! once, and from each every step of each of them is tried, up to a number of changes. The numbers
//! come from the real `RuleIds`. The rings are queues that hold few, since what `rtrb` promises
//! (what was pushed comes out whole, once, in order) is proved there. Protocols that are broken on
//! purpose must be caught.

use sluice_dataplane::pipeline::RuleIds;
use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

const NUMBERS: usize = 8;
const ANSWERS_MAX: usize = 1;

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Size {
    workers: usize,
    /// Cache entries of a worker; a round of sweeping looks at one after the other.
    entries: usize,
    /// Rules of a version, at most.
    rules: usize,
    /// Programs that a ring holds.
    commands: usize,
    /// Versions after the first.
    changes: u8,
}

/// What is left out of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Broken {
    Nothing,
    /// Numbers are free at once.
    NoQuarantine,
    /// The first worker's sweeping counts for both.
    OneWorkerAsked,
    /// A round of sweeping counts for the version at its end, not at its start.
    SweptTooEarly,
    /// A rule's number is given back for the version before it goes.
    GivenBackEarly,
    /// Worker: a command is taken though an answer waits.
    AnswersNotAwaited,
}

/// The rule of each number; 0 is none. No two rules are the same.
type Program = [u8; NUMBERS];

#[derive(Clone, PartialEq, Eq, Hash)]
struct Published {
    version: u64,
    program: Program,
}

/// The program that came back, and `Lane::swept`.
type Answer = (u64, u64);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Worker {
    commands: VecDeque<Published>,
    answers: VecDeque<Answer>,
    pending: Option<Answer>,
    now: Published,
    /// Number and rule that a walk met.
    cache: Vec<Option<(u8, u8)>>,
    sweep_cursor: usize,
    sweep_version: u64,
    swept: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    size: Size,
    ids: RuleIds,
    master: Published,
    /// Rules that there were, and numbers that they had.
    rules: u8,
    numbers: u8,
    reused: bool,
    changes_left: u8,
    /// Workers that have yet to get the last version.
    unsent: Vec<bool>,
    /// As control knows.
    swept: Vec<u64>,
    /// The version that each worker gave back last.
    returned: Vec<Option<u64>>,
    workers: Vec<Worker>,
}

impl State {
    fn start(size: Size) -> Self {
        let Size { workers, entries, changes, .. } = size;
        let mut ids = RuleIds::default();
        let mut now = Published { version: 0, program: [0; NUMBERS] };
        now.program[ids.take() as usize] = 1;
        let worker = Worker {
            commands: VecDeque::new(),
            answers: VecDeque::new(),
            pending: None,
            now: now.clone(),
            cache: vec![None; entries],
            sweep_cursor: 0,
            sweep_version: 0,
            swept: 0,
        };
        Self {
            size,
            ids,
            master: now,
            rules: 1,
            numbers: 1,
            reused: false,
            changes_left: changes,
            unsent: vec![false; workers],
            swept: vec![0; workers],
            returned: vec![None; workers],
            workers: vec![worker; workers],
        }
    }

    /// All states that one step leads to.
    fn next(&self, broken: Broken, out: &mut Vec<Self>) {
        if self.changes_left > 0 && !self.unsent.contains(&true) {
            self.change(broken, out);
        }
        for w in 0..self.workers.len() {
            self.send(w, out);
            self.receive(w, broken, out);
            self.take_program(w, broken, out);
            self.walk(w, out);
            self.sweep(w, broken, out);
        }
    }

    /// Control removes a rule, adds one, or both in one version.
    fn change(&self, broken: Broken, out: &mut Vec<Self>) {
        let live: Vec<usize> = (0..NUMBERS).filter(|n| self.master.program[*n] != 0).collect();
        let removed = live.iter().copied().map(Some).chain([None]);
        for gone in removed {
            for adds in [false, true] {
                let left = live.len() - usize::from(gone.is_some());
                if (gone.is_none() && !adds) || (adds && left >= self.size.rules) {
                    continue;
                }
                let mut s = self.clone();
                s.changes_left -= 1;
                s.master.version += 1;
                if let Some(n) = gone {
                    s.master.program[n] = 0;
                    let early = u64::from(broken == Broken::GivenBackEarly);
                    s.ids.give_back(n as u32, s.master.version - early);
                }
                if broken == Broken::NoQuarantine {
                    s.ids.swept(u64::MAX);
                }
                if adds {
                    s.rules += 1;
                    let number = s.ids.take() as u8;
                    s.reused |= number < s.numbers;
                    s.numbers = s.numbers.max(number + 1);
                    s.master.program[usize::from(number)] = s.rules;
                }
                s.unsent.fill(true);
                out.push(s);
            }
        }
    }

    fn send(&self, w: usize, out: &mut Vec<Self>) {
        if self.unsent[w] && self.workers[w].commands.len() < self.size.commands {
            let mut s = self.clone();
            s.unsent[w] = false;
            s.workers[w].commands.push_back(s.master.clone());
            out.push(s);
        }
    }

    fn receive(&self, w: usize, broken: Broken, out: &mut Vec<Self>) {
        let mut s = self.clone();
        let Some((old, swept)) = s.workers[w].answers.pop_front() else { return };
        s.returned[w] = Some(old);
        s.swept[w] = swept;
        let asked = if broken == Broken::OneWorkerAsked { 1 } else { s.workers.len() };
        let least = s.swept.iter().take(asked).min().copied().unwrap_or(0);
        s.ids.swept(least);
        out.push(s);
    }

    /// `WorkerEnd::next`, and what becomes of a program.
    fn take_program(&self, w: usize, broken: Broken, out: &mut Vec<Self>) {
        let mut s = self.clone();
        let me = &mut s.workers[w];
        if me.answers.len() < ANSWERS_MAX
            && let Some(waits) = me.pending.take()
        {
            me.answers.push_back(waits);
        }
        if me.pending.is_none() || broken == Broken::AnswersNotAwaited {
            let Some(next) = me.commands.pop_front() else {
                out.push(s);
                return;
            };
            let answer = (me.now.version, me.swept);
            me.now = next;
            match me.answers.len() < ANSWERS_MAX {
                true => me.answers.push_back(answer),
                false => me.pending = Some(answer),
            }
        }
        out.push(s);
    }

    /// A packet's walk meets any rule, and takes any place in the cache.
    fn walk(&self, w: usize, out: &mut Vec<Self>) {
        for (number, rule) in self.workers[w].now.program.iter().enumerate() {
            for slot in (0..self.workers[w].cache.len()).filter(|_| *rule != 0) {
                let mut s = self.clone();
                s.workers[w].cache[slot] = Some((number as u8, *rule));
                out.push(s);
            }
        }
    }

    /// `Lane::sweep`, an entry at a time: one whose rule is gone goes.
    fn sweep(&self, w: usize, broken: Broken, out: &mut Vec<Self>) {
        let mut s = self.clone();
        let me = &mut s.workers[w];
        if me.sweep_cursor == 0 {
            me.swept = me.sweep_version;
            if broken == Broken::SweptTooEarly {
                me.swept = me.now.version;
            }
            if me.swept == me.now.version {
                out.push(s);
                return;
            }
            me.sweep_version = me.now.version;
        }
        let at = me.sweep_cursor;
        me.sweep_cursor = (at + 1) % me.cache.len();
        me.cache[at].take_if(|(_, rule)| !me.now.program.contains(rule));
        out.push(s);
    }

    /// What is wrong with the state.
    fn fault(&self) -> Option<String> {
        for (n, w) in self.workers.iter().enumerate() {
            for (number, rule) in w.cache.iter().flatten() {
                let has = w.now.program[usize::from(*number)];
                if has != 0 && has != *rule {
                    return Some(format!("worker {n} credits rule {has} instead of {rule}"));
                }
            }
            // Each version that was sent is in the ring, with the worker, or came back, in order.
            let back = self.returned[n].into_iter();
            let answers = w.answers.iter().chain(&w.pending).map(|a| a.0);
            let there = std::iter::once(w.now.version).chain(w.commands.iter().map(|p| p.version));
            let all: Vec<u64> = back.chain(answers).chain(there).collect();
            if all.windows(2).any(|pair| pair[0] + 1 != pair[1]) {
                return Some(format!("worker {n} has lost a program: {all:?}"));
            }
        }
        None
    }

    /// Nothing is under way any more, and control knows that no number is named in vain.
    fn is_done(&self) -> bool {
        let quiet =
            |w: &Worker| w.commands.is_empty() && w.answers.is_empty() && w.pending.is_none();
        self.changes_left == 0 && !self.unsent.contains(&true) && self.workers.iter().all(quiet)
    }
}

/// What a search saw.
#[derive(Default)]
struct Seen {
    states: usize,
    /// After a number got its second rule.
    reused: usize,
    done: usize,
}

/// Looks at all states, or up to the first that is wrong. Of a state that is known only a hash is
/// kept: one in some 10^12 searches of this size would miss a state.
fn search(size: Size, broken: Broken) -> Result<Seen, String> {
    let hash = |s: &State| {
        let mut h = DefaultHasher::new();
        s.hash(&mut h);
        h.finish()
    };
    let mut seen = Seen::default();
    let mut open = vec![State::start(size)];
    let mut known: HashSet<u64> = open.iter().map(hash).collect();
    let mut steps = Vec::new();
    while let Some(state) = open.pop() {
        if let Some(fault) = state.fault() {
            return Err(fault);
        }
        seen.states += 1;
        seen.done += usize::from(state.is_done());
        seen.reused += usize::from(state.reused);
        state.next(broken, &mut steps);
        if steps.iter().all(|s| *s == state) && !state.is_done() {
            return Err("nobody can go on".into());
        }
        open.extend(steps.drain(..).filter(|s| known.insert(hash(s))));
    }
    Ok(seen)
}

const TWO_WORKERS: Size = Size { workers: 2, entries: 1, rules: 1, commands: 1, changes: 3 };
const TWO_ENTRIES: Size = Size { workers: 1, entries: 2, rules: 2, commands: 1, changes: 4 };

#[test]
fn no_order_of_steps_lets_a_cache_name_another_rule() {
    for size in [TWO_WORKERS, TWO_ENTRIES] {
        let seen = search(size, Broken::Nothing).unwrap();
        println!("{size:?}: {} states, {} after reuse", seen.states, seen.reused);
        assert!(seen.reused > 0, "numbers are used again, else this proves nothing");
        assert!(seen.done > 0 && seen.states > 10_000);
    }
}

#[test]
fn a_protocol_without_one_of_its_rules_is_caught() {
    let all = [
        (TWO_WORKERS, Broken::NoQuarantine),
        (TWO_WORKERS, Broken::OneWorkerAsked),
        (TWO_ENTRIES, Broken::SweptTooEarly),
        (TWO_WORKERS, Broken::GivenBackEarly),
        (TWO_ENTRIES, Broken::AnswersNotAwaited),
    ];
    for (size, broken) in all {
        let fault = search(size, broken).err();
        println!("{broken:?}: {fault:?}");
        assert!(fault.is_some(), "{broken:?}");
    }
}
