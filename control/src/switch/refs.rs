//! The calls about what flows refer to: groups, meters, tunnel options.

use super::Core;
use super::calls::{refusals, with_lines};
use crate::api::ApiResult;
use crate::api::types::{
    ApiError, ErrorCode, GroupInfo, MeterInfo, RefChange, RefKind, RefOp, RefSummary, TlvChange,
    TlvInfo, TlvMappingInfo, TlvOp,
};
use crate::flow::{
    GroupCommand, GroupMod, MeterCommand, MeterMod, kind_name, parse_group_mod, parse_meter_mod,
    parse_tlv_maps, print_group, print_group_stats, print_meter, print_meter_stats, print_tlv_maps,
};
use crate::groups::StoredGroup;
use crate::meters::StoredMeter;
use crate::model::{BridgeState, ModelError};
use sluice_dataplane::tunnel::{TlvError, TlvMapping};

impl Core {
    pub(super) fn ref_change(&mut self, change: &RefChange) -> ApiResult<RefSummary> {
        let now_ns = self.now().ns;
        let at = self.model.bridges.iter().position(|b| b.config.name == change.bridge);
        let at = at.ok_or_else(|| ApiError::no_bridge(&change.bridge))?;
        self.settle_for_monitors()?;
        let (changed, deleted) = match change.kind {
            RefKind::Group => {
                let mods = groups(change, &self.model.bridges[at])?;
                (mods.len(), self.model.change_groups(at, &mods, now_ns))
            }
            RefKind::Meter => {
                let mods = meters(change)?;
                (mods.len(), self.model.change_meters(at, &mods, now_ns))
            }
        };
        let flows_deleted = deleted.map_err(|e| model_error(&e))?;
        self.publish()?;
        let program_version = self.model.version();
        Ok(RefSummary { changed: changed as u64, flows_deleted, program_version })
    }

    pub(super) fn groups(&mut self, bridge: &str, id: Option<u32>) -> ApiResult<Vec<GroupInfo>> {
        self.workers.settle()?;
        let now_ns = self.now().ns;
        let b = self.model.bridge(bridge).ok_or_else(|| ApiError::no_bridge(bridge))?;
        let chosen = b.groups.iter().filter(|g| id.is_none_or(|id| g.group.id == id));
        Ok(chosen.map(|g| group_info(b, g, now_ns)).collect())
    }

    pub(super) fn meters(&mut self, bridge: &str, id: Option<u32>) -> ApiResult<Vec<MeterInfo>> {
        self.workers.settle()?;
        let now_ns = self.now().ns;
        let b = self.model.bridge(bridge).ok_or_else(|| ApiError::no_bridge(bridge))?;
        let chosen = b.meters.iter().filter(|m| id.is_none_or(|id| m.meter.id == id));
        Ok(chosen.map(|m| meter_info(b, m, now_ns)).collect())
    }

    pub(super) fn tlv_change(&mut self, change: &TlvChange) -> ApiResult<TlvInfo> {
        let at = self.model.bridges.iter().position(|b| b.config.name == change.bridge);
        let at = at.ok_or_else(|| ApiError::no_bridge(&change.bridge))?;
        let text = change.text.trim();
        let all = text.is_empty() && change.op == TlvOp::Delete;
        let mappings =
            if all { Vec::new() } else { parse_tlv_maps(text).map_err(|e| refusals(&[e]))? };
        match change.op {
            TlvOp::Add => self.model.map_options(at, &mappings),
            TlvOp::Delete => {
                self.model.unmap_options(at, (!all).then_some(&mappings[..])).map(|_| ())
            }
        }
        .map_err(|e| model_error(&e))?;
        self.publish()?;
        self.tlv_map(&change.bridge)
    }

    pub(super) fn tlv_map(&self, bridge: &str) -> ApiResult<TlvInfo> {
        let b = self.model.bridge(bridge).ok_or_else(|| ApiError::no_bridge(bridge))?;
        let mappings: Vec<TlvMapping> = b.tlv.mappings().collect();
        let text = print_tlv_maps(&mappings);
        let info = |m: &TlvMapping| TlvMappingInfo {
            class: m.class,
            option_type: m.option_type,
            len_bytes: m.len,
            field: format!("tun_metadata{}", m.index),
        };
        Ok(TlvInfo { mappings: mappings.iter().map(info).collect(), text })
    }
}

/// What the model refused; nothing has changed.
pub(super) fn model_error(e: &ModelError) -> ApiError {
    use crate::groups::GroupError as G;
    use crate::meters::MeterError as M;
    let code = match e {
        ModelError::Group(G::Exists(_)) | ModelError::Meter(M::Exists(_)) => ErrorCode::Exists,
        ModelError::Group(G::Unknown(_) | G::UnknownBucket { .. })
        | ModelError::Meter(M::Unknown(_)) => ErrorCode::NotFound,
        ModelError::Group(G::Full | G::TooManyBuckets(_))
        | ModelError::Meter(M::Full | M::TooManyBands(_)) => ErrorCode::Full,
        ModelError::Options(TlvError::AlreadyMapped(_) | TlvError::Duplicate { .. }) => {
            ErrorCode::Exists
        }
        ModelError::Options(TlvError::NotMapped { .. }) => ErrorCode::NotFound,
        ModelError::Options(TlvError::Full(_) | TlvError::Fragmented(_)) => ErrorCode::Full,
        _ => ErrorCode::Invalid,
    };
    ApiError::new(code, e.to_string(), "nothing was changed")
}

fn groups(change: &RefChange, bridge: &BridgeState) -> ApiResult<Vec<GroupMod>> {
    let command = match (change.op, change.may_create) {
        (RefOp::Add, _) => GroupCommand::Add,
        (RefOp::Modify, false) => GroupCommand::Modify,
        (RefOp::Modify, true) => GroupCommand::AddOrModify,
        (RefOp::Delete, _) => GroupCommand::Delete,
        (RefOp::InsertBuckets, _) => GroupCommand::InsertBuckets,
        (RefOp::RemoveBuckets, _) => GroupCommand::RemoveBuckets,
    };
    let parse = |text: &str| parse_group_mod(text, Some(command), bridge);
    let mods = with_lines(&change.text, parse)?;
    match mods.is_empty() && command == GroupCommand::Delete {
        true => Ok(vec![parse("").map_err(|e| refusals(&[e]))?]),
        false => Ok(mods),
    }
}

/// In a file a meter may stand as `dump-meters` shows it: its bands on lines of their own.
fn meters(change: &RefChange) -> ApiResult<Vec<MeterMod>> {
    let command = match change.op {
        RefOp::Add => MeterCommand::Add,
        RefOp::Modify => MeterCommand::Modify,
        RefOp::Delete => MeterCommand::Delete,
        RefOp::InsertBuckets | RefOp::RemoveBuckets => {
            let message = "a meter has no buckets";
            return Err(ApiError::new(ErrorCode::Invalid, message, "use add, modify or delete"));
        }
    };
    let text = change.text.replace("\ntype=", " type=");
    let parse = |text: &str| parse_meter_mod(text, Some(command));
    let mods = with_lines(&text, parse)?;
    match mods.is_empty() && command == MeterCommand::Delete {
        true => Ok(vec![MeterMod::Delete(None)]),
        false => Ok(mods),
    }
}

fn group_info(b: &BridgeState, g: &StoredGroup, now_ns: u64) -> GroupInfo {
    let id = g.group.id;
    let flows = b.flows.numbers(&|f| f.uses_group(id)).len();
    let in_buckets = |other: &StoredGroup| {
        let all = other.group.buckets.iter().flat_map(|b| &b.actions);
        all.filter(|a| a.any(&|a| *a == crate::flow::FlowAction::Group(id))).count()
    };
    let refs = flows + b.groups.iter().map(in_buckets).sum::<usize>();
    let stats = g.stats(refs as u32, now_ns);
    GroupInfo {
        id,
        kind: kind_name(g.group.kind).to_owned(),
        buckets: g.group.buckets.len() as u64,
        ref_count: refs as u64,
        n_packets: stats.packets,
        n_bytes: stats.bytes,
        duration_s: stats.duration.as_secs_f64(),
        text: print_group(&g.group, b),
        stats_text: print_group_stats(id, &stats),
    }
}

fn meter_info(b: &BridgeState, m: &StoredMeter, now_ns: u64) -> MeterInfo {
    let id = m.meter.id;
    let flows = b.flows.numbers(&|f| f.uses_meter(id)).len();
    let stats = m.stats(flows as u32, now_ns);
    MeterInfo {
        id,
        bands: m.meter.bands.len() as u64,
        flow_count: flows as u64,
        n_packets: stats.packets,
        n_bytes: stats.bytes,
        duration_s: stats.duration.as_secs_f64(),
        text: print_meter(&m.meter),
        stats_text: print_meter_stats(id, &stats),
    }
}
