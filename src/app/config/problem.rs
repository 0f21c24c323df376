//! What is wrong with a configuration and where: `file:line:column: key: message; help`.

use std::fmt;
use std::sync::Arc;

/// Where something was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// A path, `--set KEY=VALUE` or the name of an environment variable; empty: built in.
    pub source: Arc<str>,
    /// From 1; 0: the source has no lines.
    pub line: u32,
    /// From 1, in characters; 0: the source has no lines.
    pub column: u32,
}

impl Place {
    /// A place in a source without lines.
    pub fn whole(source: impl Into<Arc<str>>) -> Self {
        Place { source: source.into(), line: 0, column: 0 }
    }

    /// The place of a byte offset in `text`.
    pub fn in_text(source: &Arc<str>, text: &str, offset: usize) -> Self {
        let before = text.get(..offset.min(text.len())).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        let short = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Place { source: source.clone(), line: short(line), column: short(column) }
    }

    pub fn same_line(&self, other: &Place) -> bool {
        self.source == other.source && self.line == other.line
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.source.is_empty(), self.line) {
            (true, _) => write!(f, "built-in defaults"),
            (false, 0) => write!(f, "{}", self.source),
            (false, line) => write!(f, "{}:{line}:{}", self.source, self.column),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub place: Place,
    /// `sip.listen[1]`; empty when no key is concerned.
    pub key: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The candidate that `word` was probably meant to be.
pub fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let tolerated = (word.chars().count() / 3).max(1);
    let scored = candidates.into_iter().map(|candidate| {
        let lower = candidate.to_lowercase();
        let inside = word.len() >= 4 && lower.contains(&word) || lower.len() >= 4 && word.starts_with(&lower);
        (if inside { 1 } else { distance(&word, &lower) }, candidate)
    });
    let (score, best) = scored.min()?;
    (score <= tolerated).then_some(best)
}

/// Edits between two words; two neighbours swapped count once.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let plain = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                if swapped { plain.min(rows[i - 2][j - 2] + 1) } else { plain }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let keys = ["listen", "advertise", "trusted", "max_calls"];
        let check = |word, expected: Option<&str>| assert_eq!(suggest(word, keys), expected, "{word}");
        check("listn", Some("listen"));
        check("litsen", Some("listen"));
        check("Trusted", Some("trusted"));
        check("max_call", Some("max_calls"));
        check("colour", None);
        check("", None);
    }

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let source: Arc<str> = "a.toml".into();
        let check = |offset, shown: &str| {
            assert_eq!(Place::in_text(&source, "é = 1\nb = 2\n", offset).to_string(), shown);
        };
        check(0, "a.toml:1:1");
        check(3, "a.toml:1:3");
        check(7, "a.toml:2:1");
        check(999, "a.toml:3:1");
    }
}
