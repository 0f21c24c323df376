//! Packets that are sent and received again, and the numbers transport-wide feedback goes by: what a session does for
//! them beside its own stream. A stream of retransmissions (RFC 4588 §4) has an SSRC and numbers of its own.

use std::time::Duration;

use super::{Bytes, Header, Instant, OUT_MAX, Out, Packet, Received, Session, SocketAddr, Tail, rtcp};

/// A packet that was queued for sending.
#[derive(Clone, Debug)]
pub struct Queued {
    pub sequence: u16,
    /// Its number on the path, when packets are numbered so.
    pub transport: Option<u16>,
    pub packet: Bytes,
}

/// The stream of retransmissions we send, and the numbers of all packets.
#[derive(Debug, Default)]
pub(super) struct Beside {
    pub ssrc: u32,
    pub next_sequence: u16,
    /// Id of the header extension, and the next number.
    pub transport: Option<(u8, u16)>,
}

impl Beside {
    pub fn number(&mut self) -> Option<(u8, u16)> {
        let (_, next) = self.transport.as_mut()?;
        let number = *next;
        *next = next.wrapping_add(1);
        self.transport.map(|(id, _)| (id, number))
    }
}

impl Session {
    /// Different packets of the source.
    pub fn packets_received(&self) -> u64 {
        self.statistics.packets_received + self.sequence.received()
    }

    /// Whether a packet from there is the stream's.
    pub fn is_source(&self, source: SocketAddr) -> bool {
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        self.lock.locked() == Some(source)
    }

    /// The peer sends lost packets again.
    pub fn expect_repeats(&mut self, repeats: bool) {
        self.sequence.expect_repeats(repeats);
    }

    /// Seconds between regular reports, as a mean (RFC 3550 §6.2, RFC 4585 §3.4).
    pub fn report_every(&mut self, interval: Duration) {
        self.report_interval = interval;
    }

    /// As the peer's reports tell it.
    pub fn round_trip(&self) -> Option<Duration> {
        self.statistics.round_trip_ms.map(|ms| Duration::from_secs_f64(ms / 1e3))
    }

    /// Whether packets bear a number for transport-wide feedback, and in which header extension.
    pub fn number_packets(&mut self, id: Option<u8>) {
        let next = self.beside.transport.map_or(0, |(_, next)| next);
        self.beside.transport = id.map(|id| (id, next));
    }

    /// A packet sent again in a stream of its own, as what it was. `None`: nothing for the stream, and counted.
    pub fn receive_again<'a>(
        &mut self,
        now: Instant,
        source: SocketAddr,
        bytes: &'a [u8],
        original: u8,
    ) -> Option<Received<'a>> {
        let locked = self.is_source(source);
        let ssrc = self.remote_ssrc.filter(|_| locked);
        let (Some(ssrc), Some(packet)) = (ssrc, Packet::parse(bytes)) else {
            self.statistics.foreign_packets += u64::from(!locked);
            return None;
        };
        self.statistics.last_received = Some(now);
        // Padding without an original number only probes the path.
        let (number, payload) = packet.payload.split_first_chunk::<2>()?;
        let sequence = u16::from_be_bytes(*number);
        let extended = self.sequence.arrive_again(sequence)?;
        self.statistics.bytes_received += payload.len() as u64;
        let packet = Packet { payload_type: original, sequence, ssrc, payload, ..packet };
        self.settings.receives.then_some(Received { packet, extended, restarted: false, known: true })
    }

    /// Sends a packet again as it was: it must be the same to the bit (RFC 3711 §9.1).
    pub fn send_again(&mut self, sequence: u16, packet: Bytes) -> Option<Queued> {
        let destination = self.destination_again()?;
        self.statistics.packets_sent += 1;
        self.statistics.bytes_sent += packet.len() as u64;
        self.out.push_back(Out::Rtp(destination, packet.clone()));
        // Its number on the path is the old one: whoever counts them has it already.
        Some(Queued { sequence, transport: None, packet })
    }

    /// Sends a packet again in the stream of retransmissions.
    pub fn send_beside(&mut self, payload_type: u8, packet: &[u8]) -> Option<Queued> {
        let original = Packet::parse(packet)?;
        let destination = self.destination_again()?;
        let sequence = self.beside.next_sequence;
        self.beside.next_sequence = sequence.wrapping_add(1);
        let header = Header {
            marker: original.marker,
            payload_type,
            sequence,
            timestamp: original.timestamp,
            ssrc: self.beside.ssrc,
        };
        let number = self.beside.number();
        let parts = [&original.sequence.to_be_bytes()[..], original.payload];
        let packet = self.writer.write_numbered(&header, number, &parts);
        self.statistics.packets_sent += 1;
        self.statistics.bytes_sent += original.payload.len() as u64;
        self.out.push_back(Out::Rtp(destination, packet.clone()));
        Some(Queued { sequence, transport: number.map(|(_, number)| number), packet })
    }

    fn destination_again(&mut self) -> Option<SocketAddr> {
        let destination = self.destination().filter(|_| self.settings.sends && self.out.len() < OUT_MAX);
        self.statistics.unsent += u64::from(destination.is_none());
        destination
    }

    /// Sends feedback at once, behind a report without blocks (RFC 4585 §3.1): the figures of the next regular report
    /// stay those of its whole interval. `false`: there is nowhere to send it.
    pub fn feed_back(&mut self, tail: Tail<'_>) -> bool {
        let Some(destination) = self.rtcp_destination().filter(|_| self.out.len() < OUT_MAX) else {
            return false;
        };
        let bytes = rtcp::write(self.ssrc, None, None, &self.settings.cname, tail);
        if bytes.is_empty() {
            return false;
        }
        self.statistics.rtcp_sent += 1;
        self.out.push_back(Out::Rtcp(destination, bytes));
        true
    }

    /// The number of a packet as its sender wrote it.
    pub fn number_of(&self, extended: u64) -> u16 {
        self.sequence.written(extended)
    }
}
