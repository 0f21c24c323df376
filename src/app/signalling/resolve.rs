//! Driver. Asks DNS what `sip::locate` wants to know. One task for all searches; its memory outlives DNS failures.
//!
//! The system's servers (resolv.conf) and hosts file, or the server of `sip.dns`. TTLs are honoured by the resolver's own
//! bounded cache; what is here is the last good answer, used only while DNS gives none.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;

use super::Inbound;
use crate::base::queue::{Fifo, Receiver, Sender, Wait};
use crate::base::stop::Outcome;
use crate::sip::locate::{Answer, Located, Naptr, Place, Question, Srv, locate};
use crate::sip::{ResolveId, Uri};

/// Searches waiting to begin.
pub(super) const DEPTH: usize = 256;
/// One try of one question; there are two.
const PATIENCE: Duration = Duration::from_secs(2);
const TRIES: usize = 2;
/// Records the resolver's cache holds.
const CACHED: u64 = 1024;
/// Last good answers kept for the time DNS is down.
const REMEMBERED: usize = 512;
/// Rounds of questions one URI may take: NAPTR, SRV, addresses.
const ROUNDS: usize = 4;
/// Questions of one search.
const MOST_QUESTIONS: usize = 32;

/// One URI whose places are wanted.
pub(super) struct Wanted {
    pub id: ResolveId,
    pub uri: Uri,
    pub seed: u64,
}

/// What DNS said last, by question.
type Memory = HashMap<Question, Answer>;

/// Answers every search that comes in, side by side.
pub(super) async fn run(
    dns: Option<SocketAddr>,
    wanted: Receiver<Wanted, Fifo>,
    inbound: Sender<Inbound, Wait>,
) -> Outcome {
    let resolver = resolver(dns);
    let mut memory = Arc::new(Memory::new());
    let mut searches = FuturesUnordered::new();
    loop {
        tokio::select! {
            next = wanted.recv() => match next {
                Some(Wanted { id, uri, seed }) => {
                    let (resolver, memory) = (resolver.clone(), memory.clone());
                    searches.push(async move {
                        let (found, learned) = search(resolver.as_ref(), &memory, &uri, seed).await;
                        (id, uri, found, learned)
                    });
                }
                None => return Outcome::Done,
            },
            Some((id, uri, found, learned)) = searches.next() => {
                let memory = Arc::make_mut(&mut memory);
                if memory.len() + learned.len() > REMEMBERED {
                    memory.clear();
                }
                memory.extend(learned);
                inbound.send(Inbound::Resolved { id, name: name_of(&uri), found }).await;
            }
        }
    }
}

/// The same for one URI and nobody else.
pub async fn once(dns: Option<SocketAddr>, uri: &Uri, seed: u64) -> Result<Vec<Place>, String> {
    search(resolver(dns).as_ref(), &Memory::new(), uri, seed).await.0
}

/// The domain a certificate must name; `None` for an address.
pub fn name_of(uri: &Uri) -> Option<String> {
    uri.host_ip().is_none().then(|| uri.host.trim_end_matches('.').to_owned())
}

fn resolver(dns: Option<SocketAddr>) -> Option<TokioResolver> {
    let built = match dns {
        Some(server) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            let server = NameServerConfig::new(server.ip(), true, connections.into());
            let config = ResolverConfig::from_name_servers(vec![server]);
            Ok(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
        }
        None => TokioResolver::builder_tokio(),
    };
    let built = built.and_then(|mut builder| {
        let options = builder.options_mut();
        (options.timeout, options.attempts) = (PATIENCE, TRIES);
        options.cache_size = CACHED;
        options.positive_max_ttl = Some(Duration::from_secs(86_400));
        builder.build()
    });
    match built {
        Ok(resolver) => Some(resolver),
        Err(error) => {
            tracing::warn!("names cannot be looked up: {error}. Set sip.dns or repair /etc/resolv.conf");
            None
        }
    }
}

/// The places of one URI and what was learned on the way.
async fn search(
    resolver: Option<&TokioResolver>,
    memory: &Memory,
    uri: &Uri,
    seed: u64,
) -> (Result<Vec<Place>, String>, Memory) {
    let (mut known, mut learned) = (Memory::new(), Memory::new());
    for _ in 0..ROUNDS {
        let questions = match locate(uri, &known, seed) {
            Located::Places(places) => return (Ok(places), learned),
            Located::Nowhere(why) => return (Err(why), learned),
            Located::Ask(questions) => questions,
        };
        if known.len() + questions.len() > MOST_QUESTIONS {
            return (Err(format!("{}: its DNS records lead on and on", uri.host)), learned);
        }
        let asked = questions.into_iter().map(|question| async {
            let answer = ask(resolver, &question).await;
            (question, answer)
        });
        for (question, answer) in futures_util::future::join_all(asked).await {
            match (answer, memory.get(&question)) {
                (Ok(answer), _) => {
                    known.insert(question.clone(), answer.clone());
                    learned.insert(question, answer);
                }
                (Err(why), Some(old)) => {
                    tracing::warn!(host = uri.host, "DNS gives no answer, the last one is used: {why}");
                    known.insert(question, old.clone());
                }
                (Err(why), None) => {
                    let why =
                        format!("{}: DNS gives no answer ({why}): check the network or sip.dns", uri.host);
                    return (Err(why), learned);
                }
            }
        }
    }
    (Err(format!("{}: its DNS records lead on and on", uri.host)), learned)
}

/// One question. That there is no such record is an answer.
async fn ask(resolver: Option<&TokioResolver>, question: &Question) -> Result<Answer, String> {
    let resolver = resolver.ok_or("there is no resolver")?;
    match question {
        Question::Naptr(name) => {
            let found =
                answers(resolver.lookup(full(name), hickory_resolver::proto::rr::RecordType::NAPTR).await)?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let record = |data: RData| match data {
                RData::NAPTR(record) => Some(Naptr {
                    order: record.order,
                    preference: record.preference,
                    flags: text(&record.flags),
                    service: text(&record.services),
                    replacement: record.replacement.to_ascii(),
                }),
                _ => None,
            };
            Ok(Answer::Naptr(found.into_iter().filter_map(record).collect()))
        }
        Question::Srv(name) => {
            let found =
                answers(resolver.lookup(full(name), hickory_resolver::proto::rr::RecordType::SRV).await)?;
            let record = |data: RData| match data {
                RData::SRV(record) => Some(Srv {
                    priority: record.priority,
                    weight: record.weight,
                    port: record.port,
                    target: record.target.to_ascii(),
                }),
                _ => None,
            };
            Ok(Answer::Srv(found.into_iter().filter_map(record).collect()))
        }
        Question::Addresses(name) => match resolver.lookup_ip(name.as_str()).await {
            Ok(found) => Ok(Answer::Addresses(found.iter().collect())),
            Err(error) if is_no_record(&error) => Ok(Answer::Addresses(Vec::new())),
            Err(error) => Err(error.to_string()),
        },
    }
}

fn answers(found: Result<hickory_resolver::lookup::Lookup, NetError>) -> Result<Vec<RData>, String> {
    match found {
        Ok(lookup) => Ok(lookup.answers().iter().map(|record| record.data.clone()).collect()),
        Err(error) if is_no_record(&error) => Ok(Vec::new()),
        Err(error) => Err(error.to_string()),
    }
}

fn is_no_record(error: &NetError) -> bool {
    error.is_no_records_found() || error.is_nx_domain()
}

/// Records of a service are never searched for in the local domain.
fn full(name: &str) -> String {
    format!("{name}.")
}
