//! REFER outside of any call (RFC 3515 §2.4.2): a trusted application or phone asks us to call somebody, by the agent
//! of the route the REFER itself leads to.
//!
//! ```text
//! REFER sip:reception@box, Refer-To: target ─▶ route? allowed? ─▶ 202, NOTIFY 100 ─▶ a call ─▶ NOTIFY 180, 200
//! ```
//! Who may ask was decided before; a REFER inside a call is `transfer`'s.

use std::collections::HashMap;
use std::time::Instant;

use super::dialling::DialReason;
use super::routing::{self, Asked, Route};
use super::transfer::SUBSCRIPTION_S;
use super::{Dial, Response, UserAgent, Way, user_of};
use crate::call::negotiate::MediaSettings;
use crate::engine::plan::{CallId, Label};
use crate::sip::refer::{self, Referral, Subscription};
use crate::sip::{Hop, Method, NameAddr, Outside, OutsideRequest, RequestId, Uri};

/// Who wants to hear of a call that was asked for this way: the dialog its REFER made.
pub(super) struct Listener {
    /// We, with the tag of our 202; and the one who asked.
    own: NameAddr,
    theirs: NameAddr,
    target: Uri,
    call_id: String,
    hop: Hop,
    event: String,
    number: u32,
    /// The status last told.
    told: u16,
}

/// By the call that was made.
pub(super) type Listeners = HashMap<CallId, Listener>;

impl UserAgent {
    /// Answers a REFER that belongs to no call.
    pub(super) fn referred_apart(&mut self, now: Instant, request: RequestId, asked: &OutsideRequest) {
        let (referral, route) = match self.take_request(now, asked) {
            Ok(taken) => taken,
            Err((status, text)) => {
                tracing::info!(from = %user_of(&asked.from.uri), status, "asked to call somebody, refused: {text}");
                let warning = format!("399 eyeline \"{}\"", text.replace(['"', '\\'], "'"));
                let headers = vec![("Warning".to_owned(), warning)];
                return self.endpoint.reply(
                    now,
                    request,
                    Response { status, headers, ..Response::default() },
                );
            }
        };
        let listener = self.listener(request, asked).filter(|_| !referral.quiet);
        let quiet = referral.quiet.then(|| ("Refer-Sub".to_owned(), "false".to_owned()));
        let headers = quiet.into_iter().collect();
        self.endpoint.reply(now, request, Response { status: 202, headers, ..Response::default() });
        let made = self.new_call_id();
        tracing::info!(call = %made, from = %user_of(&asked.from.uri), "asked to call somebody by REFER");
        if let Some(listener) = listener {
            self.listeners.insert(made, listener);
            self.tell_listener(now, made, 100, "Trying");
        }
        let dial = self.dial_of_request(asked, referral, route);
        self.dial_as(now, made, dial);
    }

    /// The call that is asked for, and the route whose agent makes it.
    fn take_request(
        &mut self,
        now: Instant,
        asked: &OutsideRequest,
    ) -> Result<(Referral, Route), (u16, String)> {
        if self.draining {
            return Err((503, "shutting down".to_owned()));
        }
        let referral = Referral::read(&asked.headers).map_err(|(status, text)| (status, text.to_owned()))?;
        let (to, from) = (user_of(&asked.uri), user_of(&asked.from.uri));
        let header = |name: &str| asked.headers.value(name).map(str::to_owned);
        let chosen = Asked { to: &to, from: &from, source: asked.peer.remote.ip(), header: &header };
        let route = routing::choose(&self.settings.routes, &chosen).cloned();
        let route = route.ok_or_else(|| (404, "no route leads to an agent that could call".to_owned()))?;
        if self.room().0 == 0 {
            return Err((self.settings.busy, "sip.max_calls is reached".to_owned()));
        }
        // Last: what is permitted is counted.
        self.dialling
            .permit(now, &referral.target, DialReason::Refer)
            .map_err(|denied| (403, format!("{} is not called: {denied}", referral.target)))?;
        Ok((referral, route))
    }

    /// `None`: it cannot be told, since it does not say where it is.
    fn listener(&self, request: RequestId, asked: &OutsideRequest) -> Option<Listener> {
        let mut own = NameAddr { display: None, ..asked.to.clone() };
        own.set_tag(self.endpoint.tag_of(request)?);
        let number = asked.headers.cseq().map_or(0, |cseq| cseq.number);
        Some(Listener {
            own,
            theirs: asked.from.clone(),
            target: asked.headers.list("Contact").next().and_then(NameAddr::parse)?.uri,
            call_id: asked.headers.value("Call-ID")?.to_owned(),
            hop: Hop::to(asked.peer.transport, asked.peer.remote, asked.peer.local),
            event: format!("{};id={number}", refer::EVENT),
            number: 0,
            told: 0,
        })
    }

    fn dial_of_request(&self, asked: &OutsideRequest, referral: Referral, route: Route) -> Dial {
        let mut headers: Vec<(String, String)> = Vec::new();
        if let Some(replaces) = &referral.replaces {
            headers.push(("Replaces".to_owned(), replaces.to_string()));
            headers.push(("Require".to_owned(), "replaces".to_owned()));
        }
        if let Some(referrer) = &referral.referred_by {
            headers.push(("Referred-By".to_owned(), referrer.clone()));
        }
        let host = self.settings.advertise.map_or_else(String::new, |address| address.to_string());
        let display = Some(route.display_name).filter(|name| !name.is_empty());
        let own = Uri::sip(&user_of(&asked.uri), &host, None);
        Dial {
            to: referral.target,
            from: NameAddr { display, ..NameAddr::new(own) },
            hops: Vec::new(),
            behaviour: route.behaviour,
            room: route.room,
            media: MediaSettings {
                video: route.video && self.settings.media.video,
                ..self.settings.media.clone()
            },
            ring_timeout: self.settings.ring_timeout,
            headers,
            label: Label { agent: route.agent, ..Label::default() },
            way: Way::default(),
        }
    }

    /// Tells whoever asked for a call how it stands; a final status ends the telling.
    pub(super) fn tell_listener(&mut self, now: Instant, call: CallId, status: u16, text: &str) {
        let Some(listener) = self.listeners.get_mut(&call).filter(|listener| listener.told < status) else {
            return;
        };
        listener.told = status;
        listener.number += 1;
        let over = status >= 200;
        let state = if over { Subscription::Terminated } else { Subscription::Active(Some(SUBSCRIPTION_S)) };
        let notify = Outside {
            method: Method::Notify,
            uri: listener.target.clone(),
            from: listener.own.clone(),
            to: listener.theirs.clone(),
            call_id: Some(listener.call_id.clone()),
            cseq: listener.number,
            hops: vec![listener.hop.clone()],
            headers: vec![
                ("Event".to_owned(), listener.event.clone()),
                ("Subscription-State".to_owned(), state.value()),
            ],
            body: Some(refer::fragment(status, Some(text).filter(|text| !text.is_empty()))),
            credentials: None,
        };
        if over {
            self.listeners.remove(&call);
        }
        self.endpoint.send_outside(now, notify);
    }
}
