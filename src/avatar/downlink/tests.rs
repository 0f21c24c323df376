//! Sound and pictures of a made-up sender in virtual time: uneven arrival, loss, clocks that begin apart.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::avatar::MediaTime;
use crate::base::time::Pts;
use crate::codec::opus::{OpusEncoder, OpusSettings};
use crate::media::access_unit::{AccessUnit, VideoCodec};
use crate::media::codec::AudioEncoder as _;
use crate::webrtc::event::Report;

const MS: Duration = Duration::from_millis(1);

/// A sender whose sound and pictures begin at the same moment, with RTP times of their own.
struct Sender {
    start: Instant,
    sound: Mid,
    video: Mid,
    encoder: OpusEncoder,
    phase: f64,
    reports: bool,
}

impl Sender {
    fn new(start: Instant) -> Self {
        let settings = OpusSettings { fec: true, ..OpusSettings::default() };
        let encoder = OpusEncoder::new(&settings).expect("an encoder");
        let (sound, video) = (Mid::from("s"), Mid::from("v"));
        Sender { start, sound, video, encoder, phase: 0.0, reports: true }
    }

    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    /// Packet number `n`, made at 20 ms times `n`, that comes at `at`.
    fn sound(&mut self, n: u64, at: Instant) -> PeerEvent {
        let step = std::f64::consts::TAU * 440.0 / 48_000.0;
        let samples: Vec<i16> = (0..960)
            .map(|_| {
                self.phase += step;
                (self.phase.sin() * 9_000.0) as i16
            })
            .collect();
        let mut data = Vec::new();
        self.encoder.encode(&samples, &mut data).expect("coded");
        // The report speaks of the latest second; RTP time begins near the end of 32 bits.
        let base = 0xffff_f000_u64;
        let second = n / 50;
        let report = Report {
            wall: self.wall() + Duration::from_secs(second),
            time: (base + second * 48_000) & 0xffff_ffff,
        };
        PeerEvent::Sound(SoundPacket {
            mid: self.sound,
            at,
            time: base + n * 960,
            report: Some(report).filter(|_| self.reports && n >= 50),
            data: Arc::from(data),
        })
    }

    fn unit(&self, n: u64, at: Instant, key: bool, damaged: bool) -> PeerEvent {
        let second = n / 25;
        let report =
            Report { wall: self.wall() + Duration::from_secs(second), time: 77_000 + second * 90_000 };
        let unit = AccessUnit {
            codec: VideoCodec::H264,
            data: Bytes::from_static(&[0, 0, 0, 1, 0x65]),
            pts: Pts::ZERO,
            key,
            damaged,
        };
        let report = Some(report).filter(|_| self.reports && n >= 25);
        PeerEvent::Unit(UnitPacket { mid: self.video, at, time: 77_000 + n * 3_600, report, unit })
    }

    fn made(&self, n: u64) -> Instant {
        self.start + 20 * MS * u32::try_from(n).expect("a test's length")
    }
}

/// What came out, and when.
struct Out {
    at: Instant,
    event: AvatarEvent,
}

/// Runs the events that come at their times.
fn run(down: &mut Downlink, mut coming: Vec<(Instant, PeerEvent)>, until: Instant) -> Vec<Out> {
    coming.sort_by_key(|(at, _)| *at);
    let mut out = Vec::new();
    let mut coming = coming.into_iter().peekable();
    loop {
        let next = [coming.peek().map(|(at, _)| *at), down.wake_at()].into_iter().flatten().min();
        let Some(now) = next.filter(|next| *next <= until) else { return out };
        while let Some((_, event)) = coming.next_if(|(at, _)| *at <= now) {
            out.extend(down.take(now, event).map(|event| Out { at: now, event }));
        }
        while let Some(event) = down.poll(now) {
            out.push(Out { at: now, event });
        }
        down.takes_key_wish(now);
    }
}

fn sounds(out: &[Out]) -> Vec<(Instant, MediaTime, Arc<[i16]>)> {
    let sound = |out: &Out| match &out.event {
        AvatarEvent::Sound { at, samples, .. } => Some((out.at, *at, samples.clone())),
        _ => None,
    };
    out.iter().filter_map(sound).collect()
}

fn pictures(out: &[Out]) -> Vec<MediaTime> {
    let picture = |out: &Out| match &out.event {
        AvatarEvent::Picture { at, .. } => Some(*at),
        _ => None,
    };
    out.iter().filter_map(picture).collect()
}

fn percentile(values: &mut [Duration], share: f64) -> Duration {
    values.sort_unstable();
    values[((values.len() - 1) as f64 * share) as usize]
}

#[test]
fn sound_goes_on_evenly_although_it_comes_unevenly_and_waits_no_longer_than_it_must() {
    for (uneven, p50, p95) in [(2, 26, 30), (25, 45, 60)] {
        let start = Instant::now();
        let (mut sender, mut down) = (Sender::new(start), Downlink::new(start).expect("libopus"));
        let mut random = StdRng::seed_from_u64(5);
        let coming: Vec<(Instant, PeerEvent)> = (0..1_500)
            .map(|n| {
                let at = sender.made(n) + 30 * MS + MS * random.random_range(0..=uneven);
                (at, sender.sound(n, at))
            })
            .collect();
        let came: Vec<Instant> = coming.iter().map(|(at, _)| *at).collect();
        let out = sounds(&run(&mut down, coming, start + Duration::from_secs(31)));
        let out = &out[..1_500];
        assert!(down.counters().concealed <= 3 * 960, "{:?}", down.counters());
        for pair in out.windows(2) {
            assert_eq!(pair[1].1.0 - pair[0].1.0, 20_000, "nothing jumps");
        }
        let mut held: Vec<Duration> =
            out.iter().zip(&came).skip(250).map(|(out, came)| out.0 - *came).collect();
        let (half, most) = (percentile(&mut held, 0.5), percentile(&mut held, 0.95));
        println!("uneven by {uneven} ms: held p50 {half:?} p95 {most:?}");
        assert!(half <= p50 * MS && most <= p95 * MS, "{uneven}: {half:?} {most:?}");
    }
}

#[test]
fn what_is_lost_is_made_up_and_what_comes_in_another_order_is_not_lost() {
    let start = Instant::now();
    let (mut sender, mut down) = (Sender::new(start), Downlink::new(start).expect("libopus"));
    let mut coming = Vec::new();
    for n in 0..500_u64 {
        let at = sender.made(n) + 10 * MS;
        // Every tenth comes behind the one after it.
        let at = if n % 10 == 5 { at + 22 * MS } else { at };
        let event = sender.sound(n, at);
        if n % 25 != 13 {
            coming.push((at, event));
        }
    }
    let out = sounds(&run(&mut down, coming, start + Duration::from_secs(10)));
    let heard: usize = out.iter().skip(10).map(|(_, _, samples)| samples.len()).sum();
    let (first, last) = (out[10].1.0, out.last().expect("sound").1.0);
    assert!((heard as i64 * 1_000 / 48 - (last - first) - 20_000).abs() < 1_000, "without a hole");
    let loudness = |samples: &[i16]| {
        (samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / samples.len() as f64).sqrt()
    };
    let quietest =
        out[20..out.len() - 5].iter().map(|(_, _, samples)| loudness(samples)).fold(f64::MAX, f64::min);
    assert!(quietest > 1_000.0, "the tone goes on over what was lost: {quietest}");
    let counters = down.counters();
    assert!((20 * 960..26 * 960).contains(&(counters.concealed as usize)), "{counters:?}");
}

#[test]
fn a_stream_that_stops_is_silent_soon_and_one_that_goes_on_is_heard_at_once() {
    let start = Instant::now();
    let (mut sender, mut down) = (Sender::new(start), Downlink::new(start).expect("libopus"));
    let mut coming = Vec::new();
    for n in (0..100).chain(200..300) {
        let at = sender.made(n) + 10 * MS;
        coming.push((at, sender.sound(n, at)));
    }
    let out = sounds(&run(&mut down, coming, start + Duration::from_secs(7)));
    let after = |at: u64| start + Duration::from_millis(at);
    let between = out.iter().filter(|(at, _, _)| (after(2_150)..after(4_000)).contains(at)).count();
    assert_eq!(between, 0);
    assert!(out.len() <= 206, "{}", out.len());
    let again = out.iter().find(|(at, _, _)| *at >= after(3_900)).expect("again");
    assert!(again.0 < after(4_050), "{:?}", again.0 - start);
    assert_eq!(again.1.0 - out[0].1.0, 4_000_000, "its place is kept");
}

#[test]
fn pictures_are_placed_by_arrival_and_then_by_reports_without_a_jump() {
    let start = Instant::now();
    let (mut sender, mut down) = (Sender::new(start), Downlink::new(start).expect("libopus"));
    let mut coming = Vec::new();
    for n in 0..500 {
        let at = sender.made(n) + 20 * MS;
        coming.push((at, sender.sound(n, at)));
    }
    // Pictures take 180 ms longer: by arrival alone they would be shown as much too late.
    for n in 0..250 {
        let at = sender.made(2 * n) + 200 * MS;
        coming.push((at, sender.unit(n, at, n == 0, false)));
    }
    let out = run(&mut down, coming, start + Duration::from_secs(11));
    let (sound, pictures) = (sounds(&out), pictures(&out));
    assert_eq!(pictures.len(), 250);
    let made = |n: usize| sound[0].1.0 + n as i64 * 40_000;
    assert!(
        (pictures[0].0 - made(0) - 180_000).abs() < 2_000,
        "by arrival first: {}",
        pictures[0].0 - made(0)
    );
    assert!((pictures[249].0 - made(249)).abs() < 2_000, "by reports: {}", pictures[249].0 - made(249));
    for pair in pictures.windows(2) {
        let step = pair[1].0 - pair[0].0;
        assert!((29_000..=51_000).contains(&step), "moved by 5 ms in 20 at most: {step}");
    }
    // Within two seconds after the first reports.
    assert!((pictures[90].0 - made(90)).abs() < 2_000, "{}", pictures[90].0 - made(90));
}

#[test]
fn without_reports_arrival_counts_and_another_stream_begins_anew() {
    let start = Instant::now();
    let (mut sender, mut down) = (Sender::new(start), Downlink::new(start).expect("libopus"));
    sender.reports = false;
    let mut coming = Vec::new();
    for n in 0..200 {
        let at = sender.made(n) + 20 * MS;
        coming.push((at, sender.sound(n, at)));
        if n % 2 == 0 {
            coming.push((at, sender.unit(n / 2, at, n == 0, false)));
        }
    }
    let out = run(&mut down, coming, start + Duration::from_secs(4));
    assert!((pictures(&out)[90].0 - sounds(&out)[180].1.0).abs() < 25_000);
    down.listen_to(Mid::from("other"), Kind::Sound);
    let at = start + Duration::from_secs(5);
    assert!(down.take(at, sender.sound(300, at)).is_none());
    assert!(sounds(&run(&mut down, vec![], at + Duration::from_secs(1))).is_empty(), "not the avatar's");
}

#[test]
fn pictures_wait_for_a_key_picture_which_is_asked_for_and_their_absence_is_told() {
    let start = Instant::now();
    let (sender, mut down) = (Sender::new(start), Downlink::new(start).expect("libopus"));
    let mut shown = Vec::new();
    let mut asked = Vec::new();
    for n in 0..100_u64 {
        let now = start + 40 * MS * n as u32;
        // The first is no key picture, and one is lost before number 50.
        let key = n == 3 || n == 60;
        if down.take(now, sender.unit(n, now, key, n == 50)).is_some() {
            shown.push(n);
        }
        if down.takes_key_wish(now) {
            asked.push(n);
        }
    }
    assert_eq!(shown, (3..50).chain(60..100).collect::<Vec<u64>>());
    assert_eq!(asked, [0, 50, 60].iter().copied().filter(|n| *n != 60).collect::<Vec<u64>>());
    let last = start + 40 * MS * 99;
    assert_eq!(down.wake_at(), Some(last + NO_PICTURE));
    assert!(down.poll(last + NO_PICTURE - MS).is_none());
    assert!(matches!(down.poll(last + NO_PICTURE), Some(AvatarEvent::Warning(_))));
    assert!(down.poll(last + NO_PICTURE + MS).is_none(), "once");
    assert!(down.takes_key_wish(last + NO_PICTURE));
    down.want_key_picture();
    assert!(!down.takes_key_wish(last + NO_PICTURE + MS), "not too often");
}

#[test]
fn nothing_of_what_was_cut_is_heard() {
    let start = Instant::now();
    let (mut sender, mut down) = (Sender::new(start), Downlink::new(start).expect("libopus"));
    for n in 0..20 {
        let event = sender.sound(n, start);
        down.take(start, event);
    }
    assert!(down.poll(start + 30 * MS).is_some());
    down.flush();
    assert!(down.poll(start + Duration::from_secs(1)).is_none());
    let at = start + 400 * MS;
    let event = sender.sound(20, at);
    down.take(at, event);
    assert!(down.wake_at().is_some_and(|due| due <= at + 200 * MS), "what comes later is");
}

#[test]
fn nonsense_makes_noise_at_worst() {
    let start = Instant::now();
    let mut down = Downlink::new(start).expect("libopus");
    let mut random = StdRng::seed_from_u64(11);
    let mid = Mid::from("s");
    for n in 0..3_000_u64 {
        let at = start + MS * n as u32;
        let data: Vec<u8> = (0..random.random_range(0..60)).map(|_| random.random()).collect();
        let time = if random.random_bool(0.2) { random.random() } else { n * 48 };
        let report = random.random_bool(0.1).then(|| Report { wall: UNIX_EPOCH, time: random.random() });
        down.take(at, PeerEvent::Sound(SoundPacket { mid, at, time, report, data: Arc::from(data) }));
        let mut rounds = 0;
        while down.poll(at).is_some() {
            rounds += 1;
            assert!(rounds < 200, "it ends");
        }
    }
}
