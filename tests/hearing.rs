//! Who has the floor, measured: the pure machine with the real networks, over speech made by espeak-ng, in virtual time.
//!
//! Needs ONNX Runtime beside the binary and the two networks in `./models` (`make setup`). What the networks would take
//! in their own process is added to the clock: [`ROUND_TRIP`]; what they really take is measured in `tests/ears.rs`.

#![expect(clippy::disallowed_methods, reason = "a virtual clock starts somewhere")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use eyeline::codec::resample::Resampler;
use eyeline::inference::hearing::{FinishNetwork, VoiceNetwork, VoiceStream};
use eyeline::inference::manifest::{TURN_MODEL, VOICE_MODEL};
use eyeline::inference::mel;
use eyeline::inference::session::Runtime;
use eyeline::inference::store::Store;
use eyeline::source::speech::{SpeechSettings, say};
use eyeline::talk::hear::{Heard, Hearing, HearingSettings, Judgement};

/// From a block of sound to a judgement of it in the hands of the machine.
const ROUND_TRIP: Duration = Duration::from_millis(3);
/// The same for a question about the end of a turn.
const ANSWER_TIME: Duration = Duration::from_millis(100);

const VOICES: [&str; 7] = ["en", "en-us", "en+f2", "en+m3", "en+f4", "en+m7", "de"];

const INTERRUPTIONS: [&str; 10] = [
    "Good morning, I have another question",
    "Stop please, that is not what I want",
    "What time do you open tomorrow",
    "Wait a moment, I need a pen",
    "Can you help me with something else",
    "No that is not what I meant at all",
    "Hello, can you hear me now",
    "Excuse me, where is the entrance",
    "My name is Peter and I have a parcel",
    "Please connect me to somebody else",
];

const BACKCHANNELS: [&str; 20] = [
    "mhm",
    "uh-huh",
    "yeah",
    "okay",
    "right",
    "I see",
    "hmm",
    "yes",
    "ah",
    "sure",
    "mm-hmm",
    "oh",
    "got it",
    "great",
    "alright",
    "yep",
    "okay okay",
    "yes yes",
    "of course",
    "aha",
];

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        // `make setup` puts the library beside the binaries; test binaries lie one folder deeper.
        let executable = std::env::current_exe().expect("a path");
        let library = executable.ancestors().nth(2).expect("target/debug").join("libonnxruntime.so");
        Runtime::start(library.is_file().then_some(library.as_path())).expect("make setup has been run")
    })
}

fn store() -> Store {
    Store::open(Some(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models"))).expect("a manifest")
}

fn voice_network() -> VoiceNetwork {
    let file = store().file(VOICE_MODEL).expect("make setup fetches it");
    VoiceNetwork::load(runtime(), &file).expect("it loads")
}

fn finish_network() -> FinishNetwork {
    let file = store().file(TURN_MODEL).expect("make setup fetches it");
    FinishNetwork::load(runtime(), &file).expect("it loads")
}

/// Words without the silence around them, at the level of usual speech (-26 dBFS).
fn words(text: &str, voice: &str, rate: u32) -> Vec<i16> {
    type Spoken = HashMap<(String, String, u32), Vec<i16>>;
    static SPOKEN: Mutex<Option<Spoken>> = Mutex::new(None);
    let key = (text.to_owned(), voice.to_owned(), rate);
    if let Some(known) = SPOKEN.lock().expect("sound").get_or_insert_default().get(&key) {
        return known.clone();
    }
    let settings = SpeechSettings { voice: voice.to_owned(), ..SpeechSettings::new(rate) };
    let sound = say(text, &settings).expect("espeak-ng is installed");
    let loud = |part: &[i16]| level(part) > -45.0;
    let step = rate as usize / 200;
    let parts: Vec<&[i16]> = sound.chunks(step).collect();
    let first = parts.iter().position(|part| loud(part)).expect("words");
    let last = parts.iter().rposition(|part| loud(part)).expect("words");
    let sound = &sound[first * step..((last + 1) * step).min(sound.len())];
    let gain = 10f32.powf((-26.0 - level(sound)) / 20.0);
    let sound: Vec<i16> = sound.iter().map(|sample| (f32::from(*sample) * gain) as i16).collect();
    SPOKEN.lock().expect("sound").get_or_insert_default().insert(key, sound.clone());
    sound
}

fn level(sound: &[i16]) -> f32 {
    let power =
        sound.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / sound.len().max(1) as f64;
    (10.0 * (power / 32_768f64.powi(2) + 1e-12).log10()) as f32
}

/// Noise whose every run is the same.
struct Noise(u32);

impl Noise {
    fn next(&mut self, db: f32) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let unit = (self.0 >> 8) as f32 / 8_388_608.0 - 1.0;
        unit * 32_768.0 * 3f32.sqrt() * 10f32.powf(db / 20.0)
    }
}

/// What happened, in ms since the start of the line.
type Log = Vec<(f64, Heard)>;

/// One call in virtual time: what the caller's side sounds like, and what we say meanwhile.
struct Line {
    hearing: Hearing,
    rate: u32,
    network: VoiceNetwork,
    stream: VoiceStream,
    finish: Option<FinishNetwork>,
    start: Instant,
    now: Instant,
    heard: u64,
    pending: Vec<i16>,
    waiting: Vec<i16>,
    all: Vec<i16>,
    judgements: Vec<(Instant, Judgement)>,
    noise: Noise,
    noise_db: f32,
    /// Our voice and where it stands; silent for good when it is given up.
    reply: Vec<i16>,
    reply_at: usize,
    hold: Hold,
    /// Delay in samples and loss in dB of our voice coming back.
    echo: Option<(usize, f32)>,
    sent: Vec<i16>,
    log: Log,
}

#[derive(Clone, Copy, PartialEq)]
enum Hold {
    Free,
    Ducked,
    Paused,
    Given,
}

impl Line {
    fn new(rate: u32, change: impl FnOnce(&mut HearingSettings)) -> Line {
        let mut settings = HearingSettings::new(rate);
        change(&mut settings);
        let start = Instant::now();
        let hearing = Hearing::new(settings);
        Line {
            stream: VoiceStream::new(hearing.copy_rate()),
            hearing,
            rate,
            network: voice_network(),
            finish: None,
            start,
            now: start,
            heard: 0,
            pending: Vec::new(),
            waiting: Vec::new(),
            all: Vec::new(),
            judgements: Vec::new(),
            noise: Noise(7),
            noise_db: -70.0,
            reply: Vec::new(),
            reply_at: 0,
            hold: Hold::Free,
            echo: None,
            sent: Vec::new(),
            log: Vec::new(),
        }
    }

    /// Where the caller's sound stands, in ms since the start: at times within a block that is not full yet.
    fn position(&self) -> f64 {
        self.ms(self.now) + self.pending.len() as f64 / f64::from(self.rate) * 1e3
    }

    fn ms(&self, at: Instant) -> f64 {
        (at - self.start).as_secs_f64() * 1e3
    }

    /// A reply that would go on for as long as it is let.
    fn speak(&mut self) {
        let text = "We are open from Monday to Friday between nine and five, and on Saturday until noon. If you come by \
                    car please use the entrance at the back of the building, where there is always room to park.";
        self.reply = words(text, "en-us", self.rate);
        self.reply.iter_mut().for_each(|sample| *sample = (f32::from(*sample) * 1.8) as i16);
        self.reply_at = 0;
        self.hold = Hold::Free;
    }

    /// The next block of what we send, and what is told of it.
    fn ours(&mut self, length: usize) -> Option<f32> {
        let mut block = vec![0i16; length];
        let speaks = !self.reply.is_empty() && self.hold != Hold::Given;
        if speaks && self.hold != Hold::Paused {
            let gain = if self.hold == Hold::Ducked { 10f32.powf(-15.0 / 20.0) } else { 1.0 };
            for sample in &mut block {
                *sample = (f32::from(self.reply[self.reply_at % self.reply.len()]) * gain) as i16;
                self.reply_at += 1;
            }
        }
        let told = speaks.then(|| level(&block));
        self.sent.extend(block);
        told
    }

    /// The caller's side sounds like this, over noise and echo.
    fn hear(&mut self, sound: &[i16]) {
        let length = self.rate as usize / 50;
        self.pending.extend_from_slice(sound);
        let pending = std::mem::take(&mut self.pending);
        let (whole, rest) = pending.split_at(pending.len() / length * length);
        self.pending = rest.to_vec();
        for part in whole.chunks(length) {
            let playing = self.ours(part.len());
            let behind = self.sent.len() - part.len();
            let mixed: Vec<i16> = part
                .iter()
                .enumerate()
                .map(|(n, sample)| {
                    let echo = self.echo.and_then(|(delay, db)| {
                        let sent = self.sent[(behind + n).checked_sub(delay)?];
                        Some(f32::from(sent) * 10f32.powf(db / 20.0))
                    });
                    (f32::from(*sample) + echo.unwrap_or(0.0) + self.noise.next(self.noise_db)) as i16
                })
                .collect();
            self.block(&mixed, playing);
        }
    }

    fn block(&mut self, block: &[i16], playing: Option<f32>) {
        let end = self.now + Duration::from_secs_f64(block.len() as f64 / f64::from(self.rate));
        self.until(end);
        let copy = self.hearing.handle_block(end, block, playing);
        self.heard += copy.len() as u64;
        self.waiting.extend_from_slice(copy);
        self.all.extend_from_slice(copy);
        while self.waiting.len() >= self.stream.window() {
            let window: Vec<i16> = self.waiting.drain(..self.stream.window()).collect();
            let probability = self.network.judge(&mut self.stream, &window).expect("a probability");
            let until = self.heard - self.waiting.len() as u64;
            self.judgements.push((end + ROUND_TRIP, Judgement::Speech { probability, until }));
            if std::env::var_os("HEARING_TELL").is_some() {
                println!("   {:.0} {probability:.2}", self.ms(end));
            }
        }
        self.fetch();
    }

    /// Lets time pass, with everything that is due in it.
    fn until(&mut self, end: Instant) {
        loop {
            let judged = self.judgements.iter().map(|(at, _)| *at).min();
            let wake = self.hearing.wake_at();
            let next = [judged, wake].into_iter().flatten().min().filter(|at| *at <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            while let Some(at) = self.judgements.iter().position(|(at, _)| *at <= self.now) {
                let (_, judgement) = self.judgements.remove(at);
                self.hearing.handle_judgement(self.now, judgement);
                self.fetch();
            }
            self.hearing.handle_time(self.now);
            self.fetch();
        }
        self.now = end;
    }

    fn fetch(&mut self) {
        while let Some(event) = self.hearing.poll() {
            match event {
                Heard::Duck => self.hold = Hold::Ducked,
                Heard::Pause => self.hold = Hold::Paused,
                Heard::Interrupt => self.hold = Hold::Given,
                Heard::Resume { .. } => self.hold = Hold::Free,
                Heard::AskFinished { spoken } => self.ask(spoken),
                Heard::SpeechStarted { .. } | Heard::SpeechEnded { .. } | Heard::TurnEnded { .. } => {}
            }
            self.log.push((self.ms(self.now), event));
        }
    }

    fn ask(&mut self, spoken: Duration) {
        let rate = self.hearing.copy_rate();
        let wanted = (spoken.as_secs_f64() * f64::from(rate)) as usize;
        let sound = &self.all[self.all.len() - wanted.min(self.all.len())..];
        let Some(finish) = &mut self.finish else {
            self.judgements.push((self.now, Judgement::Unanswered));
            return;
        };
        let mut wide = Vec::new();
        let mut resampler = Resampler::new(rate, mel::RATE).expect("rates of calls");
        resampler.process(sound, &mut wide).expect("converted");
        let (probability, timing) = finish.ask(&wide).expect("an answer");
        println!("asked after {spoken:?}: {probability:.2}, {timing:?}");
        self.judgements
            .push((self.now + ANSWER_TIME, Judgement::Finished { probability, until: self.heard }));
    }

    fn silence(&mut self, ms: u64) {
        self.hear(&vec![0; (u64::from(self.rate) * ms / 1_000) as usize]);
    }

    /// When something happened first after `from`, in ms after it.
    fn after(&self, from: f64, what: impl Fn(&Heard) -> bool) -> Option<f64> {
        self.log.iter().find(|(at, event)| *at >= from && what(event)).map(|(at, _)| at - from)
    }

    fn count(&self, what: impl Fn(&Heard) -> bool) -> usize {
        self.log.iter().filter(|(_, event)| what(event)).count()
    }
}

fn percentile(values: &mut [f64], percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * percent / 100.0).round() as usize]
}

/// A caller who speaks over us: when we are turned down, silent, and give up, in ms after the first sound of his.
struct BargeIn {
    duck: Vec<f64>,
    silent: Vec<f64>,
    given: Vec<f64>,
    missed: usize,
}

fn barge_in(
    rate: u32,
    noise_db: f32,
    echo: Option<(usize, f32)>,
    change: fn(&mut HearingSettings),
) -> BargeIn {
    let mut result = BargeIn { duck: Vec::new(), silent: Vec::new(), given: Vec::new(), missed: 0 };
    for (number, voice) in VOICES.iter().enumerate() {
        let mut line = Line::new(rate, change);
        (line.noise_db, line.echo) = (noise_db, echo);
        line.silence(500);
        for (at, text) in INTERRUPTIONS.iter().enumerate() {
            line.speak();
            // He begins anywhere in a block and anywhere in what we say, at times in our first word.
            let lead = [60, 700, 1_500, 2_600, 3_100][(number + at) % 5] + (at * 7 + number * 3) as u64 % 32;
            line.silence(lead);
            let onset = line.position();
            line.hear(&words(text, voice, rate));
            line.silence(700);
            let duck = line.after(onset, |event| matches!(event, Heard::Duck | Heard::Pause));
            let silent = line.after(onset, |event| matches!(event, Heard::Pause));
            let given = line.after(onset, |event| matches!(event, Heard::Interrupt));
            if std::env::var_os("HEARING_TELL").is_some() {
                let of_this = line.log.iter().filter(|(at, _)| *at >= onset).take(8).collect::<Vec<_>>();
                println!(
                    "{voice} {text:?} after {lead} ms: {duck:?} {silent:?} {of_this:?} {:?}",
                    line.hearing.figures()
                );
            }
            match (duck, silent, given) {
                (Some(duck), Some(silent), Some(given)) => {
                    result.duck.push(duck);
                    result.silent.push(silent);
                    result.given.push(given);
                }
                _ => result.missed += 1,
            }
            line.reply.clear();
            line.silence(3_500);
        }
    }
    result
}

fn report(what: &str, result: &mut BargeIn) -> [f64; 4] {
    let figures = [
        percentile(&mut result.duck, 50.0),
        percentile(&mut result.silent, 50.0),
        percentile(&mut result.silent, 99.0),
        percentile(&mut result.given, 50.0),
    ];
    println!(
        "{what}: {} interruptions, {} missed; turned down p50 {:.0} p99 {:.0} ms, silent p50 {:.0} p99 {:.0} ms, given up p50 {:.0} ms",
        result.duck.len(),
        result.missed,
        figures[0],
        percentile(&mut result.duck, 99.0),
        figures[1],
        figures[2],
        figures[3],
    );
    figures
}

/// What is left for the rest of the way: the caller's packet (20 ms), its playout and our next packet.
#[test]
fn who_speaks_over_us_is_let_speak_within_a_tenth_of_a_second() {
    for (rate, noise, echo) in [
        (8_000, -70.0, None),
        (8_000, -50.0, None),
        (8_000, -60.0, Some((960, -25.0))),
        (16_000, -60.0, None),
        (48_000, -60.0, None),
    ] {
        let mut result = barge_in(rate, noise, echo, |_| {});
        let [duck, silent, late, _] =
            report(&format!("{rate} Hz, noise {noise} dB, echo {echo:?}"), &mut result);
        assert!(duck <= 70.0 && silent <= 85.0 && late <= 180.0, "{duck:.0} {silent:.0} {late:.0} ms");
        assert!(result.missed == 0, "{} missed", result.missed);
    }
}

#[test]
fn backchannels_do_not_stop_us() {
    let (mut all, mut stopped, mut held, mut pauses) = (0, Vec::new(), Vec::new(), 0);
    for (number, voice) in VOICES.iter().enumerate() {
        let mut line = Line::new(8_000, |_| {});
        line.noise_db = [-70.0, -50.0, -45.0][number % 3];
        line.silence(500);
        for text in BACKCHANNELS {
            line.speak();
            line.silence(900);
            let onset = line.position();
            line.hear(&words(text, voice, 8_000));
            line.silence(600);
            // Half of the transcribers know the word by now, the others never will.
            if all % 2 == 0 {
                line.hearing.handle_transcript(text, true);
                line.fetch();
            }
            line.silence(3_000);
            all += 1;
            if line.after(onset, |event| matches!(event, Heard::Interrupt)).is_some() {
                stopped.push(format!("{text} ({voice})"));
            }
            if let Some(paused) = line.after(onset, |event| matches!(event, Heard::Pause)) {
                pauses += 1;
                let resumed = line.after(onset, |event| matches!(event, Heard::Resume { .. }));
                held.push(resumed.unwrap_or(f64::INFINITY) - paused);
            }
            assert!(line.hold != Hold::Paused && line.hold != Hold::Ducked, "{text}: it never went on");
            line.reply.clear();
            line.silence(300);
        }
    }
    let share = stopped.len() as f64 / f64::from(all) * 100.0;
    println!(
        "{all} backchannels: {} stopped us for good ({share:.1} %: {stopped:?}), {pauses} made us pause, for {:.0} ms in the middle",
        stopped.len(),
        percentile(&mut held, 50.0),
    );
    assert!(share <= 3.0, "{share:.1} %");
}

#[test]
fn a_short_command_stops_us_once_it_is_understood() {
    for (text, stops) in [("stop", true), ("wait", true), ("no", true), ("okay", false), ("mm-hmm", false)] {
        let mut line = Line::new(8_000, |_| {});
        line.silence(500);
        line.speak();
        line.silence(1_000);
        line.hear(&words(text, "en", 8_000));
        line.silence(400);
        line.hearing.handle_transcript(text, true);
        line.fetch();
        let interrupted = line.count(|event| matches!(event, Heard::Interrupt));
        let resumed = line.count(|event| matches!(event, Heard::Resume { false_interruption: true }));
        assert_eq!((interrupted > 0, resumed > 0), (stops, !stops), "{text}: {:?}", line.log);
    }
}

#[test]
fn our_own_voice_coming_back_and_noise_never_silence_us() {
    for (delay_ms, loss, noise) in [(40, -18.0, -60.0), (120, -25.0, -55.0), (300, -30.0, -50.0)] {
        let mut line = Line::new(8_000, |_| {});
        (line.noise_db, line.echo) = (noise, Some((delay_ms * 8, loss)));
        line.silence(200);
        line.speak();
        line.silence(20_000);
        let figures = line.hearing.figures();
        println!("echo after {delay_ms} ms at {loss} dB: {figures:?}");
        assert_eq!((figures.pauses, figures.interruptions), (0, 0), "{delay_ms} ms {loss} dB: {figures:?}");
        assert!(figures.ducks <= 2, "{figures:?}");
    }
    for noise in [-60.0, -45.0, -35.0] {
        let mut line = Line::new(8_000, |_| {});
        line.noise_db = noise;
        line.speak();
        line.silence(20_000);
        let figures = line.hearing.figures();
        assert_eq!((figures.pauses, figures.turns), (0, 0), "noise {noise}: {figures:?}");
        assert!(figures.ducks <= 1, "noise {noise}: {figures:?}");
    }
}

#[test]
fn turns_end_soon_after_a_finished_sentence_and_wait_for_an_unfinished_one() {
    let finished = [
        "Good morning, I have a question.",
        "Where is the entrance?",
        "My name is Peter.",
        "Please open the door for me.",
    ];
    let unfinished = ["I would like to", "Can you tell me where the", "So I was thinking that maybe"];
    for rate in [8_000, 16_000] {
        let mut waits = Vec::new();
        for (text, done) in
            finished.map(|text| (text, true)).into_iter().chain(unfinished.map(|text| (text, false)))
        {
            let mut line = Line::new(rate, |_| {});
            line.finish = Some(finish_network());
            line.silence(600);
            line.hear(&words(text, "en-us", rate));
            let end = line.position();
            line.silence(4_000);
            let ended = line.after(end, |event| matches!(event, Heard::TurnEnded { .. })).expect("an end");
            waits.push((text, done, ended));
            assert_eq!(
                line.count(|event| matches!(event, Heard::TurnEnded { .. })),
                1,
                "{text}: {:?}",
                line.log
            );
            let told = line.count(|event| matches!(event, Heard::SpeechEnded { .. }));
            assert_eq!(told, line.count(|event| matches!(event, Heard::SpeechStarted { .. })), "{text}");
        }
        println!("{rate} Hz: {waits:?}");
        let soon: Vec<f64> = waits.iter().filter(|(_, done, _)| *done).map(|(_, _, wait)| *wait).collect();
        let in_time = soon.iter().filter(|wait| **wait <= 400.0).count();
        assert!(in_time * 4 >= soon.len() * 3, "finished sentences: {soon:?}");
        assert!(soon.iter().all(|wait| *wait >= 250.0), "cut off: {soon:?}");
        let late = waits.iter().filter(|(_, done, wait)| !done && *wait >= 2_000.0).count();
        assert!(late >= 2, "unfinished ones: {waits:?}");
    }
}

#[test]
fn the_first_sound_of_a_word_is_in_the_pre_roll() {
    for rate in [8_000, 48_000] {
        let mut line = Line::new(rate, |settings| settings.agc = false);
        line.noise_db = -90.0;
        line.silence(1_013);
        let spoken = words("Hello there, how are you", "en", rate);
        let onset = line.position();
        let mut roll = Vec::new();
        for part in spoken.chunks(rate as usize / 50) {
            line.hear(part);
            if line.hearing.is_speaking() {
                line.hearing.pre_roll(&mut roll);
                break;
            }
        }
        let copy_rate = f64::from(line.hearing.copy_rate());
        let told = line.log.iter().find_map(|(_, event)| match event {
            Heard::SpeechStarted { at } => Some(line.ms(*at)),
            _ => None,
        });
        let told = told.expect("speech");
        assert!((onset - 40.0..onset + 100.0).contains(&told), "{rate}: began at {onset}, told {told}");
        // From half a second before what was told up to now.
        let length = roll.len() as f64 / copy_rate * 1e3;
        assert!((length - (line.position() - told + 500.0)).abs() < 25.0, "{rate}: {length} ms");
        let quiet = ((onset - told + 500.0 - 30.0) / 1e3 * copy_rate) as usize;
        assert!(level(&roll[..quiet]) < -60.0 && level(&roll[quiet..]) > -40.0, "{rate}");
    }
}

#[test]
fn without_a_network_energy_does() {
    let mut line = Line::new(8_000, |_| {});
    line.noise_db = -60.0;
    line.hearing.handle_judgement(line.now, Judgement::Gone);
    let without = |line: &mut Line, sound: &[i16]| {
        let noise: Vec<f32> = sound.iter().map(|_| line.noise.next(-60.0)).collect();
        for (part, noise) in sound.chunks(160).zip(noise.chunks(160)) {
            let block: Vec<i16> = part.iter().zip(noise).map(|(a, b)| (f32::from(*a) + b) as i16).collect();
            let end = line.now + Duration::from_millis(20);
            line.until(end);
            line.hearing.handle_block(end, &block, None);
            line.fetch();
        }
    };
    without(&mut line, &[0; 8_000]);
    without(&mut line, &words("Good morning, I have a question", "en", 8_000));
    without(&mut line, &[0; 16_000]);
    let ended = line.count(|event| matches!(event, Heard::TurnEnded { .. }));
    assert_eq!(ended, 1, "{:?}", line.log);
    let figures = line.hearing.figures();
    assert!(figures.judges_lost == 1 && figures.blocks_by_energy > 100, "{figures:?}");
}
