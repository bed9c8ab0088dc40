//! A piece of flow text that remembers where in its line it stood.
//!
//! Open vSwitch's grammar (ovs-ofctl(8), "Flow Syntax") is a list of `key`, `key=value`,
//! `key:value` and `key(value)`, separated by commas or white space, where a value may nest
//! parentheses; `key(x)->y` belongs together. Inside double quotes no character separates.

use super::error::{FlowError, Problem};

/// A slice of a line and the byte offset of its first character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<'a> {
    pub text: &'a str,
    pub at: usize,
}

/// One `key[=value]`.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    pub key: Span<'a>,
    /// Empty if there was none.
    pub value: Span<'a>,
    /// What stood between: `=`, `:`, `(`, or nothing.
    pub form: Form,
    /// All of it.
    pub whole: Span<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Bare,
    Equals,
    Colon,
    Paren,
}

const SEPARATORS: &[u8] = b", \t\r\n";

impl<'a> Span<'a> {
    pub fn new(text: &'a str) -> Self {
        Span { text, at: 0 }
    }

    /// `from..to` of it; clipped, and empty if a bound is not between two characters.
    pub fn slice(self, from: usize, to: usize) -> Self {
        let to = to.min(self.text.len());
        let from = from.min(to);
        Span { text: self.text.get(from..to).unwrap_or(""), at: self.at + from }
    }

    pub fn from(self, from: usize) -> Self {
        self.slice(from, self.text.len())
    }

    pub fn trim(self) -> Self {
        let start = self.text.len() - self.text.trim_start().len();
        self.slice(start, start + self.text.trim().len())
    }

    /// The parts before and after the first `sep`.
    pub fn split_once(self, sep: &str) -> Option<(Self, Self)> {
        let i = self.text.find(sep)?;
        Some((self.slice(0, i), self.from(i + sep.len())))
    }

    /// The pieces between commas that stand outside quotes and parentheses.
    pub fn split_list(self) -> Result<Vec<Self>, FlowError> {
        let mut out = Vec::new();
        let mut from = 0;
        loop {
            let open = |at: usize| self.from(at).err(Problem::Unclosed('"'));
            let to = scan(self.text.as_bytes(), from, b",").map_err(open)?;
            out.push(self.slice(from, to));
            if to >= self.text.len() {
                return Ok(out);
            }
            from = to + 1;
        }
    }

    /// The pieces between bytes of `separators` that stand outside quotes and parentheses,
    /// without the empty ones.
    pub fn words(self, separators: &[u8]) -> Result<Vec<Self>, FlowError> {
        let mut out = Vec::new();
        let mut from = 0;
        while from < self.text.len() {
            let open = |at: usize| self.from(at).err(Problem::Unclosed('"'));
            let to = scan(self.text.as_bytes(), from, separators).map_err(open)?;
            if to > from {
                out.push(self.slice(from, to));
            }
            from = to + 1;
        }
        Ok(out)
    }

    pub fn is_empty(self) -> bool {
        self.text.is_empty()
    }

    pub fn err(self, problem: Problem) -> FlowError {
        FlowError::new(self.at, self.text, problem)
    }
}

/// The end of the piece of `s` that starts at `from` and ends before a byte of `stop` that is
/// outside quotes and parentheses. `Err(i)`: the quote or parenthesis at `i` never closes.
fn scan(s: &[u8], from: usize, stop: &[u8]) -> Result<usize, usize> {
    let mut open = Vec::new();
    let mut i = from;
    while let Some(&c) = s.get(i) {
        match c {
            b'"' => i = close_quote(s, i)?,
            _ if open.is_empty() && stop.contains(&c) => return Ok(i),
            b'(' => open.push(i),
            b')' => drop(open.pop()),
            _ => {}
        }
        i += 1;
    }
    open.first().map_or(Ok(i), |&at| Err(at))
}

/// Where the quote that opens at `from` closes.
fn close_quote(s: &[u8], from: usize) -> Result<usize, usize> {
    let mut i = from + 1;
    while let Some(&c) = s.get(i) {
        match c {
            b'"' => return Ok(i),
            b'\\' => i += 2,
            _ => i += 1,
        }
    }
    Err(from)
}

/// Walks over the pairs of a list.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    rest: Span<'a>,
}

impl<'a> Pairs<'a> {
    pub fn new(rest: Span<'a>) -> Self {
        Pairs { rest }
    }

    /// The next pair, `None` at the end.
    pub fn next(&mut self) -> Result<Option<Pair<'a>>, FlowError> {
        let s = self.rest;
        let bytes = s.text.as_bytes();
        let Some(start) = bytes.iter().position(|c| !SEPARATORS.contains(c)) else {
            self.rest = s.from(s.text.len());
            return Ok(None);
        };
        let open = |at: usize| {
            let missing = if bytes.get(at) == Some(&b'"') { '"' } else { ')' };
            s.from(at).err(Problem::Unclosed(missing))
        };
        let key_end = key_end(bytes, start).map_err(open)?;
        let key = s.slice(start, key_end);
        let (form, stop): (Form, &[u8]) = match bytes.get(key_end) {
            Some(b'=') => (Form::Equals, SEPARATORS),
            Some(b':') => (Form::Colon, SEPARATORS),
            Some(b'(') => (Form::Paren, b")"),
            _ => (Form::Bare, SEPARATORS),
        };
        let from = if form == Form::Bare { key_end } else { key_end + 1 };
        let mut to =
            if form == Form::Bare { from } else { scan(bytes, from, stop).map_err(open)? };
        let mut next = to;
        if form == Form::Paren {
            if bytes.get(to) != Some(&b')') {
                return Err(open(key_end));
            }
            next = to + 1;
            if bytes.get(next..next + 2) == Some(b"->") {
                to = scan(bytes, next, SEPARATORS).map_err(open)?;
                next = to;
            }
        }
        self.rest = s.from(next);
        Ok(Some(Pair { key, value: s.slice(from, to), form, whole: s.slice(start, next) }))
    }
}

fn key_end(bytes: &[u8], start: usize) -> Result<usize, usize> {
    let mut i = start;
    while let Some(&c) = bytes.get(i) {
        match c {
            b'"' => i = close_quote(bytes, i)?,
            b':' | b'=' | b'(' => break,
            _ if SEPARATORS.contains(&c) => break,
            _ => {}
        }
        i += 1;
    }
    Ok(i)
}

/// Splits a line at the word `actions=` (or `action=`): what stands before, and what after.
pub fn split_actions(line: Span<'_>) -> Result<(Span<'_>, Option<Span<'_>>), FlowError> {
    let bytes = line.text.as_bytes();
    let mut i = 0;
    let mut at_word = true;
    while let Some(&c) = bytes.get(i) {
        if at_word && bytes[i..].starts_with(b"action") {
            let rest = &bytes[i + 6..];
            let plural = usize::from(rest.first() == Some(&b's'));
            if rest.get(plural) == Some(&b'=') {
                return Ok((line.slice(0, i), Some(line.from(i + 7 + plural))));
            }
        }
        at_word = SEPARATORS.contains(&c);
        if c == b'"' {
            let missing = |at: usize| line.from(at).err(Problem::Unclosed('"'));
            i = close_quote(bytes, i).map_err(missing)?;
        }
        i += 1;
    }
    Ok((line, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let mut p = Pairs::new(Span::new(text));
        let mut out = Vec::new();
        while let Some(x) = p.next().unwrap() {
            assert_eq!(&text[x.value.at..x.value.at + x.value.text.len()], x.value.text);
            out.push((x.key.text.to_string(), x.value.text.to_string()));
        }
        out
    }

    fn pair(k: &str, v: &str) -> (String, String) {
        (k.to_string(), v.to_string())
    }

    #[test]
    fn pairs_of_every_form() {
        assert_eq!(
            pairs("ip, nw_dst=1.2.3.4\tct(a,nat(src=1),b) check(14)->R[0],load:1->X[],\"p 1\""),
            [
                pair("ip", ""),
                pair("nw_dst", "1.2.3.4"),
                pair("ct", "a,nat(src=1),b"),
                pair("check", "14)->R[0]"),
                pair("load", "1->X[]"),
                pair("\"p 1\"", ""),
            ]
        );
        assert_eq!(pairs(" ,, "), []);
    }

    #[test]
    fn quotes_hide_separators() {
        assert_eq!(
            pairs(r#"in_port="a,b (\"c",x"#),
            [pair("in_port", r#""a,b (\"c""#), pair("x", "")]
        );
    }

    #[test]
    fn what_does_not_close_is_named() {
        for (text, at) in [("ct(commit", 2), ("a,output:\"x", 9), ("ct(nat(src)", 2)] {
            let e = Pairs::new(Span::new(text)).next().and_then(|_| {
                let mut p = Pairs::new(Span::new(text));
                p.next()?;
                p.next()
            });
            assert_eq!(e.unwrap_err().column, at + 1, "{text}");
        }
    }

    #[test]
    fn the_word_actions_is_found_outside_quotes() {
        let (m, a) = split_actions(Span::new(r#"in_port="actions=" actions=drop"#)).unwrap();
        assert_eq!((m.text, a.unwrap().text), (r#"in_port="actions=" "#, "drop"));
        let (m, a) = split_actions(Span::new("ip,action=1")).unwrap();
        assert_eq!((m.text, a.unwrap().text), ("ip,", "1"));
        assert!(split_actions(Span::new("xactions=1")).unwrap().1.is_none());
    }
}
