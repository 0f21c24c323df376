//! Our accounts at registrars: one `Registrant` each, the messages it wants, and what calls over an account carry.
//!
//! When to ask is `sip::register`'s; here its wishes become requests of the endpoint.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::terms::Terms;
use super::{Dial, Do, UserAgent};
use crate::call::negotiate::{KeyOffer, SrtpPolicy};
use crate::sip::digest::Credentials;
use crate::sip::register::{self, Registrant, State};
use crate::sip::{Headers, Hop, Method, NameAddr, Outside, RequestId, ResolveId, Transport, Uri};

/// `[[sip.account]]`.
#[derive(Clone)]
pub struct Account {
    pub name: String,
    pub registrar: Uri,
    pub username: String,
    pub password: String,
    /// The only realm that gets the credentials. `None`: the first the registrar names, then kept.
    pub realm: Option<String>,
    pub display_name: String,
    pub expires: Duration,
    pub outbound_proxy: Option<Uri>,
    /// `urn:uuid:…`, the same after every start (RFC 5626 §4.1).
    pub instance: String,
    /// `None`: what holds for everybody.
    pub srtp: Option<SrtpPolicy>,
    pub key_offer: Option<KeyOffer>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Account").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One account at work.
struct Held {
    account: Account,
    registrant: Registrant,
    /// The realm that took our credentials.
    realm: Option<String>,
    resolving: Option<ResolveId>,
    asking: Option<(RequestId, Uri)>,
}

/// All accounts.
#[derive(Default)]
pub(super) struct Accounts {
    held: Vec<Held>,
}

impl Accounts {
    /// Whether an address is one an account is registered at: what it sends is wanted.
    pub fn knows(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.held
            .iter()
            .any(|held| held.registrant.hop().is_some_and(|hop| hop.remote.ip().to_canonical() == source))
    }

    /// What an account says of the media of calls over it.
    pub fn terms(&self, name: &str) -> Option<Terms> {
        self.held.iter().find(|held| held.account.name == name).map(Held::terms)
    }

    /// The same of a call that comes from where an account is registered, for its user if several are.
    pub fn terms_of_caller(&self, source: IpAddr, user: &str) -> Option<Terms> {
        let source = source.to_canonical();
        let there =
            |held: &&Held| held.registrant.hop().is_some_and(|hop| hop.remote.ip().to_canonical() == source);
        let named = |held: &&Held| held.account.username == user;
        let mut all = self.held.iter().filter(there);
        all.clone().find(named).or_else(|| all.next()).map(Held::terms)
    }

    pub fn states(&self) -> impl Iterator<Item = (&str, &State)> {
        self.held.iter().map(|held| (held.account.name.as_str(), held.registrant.state()))
    }

    pub fn are_gone(&self) -> bool {
        self.held.iter().all(|held| held.registrant.is_gone())
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.held.iter().filter_map(|held| held.registrant.wake_at()).min()
    }

    pub fn handle_time(&mut self, now: Instant) {
        for held in &mut self.held {
            if held.registrant.wake_at().is_some_and(|at| at <= now) {
                held.registrant.handle_time(now);
            }
        }
    }

    /// `true`: an account had asked.
    pub fn handle_resolved(&mut self, now: Instant, id: ResolveId, found: &Result<Vec<Hop>, String>) -> bool {
        let Some(held) = self.held.iter_mut().find(|held| held.resolving == Some(id)) else { return false };
        held.resolving = None;
        held.registrant.handle_hops(now, found.clone().unwrap_or_default());
        true
    }

    /// `realm`: the one that asked for proof and took ours.
    pub fn handle_answer(
        &mut self,
        now: Instant,
        request: RequestId,
        (status, reason): (u16, &str),
        headers: &Headers,
        realm: Option<String>,
    ) {
        let asked = |held: &&mut Held| held.asking.as_ref().is_some_and(|(id, _)| *id == request);
        let Some(held) = self.held.iter_mut().find(asked) else { return };
        let Some((_, contact)) = held.asking.take() else { return };
        if status / 100 == 2 && held.realm.is_none() {
            held.realm = realm;
        }
        held.registrant.handle_answer(now, &contact, status, reason, headers);
    }

    pub fn handle_flow_lost(&mut self, now: Instant, transport: Transport, remote: SocketAddr) {
        for held in &mut self.held {
            let over = |hop: &Hop| hop.transport == transport && hop.remote == remote;
            if held.registrant.hop().is_some_and(over) {
                held.registrant.handle_flow_lost(now);
            }
        }
    }

    pub fn leave(&mut self, now: Instant) {
        self.held.iter_mut().for_each(|held| held.registrant.leave(now));
    }
}

impl Held {
    fn new(now: Instant, account: Account, seed: [u8; 32]) -> Self {
        let registrant = Registrant::new(now, account.expires, seed);
        let realm = account.realm.clone();
        Held { account, registrant, realm, resolving: None, asking: None }
    }

    fn terms(&self) -> Terms {
        Terms { srtp: self.account.srtp, key_offer: self.account.key_offer, ice: false }
    }

    /// Our address there.
    fn address(&self) -> NameAddr {
        let Account { registrar, username, display_name, .. } = &self.account;
        let mut address = NameAddr::new(Uri::sip(username, &registrar.host, registrar.port));
        address.uri.scheme = registrar.scheme.clone();
        address.display = (!display_name.is_empty()).then(|| display_name.clone());
        address
    }

    fn credentials(&self) -> Credentials {
        let Account { username, password, .. } = &self.account;
        let realms = self.realm.clone().into_iter().collect();
        Credentials { username: username.clone(), password: password.clone(), realms }
    }

    fn route(&self) -> Option<String> {
        let mut proxy = self.account.outbound_proxy.clone()?;
        if !proxy.is_loose() {
            proxy.parameters.push(("lr".to_owned(), None));
        }
        Some(format!("<{proxy}>"))
    }

    fn request(&self, contact: &Uri, call_id: String, cseq: u32, expires: u64, hop: Hop) -> Outside {
        let Account { registrar, instance, .. } = &self.account;
        let own = NameAddr { display: None, ..self.address() };
        let bound = format!("<{contact}>;+sip.instance=\"<{instance}>\";reg-id=1;expires={expires}");
        let mut headers = vec![
            ("Contact".to_owned(), bound),
            ("Expires".to_owned(), expires.to_string()),
            ("Supported".to_owned(), "path, outbound".to_owned()),
        ];
        headers.extend(self.route().map(|route| ("Route".to_owned(), route)));
        Outside {
            method: Method::Register,
            uri: Uri { user: None, password: None, headers: None, ..registrar.clone() },
            from: self.address(),
            to: own,
            call_id: Some(call_id),
            cseq,
            hops: vec![hop],
            headers,
            body: None,
            credentials: Some(self.credentials()),
        }
    }
}

impl UserAgent {
    /// Begins to register the accounts.
    pub fn register_accounts(&mut self, now: Instant) {
        let mut rng = StdRng::from_seed(self.account_seed);
        for account in std::mem::take(&mut self.settings.accounts) {
            let mut seed = [0; 32];
            rng.fill_bytes(&mut seed);
            self.accounts.held.push(Held::new(now, account, seed));
        }
        self.accounts.handle_time(now);
        self.settle(now);
    }

    /// Every account by name, and how it stands.
    pub fn registrations(&self) -> impl Iterator<Item = (&str, &State)> {
        self.accounts.states()
    }

    /// Carries out what the registrants want.
    pub(super) fn tend_accounts(&mut self, now: Instant) {
        for at in 0..self.accounts.held.len() {
            while let Some(wanted) = self.accounts.held[at].registrant.poll() {
                self.for_account(now, at, wanted);
            }
        }
    }

    fn for_account(&mut self, now: Instant, at: usize, wanted: register::Do) {
        let Some(held) = self.accounts.held.get_mut(at) else { return };
        match wanted {
            register::Do::Resolve => {
                let Account { registrar, outbound_proxy, .. } = &held.account;
                let uri = outbound_proxy.as_ref().unwrap_or(registrar).clone();
                held.resolving = Some(self.endpoint.resolve(uri));
            }
            register::Do::Ask { hop, call_id, cseq, expires } => {
                let host = self.settings.advertise.unwrap_or(hop.local.ip()).to_string();
                let contact = register::contact(&held.account.username, &host, &hop);
                let request = held.request(&contact, call_id, cseq, expires, hop);
                held.asking = Some((self.endpoint.send_outside(now, request), contact));
            }
            register::Do::KeepAlive(hop) => self.endpoint.keep_alive(&hop),
            register::Do::Tell(state) => {
                let account = held.account.name.clone();
                self.out.push_back(Do::Registration { account, state });
            }
        }
    }

    /// Fills in what a call over an account carries: who calls, with which proof, over which way.
    pub(super) fn over_account(&self, mut dial: Dial) -> Result<Dial, String> {
        let Some(name) = &dial.way.account else { return Ok(dial) };
        let held = self.accounts.held.iter().find(|held| held.account.name == *name);
        let Some(held) = held else { return Err(format!("there is no account {name}")) };
        dial.from = held.address();
        // Without a realm to hold on to, nobody gets anything to guess the password with.
        dial.way.credentials = held.realm.is_some().then(|| held.credentials());
        dial.way.route.extend(held.route());
        let Account { registrar, outbound_proxy, .. } = &held.account;
        let there = dial.to.host == registrar.host && dial.to.port == registrar.port;
        if dial.hops.is_empty() && (outbound_proxy.is_some() || there) {
            dial.way.via = Some(outbound_proxy.as_ref().unwrap_or(registrar).clone());
            if held.registrant.state().is_registered() {
                dial.hops.extend(held.registrant.hop().cloned());
            }
        }
        Ok(dial)
    }
}
