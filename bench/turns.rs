//! Turns of a conversation as their caller hears them: what it says, what it hears of which reply, how long that takes; and
//! providers whose delays are known.

#![allow(dead_code, reason = "each benchmark uses a part")]

use std::time::Duration;

use super::harness::capture::{Rtp, Stream};
use super::harness::emulators::models::Reply;
use super::harness::emulators::providers::Providers;
use super::harness::emulators::server::Pace;
use super::harness::sound::{self, from_mu_law, level_db};
use super::harness::uac::{Caller, Packetized, Sending};

/// What the providers take: for the words of a turn, for the first ones of an answer and between them, for the first
/// sound of a sentence.
pub const STT_MS: u64 = 50;
pub const LLM_MS: u64 = 80;
pub const WORD_MS: u64 = 5;
pub const TTS_MS: u64 = 50;
/// The pause after which a turn is over, and the one after which its words are asked for: the first sentence of the
/// answer is there before the turn is over, and only its voice is waited for.
pub const PAUSE_MS: u64 = 500;
pub const WORDS_AFTER_MS: u64 = 250;
const _: () = assert!(WORDS_AFTER_MS + STT_MS + LLM_MS + 8 * WORD_MS + 60 < PAUSE_MS);
/// A reply is told from others by its tone.
pub const TONES: [f64; 5] = [570.0, 700.0, 830.0, 960.0, 1_090.0];
pub const LOUD_DB: f64 = -30.0;
pub const SILENT_DB: f64 = -60.0;
/// What 15 dB of ducking amounts to in blocks of 20 ms of G.711.
pub const DUCKED_DB: f64 = 14.0;
/// From the end of a question to the next one, at least; so much more at times.
pub const REPLY_MS: usize = 2_200;
pub const MORE_MS: usize = 700;

/// Voices and questions; each is long enough to be no backchannel.
pub const VOICES: [&str; 6] = ["en-us", "en-gb", "en-us+f2", "en-gb+m3", "en-us+f4", "en-gb-scotland"];
pub const QUESTIONS: [&str; 6] = [
    "Stop please I have another question for you",
    "What about the day after tomorrow?",
    "Tell me something else about the house",
    "How much is it altogether?",
    "Do you know who was at the door this morning?",
    "Actually can you say that again more slowly?",
];

/// One question in a call: when its first and its last sound left, in seconds.
pub struct Cycle {
    pub onset: f64,
    pub end: f64,
}

/// Everything a caller says, and where its questions stand.
pub fn script(call: usize, cycles: usize) -> (Vec<f64>, Vec<Cycle>) {
    let spoken: Vec<Vec<f64>> = (0..VOICES.len())
        .map(|n| sound::espeak(VOICES[(n + call) % VOICES.len()], QUESTIONS[n % QUESTIONS.len()]))
        .collect();
    let mut said = vec![0.0; (1_500 + call * 370) * 8];
    let mut all = Vec::new();
    let packet = |sample: usize| (sample / 160) as f64 * 0.02;
    for cycle in 0..cycles {
        let clip = &spoken[cycle % spoken.len()];
        all.push(Cycle { onset: packet(said.len()), end: packet(said.len() + clip.len() - 1) });
        said.extend(clip);
        // Onsets fall everywhere between two packets, and in a reply.
        let rest = (REPLY_MS + cycle * 211 % MORE_MS) * 8 + (cycle * 37 + call * 11) % 160;
        said.extend(std::iter::repeat_n(0.0, rest));
    }
    (said, all)
}

/// A block of 20 ms as it was heard.
pub struct Block {
    pub at: f64,
    pub level: f64,
    /// Which reply it is of.
    pub tone: Option<usize>,
}

/// How much of a tone there is in a few samples.
pub fn power_at(samples: &[f64], hertz: f64) -> f64 {
    let step = std::f64::consts::TAU * hertz / f64::from(sound::RATE);
    let sum = samples.iter().enumerate().fold((0.0, 0.0), |(real, imaginary), (n, sample)| {
        let (sine, cosine) = (n as f64 * step).sin_cos();
        (real + sample * cosine, imaginary + sample * sine)
    });
    sum.0 * sum.0 + sum.1 * sum.1
}

pub fn blocks(heard: &Stream) -> Vec<Block> {
    let audio = heard.packets.iter().filter(|packet| packet.payload_type == 0);
    let block = |packet: &Rtp| {
        let samples: Vec<f64> = packet.payload.iter().map(|byte| from_mu_law(*byte)).collect();
        let level = level_db(&samples);
        let energy = samples.iter().map(|sample| sample * sample).sum::<f64>() * samples.len() as f64 / 2.0;
        // A few samples at the beginning of a tone have no pitch yet: what fills a block to a third has.
        let pitch = |tone: &usize| power_at(&samples, TONES[*tone]) > energy * 0.3;
        let tone = (0..TONES.len())
            .max_by(|a, b| power_at(&samples, TONES[*a]).total_cmp(&power_at(&samples, TONES[*b])))
            .filter(pitch);
        Block { at: packet.at, level, tone: tone.filter(|_| level > SILENT_DB) }
    };
    audio.map(block).collect()
}

/// What was measured, in milliseconds.
#[derive(Default)]
pub struct Figures {
    pub turns: Vec<f64>,
    pub ducked: Vec<f64>,
    pub silent: Vec<f64>,
    pub ages: Vec<f64>,
    /// Questions that found no reply to interrupt, and questions that were not answered.
    pub missed: usize,
    /// Blocks of a reply that was given up, heard after it had fallen silent.
    pub late: usize,
}

impl Figures {
    pub fn add(&mut self, other: Figures) {
        self.turns.extend(other.turns);
        self.ducked.extend(other.ducked);
        self.silent.extend(other.silent);
        self.ages.extend(other.ages);
        self.missed += other.missed;
        self.late += other.late;
    }

    /// Judges one call; `injected`: what of a turn is not ours.
    pub fn of_call(blocks: &[Block], cycles: &[Cycle], injected_ms: u64) -> Figures {
        let mut figures = Figures::default();
        for (number, cycle) in cycles.iter().enumerate() {
            let next = cycles.get(number + 1).map_or(f64::INFINITY, |next| next.onset);
            if number > 0 {
                figures.interruption(blocks, cycle, next);
            }
            let reply = blocks.iter().find(|block| block.at > cycle.end && block.level > LOUD_DB);
            match reply.filter(|block| block.at < next) {
                Some(reply) => {
                    figures.turns.push((reply.at - cycle.end) * 1_000.0 - injected_ms as f64);
                }
                None => {
                    eprintln!("bench: the question at {:.2} s is not answered", cycle.onset);
                    figures.missed += 1;
                }
            }
        }
        figures
    }

    fn interruption(&mut self, blocks: &[Block], cycle: &Cycle, next: f64) {
        let before: Vec<&Block> =
            blocks.iter().filter(|block| (cycle.onset - 0.2..cycle.onset).contains(&block.at)).collect();
        let loud = before.iter().map(|block| block.level).sum::<f64>() / before.len().max(1) as f64;
        let tone = before.last().and_then(|block| block.tone);
        if loud < LOUD_DB || tone.is_none() {
            eprintln!("bench: nothing to interrupt at {:.2} s", cycle.onset);
            self.missed += 1;
            return;
        }
        let after = |limit: f64| {
            let quiet =
                |pair: &&[Block]| pair[0].at > cycle.onset && pair.iter().all(|block| block.level < limit);
            blocks.windows(2).find(quiet).map(|pair| pair[0].at)
        };
        let (ducked, silent) = (after(loud - DUCKED_DB), after(SILENT_DB));
        let ms = |at: Option<f64>| at.map_or(f64::INFINITY, |at| (at - cycle.onset) * 1_000.0);
        self.ducked.push(ms(ducked));
        self.silent.push(ms(silent));
        let silent = silent.unwrap_or(cycle.end);
        let rest = blocks.iter().filter(|block| block.at > silent && block.at < next);
        // A pause that proved to be none would be late sound too: every question here is an interruption.
        let late: Vec<f64> =
            rest.filter(|block| block.tone == tone).map(|block| block.at - cycle.onset).collect();
        if let Some(first) = late.first() {
            let (count, silent) = (late.len(), ms(Some(silent)));
            eprintln!(
                "bench: interrupted at {:.2} s: silent after {silent:.0} ms, {count} blocks of it from {first:.3} s on",
                cycle.onset
            );
        }
        self.late += late.len();
    }
}

pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The head of a table of [`row`]s.
pub fn head() {
    println!(
        "| {:<46} | {:>5} | {:>7} | {:>7} | {:>7} | {:<14} |",
        "what, in milliseconds", "count", "p50", "p95", "p99", "limits"
    );
    println!("|{}|------:|--------:|--------:|--------:|----------------|", "-".repeat(48));
}

/// A row of the table. `limits`: of the 50th, 95th and 99th percentile. `true`: all are kept.
pub fn row(what: &str, values: &[f64], limits: [Option<f64>; 3]) -> bool {
    let found = [50, 95, 99].map(|percent| percentile(values, percent));
    let words = limits.map(|limit| limit.map_or(String::from("-"), |limit| format!("{limit:.0}")));
    println!(
        "| {what:<46} | {:>5} | {:>7.1} | {:>7.1} | {:>7.1} | {:<14} |",
        values.len(),
        found[0],
        found[1],
        found[2],
        words.join(" / ")
    );
    found.iter().zip(limits).all(|(found, limit)| limit.is_none_or(|limit| *found <= limit))
}

/// What a caller has of pictures.
#[derive(Clone, Copy)]
pub enum Sight<'a> {
    None,
    /// It takes H.264 and sends nothing.
    Looks,
    Sends(&'a Packetized),
}

/// One call: what was heard of it.
pub fn talk(uri: &str, said: &[f64], sight: Sight<'_>) -> Vec<Block> {
    let mut caller = Caller::new(uri);
    let line = Caller::h264_offer(1);
    let (line, video) = match sight {
        Sight::None => (None, None),
        Sight::Looks => (Some(line.as_str()), None),
        Sight::Sends(clip) => (Some(line.as_str()), Some(clip)),
    };
    let answer = caller.invite(&caller.offer(line));
    assert_eq!(answer.status, 200, "{answer:?}");
    let time = Duration::from_secs_f64(said.len() as f64 / 8_000.0);
    let sending = Sending { time, video, sound: Some(said), ..Sending::default() };
    let received = caller.stream_as(&answer, &sending, |_, _| ());
    caller.hang_up();
    blocks(&received.audio)
}

/// An agent of three models for each of these servers, called by its number; `more`: of an agent.
pub fn agents(servers: &[Providers], more: impl Fn(usize) -> String) -> Vec<String> {
    let mut settings = vec![
        "recording.min_free_gib=0".to_owned(),
        r#"talk.turn_detection="vad""#.to_owned(),
        format!("talk.min_delay_s={}", PAUSE_MS as f64 / 1_000.0),
        format!("talk.min_silence_s={}", WORDS_AFTER_MS as f64 / 1_000.0),
        "sip.calls_per_second=0".to_owned(),
    ];
    let mut routes = Vec::new();
    for (n, server) in servers.iter().enumerate() {
        let root = server.root("v1");
        for (service, more) in [("stt", ""), ("llm", ", sees=true"), ("tts", r#", voice="alloy""#)] {
            settings.push(format!(r#"{service}.p{n}={{base_url="{root}", model="m", api_key="key"{more}}}"#));
        }
        let more = more(n);
        settings.push(format!(
            r#"agent.a{n}={{kind="pipeline", stt="p{n}", llm="p{n}", tts="p{n}", greeting="", {more}}}"#
        ));
        routes.push(format!(r#"{{to="{n}", agent="a{n}", detect=[]}}"#));
    }
    settings.push(format!("route=[{}]", routes.join(", ")));
    settings
}

/// Servers that speak like OpenAI, for one call.
pub fn providers() -> Providers {
    let providers = Providers::start();
    let delay = |ms| Pace { delay: Duration::from_millis(ms), ..Pace::default() };
    providers.pace("transcriptions", delay(STT_MS));
    // Words and sound keep coming while they are spoken: there is always something on its way when it is given up.
    providers.pace("chat", Pace { gap: Duration::from_millis(WORD_MS), ..delay(LLM_MS) });
    providers.pace("speech", Pace { gap: Duration::from_millis(30), ..delay(TTS_MS) });
    let texts: Vec<String> = (0..400).map(|n| format!("Question number {}", n % TONES.len())).collect();
    providers.hear(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    providers.answer(|asked| {
        let digit = asked.said.chars().last().unwrap_or('0');
        Reply {
            text: format!("This is reply {digit}. ")
                + &format!("It is {digit} and goes on and on. ").repeat(12),
            calls: Vec::new(),
        }
    });
    providers
}

/// So many calls at once.
pub fn calls<'a>(
    count: usize,
    cycles: usize,
    injected_ms: u64,
    to: impl Fn(usize) -> (String, Sight<'a>) + Sync,
) -> Figures {
    let mut all = Figures::default();
    std::thread::scope(|scope| {
        let one = |call: usize| {
            let (said, script) = script(call, cycles);
            let (uri, sight) = to(call);
            let heard = talk(&uri, &said, sight);
            Figures::of_call(&heard, &script, injected_ms)
        };
        let running: Vec<_> = (0..count).map(|call| scope.spawn(move || one(call))).collect();
        for call in running {
            all.add(call.join().unwrap());
        }
    });
    all
}
