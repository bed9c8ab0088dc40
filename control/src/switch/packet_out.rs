//! Packets that are sent by hand.

use super::Core;
use super::calls::refusals;
use super::refs::model_error;
use crate::api::ApiResult;
use crate::api::types::ApiError;
use crate::flow::{Flow, PacketOutText, parse_packet_out, refers_to};
use crate::store::{Packed, Pool};
use sluice_dataplane::pipeline::{FlowStats, PacketOut, Rule};
use std::sync::Arc;

impl Core {
    /// Runs actions on a packet, as a flow without a table would.
    pub(super) fn packet_out(&mut self, bridge: &str, text: &str) -> ApiResult<()> {
        let at = self.model.bridges.iter().position(|b| b.config.name == bridge);
        let at = at.ok_or_else(|| ApiError::no_bridge(bridge))?;
        let b = &self.model.bridges[at];
        let PacketOutText { in_port, bytes, actions } =
            parse_packet_out(text, b).map_err(|e| refusals(&[e]))?;
        let flow = Flow { actions, cookie: u64::MAX, ..Flow::default() };
        let refers = std::iter::once(refers_to(&flow.actions));
        self.model.check_refs(at, refers).map_err(|e| model_error(&e))?;
        let port = b.ports.iter().find(|p| u32::from(p.config.number) == in_port).map(|p| p.ix);
        let Packed { table, priority, cookie, matching, actions } = Pool::default().pack(flow);
        let (bridge, stats) = (at as u16, FlowStats::default());
        let rule = Rule { bridge, table, priority, cookie, matching, actions, stats };
        self.workers.packet_out(PacketOut {
            bytes: bytes.into(),
            in_port,
            port,
            rule: Arc::new(rule),
        })
    }
}
