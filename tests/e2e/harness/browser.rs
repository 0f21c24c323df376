//! A peer as browsers are: ICE checks, DTLS with keys for SRTP, RTCP on the RTP port. Sound only.
//!
//! SIP is `uac`'s; DTLS and SRTP are Eyeline's own machines in the other role, the checks are written here.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use eyeline::secure::dtls::{Association, Identity, Progress};
use eyeline::secure::srtp::{Incoming, Outgoing};
use eyeline::secure::{self, Kind};
use ring::hmac;

use super::capture::{Rtp, Stream};
use super::sound;

const UFRAG: &str = "browser1";
const PASSWORD: &str = "browserpassword1234567";

/// Its one media port and what became of it.
pub struct Browser {
    socket: UdpSocket,
    identity: Identity,
    handshake: Option<Association>,
    keys: Option<(Outgoing, Incoming)>,
    to: SocketAddr,
    username: String,
    password: String,
    sequence: u16,
    pub heard: Stream,
    pub checks_passed: usize,
    /// Media that was not protected as agreed.
    pub clear: usize,
    pub keyed_after: Option<Duration>,
}

impl Browser {
    pub fn new() -> Browser {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        socket.set_nonblocking(true).expect("a socket that does not block");
        Browser {
            socket,
            identity: Identity::generate().expect("a certificate"),
            handshake: None,
            keys: None,
            to: SocketAddr::from((Ipv4Addr::LOCALHOST, 9)),
            username: String::new(),
            password: String::new(),
            sequence: 65_000,
            heard: Stream::default(),
            checks_passed: 0,
            clear: 0,
            keyed_after: None,
        }
    }

    /// Its address is not in it: browsers hide it behind mDNS names. `setup`: `actpass`, `active` or `passive`.
    pub fn offer(&self, setup: &str) -> String {
        let (name, hash) = self.identity.fingerprint();
        let hash: Vec<String> = hash.iter().map(|byte| format!("{byte:02X}")).collect();
        format!(
            "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
             m=audio 9 UDP/TLS/RTP/SAVPF 0\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n\
             a=ice-ufrag:{UFRAG}\r\na=ice-pwd:{PASSWORD}\r\na=ice-options:trickle\r\n\
             a=fingerprint:{name} {}\r\na=setup:{setup}\r\na=mid:0\r\na=sendrecv\r\na=rtcp-mux\r\n\
             a=rtpmap:0 PCMU/8000\r\n",
            hash.join(":")
        )
    }

    /// Reads where to and with whom.
    pub fn take_answer(&mut self, sdp: &str) {
        let value = |name: &str| {
            let found = sdp.lines().find_map(|line| line.strip_prefix("a=")?.strip_prefix(name));
            found.unwrap_or_else(|| panic!("no {name} in {sdp}")).trim_start_matches(':').trim().to_owned()
        };
        let port =
            sdp.lines().find_map(|line| line.strip_prefix("m=audio ")?.split(' ').next()?.parse().ok());
        self.to = SocketAddr::from((Ipv4Addr::LOCALHOST, port.expect("a port")));
        self.username = format!("{}:{UFRAG}", value("ice-ufrag"));
        self.password = value("ice-pwd");
        assert!(
            sdp.contains("a=ice-lite") && sdp.contains("a=rtcp-mux") && sdp.contains("typ host"),
            "{sdp}"
        );
        let fingerprint = value("fingerprint");
        let (name, hash) = fingerprint.split_once(' ').expect("a name and a hash");
        let bytes = hash.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"));
        let client = match value("setup").as_str() {
            "passive" => true,
            "active" => false,
            other => panic!("a=setup:{other}"),
        };
        let peer = (name.to_ascii_lowercase(), bytes.collect());
        let handshake = Association::new(Instant::now(), &self.identity, client, peer);
        self.handshake = Some(handshake.expect("it begins"));
    }

    /// Checks, shakes hands and says a tone for so long; forgets what it heard before.
    pub fn talk(&mut self, time: Duration, hertz: f64) {
        self.heard.packets.clear();
        let (start, mut blocks, mut checked) = (Instant::now(), 0_u32, None::<Instant>);
        while start.elapsed() < time {
            if checked.is_none_or(|at| at.elapsed() > Duration::from_millis(500)) {
                checked = Some(Instant::now());
                let check = self.check();
                let _ = self.socket.send_to(&check, self.to);
            }
            self.receive(start);
            if start.elapsed() >= blocks * Duration::from_millis(20) {
                self.say(blocks, hertz);
                blocks += 1;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Goes on from another port, as after a change of network.
    pub fn move_away(&mut self) {
        *self = Browser { socket: Browser::new().socket, ..std::mem::replace(self, Browser::new()) };
    }

    fn say(&mut self, block: u32, hertz: f64) {
        let Some((out, _)) = &mut self.keys else { return };
        let mut packet = vec![0x80, 0];
        packet.extend(self.sequence.to_be_bytes());
        packet.extend((u32::from(self.sequence) * 160).to_be_bytes());
        packet.extend(0xb20_u32.to_be_bytes());
        packet.extend((0..160).map(|at| {
            let time = f64::from(block * 160 + at) / f64::from(sound::RATE);
            sound::to_mu_law((std::f64::consts::TAU * hertz * time).sin() * 0.4)
        }));
        self.sequence = self.sequence.wrapping_add(1);
        out.protect_rtp(&mut packet).expect("protected");
        let _ = self.socket.send_to(&packet, self.to);
    }

    fn receive(&mut self, start: Instant) {
        let mut buffer = [0; 2048];
        let now = Instant::now();
        while let Ok((length, _)) = self.socket.recv_from(&mut buffer) {
            let datagram = &mut buffer[..length];
            match secure::kind(datagram) {
                // A success response.
                Kind::Stun => self.checks_passed += usize::from(datagram.starts_with(&[1, 1])),
                Kind::Dtls => self.shake(start, datagram),
                Kind::Media => {
                    let rtcp = (192..=223).contains(&datagram[1]);
                    let opened = self.keys.as_mut().and_then(|(_, keys)| {
                        if rtcp { keys.unprotect_rtcp(datagram) } else { keys.unprotect_rtp(datagram) }.ok()
                    });
                    match opened {
                        Some(length) if !rtcp => {
                            let at = start.elapsed().as_secs_f64();
                            self.heard.packets.extend(Rtp::read(at, &datagram[..length]));
                        }
                        Some(_) => {}
                        None => self.clear += 1,
                    }
                }
                Kind::Unknown => panic!("a datagram of no kind"),
            }
        }
        // Nobody may be called before a check has passed.
        let Some(handshake) = self.handshake.as_mut().filter(|_| self.checks_passed > 0) else { return };
        handshake.handle_time(now).expect("in time");
        while let Some(flight) = handshake.poll() {
            let _ = self.socket.send_to(&flight, self.to);
        }
    }

    fn shake(&mut self, start: Instant, datagram: &[u8]) {
        let Some(handshake) = &mut self.handshake else { return };
        if let Some(Progress::Keys(keys)) =
            handshake.handle(Instant::now(), datagram).expect("a sound handshake")
        {
            let out = Outgoing::new(keys.suite, &keys.local).expect("a key");
            self.keys = Some((out, Incoming::new(keys.suite, &keys.remote).expect("a key")));
            self.keyed_after = Some(start.elapsed());
        }
    }

    /// A binding request that nominates (RFC 8445 §7.2.2).
    fn check(&self) -> Vec<u8> {
        let mut bytes = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        bytes.extend([3; 12]);
        let put = |bytes: &mut Vec<u8>, kind: u16, value: &[u8]| {
            bytes.extend(kind.to_be_bytes());
            bytes.extend((value.len() as u16).to_be_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            let length = (bytes.len() - 20) as u16;
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
        };
        put(&mut bytes, 0x0006, self.username.as_bytes());
        put(&mut bytes, 0x0024, &[0x6e, 0x7f, 0, 0xff]);
        put(&mut bytes, 0x802a, &[9; 8]);
        put(&mut bytes, 0x0025, &[]);
        let mut signed = bytes.clone();
        let length = (bytes.len() + 24 - 20) as u16;
        signed[2..4].copy_from_slice(&length.to_be_bytes());
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.password.as_bytes());
        put(&mut bytes, 0x0008, hmac::sign(&key, &signed).as_ref());
        bytes
    }
}
