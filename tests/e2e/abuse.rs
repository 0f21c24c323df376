//! What strangers may cost: a flood beside a good peer and a live call, scanners, and what OPTIONS and the trace say.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::appliance::Appliance;
use crate::harness::process::usage_of_tree;
use crate::harness::uac::{Caller, Sending};
use crate::harness::{turn, wait_for};

const ECHO: &str = r#"agent.mirror={kind="mirror", audio="echo"}"#;
/// Nobody but the first loopback address: the others of 127/8 are strangers.
const TRUSTED: &str = r#"sip.trusted=["127.0.0.1/32"]"#;
const PLAIN: &str = r#"route=[{to="*", censor=false, detect=[], record=false}]"#;
const HERTZ: f64 = 700.0;

/// A socket that says single messages.
struct Speaker {
    socket: UdpSocket,
    server: SocketAddr,
    cseq: u32,
}

impl Speaker {
    /// On 127.0.0.`last`.
    fn new(last: u8, server: SocketAddr) -> Speaker {
        let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, last], 0))).expect("a port on loopback");
        socket.set_nonblocking(true).expect("a socket that does not block");
        Speaker { socket, server, cseq: 0 }
    }

    /// Sends a request with further header lines; its size.
    fn say(&mut self, method: &str, headers: &str, body: &str) -> usize {
        self.cseq += 1;
        let (local, cseq) = (self.socket.local_addr().unwrap(), self.cseq);
        let message = format!(
            "{method} sip:100@{server} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{port}x{cseq};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:flood@{local}>;tag=t{cseq}\r\nTo: <sip:100@{server}>\r\n\
             Call-ID: {port}-{cseq}@flood\r\nCSeq: {cseq} {method}\r\nContact: <sip:flood@{local}>\r\n{headers}\
             Content-Length: {length}\r\n\r\n{body}",
            server = self.server,
            port = local.port(),
            length = body.len(),
        );
        self.socket.send_to(message.as_bytes(), self.server).unwrap_or(0)
    }

    /// What came back so far, in bytes.
    fn heard(&self) -> usize {
        let mut buffer = [0; 4096];
        std::iter::from_fn(|| self.socket.recv(&mut buffer).ok()).sum()
    }

    /// The next message within `limit`.
    fn hears(&self, limit: Duration) -> Option<String> {
        let mut buffer = [0; 4096];
        wait_for(limit, || {
            let length = self.socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
    }

    /// The answer to OPTIONS with further header lines.
    fn asks(&mut self, headers: &str) -> Option<String> {
        self.say("OPTIONS", headers, "");
        self.hears(Duration::from_millis(500))
    }
}

fn header<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn dropped(appliance: &Appliance, reason: &str) -> f64 {
    let name = format!("eyeline_sip_dropped_total{{reason=\"{reason}\"}} ");
    let (_, page) = appliance.get("/metrics").expect("the console answers");
    page.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0.0)
}

/// A thousand messages a second from twenty strangers; bytes sent and heard.
fn flood(server: SocketAddr, over: &AtomicBool) -> (usize, usize) {
    let mut strangers: Vec<Speaker> = (2..22).map(|last| Speaker::new(last, server)).collect();
    let (start, mut sent, mut heard, mut count) = (Instant::now(), 0, 0, 0_u64);
    while !over.load(Ordering::Relaxed) {
        while count < start.elapsed().as_millis() as u64 {
            let stranger = &mut strangers[count as usize % 20];
            sent += match count % 3 {
                0 => stranger.say("OPTIONS", "", ""),
                1 => stranger.say("REGISTER", "User-Agent: friendly\r\n", ""),
                _ => stranger.say("INVITE", "Content-Type: application/sdp\r\n", "v=0\r\n"),
            };
            count += 1;
        }
        heard += strangers.iter().map(Speaker::heard).sum::<usize>();
        thread::sleep(Duration::from_millis(2));
    }
    assert!(count >= 8_000, "only {count} messages in {:?}", start.elapsed());
    (sent, heard)
}

/// OPTIONS twenty times a second; asked and answered.
fn good_peer(server: SocketAddr, over: &AtomicBool) -> (usize, usize) {
    let (mut peer, mut asked, mut answered) = (Speaker::new(1, server), 0, 0);
    while !over.load(Ordering::Relaxed) {
        asked += 1;
        answered += usize::from(peer.asks("").is_some_and(|answer| answer.starts_with("SIP/2.0 200")));
        thread::sleep(Duration::from_millis(50));
    }
    (asked, answered)
}

#[test]
fn a_flood_of_strangers_costs_neither_a_good_peer_nor_a_call_anything() {
    let _turn = turn();
    let appliance = Appliance::start(&[ECHO, TRUSTED, PLAIN, "sip.strangers=reject"]);
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(None));
    assert_eq!(answer.status, 200, "{answer:?}");
    let before = usage_of_tree(appliance.process.id());
    let (over, server, time) = (AtomicBool::new(false), appliance.sip, Duration::from_secs(10));
    let (flooded, served, received) = thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(server, &over));
        let peer = scope.spawn(|| good_peer(server, &over));
        let sending = Sending { time, tone: Some(HERTZ), ..Sending::default() };
        let received = caller.stream_as(&answer, &sending, |_, _| ());
        over.store(true, Ordering::Relaxed);
        (flooding.join().unwrap(), peer.join().unwrap(), received)
    });
    let ((sent, heard), (asked, answered)) = (flooded, served);
    assert!(answered * 100 >= asked * 99, "{answered} of {asked} OPTIONS of the good peer are answered");
    assert!(asked > 50, "only {asked} were asked");
    assert!(heard <= sent, "strangers sent {sent} bytes and got {heard}");
    let packets = received.audio.packets.len();
    assert!(packets >= 475, "{packets} packets of sound in 10 s");
    let grown = usage_of_tree(appliance.process.id()).memory_mib - before.memory_mib;
    assert!(grown < 32.0, "{grown:.1} MiB more are resident");
    let kept_out = dropped(&appliance, "rate") + dropped(&appliance, "banned");
    assert!(kept_out > 5_000.0, "{kept_out} messages were dropped unread");
    caller.hang_up();
}

#[test]
fn a_scanner_hears_nothing_and_is_not_listened_to_again() {
    let _turn = turn();
    let appliance = Appliance::start(&[TRUSTED, PLAIN, "sip.strangers=reject"]);
    let (mut stranger, mut other) = (Speaker::new(2, appliance.sip), Speaker::new(3, appliance.sip));
    assert!(other.asks("").is_some_and(|answer| answer.starts_with("SIP/2.0 403")), "strangers are refused");
    assert_eq!(stranger.asks("User-Agent: friendly-scanner\r\n"), None);
    assert_eq!(stranger.asks(""), None, "it is banned");
    assert!(other.asks("").is_some(), "others are not");
    let mut tester = Speaker::new(1, appliance.sip);
    let answer =
        tester.asks("User-Agent: sipvicious\r\n").expect("a trusted source may call itself what it likes");
    assert!(answer.starts_with("SIP/2.0 200"), "{answer}");
    let counted = wait_for(Duration::from_secs(3), || {
        (dropped(&appliance, "scanner") == 1.0 && dropped(&appliance, "banned") == 1.0).then_some(())
    });
    assert!(counted.is_some(), "{:?}", appliance.get("/metrics"));
    let log = appliance.process.log();
    assert!(log.contains("127.0.0.2") && log.contains("it is a scanner"), "{log}");
}

#[test]
fn who_guesses_passwords_is_not_listened_to_for_long() {
    let _turn = turn();
    let user = "sip.user=[{name='door1', password='right'}]";
    let appliance = Appliance::start(&[TRUSTED, PLAIN, "sip.strangers=challenge", user]);
    let (mut guesser, mut other) = (Speaker::new(2, appliance.sip), Speaker::new(3, appliance.sip));
    // Long enough for a challenge to fit into an answer that is no larger.
    let room = format!("X-Room: {}\r\n", "x".repeat(600));
    let challenge = guesser.asks(&room).expect("a challenge");
    assert!(challenge.starts_with("SIP/2.0 401"), "{challenge}");
    let part = |name: &str| {
        let line = challenge
            .lines()
            .find(|line| line.contains("MD5") || line.contains("nonce="))
            .unwrap_or_default();
        line.split(&format!("{name}=\""))
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .unwrap_or_default()
            .to_owned()
    };
    let (realm, nonce) = (part("realm"), part("nonce"));
    let guesses = (1..=20).take_while(|count| {
        let proof = format!(
            "Authorization: Digest username=\"door1\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"sip:100@{}\", \
             response=\"{count:032x}\", algorithm=MD5, qop=auth, nc={count:08x}, cnonce=\"c\"\r\n{room}",
            appliance.sip
        );
        guesser.asks(&proof).is_some()
    });
    let guesses = guesses.count();
    assert!((9..=11).contains(&guesses), "{guesses} guesses were answered");
    assert_eq!(guesser.asks(&room), None, "it is banned");
    assert!(other.asks(&room).is_some(), "others are not");
    assert!(appliance.process.log().contains("it guesses passwords"), "{}", appliance.process.log());
}

#[test]
fn options_tell_how_much_room_there_is_and_that_there_is_none_while_draining() {
    let _turn = turn();
    let appliance = Appliance::start(&[ECHO, PLAIN, "sip.max_calls=5"]);
    let mut proxy = Speaker::new(1, appliance.sip);
    let capacity = |proxy: &mut Speaker| {
        let answer = proxy.asks("").expect("an answer");
        assert!(answer.starts_with("SIP/2.0 200"), "{answer}");
        assert!(header(&answer, "Allow").is_some_and(|allow| allow.contains("INVITE")), "{answer}");
        header(&answer, "X-Capacity").map(str::to_owned)
    };
    assert_eq!(capacity(&mut proxy).as_deref(), Some("5/5"));
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(None));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(capacity(&mut proxy).as_deref(), Some("4/5"));
    appliance.process.signal(Signal::TERM);
    let refused = wait_for(Duration::from_secs(2), || {
        let answer = proxy.asks("")?;
        answer.starts_with("SIP/2.0 503").then_some(answer)
    });
    let refused = refused.expect("503 while draining");
    assert!(header(&refused, "Retry-After").is_some(), "{refused}");
    let mut late = Caller::new(&appliance.uri());
    let refused = late.invite(&late.offer(None));
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(header(&refused.headers, "Retry-After").is_some(), "{refused:?}");
    caller.hang_up();
}

#[test]
fn a_box_that_may_not_take_calls_says_so_to_proxies() {
    let _turn = turn();
    // No disk has so much room.
    let appliance = Appliance::start_alive(&[
        PLAIN,
        "recording.min_free_gib=900000",
        "route=[{record=true, censor=false}]",
    ]);
    assert_eq!(appliance.get("/readyz").map(|(status, _)| status), Some(503));
    let answer = Speaker::new(1, appliance.sip).asks("").expect("an answer");
    assert!(answer.starts_with("SIP/2.0 503"), "{answer}");
}

#[test]
fn the_trace_shows_whole_messages_without_their_secrets_and_ends() {
    let _turn = turn();
    let appliance = Appliance::start_with_options(&["--sip-trace=3s"], &[ECHO, PLAIN]);
    let mut caller = Speaker::new(1, appliance.sip);
    let proof = "Authorization: Digest username=\"door1\", realm=\"r\", nonce=\"s3cret-nonce\", uri=\"sip:a\", \
                 response=\"s3cret-response\"\r\n";
    assert!(caller.asks(proof).is_some());
    let sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/SAVP 99\r\n\
               a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:s3cret-key\r\na=ice-pwd:s3cret-password\r\n";
    caller.say("INVITE", "Content-Type: application/sdp\r\n", sdp);
    let shown = wait_for(Duration::from_secs(2), || {
        let log = appliance.process.log();
        (log.contains("◀── out UDP  127.0.0.1") && log.contains("inline:…")).then_some(log)
    });
    let shown = shown.unwrap_or_else(|| panic!("{}", appliance.process.log()));
    assert!(shown.contains("──▶ in  UDP  127.0.0.1") && shown.contains("OPTIONS sip:100@"), "{shown}");
    assert!(shown.contains("│ Call-ID: ") && shown.contains("username=\"door1\""), "{shown}");
    assert!(!shown.contains("s3cret"), "{shown}");
    let over = wait_for(Duration::from_secs(6), || {
        caller.asks("X-Late: yes\r\n");
        appliance.process.log().contains("no longer shown").then_some(())
    });
    assert!(over.is_some(), "it ends by itself");
    caller.asks("X-After: yes\r\n");
    thread::sleep(Duration::from_millis(300));
    assert!(!appliance.process.log().contains("X-After"), "nothing is shown any more");
}
