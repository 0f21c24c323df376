//! What really crossed loopback: tcpdump's packets, read as SIP, RTP and H.264.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::Process;
use super::wait_for;

/// One UDP datagram or TCP segment with data.
pub struct Packet {
    /// Seconds since the epoch.
    pub at: f64,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub is_tcp: bool,
    pub payload: Vec<u8>,
}

/// A running capture.
pub struct Capture {
    tcpdump: Process,
    folder: TempDir,
}

impl Capture {
    /// Captures UDP and TCP with a port in one of these ranges.
    pub fn start(ports: &[(u16, u16)]) -> Capture {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let filter: Vec<String> =
            ports.iter().map(|(first, last)| format!("portrange {first}-{last}")).collect();
        let mut command = Command::new("tcpdump");
        // Without --immediate-mode and -U the last packets stay in its buffers; without -Z it may not write.
        command.args(["-i", "lo", "-n", "-p", "-U", "--immediate-mode", "-B", "8192", "-w"]);
        command.arg(folder.path().join("capture.pcap"));
        if rustix::process::geteuid().is_root() {
            command.args(["-Z", "root"]);
        }
        command.arg(filter.join(" or "));
        let mut tcpdump = Process::start("tcpdump", &mut command, folder.path());
        let listening = wait_for(Duration::from_secs(5), || {
            (tcpdump.log().contains("listening on") || !tcpdump.is_running()).then(|| tcpdump.is_running())
        });
        assert!(
            listening == Some(true),
            "cannot capture packets; run the tests as root or through `make test`. {}",
            tcpdump.last_words()
        );
        Capture { tcpdump, folder }
    }

    /// Ends it and returns everything seen, in order.
    pub fn finish(mut self) -> Vec<Packet> {
        // What is on its way now still counts.
        std::thread::sleep(Duration::from_millis(200));
        self.tcpdump.signal(Signal::INT);
        let _ = self.tcpdump.wait(Duration::from_secs(3));
        assert!(self.tcpdump.log().contains("0 packets dropped by kernel"), "{}", self.tcpdump.last_words());
        packets(&self.folder.path().join("capture.pcap"))
    }
}

/// Reads a little-endian pcap file of Ethernet frames (what tcpdump writes for `lo`) with IPv4 inside.
fn packets(file: &Path) -> Vec<Packet> {
    let bytes = fs::read(file).expect("tcpdump's file");
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    assert!(word(0) == 0xa1b2_c3d4 && word(20) == 1, "not a pcap file of Ethernet frames");
    let mut found = Vec::new();
    let mut at = 24;
    while at + 16 <= bytes.len() {
        let length = word(at + 8) as usize;
        let time = f64::from(word(at)) + f64::from(word(at + 4)) / 1e6;
        let Some(frame) = bytes.get(at + 16..at + 16 + length) else { break };
        found.extend(read_frame(time, frame));
        at += 16 + length;
    }
    found
}

fn read_frame(at: f64, frame: &[u8]) -> Option<Packet> {
    let ip = frame.get(14..).filter(|_| frame[12..14] == [8, 0])?;
    let header = usize::from(ip[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let segment = ip.get(header..total.min(ip.len()))?;
    let (is_tcp, start) = match ip[9] {
        17 => (false, 8),
        6 => (true, usize::from(segment[12] >> 4) * 4),
        _ => return None,
    };
    let address = |ip_at: usize, port_at: usize| {
        let ip = Ipv4Addr::new(ip[ip_at], ip[ip_at + 1], ip[ip_at + 2], ip[ip_at + 3]);
        SocketAddr::from((ip, u16::from_be_bytes([segment[port_at], segment[port_at + 1]])))
    };
    let payload = segment.get(start..).filter(|payload| !payload.is_empty())?.to_vec();
    Some(Packet { at, source: address(12, 0), destination: address(16, 2), is_tcp, payload })
}

/// One RTP packet without its header.
#[derive(Clone)]
pub struct Rtp {
    pub at: f64,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    pub payload: Vec<u8>,
}

impl Rtp {
    /// RFC 3550 §5.1; `None` for RTCP and anything else.
    pub fn read(at: f64, bytes: &[u8]) -> Option<Rtp> {
        if bytes.len() < 12 || bytes[0] >> 6 != 2 || (200..=207).contains(&bytes[1]) {
            return None;
        }
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let mut start = 12 + usize::from(bytes[0] & 15) * 4;
        if bytes[0] & 0x10 != 0 {
            start +=
                4 + usize::from(u16::from_be_bytes([*bytes.get(start + 2)?, *bytes.get(start + 3)?])) * 4;
        }
        Some(Rtp {
            at,
            payload_type: bytes[1] & 127,
            sequence: u16::from_be_bytes([bytes[2], bytes[3]]),
            timestamp: word(4),
            ssrc: word(8),
            payload: bytes.get(start..)?.to_vec(),
        })
    }
}

/// One RTP stream: everything with one SSRC that one address sent.
#[derive(Clone, Default)]
pub struct Stream {
    pub packets: Vec<Rtp>,
    /// RTCP on the same port, and when it came.
    pub reports: Vec<(f64, Vec<u8>)>,
}

/// The RTP streams whose destination port lies in `ports`, the longest first.
pub fn streams_to(packets: &[Packet], ports: (u16, u16)) -> Vec<Stream> {
    let mut found: BTreeMap<(SocketAddr, u32), Vec<Rtp>> = BTreeMap::new();
    let inbound = packets
        .iter()
        .filter(|packet| !packet.is_tcp && (ports.0..=ports.1).contains(&packet.destination.port()));
    for packet in inbound {
        if let Some(rtp) = Rtp::read(packet.at, &packet.payload) {
            found.entry((packet.source, rtp.ssrc)).or_default().push(rtp);
        }
    }
    let mut streams: Vec<Stream> =
        found.into_values().map(|packets| Stream { packets, ..Stream::default() }).collect();
    streams.sort_by_key(|stream| std::cmp::Reverse(stream.packets.len()));
    streams
}

impl Stream {
    pub fn payload_type(&self) -> u8 {
        self.packets[0].payload_type
    }

    /// Dynamic payload types carry the video in these tests, static ones the sound.
    pub fn is_video(&self) -> bool {
        self.payload_type() >= 96
    }

    /// From the first to the last packet, in seconds.
    pub fn seconds(&self) -> f64 {
        self.packets.last().map_or(0.0, |last| last.at - self.packets[0].at)
    }

    /// Different RTP timestamps per second: pictures, or blocks of sound. The first half second does not count:
    /// what was sent before the receiver looked arrives at once.
    pub fn per_second(&self) -> f64 {
        let Some((start, end)) = self.packets.first().zip(self.packets.last()) else { return 0.0 };
        let steady = |packet: &&Rtp| packet.at >= start.at + 0.5;
        let mut timestamps: Vec<u32> =
            self.packets.iter().filter(steady).map(|packet| packet.timestamp).collect();
        timestamps.sort_unstable();
        timestamps.dedup();
        let from = self.packets.iter().find(steady).map_or(end.at, |packet| packet.at);
        (timestamps.len().max(1) - 1) as f64 / (end.at - from).max(0.001)
    }

    /// Largest packet without its RTP header, in bytes.
    pub fn largest(&self) -> usize {
        self.packets.iter().map(|packet| packet.payload.len()).max().unwrap_or(0)
    }

    /// NAL unit types as packetized: 1 to 23 whole, 24 STAP-A, 28 FU-A (RFC 6184 §5.4).
    pub fn packet_kinds(&self) -> Vec<u8> {
        let mut kinds: Vec<u8> =
            self.packets.iter().filter_map(|packet| packet.payload.first()).map(|byte| byte & 31).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// The H.264 byte stream (Annex B) in the packets, in sequence order.
    pub fn h264(&self) -> Vec<u8> {
        let first = self.packets.first().map_or(0, |packet| packet.sequence);
        let mut ordered: Vec<&Rtp> = self.packets.iter().collect();
        // A test call is shorter than one round of sequence numbers; what reordering there is stays small.
        ordered.sort_by_key(|packet| packet.sequence.wrapping_sub(first).wrapping_add(100));
        let mut bytes = Vec::new();
        for packet in ordered {
            depacketize(&packet.payload, &mut bytes);
        }
        bytes
    }
}

const START_CODE: [u8; 4] = [0, 0, 0, 1];

fn depacketize(payload: &[u8], bytes: &mut Vec<u8>) {
    match payload {
        [kind, ..] if (1..=23).contains(&(kind & 31)) => {
            bytes.extend_from_slice(&START_CODE);
            bytes.extend_from_slice(payload);
        }
        [kind, rest @ ..] if kind & 31 == 24 => {
            let mut rest = rest;
            while let [high, low, tail @ ..] = rest {
                let length = usize::from(u16::from_be_bytes([*high, *low])).min(tail.len());
                bytes.extend_from_slice(&START_CODE);
                bytes.extend_from_slice(&tail[..length]);
                rest = &tail[length..];
            }
        }
        [indicator, header, data @ ..] if indicator & 31 == 28 => {
            if header & 0x80 != 0 {
                bytes.extend_from_slice(&START_CODE);
                bytes.push((indicator & 0xe0) | (header & 31));
            }
            bytes.extend_from_slice(data);
        }
        _ => {}
    }
}

#[test]
fn every_packet_form_becomes_the_same_byte_stream() {
    let mut bytes = Vec::new();
    depacketize(&[0x67, 1], &mut bytes);
    depacketize(&[0x78, 0, 2, 0x67, 1, 0, 2, 0x68, 2], &mut bytes);
    depacketize(&[0x7c, 0x85, 3], &mut bytes);
    depacketize(&[0x7c, 0x45, 4], &mut bytes);
    let unit = |data: &[u8]| [&START_CODE[..], data].concat();
    assert_eq!(bytes, [unit(&[0x67, 1]), unit(&[0x67, 1]), unit(&[0x68, 2]), unit(&[0x65, 3, 4])].concat());
}
