//! `[decisions]`: synchronous questions to the operator's application.

use std::time::Duration;

use reqwest::Url;

use super::print::Page;
use super::secret::Secret;
use super::section::Section;
use super::settings::{Word, words};
use super::talk::check::is_near_host;

words! {
    /// What the application may decide.
    DecisionKind {
        /// A turn of the caller, before it is answered.
        TurnCompleted = "turn.completed",
    }
}

/// `[decisions]`
#[derive(Clone, Debug, PartialEq)]
pub struct Decisions {
    /// `None`: nobody is asked.
    pub url: Option<Url>,
    /// Signs the questions; empty: they are not signed.
    pub secret: Secret,
    pub timeout: Duration,
    pub kinds: Vec<DecisionKind>,
}

impl Default for Decisions {
    fn default() -> Self {
        Decisions {
            url: None,
            secret: Secret::default(),
            timeout: Duration::from_millis(150),
            kinds: vec![DecisionKind::TurnCompleted],
        }
    }
}

pub fn read(section: &Section, into: &mut Decisions) {
    section.parsed("url", &mut into.url, url);
    section.secret("secret", &mut into.secret);
    section.duration("timeout_ms", &mut into.timeout, Duration::from_millis(1), 10.0..=5_000.0);
    section.list("kinds", &mut into.kinds, |text| {
        let kind = DecisionKind::ALL.iter().find(|(word, _)| *word == text).map(|(_, kind)| *kind);
        kind.ok_or_else(|| {
            let known: Vec<&str> = DecisionKind::ALL.iter().map(|(word, _)| *word).collect();
            format!("{text:?} is none of {}", known.join(", "))
        })
    });
}

fn url(text: &str) -> Result<Option<Url>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let url = Url::parse(text)
        .map_err(|_| format!("{text:?} is no URL; write \"http://127.0.0.1:9000/decide\""))?;
    match (url.scheme(), url.host_str()) {
        ("https", Some(_)) => Ok(Some(url)),
        // What callers say does not go over the Internet for all to read.
        ("http", Some(host)) if is_near_host(host) => Ok(Some(url)),
        ("http", Some(host)) => Err(format!("{host} is not on this site: write https")),
        _ => Err("write an http or https URL".to_owned()),
    }
}

pub(super) fn print(page: &mut Page, decisions: &Decisions) {
    page.section("decisions");
    page.text("url", decisions.url.as_ref().map_or("", Url::as_str));
    page.text("secret", decisions.secret.shown());
    page.duration("timeout_ms", decisions.timeout, Duration::from_millis(1));
    page.list("kinds", decisions.kinds.iter().map(|kind| format!("{:?}", kind.word())));
}
