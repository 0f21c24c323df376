//! Driver. Whom `eyeline call` calls: the URI, its places by RFC 3263, and our address that faces them.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, anyhow};

use crate::app::signalling::resolve;
use crate::sip::Uri;
use crate::sip::locate::Place;

/// A URI whose places are found.
pub struct Target {
    pub uri: Uri,
    /// Best first, all of one address family.
    pub places: Vec<Place>,
    /// The domain dialled.
    pub name: Option<String>,
    pub local: IpAddr,
}

impl Target {
    /// Whether TLS may be needed.
    pub fn is_secure(&self) -> bool {
        self.places.iter().any(|place| place.transport.is_secure())
    }
}

/// Reads a URI; `sip:` may be left out.
pub fn uri(written: &str) -> anyhow::Result<Uri> {
    let lower = written.to_ascii_lowercase();
    let with_scheme = if lower.starts_with("sip:") || lower.starts_with("sips:") {
        written.to_owned()
    } else {
        format!("sip:{written}")
    };
    Uri::parse(&with_scheme)
        .with_context(|| format!("{written} is not a SIP URI: write sip:USER@HOST[:PORT][;transport=tcp]"))
}

/// Finds where it leads. `bind`: our address, if the user named one.
pub async fn find(
    uri: Uri,
    bind: Option<IpAddr>,
    dns: Option<SocketAddr>,
    seed: u64,
) -> anyhow::Result<Target> {
    let mut places = resolve::once(dns, &uri, seed).await.map_err(|why| anyhow!(why))?;
    let reached = match bind {
        Some(bind) => places.iter().any(|place| place.remote.is_ipv4() == bind.is_ipv4()).then_some(bind),
        None => places.iter().find_map(|place| facing(place.remote).ok()),
    };
    let local = reached.with_context(|| {
        let first = places.first().map_or_else(String::new, |place| place.remote.to_string());
        format!("no route to {first}: check the address, or give --bind")
    })?;
    places.retain(|place| place.remote.is_ipv4() == local.is_ipv4());
    let name = resolve::name_of(&uri);
    Ok(Target { uri, places, name, local })
}

/// Our address that faces a peer, by the routing table; nothing is sent.
fn facing(destination: SocketAddr) -> std::io::Result<IpAddr> {
    let any = if destination.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(destination)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_may_be_left_out_and_others_are_refused_with_help() {
        assert_eq!(uri("100@192.0.2.1").unwrap().to_string(), "sip:100@192.0.2.1");
        assert_eq!(uri("SIPS:100@h").unwrap().to_string(), "sips:100@h");
        assert!(uri("sip:").unwrap_err().to_string().contains("write sip:USER@HOST"));
    }

    #[tokio::test]
    async fn an_address_needs_no_name_server() {
        let found = |text: &str, bind| find(uri(text).unwrap(), bind, None, 1);
        let target = found("sips:100@127.0.0.1", None).await.unwrap();
        assert_eq!(target.places[0].remote, "127.0.0.1:5061".parse::<SocketAddr>().unwrap());
        assert!(target.is_secure() && target.name.is_none() && target.local.is_loopback());
        let wrong = found("100@127.0.0.1", Some("::1".parse().unwrap())).await.err().unwrap();
        assert!(wrong.to_string().contains("--bind"), "{wrong}");
    }
}
