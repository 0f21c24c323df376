//! Texts that come outside of a call (MESSAGE, RFC 3428): they belong to the one call their sender has, if it is one.

use std::time::Instant;

use super::{Response, UserAgent, user_of};
use crate::call::info::{PLAIN, text_of};
use crate::engine::plan::CallId;
use crate::sip::{Method, OutsideRequest};

impl UserAgent {
    /// The answer to a request outside of any dialog that is nobody else's.
    pub(super) fn outside_response(&mut self, now: Instant, asked: &OutsideRequest) -> Response {
        let (status, header) = match &asked.method {
            Method::Message => match text_of(asked.body.as_ref()) {
                Ok(text) => (self.take_text(now, asked, &text), None),
                Err(status) => (status, (status == 415).then_some(("Accept", PLAIN))),
            },
            Method::Notify => (481, None),
            Method::Subscribe | Method::Publish => (489, Some(("Allow-Events", "refer"))),
            Method::Register
            | Method::Invite
            | Method::Ack
            | Method::Bye
            | Method::Cancel
            | Method::Options
            | Method::Refer
            | Method::Info
            | Method::Update
            | Method::Prack
            | Method::Other(_) => (405, None),
        };
        let headers = header.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Response { status, headers: headers.into_iter().collect(), ..Response::default() }
    }

    /// 200: it stands in a call's record. 202: it was heard, and there is no call to write it to.
    fn take_text(&mut self, now: Instant, asked: &OutsideRequest, text: &str) -> u16 {
        let Some(call) = self.only_call_of(asked) else {
            self.counters.texts_apart += 1;
            tracing::info!(from = %user_of(&asked.from.uri), bytes = text.len(), "a text without a call");
            return 202;
        };
        let mut taken = false;
        self.step(now, call, |call| taken = call.text(text));
        if taken { 200 } else { 503 }
    }

    /// The call of the sender: by name among those from its address, else the only one from there.
    fn only_call_of(&self, asked: &OutsideRequest) -> Option<CallId> {
        let (source, user) = (asked.peer.remote.ip(), user_of(&asked.from.uri));
        let there = |call: &&crate::call::Call| {
            let peer: Option<std::net::SocketAddr> = call.label().peer.parse().ok();
            call.is_live() && peer.is_some_and(|peer| peer.ip().to_canonical() == source.to_canonical())
        };
        let only = |named: bool| {
            let other = |call: &crate::call::Call| {
                let label = call.label();
                if label.incoming { label.from.clone() } else { label.to.clone() }
            };
            let mut found = self
                .calls
                .values()
                .map(AsRef::as_ref)
                .filter(there)
                .filter(|call| !named || other(call) == user);
            found.next().filter(|_| found.next().is_none()).map(crate::call::Call::id)
        };
        only(true).or_else(|| only(false))
    }
}
