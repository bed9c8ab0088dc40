//! Flushing the connections to backends that nothing names any more (`[conntrack]`
//! `flush_removed_backends`).
//!
//! The ticker looks, some 20 ms after a change at the latest, which destinations of `nat(dst=...)`
//! have gone since the last time, and goes through all connections once for all of them, in slices
//! between which packets, calls and changes have their turn. The workers judge by the change when
//! it begins, so no new connection is made to what has gone.
//!
//! **What comes back in time stays.** A destination that was taken away by one message and named
//! again by the next is gone only if somebody looked between; and if it is named again while
//! connections are gone through, those that are still there stay.

use super::Core;
use super::workers::Workers;
use crate::config::FlushBackends;
use crate::model::Model;
use sluice_dataplane::conntrack::{Backend, BackendFilter};
use std::sync::Arc;

/// Slices that are done before the lock is given to others for a moment.
const SLICES: usize = 32;
const UDP: u8 = 17;

/// A walk through all connections.
struct Walk {
    gone: Vec<Backend>,
    filter: Arc<BackendFilter>,
    /// Of the model, when the filter was made.
    arrivals: u64,
    /// Of each worker where to go on.
    places: Vec<Option<u32>>,
    flushed: u64,
}

/// What is under way.
pub(super) struct BackendFlush {
    mode: FlushBackends,
    walk: Option<Walk>,
}

impl BackendFlush {
    pub fn new(mode: FlushBackends, model: &mut Model) -> Self {
        if mode != FlushBackends::None {
            model.watch_backends();
        }
        Self { mode, walk: None }
    }

    fn filter(&self, gone: &[Backend], model: &Model) -> Arc<BackendFilter> {
        let proto = (self.mode == FlushBackends::Udp).then_some(UDP);
        Arc::new(BackendFilter::new(proto, gone, &model.backends_beside(gone)))
    }

    /// The walk there is, or one that has to begin, for what is gone now.
    fn walk(&mut self, model: &mut Model, workers: usize) -> Option<Walk> {
        let arrivals = model.backend_arrivals();
        match self.walk.take() {
            Some(walk) if walk.arrivals == arrivals => Some(walk),
            Some(mut walk) => {
                walk.gone.retain(|b| !model.names_backend(b));
                (walk.filter, walk.arrivals) = (self.filter(&walk.gone, model), arrivals);
                Some(walk)
            }
            None => {
                let gone = model.unnamed_backends();
                let filter = (!gone.is_empty()).then(|| self.filter(&gone, model))?;
                Some(Walk { gone, filter, arrivals, places: vec![Some(0); workers], flushed: 0 })
            }
        }
    }

    /// Goes some way. True: there is more to do.
    fn go_on(&mut self, model: &mut Model, workers: &mut Workers) -> bool {
        let Some(mut walk) = self.walk(model, workers.len()) else { return false };
        for _ in 0..SLICES {
            if walk.gone.is_empty() || walk.places.iter().all(Option::is_none) {
                let (flushed, backends) = (walk.flushed, walk.gone.len());
                match flushed {
                    0 => tracing::debug!(backends, "backends are gone; nothing was led there"),
                    _ => tracing::info!(flushed, backends, "connections of removed backends"),
                }
                return true;
            }
            match workers.flush_backends(&walk.filter, &mut walk.places) {
                Ok(flushed) => walk.flushed += flushed,
                Err(error) => {
                    tracing::error!("flushing connections of removed backends: {error}");
                    return false;
                }
            }
        }
        self.walk = Some(walk);
        true
    }
}

impl Core {
    /// Forgets connections whose backend is gone, some of them. True: there may be more.
    pub(super) fn flush_backends(&mut self) -> bool {
        self.backend_flush.go_on(&mut self.model, &mut self.workers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::flow::{Command, NoNames, parse_flow_mod};
    use std::path::Path;

    fn model(mode: FlushBackends) -> (Model, BackendFlush) {
        let config = Config::parse(Path::new("test"), "[[bridge]]\nname = \"a\"\n").unwrap();
        let mut model = Model::new(&config, 1).unwrap();
        let flush = BackendFlush::new(mode, &mut model);
        (model, flush)
    }

    fn run(model: &mut Model, command: Command, n: u8) {
        let actions = match command {
            Command::Add => format!(" actions=ct(commit,zone=1,nat(dst=10.0.0.{n}))"),
            _ => String::new(),
        };
        let text = format!("ip,nw_dst=1.0.0.{n}{actions}");
        let m = parse_flow_mod(&text, Some(command), &NoNames).unwrap();
        model.change_flows(0, 1, |f, site| f.apply(&[m], site)).unwrap();
    }

    /// The last bytes of the addresses that are gone, and the places.
    fn seen(walk: Option<&Walk>) -> Option<(Vec<u8>, Vec<Option<u32>>)> {
        let gone = |w: &Walk| w.gone.iter().map(|b| b.addresses.0 as u8).collect();
        walk.map(|w| (gone(w), w.places.clone()))
    }

    #[test]
    fn a_walk_is_for_all_that_is_gone_and_spares_what_comes_back() {
        let (mut m, mut flush) = model(FlushBackends::Udp);
        (1..=4).for_each(|n| run(&mut m, Command::Add, n));
        assert_eq!(seen(flush.walk(&mut m, 2).as_ref()), None, "nothing has gone");
        (1..=3).for_each(|n| run(&mut m, Command::Delete, n));
        let mut walk = flush.walk(&mut m, 2).unwrap();
        assert_eq!(seen(Some(&walk)), Some((vec![1, 2, 3], vec![Some(0); 2])));
        // Some way on, one goes, which has to wait, and one comes back.
        walk.places = vec![Some(1024), None];
        let before = walk.filter.clone();
        flush.walk = Some(walk);
        run(&mut m, Command::Delete, 4);
        let walk = flush.walk(&mut m, 2).unwrap();
        assert!(Arc::ptr_eq(&walk.filter, &before), "who goes changes nothing of it");
        flush.walk = Some(walk);
        run(&mut m, Command::Add, 2);
        let walk = flush.walk(&mut m, 2);
        assert_eq!(seen(walk.as_ref()), Some((vec![1, 3], vec![Some(1024), None])));
        assert!(!Arc::ptr_eq(&walk.unwrap().filter, &before));
        // The next one.
        assert_eq!(seen(flush.walk(&mut m, 1).as_ref()), Some((vec![4], vec![Some(0)])));
        assert_eq!(seen(flush.walk(&mut m, 1).as_ref()), None);
    }

    #[test]
    fn who_wants_none_flushed_counts_nothing() {
        let (mut m, mut flush) = model(FlushBackends::None);
        run(&mut m, Command::Add, 1);
        run(&mut m, Command::Delete, 1);
        assert!(flush.walk(&mut m, 1).is_none() && m.backend_arrivals() == 0);
    }
}
