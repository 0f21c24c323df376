//! Driver. A picture somebody names by its URL: fetched once, bounded in size and time, and never from where it must
//! not be asked.
//!
//! A URL of a stranger must not make this box ask its own network. So by default only hosts of the public Internet are
//! asked, over TLS, whatever their names resolve to at that moment; redirects obey the same. Where the operator allows
//! it, near hosts are asked too, also in plain text. No key and no cookie goes with the question.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use lru::LruCache;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, LOCATION};
use reqwest::{Client, Response, Url};

use crate::codec::still::sniff::sniff;
use crate::remote::address::{is_encrypted, is_near};
use crate::remote::http::{build, encrypted, plain};

/// How pictures are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchSettings {
    pub bytes: usize,
    /// For all of it, redirects included.
    pub patience: Duration,
    pub redirects: u32,
    /// Loopback and private addresses may be asked, in plain text too: only for URLs the operator wrote.
    pub near: bool,
}

impl Default for FetchSettings {
    fn default() -> Self {
        FetchSettings { bytes: 10 << 20, patience: Duration::from_secs(5), redirects: 3, near: false }
    }
}

/// Why there is no picture; says it without the URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFetched {
    #[error("only https is fetched, and http on the own network where that is allowed")]
    Scheme,
    #[error("its address is not one that may be asked")]
    Address,
    #[error("it is not reached: {0}")]
    Unreached(String),
    #[error("no picture within {0} ms")]
    TooSlow(u128),
    #[error("it answers with status {0}")]
    Status(u16),
    #[error("it leads on too often")]
    Redirects,
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    #[error("what is there is no JPEG, PNG, WebP or GIF")]
    NoPicture,
}

/// Pictures remembered by their URL.
const KEPT: NonZeroUsize = NonZeroUsize::new(16).expect("not none");

/// Fetches; shared by all calls. What was fetched is kept, so that one URL is asked once.
#[derive(Clone)]
pub struct Fetcher {
    settings: FetchSettings,
    inner: Arc<Inner>,
}

struct Inner {
    public: OnceLock<Result<Client, String>>,
    near: OnceLock<Result<Client, String>>,
    kept: Mutex<LruCache<Url, Arc<[u8]>>>,
}

impl Fetcher {
    pub fn new(settings: FetchSettings) -> Self {
        let kept = Mutex::new(LruCache::new(KEPT));
        Fetcher { settings, inner: Arc::new(Inner { public: OnceLock::new(), near: OnceLock::new(), kept }) }
    }

    /// The picture's bytes: they begin as one of the four kinds we take, and are undecoded.
    pub async fn fetch(&self, url: Url) -> Result<Arc<[u8]>, NotFetched> {
        let kept = self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&url).cloned();
        if let Some(bytes) = kept {
            return Ok(bytes);
        }
        let patience = self.settings.patience;
        let asked = tokio::time::timeout(patience, self.ask(url.clone())).await;
        let bytes: Arc<[u8]> = asked.map_err(|_| NotFetched::TooSlow(patience.as_millis()))??.into();
        self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner).put(url, bytes.clone());
        Ok(bytes)
    }

    async fn ask(&self, mut url: Url) -> Result<Vec<u8>, NotFetched> {
        for _ in 0..=self.settings.redirects {
            let client = self.client_for(&url)?;
            let request =
                client.get(url.clone()).header(ACCEPT, "image/jpeg, image/png, image/webp, image/gif");
            let response = request.send().await.map_err(|error| unreached(&error))?;
            let status = response.status();
            if status.is_redirection() {
                let onto = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
                url = url.join(onto.unwrap_or_default()).map_err(|_| NotFetched::Status(status.as_u16()))?;
                continue;
            }
            if !status.is_success() {
                return Err(NotFetched::Status(status.as_u16()));
            }
            return self.read(response).await;
        }
        Err(NotFetched::Redirects)
    }

    async fn read(&self, mut response: Response) -> Result<Vec<u8>, NotFetched> {
        let most = self.settings.bytes;
        let said = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if said.is_some_and(|said: usize| said > most) {
            return Err(NotFetched::TooLong(most));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreached(&error))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > most {
                return Err(NotFetched::TooLong(most));
            }
        }
        if sniff(&bytes).is_none() {
            return Err(NotFetched::NoPicture);
        }
        Ok(bytes)
    }

    /// The client that may ask for `url`. A name is judged when it is looked up, an address here.
    fn client_for(&self, url: &Url) -> Result<&Client, NotFetched> {
        let Inner { public, near, .. } = &*self.inner;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let address: Option<IpAddr> = host.parse().ok();
        let slot = match url.scheme() {
            "https" => {
                if address.is_some_and(|ip| !self.may_ask(ip)) {
                    return Err(NotFetched::Address);
                }
                let resolver = Judged { near: self.settings.near };
                public.get_or_init(|| build(encrypted()?.dns_resolver(resolver)))
            }
            "http" if self.settings.near => {
                if address.is_some_and(|ip| !is_near(ip)) {
                    return Err(NotFetched::Address);
                }
                near.get_or_init(|| build(plain()?))
            }
            _ => return Err(NotFetched::Scheme),
        };
        debug_assert!(is_encrypted(url) || self.settings.near);
        slot.as_ref().map_err(|why| NotFetched::Unreached(why.clone()))
    }

    fn may_ask(&self, ip: IpAddr) -> bool {
        is_public(ip) || self.settings.near && is_near(ip)
    }
}

fn unreached(error: &reqwest::Error) -> NotFetched {
    // The URL may hold somebody's token.
    let mut said = String::from("the connection failed");
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.to_string().contains(NOT_TO_BE_ASKED) {
            return NotFetched::Address;
        }
        said = inner.to_string();
        cause = inner.source();
    }
    NotFetched::Unreached(said)
}

const NOT_TO_BE_ASKED: &str = "a name that leads to an address that may not be asked";

/// Leaves out the addresses that may not be asked, at each connection: a name may lead elsewhere than before.
pub(super) struct Judged {
    pub near: bool,
}

impl Resolve for Judged {
    fn resolve(&self, name: Name) -> Resolving {
        let near = self.near;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed = |ip: IpAddr| is_public(ip) || near && is_near(ip);
            let kept: Vec<SocketAddr> = found.filter(|address| allowed(address.ip())).collect();
            if kept.is_empty() {
                return Err(NOT_TO_BE_ASKED.into());
            }
            Ok(Box::new(kept.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is of the public Internet: none of a host, a network of its own, a group, or set aside
/// (RFC 6890), however it is written into IPv6.
pub(super) fn is_public(ip: IpAddr) -> bool {
    if is_near(ip) || ip.is_unspecified() || ip.is_multicast() {
        return false;
    }
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            !(a == 0
                || a >= 240
                || ip.is_documentation()
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && b & 0xfe == 18))
        }
        IpAddr::V6(ip) => {
            let part = ip.segments();
            let embedded = |high: u16, low: u16| {
                let [a, b] = high.to_be_bytes();
                let [c, d] = low.to_be_bytes();
                is_public(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
            };
            match part {
                // NAT64 (RFC 6052) and 6to4 (RFC 3056) hold an IPv4 address.
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
                [0x2002, high, low, ..] => embedded(high, low),
                // Global unicast is all there is beside these; 2001:db8::/32 is for documents, 2001::/32 is Teredo.
                [0x2001, 0xdb8 | 0, ..] => false,
                [first, ..] => first & 0xe000 == 0x2000,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const GIF: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\xff\0\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

    #[test]
    fn addresses_of_ones_own_are_no_public_ones_however_written() {
        for (address, public) in [
            ("93.184.216.34", true),
            ("2606:4700::1", true),
            ("64:ff9b::5db8:d822", true),
            ("127.0.0.1", false),
            ("10.1.2.3", false),
            ("169.254.169.254", false),
            ("100.64.0.1", false),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("224.0.0.1", false),
            ("192.0.2.7", false),
            ("198.18.0.1", false),
            ("::", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("::127.0.0.1", false),
            ("64:ff9b::7f00:1", false),
            ("2002:0a00:0001::1", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("fec0::1", false),
            ("ff02::1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_public(address.parse().expect("an address")), public, "{address}");
        }
    }

    /// A server of a few lines that gives `answers` in turn; counts the questions.
    async fn server(answers: Vec<Vec<u8>>) -> (u16, Arc<AtomicU32>, impl Future<Output = ()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let serve = async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a caller");
                let mut question = [0; 4096];
                let _ = stream.read(&mut question).await;
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            }
            std::future::pending::<()>().await;
        };
        (port, asked, serve)
    }

    fn answer(head: &str, body: &[u8]) -> Vec<u8> {
        [format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n").as_bytes(), body].concat()
    }

    async fn fetched(settings: FetchSettings, answers: Vec<Vec<u8>>) -> Result<Arc<[u8]>, NotFetched> {
        let (port, _, serve) = server(answers).await;
        let url = Url::parse(&format!("http://127.0.0.1:{port}/a.gif")).expect("a URL");
        let fetcher = Fetcher::new(settings);
        tokio::select! {
            got = fetcher.fetch(url) => got,
            () = serve => unreachable!("it serves for ever"),
        }
    }

    fn near() -> FetchSettings {
        FetchSettings { near: true, patience: Duration::from_millis(500), bytes: 100, ..Default::default() }
    }

    #[tokio::test]
    async fn a_picture_is_fetched_once() {
        let (port, asked, serve) = server(vec![answer("200 OK", GIF), answer("200 OK", GIF)]).await;
        let url = Url::parse(&format!("http://localhost:{port}/a.gif")).expect("a URL");
        let fetcher = Fetcher::new(near());
        let twice = async {
            assert_eq!(fetcher.fetch(url.clone()).await.as_deref(), Ok(GIF));
            assert_eq!(fetcher.fetch(url).await.as_deref(), Ok(GIF));
        };
        tokio::select! {
            () = twice => {}
            () = serve => {}
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn size_kind_status_and_redirects_are_judged() {
        let one = |answer: Vec<u8>| fetched(near(), vec![answer]);
        assert_eq!(one(answer("200 OK", &[GIF, &[0; 100]].concat())).await, Err(NotFetched::TooLong(100)));
        let said = answer("200 OK\r\ncontent-length: 5000", GIF);
        assert_eq!(one(said).await, Err(NotFetched::TooLong(100)));
        assert_eq!(one(answer("200 OK", b"<html>")).await, Err(NotFetched::NoPicture));
        assert_eq!(one(answer("404 Not Found", b"")).await, Err(NotFetched::Status(404)));
        let onto = |place: &str| answer(&format!("302 Found\r\nlocation: {place}"), b"");
        let moved = fetched(near(), vec![onto("/b.gif"), answer("200 OK", GIF)]).await;
        assert_eq!(moved.as_deref(), Ok(GIF));
        assert_eq!(fetched(near(), vec![onto("/b.gif"); 4]).await, Err(NotFetched::Redirects));
        assert_eq!(one(onto("http://93.184.216.34/x.gif")).await, Err(NotFetched::Address));
        assert_eq!(one(onto("file:///etc/passwd")).await, Err(NotFetched::Scheme));
    }

    #[tokio::test]
    async fn a_server_that_hangs_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let url = Url::parse(&format!("http://127.0.0.1:{port}/a.gif")).expect("a URL");
        let settings = FetchSettings { patience: Duration::from_millis(80), ..near() };
        assert_eq!(Fetcher::new(settings).fetch(url).await, Err(NotFetched::TooSlow(80)));
    }

    #[tokio::test]
    async fn strangers_cannot_make_this_box_ask_its_own_network() {
        let fetcher = Fetcher::new(FetchSettings::default());
        for (url, why) in [
            ("http://93.184.216.34/x.png", NotFetched::Scheme),
            ("http://127.0.0.1/x.png", NotFetched::Scheme),
            ("https://127.0.0.1/x.png", NotFetched::Address),
            ("https://2130706433/x.png", NotFetched::Address),
            ("https://[::ffff:10.0.0.1]/x.png", NotFetched::Address),
            ("https://169.254.169.254/latest/meta-data", NotFetched::Address),
            ("https://localhost/x.png", NotFetched::Address),
        ] {
            let url = Url::parse(url).expect("a URL");
            assert_eq!(fetcher.fetch(url.clone()).await, Err(why), "{url}");
        }
    }
}
