//! Where a URI leads: transport, addresses and their order, RFC 3263 §4 with RFC 2782 (SRV) and RFC 3403 (NAPTR).
//!
//! A function of what DNS has said so far: [`locate`] either knows the places or says what it needs to know next. Asking
//! DNS, its caches and its failures belong to the driver.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::endpoint::{MOST_HOPS, Transport};
use super::uri::{Scheme, Uri};

/// Records of one answer that are looked at.
const MOST_RECORDS: usize = 16;

/// What is asked of DNS; names without the last dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    Naptr(String),
    Srv(String),
    /// A and AAAA.
    Addresses(String),
}

/// What DNS said; empty: there is no such record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Naptr(Vec<Naptr>),
    Srv(Vec<Srv>),
    Addresses(Vec<IpAddr>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naptr {
    pub order: u16,
    pub preference: u16,
    pub flags: String,
    pub service: String,
    pub replacement: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    pub target: String,
}

/// A transport and an address to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub transport: Transport,
    pub remote: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// Best first; never empty, never more than [`MOST_HOPS`].
    Places(Vec<Place>),
    /// These must be known first.
    Ask(Vec<Question>),
    /// The URI leads nowhere, and what to do about it.
    Nowhere(String),
}

/// The places of a URI by what DNS has `known` to say. `seed` decides between SRV records of one priority; the same
/// seed with more known answers continues the same search.
pub fn locate(uri: &Uri, known: &HashMap<Question, Answer>, seed: u64) -> Located {
    let secure = match &uri.scheme {
        Scheme::Sip => false,
        Scheme::Sips => true,
        Scheme::Other(scheme) => {
            return Located::Nowhere(format!("a {scheme}: URI says no host: write sip:USER@HOST"));
        }
    };
    let asked = match asked_transport(uri, secure) {
        Ok(asked) => asked,
        Err(why) => return Located::Nowhere(why),
    };
    let host = uri.parameter("maddr").flatten().unwrap_or(&uri.host);
    let plain = if secure { Transport::Tls } else { Transport::Udp };
    let mut search = Search { known, rng: StdRng::seed_from_u64(seed), missing: Vec::new() };
    let host_ip = super::uri::host_ip(host);
    if let Some(ip) = host_ip {
        let transport = asked.unwrap_or(plain);
        let remote = SocketAddr::new(ip, uri.port.unwrap_or(transport.default_port()));
        return Located::Places(vec![Place { transport, remote }]);
    }
    // RFC 7118 §5 and names that RFC 6761 gives to nobody.
    if host.ends_with(".invalid") {
        return Located::Nowhere(format!(
            "{host} is a name without an address: it is reached on its own connection"
        ));
    }
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let places = match uri.port {
        Some(port) => search.addresses(&host, asked.unwrap_or(plain), port),
        None => search.by_records(&host, asked, secure),
    };
    if !search.missing.is_empty() {
        return Located::Ask(search.missing);
    }
    if places.is_empty() {
        return Located::Nowhere(format!("{host} has no address: check the name or write the IP address"));
    }
    Located::Places(places)
}

/// The transport the URI names (RFC 3263 §4.1, RFC 3261 §26.2.2, RFC 7118 §5.2).
fn asked_transport(uri: &Uri, secure: bool) -> Result<Option<Transport>, String> {
    let Some(name) = uri.transport() else { return Ok(None) };
    let Some(transport) = Transport::of_parameter(name) else {
        return Err(format!("transport={name} is not spoken here: use udp, tcp, tls, ws or wss"));
    };
    match (transport, secure) {
        (Transport::Udp, true) => Err("sips: needs TLS, and transport=udp is none: leave it out".to_owned()),
        (Transport::Tcp, true) => Ok(Some(Transport::Tls)),
        (Transport::Ws, true) => Ok(Some(Transport::Wss)),
        (transport, _) => Ok(Some(transport)),
    }
}

/// One pass over what is known, collecting what is not.
struct Search<'a> {
    known: &'a HashMap<Question, Answer>,
    rng: StdRng,
    missing: Vec<Question>,
}

impl Search<'_> {
    /// NAPTR, then SRV, then addresses at the default port.
    fn by_records(&mut self, host: &str, asked: Option<Transport>, secure: bool) -> Vec<Place> {
        let services = match asked {
            Some(transport) => {
                service_of(transport, host).map(|name| (transport, name)).into_iter().collect()
            }
            None => match self.services(host, secure) {
                Some(services) => services,
                None => return Vec::new(),
            },
        };
        let mut places = Vec::new();
        let mut any_record = false;
        for (transport, name) in services {
            let Some(records) = self.srv(&name) else { continue };
            any_record |= !records.is_empty();
            for record in records {
                // RFC 2782: a single dot says that the service is not here.
                let target = record.target.trim_end_matches('.').to_ascii_lowercase();
                if !target.is_empty() {
                    places.extend(self.addresses(&target, transport, record.port));
                }
            }
        }
        if !any_record && self.missing.is_empty() {
            let transport = asked.unwrap_or(if secure { Transport::Tls } else { Transport::Udp });
            places = self.addresses(host, transport, transport.default_port());
        }
        places.truncate(MOST_HOPS);
        places
    }

    /// Transports with the names of their SRV records, best first. `None`: not known yet.
    fn services(&mut self, host: &str, secure: bool) -> Option<Vec<(Transport, String)>> {
        let question = Question::Naptr(host.to_owned());
        let Some(answer) = self.known.get(&question) else {
            self.missing.push(question);
            return None;
        };
        let mut records: Vec<&Naptr> = match answer {
            Answer::Naptr(records) => records.iter().take(MOST_RECORDS).collect(),
            Answer::Srv(_) | Answer::Addresses(_) => Vec::new(),
        };
        records.sort_by_key(|record| (record.order, record.preference));
        let found: Vec<(Transport, String)> = records
            .into_iter()
            .filter(|record| record.flags.eq_ignore_ascii_case("s"))
            .filter_map(|record| {
                let transport = transport_of_service(&record.service)?;
                let name = record.replacement.trim_end_matches('.').to_ascii_lowercase();
                (!name.is_empty() && (!secure || transport.is_secure())).then_some((transport, name))
            })
            .collect();
        if !found.is_empty() {
            return Some(found);
        }
        let all = [Transport::Udp, Transport::Tcp, Transport::Tls];
        let ours = all.into_iter().filter(|transport| !secure || transport.is_secure());
        Some(ours.filter_map(|transport| service_of(transport, host).map(|name| (transport, name))).collect())
    }

    /// SRV records in the order in which they are tried.
    fn srv(&mut self, name: &str) -> Option<Vec<Srv>> {
        let question = Question::Srv(name.to_owned());
        match self.known.get(&question) {
            None => {
                self.missing.push(question);
                None
            }
            Some(Answer::Srv(records)) => Some(self.ordered(records)),
            Some(Answer::Naptr(_) | Answer::Addresses(_)) => Some(Vec::new()),
        }
    }

    /// RFC 2782: by priority, and by chance in proportion to the weight within one.
    fn ordered(&mut self, records: &[Srv]) -> Vec<Srv> {
        let mut left: Vec<Srv> = records.iter().take(MOST_RECORDS).cloned().collect();
        // Those of weight 0 first, as the algorithm wants, and the same order whatever order DNS gave them in.
        left.sort_by(|a, b| {
            (a.priority, a.weight, &a.target, a.port).cmp(&(b.priority, b.weight, &b.target, b.port))
        });
        let mut ordered = Vec::with_capacity(left.len());
        while let Some(priority) = left.first().map(|record| record.priority) {
            let same = left.iter().take_while(|record| record.priority == priority).count();
            let total: u32 = left.iter().take(same).map(|record| u32::from(record.weight)).sum();
            let drawn = self.rng.random_range(0..=total);
            let mut sum = 0;
            let chosen = left.iter().take(same).position(|record| {
                sum += u32::from(record.weight);
                sum >= drawn
            });
            ordered.push(left.remove(chosen.unwrap_or(0)));
        }
        ordered
    }

    /// IPv4 before IPv6: where both lead to one telephone, its media more often works over the older.
    fn addresses(&mut self, name: &str, transport: Transport, port: u16) -> Vec<Place> {
        if let Ok(ip) = name.parse() {
            return vec![Place { transport, remote: SocketAddr::new(ip, port) }];
        }
        let question = Question::Addresses(name.to_owned());
        match self.known.get(&question) {
            None => {
                if !self.missing.contains(&question) {
                    self.missing.push(question);
                }
                Vec::new()
            }
            Some(Answer::Addresses(found)) => {
                let mut found: Vec<IpAddr> = found.iter().take(MOST_RECORDS).copied().collect();
                found.sort_by_key(IpAddr::is_ipv6);
                let place = |ip| Place { transport, remote: SocketAddr::new(ip, port) };
                found.into_iter().map(place).collect()
            }
            Some(Answer::Naptr(_) | Answer::Srv(_)) => Vec::new(),
        }
    }
}

/// The SRV name of a transport (RFC 3263 §4.1); WebSockets have none of their own in use.
fn service_of(transport: Transport, host: &str) -> Option<String> {
    match transport {
        Transport::Udp => Some(format!("_sip._udp.{host}")),
        Transport::Tcp => Some(format!("_sip._tcp.{host}")),
        Transport::Tls => Some(format!("_sips._tcp.{host}")),
        Transport::Ws | Transport::Wss => None,
    }
}

fn transport_of_service(service: &str) -> Option<Transport> {
    let known = [
        ("SIP+D2U", Transport::Udp),
        ("SIP+D2T", Transport::Tcp),
        ("SIPS+D2T", Transport::Tls),
        ("SIP+D2W", Transport::Ws),
        ("SIPS+D2W", Transport::Wss),
    ];
    known.iter().find(|(name, _)| name.eq_ignore_ascii_case(service)).map(|(_, transport)| *transport)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tiny zone: `NAPTR|SRV|A name = values`, one a line.
    fn zone(text: &str) -> HashMap<Question, Answer> {
        let mut known: HashMap<Question, Answer> = HashMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |at: usize| words[at].parse().unwrap();
            let name = words[1].to_owned();
            match words[0] {
                "NAPTR" => {
                    let Answer::Naptr(all) =
                        known.entry(Question::Naptr(name)).or_insert(Answer::Naptr(Vec::new()))
                    else {
                        panic!()
                    };
                    all.push(Naptr {
                        order: number(2),
                        preference: number(3),
                        flags: words[4].to_owned(),
                        service: words[5].to_owned(),
                        replacement: words[6].to_owned(),
                    });
                }
                "SRV" => {
                    let Answer::Srv(all) =
                        known.entry(Question::Srv(name)).or_insert(Answer::Srv(Vec::new()))
                    else {
                        panic!()
                    };
                    let target = words[5].to_owned();
                    all.push(Srv { priority: number(2), weight: number(3), port: number(4), target });
                }
                _ => {
                    let addresses = words[2..].iter().map(|ip| ip.parse().unwrap()).collect();
                    known.insert(Question::Addresses(name), Answer::Addresses(addresses));
                }
            }
        }
        known
    }

    /// Asks the zone until it knows; what is not in it does not exist. Also counts the rounds.
    fn found(uri: &str, text: &str, seed: u64) -> (Result<Vec<String>, String>, usize) {
        let (zone, uri) = (zone(text), Uri::parse(uri).unwrap());
        let mut known = HashMap::new();
        for round in 0..5 {
            match locate(&uri, &known, seed) {
                Located::Places(places) => {
                    let shown = |place: &Place| format!("{} {}", place.transport.name(), place.remote);
                    return (Ok(places.iter().map(shown).collect()), round);
                }
                Located::Nowhere(why) => return (Err(why), round),
                Located::Ask(questions) => {
                    assert!(!questions.is_empty());
                    for question in questions {
                        let none = match &question {
                            Question::Naptr(_) => Answer::Naptr(Vec::new()),
                            Question::Srv(_) => Answer::Srv(Vec::new()),
                            Question::Addresses(_) => Answer::Addresses(Vec::new()),
                        };
                        let answer = zone.get(&question).cloned().unwrap_or(none);
                        assert_eq!(known.insert(question.clone(), answer), None, "{question:?} asked twice");
                    }
                }
            }
        }
        panic!("{uri} is asked for again and again");
    }

    const EXAMPLE: &str = "
        NAPTR example.com 50 50 s SIPS+D2T _sips._tcp.example.com.
        NAPTR example.com 90 50 s SIP+D2T _sip._tcp.example.com
        NAPTR example.com 100 50 s SIP+D2U _sip._udp.example.com
        NAPTR example.com 10 50 u E2U+sip nobody.example.com
        SRV _sips._tcp.example.com 0 1 5061 a.example.com
        SRV _sip._tcp.example.com 0 1 5060 a.example.com
        SRV _sip._udp.example.com 1 0 5070 b.example.com
        SRV _sip._udp.example.com 0 0 5060 a.example.com
        A a.example.com 2001:db8::1 192.0.2.1
        A b.example.com 192.0.2.2
        A example.com 192.0.2.9
        SRV _sip._udp.srv.example 0 0 5066 b.example.com
        A srv.example 192.0.2.10
        A plain.example 192.0.2.11
        SRV _sip._udp.closed.example 0 0 5060 .
        A closed.example 192.0.2.12
    ";

    #[test]
    fn transports_ports_and_addresses_follow_the_rules() {
        for (uri, expected) in [
            // Numeric: no questions at all.
            ("sip:a@192.0.2.7", "UDP 192.0.2.7:5060"),
            ("sip:a@192.0.2.7:5080;transport=tcp", "TCP 192.0.2.7:5080"),
            ("sip:a@[2001:db8::7]", "UDP [2001:db8::7]:5060"),
            ("sips:a@192.0.2.7", "TLS 192.0.2.7:5061"),
            ("sip:a@192.0.2.7;transport=tls", "TLS 192.0.2.7:5061"),
            ("sips:a@192.0.2.7;transport=tcp", "TLS 192.0.2.7:5061"),
            ("sip:a@192.0.2.7;transport=ws", "WS 192.0.2.7:80"),
            ("sips:a@192.0.2.7;transport=ws", "WSS 192.0.2.7:443"),
            ("sip:a@example.com;maddr=192.0.2.8", "UDP 192.0.2.8:5060"),
            // A port: addresses only.
            ("sip:a@plain.example:5099", "UDP 192.0.2.11:5099"),
            ("sips:a@plain.example:5099", "TLS 192.0.2.11:5099"),
            // A transport: its SRV.
            (
                "sip:a@example.com;transport=udp",
                "UDP 192.0.2.1:5060, UDP [2001:db8::1]:5060, UDP 192.0.2.2:5070",
            ),
            ("sip:a@plain.example;transport=tcp", "TCP 192.0.2.11:5060"),
            ("sip:a@plain.example;transport=ws", "WS 192.0.2.11:80"),
            // Nothing: NAPTR, and only what is secure for sips.
            (
                "sip:a@EXAMPLE.com",
                "TLS 192.0.2.1:5061, TLS [2001:db8::1]:5061, TCP 192.0.2.1:5060, TCP [2001:db8::1]:5060, \
                 UDP 192.0.2.1:5060, UDP [2001:db8::1]:5060, UDP 192.0.2.2:5070",
            ),
            ("sips:a@example.com", "TLS 192.0.2.1:5061, TLS [2001:db8::1]:5061"),
            // No NAPTR: SRV of each transport; none of those either: the address.
            ("sip:a@srv.example", "UDP 192.0.2.2:5066"),
            ("sip:a@plain.example", "UDP 192.0.2.11:5060"),
            ("sips:a@plain.example", "TLS 192.0.2.11:5061"),
        ] {
            let (places, _) = found(uri, EXAMPLE, 1);
            assert_eq!(places.map(|places| places.join(", ")), Ok(expected.to_owned()), "{uri}");
        }
    }

    #[test]
    fn what_leads_nowhere_says_what_to_do() {
        for (uri, why) in [
            ("sip:a@nowhere.example", "has no address: check the name"),
            ("sip:a@closed.example", "has no address"),
            ("sips:a@example.com;transport=udp", "needs TLS"),
            ("sip:a@example.com;transport=sctp", "use udp, tcp, tls, ws or wss"),
            ("sip:a@df7jal23ls0d.invalid", "on its own connection"),
            ("tel:+4930", "write sip:USER@HOST"),
        ] {
            let (places, _) = found(uri, EXAMPLE, 1);
            let said = places.expect_err(uri);
            assert!(said.contains(why), "{uri}: {said}");
        }
    }

    #[test]
    fn a_name_is_known_after_three_rounds_at_most() {
        assert_eq!(found("sip:a@192.0.2.1", EXAMPLE, 1).1, 0);
        assert_eq!(found("sip:a@plain.example:5060", EXAMPLE, 1).1, 1);
        assert_eq!(found("sip:a@example.com", EXAMPLE, 1).1, 3);
    }

    #[test]
    fn weights_share_the_load_and_priorities_do_not() {
        let records = "SRV _sip._udp.w.example 0 30 1 one.example
            SRV _sip._udp.w.example 0 10 2 two.example
            SRV _sip._udp.w.example 5 1000 3 three.example
            A one.example 192.0.2.1
            A two.example 192.0.2.2
            A three.example 192.0.2.3";
        let mut first = [0; 4];
        for seed in 0..400 {
            let places = found("sip:w.example;transport=udp", records, seed).0.unwrap();
            assert_eq!(places.len(), 3);
            assert_eq!(places[2], "UDP 192.0.2.3:3");
            first[usize::from(places[0].ends_with(":2"))] += 1;
        }
        assert!((260..340).contains(&first[0]), "three in four begin with the heavier: {first:?}");
    }

    #[test]
    fn a_zone_that_never_ends_is_cut() {
        let mut records = String::from("A many.example");
        (1..200).for_each(|last| records.push_str(&format!(" 192.0.2.{last}")));
        (0..200).for_each(|n| {
            records.push_str(&format!("\nSRV _sip._udp.many.example {n} 0 {} many.example", 1000 + n))
        });
        let places = found("sip:many.example;transport=udp", &records, 1).0.unwrap();
        assert_eq!(places.len(), MOST_HOPS);
    }
}
