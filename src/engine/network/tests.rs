//! Tests. Sound over bad lines in virtual time: packets, playout, decoding, concealment and stretching together, as a
//! caller would hear them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::base::time::{Clock, Pts};
use crate::codec::opus::OpusDecoder;
use crate::engine::network::hearing::Hearing;
use crate::engine::network::speaking::encoder;
use crate::engine::plan::{AudioCodec, OpusTerms};
use crate::media::audio::block_samples;
use crate::media::codec::AudioDecoder as _;
use crate::record::timeline::{Side, SoundTimeline};
use crate::rtp::audio::{AudioFormat, AudioSettings, AudioStream, AudioTerms, Quality};
use crate::rtp::jitter::JitterCounters;
use crate::rtp::lipsync::LipSync;
use crate::rtp::packet::{Header, Writer};
use crate::rtp::payload::opus;
use crate::rtp::reach::Reach;
use crate::rtp::session::StreamSettings;
use crate::rtp::timeline::Timeline;

const CODECS: [AudioCodec; 3] = [AudioCodec::Pcmu, AudioCodec::G722, AudioCodec::Opus];
const PAYLOAD_TYPE: u8 = 96;

/// One stream from its packets to the ear.
struct Line {
    codec: AudioCodec,
    start: Instant,
    machine: AudioStream,
    hearing: Hearing,
    packets: Writer,
    heard: Vec<i16>,
    block: Vec<i16>,
    /// Beats in which somebody spoke.
    spoken: u64,
}

impl Line {
    fn new(codec: AudioCodec) -> Self {
        let start = Instant::now();
        let peer = "192.0.2.1:4000".parse().ok();
        let settings = AudioSettings {
            stream: StreamSettings {
                clock_rate: codec.clock_rate(),
                cname: "eyeline".into(),
                remote: peer,
                remote_rtcp: None,
                reach: Reach::default(),
                authentic: false,
                rtcp_mux: false,
                receives: true,
                sends: true,
                clock: Clock::new(start, SystemTime::UNIX_EPOCH),
                epoch: start,
            },
            terms: AudioTerms {
                receive: vec![AudioFormat {
                    payload_type: PAYLOAD_TYPE,
                    clock_rate: codec.clock_rate(),
                    bytes_per_20ms: codec.bytes_per_20ms(),
                }],
                ..AudioTerms::default()
            },
        };
        Line {
            codec,
            start,
            machine: AudioStream::new(start, settings, 1),
            hearing: Hearing::new(codec.sample_rate(), &[(PAYLOAD_TYPE, codec)]),
            packets: Writer::new(4096),
            heard: Vec::new(),
            block: Vec::new(),
            spoken: 0,
        }
    }

    fn receive(&mut self, at_us: u64, number: u64, payload: &[u8]) {
        let header = Header {
            marker: false,
            payload_type: PAYLOAD_TYPE,
            sequence: number as u16,
            timestamp: (number * u64::from(self.codec.clock_rate()) / 50) as u32,
            ssrc: 7,
        };
        let bytes = self.packets.write(&header, &[payload]);
        let now = self.start + Duration::from_micros(at_us);
        self.machine.handle_rtp(now, "192.0.2.1:4000".parse().expect("an address"), &bytes);
    }

    fn beat(&mut self, at_us: u64) {
        let now = self.start + Duration::from_micros(at_us);
        let spoken = self.hearing.play(&mut self.machine, now, &mut self.block);
        self.spoken += u64::from(spoken);
    }

    /// Sends `packets` of 20 ms, each delayed by so many microseconds or lost, and keeps all that is heard until
    /// `calm_ms` after the last.
    fn run(&mut self, packets: &[Vec<u8>], delay_us: impl Fn(u64) -> Option<u64>) {
        let mut arrivals = BTreeMap::new();
        for number in 0..packets.len() as u64 {
            if let Some(delay) = delay_us(number) {
                arrivals.insert((number * 20_000 + delay, number), &packets[number as usize]);
            }
        }
        let mut arrivals = arrivals.into_iter().peekable();
        for beat in 0..packets.len() as u64 {
            let at = beat * 20_000 + 7_000;
            while let Some(((came, number), payload)) = arrivals.next_if(|((came, _), _)| *came <= at) {
                self.receive(came, number, payload);
            }
            self.beat(at);
            self.heard.extend_from_slice(&self.block);
        }
    }
}

/// A voice that never pauses, with a pitch and a loudness that wander, and a little breath.
fn voice(rate: u32, blocks: usize) -> Vec<i16> {
    let mut random = StdRng::seed_from_u64(9);
    let mut at = |n: usize| {
        let breath = f64::from(random.random_range(-60_i16..60));
        let t = n as f64 / f64::from(rate);
        let phase = std::f64::consts::TAU * (140.0 * t + 1.5 * (2.0 * t).sin());
        let tone: f64 = (1..12).map(|k| (phase * f64::from(k)).sin() / f64::from(k)).sum();
        (tone * 5_000.0 * (0.8 + 0.2 * (20.0 * t).sin()) + breath) as i16
    };
    (0..blocks * block_samples(rate)).map(&mut at).collect()
}

/// Words of 400 ms with short pauses between them: what a voice detector takes for speech.
fn speech(blocks: usize) -> Vec<i16> {
    let mut sound = voice(48_000, blocks);
    for (at, sample) in sound.iter_mut().enumerate() {
        let within = at % 24_000;
        let envelope = (within.min(19_200_usize.saturating_sub(within)) as f64 / 1_440.0).min(1.0);
        *sample = (f64::from(*sample) * envelope.max(0.01)) as i16;
    }
    sound
}

fn coded(codec: AudioCodec, sound: &[i16]) -> Vec<Vec<u8>> {
    coded_for(codec, &OpusTerms::default(), 5, sound)
}

/// For a line of which the peer's reports say that it loses so many percent.
fn coded_for(codec: AudioCodec, terms: &OpusTerms, percent: u8, sound: &[i16]) -> Vec<Vec<u8>> {
    let mut encoder = encoder(codec, terms).expect("an encoder");
    encoder.set_loss(percent);
    let packet = |block: &[i16]| {
        let mut out = Vec::new();
        encoder.encode(block, &mut out).expect("encoded");
        out
    };
    sound.chunks_exact(block_samples(codec.sample_rate())).map(packet).collect()
}

const REPEATING: OpusTerms =
    OpusTerms { max_playback_rate: 48_000, max_bitrate: None, fec: true, dtx: false, constant: false };

fn repeats(packets: &[Vec<u8>]) -> usize {
    packets.iter().filter(|packet| opus::repairs(packet)).count()
}

/// Which packets are lost: in runs of three on average, `percent` of all.
fn bursts(percent: f64, count: usize, seed: u64) -> Vec<bool> {
    let mut random = StdRng::seed_from_u64(seed);
    let (ends, share) = (1.0 / 3.0, percent / 100.0);
    let begins = ends * share / (1.0 - share);
    let mut lost = false;
    let next = |_| {
        lost = random.random_bool(if lost { 1.0 - ends } else { begins });
        lost
    };
    (0..count).map(next).collect()
}

/// What libopus alone makes of packets of 20 ms, some of them lost.
fn by_libopus(packets: &[Vec<u8>], lost: &[bool]) -> Vec<i16> {
    let (mut decoder, mut out) = (OpusDecoder::new().expect("a decoder"), Vec::new());
    for (packet, lost) in packets.iter().zip(lost) {
        if *lost {
            decoder.conceal(960, None, &mut out);
        } else {
            decoder.decode(packet, &mut out).expect("sound");
        }
    }
    out
}

fn level(samples: &[i16]) -> f64 {
    (samples.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / samples.len().max(1) as f64).sqrt()
}

fn steepest(samples: &[i16]) -> i32 {
    samples.windows(2).map(|w| (i32::from(w[1]) - i32::from(w[0])).abs()).max().unwrap_or(0)
}

/// Milliseconds of the longest stretch that is 30 dB below the rest.
fn longest_hole_ms(rate: u32, heard: &[i16]) -> usize {
    let usual = level(heard);
    let (mut longest, mut present) = (0, 0);
    for part in heard.chunks(rate as usize / 200) {
        present = if level(part) < usual * 0.03 { present + 5 } else { 0 };
        longest = longest.max(present);
    }
    longest
}

#[test]
fn lost_packets_leave_neither_holes_nor_clicks() {
    for codec in CODECS {
        let rate = codec.sample_rate();
        let sound = voice(rate, 3000);
        let packets = coded(codec, &sound);
        let mut clean = Line::new(codec);
        clean.run(&packets, |_| Some(3_000));
        let settled = rate as usize / 5;
        for percent in [1.0, 5.0, 10.0] {
            let lost = bursts(percent, packets.len(), 7);
            let mut line = Line::new(codec);
            line.run(&packets, |number| (!lost[number as usize]).then_some(3_000));
            let heard = &line.heard[settled..];
            let (step, usual) = (steepest(heard), steepest(&clean.heard[settled..]));
            let hole = longest_hole_ms(rate, heard);
            let quality = line.machine.quality().expect("judged");
            println!(
                "{codec:?} {percent} %: hole {hole} ms, step {step} of {usual}, {:.1} % lost, BurstR {:.2}, R {:.1}, MOS {:.2}",
                quality.lost * 100.0,
                quality.burst_ratio,
                quality.rating,
                quality.opinion
            );
            assert!(percent > 5.0 || hole <= 60, "{codec:?} {percent} %: {hole} ms of silence");
            let most = match codec {
                AudioCodec::Pcmu | AudioCodec::Pcma | AudioCodec::G722 => usual * 12 / 10,
                // It bridges gaps itself, and nothing is added to how well it does.
                AudioCodec::Opus => steepest(&by_libopus(&packets, &lost)[settled..]).max(usual) * 12 / 10,
            };
            let place = heard.windows(2).position(|w| (i32::from(w[1]) - i32::from(w[0])).abs() == step);
            let beat = place.unwrap_or(0) * 50 / rate as usize + 10;
            let around = &lost[beat.saturating_sub(8)..(beat + 2).min(lost.len())];
            assert!(
                step <= most,
                "{codec:?} {percent} %: a step of {step}, usually {usual}, near {beat}: {around:?}"
            );
            let share = level(heard) / level(&clean.heard[settled..]);
            assert!((0.7..1.1).contains(&share), "{codec:?} {percent} %: {share}");
        }
    }
}

#[test]
fn forward_error_correction_brings_back_what_was_lost() {
    let codec = AudioCodec::Opus;
    let packets = coded_for(codec, &REPEATING, 20, &speech(1500));
    let heard = |lost: &dyn Fn(u64) -> bool| {
        let mut line = Line::new(codec);
        line.run(&packets, |number| (!lost(number)).then_some(3_000));
        line.machine.playout_counters()
    };
    let repairing = repeats(&packets);
    let counters = heard(&|number| number % 10 == 5);
    println!("{repairing} of {} packets repeat the one before them; {counters:?}", packets.len());
    // The encoder repeats what it thinks worth it.
    let possible =
        (0..packets.len() - 1).filter(|n| n % 10 == 5 && opus::repairs(&packets[n + 1])).count() as u64;
    assert!(possible >= 100 && counters.repaired >= possible * 8 / 10, "{possible} could be: {counters:?}");
}

#[test]
fn a_peer_that_takes_repeats_gets_them_from_the_first_loss_on() {
    let sound = speech(400);
    for max_playback_rate in [8_000, 16_000, 48_000] {
        let terms = OpusTerms { max_playback_rate, ..REPEATING };
        let of = |percent| repeats(&coded_for(AudioCodec::Opus, &terms, percent, &sound));
        assert_eq!(of(0), 0);
        for percent in [1, 2, 5, 10] {
            assert!(of(percent) > 240, "{max_playback_rate} Hz, {percent} %: {} of 400", of(percent));
        }
        let unwanted = OpusTerms { fec: false, ..terms };
        assert_eq!(repeats(&coded_for(AudioCodec::Opus, &unwanted, 10, &sound)), 0);
    }
}

/// How the listener would judge a line that loses so many percent in runs of three on average.
fn judged(codec: AudioCodec, packets: &[Vec<u8>], percent: f64) -> (Quality, JitterCounters) {
    let is_near = |value: f64, wanted: f64| (value / wanted - 1.0).abs() < 0.02;
    // Few packets lose by chance more or less than that, in longer or shorter runs.
    let as_said = |lost: &Vec<bool>| {
        let count = lost.iter().filter(|lost| **lost).count() as f64;
        let runs = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count() as f64;
        is_near(count / lost.len() as f64 * 100.0, percent) && is_near(count / runs.max(1.0), 3.0)
    };
    let lost = (0..).map(|seed| bursts(percent, packets.len(), seed)).find(as_said).expect("a seed");
    let mut line = Line::new(codec);
    line.run(packets, |number| (!lost[number as usize]).then_some(3_000));
    (line.machine.quality().expect("judged"), line.machine.playout_counters())
}

#[test]
fn the_opinion_of_a_line_knows_what_was_repaired_and_nothing_else() {
    let sound = speech(6000);
    let plain = coded(AudioCodec::Opus, &sound);
    for (percent, wanted) in [(1.0, 4.2), (5.0, 3.8), (10.0, 3.2)] {
        let repairing = coded_for(AudioCodec::Opus, &REPEATING, percent as u8, &sound);
        let (with, counters) = judged(AudioCodec::Opus, &repairing, percent);
        let (without, bare) = judged(AudioCodec::Opus, &plain, percent);
        let what = format!(
            "Opus, {percent} % in runs of three: MOS {:.2} (missing {:.1} %, BurstR {:.2}), without repair {:.2} \
             (missing {:.1} %, BurstR {:.2}); {} of 6000 repeat; {counters:?}",
            with.opinion,
            with.lost * 100.0,
            with.burst_ratio,
            without.opinion,
            without.lost * 100.0,
            without.burst_ratio,
            repeats(&repairing),
        );
        println!("{what}");
        assert!(with.opinion >= wanted && with.opinion > without.opinion, "{what}");
        // The same packets were lost, and of each run one at most can be had back: the last.
        assert_eq!(counters.missing, bare.missing);
        assert!(counters.repaired * 2 > counters.gaps && counters.repaired <= counters.gaps, "{what}");
        assert_eq!(counters.repaired_us, counters.repaired * 20_000);
        assert_eq!((bare.repaired, bare.repaired_us), (0, 0));
        let made_up = (counters.missing - counters.repaired) as f64 * 20_000.0;
        assert!((0.9..1.1).contains(&(counters.concealed_us as f64 / made_up)), "{what}");
    }
}

#[test]
fn the_opinion_of_a_line_without_repair_is_what_the_recommendation_says() {
    let codec = AudioCodec::Pcmu;
    let packets = coded(codec, &voice(8_000, 9000));
    for (percent, expected) in [(1.0, 4.30), (5.0, 3.84), (10.0, 3.11)] {
        let (quality, counters) = judged(codec, &packets, percent);
        println!("G.711, {percent} % in runs of three: {quality:?}");
        assert!((quality.opinion - expected).abs() < 0.04, "{percent} %: {quality:?}");
        assert_eq!((counters.repaired, counters.repaired_us, counters.gaps_repaired), (0, 0, 0));
    }
}

#[test]
fn wild_jitter_is_followed_up_and_down() {
    for codec in CODECS {
        let rate = codec.sample_rate();
        let packets = coded(codec, &voice(rate, 3500));
        let mut random = StdRng::seed_from_u64(3);
        let delays: Vec<u64> =
            (0..3500).map(|n| if n < 3000 { random.random_range(0..200_000) } else { 0 }).collect();
        let mut line = Line::new(codec);
        line.run(&packets[..3000], |number| Some(delays[number as usize]));
        let late = line.machine.playout_counters().late as f64 / 3000.0;
        let delay = line.machine.playout_delay();
        println!("{codec:?}: {:.2} % too late, {delay:?} waited", late * 100.0);
        assert!(late < 0.01, "{codec:?}: {late}");
        // 99 of 100 packets take 198 ms at most.
        assert!(delay <= Duration::from_millis(218), "{codec:?}: {delay:?}");
        let mut line = Line::new(codec);
        line.run(&packets, |number| Some(delays[number as usize]));
        let calm = line.machine.playout_delay();
        println!("{codec:?}: {calm:?} ten seconds later, {} ms stretched", line.hearing.stretched_ms());
        assert!(calm <= Duration::from_millis(60), "{codec:?}: {calm:?}");
        // Nothing was lost: going back was playing faster, and nothing clicks.
        let settled = rate as usize * 10;
        let mut clean = Line::new(codec);
        clean.run(&packets, |_| Some(3_000));
        let (step, usual) = (steepest(&line.heard[settled..]), steepest(&clean.heard[settled..]));
        assert!(step <= usual * 13 / 10, "{codec:?}: a step of {step}, usually {usual}");
        assert!(longest_hole_ms(rate, &line.heard[settled..]) <= 20);
    }
}

/// What a filter leaves that stops one tone, over the level of all.
fn impurity(heard: &[i16], hertz: f64, rate: u32) -> f64 {
    let twice = 2.0 * (std::f64::consts::TAU * hertz / f64::from(rate)).cos();
    let rest: Vec<f64> = heard
        .windows(3)
        .map(|w| (f64::from(w[2]) - twice * f64::from(w[1]) + f64::from(w[0])).powi(2))
        .collect();
    (rest.iter().sum::<f64>() / rest.len() as f64).sqrt() / level(heard)
}

#[test]
fn a_tone_over_a_bad_line_stays_one_tone() {
    let codec = AudioCodec::Pcmu;
    let tone: Vec<i16> = (0..160 * 1500)
        .map(|n| (8000.0 * (std::f64::consts::TAU * 425.0 * f64::from(n) / 8000.0).sin()) as i16)
        .collect();
    let packets = coded(codec, &tone);
    let mut clean = Line::new(codec);
    clean.run(&packets, |_| Some(3_000));
    // What mu-law alone adds.
    let of_codec = impurity(&clean.heard[1600..], 425.0, 8000);
    let lost = bursts(5.0, packets.len(), 11);
    let mut random = StdRng::seed_from_u64(1);
    let delays: Vec<u64> = (0..1500).map(|_| random.random_range(0..60_000)).collect();
    let mut line = Line::new(codec);
    line.run(&packets, |number| (!lost[number as usize]).then_some(delays[number as usize]));
    let found = impurity(&line.heard[8000..], 425.0, 8000);
    println!("beside the tone: {found:.4} of its level, {of_codec:.4} without loss and jitter");
    assert!(found < 0.05, "{found} of the tone's level, {of_codec} without loss");
}

#[test]
fn an_hour_of_drift_is_stretched_away() {
    for ppm in [200_i64, -200] {
        let codec = AudioCodec::Pcmu;
        let second = voice(8000, 50);
        let packets = coded(codec, &second);
        let mut line = Line::new(codec);
        let mut picture_times = Timeline::new(90_000, line.start);
        let mut sync = LipSync::default();
        let mut file = SoundTimeline::new(8000, Pts::ZERO);
        let mut given = Vec::new();
        let (mut sent, mut shown) = (0_u64, 0_u64);
        let mut picture = None;
        let (mut residuals, mut waits) = (Vec::new(), Vec::new());
        // The sender's clock is this much faster: what it calls 20 ms is shorter here.
        let here = |theirs_us: u64| (theirs_us as i64 - theirs_us as i64 * ppm / 1_000_000) as u64;
        for beat in 0..180_000_u64 {
            let at = beat * 20_000 + 7_000;
            while here(sent * 20_000) <= at {
                line.receive(here(sent * 20_000) + 2_000, sent, &packets[(sent % 50) as usize]);
                sent += 1;
            }
            while here(shown * 40_000) <= at {
                let came = line.start + Duration::from_micros(here(shown * 40_000) + 9_000);
                let pts = picture_times.pts(came, (shown * 3600) as u32);
                picture = Some(pts.nanos() - (shown * 40_000_000) as i64);
                shown += 1;
            }
            line.beat(at);
            let now = line.start + Duration::from_micros(at);
            let playing = line.machine.playing();
            let sound = playing.map(|(played, timestamp)| {
                Pts::at(line.start, played).nanos() - i64::from(timestamp) * 62_500 / 3
            });
            sync.update(now, sound, picture, line.machine.playout_delay());
            file.add(Side::Caller, Pts::at(line.start, now), &line.block);
            file.add(Side::Agent, Pts::at(line.start, now), &line.block);
            file.take(Pts::at(line.start, now), &mut given);
            given.clear();
            if beat > 500 {
                residuals.extend(sync.residual());
                waits.push(line.machine.playout_delay());
            }
        }
        let (low, high) = (residuals.iter().min().copied(), residuals.iter().max().copied());
        let change = (high.unwrap_or(0) - low.unwrap_or(0)) as f64 / 1e6;
        let longest = waits.iter().max().copied().unwrap_or_default();
        let counters = line.machine.playout_counters();
        println!("{ppm} ppm: skew changes by {change:.1} ms, sound waits {longest:?} at most, {counters:?}");
        assert!(residuals.len() > 170_000 && change < 20.0, "{change} ms at {ppm} ppm");
        assert!(longest < Duration::from_millis(45), "{longest:?} at {ppm} ppm");
        assert_eq!((counters.missing, counters.late, counters.overflow, counters.concealed_us), (0, 0, 0, 0));
        assert!(line.spoken >= 179_990, "somebody speaks in every beat");
        assert_eq!((file.gaps().gaps, file.gaps().late), (0, 0), "the recording has no seam");
    }
}
