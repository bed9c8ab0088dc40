//! Files of flows: one a line, `#` to the end of a line is a comment, `[bridge NAME]` says
//! whose flows follow.

use super::Flow;
use super::error::{FlowError, Problem};
use super::flow_mod::{Command, command_word};
use super::parse::parse_line;
use super::ports::PortNames;
use super::span::Span;

/// A flow of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct FileFlow {
    pub bridge: String,
    /// From 1.
    pub line: usize,
    pub flow: Flow,
}

/// Reads a file of flows to add. Lines before the first `[bridge NAME]` belong to
/// `first_bridge`. `ports` gives a bridge's ports, or `None` if there is no such bridge. The
/// first mistake ends it: a file is taken whole or not at all.
pub fn parse_file<'p>(
    text: &str,
    first_bridge: &str,
    ports: &dyn Fn(&str) -> Option<&'p dyn PortNames>,
) -> Result<Vec<FileFlow>, FlowError> {
    let mut bridge = first_bridge.to_string();
    let mut out = Vec::new();
    for (i, raw) in text.lines().enumerate() {
        let line = i + 1;
        let content = Span::new(raw).slice(0, comment_start(raw));
        if content.trim().is_empty() {
            continue;
        }
        let flow = if content.trim().text.starts_with('[') {
            bridge = section(content.trim()).map_err(|e| e.on_line(line))?.to_string();
            let known = ports(&bridge).is_some();
            known.then_some(()).ok_or_else(|| content.trim().err(Problem::UnknownBridge))
        } else {
            let names = ports(&bridge)
                .ok_or_else(|| Span::new(&bridge).err(Problem::UnknownBridge).on_line(line))?;
            let flow = flow_of_line(content, names).map_err(|e| e.on_line(line))?;
            out.push(FileFlow { bridge: bridge.clone(), line, flow });
            Ok(())
        };
        flow.map_err(|e| e.on_line(line))?;
    }
    Ok(out)
}

fn flow_of_line(content: Span<'_>, names: &dyn PortNames) -> Result<Flow, FlowError> {
    let (command, rest) = command_word(content);
    if command != Command::Add {
        let rule = "a file says which flows there are; it can only add";
        return Err(content.trim().err(Problem::Rule(rule)));
    }
    let (head, actions) = parse_line(rest, Command::Add, names)?;
    Ok(head.into_flow(actions))
}

/// Where the comment begins: the first `#` outside quotes.
fn comment_start(line: &str) -> usize {
    let mut quoted = false;
    let mut escaped = false;
    for (i, c) in line.bytes().enumerate() {
        match c {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return i,
            _ => {}
        }
    }
    line.len()
}

/// The name in `[bridge NAME]`.
fn section(s: Span<'_>) -> Result<&str, FlowError> {
    let inner = s.text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let name = inner.and_then(|t| t.trim().strip_prefix("bridge"));
    let name = name.filter(|n| n.starts_with(char::is_whitespace)).map(str::trim);
    name.filter(|n| !n.is_empty() && !n.contains(char::is_whitespace))
        .ok_or_else(|| s.err(Problem::Expected("[bridge NAME]")))
}
