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
