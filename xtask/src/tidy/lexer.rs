//! Just enough of Rust's lexical grammar to blank out comments and literals, and to find functions.
//!
//! Source: The Rust Reference, "Lexical structure". Blanked text keeps its length in characters and
//! its lines, so that places in it are places in the file.

/// Comments and string and character literals become spaces.
pub fn blank(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skip_from(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        out.extend(chars[at..end].iter().map(|&c| if c == '\n' { c } else { ' ' }));
        at = end;
    }
    out
}

/// The end of the comment or literal that begins at `at`; `at` itself when none does.
fn skip_from(chars: &[char], at: usize) -> usize {
    let next = |n: usize| chars.get(at + n).copied().unwrap_or('\0');
    let end = match chars[at] {
        '/' if next(1) == '/' => find(chars, at, |c| c == '\n'),
        '/' if next(1) == '*' => block_comment_end(chars, at),
        '"' => string_end(chars, at + 1),
        'r' | 'b' | 'c' if !continues_word(chars, at) => prefixed_end(chars, at),
        '\'' if next(1) == '\\' => find(chars, at + 3, |c| c == '\'') + 1,
        // A lifetime has no closing quote two places on; `'a'` has.
        '\'' if next(2) == '\'' => at + 3,
        _ => at,
    };
    end.min(chars.len())
}

fn continues_word(chars: &[char], at: usize) -> bool {
    at.checked_sub(1).and_then(|i| chars.get(i)).is_some_and(|&c| is_word(c))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn find(chars: &[char], from: usize, stop: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|&i| stop(chars[i])).unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    i
}

fn string_end(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    i
}

/// `b"`, `c"`, `b'`, `r"`, `br#"`: the end of the literal, or `at` when it is a plain word.
fn prefixed_end(chars: &[char], at: usize) -> usize {
    let mut i = at;
    while matches!(chars.get(i), Some('b' | 'c' | 'r')) {
        i += 1;
    }
    let raw = chars[at..i].contains(&'r');
    let hashes = if raw { find(chars, i, |c| c != '#') - i } else { 0 };
    match chars.get(i + hashes) {
        Some('"') if raw => {
            let hashes_from = |from: usize| chars[from..].iter().take_while(|&&c| c == '#').count();
            let ends = |&j: &usize| chars[j] == '"' && hashes_from(j + 1) >= hashes;
            let start = i + hashes + 1;
            (start..chars.len()).find(ends).map_or(chars.len(), |j| j + 1 + hashes)
        }
        Some('"') => string_end(chars, i + 1),
        Some('\'') if chars[at..i] == ['b'] => {
            let body = if chars.get(i + 1) == Some(&'\\') { i + 3 } else { i + 2 };
            find(chars, body, |c| c == '\'') + 1
        }
        _ => at,
    }
}

/// A function with a body: its name and its first and last line, from 1.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub first: usize,
    pub last: usize,
}

/// All functions with a body in blanked code.
pub fn functions(code: &str) -> Vec<Function> {
    let chars: Vec<char> = code.chars().collect();
    let mut found = Vec::new();
    let mut line = 1;
    for at in 0..chars.len() {
        line += usize::from(chars[at] == '\n');
        if !chars[at..].starts_with(&['f', 'n', ' ']) || continues_word(&chars, at) {
            continue;
        }
        let name: String = chars[at + 3..].iter().copied().take_while(|&c| is_word(c)).collect();
        let Some(open) = body_start(&chars, at) else { continue };
        let close = matching_brace(&chars, open);
        let lines = chars[at..close].iter().filter(|&&c| c == '\n').count();
        if !name.is_empty() {
            found.push(Function { name, first: line, last: line + lines });
        }
    }
    found
}

/// The opening brace of a body; none for a declaration that ends in a semicolon.
fn body_start(chars: &[char], from: usize) -> Option<usize> {
    let mut depth = 0;
    for (i, c) in chars.iter().enumerate().skip(from) {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if depth == 0 => return Some(i),
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

fn matching_brace(chars: &[char], open: usize) -> usize {
    let mut depth = 0;
    for (i, c) in chars.iter().enumerate().skip(open) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

/// Blanked code without its tests: each item after `#[cfg(test)]` becomes empty lines.
pub fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        let (head, tail) = rest.split_at(at);
        out.push_str(head);
        let chars: Vec<char> = tail.chars().collect();
        let end = match body_start(&chars, MARK.len()) {
            Some(open) => matching_brace(&chars, open) + 1,
            None => find(&chars, 0, |c| c == ';') + 1,
        };
        let end = end.min(chars.len());
        out.extend(chars[..end].iter().filter(|&&c| c == '\n'));
        let bytes: usize = chars[..end].iter().map(|c| c.len_utf8()).sum();
        rest = &tail[bytes..];
    }
    out.push_str(rest);
    out
}
