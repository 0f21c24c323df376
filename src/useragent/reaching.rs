//! Requests to our users and about them: REGISTER in, and calls out to wherever they registered.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;

use super::registrar::{Registrar, Target};
use super::{Dial, UserAgent};
use crate::call::end::EndReason;
use crate::engine::plan::CallId;
use crate::rtp::reach::Reach;
use crate::sip::digest::Credentials;
use crate::sip::{Hop, Method, OutsideRequest, Response, Uri};

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

    fn take(&mut self, target: Target) -> Hop {
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

    /// Where media of a caller may go. `tls_name`: what its certificate was proven to name.
    pub(super) fn reach(&self, signalling: IpAddr, tls_name: Option<&str>) -> Reach {
        let admission = &self.settings.admission;
        let own = admission.peers().of(signalling, tls_name).map_or(&[][..], |peer| &peer.networks);
        Reach { signalling: Some(signalling), trusted: admission.networks().into(), own: own.into() }
    }

    /// The same of whoever is dialled: any of these places may be the one that answers.
    pub(super) fn reach_of(&self, hops: &[Hop]) -> Reach {
        let Some(first) = hops.first() else { return Reach::default() };
        let peers = self.settings.admission.peers();
        let others = hops.iter().skip(1).flat_map(|hop| {
            let peer = peers.of(hop.remote.ip(), hop.name.as_deref());
            let networks = peer.map_or(&[][..], |peer| &peer.networks);
            networks.iter().copied().chain([IpNet::from(hop.remote.ip())])
        });
        let reach = self.reach(first.remote.ip(), first.name.as_deref());
        Reach { own: reach.own.iter().copied().chain(others).collect(), ..reach }
    }

    /// The call goes to other places from now on.
    pub(super) fn moved(&mut self, now: Instant, call: CallId, hops: &[Hop]) {
        let Some(peer) = hops.first().map(|first| first.remote) else { return };
        let reach = self.reach_of(hops);
        self.step(now, call, |call| call.moved(peer, reach));
    }
}
