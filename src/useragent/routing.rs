//! Which agent answers: the first route whose every condition holds.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::call::behaviour::{Behaviour, Room};

/// One `[[route]]`.
#[derive(Clone, Debug)]
pub struct Route {
    /// Globs over user parts; `None`: anything.
    pub to: Option<String>,
    pub from: Option<String>,
    /// Networks the call may come from; empty: any.
    pub sources: Vec<IpNet>,
    /// Header names with the glob their value must match.
    pub headers: Vec<(String, String)>,
    /// The agent's name, for the console and the record.
    pub agent: String,
    pub behaviour: Behaviour,
    pub room: Room,
    /// Whether video is taken at all.
    pub video: bool,
    /// The name in our Contact; empty: none.
    pub display_name: String,
    /// It rings so long before the agent answers.
    pub ring: Duration,
    /// Media flows while it rings.
    pub early_media: bool,
    /// Whether a shared screen is taken beside it.
    pub slides: bool,
}

/// What a route is chosen by.
pub struct Asked<'a> {
    pub to: &'a str,
    pub from: &'a str,
    pub source: IpAddr,
    /// The value of a header of the INVITE by name.
    pub header: &'a dyn Fn(&str) -> Option<String>,
}

/// The first route that matches.
pub fn choose<'a>(routes: &'a [Route], asked: &Asked<'_>) -> Option<&'a Route> {
    routes.iter().find(|route| route.matches(asked))
}

impl Route {
    fn matches(&self, asked: &Asked<'_>) -> bool {
        let fits =
            |pattern: &Option<String>, text: &str| pattern.as_ref().is_none_or(|pattern| glob(pattern, text));
        fits(&self.to, asked.to)
            && fits(&self.from, asked.from)
            && (self.sources.is_empty()
                || self.sources.iter().any(|network| network.contains(&asked.source.to_canonical())))
            && self
                .headers
                .iter()
                .all(|(name, pattern)| (asked.header)(name).is_some_and(|value| glob(pattern, value.trim())))
    }
}

/// `*` stands for any run of characters, `?` for one. Linear in the text for each `*`.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p).is_some_and(|c| *c == '?' || *c == text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_user_parts() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("10?", "100", true),
            ("10?", "1000", false),
            ("door-*-2", "door-north-2", true),
            ("door-*-2", "door-north-3", false),
            ("*a*b", "aab", true),
            ("100", "100", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} on {text}");
        }
    }
}
