//! Where our users can be reached: the registrar of RFC 3261 §10.3, with Path (RFC 3327) and flows (RFC 5626).
//!
//! Who registers has proven to be that user before it comes here. Bindings live in memory: phones register again within
//! minutes. The way back to a phone is the way its registration came, whatever its Contact says.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use time::macros::format_description;

use crate::base::time::Clock;
use crate::sip::{ConnectionId, Headers, Hop, NameAddr, OutsideRequest, Peer, Response, Uri};

/// Lifetimes granted, in seconds.
const SHORTEST: u64 = 60;
const LONGEST: u64 = 3600;
/// Contacts of one user; a further one takes the place of the oldest.
const MOST_CONTACTS: usize = 8;
/// Contacts in one request.
const MOST_ASKED: usize = 16;
/// Entries of a Path kept.
const MOST_PATH: usize = 8;

/// `[[sip.user]]` as callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub display_name: String,
}

/// Who may register here, and which addresses are ours.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub users: Vec<User>,
    /// Domains of our users: the realm, the appliance's name. The first one stands in addresses we make.
    pub domains: Vec<String>,
    /// Our own addresses; an unspecified one stands for every address of this box that a peer registered at.
    pub listen: Vec<std::net::SocketAddr>,
    /// For the Date that phones set their clocks by.
    pub clock: Option<Clock>,
}

/// One way to a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The Request-URI.
    pub uri: Uri,
    pub hop: Hop,
    /// Values of Route, in order.
    pub route: Vec<String>,
}

#[derive(Clone, Debug)]
struct Binding {
    contact: NameAddr,
    /// RFC 5626: the device and its flow, which outlive addresses.
    instance: Option<(String, String)>,
    path: Vec<String>,
    peer: Peer,
    call_id: String,
    cseq: u32,
    since: Instant,
    until: Instant,
}

/// All bindings.
pub struct Registrar {
    settings: Settings,
    bindings: BTreeMap<String, Vec<Binding>>,
}

impl Registrar {
    pub fn new(settings: Settings) -> Self {
        Registrar { settings, bindings: BTreeMap::new() }
    }

    pub fn has_users(&self) -> bool {
        !self.settings.users.is_empty()
    }

    pub fn user(&self, name: &str) -> Option<&User> {
        self.settings.users.iter().find(|user| user.name == name)
    }

    /// Every user with the contacts that are reachable now and their remaining lifetimes.
    pub fn bindings(&self, now: Instant) -> impl Iterator<Item = (&str, &Uri, Duration)> {
        let live = move |binding: &&Binding| binding.until > now;
        self.bindings.iter().flat_map(move |(name, bindings)| {
            bindings
                .iter()
                .filter(live)
                .map(move |binding| (name.as_str(), &binding.contact.uri, binding.until - now))
        })
    }

    /// The address of a user of ours by name alone.
    pub fn address(&self, name: &str) -> Option<Uri> {
        self.user(name)?;
        let domain =
            self.settings.domains.iter().find(|domain| Uri::parse(&format!("sip:{domain}")).is_some());
        Some(Uri::sip(name, domain.map_or("localhost", String::as_str), None))
    }

    /// The user an address of ours names. `None`: it is somebody else's address, or names nobody.
    pub fn named(&self, uri: &Uri) -> Option<&User> {
        self.user(&uri.user_decoded()?).filter(|_| self.is_ours(uri))
    }

    fn is_ours(&self, uri: &Uri) -> bool {
        if self.settings.domains.iter().any(|domain| domain.eq_ignore_ascii_case(&uri.host)) {
            return true;
        }
        let Some(ip) = uri.host_ip() else { return false };
        let port = uri.port.unwrap_or(5060);
        self.settings.listen.iter().any(|listen| {
            let reached = || self.bindings.values().flatten().any(|binding| binding.peer.local.ip() == ip);
            let this_box =
                listen.ip() == ip || (listen.ip().is_unspecified() && (ip.is_loopback() || reached()));
            listen.port() == port && this_box
        })
    }

    /// The ways to a user, the one registered last first.
    pub fn targets(&self, now: Instant, name: &str) -> Vec<Target> {
        let mut live: Vec<&Binding> =
            self.bindings.get(name).into_iter().flatten().filter(|binding| binding.until > now).collect();
        live.sort_by_key(|binding| std::cmp::Reverse(binding.since));
        let target = |binding: &Binding| Target {
            uri: binding.contact.uri.clone(),
            hop: Hop::to(binding.peer.transport, binding.peer.remote, binding.peer.local),
            route: binding.path.clone(),
        };
        live.into_iter().map(target).collect()
    }

    /// A stream is gone, and with it the only way to what registered over it.
    pub fn forget_connection(&mut self, connection: ConnectionId) {
        for (user, bindings) in &mut self.bindings {
            let before = bindings.len();
            bindings.retain(|binding| binding.peer.connection != Some(connection));
            if bindings.len() < before {
                tracing::info!(%user, "unregistered: its connection closed");
            }
        }
    }

    /// A REGISTER of `user`, who has proven to be it.
    pub fn register(&mut self, now: Instant, user: &str, asked: &OutsideRequest) -> Response {
        if self.user(user).is_none() || asked.to.uri.user_decoded().is_none_or(|name| name != user) {
            return refusal(403, "Not Your Address");
        }
        let mut bindings = self.bindings.get(user).cloned().unwrap_or_default();
        bindings.retain(|binding| binding.until > now);
        let before = bindings.len();
        if let Err(refused) = apply(now, &mut bindings, asked) {
            return refused;
        }
        if bindings.len() != before {
            tracing::info!(%user, contacts = bindings.len(), from = %asked.peer.remote, "registered");
        }
        let response = self.listing(now, &bindings, asked);
        self.bindings.insert(user.to_owned(), bindings);
        response
    }

    /// 200 with every binding (RFC 3261 §10.3 step 8).
    fn listing(&self, now: Instant, bindings: &[Binding], asked: &OutsideRequest) -> Response {
        let mut headers: Vec<(String, String)> = Vec::new();
        let mut add = |name: &str, value: String| headers.push((name.to_owned(), value));
        for binding in bindings {
            let mut contact = binding.contact.clone();
            contact.parameters.retain(|(name, _)| !name.eq_ignore_ascii_case("expires"));
            let left = (binding.until - now).as_millis().div_ceil(1000).to_string();
            contact.parameters.push(("expires".to_owned(), Some(left)));
            add("Contact", contact.to_string());
        }
        let supports =
            |tag: &str| asked.headers.list("Supported").any(|known| known.eq_ignore_ascii_case(tag));
        let path: Vec<&str> = asked.headers.values("Path").take(MOST_PATH).collect();
        if supports("path") {
            path.iter().for_each(|value| add("Path", (*value).to_owned()));
        }
        let flows = bindings.iter().any(|binding| binding.instance.is_some());
        if flows && supports("outbound") && asked.peer.connection.is_some() {
            add("Require", "outbound".to_owned());
        }
        add("Supported", "path, outbound".to_owned());
        if let Some(date) = self.settings.clock.and_then(|clock| date(clock, now)) {
            add("Date", date);
        }
        Response { status: 200, headers, ..Response::default() }
    }
}

fn refusal(status: u16, reason: &str) -> Response {
    Response { status, reason: Some(reason.to_owned()), ..Response::default() }
}

/// What one REGISTER changes: all of it, or an answer that says why nothing (RFC 3261 §10.3 steps 6 and 7).
fn apply(now: Instant, bindings: &mut Vec<Binding>, asked: &OutsideRequest) -> Result<(), Response> {
    let contacts: Vec<&str> = asked.headers.list("Contact").take(MOST_ASKED + 1).collect();
    let cseq = asked.headers.cseq().map_or(0, |cseq| cseq.number);
    let call_id = asked.headers.call_id().unwrap_or_default();
    if contacts.len() > MOST_ASKED {
        return Err(refusal(400, "Too Many Contacts"));
    }
    let old = |binding: &Binding| binding.call_id == call_id && cseq <= binding.cseq;
    if contacts.contains(&"*") {
        let all = contacts.len() == 1 && lifetime_in(&asked.headers) == Some(0);
        if !all {
            return Err(refusal(400, "Contact * Stands Alone With Expires 0"));
        }
        if bindings.iter().any(old) {
            return Err(refusal(500, "CSeq Is Not Higher"));
        }
        bindings.clear();
        return Ok(());
    }
    for text in contacts {
        let contact = NameAddr::parse(text).filter(|contact| contact.uri.is_sip());
        let Some(contact) = contact else { return Err(refusal(400, "Unreadable Contact")) };
        let own = contact.parameter("expires").flatten().and_then(|text| text.parse::<u64>().ok());
        let seconds = own.or_else(|| lifetime_in(&asked.headers)).unwrap_or(LONGEST);
        if (1..SHORTEST).contains(&seconds) {
            let headers = vec![("Min-Expires".to_owned(), SHORTEST.to_string())];
            return Err(Response { status: 423, headers, ..Response::default() });
        }
        let instance = instance_of(&contact);
        let known = |binding: &Binding| match (&instance, &binding.instance) {
            (Some(ours), Some(theirs)) => ours == theirs,
            (None, _) | (_, None) => is_same(&contact.uri, &binding.contact.uri),
        };
        if bindings.iter().any(|binding| known(binding) && old(binding)) {
            return Err(refusal(500, "CSeq Is Not Higher"));
        }
        bindings.retain(|binding| !known(binding));
        if seconds == 0 {
            continue;
        }
        if bindings.len() >= MOST_CONTACTS
            && let Some(oldest) = (0..bindings.len()).min_by_key(|at| bindings[*at].since)
        {
            bindings.remove(oldest);
        }
        let path = asked.headers.list("Path").take(MOST_PATH).map(str::to_owned).collect();
        let until = now + Duration::from_secs(seconds.min(LONGEST));
        let (peer, call_id) = (asked.peer, call_id.to_owned());
        bindings.push(Binding { contact, instance, path, peer, call_id, cseq, since: now, until });
    }
    Ok(())
}

fn lifetime_in(headers: &Headers) -> Option<u64> {
    headers.value("Expires").and_then(|text| text.trim().parse().ok())
}

fn instance_of(contact: &NameAddr) -> Option<(String, String)> {
    let of = |name: &str| contact.parameter(name).flatten().map(str::to_owned);
    Some((of("+sip.instance")?, of("reg-id")?))
}

/// RFC 3261 §19.1.4 as far as it tells contacts apart.
fn is_same(one: &Uri, other: &Uri) -> bool {
    let transport = |uri: &Uri| uri.transport().unwrap_or("udp").to_ascii_lowercase();
    one.scheme == other.scheme
        && one.user_decoded() == other.user_decoded()
        && one.host == other.host
        && one.port == other.port
        && transport(one) == transport(other)
}

/// RFC 3261 §20.17.
fn date(clock: Clock, now: Instant) -> Option<String> {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    OffsetDateTime::from(clock.wall(now)).format(format).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "virtual time starts at a real instant")]

    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::sip::{Method, Transport};

    struct Office {
        now: Instant,
        registrar: Registrar,
        cseq: u32,
    }

    fn peer(remote: &str, connection: Option<u64>) -> Peer {
        let transport = if connection.is_some() { Transport::Tcp } else { Transport::Udp };
        let local = "192.0.2.1:5060".parse().unwrap();
        Peer { transport, local, remote: remote.parse().unwrap(), connection: connection.map(ConnectionId) }
    }

    impl Office {
        fn new() -> Self {
            let now = Instant::now();
            let user = |name: &str| User { name: name.to_owned(), display_name: String::new() };
            let settings = Settings {
                users: vec![user("door1"), user("door2")],
                domains: vec!["eyeline".to_owned()],
                listen: vec!["0.0.0.0:5060".parse().unwrap()],
                clock: Some(Clock::new(now, UNIX_EPOCH)),
            };
            Office { now, registrar: Registrar::new(settings), cseq: 0 }
        }

        fn asked(&mut self, peer: Peer, lines: &[(&str, &str)]) -> OutsideRequest {
            self.cseq += 1;
            let mut headers = Headers::new();
            headers.push("Call-ID", "c1");
            headers.push("CSeq", format!("{} REGISTER", self.cseq));
            for (name, value) in lines {
                headers.push(name, *value);
            }
            let address = NameAddr::parse("<sip:door1@eyeline>").unwrap();
            OutsideRequest {
                peer,
                user: Some("door1".to_owned()),
                method: Method::Register,
                uri: Uri::parse("sip:eyeline").unwrap(),
                from: address.clone(),
                to: address,
                headers,
                body: None,
            }
        }

        fn register(&mut self, remote: &str, lines: &[(&str, &str)]) -> Response {
            let asked = self.asked(peer(remote, None), lines);
            self.registrar.register(self.now, "door1", &asked)
        }

        fn targets(&self) -> Vec<String> {
            let targets = self.registrar.targets(self.now, "door1");
            targets.iter().map(|target| format!("{} {}", target.uri, target.hop.remote)).collect()
        }
    }

    fn values<'a>(response: &'a Response, name: &str) -> Vec<&'a str> {
        let found = response.headers.iter().filter(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).collect()
    }

    #[test]
    fn a_phone_is_reached_where_its_registration_came_from() {
        let mut office = Office::new();
        let response =
            office.register("203.0.113.9:41000", &[("Contact", "<sip:door1@10.0.0.9>;expires=120")]);
        assert_eq!(response.status, 200);
        assert_eq!(values(&response, "Contact"), ["<sip:door1@10.0.0.9>;expires=120"]);
        assert_eq!(values(&response, "Date"), ["Thu, 01 Jan 1970 00:00:00 GMT"]);
        assert_eq!(office.targets(), ["sip:door1@10.0.0.9 203.0.113.9:41000"]);
        office.now += Duration::from_secs(50);
        let response = office.register("203.0.113.9:41000", &[]);
        assert_eq!(
            values(&response, "Contact"),
            ["<sip:door1@10.0.0.9>;expires=70"],
            "a query changes nothing"
        );
        office.now += Duration::from_secs(71);
        assert!(office.targets().is_empty());
        assert_eq!(office.registrar.bindings(office.now).count(), 0);
    }

    #[test]
    fn lifetimes_have_bounds() {
        let mut office = Office::new();
        let brief =
            office.register("10.0.0.9:5060", &[("Contact", "<sip:door1@10.0.0.9>"), ("Expires", "30")]);
        assert_eq!((brief.status, values(&brief, "Min-Expires")), (423, vec!["60"]));
        let long =
            office.register("10.0.0.9:5060", &[("Contact", "<sip:door1@10.0.0.9>"), ("Expires", "86400")]);
        assert_eq!(values(&long, "Contact"), ["<sip:door1@10.0.0.9>;expires=3600"]);
        let odd = office.register("10.0.0.9:5060", &[("Contact", "<sip:door1@10.0.0.9>;expires=soon")]);
        assert_eq!(values(&odd, "Contact"), ["<sip:door1@10.0.0.9>;expires=3600"]);
    }

    #[test]
    fn contacts_are_listed_newest_first_bounded_and_removed() {
        let mut office = Office::new();
        for number in 1..=10 {
            office.now += Duration::from_secs(1);
            let contact = format!("<sip:door1@10.0.0.{number}>");
            office.register(&format!("10.0.0.{number}:5060"), &[("Contact", &contact)]);
        }
        let targets = office.targets();
        assert_eq!(targets.len(), MOST_CONTACTS);
        assert!(targets[0].starts_with("sip:door1@10.0.0.10 "), "{targets:?}");
        office.register("10.0.0.10:5060", &[("Contact", "<sip:door1@10.0.0.10>;expires=0")]);
        assert_eq!(office.targets().len(), MOST_CONTACTS - 1);
        let wrong = office.register("10.0.0.10:5060", &[("Contact", "*")]);
        assert_eq!(wrong.status, 400);
        let all = office.register("10.0.0.10:5060", &[("Contact", "*"), ("Expires", "0")]);
        assert_eq!(all.status, 200);
        assert!(office.targets().is_empty() && values(&all, "Contact").is_empty());
    }

    #[test]
    fn an_instance_replaces_its_old_address_and_old_requests_change_nothing() {
        let mut office = Office::new();
        let contact = |host: &str| format!("<sip:door1@{host}>;+sip.instance=\"<urn:uuid:1>\";reg-id=1");
        office.register("10.0.0.9:5060", &[("Contact", &contact("10.0.0.9"))]);
        office.register("10.0.0.8:5060", &[("Contact", &contact("10.0.0.8"))]);
        assert_eq!(office.targets(), ["sip:door1@10.0.0.8 10.0.0.8:5060"]);
        office.cseq = 0;
        let old = office.register("10.0.0.9:5060", &[("Contact", &contact("10.0.0.9"))]);
        assert_eq!(old.status, 500);
        assert_eq!(office.targets(), ["sip:door1@10.0.0.8 10.0.0.8:5060"]);
    }

    #[test]
    fn a_binding_ends_with_its_stream_and_a_path_leads_back() {
        let mut office = Office::new();
        let lines = [
            ("Contact", "<sip:door1@10.0.0.9;transport=tcp>;+sip.instance=\"<urn:uuid:1>\";reg-id=1"),
            ("Path", "<sip:edge1;lr>, <sip:edge2;lr>"),
            ("Supported", "path, outbound"),
        ];
        let asked = office.asked(peer("10.0.0.9:40001", Some(7)), &lines);
        let response = office.registrar.register(office.now, "door1", &asked);
        assert_eq!(values(&response, "Path"), ["<sip:edge1;lr>, <sip:edge2;lr>"]);
        assert_eq!(values(&response, "Require"), ["outbound"]);
        let target = &office.registrar.targets(office.now, "door1")[0];
        assert_eq!(target.route, ["<sip:edge1;lr>", "<sip:edge2;lr>"]);
        assert_eq!(target.hop.transport, Transport::Tcp);
        office.registrar.forget_connection(ConnectionId(8));
        assert_eq!(office.targets().len(), 1);
        office.registrar.forget_connection(ConnectionId(7));
        assert!(office.targets().is_empty());
    }

    #[test]
    fn nobody_registers_another_ones_address() {
        let mut office = Office::new();
        let asked = office.asked(peer("10.0.0.9:5060", None), &[("Contact", "<sip:door1@10.0.0.9>")]);
        assert_eq!(office.registrar.register(office.now, "door2", &asked).status, 403);
        assert!(office.targets().is_empty());
        let strange = office.register("10.0.0.9:5060", &[("Contact", "<tel:+4930>")]);
        assert_eq!(strange.status, 400);
    }

    #[test]
    fn addresses_of_ours_are_told_from_those_of_others() {
        let office = Office::new();
        let named = |text: &str| office.registrar.named(&Uri::parse(text).unwrap()).is_some();
        assert!(named("sip:door1@EYELINE") && named("sip:door1@127.0.0.1:5060"));
        assert!(!named("sip:door3@eyeline") && !named("sip:door1@example.com"));
        assert!(!named("sip:door1@127.0.0.1:5070"), "a phone on this box");
        assert_eq!(office.registrar.address("door2").unwrap().to_string(), "sip:door2@eyeline");
        assert_eq!(office.registrar.address("door3"), None);
    }
}
