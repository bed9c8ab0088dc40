//! A file for `ovs-ofctl bundle`: changes of flows, groups and, beyond that, meters, all at once.
//!
//! Lines are `flow add ...`, `group modify ...`, `meter delete ...`; a line without such a word is
//! about a flow, as for `ovs-ofctl --bundle add-flows`. Groups and meters are changed in their
//! order, and then flows in theirs: so a flow may name a group of a later line.

use super::error::{FlowError, Problem};
use super::file::{ERRORS_MAX, comment_start};
use super::flow_mod::{FlowMod, parse_flow_mod};
use super::group::{GroupMod, parse_group_mod};
use super::meter::{MeterMod, parse_meter_mod};
use super::ports::PortNames;
use super::span::Span;

/// What a file wants changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BundleText {
    pub flows: Vec<FlowMod>,
    pub groups: Vec<GroupMod>,
    pub meters: Vec<MeterMod>,
}

/// Reads a file; its wrong lines are all told, up to a bound.
pub fn parse_bundle_text(text: &str, names: &dyn PortNames) -> Result<BundleText, Vec<FlowError>> {
    let (mut out, mut wrong) = (BundleText::default(), Vec::new());
    for (i, raw) in text.lines().enumerate() {
        let line = &raw[..comment_start(raw)];
        let content = line.trim();
        if content.is_empty() {
            continue;
        }
        let before = line.len() - line.trim_start().len();
        if let Err(mut e) = take(content, names, &mut out) {
            e.column += before;
            wrong.push(e.on_line(i + 1));
        }
        if wrong.len() >= ERRORS_MAX {
            break;
        }
    }
    if wrong.is_empty() { Ok(out) } else { Err(wrong) }
}

fn take(line: &str, names: &dyn PortNames, out: &mut BundleText) -> Result<(), FlowError> {
    let end = line.find([' ', '\t']).unwrap_or(line.len());
    let rest = line[end..].trim_start();
    let at = line.len() - rest.len();
    let moved = |mut e: FlowError| {
        e.column += at;
        e
    };
    match &line[..end] {
        "flow" => out.flows.push(parse_flow_mod(rest, None, names).map_err(moved)?),
        "group" => out.groups.push(parse_group_mod(rest, None, names).map_err(moved)?),
        "meter" => out.meters.push(parse_meter_mod(rest, None).map_err(moved)?),
        "packet-out" => {
            let rule = "a bundle changes tables; send packets with packet-out";
            return Err(Span::new(line).slice(0, end).err(Problem::Rule(rule)));
        }
        _ => out.flows.push(parse_flow_mod(line, None, names)?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::NoNames;
    use super::*;

    #[test]
    fn lines_of_all_kinds_and_wrong_ones_with_their_places() {
        let text = "# comment\nflow add ip actions=1\n  group add group_id=1,type=all # more\n\
                    meter delete meter=1\ndelete table=3\npriority=2 actions=group:1\n";
        let read = parse_bundle_text(text, &NoNames).unwrap();
        assert_eq!((read.flows.len(), read.groups.len(), read.meters.len()), (3, 1, 1));
        let wrong = "flow add ipp actions=1\npacket-out in_port=1\n  group add group_id=x\n";
        let told: Vec<_> = parse_bundle_text(wrong, &NoNames)
            .unwrap_err()
            .into_iter()
            .map(|e| (e.line, e.column, e.part))
            .collect();
        assert_eq!(told[0], (1, 10, "ipp".to_owned()));
        assert_eq!(told[1], (2, 1, "packet-out".to_owned()));
        assert_eq!((told[2].0, told[2].1), (3, 22));
    }
}
