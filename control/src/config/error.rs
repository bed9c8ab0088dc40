//! A refused configuration: file, line, column, what is wrong, what would be right.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One reason to refuse a configuration file. Shown the way compilers do: place first, then the
/// quoted line with a mark under the offending part, then what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub file: PathBuf,
    /// From 1; 0 when the file as a whole is meant (it cannot be read, say).
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The line of the file, without its end.
    pub source_line: String,
    /// Characters to mark, at least 1.
    pub mark_len: usize,
    pub what: String,
    /// What would be right.
    pub hint: String,
}

impl ConfigError {
    /// An error at a byte range of the file's text.
    pub(crate) fn at(
        file: &Path,
        text: &str,
        span: Range<usize>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        let start = floor_char(text, span.start);
        let end = floor_char(text, span.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        Self {
            file: file.to_owned(),
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            source_line: text[line_start..line_end].trim_end().to_owned(),
            mark_len: text[start..end.min(line_end)].chars().count().max(1),
            what: what.into(),
            hint: hint.into(),
        }
    }

    /// An error about the file as a whole.
    pub(crate) fn whole(file: &Path, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            source_line: String::new(),
            mark_len: 1,
            what: what.into(),
            hint: hint.into(),
        }
    }
}

/// The nearest character boundary at or below `at`, inside the text.
fn floor_char(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.file.display(), self.what)?;
        } else {
            let number = self.line.to_string();
            let pad = " ".repeat(number.len());
            let file = self.file.display();
            writeln!(f, "{file}:{}:{}: {}", self.line, self.column, self.what)?;
            writeln!(f, " {number} | {}", self.source_line)?;
            let indent = " ".repeat(self.column.saturating_sub(1));
            write!(f, " {pad} | {indent}{}", "^".repeat(self.mark_len))?;
        }
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\nhint: {}", self.hint) }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_quoted_and_marked() {
        let text = "a = 1\nname = \"häh\"\n";
        let at = text.find("\"h").unwrap();
        let e = ConfigError::at(Path::new("x.toml"), text, at..at + 6, "bad name", "use another");
        let shown = e.to_string();
        assert_eq!(
            shown,
            "x.toml:2:8: bad name\n 2 | name = \"häh\"\n   |        ^^^^^\nhint: use another"
        );
    }

    #[test]
    fn spans_outside_the_text_do_not_panic() {
        let e = ConfigError::at(Path::new("x"), "ä", 1..99, "w", "");
        assert_eq!((e.line, e.column), (1, 1));
        assert_eq!(ConfigError::at(Path::new("x"), "", 5..9, "w", "").line, 1);
    }
}
