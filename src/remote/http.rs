//! Driver. HTTP to providers: one pool of warm connections for all calls, deadlines, and statuses as failures.
//!
//! Two clients: one speaks TLS only, the other plain text to near addresses only ([`super::address`]), whatever a name
//! resolves to. Neither follows redirects: a key goes where it was configured to go.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, ClientBuilder, Method, RequestBuilder, Response, StatusCode, Url};
use rustls::{ClientConfig, RootCertStore};

use super::address::{is_encrypted, is_near, with_scheme};
use super::failure::{Failure, complaint};
use super::websocket::system_tls;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Servers close idle connections after 5 s to several minutes; hyper notices and opens another.
const KEEP_IDLE: Duration = Duration::from_secs(120);
const IDLE_CONNECTIONS: usize = 16;
/// Of an error's body that is read.
const ERROR_BYTES: usize = 16 << 10;
/// The end of a body is waited for so long when all that matters of it has come.
const TAIL_LIMIT: Duration = Duration::from_millis(300);

/// The clients; cloning shares them. Made when first needed: a box that talks to its own network needs no authorities.
#[derive(Clone, Default)]
pub struct Http {
    clients: Arc<Clients>,
}

#[derive(Default)]
struct Clients {
    encrypted: OnceLock<Result<Client, String>>,
    plain: OnceLock<Result<Client, String>>,
}

impl Http {
    pub fn new() -> Self {
        Http::default()
    }

    /// A request that has not been sent. Web sockets' schemes are taken as HTTP's.
    pub fn request(&self, method: Method, url: Url) -> Result<RequestBuilder, Failure> {
        let url = with_scheme(url, false);
        Ok(self.client(&url)?.request(method, url))
    }

    pub fn post(&self, url: Url) -> Result<RequestBuilder, Failure> {
        self.request(Method::POST, url)
    }

    pub fn get(&self, url: Url) -> Result<RequestBuilder, Failure> {
        self.request(Method::GET, url)
    }

    fn client(&self, url: &Url) -> Result<&Client, Failure> {
        let client = match is_encrypted(url) {
            true => self.clients.encrypted.get_or_init(|| build(encrypted()?)),
            false => self.clients.plain.get_or_init(|| build(plain()?)),
        };
        client.as_ref().map_err(|why| Failure::Unreached(why.clone()))
    }

    /// Opens a connection to be used soon, if there is none: any answer will do, and so will none.
    pub async fn warm(&self, url: Url) {
        let url = with_scheme(url, false);
        if let Ok(client) = self.client(&url) {
            // Reading the (empty) body to its end is what gives the connection back to the pool.
            let ask = async { client.head(url).send().await?.bytes().await };
            let _ = tokio::time::timeout(CONNECT_LIMIT, ask).await;
        }
    }
}

pub fn encrypted() -> Result<ClientBuilder, String> {
    let config = (*system_tls()?).clone();
    Ok(Client::builder().tls_backend_preconfigured(config).https_only(true))
}

/// The client of near hosts has its TLS too, which trusts nobody and is never used: without one it would look for a
/// default of the process.
pub fn plain() -> Result<ClientBuilder, String> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("no TLS: {error}"))?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    Ok(Client::builder().tls_backend_preconfigured(config).dns_resolver(Near))
}

pub fn build(builder: ClientBuilder) -> Result<Client, String> {
    builder
        .user_agent(concat!("eyeline/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_LIMIT)
        .pool_idle_timeout(KEEP_IDLE)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .tcp_keepalive(Duration::from_secs(30))
        .tcp_nodelay(true)
        .build()
        .map_err(|error| format!("no HTTP: {}", chain(&error)))
}

/// Names of near hosts only.
struct Near;

impl Resolve for Near {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let near: Vec<SocketAddr> = found.filter(|address| is_near(address.ip())).collect();
            if near.is_empty() {
                return Err("plain http goes to loopback and private addresses only".into());
            }
            Ok(Box::new(near.into_iter()) as Addrs)
        })
    }
}

/// An answer whose status is good and whose body is still to come.
pub struct Reply {
    response: Response,
    timeout_ms: u64,
}

/// Sends a request; waits for the head of its answer. What an error says is told without `key`.
pub async fn send(timeout_ms: u64, key: &str, request: RequestBuilder) -> Result<Reply, Failure> {
    let response = within(timeout_ms, request.send()).await?.map_err(|error| unreached(&error))?;
    if response.status().is_success() {
        return Ok(Reply { response, timeout_ms });
    }
    let (status, retry_after_ms) = (response.status(), retry_after(response.headers()));
    let mut reply = Reply { response, timeout_ms: timeout_ms.min(2_000) };
    let mut body = Vec::new();
    while let Ok(Some(bytes)) = reply.chunk().await {
        body.extend_from_slice(&bytes);
        if body.len() > ERROR_BYTES {
            break;
        }
    }
    Err(failure(status, retry_after_ms, &body, key))
}

impl Reply {
    pub fn content_type(&self) -> &str {
        let value = self.response.headers().get(CONTENT_TYPE);
        value.and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The next bytes; `None`: the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        let chunk = within(self.timeout_ms, self.response.chunk()).await?;
        chunk.map_err(
            |error| if error.is_timeout() { Failure::TooSlow(self.timeout_ms) } else { Failure::Cut },
        )
    }

    /// As [`Reply::chunk`], once all that matters has come: a short wait, so that the connection can be used again.
    pub async fn tail(&mut self) -> Option<Bytes> {
        tokio::time::timeout(TAIL_LIMIT, self.response.chunk()).await.ok()?.ok()?
    }
}

/// All of the rest; longer than `most` bytes is [`Failure::Garbled`].
pub async fn whole(reply: &mut Reply, most: usize) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(bytes) = reply.chunk().await? {
        body.extend_from_slice(&bytes);
        if body.len() > most {
            return Err(Failure::Garbled(format!("more than {most} bytes")));
        }
    }
    Ok(body)
}

async fn within<T>(timeout_ms: u64, work: impl Future<Output = T>) -> Result<T, Failure> {
    let limit = Duration::from_millis(timeout_ms);
    tokio::time::timeout(limit, work).await.map_err(|_| Failure::TooSlow(timeout_ms))
}

fn unreached(error: &reqwest::Error) -> Failure {
    if error.is_connect() || error.is_builder() {
        return Failure::Unreached(chain(error));
    }
    // The connection stood and broke before the answer began.
    if error.is_timeout() { Failure::TooSlow(CONNECT_LIMIT.as_millis() as u64) } else { Failure::Cut }
}

/// What an error and its causes say, without addresses.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut next = error.source().or(Some(error));
    while let Some(error) = next {
        let text = error.to_string();
        if !said.iter().any(|said| said.contains(&text)) {
            said.push(text);
        }
        next = error.source();
    }
    said.join(": ")
}

/// Milliseconds of `retry-after-ms`, else of `Retry-After` in seconds.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let ms = number("retry-after-ms").or_else(|| Some(number("retry-after")? * 1_000.0))?;
    // `as` saturates; NaN is 0.
    (ms >= 0.0).then_some(ms as u64)
}

/// What a status means.
pub fn failure(status: StatusCode, retry_after_ms: Option<u64>, body: &[u8], key: &str) -> Failure {
    let body = String::from_utf8_lossy(body);
    let text = complaint(&body, key);
    let said = ["insufficient_quota", "billing_hard_limit_reached", "Spend cap reached"];
    let out_of_money = said.iter().any(|said| body.contains(said));
    let code = status.as_u16();
    match code {
        429 if !out_of_money => Failure::Busy { retry_after_ms },
        503 if retry_after_ms.is_some() => Failure::Busy { retry_after_ms },
        408 | 409 | 425 | 500.. => Failure::Failed { status: code, text },
        _ => Failure::Refused { status: code, text },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn statuses_are_told_apart_by_what_can_be_done() {
        let of = |status: u16, retry_after_ms, body: &str| {
            failure(StatusCode::from_u16(status).expect("a status"), retry_after_ms, body.as_bytes(), "sk-1")
        };
        assert_eq!(of(429, Some(1_500), ""), Failure::Busy { retry_after_ms: Some(1_500) });
        assert_eq!(of(503, Some(2_000), ""), Failure::Busy { retry_after_ms: Some(2_000) });
        assert!(matches!(of(503, None, ""), Failure::Failed { status: 503, .. }));
        assert!(matches!(of(529, None, ""), Failure::Failed { status: 529, .. }));
        let poor =
            of(429, None, r#"{"error":{"message":"You exceeded your quota","code":"insufficient_quota"}}"#);
        assert_eq!(poor, Failure::Refused { status: 429, text: "You exceeded your quota".to_owned() });
        let key = of(401, None, r#"{"error":{"message":"Incorrect API key provided: sk-1"}}"#);
        assert_eq!(key, Failure::Refused { status: 401, text: "Incorrect API key provided: ***".to_owned() });
    }

    #[test]
    fn both_ways_to_say_when_to_come_back_are_read() {
        let of = |name: &'static str, value: &'static str| {
            retry_after(&HeaderMap::from_iter([(
                name.parse().expect("a name"),
                HeaderValue::from_static(value),
            )]))
        };
        assert_eq!(of("retry-after", "2"), Some(2_000));
        assert_eq!(of("retry-after", "0.25"), Some(250));
        assert_eq!(of("retry-after-ms", "17"), Some(17));
        assert_eq!(of("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT"), None);
        assert_eq!(of("retry-after", "-1"), None);
    }

    #[tokio::test]
    async fn a_name_that_leads_far_away_is_not_spoken_to_in_the_clear() {
        assert!(Near.resolve("localhost".parse().expect("a name")).await.is_ok());
        // An address needs no name server, and stands for a name that leads there.
        assert!(Near.resolve("93.184.216.34".parse().expect("a name")).await.is_err());
    }

    #[tokio::test]
    async fn nobody_at_the_other_end_is_said_without_delay() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let url = Url::parse(&format!("http://127.0.0.1:{port}/v1")).expect("a URL");
        let result = send(1_000, "", Http::new().post(url).expect("a request")).await;
        assert!(matches!(result.map(drop), Err(Failure::Unreached(why)) if why.contains("refused")));
    }
}
