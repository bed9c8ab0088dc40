//! Commands on flows: what `add`, `modify` and `delete` read, and which flows they touch.
//!
//! OpenFlow 1.5.1 section 6.4: a strict command names one flow by priority and match; a loose
//! one touches every flow whose match is as narrow or narrower. Cookie with mask, table and
//! output port narrow the choice further.

use super::error::{FlowError, Problem};
use super::parse::{Head, parse_line};
use super::ports::{self, PortNames};
use super::span::Span;
use super::{DEFAULT_PRIORITY, Flow, FlowAction, Match};
use std::borrow::Cow;

/// What to do with flows. `Show` selects as `Delete` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Modify,
    ModifyStrict,
    Delete,
    DeleteStrict,
    Show,
}

impl Command {
    pub fn has_actions(self) -> bool {
        matches!(self, Command::Add | Command::Modify | Command::ModifyStrict)
    }

    /// A loose `modify` reads a priority for the flow that it adds when none matches.
    pub fn has_priority(self) -> bool {
        self.has_actions() || self == Command::DeleteStrict
    }

    pub fn is_strict(self) -> bool {
        matches!(self, Command::ModifyStrict | Command::DeleteStrict)
    }

    fn from_word(word: &str) -> Option<Command> {
        Some(match word {
            "add" => Command::Add,
            "modify" => Command::Modify,
            "modify_strict" => Command::ModifyStrict,
            "delete" => Command::Delete,
            "delete_strict" => Command::DeleteStrict,
            _ => return None,
        })
    }
}

/// Selects flows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FlowFilter {
    /// `None`: every table.
    pub table: Option<u8>,
    /// With `Some`, the match must be equal and not merely narrower.
    pub strict_priority: Option<u16>,
    pub match_: Match,
    /// Value and mask.
    pub cookie: Option<(u64, u64)>,
    /// The flow must output here.
    pub out_port: Option<u32>,
    /// The flow must name this group.
    pub out_group: Option<u32>,
}

/// A command with its flow.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowMod {
    pub command: Command,
    /// The flow to add, or to add when there is none to modify; its actions are the new ones.
    pub flow: Flow,
    /// Whether the text gave a cookie, which then replaces that of a modified flow.
    pub sets_cookie: bool,
    /// The flows that are touched; of no meaning for `Add`.
    pub filter: FlowFilter,
}

/// Reads a flow for `command`, or for the command that the text begins with (as in files for
/// `ovs-ofctl --bundle add-flows`: `delete ip`, `modify_strict ...`; none: add).
pub fn parse_flow_mod(
    text: &str,
    command: Option<Command>,
    names: &dyn PortNames,
) -> Result<FlowMod, FlowError> {
    let line = Span::new(text);
    let (command, line) = match command {
        Some(c) => (c, line),
        None => command_word(line),
    };
    let (head, actions) = parse_line(line, command, names)?;
    if command == Command::Add && head.cookie_filter.is_some() {
        return Err(line.err(Problem::Rule("a new flow has a cookie, not a cookie mask")));
    }
    let filter = head.filter(command);
    let sets_cookie = head.cookie.is_some();
    Ok(FlowMod { command, flow: head.into_flow(actions), sets_cookie, filter })
}

/// Takes a command off the start of a line; it ends at white space, so that `add` and `delete`
/// cannot be mistaken for fields.
pub fn command_word(line: Span<'_>) -> (Command, Span<'_>) {
    let trimmed = line.trim();
    let end = trimmed.text.find([' ', '\t', ',']).unwrap_or(trimmed.text.len());
    match Command::from_word(&trimmed.text[..end]) {
        Some(command) => (command, trimmed.from(end)),
        None => (Command::Add, line),
    }
}

impl Head {
    fn filter(&self, command: Command) -> FlowFilter {
        let priority = self.priority.unwrap_or(DEFAULT_PRIORITY);
        FlowFilter {
            table: self.table,
            strict_priority: command.is_strict().then_some(priority),
            match_: self.match_,
            cookie: self.cookie_filter,
            out_port: self.out_port,
            out_group: self.out_group,
        }
    }
}

impl FlowFilter {
    /// Reads what `dump-flows` and `del-flows` take.
    pub fn parse(text: &str, names: &dyn PortNames) -> Result<FlowFilter, FlowError> {
        parse_flow_mod(text, Some(Command::Show), names).map(|m| m.filter)
    }

    pub fn selects(&self, flow: &Flow) -> bool {
        self.selects_but_match(flow.table, flow.cookie, &|| Cow::Borrowed(&flow.actions))
            && self.selects_match(flow.priority, &flow.match_)
    }

    /// Whether nothing but the match and the priority can keep a flow from being selected.
    /// `actions` are made only if they are asked for.
    pub fn selects_but_match<'a>(
        &self,
        table: u8,
        cookie: u64,
        actions: &dyn Fn() -> Cow<'a, [FlowAction]>,
    ) -> bool {
        self.table.is_none_or(|t| t == table)
            && self.cookie.is_none_or(|(value, mask)| (cookie ^ value) & mask == 0)
            && self.out_port.is_none_or(|p| outputs_to(&actions(), p))
            && self.out_group.is_none_or(|g| uses_group(&actions(), g))
    }

    pub fn selects_match(&self, priority: u16, match_: &Match) -> bool {
        match self.strict_priority {
            Some(p) => p == priority && self.match_ == *match_,
            None => match_.is_within(&self.match_),
        }
    }
}

/// Whether actions name `port` (also NORMAL, LOCAL ...) as an output, in nested ones too.
pub fn outputs_to(actions: &[FlowAction], port: u32) -> bool {
    actions.iter().any(|a| a.any(&|a| output_of(a) == Some(port)))
}

/// The groups and meters that actions cannot be without.
pub fn refers_to(actions: &[FlowAction]) -> (Vec<u32>, Vec<u32>) {
    let (mut groups, mut meters) = (Vec::new(), Vec::new());
    let mut left: Vec<&FlowAction> = actions.iter().collect();
    while let Some(action) = left.pop() {
        match action {
            FlowAction::Group(id) => groups.push(*id),
            FlowAction::Meter(id) => meters.push(*id),
            other => left.extend(other.nested()),
        }
    }
    (groups, meters)
}

/// Whether actions name the group.
pub fn uses_group(actions: &[FlowAction], id: u32) -> bool {
    actions.iter().any(|a| a.any(&|a| *a == FlowAction::Group(id)))
}

/// Whether actions name the meter, also as that of a `controller`.
pub fn uses_meter(actions: &[FlowAction], id: u32) -> bool {
    let names = |a: &FlowAction| match a {
        FlowAction::Meter(n) => *n == id,
        FlowAction::Controller(c) => c.meter == Some(id),
        _ => false,
    };
    actions.iter().any(|a| a.any(&names))
}

impl Flow {
    /// The rule that an `add` replaces: same table, priority and match.
    pub fn is_same_rule(&self, other: &Flow) -> bool {
        self.table == other.table && self.priority == other.priority && self.match_ == other.match_
    }
}

fn output_of(action: &FlowAction) -> Option<u32> {
    Some(match action {
        FlowAction::Output(port) | FlowAction::Enqueue { port, .. } => *port,
        FlowAction::Controller(_) => ports::CONTROLLER,
        FlowAction::Normal => ports::NORMAL,
        FlowAction::Flood => ports::FLOOD,
        FlowAction::All => ports::ALL,
        FlowAction::InPort => ports::IN_PORT,
        FlowAction::Local => ports::LOCAL,
        _ => return None,
    })
}
