//! What goes wrong from outside: ports and folders that cannot be had, settings that make no sense, a disk that fails
//! in mid-call, packets and messages that nobody would send on purpose.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use rustix::process::{Pid, Resource, Rlimit};

use crate::harness::appliance::{Appliance, playable_seconds};
use crate::harness::picture;
use crate::harness::uac::{Caller, Lines, Packetized, Received, Sending};
use crate::harness::{free_ports, media, sound, turn, wait_for};

const ECHO: &str = r#"agent.mirror={kind="mirror", audio="echo"}"#;
const HERTZ: f64 = 700.0;

/// Starts with settings that cannot work; the exit code and the line that says why.
fn refused(settings: &[&str]) -> (i32, String) {
    let mut appliance = Appliance::spawn(settings);
    let ended = appliance.process.wait(Duration::from_secs(10));
    let log = appliance.process.log();
    let code = ended.unwrap_or_else(|| panic!("it goes on: {log}")).code();
    let said: Vec<&str> = log.lines().filter(|line| line.starts_with("eyeline: ")).collect();
    assert_eq!(said.len(), 1, "one line says why: {log}");
    assert!(!log.contains("panicked"), "{log}");
    (code.unwrap_or_else(|| panic!("killed: {log}")), said[0].to_owned())
}

#[test]
fn a_taken_port_is_one_clear_line() {
    let _turn = turn();
    let port = free_ports(2);
    let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let (code, line) = refused(&[&format!("sip.listen=[\"udp:127.0.0.1:{port}\"]")]);
    assert!(code == 1 && line.contains(&port.to_string()) && line.contains("sip.listen"), "{code} {line}");
    drop(taken);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let (code, line) = refused(&[&format!("sip.listen=[\"tcp:127.0.0.1:{port}\"]")]);
    assert!(code == 1 && line.contains(&port.to_string()) && line.contains("sip.listen"), "{code} {line}");
    let (code, line) = refused(&[&format!("console.listen=\"127.0.0.1:{port}\"")]);
    assert!(
        code == 1 && line.contains(&port.to_string()) && line.contains("console.listen"),
        "{code} {line}"
    );
    drop(taken);
}

#[test]
fn a_folder_that_cannot_be_written_is_one_clear_line() {
    let _turn = turn();
    let file = tempfile::NamedTempFile::new().unwrap();
    let name = file.path().display().to_string();
    for setting in [format!("recording.dir=\"{name}\""), format!("appliance.data_dir=\"{name}\"")] {
        let (code, line) = refused(&[&setting]);
        assert!(code == 1 && line.contains(&name) && line.contains("recording"), "{setting}: {code} {line}");
    }
}

#[test]
fn bad_settings_are_told_all_at_once() {
    let _turn = turn();
    let bad = ["video.fps=0", "censor.style=blurr", "sip.nonsense=1", "route=[{agent='nobody'}]"];
    let mut appliance = Appliance::spawn(&bad);
    let ended = appliance.process.wait(Duration::from_secs(5)).expect("it ends");
    let log = appliance.process.log();
    assert_eq!(ended.code(), Some(78), "{log}");
    for key in ["video.fps", "censor.style", "sip.nonsense", "route[0].agent"] {
        assert!(log.contains(key), "{key} is named: {log}");
    }
    assert!(log.contains("4 problems"), "{log}");
}

/// The decoded sound of what came back, without its first second.
fn heard(received: &Received) -> Vec<f64> {
    let packets = received.audio.packets.iter().skip(50);
    packets.flat_map(|packet| packet.payload.iter().map(|byte| sound::from_mu_law(*byte))).collect()
}

fn assert_echo(received: &Received, time: Duration) {
    let packets = received.audio.packets.len();
    assert!(packets as f64 > time.as_secs_f64() * 48.0, "{packets} packets of sound in {time:?}");
    let heard = heard(received);
    let (share, silent) = (sound::tone_share(&heard, HERTZ), sound::longest_silence_ms(&heard, -40.0));
    assert!(share > 0.9 && silent <= 60, "{share:.3} of the echo is the tone, {silent} ms are silent");
}

fn metric(appliance: &Appliance, name: &str) -> f64 {
    let (_, page) = appliance.get("/metrics").expect("the console answers");
    let lines = page.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// The console's figures are renewed a few times a second, those of media once a second.
fn metric_of_at_least(appliance: &Appliance, name: &str, least: f64) -> f64 {
    let found = wait_for(Duration::from_secs(3), || {
        let value = metric(appliance, name);
        (value >= least).then_some(value)
    });
    found.unwrap_or_else(|| panic!("{name} is {}, not {least} or more", metric(appliance, name)))
}

#[test]
fn a_disk_that_fails_in_mid_call_costs_the_recording_and_not_the_call() {
    let _turn = turn();
    let appliance = Appliance::start(&[ECHO]);
    let clip = Packetized::read(&media("face.mp4"), 1);
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    let sending = |seconds| Sending {
        time: Duration::from_secs(seconds),
        video: Some(&clip),
        tone: Some(HERTZ),
        ..Sending::default()
    };
    caller.stream_as(&answer, &sending(3), |_, _| ());
    // From now on no file of it can grow beyond what this one has: every write fails as on a full disk.
    let recording = appliance.recordings().remove(0);
    let size = std::fs::metadata(&recording).unwrap().len();
    assert!(size > 10_000, "{size} bytes so far");
    let pid = Pid::from_raw(appliance.process.id() as i32);
    let limit = Rlimit { current: Some(size), maximum: Some(size) };
    rustix::process::prlimit(pid, Resource::Fsize, limit).expect("a limit for a child of ours");
    let received = caller.stream_as(&answer, &sending(4), |_, _| ());
    let told = appliance.process.log();
    assert!(told.contains("recording"), "said while the call goes on: {told}");
    caller.hang_up();

    assert_echo(&received, Duration::from_secs(4));
    assert!(received.video.per_second() >= 13.0, "{:.2} fps", received.video.per_second());
    let record = appliance.call_record(&appliance.finished_recording());
    let error = record["recording"]["error"].as_str().unwrap_or_else(|| panic!("no error: {record}"));
    assert!(error.contains("mp4"), "{error}");
    let seconds = playable_seconds(&recording);
    assert!(seconds > 1.0, "what was written plays: {seconds:.1} s");
    metric_of_at_least(&appliance, "eyeline_recording_errors_total", 1.0);
    // The next call is refused nothing but its recording.
    let mut next = Caller::new(&appliance.uri());
    assert_eq!(next.invite(&next.offer(None)).status, 200);
    next.hang_up();
}

/// Packets that are RTP or RTCP only at first sight.
fn broken_packet(random: &mut StdRng, payload_type: u8) -> Vec<u8> {
    let mut packet = vec![0; random.random_range(0..1400)];
    random.fill_bytes(&mut packet);
    let head = |packet: &mut Vec<u8>, first: u8, second: u8| {
        packet.resize(packet.len().max(12), 0);
        packet[..2].copy_from_slice(&[first, second]);
    };
    match random.random_range(0..8) {
        // Anything but version 2.
        0 => head(&mut packet, 0x40, payload_type),
        // Too short for its header.
        1 => packet.truncate(11),
        // More sources than bytes.
        2 => {
            head(&mut packet, 0x8f, payload_type);
            packet.truncate(20);
        }
        // An extension that goes on behind the end.
        3 => {
            head(&mut packet, 0x90, payload_type);
            packet.resize(16, 0);
            packet[14..16].fill(0xff);
        }
        // More padding than packet.
        4 => {
            head(&mut packet, 0xa0, payload_type);
            packet.truncate(40);
            *packet.last_mut().unwrap() = 250;
        }
        // RTCP whose lengths lie.
        5 => {
            let kind = random.random_range(200..=207);
            head(&mut packet, 0x81 + random.random_range(0..30), kind);
        }
        6 => packet.clear(),
        _ => head(&mut packet, 0x00, random.random()),
    }
    packet
}

/// RTP in order, with payloads that are no H.264.
fn broken_picture(random: &mut StdRng, sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 97 | random.random_range(0..2u8) << 7];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * 6000).to_be_bytes());
    packet.extend(0x5eed_0061u32.to_be_bytes());
    let mut payload = vec![0; random.random_range(0..1200)];
    random.fill_bytes(&mut payload);
    let start: &[u8] = match random.random_range(0..9) {
        // FU-A: in the middle, begun twice, with both ends, of a fragment's own type.
        0 => &[0x7c, 0x05],
        1 => &[0x7c, 0x85],
        2 => &[0x7c, 0xc5],
        3 => &[0x7c, 0x9c],
        // STAP-A longer than the packet, and with empty parts.
        4 => &[0x78, 0xff, 0xff],
        5 => &[0x78, 0, 0, 0, 0],
        // A key slice, parameter sets and a reserved type full of noise.
        6 => &[0x65, 0x88],
        7 => &[[0x67], [0x68]][random.random_range(0..2)],
        _ => &[0x1f],
    };
    packet.extend(start);
    packet.extend(payload);
    packet
}

#[test]
fn a_flood_of_broken_media_is_counted_and_the_call_goes_on() {
    let _turn = turn();
    let appliance = Appliance::start(&[ECHO]);
    let clip = Packetized::read(&media("face.mp4"), 1);
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    let clean =
        Sending { time: Duration::from_secs(2), video: Some(&clip), tone: Some(HERTZ), ..Sending::default() };
    caller.stream_as(&answer, &clean, |_, _| ());

    let mut random = StdRng::seed_from_u64(20_260_307);
    let mut sent = 0u32;
    let flood = |lines: &Lines<'_>, at: Duration| {
        // 3000 packets in four seconds, a third on each kind of line.
        while sent < 1000 && at >= sent * Duration::from_millis(4) {
            let (audio, video) = (lines.audio, lines.video);
            let _ = audio.0.send_to(&broken_packet(&mut random, 0), audio.1);
            let _ = video.0.send_to(&broken_packet(&mut random, 97), video.1);
            let _ = video.0.send_to(&broken_picture(&mut random, sent as u16), video.1);
            sent += 1;
        }
    };
    let sending = Sending { time: Duration::from_millis(4500), tone: Some(HERTZ), ..Sending::default() };
    let received = caller.stream_as(&answer, &sending, flood);
    assert_eq!(sent, 1000);
    let log = appliance.process.log();
    assert!(!log.contains("panicked") && !log.contains("broke"), "{log}");
    assert_echo(&received, sending.time);
    let malformed = metric_of_at_least(&appliance, "eyeline_rtp_malformed_total", 1500.0);
    println!("{malformed} of 3000 packets are malformed as RTP or RTCP");

    let again = caller.stream_as(&answer, &Sending { time: Duration::from_secs(4), ..clean }, |_, _| ());
    assert_echo(&again, Duration::from_secs(4));
    let pictures = picture::read_h264(&again.video.h264());
    let shown = pictures.iter().rev().take(15).filter(|picture| !picture.is_slate()).count();
    assert!(shown >= 10, "{shown} of the last 15 pictures show the scene again");
    caller.hang_up();
    appliance.finished_recording();
}

#[test]
fn another_source_in_between_does_not_mute_the_caller() {
    let _turn = turn();
    let appliance = Appliance::start(&[ECHO]);
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(None));
    let mut random = StdRng::seed_from_u64(7);
    let mut sent = 0u32;
    // A lone packet with a source number of its own every 100 ms, as gateways send for comfort noise or tones.
    let lone = |lines: &Lines<'_>, at: Duration| {
        if at >= sent * Duration::from_millis(100) {
            let mut packet = vec![0x80, 0];
            packet.extend(random.random::<[u8; 10]>());
            packet.extend([0xff; 160]);
            let _ = lines.audio.0.send_to(&packet, lines.audio.1);
            sent += 1;
        }
    };
    let sending = Sending { time: Duration::from_secs(4), tone: Some(HERTZ), ..Sending::default() };
    let received = caller.stream_as(&answer, &sending, lone);
    caller.hang_up();
    assert!(sent > 30);
    assert_echo(&received, sending.time);
}

/// Datagrams that are SIP only at first sight.
fn broken_message(random: &mut StdRng, port: u16) -> Vec<u8> {
    let number: u64 = random.random();
    let good = |method: &str| {
        format!(
            "{method} sip:mirror@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{port};rport;branch=z9hG4bK{number}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:mirror@127.0.0.1>\r\n\
             Call-ID: {number}@127.0.0.1\r\nCSeq: 1 {method}\r\nContact: <sip:a@127.0.0.1:{port}>\r\n\
             Content-Length: 0\r\n\r\n"
        )
    };
    let without = |name: &str| {
        let invite = good("INVITE");
        let lines = invite.split_inclusive("\r\n").filter(|line| !line.starts_with(name));
        lines.collect::<String>().into_bytes()
    };
    match random.random_range(0..9) {
        0 => {
            let mut bytes = vec![0; random.random_range(0..1500)];
            random.fill_bytes(&mut bytes);
            bytes
        }
        1 => without(["Via", "From", "To", "Call-ID", "CSeq"][random.random_range(0..5)]),
        2 => good("INVITE").replace("CSeq: 1 INVITE", "CSeq: 99999999999 INVITE").into_bytes(),
        3 => good("INVITE").replace("Content-Length: 0", "Content-Length: 5000").into_bytes(),
        4 => good("INVITE").replace("SIP/2.0\r\n", "SIP/3.0\r\n").into_bytes(),
        5 => good("BYE").into_bytes(),
        6 => {
            let mut bytes = good("OPTIONS").into_bytes();
            for _ in 0..20 {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            bytes
        }
        7 => {
            let mut bytes = good("OPTIONS").into_bytes();
            bytes.truncate(random.random_range(0..bytes.len()));
            bytes
        }
        _ => b"SIP/2.0 200 OK\r\n\r\n".to_vec(),
    }
}

fn open_files(appliance: &Appliance) -> usize {
    std::fs::read_dir(Path::new("/proc").join(appliance.process.id().to_string()).join("fd")).unwrap().count()
}

#[test]
fn broken_messages_make_no_calls_and_others_are_still_answered() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    let mut random = StdRng::seed_from_u64(20_260_308);
    for number in 0..2000 {
        socket.send_to(&broken_message(&mut random, port), appliance.sip).unwrap();
        if number % 50 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let mut caller = Caller::new(&appliance.uri());
    assert!(caller.is_answered(Duration::from_secs(2)), "OPTIONS is answered");
    let malformed = metric_of_at_least(&appliance, "eyeline_sip_parse_errors_total", 800.0);
    println!("{malformed} of 2000 messages are malformed");
    assert_eq!(metric(&appliance, "eyeline_calls_active"), 0.0);
    let answer = caller.invite(&caller.offer(None));
    assert_eq!(answer.status, 200, "{answer:?}");
    caller.hang_up();
}

#[test]
fn broken_and_silent_connections_are_let_go() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    let before = open_files(&appliance);
    let connect = || {
        let stream = TcpStream::connect(appliance.sip).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        stream
    };
    let silent: Vec<TcpStream> = (0..20).map(|_| connect()).collect();
    let mut halves: Vec<TcpStream> = (0..20).map(|_| connect()).collect();
    for stream in &mut halves {
        stream.write_all(b"OPTIONS sip:mirror@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.").unwrap();
    }
    let mut random = StdRng::seed_from_u64(20_260_309);
    // They stay open on this side: whoever talks nonsense is not trusted to hang up.
    let mut broken: Vec<TcpStream> = (0..20).map(|_| connect()).collect();
    for stream in &mut broken {
        let mut noise = vec![0; 2000];
        random.fill_bytes(&mut noise);
        noise[0] = 0;
        stream.write_all(&noise).unwrap();
    }
    for stream in &mut broken {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        let reset = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(ended.is_ok() || reset, "a broken stream is closed: {ended:?}");
    }
    let expected = before + silent.len() + halves.len();
    let closed = wait_for(Duration::from_secs(2), || (open_files(&appliance) <= expected + 2).then_some(()));
    assert!(closed.is_some(), "{} files open, {expected} expected", open_files(&appliance));
    let mut caller = Caller::new(&appliance.uri());
    assert!(caller.is_answered(Duration::from_secs(2)), "OPTIONS is answered");
    assert_eq!(metric(&appliance, "eyeline_calls_active"), 0.0);
    drop((silent, halves));
    let closed = wait_for(Duration::from_secs(2), || (open_files(&appliance) <= before + 2).then_some(()));
    assert!(closed.is_some(), "{} files open, {before} before", open_files(&appliance));
}

#[test]
fn strangers_get_no_answer() {
    let _turn = turn();
    let appliance = Appliance::start(&[r#"sip.trusted=["10.0.0.0/8"]"#]);
    let mut caller = Caller::new(&appliance.uri());
    assert!(!caller.is_answered(Duration::from_secs(1)), "OPTIONS of a stranger is not answered");
    let mut stream = TcpStream::connect(appliance.sip).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    // The connection may be gone before this is written.
    let _ = stream.write_all(b"OPTIONS sip:mirror@127.0.0.1 SIP/2.0\r\nContent-Length: 0\r\n\r\n");
    let mut said = Vec::new();
    let start = Instant::now();
    let _ = stream.read_to_end(&mut said);
    assert!(said.is_empty() && start.elapsed() < Duration::from_secs(2), "closed without a word: {said:?}");
    metric_of_at_least(&appliance, "eyeline_sip_dropped_total{reason=\"acl\"}", 1.0);
    assert_eq!(metric(&appliance, "eyeline_calls_active"), 0.0);
}
