//! Two video streams over a path that loses, delays, reorders, doubles and narrows, in virtual time: what a viewer sees
//! of it and how the sender adapts.

use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::base::time::{Clock, Pts};
use crate::media::access_unit::{AccessUnit, VideoCodec};
use crate::media::nal;
use crate::rtp::feedback::{NegotiatedFeedback, Retransmission};
use crate::rtp::payload::SendFormat;
use crate::rtp::payload::h264::PacketizationMode;
use crate::rtp::session::{Out, StreamSettings};
use crate::rtp::video::{REORDER_WAIT, VideoSettings, VideoStream};

const MS: fn(u64) -> Duration = Duration::from_millis;
const FPS: u64 = 15;

/// What a path does to datagrams, in one direction.
#[derive(Clone, Copy, Debug)]
struct Path {
    /// Share of packets lost, and how many are lost in a row on average.
    loss: f64,
    burst: f64,
    delay: Duration,
    jitter: Duration,
    /// Share that takes 20 ms longer, and share that comes twice.
    overtaken: f64,
    doubled: f64,
    /// Bits a second it carries, and how much waits before the rest is lost.
    carries: Option<f64>,
}

impl Default for Path {
    fn default() -> Self {
        Path {
            loss: 0.0,
            burst: 1.0,
            delay: MS(30),
            jitter: MS(0),
            overtaken: 0.0,
            doubled: 0.0,
            carries: None,
        }
    }
}

const QUEUE_MAX: Duration = Duration::from_millis(300);

/// A datagram on its way: when it comes, in which order it left, whether it is RTCP.
#[derive(PartialEq, Eq)]
struct Flying {
    comes: Instant,
    order: u64,
    control: bool,
    bytes: Bytes,
}

impl Ord for Flying {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.comes, other.order).cmp(&(self.comes, self.order))
    }
}

impl PartialOrd for Flying {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

struct Link {
    path: Path,
    random: StdRng,
    losing: bool,
    free_at: Option<Instant>,
    last: Option<Instant>,
    flying: BinaryHeap<Flying>,
    order: u64,
}

impl Link {
    fn new(path: Path, seed: u64) -> Link {
        let random = StdRng::seed_from_u64(seed);
        Link { path, random, losing: false, free_at: None, last: None, flying: BinaryHeap::new(), order: 0 }
    }

    fn send(&mut self, now: Instant, control: bool, bytes: Bytes) {
        let Path { loss, burst, delay, jitter, overtaken, doubled, carries } = self.path;
        // Gilbert: bursts of the given mean length at the given share of all packets.
        let leave = 1.0 / burst.max(1.0);
        let enter = if loss < 1.0 { loss * leave / (1.0 - loss) } else { 1.0 };
        self.losing = self.random.random_bool(if self.losing { 1.0 - leave } else { enter.min(1.0) });
        if self.losing {
            return;
        }
        let mut comes = now;
        if let Some(carries) = carries {
            let begins = self.free_at.map_or(now, |free| free.max(now));
            if begins - now > QUEUE_MAX {
                return;
            }
            comes = begins + Duration::from_secs_f64((bytes.len() + 28) as f64 * 8.0 / carries);
            self.free_at = Some(comes);
        }
        comes += delay + jitter.mul_f64(self.random.random_range(0.0..1.0));
        // Jitter alone keeps the order.
        comes = self.last.map_or(comes, |last| comes.max(last));
        self.last = Some(comes);
        if self.random.random_bool(overtaken) {
            comes += MS(20);
        }
        let copies = if self.random.random_bool(doubled) { 2 } else { 1 };
        for _ in 0..copies {
            self.order += 1;
            self.flying.push(Flying { comes, order: self.order, control, bytes: bytes.clone() });
        }
    }

    fn come(&mut self, now: Instant) -> Option<Flying> {
        self.flying.peek().is_some_and(|next| next.comes <= now).then(|| self.flying.pop()).flatten()
    }
}

/// Packets lost in a burst of [`World::bursts`].
const BURST: u32 = 3;

/// What a viewer saw.
#[derive(Debug, Default)]
struct Seen {
    /// When each whole picture came and whether it was clean, in ms.
    pictures: Vec<(u64, bool)>,
    /// Which of those sent it is, from 0.
    numbers: Vec<u64>,
    /// When each burst's first packet was lost, and the number of its picture.
    bursts: Vec<(u64, u64)>,
    /// Pictures sent.
    sent: u64,
    keys_sent: u64,
    /// Media bits a second sent, in each second.
    rates: Vec<f64>,
}

impl Seen {
    /// How long each stretch without a clean picture took, in ms, after the first.
    fn recoveries(&self) -> Vec<u64> {
        let mut all = Vec::new();
        let mut clean_at = None;
        let mut dirty = false;
        for (at, clean) in &self.pictures {
            // A picture held up is a stretch too.
            let late = clean_at.is_some_and(|before| at - before > 2 * 1000 / FPS);
            if *clean {
                if let Some(before) = clean_at.filter(|_| dirty || late) {
                    all.push(at - before);
                }
                (clean_at, dirty) = (Some(*at), false);
            } else {
                dirty = true;
            }
        }
        all.sort_unstable();
        all
    }

    fn p95(&self) -> u64 {
        p95(&self.recoveries())
    }

    /// How long after each burst the first clean picture came, of that which was hit and those behind it, in ms; none
    /// came: for ever.
    fn clean_after_bursts(&self) -> Vec<u64> {
        let after = |(began, hit): &(u64, u64)| {
            let mut whole = self.pictures.iter().zip(&self.numbers).filter(|((_, clean), _)| *clean);
            whole.find(|(_, number)| *number >= hit).map_or(u64::MAX, |((at, _), _)| at - began)
        };
        self.bursts.iter().map(after).collect()
    }

    fn clean_share(&self) -> f64 {
        self.pictures.iter().filter(|(_, clean)| *clean).count() as f64 / self.sent as f64
    }

    fn mean_kbps(&self, seconds: std::ops::Range<usize>) -> f64 {
        let count = seconds.len() as f64;
        self.rates[seconds].iter().sum::<f64>() / count / 1e3
    }
}

/// Losing [`BURST`] packets of the picture in a row, now and then.
#[derive(Default)]
struct Bursts {
    /// As in [`World::bursts`].
    due: VecDeque<(u64, u32)>,
    spared: u32,
    losing: u32,
}

impl Bursts {
    /// Whether a packet of picture `number` is lost at `ms`.
    fn lose(&mut self, ms: u64, number: u64, begun: &mut Vec<(u64, u64)>) -> bool {
        if let Some((_, first)) = self.due.pop_front_if(|(at, _)| *at <= ms) {
            (self.spared, self.losing) = (first, BURST);
        }
        if self.spared > 0 {
            self.spared -= 1;
            return false;
        }
        if self.losing == BURST {
            begun.push((ms, number));
        }
        let lost = self.losing > 0;
        self.losing = self.losing.saturating_sub(1);
        lost
    }
}

struct World {
    feedback: NegotiatedFeedback,
    retransmission: Retransmission,
    kbps: u32,
    there: Path,
    back: Path,
    seed: u64,
    /// Second from which the path there is another.
    changes: Option<(u64, Path)>,
    /// Milliseconds in which everything is lost.
    cut: Option<std::ops::Range<u64>>,
    /// Milliseconds from which so many packets of the picture get through and the next [`BURST`] are lost.
    bursts: Vec<(u64, u32)>,
}

impl World {
    fn new(feedback: NegotiatedFeedback, there: Path) -> World {
        let back = Path { carries: None, ..there };
        let retransmission = Retransmission::default();
        World {
            feedback,
            retransmission,
            kbps: 800,
            there,
            back,
            seed: 7,
            changes: None,
            cut: None,
            bursts: Vec::new(),
        }
    }

    fn stream(&self, start: Instant, remote: &str, seed: u64) -> VideoStream {
        let address = |port| format!("192.0.2.{remote}:{port}").parse::<SocketAddr>().expect("an address");
        let settings = VideoSettings {
            stream: StreamSettings {
                clock_rate: 90_000,
                cname: "eyeline".into(),
                remote: Some(address(4000)),
                remote_rtcp: Some(address(4001)),
                reach: Default::default(),
                authentic: false,
                rtcp_mux: false,
                receives: true,
                sends: true,
                clock: Clock::new(start, SystemTime::UNIX_EPOCH),
                epoch: start,
            },
            receive: vec![(97, VideoCodec::H264)],
            send_payload_type: 97,
            send_format: Some(SendFormat::H264(PacketizationMode::NonInterleaved)),
            parameter_sets: Vec::new(),
            feedback: self.feedback,
            retransmission: self.retransmission.clone(),
            max_payload: 1200,
            pace_kbps: self.kbps,
            reorder_wait: REORDER_WAIT,
        };
        VideoStream::new(start, settings, seed)
    }

    /// A sender with an encoder that does as it is told, and a viewer, for so many seconds.
    fn run(&self, seconds: u64) -> (Seen, VideoStream, VideoStream) {
        let start = Instant::now();
        let mut sender = self.stream(start, "2", self.seed);
        let mut viewer = self.stream(start, "1", self.seed + 1);
        let (at_sender, at_viewer) = (address("192.0.2.2:4000"), address("192.0.2.1:4000"));
        let mut there = Link::new(self.there, self.seed);
        let mut back = Link::new(self.back, self.seed + 1);
        let (mut seen, mut kbps, mut frames) = (Seen::default(), self.kbps, 0u64);
        let (mut bits, mut debt) = (0usize, 0usize);
        let mut bursts = Bursts { due: self.bursts.iter().copied().collect(), ..Bursts::default() };
        for ms in 0..seconds * 1000 {
            let now = start + MS(ms);
            if let Some((second, path)) = self.changes.filter(|(second, _)| ms == second * 1000) {
                assert!(second > 0);
                there.path = path;
            }
            while let Some(flying) = there.come(now) {
                hear(&mut viewer, now, at_viewer, &flying);
            }
            while let Some(flying) = back.come(now) {
                hear(&mut sender, now, at_sender, &flying);
            }
            if ms >= frames * 1000 / FPS {
                let key = sender.take_key_request() || frames == 0;
                // A key picture costs as much as four others, which the ones after it make up for.
                let share = (u64::from(kbps) * 125 / FPS) as usize;
                let len = if key { 4 * share } else { share - debt.min(share / 2) };
                debt = (debt + len).saturating_sub(share);
                sender.send(now, &picture(key, len, frames, Pts::from_millis(ms as i64)));
                seen.sent += 1;
                seen.keys_sent += u64::from(key);
                frames += 1;
            }
            for stream in [&mut sender, &mut viewer] {
                if now >= stream.wake_at() {
                    stream.handle_time(now);
                    assert!(stream.wake_at() > now, "wake_at stands still");
                }
            }
            kbps = sender.take_rate(now).unwrap_or(kbps);
            while let Some(out) = sender.poll() {
                let (control, bytes) = split(out);
                if !control && bursts.lose(ms, frames - 1, &mut seen.bursts) {
                    continue;
                }
                bits += if control { 0 } else { (bytes.len() - 12) * 8 };
                if !self.cut.as_ref().is_some_and(|cut| cut.contains(&ms)) {
                    there.send(now, control, bytes);
                }
            }
            while let Some(out) = viewer.poll() {
                let (control, bytes) = split(out);
                back.send(now, control, bytes);
            }
            while let Some(unit) = viewer.poll_unit() {
                seen.pictures.push((ms, !unit.damaged));
                seen.numbers.push(number_of(&unit));
            }
            if ms % 1000 == 999 {
                seen.rates.push(std::mem::take(&mut bits) as f64);
            }
        }
        (seen, sender, viewer)
    }
}

fn p95(sorted: &[u64]) -> u64 {
    sorted.get((sorted.len() * 95).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0)
}

fn split(out: Out) -> (bool, Bytes) {
    match out {
        Out::Rtp(_, bytes) => (false, bytes),
        Out::Rtcp(_, bytes) => (true, bytes),
    }
}

fn hear(stream: &mut VideoStream, now: Instant, from: SocketAddr, flying: &Flying) {
    if flying.control {
        stream.handle_rtcp(now, SocketAddr::new(from.ip(), 4001), &flying.bytes);
    } else {
        stream.handle_rtp(now, from, &flying.bytes);
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Picture `number` of about so many bytes in one slice, parameter sets in front of a key.
fn picture(key: bool, len: usize, number: u64, pts: Pts) -> AccessUnit {
    let mut data = Vec::new();
    if key {
        nal::push(&mut data, &[0x67, 0x42, 0xc0, 0x1e, 0xda, 0x02, 0x80, 0xbf, 0xe5, 0xc0, 0x44, 0, 0, 3]);
        nal::push(&mut data, &[0x68, 0xce, 0x3c, 0x80]);
    }
    let mut slice = vec![0x9a; len.max(20)];
    slice[0] = if key { 0x65 } else { 0x41 };
    slice[NUMBER..NUMBER + 2].copy_from_slice(&[0x80 | (number >> 7) as u8, 0x80 | (number & 0x7f) as u8]);
    nal::push(&mut data, &slice);
    AccessUnit { codec: VideoCodec::H264, data: data.into(), pts, key, damaged: false }
}

/// Where a slice has the number of its picture, in 14 bits.
const NUMBER: usize = 10;

fn number_of(unit: &AccessUnit) -> u64 {
    let slice = nal::units(&unit.data).last().unwrap_or_default();
    let part = |at: usize| u64::from(slice.get(at).copied().unwrap_or(0) & 0x7f);
    part(NUMBER) << 7 | part(NUMBER + 1)
}

const PLI: NegotiatedFeedback =
    NegotiatedFeedback { pli: true, fir: true, nack: false, tmmbr: false, remb: false, transport_cc: None };
const NACK: NegotiatedFeedback = NegotiatedFeedback { nack: true, ..PLI };

fn lossy(percent: f64) -> Path {
    Path { loss: percent / 100.0, burst: 3.0, jitter: MS(10), ..Path::default() }
}

#[test]
fn with_retransmissions_loss_costs_hardly_a_picture() {
    for (percent, clean, p95) in [(1.0, 0.99, 350), (5.0, 0.97, 400), (10.0, 0.90, 800)] {
        for again in [Retransmission::default(), Retransmission { send: Some(99), receive: vec![(99, 97)] }] {
            let world = World { retransmission: again.clone(), ..World::new(NACK, lossy(percent)) };
            let (seen, sender, viewer) = world.run(120);
            let counters = (viewer.counters().asked, sender.counters().repeated);
            let what =
                format!("{percent} % {again:?}: {:.3} {} ms {counters:?}", seen.clean_share(), seen.p95());
            assert!(seen.clean_share() >= clean && seen.p95() <= p95, "{what}");
            assert!(counters.0.recovered * 10 > counters.0.asked * 8, "{what}");
        }
    }
}

#[test]
fn with_key_requests_alone_the_picture_is_clean_again_in_time() {
    // Loss right after a key picture waits for the next one, which may not come within a second, and a key picture of 23
    // packets is hit itself one time in three at 5 %.
    for (percent, p95, longest) in [(1.0, 1400, 3000), (5.0, 4000, 9000)] {
        let (seen, ..) = World::new(PLI, lossy(percent)).run(120);
        let all = seen.recoveries();
        assert!(seen.p95() <= p95 && all.last() <= Some(&longest), "{percent} %: {} ms, {all:?}", seen.p95());
        assert!(seen.keys_sent <= 121, "{} keys in 120 s", seen.keys_sent);
    }
}

#[test]
fn a_single_burst_is_repaired_within_a_second_either_way() {
    for feedback in [PLI, NACK] {
        for seed in 0..20 {
            // The whole path is cut for 200 ms.
            let world = World { seed, cut: Some(5000..5200), ..World::new(feedback, Path::default()) };
            let (seen, ..) = world.run(10);
            let worst = seen.recoveries().into_iter().max().unwrap_or(0);
            assert!((200..1200).contains(&worst), "{feedback:?}, seed {seed}: {worst} ms");
        }
    }
}

#[test]
fn after_a_burst_the_picture_is_clean_again_in_eight_tenths_of_a_second() {
    for delay in [MS(10), MS(30), MS(60)] {
        for (name, feedback) in [("key requests alone", PLI), ("retransmissions", NACK)] {
            let (mut all, mut unseen) = (Vec::new(), 0);
            for seed in 0..8 {
                let mut random = StdRng::seed_from_u64(seed + 100);
                // Every two to three seconds, anywhere in a picture and between them.
                let mut next = || (random.random_range(2000..3000), random.random_range(0..8));
                let mut bursts = vec![(3000, 0)];
                while bursts[bursts.len() - 1].0 < 115_000 {
                    let (after, spared) = next();
                    bursts.push((bursts[bursts.len() - 1].0 + after, spared));
                }
                let path = Path { delay, jitter: MS(10), ..Path::default() };
                let world = World { seed, bursts: bursts.clone(), ..World::new(feedback, path) };
                let (seen, ..) = world.run(120);
                assert_eq!(seen.bursts.len(), bursts.len());
                unseen += bursts.len() - seen.recoveries().len().min(bursts.len());
                all.extend(seen.clean_after_bursts());
            }
            all.sort_unstable();
            let (median, longest) = (all[all.len() / 2], all.last().copied().unwrap_or(0));
            let what = format!(
                "{name}, {delay:?} one way: {} bursts, clean again after {median} ms, p95 {}, at most {longest}; \
                 {unseen} not seen at all",
                all.len(),
                p95(&all)
            );
            println!("{what}");
            assert!(all.len() >= 350 && p95(&all) <= 800 && longest < 1000, "{what}");
            // It is pictures that were hit, and retransmissions that hide it.
            assert!(feedback.nack || unseen == 0, "{what}");
        }
    }
}

#[test]
fn packets_overtaken_or_doubled_have_no_effect_on_the_picture() {
    for feedback in [PLI, NACK] {
        let path = Path { overtaken: 0.05, doubled: 0.05, jitter: MS(5), ..Path::default() };
        let (seen, _, viewer) = World::new(feedback, path).run(60);
        assert!(seen.pictures.iter().all(|(_, clean)| *clean), "{feedback:?}");
        assert!(seen.pictures.len() as u64 + 1 >= seen.sent && seen.recoveries().is_empty(), "{feedback:?}");
        assert_eq!(viewer.counters().key_requests_sent, 1, "the one at the beginning");
    }
}

#[test]
fn the_sender_finds_what_a_narrow_path_carries_and_never_sends_more_than_it_may() {
    let modes = [
        ("transport-wide", NegotiatedFeedback { transport_cc: Some(3), ..NACK }, 0.95),
        ("remb", NegotiatedFeedback { remb: true, ..NACK }, 1.05),
        ("reports alone", NACK, 1.15),
    ];
    for (name, feedback, over) in modes {
        let narrow = Path { carries: Some(400_000.0), ..Path::default() };
        let mut world = World::new(feedback, narrow);
        world.changes = Some((60, Path { carries: Some(5_000_000.0), ..narrow }));
        let (seen, sender, _) = world.run(120);
        let (steady, after) = (seen.mean_kbps(20..60), seen.mean_kbps(110..120));
        let what = format!("{name}: {steady:.0} then {after:.0} kbit/s, {:?}", sender.bandwidth());
        assert!((200.0..400.0 * over).contains(&steady), "{what}");
        assert!(after > 600.0, "{what}");
        // A key picture may swell one second; the mean of five keeps the limit.
        let worst = seen.rates.windows(5).map(|five| five.iter().sum::<f64>() / 5e3).fold(0.0, f64::max);
        assert!(worst <= 800.0 * 1.12, "{what}, {worst:.0} at most");
    }
}
