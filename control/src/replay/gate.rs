//! Where threads that measure wait for each other.
//!
//! As `std::sync::Barrier`, but who is gone is waited for no longer: a thread that panics between
//! two meetings gives its pass back, and the others go on without it. Nothing here allocates.

use std::sync::{Condvar, Mutex, PoisonError};

/// Opens when all who hold a [`Pass`] wait, again and again.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    opened: Condvar,
}

#[derive(Debug)]
struct State {
    passes: usize,
    waiting: usize,
    /// Times that it has opened.
    opened: u64,
}

impl State {
    /// Whether it opens now.
    fn opens(&mut self) -> bool {
        let all = self.waiting == self.passes;
        if all {
            self.waiting = 0;
            self.opened += 1;
        }
        all
    }
}

impl Gate {
    /// For so many. Each has to take its pass.
    pub fn new(passes: usize) -> Self {
        let state = State { passes, waiting: 0, opened: 0 };
        Self { state: Mutex::new(state), opened: Condvar::new() }
    }

    pub fn pass(&self) -> Pass<'_> {
        Pass(self)
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        // Its few numbers are whole at any time.
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One thread's, which gives it back when it ends, however it ends.
#[derive(Debug)]
pub(super) struct Pass<'a>(&'a Gate);

impl Pass<'_> {
    /// Waits for all others.
    pub fn wait(&self) {
        let gate = self.0;
        let mut state = gate.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting += 1;
        if state.opens() {
            gate.opened.notify_all();
            return;
        }
        let before = state.opened;
        while state.opened == before {
            state = gate.opened.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let opens = self.0.with(|state| {
            state.passes -= 1;
            state.waiting > 0 && state.opens()
        });
        if opens {
            self.0.opened.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    #[test]
    fn all_meet_each_time() {
        let (gate, count) = (Gate::new(3), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let (pass, count) = (gate.pass(), &count);
                scope.spawn(move || {
                    for round in 1..=100 {
                        count.fetch_add(1, SeqCst);
                        pass.wait();
                        assert_eq!(count.load(SeqCst), 3 * round);
                        pass.wait();
                    }
                });
            }
        });
    }

    #[test]
    fn who_panics_is_not_waited_for() {
        let gate = Gate::new(3);
        let left = std::thread::scope(|scope| {
            let run = |panics: bool| {
                let pass = gate.pass();
                scope.spawn(move || {
                    pass.wait();
                    assert!(!panics, "expected by the test");
                    pass.wait();
                    pass.wait();
                })
            };
            let threads = [false, true, false].map(run);
            threads.map(|t| t.join().is_ok())
        });
        assert_eq!(left, [true, false, true]);
    }
}
