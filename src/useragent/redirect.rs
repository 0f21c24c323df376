//! Our calls that are sent elsewhere by a 3xx (RFC 3261 §8.1.3.4): its Contacts in order of q, each only where the dial
//! policy permits, a few at most, none twice. Otherwise the call ends with the 3xx and a text that says why.

use std::collections::VecDeque;
use std::time::Instant;

use super::dialling::DialReason;
use super::{UserAgent, Way};
use crate::engine::plan::CallId;
use crate::sip::{Body, Event, Headers, Hop, NameAddr, ResolveId, SessionId, Uri};

/// Places one call is sent to.
const MOST: usize = 5;
/// Contacts of one 3xx that are looked at.
const CONTACTS: usize = 8;

/// Where one call of ours has been and may still go.
#[derive(Default)]
pub(super) struct Redirect {
    /// Our offer.
    body: Option<Body>,
    waiting: VecDeque<Uri>,
    tried: Vec<String>,
    /// The driver is asked for the addresses of the next place.
    asking: Option<ResolveId>,
}

impl Redirect {
    /// Our INVITE goes to this place.
    pub(super) fn note(&mut self, to: &Uri, body: &Body) {
        self.body = Some(body.clone());
        if self.tried.is_empty() {
            self.tried.push(to.to_string());
        }
    }
}

impl UserAgent {
    /// Looks at an event before its call does. `None`: the call goes on elsewhere and hears nothing of it.
    pub(super) fn redirected(&mut self, now: Instant, call: CallId, event: Event) -> Option<Event> {
        let Event::Failed { session, status, reason, headers } = event else { return Some(event) };
        let live = self.calls.get(&call).is_some_and(|call| call.is_live());
        let Some(redirect) = self.redirects.get_mut(&call).filter(|_| live) else {
            return Some(Event::Failed { session, status, reason, headers });
        };
        let moved = (300..400).contains(&status);
        if moved {
            redirect.waiting.extend(contacts(&headers));
        }
        let another = !redirect.waiting.is_empty() && status < 600;
        if !moved && !another {
            return Some(Event::Failed { session, status, reason, headers });
        }
        match self.next_place(now, call) {
            Ok(()) => {
                self.call_of.remove(&session);
                self.session_of.remove(&call);
                None
            }
            Err(why) => {
                let reason = if moved { format!("{reason}; not followed: {why}") } else { reason };
                Some(Event::Failed { session, status, reason, headers })
            }
        }
    }

    fn next_place(&mut self, now: Instant, call: CallId) -> Result<(), String> {
        let mut why = "it names no place to go to".to_owned();
        loop {
            let Some(redirect) = self.redirects.get_mut(&call) else { return Err(why) };
            let Some(uri) = redirect.waiting.pop_front() else { return Err(why) };
            let name = uri.to_string();
            if redirect.tried.contains(&name) {
                why = "it leads in a circle".to_owned();
                continue;
            }
            if redirect.tried.len() > MOST {
                return Err(format!("the call has been sent on {MOST} times"));
            }
            if let Err(denied) = self.dialling.permit(now, &uri, DialReason::Redirect) {
                why = denied.to_string();
                continue;
            }
            tracing::info!(%call, host = %uri.host, "the call is sent on by a redirection");
            let asked = self.endpoint.resolve(uri.clone());
            redirect.tried.push(name);
            redirect.asking = Some(asked);
            if let Some(dial) = self.dials.get_mut(&call) {
                dial.to = uri;
                // Proof and way were for where the call was meant to go.
                dial.way = Way::default();
            }
            return Ok(());
        }
    }

    /// Addresses of a place a call is sent to. `false`: no call waits for them.
    pub(super) fn place_found(
        &mut self,
        now: Instant,
        id: ResolveId,
        found: &Result<Vec<Hop>, String>,
    ) -> bool {
        let waiting = self.redirects.iter_mut().find(|(_, redirect)| redirect.asking == Some(id));
        let Some((call, redirect)) = waiting else { return false };
        let (call, body) = (*call, redirect.body.clone());
        redirect.asking = None;
        let hops = self.reachable(call, found.as_deref().unwrap_or_default());
        match (hops.first(), body) {
            (Some(_), Some(body)) => {
                self.moved(now, call, &hops);
                if let Some(dial) = self.dials.get_mut(&call) {
                    dial.hops = hops;
                }
                self.invite(now, call, body);
            }
            _ => {
                if let Err(why) = self.next_place(now, call) {
                    let why = found.as_ref().err().cloned().unwrap_or(why);
                    self.fail(now, call, 503, format!("sent on to where nobody is: {why}"));
                }
            }
        }
        true
    }

    /// Our offer names one address of ours: only places of its family can follow.
    fn reachable(&self, call: CallId, found: &[Hop]) -> Vec<Hop> {
        let before = self.dials.get(&call).and_then(|dial| dial.hops.first());
        let family = before.is_none_or(|hop| hop.remote.is_ipv4());
        found.iter().filter(|hop| hop.remote.is_ipv4() == family).cloned().collect()
    }

    /// The call is given up between two places: there is no INVITE to cancel. `false`: there is one.
    pub(super) fn stop_redirecting(&mut self, now: Instant, call: CallId) -> bool {
        let asking = self.redirects.get_mut(&call).and_then(|redirect| redirect.asking.take());
        if asking.is_some() {
            self.fail(now, call, 487, "Request Terminated".to_owned());
        }
        asking.is_some()
    }

    fn fail(&mut self, now: Instant, call: CallId, status: u16, reason: String) {
        // No session is left that it could be of.
        let session = SessionId(0);
        let failed = Event::Failed { session, status, reason, headers: Headers::default() };
        self.step(now, call, |call| call.handle_sip(now, failed));
    }
}

/// The Contacts of a 3xx, the most wanted first; equals stay in their order.
fn contacts(headers: &Headers) -> Vec<Uri> {
    let wanted = |contact: &NameAddr| -> u32 {
        let q = contact.parameter("q").flatten().and_then(|q| q.parse::<f32>().ok()).unwrap_or(1.0);
        (q.clamp(0.0, 1.0) * 1000.0) as u32
    };
    let mut named: Vec<NameAddr> =
        headers.list("Contact").filter_map(NameAddr::parse).take(CONTACTS).collect();
    named.sort_by_key(|contact| std::cmp::Reverse(wanted(contact)));
    named.into_iter().map(|contact| contact.uri).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contacts_are_tried_by_q_and_rubbish_is_left_out() {
        let mut headers = Headers::default();
        headers.push("Contact", "<sip:c@h>;q=0.1, <sip:a@h>;q=1.0, <sip:b@h>;q=x, *, <<<");
        headers.push("Contact", "<sip:d@h>;q=0.5");
        let order: Vec<String> = contacts(&headers).iter().map(ToString::to_string).collect();
        assert_eq!(order, ["sip:a@h", "sip:b@h", "sip:d@h", "sip:c@h"]);
    }
}
