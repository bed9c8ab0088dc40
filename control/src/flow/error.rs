//! What is wrong with a flow: the offending part, where it stands, and what would be right.

use sluice_dataplane::packet::field::FIELDS;
use sluice_dataplane::tunnel::TlvError;

/// A refused line of flow text. `Display` gives one sentence:
/// `line 3, column 9: "nw_scr=1.2.3.4": unknown field; did you mean nw_src?`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowError {
    /// Line of the file, from 1; 0 when the text was a single line.
    pub line: usize,
    /// Column, from 1, in bytes.
    pub column: usize,
    /// The offending part, shortened if long.
    pub part: String,
    pub problem: Problem,
}

/// Longest part that a message quotes.
const PART_MAX_BYTES: usize = 60;

impl FlowError {
    pub fn new(at: usize, part: &str, problem: Problem) -> Self {
        let mut part = part.to_string();
        if part.len() > PART_MAX_BYTES {
            let cut = (0..=PART_MAX_BYTES).rev().find(|&i| part.is_char_boundary(i)).unwrap_or(0);
            part.truncate(cut);
            part.push_str("...");
        }
        FlowError { line: 0, column: at + 1, part, problem }
    }

    pub fn on_line(mut self, line: usize) -> Self {
        self.line = line;
        self
    }
}

impl std::fmt::Display for FlowError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, ", self.line)?;
        }
        let (column, part, problem) = (self.column, &self.part, &self.problem);
        // A quoted name is not quoted again.
        if part.is_empty() {
            write!(f, "column {column}: {problem}")
        } else if part.starts_with('"') {
            write!(f, "column {column}: {part}: {problem}")
        } else {
            write!(f, "column {column}: \"{part}\": {problem}")
        }
    }
}

impl std::error::Error for FlowError {}

/// Kinds of mistakes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("unknown field{}", hint(.0))]
    UnknownField(Option<String>),
    #[error("unknown action{}", hint(.0))]
    UnknownAction(Option<String>),
    #[error("unknown word of a group{}", hint(.0))]
    UnknownGroupWord(Option<String>),
    #[error("unknown word of a meter{}", hint(.0))]
    UnknownMeterWord(Option<String>),
    #[error("unknown argument of {of}; it takes {takes}")]
    UnknownArgument { of: &'static str, takes: &'static str },
    #[error("{0} is not supported yet")]
    Unsupported(String),
    #[error("{0}")]
    Options(TlvError),
    #[error("{0} is no option of this bridge; map one to it first (tlv-map)")]
    NotMapped(&'static str),
    #[error(
        "a learned flow cannot match or write tunnel options; it can copy from them, to a register"
    )]
    LearnsOption,
    #[error("{0} cannot be matched by a flow")]
    NotMatchable(&'static str),
    #[error("{0} is missing its value")]
    MissingValue(String),
    #[error("{0} takes no value")]
    NeedlessValue(&'static str),
    #[error("not a valid {of}; write {want}")]
    BadValue { of: String, want: &'static str },
    #[error("too large for {of}, which has {bits} bits (at most {max:#x})")]
    TooLarge { of: String, bits: u8, max: u128 },
    #[error("{of} must be {lo} to {hi}")]
    OutOfRange { of: &'static str, lo: u64, hi: u64 },
    #[error("unknown flag of {of}; the flags are {flags}")]
    UnknownFlag { of: &'static str, flags: String },
    #[error("{0} cannot be masked; leave the mask out")]
    NotMaskable(&'static str),
    #[error("unknown port; give a number, a port of this bridge, or a name like LOCAL or IN_PORT")]
    UnknownPort,
    #[error("{0} is no port to send to")]
    NotAnOutput(&'static str),
    #[error("{field} needs {needs} in the match")]
    Prerequisite { field: String, needs: &'static str },
    #[error("{action} needs {needs} in the match, as {beside} is in the same flow")]
    NoVersion { action: &'static str, needs: &'static str, beside: &'static str },
    #[error("contradicts an earlier part of the match")]
    Contradiction,
    #[error("{0} is read-only")]
    ReadOnly(&'static str),
    #[error("{0} can be set only in ct(commit,exec(...))")]
    OnlyInCt(&'static str),
    #[error("ct(exec(...)) may set only ct_mark and ct_label")]
    NotInCt,
    #[error("source is {src} bits wide, destination {dst}")]
    Width { src: u8, dst: u8 },
    #[error("bit range outside {field}, whose bits are 0 to {last}")]
    BitRange { field: &'static str, last: u8 },
    #[error("{0} must be {1} bits wide")]
    MustBeWide(&'static str, u8),
    #[error("expected {0}")]
    Expected(&'static str),
    #[error("{} that never closes", if *.0 == '"' { "a quote" } else { "a parenthesis" })]
    Unclosed(char),
    #[error("goto_table must be the last action")]
    AfterGoto,
    #[error("goto_table can only go forward, to a table after {0}")]
    GotoBackward(u8),
    #[error("{of} must come before {before}")]
    InstructionOrder { of: &'static str, before: &'static str },
    #[error("{0} can be given only once")]
    InstructionTwice(&'static str),
    #[error("an instruction cannot stand inside another action")]
    InstructionInside,
    #[error("a conjunction cannot stand inside another action")]
    ConjunctionInside,
    #[error("conjunction goes together with nothing but note and further conjunctions")]
    ConjunctionNotAlone,
    #[error(
        "an action set has no place for this: it takes outputs, groups, header changes, \
         set_queue, ct and resubmit"
    )]
    NotInActionSet,
    #[error("the learned flow lacks {needs} before {field}")]
    LearnPrerequisite { field: String, needs: &'static str },
    #[error("drop stands alone; remove the other actions or the drop")]
    DropNotAlone,
    #[error("{0}")]
    Rule(&'static str),
    #[error("there is no bridge of this name")]
    UnknownBridge,
    #[error("line is longer than {0} bytes")]
    TooLong(usize),
    #[error("actions nest deeper than {0}")]
    TooDeep(usize),
}

impl Problem {
    /// Whether it is where an action stands that is wrong, and not what it says.
    pub fn is_of_place(&self) -> bool {
        matches!(
            self,
            Problem::AfterGoto
                | Problem::InstructionOrder { .. }
                | Problem::InstructionTwice(_)
                | Problem::InstructionInside
                | Problem::ConjunctionNotAlone
                | Problem::ConjunctionInside
                | Problem::NotInActionSet
        )
    }

    /// The same about the name that the user wrote instead of the field's first one.
    pub fn about(self, name: &str) -> Self {
        match self {
            Problem::BadValue { want, .. } => Problem::BadValue { of: name.to_string(), want },
            Problem::TooLarge { bits, max, .. } => {
                Problem::TooLarge { of: name.to_string(), bits, max }
            }
            other => other,
        }
    }
}

fn hint(guess: &Option<String>) -> String {
    guess.as_ref().map(|g| format!("; did you mean {g}?")).unwrap_or_default()
}

/// Words of a match that are no fields of a packet.
pub const MATCH_WORDS: &[&str] = &[
    "table",
    "priority",
    "cookie",
    "idle_timeout",
    "hard_timeout",
    "importance",
    "actions",
    "ip",
    "ipv6",
    "arp",
    "rarp",
    "tcp",
    "udp",
    "sctp",
    "icmp",
    "tcp6",
    "udp6",
    "sctp6",
    "icmp6",
    "mpls",
    "mplsm",
    "send_flow_rem",
    "check_overlap",
    "reset_counts",
    "no_packet_counts",
    "no_byte_counts",
    "out_port",
    "out_group",
];

/// The field or word nearest to `name`.
pub fn nearest_field(name: &str) -> Option<String> {
    let names =
        FIELDS.iter().flat_map(|f| std::iter::once(f.name).chain(f.aliases.iter().copied()));
    nearest(name, names.chain(MATCH_WORDS.iter().copied()))
}

/// The candidate nearest to `name` by edit distance, if it is near at all.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    if name.len() > 40 {
        return None;
    }
    let name = name.to_ascii_lowercase();
    let limit = (name.len() / 3).clamp(1, 3);
    candidates
        .map(|c| (distance(&name, &c.to_ascii_lowercase()), c))
        .filter(|&(d, _)| d <= limit)
        .min_by_key(|&(d, _)| d)
        .map(|(_, c)| c.to_string())
}

/// Optimal string alignment distance: insertions, deletions, substitutions and swaps of
/// neighbours each count one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let change = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = change.min(last[j] + 1).min(row[j - 1] + 1);
            let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if swapped {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("nw_scr", "nw_src"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn guesses_are_near_or_none() {
        assert_eq!(nearest_field("nw_scr").as_deref(), Some("nw_src"));
        assert_eq!(nearest_field("prioriti").as_deref(), Some("priority"));
        assert_eq!(nearest_field("completely_else"), None);
    }

    #[test]
    fn a_long_part_is_cut_between_characters() {
        let e = FlowError::new(0, &"ä".repeat(80), Problem::AfterGoto);
        assert!(e.part.ends_with("...") && e.part.len() <= PART_MAX_BYTES + 3);
    }
}
