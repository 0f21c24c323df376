//! Two ends over loopback: directly, and through a TURN server over UDP, TCP and TLS.

use std::sync::Arc;

use bytes::Bytes;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use turn_client_proto::stun::Instant as Moment;
use turn_client_proto::stun::agent::Transmit as Wrapped;
use turn_client_proto::types::TransportType;
use turn_server_proto::api::{TurnServerApi as _, TurnServerPollRet};
use turn_server_proto::server::TurnServer;

use super::*;
use crate::base::time::Pts;
use crate::webrtc::settings::{IceServer, VideoWish};

const MS: Duration = Duration::from_millis(1);

fn settings(sound: Way, video: Way) -> PeerSettings {
    PeerSettings {
        toward: "127.0.0.1".to_owned(),
        sound,
        video: VideoWish { way: video, codecs: vec![VideoCodec::H264] },
        ..PeerSettings::default()
    }
}

/// Lets both ends go on until `done` says so of an event of either; candidates are passed on.
async fn run(
    ends: &mut [PeerLink; 2],
    limit: Duration,
    mut done: impl FnMut(usize, &PeerEvent) -> bool,
) -> bool {
    let end = Instant::now() + limit;
    loop {
        let [a, b] = &mut *ends;
        let (at, event) = tokio::select! {
            event = a.next() => (0, event),
            event = b.next() => (1, event),
            () = tokio::time::sleep_until(end.into()) => return false,
        };
        if let PeerEvent::Candidate(candidate) = &event {
            ends[1 - at].add_remote_candidate(&candidate.candidate);
        }
        if done(at, &event) {
            return true;
        }
    }
}

/// Both agree and are connected within so long.
async fn connect(ends: &mut [PeerLink; 2], limit: Duration) -> bool {
    let offer = ends[0].create_offer().expect("an offer");
    let answer = ends[1].take_offer(&offer).expect("an answer");
    ends[0].take_answer(&answer).expect("agreed");
    let mut up = [false; 2];
    run(ends, limit, |at, event| {
        up[at] |= matches!(event, PeerEvent::Connected);
        up == [true; 2]
    })
    .await
}

fn unit(key: bool, length: usize) -> AccessUnit {
    let mut data = Vec::new();
    if key {
        data.extend([
            0, 0, 0, 1, 0x67, 0x42, 0xe0, 0x1f, 0x95, 0xa0, 0x28, 0, 0, 0, 1, 0x68, 0xce, 0x3c, 0x80,
        ]);
    }
    data.extend([0, 0, 0, 1, if key { 0x65 } else { 0x41 }]);
    data.extend((0..length).map(|at| (at % 251 + 1) as u8));
    AccessUnit { codec: VideoCodec::H264, data: Bytes::from(data), pts: Pts::ZERO, key, damaged: false }
}

/// The second end sends; the first must get every picture and nearly all of the sound.
async fn media_pass(ends: &mut [PeerLink; 2]) {
    let (mut pictures, mut sounds) = (0, 0);
    for n in 0..25_u64 {
        let now = Instant::now();
        assert!(ends[1].send_unit(now, n * 3_600, &unit(n == 0, 4_000)));
        assert!(ends[1].send_sound(now, n * 960, &[0x78, 1, 2]));
        run(ends, 8 * MS, |at, event| {
            pictures += usize::from(at == 0 && matches!(event, PeerEvent::Unit(_)));
            sounds += usize::from(at == 0 && matches!(event, PeerEvent::Sound(_)));
            false
        })
        .await;
    }
    let end = Instant::now() + Duration::from_secs(3);
    while (pictures, sounds) != (25, 25) && Instant::now() < end {
        run(ends, 20 * MS, |at, event| {
            pictures += usize::from(at == 0 && matches!(event, PeerEvent::Unit(_)));
            sounds += usize::from(at == 0 && matches!(event, PeerEvent::Sound(_)));
            false
        })
        .await;
    }
    assert_eq!((pictures, sounds), (25, 25));
}

#[tokio::test]
async fn two_ends_on_loopback_connect_at_once_and_say_farewell() {
    let mut ends =
        [PeerLink::new(settings(Way::Receive, Way::Receive)), PeerLink::new(settings(Way::Send, Way::Send))];
    let begun = Instant::now();
    let channel = ends[0].open_channel("session", true, None).expect("a channel");
    assert!(connect(&mut ends, Duration::from_secs(5)).await);
    println!("connected after {:?}", begun.elapsed());
    media_pass(&mut ends).await;
    assert!(ends[0].send(channel, b"hello", true));
    let heard = |at: usize, event: &PeerEvent| {
        at == 1 && matches!(event, PeerEvent::Data { data, .. } if data == "hello")
    };
    assert!(run(&mut ends, Duration::from_secs(2), heard).await);
    ends[0].close();
    let mut closed = [false; 2];
    let both = run(&mut ends, Duration::from_secs(3), |at, event| {
        closed[at] |= matches!(event, PeerEvent::Closed);
        closed == [true; 2]
    });
    assert!(both.await, "{closed:?}");
}

#[tokio::test]
async fn only_loopback_is_named_where_the_server_is_there_and_an_offer_may_wait_for_addresses() {
    let mut link = PeerLink::new(settings(Way::Receive, Way::None));
    let gathered = tokio::time::timeout(Duration::from_secs(2), async {
        while link.next().await != PeerEvent::Gathered {}
    });
    gathered.await.expect("soon");
    let offer = link.create_offer().expect("an offer");
    let named: Vec<&str> = offer.lines().filter(|line| line.starts_with("a=candidate:")).collect();
    assert!(!named.is_empty() && named.iter().all(|line| line.contains(" 127.0.0.1 ")), "{named:?}");
}

#[tokio::test]
async fn the_address_a_stun_server_sees_is_told() {
    use turn_client_proto::stun::types::attribute::XorMappedAddress;
    use turn_client_proto::stun::types::message::{Message, MessageWriteExt as _, MessageWriteVec};
    use turn_client_proto::stun::types::prelude::MessageWrite as _;
    let server = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let place = server.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut buffer = [0; 500];
        while let Ok((length, from)) = server.recv_from(&mut buffer).await {
            let request = Message::from_bytes(&buffer[..length]).expect("a request");
            let mut answer = Message::builder_success(&request, MessageWriteVec::new());
            let seen = "198.51.100.7:4000".parse().expect("an address");
            answer.add_attribute(&XorMappedAddress::new(seen, request.transaction_id())).expect("room");
            let _ = server.send_to(&answer.finish(), from).await;
        }
    });
    let urls = vec![format!("stun:{place}")];
    let ice_servers = vec![IceServer { urls, ..IceServer::default() }];
    let mut link = PeerLink::new(PeerSettings { ice_servers, ..settings(Way::Receive, Way::None) });
    link.create_offer().expect("an offer");
    let mut seen = Vec::new();
    let gathering = tokio::time::timeout(Duration::from_secs(3), async {
        loop {
            match link.next().await {
                PeerEvent::Candidate(candidate) => seen.push(candidate),
                PeerEvent::Gathered => return,
                _ => {}
            }
        }
    });
    gathering.await.expect("gathered");
    assert!(seen.iter().any(|own| own.candidate.contains("198.51.100.7 4000 typ srflx")), "{seen:?}");
    assert!(seen.iter().all(|own| own.index == 0 && !own.mid.is_empty()));
}

/// How the server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    Udp,
    Tcp,
    Tls,
}

trait Both: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

/// A TURN server for as long as the test runs; gives how it trusts, too.
async fn turn_server(reached: Reached) -> (SocketAddr, Option<Arc<ClientConfig>>) {
    if reached == Reached::Udp {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let place = socket.local_addr().expect("bound");
        tokio::spawn(serve_datagrams(socket));
        return (place, None);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let place = listener.local_addr().expect("bound");
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).expect("trusted");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let client = builder.with_safe_default_protocol_versions().expect("TLS").with_root_certificates(roots);
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
    let server = builder
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a server");
    let acceptor = TlsAcceptor::from(Arc::new(server));
    tokio::spawn(async move {
        while let Ok((socket, from)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream: Box<dyn Both> = match reached {
                    Reached::Tls => Box::new(acceptor.accept(socket).await.expect("TLS")),
                    Reached::Tcp | Reached::Udp => Box::new(socket),
                };
                serve_stream(stream, from, place).await;
            });
        }
    });
    let config = client.with_no_client_auth();
    (place, Some(Arc::new(config)).filter(|_| reached == Reached::Tls))
}

/// The server's mind and the sockets it relays from.
struct Mind {
    server: TurnServer,
    started: Instant,
    relayed: Vec<Arc<UdpSocket>>,
    /// What came to a relayed socket: from whom, to which, what.
    came: mpsc::Sender<(SocketAddr, SocketAddr, Vec<u8>)>,
}

impl Mind {
    fn new(
        transport: TransportType,
        place: SocketAddr,
    ) -> (Mind, mpsc::Receiver<(SocketAddr, SocketAddr, Vec<u8>)>) {
        let mut server = TurnServer::new(transport, place, "test".to_owned());
        server.add_user("who".to_owned(), "secret".to_owned());
        let (came, coming) = mpsc::channel(1_000);
        (Mind { server, started: Instant::now(), relayed: Vec::new(), came }, coming)
    }

    fn now(&self) -> Moment {
        Moment::from_nanos(self.started.elapsed().as_nanos() as i64)
    }

    /// Takes bytes; what goes to the client is given back.
    async fn take(
        &mut self,
        transport: TransportType,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &[u8],
    ) -> Vec<(SocketAddr, Vec<u8>)> {
        let now = self.now();
        let out = self.server.recv(Wrapped::new(bytes, transport, from, to), now).map(|built| built.build());
        let mut back = Vec::new();
        if let Some(out) = out {
            self.pass(out.from, out.to, out.data, &mut back).await;
        }
        self.settle(&mut back).await;
        back
    }

    async fn settle(&mut self, back: &mut Vec<(SocketAddr, Vec<u8>)>) {
        loop {
            let now = self.now();
            match self.server.poll(now) {
                TurnServerPollRet::AllocateSocket {
                    transport,
                    listen_addr,
                    client_addr,
                    allocation_transport,
                    family,
                } => {
                    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a port"));
                    let address = socket.local_addr().expect("bound");
                    self.relayed.push(socket.clone());
                    let came = self.came.clone();
                    tokio::spawn(async move {
                        let mut buffer = [0; 2_000];
                        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                            if came.send((from, address, buffer[..length].to_vec())).await.is_err() {
                                return;
                            }
                        }
                    });
                    self.server.allocated_socket(
                        transport,
                        listen_addr,
                        client_addr,
                        allocation_transport,
                        family,
                        Ok(address),
                        now,
                    );
                }
                TurnServerPollRet::SocketClose { listen_addr, .. } => {
                    self.relayed.retain(|socket| socket.local_addr().ok() != Some(listen_addr));
                }
                _ => break,
            }
        }
        let now = self.now();
        while let Some(out) = self.server.poll_transmit(now) {
            self.pass(out.from, out.to, out.data, back).await;
        }
    }

    async fn pass(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        data: Vec<u8>,
        back: &mut Vec<(SocketAddr, Vec<u8>)>,
    ) {
        match self.relayed.iter().find(|socket| socket.local_addr().ok() == Some(from)) {
            Some(socket) => drop(socket.send_to(&data, to).await),
            None => back.push((to, data)),
        }
    }
}

async fn serve_datagrams(socket: UdpSocket) {
    let place = socket.local_addr().expect("bound");
    let (mut mind, mut coming) = Mind::new(TransportType::Udp, place);
    let mut buffer = [0; 2_000];
    loop {
        let back = tokio::select! {
            Ok((length, from)) = socket.recv_from(&mut buffer) => {
                mind.take(TransportType::Udp, from, place, &buffer[..length]).await
            }
            Some((from, to, bytes)) = coming.recv() => mind.take(TransportType::Udp, from, to, &bytes).await,
        };
        for (to, bytes) in back {
            let _ = socket.send_to(&bytes, to).await;
        }
    }
}

/// Messages one behind the other, each filled up to four bytes.
async fn serve_stream(mut stream: Box<dyn Both>, client: SocketAddr, place: SocketAddr) {
    let (mut mind, mut coming) = Mind::new(TransportType::Udp, place);
    let (mut buffer, mut unfinished) = ([0; 4_000], Vec::new());
    loop {
        let mut back = Vec::new();
        tokio::select! {
            Ok(length) = stream.read(&mut buffer) => {
                if length == 0 {
                    return;
                }
                unfinished.extend_from_slice(&buffer[..length]);
                while unfinished.len() >= 4 {
                    let body = usize::from(u16::from_be_bytes([unfinished[2], unfinished[3]]));
                    let whole = if unfinished[0] < 0x40 { body + 20 } else { body + 4 };
                    if unfinished.len() < whole.next_multiple_of(4) {
                        break;
                    }
                    let message: Vec<u8> = unfinished.drain(..whole.next_multiple_of(4)).take(whole).collect();
                    back.extend(mind.take(TransportType::Udp, client, place, &message).await);
                }
            }
            Some((from, to, bytes)) = coming.recv() => back = mind.take(TransportType::Udp, from, to, &bytes).await,
        }
        for (_, mut bytes) in back {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    }
}

fn relayed(place: SocketAddr, reached: Reached, credential: &str) -> PeerSettings {
    let url = match reached {
        Reached::Udp => format!("turn:{place}?transport=udp"),
        Reached::Tcp => format!("turn:{place}?transport=tcp"),
        Reached::Tls => format!("turns:{place}?transport=tcp"),
    };
    let server = IceServer { urls: vec![url], username: "who".to_owned(), credential: credential.to_owned() };
    PeerSettings { ice_servers: vec![server], relay_only: true, ..settings(Way::Receive, Way::Receive) }
}

#[tokio::test]
async fn everything_goes_through_a_relay_over_udp_tcp_and_tls() {
    for reached in [Reached::Udp, Reached::Tcp, Reached::Tls] {
        let (place, tls) = turn_server(reached).await;
        let client = PeerSettings { tls, ..relayed(place, reached, "secret") };
        let mut ends = [PeerLink::new(client), PeerLink::new(settings(Way::Send, Way::Send))];
        let begun = Instant::now();
        assert!(connect(&mut ends, Duration::from_secs(8)).await, "{reached:?}");
        println!("{reached:?}: connected after {:?}", begun.elapsed());
        media_pass(&mut ends).await;
    }
}

#[tokio::test]
async fn a_relay_that_refuses_us_is_given_up() {
    let (place, _) = turn_server(Reached::Udp).await;
    let mut link = PeerLink::new(relayed(place, Reached::Udp, "wrong"));
    link.create_offer().expect("an offer");
    let gathering = tokio::time::timeout(Duration::from_secs(7), async {
        loop {
            match link.next().await {
                PeerEvent::Candidate(candidate) => panic!("{candidate:?}"),
                PeerEvent::Gathered => return,
                _ => {}
            }
        }
    });
    gathering.await.expect("given up");
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// `cargo nextest run --lib -E 'test(what_receiving_costs)' --run-ignored only --no-capture`
#[test]
#[ignore = "measures for ten seconds"]
fn what_receiving_costs() {
    let (offers, offered) = std::sync::mpsc::channel::<String>();
    let (answers, answered) = std::sync::mpsc::channel::<String>();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let sender = std::thread::spawn(move || {
        runtime().block_on(async move {
            let mut link = PeerLink::new(settings(Way::Send, Way::Send));
            while link.next().await != PeerEvent::Gathered {}
            answers.send(link.take_offer(&offered.recv().expect("offered")).expect("taken")).expect("heard");
            while link.next().await != PeerEvent::Connected {}
            let start = Instant::now();
            for n in 0..500_u64 {
                let due = start + 20 * MS * n as u32;
                let wait = async {
                    loop {
                        link.next().await;
                    }
                };
                let _ = tokio::time::timeout_at(due.into(), wait).await;
                link.send_sound(due, n * 960, &[7; 120]);
                if n % 2 == 0 {
                    link.send_unit(
                        due,
                        n * 1_800,
                        &unit(n % 250 == 0, if n % 250 == 0 { 20_000 } else { 2_400 }),
                    );
                }
            }
        });
    });
    runtime().block_on(async move {
        let mut link = PeerLink::new(settings(Way::Receive, Way::Receive));
        while link.next().await != PeerEvent::Gathered {}
        offers.send(link.create_offer().expect("an offer")).expect("heard");
        link.take_answer(&answered.recv().expect("answered")).expect("agreed");
        while link.next().await != PeerEvent::Connected {}
        let (begun, used, mut units, mut sounds) = (Instant::now(), cpu(), 0, 0);
        while begun.elapsed() < Duration::from_secs(10) {
            let next = tokio::time::timeout(Duration::from_millis(500), link.next());
            match next.await {
                Ok(PeerEvent::Unit(_)) => units += 1,
                Ok(PeerEvent::Sound(_)) => sounds += 1,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        let share = (cpu() - used).as_secs_f64() / begun.elapsed().as_secs_f64();
        println!("{units} pictures, {sounds} packets of sound: {:.2} % of a core", share * 100.0);
    });
    sender.join().expect("sent");
}
