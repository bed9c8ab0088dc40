//! A vector's files, to and from memory.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::packet_text::{parse_packet, split_words};
use super::{InPacket, Outcome, Vector, describe};

/// A vector that cannot be read, with the place.
#[derive(Debug, PartialEq, Eq)]
pub struct InputError {
    pub file: PathBuf,
    /// From 1; 0 means the file itself.
    pub line: usize,
    pub text: String,
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.text)
    }
}

impl std::error::Error for InputError {}

/// A line of `in.txt` or `out.txt`.
struct Line {
    at_ns: Option<u64>,
    port: String,
    bytes: Vec<u8>,
}

/// Between packets without a time.
const STEP_NS: u64 = 1_000_000;

pub fn load(dir: &Path) -> Result<Vector, InputError> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let why = read(&dir.join("why.txt"))?.trim().to_owned();
    if why.is_empty() {
        let text = "say in one sentence what the vector proves".to_owned();
        return Err(InputError { file: dir.join("why.txt"), line: 0, text });
    }
    let flows = read(&dir.join("flows.txt"))?;
    let switch = Some(dir.join("switch.toml")).filter(|path| path.is_file());
    let mut input = Vec::new();
    let mut next_ns = 0;
    for line in packets(&dir.join("in.txt"), true)? {
        let Line { at_ns, port, bytes } = line;
        let at_ns = at_ns.unwrap_or(next_ns);
        next_ns = at_ns + STEP_NS;
        input.push(InPacket { at_ns, port, bytes });
    }
    // One after the other: ports have no order among packets of one moment.
    if !input.is_sorted_by(|a, b| a.at_ns < b.at_ns) {
        let text = "the packets are not in order of time, each later than the last".to_owned();
        return Err(InputError { file: dir.join("in.txt"), line: 0, text });
    }
    // Both are written by the first run, with REGENERATE=1.
    let mut expected = Outcome::default();
    for line in packets(&dir.join("out.txt"), false)? {
        expected.out.entry(line.port).or_default().push(line.bytes);
    }
    expected.counters = counters(&dir.join("counters.txt"))?;
    // A missing file is the rule.
    let reason = |file: &str| {
        let text = std::fs::read_to_string(dir.join(file)).ok();
        text.map(|text| text.trim().to_owned())
    };
    let (replay_only, one_worker) = (reason("replay-only.txt"), reason("one-worker.txt"));
    Ok(Vector { name, why, flows, switch, input, replay_only, one_worker, expected })
}

fn read(file: &Path) -> Result<String, InputError> {
    std::fs::read_to_string(file).map_err(|e| InputError {
        file: file.to_owned(),
        line: 0,
        text: e.to_string(),
    })
}

/// A file that may be missing, without its comments, with the numbers of its lines.
fn lines(file: &Path, required: bool) -> Result<Vec<(usize, String)>, InputError> {
    if !required && !file.exists() {
        return Ok(Vec::new());
    }
    let text = read(file)?;
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim().to_owned()));
    Ok(lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect())
}

fn packets(file: &Path, required: bool) -> Result<Vec<Line>, InputError> {
    let parsed = lines(file, required)?.into_iter().map(|(at, line)| {
        packet_line(&line).map_err(|text| InputError { file: file.to_owned(), line: at, text })
    });
    parsed.collect()
}

fn packet_line(line: &str) -> Result<Line, String> {
    let mut at_ns = None;
    let mut words = split_words(line)?.into_iter().peekable();
    if let Some(time) = words.next_if(|w| w.starts_with("t=")) {
        at_ns = Some(seconds(time.trim_start_matches("t="))?);
    }
    let port = words.next().and_then(|w| w.strip_prefix("port=").map(str::to_owned));
    let port = port.ok_or("`port=NAME` must stand before the packet")?;
    let packet = words.next().ok_or("no packet after the port")?;
    let changes: Vec<&str> = words.collect();
    Ok(Line { at_ns, port, bytes: parse_packet(packet, &changes)? })
}

/// Seconds with up to nine decimals, exactly.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no time in seconds, such as 0.001");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = format!("{part:0<9}");
    if part.is_empty() || digits.len() > 9 {
        return Err(wrong());
    }
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    number(whole)?
        .checked_mul(1_000_000_000)
        .and_then(|ns| ns.checked_add(number(&digits).ok()?))
        .ok_or_else(wrong)
}

fn counters(file: &Path) -> Result<BTreeMap<String, u64>, InputError> {
    let mut all = BTreeMap::new();
    for (at, line) in lines(file, false)? {
        let parts = line.split_once(' ').and_then(|(n, name)| Some((n.parse().ok()?, name.trim())));
        let wrong = |text: String| InputError { file: file.to_owned(), line: at, text };
        let (count, name) = parts.ok_or_else(|| wrong(format!("`{line}`: want `NUMBER NAME`")))?;
        if all.insert(name.to_owned(), count).is_some() {
            return Err(wrong(format!("`{name}` stands here twice")));
        }
    }
    Ok(all)
}

/// Writes `out.txt` and `counters.txt` as they came out.
pub fn write_expected(dir: &Path, outcome: &Outcome) -> std::io::Result<()> {
    let mut out = String::new();
    for (port, packets) in &outcome.out {
        for packet in packets {
            out += &format!("port={port} {}\n", describe(packet));
        }
    }
    let moved = outcome.counters.iter().filter(|(_, count)| **count > 0);
    let counters: String = moved.map(|(name, count)| format!("{count} {name}\n")).collect();
    std::fs::write(dir.join("out.txt"), out)?;
    std::fs::write(dir.join("counters.txt"), counters)
}
