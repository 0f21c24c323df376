//! A scripted caller: just enough SIP over UDP and RTP to send any offer and canned media, and to see every answer.
//!
//! It is deliberately naive: fixed headers, no retransmission of requests but INVITE, one call.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::capture::{Rtp, Stream};
use super::mutate::Mutator;
use super::process::output_of;
use super::{sound, wait_for};

static CALLERS: AtomicU32 = AtomicU32::new(0);

/// The peer's final answer to an INVITE.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// From the INVITE to this answer.
    pub after: Duration,
    pub headers: String,
    pub sdp: String,
}

impl Answer {
    /// Ports of the m-lines, in order.
    pub fn ports(&self) -> Vec<u16> {
        self.media_lines().filter_map(|line| line.split(' ').nth(1)?.parse().ok()).collect()
    }

    /// `m=` lines without their prefix.
    pub fn media_lines(&self) -> impl Iterator<Item = &str> {
        self.sdp.lines().filter_map(|line| line.strip_prefix("m="))
    }
}

/// One scripted caller with its sockets.
pub struct Caller {
    signalling: UdpSocket,
    audio: UdpSocket,
    video: UdpSocket,
    /// Request URI of everything it sends.
    uri: String,
    server: SocketAddr,
    remote_tag: String,
    /// Of this caller among all of this process: the kernel gives ports out again.
    number: u32,
    cseq: u32,
    /// Header lines in every INVITE, UPDATE, REFER, MESSAGE and INFO, each with its line end.
    pub more: String,
    /// UPDATEs of the peer that were answered.
    pub refreshes: u32,
    /// Where sound and pictures stand: every call of `stream` goes on where the last one stopped.
    sent: [Position; 2],
}

/// The next packet of an outgoing RTP stream. Both numbers soon begin again at zero.
#[derive(Clone, Copy)]
struct Position {
    sequence: u16,
    timestamp: u32,
}

/// What the caller sends.
#[derive(Clone, Copy)]
pub struct Sending<'a> {
    pub time: Duration,
    /// Looped.
    pub video: Option<&'a Packetized>,
    pub fps: u32,
    /// A tone in Hz; `None`: silence with a click every second.
    pub tone: Option<f64>,
    /// Samples at 8 kHz from -1 to 1, sent once from the beginning; silence behind them.
    pub sound: Option<&'a [f64]>,
    /// Sends no media at all.
    pub silent: bool,
    /// Spoils what is sent.
    pub mutates: Option<&'a RefCell<Mutator>>,
}

impl Default for Sending<'_> {
    fn default() -> Self {
        Sending {
            time: Duration::from_secs(5),
            video: None,
            fps: 15,
            tone: None,
            sound: None,
            silent: false,
            mutates: None,
        }
    }
}

impl Sending<'_> {
    /// PCMU of block `number`.
    fn block(&self, number: u32) -> [u8; 160] {
        if let Some(sound) = self.sound {
            let at = |n: usize| sound.get(number as usize * 160 + n).copied().unwrap_or(0.0);
            return std::array::from_fn(|n| sound::to_mu_law(at(n)));
        }
        let Some(hertz) = self.tone else {
            return [if number.is_multiple_of(50) { 0x80 } else { 0xff }; 160];
        };
        std::array::from_fn(|at| {
            let time = f64::from(number * 160 + at as u32) / f64::from(sound::RATE);
            sound::to_mu_law((std::f64::consts::TAU * hertz * time).sin() * 0.4)
        })
    }
}

/// The media sockets of a caller, each with where its packets go.
pub struct Lines<'a> {
    pub audio: (&'a UdpSocket, SocketAddr),
    pub video: (&'a UdpSocket, SocketAddr),
}

/// What the caller received while it streamed.
pub struct Received {
    pub audio: Stream,
    pub video: Stream,
}

impl Caller {
    /// Will call `sip:USER@ADDRESS:PORT`.
    pub fn new(uri: &str) -> Caller {
        let server = uri.rsplit('@').next().and_then(|address| address.parse().ok());
        let bind = || {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
            socket.set_nonblocking(true).expect("a socket that does not block");
            socket
        };
        Caller {
            signalling: bind(),
            audio: bind(),
            video: bind(),
            uri: uri.to_owned(),
            server: server.expect("a URI with address and port"),
            remote_tag: String::new(),
            number: CALLERS.fetch_add(1, Ordering::Relaxed),
            cseq: 1,
            more: String::new(),
            refreshes: 0,
            sent: [Position { sequence: 65_500, timestamp: u32::MAX - 50_000 }; 2],
        }
    }

    fn port_of(socket: &UdpSocket) -> u16 {
        socket.local_addr().expect("a bound socket").port()
    }

    /// Where it takes sound.
    pub fn audio_port(&self) -> u16 {
        Self::port_of(&self.audio)
    }

    /// An offer of PCMU and, with `video`, of a video line made of that text; `PORT` in it becomes the video port.
    pub fn offer(&self, video: Option<&str>) -> String {
        let mut sdp = format!(
            "v=0\r\no=- 1 {} IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
             m=audio {} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=sendrecv\r\n",
            self.cseq,
            Self::port_of(&self.audio)
        );
        if let Some(video) = video {
            let port = Self::port_of(&self.video).to_string();
            sdp.extend(video.replace("PORT", &port).lines().map(|line| format!("{}\r\n", line.trim())));
        }
        sdp
    }

    /// A video line offering H.264 in exactly one packetization mode.
    pub fn h264_offer(mode: u8) -> String {
        format!(
            "m=video PORT RTP/AVP 97\na=rtpmap:97 H264/90000\n\
             a=fmtp:97 profile-level-id=42e01f;packetization-mode={mode}\na=rtcp-fb:97 nack pli\na=sendrecv"
        )
    }

    fn request(&self, method: &str, body: &str) -> String {
        self.request_in(method, method, body)
    }

    /// `branch` names the transaction: the ACK of a refusal belongs to its INVITE (RFC 3261 §17.1.1.3).
    fn request_in(&self, branch: &str, method: &str, body: &str) -> String {
        let local = self.signalling.local_addr().expect("a bound socket");
        let tag =
            if self.remote_tag.is_empty() { String::new() } else { format!(";tag={}", self.remote_tag) };
        let named = body.is_empty() || self.more.contains("Content-Type:");
        let kind = if named { "" } else { "Content-Type: application/sdp\r\n" };
        let more = if matches!(method, "INVITE" | "UPDATE" | "REFER" | "MESSAGE" | "INFO") {
            &self.more
        } else {
            ""
        };
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {local};rport;branch=z9hG4bK{branch}{number}x{port}x{cseq}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:script@{local}>;tag=s{port}\r\nTo: <{uri}>{tag}\r\n\
             Call-ID: script-{number}-{port}@127.0.0.1\r\nCSeq: {cseq} {method}\r\nContact: <sip:script@{local}>\r\n{more}{kind}\
             Content-Length: {length}\r\n\r\n{body}",
            uri = self.uri,
            number = self.number,
            port = local.port(),
            cseq = self.cseq,
            length = body.len(),
        )
    }

    fn send(&self, message: &str) {
        self.signalling.send_to(message.as_bytes(), self.server).expect("loopback takes datagrams");
    }

    fn receive(&self) -> Option<String> {
        let mut buffer = [0; 8192];
        let (length, _) = self.signalling.recv_from(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// Waits at most `limit` for one message. Everything else here only looks.
    fn receive_within(&self, limit: Duration) -> Option<String> {
        self.signalling.set_nonblocking(false).expect("a socket that blocks");
        self.signalling.set_read_timeout(Some(limit)).expect("a limit above zero");
        let message = self.receive();
        self.signalling.set_nonblocking(true).expect("a socket that does not block");
        message
    }

    /// Does the peer answer OPTIONS with 200 within `limit`?
    pub fn is_answered(&mut self, limit: Duration) -> bool {
        self.cseq += 1;
        self.send(&self.request("OPTIONS", ""));
        self.receive_within(limit).is_some_and(|message| message.starts_with("SIP/2.0 200"))
    }

    /// Sends the INVITE (again every 500 ms while nothing comes), waits for the final answer, acknowledges it.
    pub fn invite(&mut self, sdp: &str) -> Answer {
        let invite = self.request("INVITE", sdp);
        let start = Instant::now();
        let mut heard = false;
        let (status, message) = loop {
            assert!(start.elapsed() < Duration::from_secs(10), "a final answer to INVITE within 10 s");
            if !heard {
                self.send(&invite);
            }
            let Some(message) = self.receive_within(Duration::from_millis(500)) else { continue };
            heard = true;
            if let Some(status) = status_of(&message).filter(|status| *status >= 200) {
                break (status, message);
            }
        };
        let answer = self.understood(&message, start);
        self.send(&self.request_in(if status < 300 { "ACK" } else { "INVITE" }, "ACK", ""));
        answer
    }

    /// Sends PCMU silence with a click every second, and `units` at 15 fps in a loop, to the answered ports.
    pub fn stream(&mut self, answer: &Answer, time: Duration, video: Option<&Packetized>) -> Received {
        self.stream_as(answer, &Sending { time, video, ..Sending::default() }, |_, _| ())
    }

    /// Sends what `sending` says; `disturb` is called between packets and may send anything of its own.
    pub fn stream_as(
        &mut self,
        answer: &Answer,
        sending: &Sending<'_>,
        mut disturb: impl FnMut(&Lines<'_>, Duration),
    ) -> Received {
        let ports = answer.ports();
        let to =
            |index: usize| SocketAddr::from((Ipv4Addr::LOCALHOST, ports.get(index).copied().unwrap_or(0)));
        let mut audio = Sender::new(&self.audio, to(0), 0, 160, self.sent[0]);
        let mut pictures = Sender::new(&self.video, to(1), 97, 90_000 / sending.fps, self.sent[1]);
        (audio.mutates, pictures.mutates) = (sending.mutates, sending.mutates);
        let mut received = Received { audio: Stream::default(), video: Stream::default() };
        let lines = Lines { audio: (&self.audio, to(0)), video: (&self.video, to(1)) };
        let start = Instant::now();
        let (mut blocks, mut frames) = (0u32, 0u32);
        while start.elapsed() < sending.time {
            if !sending.silent && start.elapsed() >= blocks * Duration::from_millis(20) {
                audio.send(&[&sending.block(blocks)[..]]);
                blocks += 1;
            }
            if let Some(video) = sending.video
                && start.elapsed() * sending.fps >= frames * Duration::from_secs(1)
            {
                let unit = &video.units[frames as usize % video.units.len()];
                pictures.send(&unit.iter().map(Vec::as_slice).collect::<Vec<_>>());
                frames += 1;
            }
            disturb(&lines, start.elapsed());
            let at = start.elapsed().as_secs_f64();
            receive_rtp(&self.audio, at, &mut received.audio);
            receive_rtp(&self.video, at, &mut received.video);
            while let Some(message) = self.receive() {
                if message.starts_with("BYE ") {
                    panic!("the peer hung up: {message}");
                }
                if message.starts_with("UPDATE ") {
                    self.refreshes += 1;
                    self.agree(&message, "Require: timer\r\nSession-Expires: 2;refresher=uac\r\n");
                }
                // A 200 that comes again has missed its ACK.
                if message.starts_with("SIP/2.0 200") && message.contains("INVITE\r\n") {
                    self.send(&self.request("ACK", ""));
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.sent = [audio.at, pictures.at];
        received
    }

    /// A renewed offer inside the call, and its answer.
    pub fn reinvite(&mut self, sdp: &str) -> Answer {
        self.cseq += 1;
        self.invite(sdp)
    }

    /// Where it takes requests.
    pub fn address(&self) -> SocketAddr {
        self.signalling.local_addr().expect("a bound socket")
    }

    /// A request inside the call with further header lines; its final response.
    pub fn ask(&mut self, method: &str, more: &str, body: &str) -> String {
        self.cseq += 1;
        let own = std::mem::replace(&mut self.more, more.to_owned());
        let request = self.request(method, body);
        self.more = own;
        self.send(&request);
        let wanted = format!("CSeq: {} {method}", self.cseq);
        let final_response = wait_for(Duration::from_secs(5), || {
            self.receive().filter(|message| {
                message.starts_with("SIP/2.0 ")
                    && !message.starts_with("SIP/2.0 1")
                    && message.contains(&wanted)
            })
        });
        final_response.unwrap_or_else(|| panic!("{method} gets a final response"))
    }

    /// Waits for a request of the other side and answers it with this status line and body.
    pub fn is_asked(&mut self, method: &str, status: &str, sdp: &str, limit: Duration) -> Option<String> {
        let end = Instant::now() + limit;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            let Some(message) = self.receive_within(left) else { continue };
            if !message.starts_with(&format!("{method} ")) {
                continue;
            }
            let kept = ["via:", "from:", "to:", "call-id:", "cseq:"];
            let lines = message
                .lines()
                .filter(|line| kept.iter().any(|name| line.to_ascii_lowercase().starts_with(name)));
            let lines: String = lines.map(|line| format!("{}\r\n", line.trim_end())).collect();
            let kind = if sdp.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
            let contact = format!("Contact: <sip:script@{}>\r\n", self.address());
            let length = sdp.len();
            self.send(&format!(
                "SIP/2.0 {status}\r\n{lines}{contact}{kind}Content-Length: {length}\r\n\r\n{sdp}"
            ));
            return Some(message);
        }
        None
    }

    /// What the peer said since the last look; 200 that come again are acknowledged again.
    pub fn overhear(&mut self) -> Vec<String> {
        let heard: Vec<String> = std::iter::from_fn(|| self.receive()).collect();
        if heard.iter().any(|message| message.starts_with("SIP/2.0 200") && message.contains("INVITE\r\n")) {
            self.send(&self.request("ACK", ""));
        }
        heard
    }

    /// Waits for the other side's BYE and answers it.
    pub fn is_hung_up(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            let Some(message) = self.receive_within(left) else { continue };
            if message.starts_with("BYE ") {
                self.agree(&message, "");
                return true;
            }
        }
        false
    }

    /// 200 to a request of the peer.
    fn agree(&self, request: &str, more: &str) {
        let kept = ["via:", "from:", "to:", "call-id:", "cseq:"];
        let lines = request
            .lines()
            .filter(|line| kept.iter().any(|name| line.to_ascii_lowercase().starts_with(name)));
        let lines: String = lines.map(|line| format!("{}\r\n", line.trim_end())).collect();
        self.send(&format!("SIP/2.0 200 OK\r\n{lines}{more}Content-Length: 0\r\n\r\n"));
    }

    /// UPDATE without a description. Returns the status it gets.
    pub fn update(&mut self) -> u16 {
        self.cseq += 1;
        let update = self.request("UPDATE", "");
        self.send(&update);
        let answer = wait_for(Duration::from_secs(5), || {
            self.receive()
                .filter(|message| message.starts_with("SIP/2.0 ") && message.contains(" UPDATE\r\n"))
        });
        status_of(&answer.expect("an answer to UPDATE")).unwrap_or_default()
    }

    /// Sends the INVITE and waits for the first answer with a description; it acknowledges nothing.
    pub fn ring(&mut self, sdp: &str) -> Answer {
        let start = Instant::now();
        self.send(&self.request("INVITE", sdp));
        let message = wait_for(Duration::from_secs(5), || {
            self.receive().filter(|message| message.starts_with("SIP/2.0 ") && message.contains("\r\nm="))
        });
        self.understood(&message.expect("an answer with a description"), start)
    }

    /// The final answer after [`Caller::ring`], acknowledged.
    pub fn picked_up(&mut self, limit: Duration) -> Answer {
        let start = Instant::now();
        let message = wait_for(limit, || {
            let is_final = |message: &String| status_of(message).is_some_and(|status| status >= 200);
            self.receive().filter(|message| is_final(message) && message.contains(" INVITE\r\n"))
        });
        let answer = self.understood(&message.expect("a final answer"), start);
        self.send(&self.request("ACK", ""));
        answer
    }

    fn understood(&mut self, message: &str, start: Instant) -> Answer {
        let to =
            message.lines().find(|line| line.to_ascii_lowercase().starts_with("to:")).unwrap_or_default();
        self.remote_tag =
            to.split(";tag=").nth(1).unwrap_or_default().split(';').next().unwrap_or_default().to_owned();
        let (headers, sdp) = message.split_once("\r\n\r\n").unwrap_or((message, ""));
        let status = status_of(message).unwrap_or_default();
        Answer { status, after: start.elapsed(), headers: headers.to_owned(), sdp: sdp.to_owned() }
    }

    /// BYE and its 200.
    pub fn hang_up(&mut self) {
        self.cseq += 1;
        let bye = self.request("BYE", "");
        self.send(&bye);
        let done = wait_for(Duration::from_secs(5), || {
            self.receive().filter(|message| message.starts_with("SIP/2.0 200") && message.contains(" BYE"))
        });
        assert!(done.is_some(), "the BYE is answered with 200");
    }
}

fn status_of(message: &str) -> Option<u16> {
    message.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3)?.parse().ok())
}

fn receive_rtp(socket: &UdpSocket, at: f64, into: &mut Stream) {
    let mut buffer = [0; 2048];
    while let Ok((length, _)) = socket.recv_from(&mut buffer) {
        match Rtp::read(at, &buffer[..length]) {
            Some(packet) => into.packets.push(packet),
            None => into.reports.push((at, buffer[..length].to_vec())),
        }
    }
}

/// One outgoing RTP stream.
struct Sender<'a> {
    socket: &'a UdpSocket,
    to: SocketAddr,
    payload_type: u8,
    step: u32,
    at: Position,
    mutates: Option<&'a RefCell<Mutator>>,
}

impl<'a> Sender<'a> {
    fn new(socket: &'a UdpSocket, to: SocketAddr, payload_type: u8, step: u32, at: Position) -> Self {
        Sender { socket, to, payload_type, step, at, mutates: None }
    }

    /// The packets of one block of sound or one picture; the last has the marker when there is video.
    fn send(&mut self, payloads: &[&[u8]]) {
        for (number, payload) in payloads.iter().enumerate() {
            let marker = u8::from(self.payload_type >= 96 && number + 1 == payloads.len()) << 7;
            let mut packet = vec![0x80, marker | self.payload_type];
            packet.extend(self.at.sequence.to_be_bytes());
            packet.extend(self.at.timestamp.to_be_bytes());
            packet.extend(0x5eed_0000u32.wrapping_add(u32::from(self.payload_type)).to_be_bytes());
            packet.extend_from_slice(payload);
            // A closed port answers with ICMP, which shows up as an error of the next send; media does not care.
            match self.mutates {
                None => drop(self.socket.send_to(&packet, self.to)),
                Some(mutator) => mutator.borrow_mut().send(packet, |spoilt| {
                    let _ = self.socket.send_to(spoilt, self.to);
                }),
            }
            self.at.sequence = self.at.sequence.wrapping_add(1);
        }
        self.at.timestamp = self.at.timestamp.wrapping_add(self.step);
    }
}

/// A clip as RTP payloads, one list per picture.
pub struct Packetized {
    pub units: Vec<Vec<Vec<u8>>>,
}

impl Packetized {
    /// Mode 0: slices small enough for one packet each. Mode 1: whole slices, fragmented where they are too long.
    pub fn read(clip: &Path, mode: u8) -> Packetized {
        let file = tempfile::Builder::new().suffix(".h264").tempfile().expect("a temporary file");
        let mut command = Command::new("ffmpeg");
        command.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y", "-i"]).arg(clip);
        if mode == 0 {
            command.args(["-c:v", "libx264", "-profile:v", "baseline", "-preset", "veryfast", "-g", "30"]);
            command.args(["-bf", "0", "-b:v", "600k", "-x264-params", "slice-max-size=1100:annexb=1"]);
        } else {
            command.args(["-c", "copy", "-bsf:v", "h264_mp4toannexb"]);
        }
        output_of(command.arg(file.path()));
        let bytes = std::fs::read(file.path()).expect("what FFmpeg wrote");
        let mut units: Vec<Vec<Vec<u8>>> = vec![vec![]];
        let mut has_slice = false;
        for nal in nal_units(&bytes) {
            let kind = nal[0] & 31;
            // first_mb_in_slice is 0 exactly when the first bit after the header is set.
            let starts_picture = matches!(kind, 6..=9) || (matches!(kind, 1 | 5) && nal[1] & 0x80 != 0);
            if has_slice && starts_picture {
                units.push(vec![]);
                has_slice = false;
            }
            has_slice |= matches!(kind, 1 | 5);
            let unit = units.last_mut().expect("one unit is open");
            if nal.len() <= 1200 {
                unit.push(nal.to_vec());
            } else {
                assert!(mode == 1, "an encoder kept its slices small");
                unit.extend(fragments(nal));
            }
        }
        Packetized { units }
    }
}

/// NAL units between start codes.
fn nal_units(bytes: &[u8]) -> Vec<&[u8]> {
    let starts: Vec<usize> = (0..bytes.len().saturating_sub(3))
        .filter(|&at| bytes[at..at + 3] == [0, 0, 1])
        .map(|at| at + 3)
        .collect();
    let ends = starts.iter().skip(1).map(|start| start - 3).chain([bytes.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| &bytes[start..end])
        .map(|nal| &nal[..nal.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)])
        .filter(|nal| nal.len() > 1)
        .collect()
}

/// FU-A (RFC 6184 §5.8).
fn fragments(nal: &[u8]) -> Vec<Vec<u8>> {
    let pieces: Vec<&[u8]> = nal[1..].chunks(1150).collect();
    let last = pieces.len() - 1;
    let part = |(number, piece): (usize, &&[u8])| {
        let edge = (u8::from(number == 0) << 7) | (u8::from(number == last) << 6);
        [&[(nal[0] & 0xe0) | 28, edge | (nal[0] & 31)], *piece].concat()
    };
    pieces.iter().enumerate().map(part).collect()
}

#[test]
fn both_packetizations_carry_the_whole_clip() {
    for (mode, kinds) in [(0, &[1, 5, 6, 7, 8][..]), (1, &[1, 5, 6, 7, 8, 28][..])] {
        let clip = Packetized::read(&super::media("face.mp4"), mode);
        assert_eq!(clip.units.len(), 180, "mode {mode}: one unit per picture");
        let packets = clip.units.iter().flatten().enumerate().map(|(number, payload)| Rtp {
            at: number as f64,
            payload_type: 97,
            sequence: number as u16,
            timestamp: 0,
            ssrc: 1,
            payload: payload.clone(),
        });
        let stream = Stream { packets: packets.collect(), ..Stream::default() };
        assert!(stream.largest() <= 1200 && stream.packet_kinds().iter().all(|kind| kinds.contains(kind)));
        assert_eq!(super::picture::read_h264(&stream.h264()).len(), 180, "mode {mode}");
    }
}
