//! Datagrams from anywhere to both ports of a stream of sound: the first byte says what the SDP names; then three bytes
//! lead each datagram: where it comes from, how much later, and how many bytes follow.
//!
//! Nothing is ever sent to a host that neither signals nor is named nor is the peer's own, and what such a host sends
//! is counted and changes nothing else.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use eyeline::base::time::Clock;
use eyeline::rtp::audio::{AudioFormat, AudioSettings, AudioStream, AudioTerms, Playout};
use eyeline::rtp::reach::Reach;
use eyeline::rtp::session::{Out, StreamSettings};

const NAMED: [u8; 4] = [192, 0, 2, 1];
const SIGNALS: [u8; 4] = [198, 51, 100, 7];
const OWN: [u8; 4] = [203, 0, 113, 5];
const STRANGERS: [[u8; 4]; 4] = [[192, 0, 2, 2], [127, 0, 0, 1], [224, 0, 0, 5], [255, 255, 255, 255]];

fn settings(first: u8, now: Instant) -> AudioSettings {
    let at = |port| Some(SocketAddr::from((NAMED, port)));
    AudioSettings {
        stream: StreamSettings {
            clock_rate: 8000,
            cname: "fuzz".to_owned(),
            remote: at(4000).filter(|_| first & 1 == 0),
            remote_rtcp: at(4001).filter(|_| first & 2 == 0),
            reach: Reach {
                signalling: Some(IpAddr::from(SIGNALS)),
                trusted: ["192.0.2.0/24".parse().expect("a network")].into(),
                own: ["203.0.113.0/24".parse().expect("a network")].into(),
            },
            authentic: false,
            rtcp_mux: first & 4 != 0,
            receives: true,
            sends: true,
            clock: Clock::new(now, SystemTime::UNIX_EPOCH),
            epoch: now,
        },
        terms: AudioTerms {
            receive: vec![AudioFormat::g711(0), AudioFormat::g711(8)],
            telephone_events: vec![(101, 8_000)],
            comfort_noises: vec![(13, 8_000)],
            extended_reports: first & 8 != 0,
        },
    }
}

pub fn run(data: &[u8]) {
    #[expect(clippy::disallowed_methods, reason = "virtual time starts at a real instant")]
    let mut now = Instant::now();
    let Some((first, mut rest)) = data.split_first() else { return };
    let mut stream = AudioStream::new(now, settings(*first, now), 1);
    while let [from, later, length, tail @ ..] = rest {
        let (bytes, tail) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = tail;
        now += Duration::from_millis(u64::from(*later) * 4);
        let strange = from & 4 != 0;
        let host = match (strange, from & 3) {
            (true, which) => STRANGERS[usize::from(which)],
            (false, 0 | 1) => NAMED,
            (false, 2) => SIGNALS,
            (false, _) => OWN,
        };
        let source = SocketAddr::from((host, 4000 + u16::from(from >> 4)));
        let before = stream.statistics();
        if from & 8 == 0 {
            stream.handle_rtp(now, source, bytes);
        } else {
            stream.handle_rtcp(now, source, bytes);
        }
        let after = stream.statistics();
        if strange {
            let same =
                (before.packets_received, before.rtcp_received, before.last_received, before.jitter_ms);
            assert_eq!(
                same,
                (after.packets_received, after.rtcp_received, after.last_received, after.jitter_ms)
            );
        }
        // A block never takes more than this to be filled.
        let played =
            (0..100).any(|n| matches!(stream.playout(now, n * 160), Playout::Play(_) | Playout::Quiet));
        assert!(played, "a beat without an end");
        stream.send(now, 0, &[0xff; 160], 160, false);
        stream.handle_time(now);
        while let Some(out) = stream.poll() {
            let (Out::Rtp(to, _) | Out::Rtcp(to, _)) = out;
            let host = to.ip();
            assert!([NAMED, SIGNALS, OWN].iter().any(|known| host == IpAddr::from(*known)), "sent to {to}");
        }
        while stream.poll_event().is_some() {}
    }
}
