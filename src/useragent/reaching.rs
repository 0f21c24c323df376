//! Requests to our users and about them: REGISTER in, and calls out to wherever they registered.

use std::collections::VecDeque;
use std::time::Instant;

use super::registrar::{Registrar, Target};
use super::{Dial, UserAgent};
use crate::call::end::EndReason;
use crate::sip::digest::Credentials;
use crate::sip::{Method, OutsideRequest, Response, Uri};

/// How a call goes out when that is more than its address.
#[derive(Clone, Debug, Default)]
pub struct Way {
    /// The account that is called over.
    pub account: Option<String>,
    /// Proof for whoever asks; of an account: its own.
    pub credentials: Option<Credentials>,
    /// Where it is sent, when not where its address leads: an outbound proxy.
    pub via: Option<Uri>,
    /// The Request-URI, when it is not the address dialled: a Contact.
    pub target: Option<Uri>,
    /// Values of Route.
    pub route: Vec<String>,
    /// Further contacts of the same user, which ring at the same time.
    pub others: VecDeque<Target>,
}

impl Way {
    /// Over an account.
    pub fn over(account: &str) -> Self {
        Way { account: Some(account.to_owned()), ..Way::default() }
    }

    fn take(&mut self, target: Target) -> crate::sip::Hop {
        self.target = Some(target.uri);
        self.route = target.route;
        target.hop
    }
}

impl UserAgent {
    pub fn registrar(&self) -> &Registrar {
        &self.registrar
    }

    /// REGISTER, from whoever proved to be a user.
    pub(super) fn registered(&mut self, now: Instant, asked: &OutsideRequest) -> Response {
        debug_assert_eq!(asked.method, Method::Register);
        match &asked.user {
            Some(user) => self.registrar.register(now, user, asked),
            None => Response { status: 405, ..Response::default() },
        }
    }

    /// Where a call goes before its address is looked up: over its account, or to a user of ours.
    pub(super) fn directed(&self, now: Instant, dial: Dial) -> Result<Dial, EndReason> {
        let rejected = |status, text: String| EndReason::Rejected { status, text };
        let mut dial = self.over_account(dial).map_err(|text| rejected(404, text))?;
        if !dial.hops.is_empty() || dial.way.account.is_some() {
            return Ok(dial);
        }
        let Some(user) = self.registrar.named(&dial.to) else { return Ok(dial) };
        let mut targets: VecDeque<Target> = self.registrar.targets(now, &user.name).into();
        let Some(first) = targets.pop_front() else {
            return Err(rejected(480, format!("{} is not registered", user.name)));
        };
        dial.hops = vec![dial.way.take(first)];
        dial.way.others = targets;
        Ok(dial)
    }
}
