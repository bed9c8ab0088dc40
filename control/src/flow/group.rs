//! Groups in text (ovs-ofctl(8), "Group Syntax"): `group_id=1,type=select,bucket=...`.
//!
//! The words before the first `bucket=` say what the group is; each bucket holds words of its
//! own (`weight:5`, `watch_port:2` ...) and everything else in it is an action. The rules that
//! tie words to commands and types are Open vSwitch's and OpenFlow 1.5.1's (section 7.3.4.3).

use super::FlowAction;
use super::action_parse::{GROUP_MAX, parse_actions};
use super::check::Checker;
use super::error::{FlowError, Problem, nearest, nearest_field};
use super::ports::{self, PortNames, parse_port};
use super::span::{Pair, Pairs, Span};
use super::value::{parse_masked, parse_uint, parse_within};
use sluice_dataplane::action::group::GroupKind;
use sluice_dataplane::packet::field::{Field, ones};

/// Largest id of a bucket (OpenFlow 1.5.1 section 7.3.4.3, `OFPG_BUCKET_MAX`).
pub const BUCKET_ID_MAX: u32 = 0xffff_ff00;

/// Words of a group before its buckets.
const WORDS: &[&str] = &[
    "group_id",
    "type",
    "selection_method",
    "selection_method_param",
    "fields",
    "command_bucket_id",
    "bucket",
];

/// A group as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub id: u32,
    pub kind: GroupKind,
    pub selection: Selection,
    pub buckets: Vec<Bucket>,
}

/// How a select group chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// `None`: as the switch likes.
    pub method: Option<Method>,
    pub param: u64,
    /// With the bits that count; in the order in which they print.
    pub fields: Vec<(Field, u128)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Hash,
    DpHash,
}

/// One list of actions of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// `None`: the lowest that is free.
    pub id: Option<u32>,
    pub weight: u16,
    pub watch_port: Option<u32>,
    pub watch_group: Option<u32>,
    pub actions: Vec<FlowAction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupCommand {
    Add,
    Modify,
    /// Modify, or add if there is none.
    AddOrModify,
    Delete,
    InsertBuckets,
    RemoveBuckets,
}

/// Which buckets a command is about; for an insertion, after which one it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketPlace {
    First,
    Last,
    All,
    Id(u32),
}

/// A command with its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMod {
    pub command: GroupCommand,
    /// `None`: all groups (only to delete).
    pub id: Option<u32>,
    pub kind: GroupKind,
    pub selection: Selection,
    pub buckets: Vec<Bucket>,
    pub place: BucketPlace,
}

impl GroupCommand {
    fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "add" => GroupCommand::Add,
            "modify" => GroupCommand::Modify,
            "add_or_mod" => GroupCommand::AddOrModify,
            "delete" => GroupCommand::Delete,
            "insert_bucket" => GroupCommand::InsertBuckets,
            "remove_bucket" => GroupCommand::RemoveBuckets,
            _ => return None,
        })
    }

    /// Whether the whole group is given.
    fn has_group(self) -> bool {
        matches!(self, GroupCommand::Add | GroupCommand::Modify | GroupCommand::AddOrModify)
    }

    fn has_buckets(self) -> bool {
        self.has_group() || self == GroupCommand::InsertBuckets
    }

    fn has_place(self) -> bool {
        matches!(self, GroupCommand::InsertBuckets | GroupCommand::RemoveBuckets)
    }
}

/// Reads a group for `command`, or for the command that the text begins with (none: add).
pub fn parse_group_mod(
    text: &str,
    command: Option<GroupCommand>,
    names: &dyn PortNames,
) -> Result<GroupMod, FlowError> {
    parse_group_span(Span::new(text), command, names)
}

pub fn parse_group_span(
    text: Span<'_>,
    command: Option<GroupCommand>,
    names: &dyn PortNames,
) -> Result<GroupMod, FlowError> {
    let (command, text) = match command {
        Some(c) => (c, text),
        None => {
            let trimmed = text.trim();
            let end = trimmed.text.find([' ', '\t', ',']).unwrap_or(trimmed.text.len());
            match GroupCommand::from_word(&trimmed.text[..end]) {
                Some(c) => (c, trimmed.from(end)),
                None => (GroupCommand::Add, trimmed),
            }
        }
    };
    let (head, buckets) = split_buckets(text)?;
    let mut reader = Reader::new(command, names);
    let mut pairs = Pairs::new(head);
    while let Some(pair) = pairs.next()? {
        reader.word(&pair)?;
    }
    reader.check_head(text)?;
    for bucket in buckets {
        reader.bucket(bucket)?;
    }
    reader.finish(text)
}

/// What stands before the first `bucket=`, and what after each.
fn split_buckets(text: Span<'_>) -> Result<(Span<'_>, Vec<Span<'_>>), FlowError> {
    const WORD: &str = "bucket=";
    let mut starts = Vec::new();
    let (mut quoted, mut at_word) = (false, true);
    for (i, c) in text.text.bytes().enumerate() {
        if at_word && !quoted && text.text.as_bytes()[i..].starts_with(WORD.as_bytes()) {
            starts.push(i);
        }
        quoted ^= c == b'"';
        at_word = matches!(c, b',' | b' ' | b'\t');
    }
    let head = text.slice(0, starts.first().copied().unwrap_or(text.text.len()));
    let ends = starts.iter().skip(1).copied().chain([text.text.len()]);
    let buckets = starts.iter().zip(ends).map(|(s, e)| text.slice(s + WORD.len(), e));
    Ok((head, buckets.collect()))
}

struct Reader<'n> {
    out: GroupMod,
    had_type: bool,
    had_id: bool,
    had_place: bool,
    names: &'n dyn PortNames,
}

impl<'n> Reader<'n> {
    fn new(command: GroupCommand, names: &'n dyn PortNames) -> Self {
        let out = GroupMod {
            command,
            id: None,
            kind: GroupKind::All,
            selection: Selection::default(),
            buckets: Vec::new(),
            place: BucketPlace::All,
        };
        Reader { out, had_type: false, had_id: false, had_place: false, names }
    }

    fn word(&mut self, pair: &Pair<'_>) -> Result<(), FlowError> {
        let v = pair.value;
        let of_group = |r: &Self| match r.out.command.has_group() {
            true => Ok(()),
            false => Err(pair.key.err(Problem::Rule("this command does not take this word"))),
        };
        match pair.key.text {
            "group_id" => {
                self.had_id = true;
                if v.text == "all" && self.out.command == GroupCommand::Delete {
                    return Ok(());
                }
                let place = if v.is_empty() { pair.key } else { v };
                let n = parse_within(v, "group_id", 0, GROUP_MAX.into());
                self.out.id = Some(n.map_err(|p| place.err(p))? as u32);
            }
            "type" => {
                of_group(self)?;
                self.had_type = true;
                self.out.kind = kind(v, pair)?;
            }
            "selection_method" => {
                of_group(self)?;
                let want = "hash or dp_hash";
                self.out.selection.method = Some(match v.text {
                    "hash" => Method::Hash,
                    "dp_hash" => Method::DpHash,
                    _ => {
                        let of = "selection_method".to_string();
                        return Err(pair.whole.err(Problem::BadValue { of, want }));
                    }
                });
            }
            "selection_method_param" => {
                of_group(self)?;
                let n = parse_within(v, "selection_method_param", 0, u64::MAX);
                self.out.selection.param = n.map_err(|p| v.err(p))?;
            }
            "fields" => {
                of_group(self)?;
                fields(v, &mut self.out.selection.fields, self.names)?;
            }
            "command_bucket_id" if self.out.command.has_place() => {
                self.had_place = true;
                self.out.place = place(v)?;
                let insert = self.out.command == GroupCommand::InsertBuckets;
                if insert && self.out.place == BucketPlace::All {
                    let rule = "buckets go in at first, last, or after the one with an id";
                    return Err(v.err(Problem::Rule(rule)));
                }
            }
            "command_bucket_id" => {
                let rule = "command_bucket_id is for inserting and removing buckets";
                return Err(pair.key.err(Problem::Rule(rule)));
            }
            name => {
                let guess = nearest(name, WORDS.iter().copied());
                return Err(pair.key.err(Problem::UnknownGroupWord(guess)));
            }
        }
        Ok(())
    }

    fn check_head(&self, text: Span<'_>) -> Result<(), FlowError> {
        let rule = |text_: &'static str| Err(text.trim().err(Problem::Rule(text_)));
        let (out, delete) = (&self.out, self.out.command == GroupCommand::Delete);
        if !(self.had_id || delete && text.trim().is_empty()) {
            return rule("a group needs group_id=N");
        }
        if out.command.has_group() && !self.had_type {
            return rule("a group needs type=all, select, indirect or ff");
        }
        if out.command == GroupCommand::InsertBuckets && !self.had_place {
            return rule("say where: command_bucket_id=first, last or an id");
        }
        if out.selection.method.is_some() && out.kind != GroupKind::Select {
            return rule("only select groups have a selection_method");
        }
        if !out.selection.fields.is_empty() && out.selection.method != Some(Method::Hash) {
            return rule("fields need selection_method=hash");
        }
        if out.selection.param != 0 && out.selection.method.is_none() {
            return rule("selection_method_param needs a selection_method");
        }
        Ok(())
    }

    fn bucket(&mut self, text: Span<'_>) -> Result<(), FlowError> {
        let whole = text.trim();
        let rule = |text_: &'static str| Err(whole.err(Problem::Rule(text_)));
        if !self.out.command.has_buckets() {
            return rule("this command takes no buckets");
        }
        let is_select = self.out.kind == GroupKind::Select;
        let inserted = self.out.command == GroupCommand::InsertBuckets;
        let weight = u16::from(is_select);
        let mut bucket =
            Bucket { id: None, weight, watch_port: None, watch_group: None, actions: Vec::new() };
        let mut checker = Checker::bucket();
        let (mut pieces, mut drops) = (0, 0);
        let mut pairs = Pairs::new(text);
        while let Some(pair) = pairs.next()? {
            if bucket_word(&mut bucket, &pair, self.names)? {
                continue;
            }
            let is_word = matches!(pair.key.text, "action" | "actions");
            let piece = if is_word { pair.value } else { pair.whole };
            if piece.is_empty() {
                continue;
            }
            let actions = parse_actions(piece, self.names, &mut checker)?;
            pieces += 1;
            drops += usize::from(actions.is_empty());
            bucket.actions.extend(actions);
        }
        if pieces == 0 {
            return rule("a bucket needs actions=...; write actions=drop to drop");
        }
        if drops > 0 && pieces > 1 {
            return Err(whole.err(Problem::DropNotAlone));
        }
        let watches = bucket.watch_port.is_some() || bucket.watch_group.is_some();
        match self.out.kind {
            GroupKind::FastFailover if !watches => {
                return rule("a bucket of a fast failover group needs watch_port or watch_group");
            }
            GroupKind::All | GroupKind::Indirect if watches && !inserted => {
                return rule("only select and fast failover groups watch ports and groups");
            }
            _ if bucket.weight != 0 && !is_select && !inserted => {
                return rule("only buckets of select groups have a weight");
            }
            _ => {}
        }
        self.out.buckets.push(bucket);
        Ok(())
    }

    fn finish(self, text: Span<'_>) -> Result<GroupMod, FlowError> {
        let rule = |text_: &'static str| Err(text.trim().err(Problem::Rule(text_)));
        let out = self.out;
        if out.kind == GroupKind::Indirect && out.command.has_group() && out.buckets.len() != 1 {
            return rule("an indirect group has exactly one bucket");
        }
        if out.command == GroupCommand::InsertBuckets && out.buckets.is_empty() {
            return rule("there is no bucket to insert");
        }
        let mut ids: Vec<u32> = out.buckets.iter().filter_map(|b| b.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|w| w[0] == w[1]) {
            return rule("two buckets have the same bucket_id");
        }
        Ok(out)
    }
}

fn kind(v: Span<'_>, pair: &Pair<'_>) -> Result<GroupKind, FlowError> {
    Ok(match v.text {
        "all" => GroupKind::All,
        "select" => GroupKind::Select,
        "indirect" => GroupKind::Indirect,
        "ff" | "fast_failover" => GroupKind::FastFailover,
        _ => {
            let want = "all, select, indirect or ff";
            return Err(pair.whole.err(Problem::BadValue { of: "type".to_string(), want }));
        }
    })
}

fn place(v: Span<'_>) -> Result<BucketPlace, FlowError> {
    Ok(match v.text {
        "first" => BucketPlace::First,
        "last" => BucketPlace::Last,
        "all" => BucketPlace::All,
        _ => {
            let id = parse_within(v, "command_bucket_id", 0, BUCKET_ID_MAX.into());
            BucketPlace::Id(id.map_err(|p| v.err(p))? as u32)
        }
    })
}

/// `ip_src,tcp_dst=0xff00`: fields whose bits are hashed, the value being a mask.
fn fields(
    v: Span<'_>,
    out: &mut Vec<(Field, u128)>,
    names: &dyn PortNames,
) -> Result<(), FlowError> {
    let mut pairs = Pairs::new(v);
    while let Some(pair) = pairs.next()? {
        let Some(field) = Field::by_name(pair.key.text) else {
            return Err(pair.key.err(Problem::UnknownField(nearest_field(pair.key.text))));
        };
        if field.tun_metadata_index().is_some() {
            return Err(pair.key.err(Problem::Rule("tunnel options are not among what is hashed")));
        }
        if out.iter().any(|(f, _)| *f == field) {
            return Err(pair.key.err(Problem::Rule("each field may be given only once")));
        }
        let full = ones(field.info().bits);
        let mask = match (pair.value, parse_uint(pair.value.text)) {
            (s, _) if s.is_empty() => full,
            (_, Some(n)) if n <= full => n,
            (s, _) => parse_masked(field, s, names).map_err(|p| s.err(p))?.0,
        };
        if mask == 0 {
            let rule = "the value says which bits count; leave the field out if none does";
            return Err(pair.whole.err(Problem::Rule(rule)));
        }
        out.push((field, mask));
    }
    out.sort_by_key(|(f, _)| print_rank(*f));
    Ok(())
}

/// Open vSwitch lists fields in its own order: what came by the tunnel first, and the source
/// MAC before the destination.
fn print_rank(field: Field) -> (u8, u16) {
    let n = field as u16;
    match field {
        Field::ConjId => (0, n),
        Field::Metadata => (2, n),
        Field::InPort | Field::InPortOxm => (3, n),
        Field::PktMark => (4, n),
        Field::EthSrc => (5, Field::EthDst as u16),
        Field::EthDst => (5, Field::EthSrc as u16),
        f if f.info().name.starts_with("tun_") => (1, n),
        _ => (5, n),
    }
}

/// Takes a word of a bucket; `false`: it is an action.
fn bucket_word(
    bucket: &mut Bucket,
    pair: &Pair<'_>,
    names: &dyn PortNames,
) -> Result<bool, FlowError> {
    let v = pair.value;
    let quoted = if v.is_empty() { pair.key } else { v };
    let within = |of, hi| parse_within(v, of, 0, hi).map_err(|p| quoted.err(p));
    match pair.key.text.to_ascii_lowercase().as_str() {
        "weight" => bucket.weight = within("weight", 65535)? as u16,
        "bucket_id" => bucket.id = Some(within("bucket_id", BUCKET_ID_MAX.into())? as u32),
        "watch_group" => {
            bucket.watch_group = Some(within("watch_group", GROUP_MAX.into())? as u32);
        }
        "watch_port" => {
            let port = parse_port(v, names).map_err(|p| quoted.err(p))?;
            if port >= ports::PORT_MAX && port != ports::NONE && port != ports::CONTROLLER {
                let rule = "only ports of the bridge can be watched";
                return Err(v.err(Problem::Rule(rule)));
            }
            bucket.watch_port = (port != ports::NONE).then_some(port);
        }
        _ => return Ok(false),
    }
    Ok(true)
}
