//! A line of flow text: the words around the match, then match and actions.

use super::action_parse::{GROUP_MAX, parse_actions};
use super::check::Checker;
use super::error::{FlowError, MATCH_WORDS, Problem, nearest, nearest_field};
use super::flow_mod::Command;
use super::match_parse::MatchBuilder;
use super::ports::{PortNames, parse_port};
use super::span::{Form, Pair, Pairs, Span, split_actions};
use super::value::{parse_uint, parse_within};
use super::{DEFAULT_PRIORITY, Flow, FlowAction, FlowFlags, LINE_MAX_BYTES, Match};

/// What `ovs-ofctl dump-flows` shows and flows therefore may contain, without effect.
const IGNORED: &[&str] = &[
    "duration",
    "n_packets",
    "n_bytes",
    "idle_age",
    "hard_age",
    "no_readonly_table",
    "allow_hidden_fields",
];

/// Everything of a line but its actions.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub table: Option<u8>,
    pub priority: Option<u16>,
    pub cookie: Option<u64>,
    /// Value and mask that select flows.
    pub cookie_filter: Option<(u64, u64)>,
    pub idle_timeout_s: u16,
    pub hard_timeout_s: u16,
    pub importance: u16,
    pub flags: FlowFlags,
    pub out_port: Option<u32>,
    pub out_group: Option<u32>,
    pub match_: Match,
}

/// Reads a flow to be added, as `ovs-ofctl add-flow` takes it.
pub fn parse_flow(text: &str, names: &dyn PortNames) -> Result<Flow, FlowError> {
    let (head, actions) = parse_line(Span::new(text), Command::Add, names)?;
    Ok(head.into_flow(actions))
}

impl Head {
    /// A flag that OpenFlow 1.0 has not.
    fn late(&self) -> Option<&'static str> {
        let FlowFlags { reset_counts, no_packet_counts, no_byte_counts, .. } = self.flags;
        let flags = [
            (reset_counts, "reset_counts"),
            (no_packet_counts, "no_packet_counts"),
            (no_byte_counts, "no_byte_counts"),
        ];
        flags.into_iter().find(|f| f.0).map(|f| f.1)
    }

    pub fn into_flow(self, actions: Vec<FlowAction>) -> Flow {
        Flow {
            table: self.table.unwrap_or(0),
            priority: self.priority.unwrap_or(DEFAULT_PRIORITY),
            cookie: self.cookie.unwrap_or(0),
            idle_timeout_s: self.idle_timeout_s,
            hard_timeout_s: self.hard_timeout_s,
            importance: self.importance,
            flags: self.flags,
            match_: self.match_,
            actions,
        }
    }
}

/// Reads a line for `command`.
pub fn parse_line(
    line: Span<'_>,
    command: Command,
    names: &dyn PortNames,
) -> Result<(Head, Vec<FlowAction>), FlowError> {
    if line.text.len() > LINE_MAX_BYTES {
        return Err(line.err(Problem::TooLong(LINE_MAX_BYTES)));
    }
    let (head_text, actions_text) = split_actions(line)?;
    let head = parse_head(head_text, command, names)?;
    match actions_text {
        Some(a) if !command.has_actions() => {
            Err(a.err(Problem::Rule("a command that selects flows takes no actions")))
        }
        Some(a) => {
            let mut checker = Checker::new(&head.match_, head.table.unwrap_or(0));
            let actions = parse_actions(a, names, &mut checker)?;
            checker.finish(head.late()).map_err(|p| a.err(p))?;
            Ok((head, actions))
        }
        None if command.has_actions() => {
            let missing = Problem::Expected("actions=...; write actions=drop to drop");
            Err(line.trim().err(missing))
        }
        None => Ok((head, Vec::new())),
    }
}

fn parse_head(text: Span<'_>, command: Command, names: &dyn PortNames) -> Result<Head, FlowError> {
    let mut head = Head::default();
    let mut builder = MatchBuilder::new(names);
    let mut pairs = Pairs::new(text);
    while let Some(pair) = pairs.next()? {
        if take_flag(&mut head.flags, &pair, command)? || IGNORED.contains(&pair.key.text) {
            continue;
        }
        if take_word(&mut head, &pair, command, names)? || builder.take(&pair)? {
            continue;
        }
        return Err(unknown(&pair));
    }
    head.match_ = builder.finish()?;
    Ok(head)
}

fn unknown(pair: &Pair<'_>) -> FlowError {
    let name = pair.key.text;
    let words = MATCH_WORDS.iter().copied();
    let guess = if pair.form == Form::Bare { nearest(name, words) } else { None };
    pair.key.err(Problem::UnknownField(guess.or_else(|| nearest_field(name))))
}

fn take_flag(flags: &mut FlowFlags, pair: &Pair<'_>, c: Command) -> Result<bool, FlowError> {
    let (flag, word) = match pair.key.text {
        "send_flow_rem" => (&mut flags.send_flow_rem, "send_flow_rem"),
        "check_overlap" => (&mut flags.check_overlap, "check_overlap"),
        "reset_counts" => (&mut flags.reset_counts, "reset_counts"),
        "no_packet_counts" => (&mut flags.no_packet_counts, "no_packet_counts"),
        "no_byte_counts" => (&mut flags.no_byte_counts, "no_byte_counts"),
        _ => return Ok(false),
    };
    if pair.form != Form::Bare {
        return Err(pair.key.err(Problem::NeedlessValue(word)));
    }
    if !c.has_actions() {
        return Err(pair.key.err(Problem::Rule("a command that selects flows takes no flags")));
    }
    *flag = true;
    Ok(true)
}

fn take_word(
    head: &mut Head,
    pair: &Pair<'_>,
    command: Command,
    names: &dyn PortNames,
) -> Result<bool, FlowError> {
    let v = pair.value;
    let within = |of, hi| parse_within(v, of, 0, hi).map_err(|p| place(pair).err(p));
    let rule = |text| Err(pair.key.err(Problem::Rule(text)));
    match pair.key.text {
        "table" => head.table = Some(within("table", 254)? as u8),
        "priority" if !command.has_priority() => {
            return rule("priority counts only in strict commands (--strict)");
        }
        "priority" => head.priority = Some(within("priority", 65535)? as u16),
        "idle_timeout" | "hard_timeout" | "importance" if !command.has_actions() => {
            return rule("a command that selects flows does not look at this");
        }
        "idle_timeout" => head.idle_timeout_s = within("idle_timeout", 65535)? as u16,
        "hard_timeout" => head.hard_timeout_s = within("hard_timeout", 65535)? as u16,
        "importance" if command != Command::Add => {
            return rule("importance can be given only when a flow is added");
        }
        "importance" => head.importance = within("importance", 65535)? as u16,
        "cookie" => take_cookie(head, pair, command)?,
        "out_port" if command.has_actions() => {
            return rule("out_port selects flows; it does not belong to one");
        }
        "out_port" => head.out_port = Some(parse_port(v, names).map_err(|p| v.err(p))?),
        "out_group" if command.has_actions() => {
            return rule("out_group selects flows; it does not belong to one");
        }
        // "any" is as if it had not been said.
        "out_group" if v.text.eq_ignore_ascii_case("any") => head.out_group = None,
        "out_group" => head.out_group = Some(within("out_group", GROUP_MAX.into())? as u32),
        _ => return Ok(false),
    }
    Ok(true)
}

/// What to quote when the value is wrong: the value, or the word if there is none.
fn place<'a>(pair: &Pair<'a>) -> Span<'a> {
    if pair.value.is_empty() { pair.key } else { pair.value }
}

fn take_cookie(head: &mut Head, pair: &Pair<'_>, command: Command) -> Result<(), FlowError> {
    let number = |s: Span<'_>| {
        let n = if s.text == "-1" { Some(u64::MAX as u128) } else { parse_uint(s.text) };
        let of = "cookie".to_string();
        let bad = Problem::BadValue { of, want: "a 64-bit number such as 0x1f" };
        n.and_then(|n| u64::try_from(n).ok()).ok_or_else(|| s.err(bad))
    };
    if pair.value.is_empty() {
        return Err(pair.key.err(Problem::MissingValue("cookie".to_string())));
    }
    match pair.value.split_once("/") {
        Some(_) if command == Command::Add => {
            Err(pair.value.err(Problem::Rule("a new flow has a cookie, not a cookie mask")))
        }
        Some((value, mask)) => {
            head.cookie_filter = Some((number(value)?, number(mask)?));
            Ok(())
        }
        None if !command.has_actions() => Err(pair
            .value
            .err(Problem::Rule("to select flows by cookie, give a mask: cookie=VALUE/-1"))),
        None => {
            head.cookie = Some(number(pair.value)?);
            Ok(())
        }
    }
}
