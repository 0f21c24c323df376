//! SIP over TLS, WebSocket and IPv6, names with several addresses, and strangers that hold connections open.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;

use crate::harness::appliance::{Appliance, eyeline};
use crate::harness::baresip::{Baresip, Settings};
use crate::harness::certificates::{Authority, Files, shown};
use crate::harness::name_server::{NameServer, Record};
use crate::harness::{free_ports, media, sound, turn, wait_for};

const LIMIT: Duration = Duration::from_secs(8);

fn listening(entries: &[String]) -> String {
    let quoted: Vec<String> = entries.iter().map(|entry| format!("\"{entry}\"")).collect();
    format!("sip.listen=[{}]", quoted.join(", "))
}

/// An appliance that also listens with `transport`; its port.
fn appliance_with(transport: &str, settings: &[&str]) -> (Appliance, u16) {
    let port = free_ports(4);
    let plain = port + 2;
    let listen = listening(&[
        format!("udp:127.0.0.1:{plain}"),
        format!("tcp:127.0.0.1:{plain}"),
        format!("{transport}:127.0.0.1:{port}"),
    ]);
    let mut all = vec![listen.as_str()];
    all.extend(settings);
    (Appliance::start(&all), port)
}

/// `eyeline call`, two seconds, sound only.
fn call(uri: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let fixed = ["call", uri, "--json", "--audio-only", "--duration", "2", "--ring-timeout", "10"];
    eyeline().current_dir(folder.path()).args(fixed).args(arguments).output().unwrap()
}

fn assert_call(output: &Output) {
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
}

#[test]
fn baresip_calls_with_sound_and_picture_over_tls_and_srtp() {
    let _turn = turn();
    let authority = Authority::new();
    let ours = authority.issue("ours", &["127.0.0.1", "localhost"]);
    let theirs = authority.issue("theirs", &["127.0.0.1"]);
    let echo = r#"agent.mirror={kind="mirror", audio="echo"}"#;
    let settings = [&shown(&ours, None), echo, "media.srtp=\"required\""];
    let (appliance, port) = appliance_with("tls", &settings);
    let tls = Some((theirs.both, authority.ca()));
    let protected =
        Settings { protection: Some("srtp-mand"), sound: media("tone700.wav"), ..Settings::default() };
    let mut baresip = Baresip::start(&Settings { tls, ..protected });
    baresip.dial(&format!("sip:mirror@127.0.0.1:{port};transport=tls"));
    baresip.talk(Duration::from_secs(4));
    baresip.snapshot();
    baresip.hang_up();
    let heard = sound::read(&baresip.heard(), 1).remove(0);
    assert!(sound::tone_share(&heard, 700.0) > 0.8, "the tone comes back through both");
    let record = appliance.call_record(&appliance.finished_recording());
    assert_eq!(record["end_reason"].as_str(), Some("peer-hung-up"), "{record}");
    for line in ["audio", "video"] {
        assert_eq!(record[line]["srtp_via"], "sdes", "{record}");
        assert!(record[line]["packets_received"].as_u64() > Some(50), "{record}");
    }
    assert!(record["video"]["pictures"]["decoded"].as_u64() > Some(20), "{record}");
}

#[test]
fn baresip_is_called_over_tls_and_only_with_the_right_certificate() {
    let _turn = turn();
    let authority = Authority::new();
    let call_with = |names: &[&str], ca: &Path| {
        let theirs = authority.issue("theirs", names);
        let tls = Some((theirs.both, authority.ca()));
        let settings = Settings { answers: true, clip: None, tls, ..Settings::default() };
        let baresip = Baresip::start(&Settings { protection: Some("srtp-mand"), ..settings });
        let uri = format!("sip:peer@127.0.0.1:{};transport=tls", baresip.sip.port() + 1);
        call(&uri, &["--ca", ca.to_str().unwrap(), "--set", "media.srtp=\"required\""])
    };
    let good = call_with(&["127.0.0.1"], &authority.ca());
    assert_call(&good);
    let report: serde_json::Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!(report["audio"]["srtp_via"], "sdes", "{report}");
    assert!(report["audio"]["packets_received"].as_u64() > Some(50), "{report}");
    let wrong = call_with(&["other.example"], &authority.ca());
    assert_eq!(wrong.status.code(), Some(1));
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(said.contains("names somebody else") && said.contains("tls_name"), "{said}");
    let unknown = call_with(&["127.0.0.1"], &Authority::new().ca());
    assert_eq!(unknown.status.code(), Some(1));
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(said.contains("nobody we trust signed"), "{said}");
}

/// A TLS client that shows a certificate or none.
fn tls_client(authority: &Authority, own: Option<&Files>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.ca()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match own {
        Some(own) => {
            let chain = vec![CertificateDer::from_pem_file(&own.certificate).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&own.key).unwrap()).unwrap()
        }
        None => builder.with_no_client_auth(),
    }
}

fn open_tls(port: u16, config: ClientConfig) -> Option<StreamOwned<ClientConnection, TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
    let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
    let mut connection = ClientConnection::new(Arc::new(config), name).ok()?;
    let mut raw = stream;
    while connection.is_handshaking() {
        connection.complete_io(&mut raw).ok()?;
    }
    Some(StreamOwned::new(connection, raw))
}

fn options(transport: &str, number: u32) -> String {
    format!(
        "OPTIONS sip:mirror@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/{transport} 127.0.0.1:5071;branch=z9hG4bKo{number}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:a@127.0.0.1>;tag=o{number}\r\nTo: <sip:mirror@127.0.0.1>\r\n\
         Call-ID: options-{number}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}

/// The status line that answers OPTIONS.
fn asked(stream: &mut (impl std::io::Read + std::io::Write), transport: &str) -> Option<String> {
    stream.write_all(options(transport, 1).as_bytes()).ok()?;
    let mut buffer = [0; 2000];
    let length = stream.read(&mut buffer).ok().filter(|length| *length > 0)?;
    String::from_utf8_lossy(&buffer[..length]).lines().next().map(str::to_owned)
}

#[test]
fn a_stranger_is_known_by_its_client_certificate_alone() {
    let _turn = turn();
    let authority = Authority::new();
    let ours = authority.issue("ours", &["127.0.0.1"]);
    let trunk = authority.issue("trunk", &["sip:trunk.example"]);
    let foreign = Authority::new();
    let unknown = foreign.issue("unknown", &["sip:trunk.example"]);
    let settings = [shown(&ours, Some(&authority.ca())), "sip.trusted=[]".to_owned()];
    let (_appliance, port) = appliance_with("tls", &settings.each_ref().map(String::as_str));
    let answer = |own| open_tls(port, tls_client(&authority, own)).and_then(|mut tls| asked(&mut tls, "TLS"));
    assert_eq!(answer(Some(&trunk)).as_deref(), Some("SIP/2.0 200 OK"));
    assert_eq!(answer(None), None, "without a certificate nobody answers");
    assert_eq!(answer(Some(&unknown)), None, "nor with one of somebody else's authority");
}

#[test]
fn certificates_are_read_again_on_sighup_and_a_bad_file_changes_nothing() {
    let _turn = turn();
    let authority = Authority::new();
    let ours = authority.issue("ours", &["127.0.0.1"]);
    let (mut appliance, port) = appliance_with("tls", &[&shown(&ours, None)]);
    let presented = || {
        let tls = open_tls(port, tls_client(&authority, None))?;
        Some(tls.conn.peer_certificates()?.first()?.to_vec())
    };
    let first = presented().expect("TLS");
    authority.issue("ours", &["127.0.0.1", "renewed.example"]);
    appliance.process.signal(Signal::HUP);
    let renewed =
        wait_for(LIMIT, || presented().filter(|shown| *shown != first)).expect("the new certificate");
    std::fs::write(&ours.certificate, "nonsense").unwrap();
    appliance.process.signal(Signal::HUP);
    let told = wait_for(LIMIT, || appliance.process.log().contains("stay as they were").then_some(()));
    assert!(told.is_some(), "{}", appliance.process.last_words());
    assert_eq!(presented(), Some(renewed));
    assert!(appliance.process.is_running());
}

#[test]
fn a_call_over_ipv6() {
    let _turn = turn();
    let port = free_ports(2);
    let _appliance =
        Appliance::start(&[&listening(&[format!("udp:[::1]:{port}"), format!("tcp:[::1]:{port}")])]);
    for transport in ["udp", "tcp"] {
        assert_call(&call(&format!("sip:mirror@[::1]:{port};transport={transport}"), &[]));
    }
}

/// One scripted call over a WebSocket by a peer that has no address, as in browsers. `hangs_up`: it sends the BYE.
async fn web_call<S>(stream: S, uri: &str, transport: &str, hangs_up: bool)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = ClientRequestBuilder::new(uri.parse().unwrap()).with_sub_protocol("sip");
    let (mut web, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "sip");
    let sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n";
    let message = |method: &str, to_tag: &str, cseq: u32, body: &str| {
        format!(
            "{method} sip:mirror@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/{transport} df7jal23ls0d.invalid;branch=z9hG4bKw{hangs_up}{cseq}{method}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:web@example.com>;tag=w1\r\nTo: <sip:mirror@127.0.0.1>{to_tag}\r\n\
             Call-ID: web-call-{hangs_up}\r\nCSeq: {cseq} {method}\r\nContact: <sip:web@df7jal23ls0d.invalid;transport=ws>\r\n\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    web.send(Message::text(message("INVITE", "", 1, sdp))).await.unwrap();
    web.send(Message::Ping("are you there".into())).await.unwrap();
    let (mut pong, mut over, mut tag) = (false, false, String::new());
    let talk = async {
        while let Some(Ok(frame)) = web.next().await {
            let Message::Text(text) = frame else {
                pong |= matches!(frame, Message::Pong(_));
                continue;
            };
            let first = text.lines().next().unwrap_or_default();
            assert_eq!(text.matches("Call-ID").count(), 1, "one message per frame: {text}");
            if first.contains(" 200 ") && text.contains("1 INVITE") && tag.is_empty() {
                let to = text.lines().find(|line| line.starts_with("To:")).unwrap();
                tag = format!(";tag={}", to.split(";tag=").nth(1).unwrap());
                assert!(text.contains("\r\nm=audio ") && text.contains("transport=ws"), "{text}");
                web.send(Message::binary(message("ACK", &tag, 1, "").into_bytes())).await.unwrap();
                if hangs_up {
                    web.send(Message::text(message("BYE", &tag, 2, ""))).await.unwrap();
                }
            } else if first.contains(" 200 ") && text.contains("2 BYE") {
                over = true;
                break;
            } else if first.starts_with("BYE ") {
                let kept: Vec<&str> = text
                    .lines()
                    .filter(|line| {
                        ["Via", "From", "To", "Call-ID", "CSeq"]
                            .iter()
                            .any(|name| line.starts_with(&format!("{name}:")))
                    })
                    .collect();
                let answer = format!("SIP/2.0 200 OK\r\n{}\r\nContent-Length: 0\r\n\r\n", kept.join("\r\n"));
                web.send(Message::text(answer)).await.unwrap();
                over = true;
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(12), talk).await.expect("the call ends");
    assert!(over && pong && !tag.is_empty(), "over {over}, pong {pong}, tag {tag}");
}

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

#[test]
fn a_browser_like_peer_calls_over_a_websocket() {
    let _turn = turn();
    // No RTP comes: the appliance gives up the second call by itself, over the same WebSocket.
    let (_appliance, port) =
        appliance_with("ws", &["media.rtp_start_timeout_s=2", "sip.origins=[\"https://phone.example\"]"]);
    run(async {
        for hangs_up in [true, false] {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            web_call(stream, &format!("ws://127.0.0.1:{port}/"), "WS", hangs_up).await;
        }
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request = ClientRequestBuilder::new(format!("ws://127.0.0.1:{port}/").parse().unwrap());
        assert!(tokio_tungstenite::client_async(request, stream).await.is_err(), "only the subprotocol sip");
        let pages =
            [("https://evil.example", false), ("https://127.0.0.1", true), ("https://phone.example", true)];
        for (page, may) in pages {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let request = ClientRequestBuilder::new(format!("ws://127.0.0.1:{port}/").parse().unwrap())
                .with_sub_protocol("sip")
                .with_header("Origin", page);
            assert_eq!(tokio_tungstenite::client_async(request, stream).await.is_ok(), may, "{page}");
        }
    });
}

#[test]
fn a_browser_like_peer_calls_over_a_secure_websocket() {
    let _turn = turn();
    let authority = Authority::new();
    let ours = authority.issue("ours", &["127.0.0.1"]);
    let (_appliance, port) = appliance_with("wss", &[&shown(&ours, None), "media.rtp_start_timeout_s=2"]);
    run(async {
        for hangs_up in [true, false] {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(tls_client(&authority, None)));
            let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
            let stream = connector.connect(name, stream).await.unwrap();
            web_call(stream, &format!("wss://127.0.0.1:{port}/"), "WSS", hangs_up).await;
        }
    });
}

#[test]
fn eyeline_calls_eyeline_over_a_websocket_and_sips() {
    let _turn = turn();
    let (_plain, port) = appliance_with("ws", &[]);
    assert_call(&call(&format!("sip:mirror@127.0.0.1:{port};transport=ws"), &[]));
    let authority = Authority::new();
    let ours = authority.issue("ours", &["127.0.0.1"]);
    let (_secure, port) = appliance_with("tls", &[&shown(&ours, None)]);
    assert_call(&call(&format!("sips:mirror@127.0.0.1:{port}"), &["--ca", authority.ca().to_str().unwrap()]));
}

#[test]
fn a_dead_server_of_a_domain_is_passed_over_for_the_next() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    let dead = free_ports(2);
    let live = appliance.sip.port();
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let server = NameServer::start(vec![
        Record::Srv("_sip._udp.house.example", 0, dead, "one.house.example"),
        Record::Srv("_sip._udp.house.example", 1, live, "two.house.example"),
        Record::Srv("_sip._tcp.house.example", 0, dead, "one.house.example"),
        Record::Srv("_sip._tcp.house.example", 1, live, "two.house.example"),
        Record::Address("one.house.example", localhost),
        Record::Address("two.house.example", localhost),
    ]);
    let dns = format!("sip.dns=\"{}\"", server.address);
    for transport in ["udp", "tcp"] {
        let start = Instant::now();
        assert_call(&call(&format!("sip:mirror@house.example;transport={transport}"), &["--set", &dns]));
        assert!(start.elapsed() < Duration::from_secs(12), "{transport}: {:?}", start.elapsed());
    }
    let nowhere = call("sip:mirror@nowhere.example", &["--set", &dns]);
    assert_eq!(nowhere.status.code(), Some(1));
    let said = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    assert!(said.contains("nowhere.example has no address: check the name"), "{said}");
}

/// A stream from an address of loopback that is not the usual one.
fn stream_from(source: [u8; 4], to: SocketAddr) -> Option<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).ok()?;
    socket.bind(&SocketAddr::from((source, 0)).into()).ok()?;
    socket.connect_timeout(&to.into(), Duration::from_secs(2)).ok()?;
    Some(socket.into())
}

fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let closed = match stream.read(&mut [0; 64]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    };
    stream.set_nonblocking(false).unwrap();
    closed
}

#[test]
fn a_peer_that_holds_connections_open_disturbs_nobody_and_loses_them() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    let mut held: Vec<TcpStream> =
        (0..300).filter_map(|_| stream_from([127, 0, 0, 2], appliance.sip)).collect();
    // Some say nothing, some begin a message and never end it.
    for stream in held.iter_mut().step_by(2) {
        let _ = stream.write_all(b"INVITE sip:mirror@127.0.0.1 SIP/2.0\r\nVia: ");
    }
    std::thread::sleep(Duration::from_millis(500));
    let refused = held.iter_mut().map(is_closed).filter(|closed| *closed).count();
    assert!((40..=60).contains(&refused), "{refused} of 300 are over the cap of 256");
    let start = Instant::now();
    let mut good = stream_from([127, 0, 0, 1], appliance.sip).expect("a place for others");
    good.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    assert_eq!(asked(&mut good, "TCP").as_deref(), Some("SIP/2.0 200 OK"));
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert_call(&call(&format!("{};transport=tcp", appliance.uri()), &[]));
    let all_closed = wait_for(Duration::from_secs(15), || held.iter_mut().all(is_closed).then_some(()));
    assert!(all_closed.is_some(), "silent and half messages are not waited for");
    assert!(!is_closed(&mut good), "who has spoken stays");
}
