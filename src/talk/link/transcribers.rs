//! Driver. Transcription: what a caller says, turn by turn, to a list of providers.
//!
//! A turn is kept until its text has come, so that another provider can be given all of it.

#![expect(clippy::disallowed_methods, reason = "measures how long a text takes")]

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::deepgram::DeepgramEars;
use super::mock;
use super::provider::{Provider, Providers};
use super::transcribing::transcribe;
use super::{AskFigures, Http, LinkSettings, ProviderFigures, Sound};
use crate::talk::message::{Endpoint, Failure, Vendor};
use crate::talk::wire::deepgram_listen::Heard;

/// Sound of one turn that is kept, in seconds; what was said longer ago is not transcribed.
const TURN_MAX_S: usize = 120;
/// Turns whose text is awaited.
const JOBS_MAX: usize = 8;

/// Transcribers in fail-over order, shared by the calls of an agent.
#[derive(Clone)]
pub struct Transcribers {
    providers: Arc<Providers>,
}

impl Transcribers {
    pub fn new(http: &Http, endpoints: Vec<Endpoint>, settings: LinkSettings) -> Self {
        Transcribers { providers: Arc::new(Providers::new(http.clone(), endpoints, settings)) }
    }

    /// Ears for one call.
    pub fn open(&self, sound: impl Into<Sound>) -> Transcription {
        let mut transcription = Transcription {
            providers: self.providers.clone(),
            sound: sound.into(),
            turn: None,
            turns: 0,
            told: None,
            jobs: VecDeque::new(),
            live: None,
            figures: AskFigures::default(),
            lost_samples: 0,
        };
        // Its handshakes are done when the caller begins to speak.
        transcription.connect();
        transcription
    }

    pub fn figures(&self) -> Vec<ProviderFigures> {
        self.providers.figures()
    }
}

/// What was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transcript {
    /// The turn so far; replaces the one before.
    Partial(String),
    /// The whole turn, once for each commit; empty: no words were in it.
    Final(String),
}

type Job = Pin<Box<dyn Future<Output = (Result<String, Failure>, AskFigures)> + Send>>;

enum Pending {
    /// The live connection is to tell it.
    Live {
        samples: Arc<[i16]>,
        number: usize,
        asked_at: Instant,
    },
    Running(Job),
    Done(Result<String, Failure>, AskFigures),
}

/// The turn being spoken.
struct Turn {
    samples: Vec<i16>,
    /// The live connection has all of it.
    is_live: bool,
    /// The last partial text of a canned transcriber.
    partial: String,
}

/// A connection that hears a turn while it is spoken.
struct Live {
    provider: Arc<Provider>,
    ears: DeepgramEars,
}

/// One caller's words.
pub struct Transcription {
    providers: Arc<Providers>,
    sound: Sound,
    turn: Option<Turn>,
    /// Committed so far.
    turns: usize,
    /// The newest partial text.
    told: Option<String>,
    /// Committed, in order.
    jobs: VecDeque<Pending>,
    live: Option<Live>,
    figures: AskFigures,
    lost_samples: u64,
}

impl Transcription {
    /// A turn begins, with the sound that came just before it was noticed. One that was not committed is discarded.
    pub fn begin(&mut self, pre_roll: &[i16]) {
        self.discard();
        self.connect();
        if let Some(live) = &mut self.live {
            live.ears.begin();
        }
        let is_live = self.live.is_some();
        self.turn = Some(Turn { samples: Vec::new(), is_live, partial: String::new() });
        self.push(pre_roll);
    }

    /// Opens the live connection, where the provider whose turn it is has one.
    fn connect(&mut self) {
        let first = self.providers.list.iter().find(|provider| provider.is_awake());
        let Some(first) = first.filter(|first| first.endpoint.vendor == Vendor::Deepgram) else { return };
        if self.live.as_ref().is_some_and(|live| Arc::ptr_eq(&live.provider, first)) {
            return;
        }
        match DeepgramEars::open(&first.endpoint, self.sound) {
            Ok(ears) => self.live = Some(Live { provider: first.clone(), ears }),
            Err(failure) => first.count_failed(Instant::now(), &failure, &self.providers.settings),
        }
    }

    /// Sound of the turn; outside of one it is not listened to.
    pub fn push(&mut self, samples: &[i16]) {
        let Some(turn) = &mut self.turn else { return };
        let most = TURN_MAX_S * self.sound.rate as usize;
        turn.samples.extend_from_slice(samples);
        let beyond = turn.samples.len().saturating_sub(most);
        // A quarter at a time, or each block would move two minutes of sound.
        if beyond > most / 4 {
            turn.samples.drain(..beyond);
            self.lost_samples += beyond as u64;
        }
        match &mut self.live {
            Some(live) if turn.is_live => live.ears.push(samples),
            _ => self.tell_canned(),
        }
    }

    /// The words a canned transcriber has by now.
    fn tell_canned(&mut self) {
        let Some(turn) = &mut self.turn else { return };
        let first = self.providers.list.iter().find(|provider| provider.is_awake());
        if let Some(first) = first.filter(|first| first.endpoint.vendor == Vendor::Mock) {
            let spoken_ms = turn.samples.len() as u64 * 1_000 / u64::from(self.sound.rate.max(1));
            let partial = mock::canned_partial(&first.endpoint, self.turns, spoken_ms);
            if let Some(partial) = partial.filter(|partial| *partial != turn.partial) {
                turn.partial.clone_from(&partial);
                self.told = Some(partial);
            }
        }
    }

    /// The turn is over: its text is wanted.
    pub fn commit(&mut self) {
        let Some(turn) = self.turn.take() else { return };
        let (number, asked_at) = (self.turns, Instant::now());
        self.turns += 1;
        self.told = None;
        if self.jobs.len() >= JOBS_MAX {
            let failure = Failure::Unreached(format!("the texts of {JOBS_MAX} turns are still awaited"));
            return self.jobs.push_back(Pending::Done(Err(failure), AskFigures::default()));
        }
        let samples: Arc<[i16]> = turn.samples.into();
        match &mut self.live {
            Some(live) if turn.is_live => {
                let _ = live.provider.count_asked();
                let committed = live.ears.commit(false);
                self.jobs.push_back(Pending::Live { samples, number, asked_at });
                if let Err(failure) = committed {
                    self.lose_live(&failure);
                }
            }
            _ => {
                let job = self.job(samples, number, asked_at);
                self.jobs.push_back(Pending::Running(job));
            }
        }
    }

    /// The text of a whole turn from whoever gives it.
    fn job(&self, samples: Arc<[i16]>, number: usize, asked_at: Instant) -> Job {
        let (providers, rate) = (self.providers.clone(), self.sound.rate);
        Box::pin(async move {
            let http = &providers.http;
            let begin = |provider, asked| whole(http, provider, samples.clone(), rate, number, asked);
            match providers.first(asked_at, begin).await {
                Ok((text, _, figures)) => (Ok(text), figures),
                Err((failure, figures)) => (Err(failure), figures),
            }
        })
    }

    /// The turn was none: nothing more is told of it.
    pub fn discard(&mut self) {
        self.told = None;
        let Some(turn) = self.turn.take() else { return };
        if let Some(live) = &mut self.live
            && turn.is_live
            && let Err(failure) = live.ears.commit(true)
        {
            self.lose_live(&failure);
        }
    }

    /// The live connection is lost: what it was to tell is asked for anew, all of it.
    fn lose_live(&mut self, failure: &Failure) {
        let Some(live) = self.live.take() else { return };
        let mut waited = false;
        for at in 0..self.jobs.len() {
            let Some(Pending::Live { samples, number, asked_at }) = self.jobs.get(at) else { continue };
            let job = self.job(samples.clone(), *number, *asked_at);
            waited = true;
            if let Some(pending) = self.jobs.get_mut(at) {
                *pending = Pending::Running(job);
            }
        }
        if let Some(turn) = &mut self.turn {
            waited |= turn.is_live;
            turn.is_live = false;
        }
        // One that nobody was using may close as it likes.
        if waited {
            live.provider.count_failed(Instant::now(), failure, &self.providers.settings);
        }
    }

    /// What comes next; waits for ever while nothing is said. A failure stands for the text of one commit. Cancel-safe.
    pub async fn next(&mut self) -> Result<Transcript, Failure> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Transcript, Failure>> {
        self.poll_live(context);
        for job in &mut self.jobs {
            if let Pending::Running(work) = job
                && let Poll::Ready((result, figures)) = work.as_mut().poll(context)
            {
                *job = Pending::Done(result, figures);
            }
        }
        if matches!(self.jobs.front(), Some(Pending::Done(..)))
            && let Some(Pending::Done(result, figures)) = self.jobs.pop_front()
        {
            self.figures = figures;
            return Poll::Ready(result.map(Transcript::Final));
        }
        match self.told.take() {
            Some(partial) => Poll::Ready(Ok(Transcript::Partial(partial))),
            None => Poll::Pending,
        }
    }

    fn poll_live(&mut self, context: &mut Context<'_>) {
        while let Some(live) = &mut self.live
            && let Poll::Ready(heard) = live.ears.poll_next(context)
        {
            match heard {
                Ok(Heard::Partial(text)) => self.told = self.turn.is_some().then_some(text),
                Ok(Heard::Final(text)) => {
                    live.provider.count_answered();
                    let provider = live.provider.endpoint.name.clone();
                    let waits = |pending: &&mut Pending| matches!(pending, Pending::Live { .. });
                    if let Some(pending) = self.jobs.iter_mut().find(waits)
                        && let Pending::Live { asked_at, .. } = pending
                    {
                        let figures = AskFigures { provider, first: asked_at.elapsed(), tries: 1 };
                        *pending = Pending::Done(Ok(text), figures);
                    }
                }
                Err(failure) => self.lose_live(&failure),
            }
        }
    }

    /// How the last text came; `first` counts from its commit.
    pub fn figures(&self) -> &AskFigures {
        &self.figures
    }

    /// Samples of turns that were too long.
    pub fn lost_samples(&self) -> u64 {
        self.lost_samples
    }
}

/// All of one turn at once.
async fn whole(
    http: &Http,
    provider: Arc<Provider>,
    samples: Arc<[i16]>,
    rate: u32,
    turn: usize,
    number: u64,
) -> Result<String, Failure> {
    let endpoint = &provider.endpoint;
    match endpoint.vendor {
        Vendor::Mock => mock::transcribe(endpoint, turn, number).await,
        Vendor::OpenAi | Vendor::Deepgram => transcribe(http, endpoint, rate, &samples).await,
        Vendor::Gemini | Vendor::Anthropic | Vendor::Espeak => Err(Failure::Refused {
            status: 0,
            text: format!("{:?} transcribes nothing here", endpoint.vendor),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mock(name: &str, options: serde_json::Value) -> Endpoint {
        let options = options.as_object().cloned().expect("a table");
        Endpoint { options, timeout_ms: 300, ..Endpoint::new(name, Vendor::Mock) }
    }

    async fn next_final(ears: &mut Transcription) -> Result<String, Failure> {
        loop {
            if let Transcript::Final(text) = ears.next().await? {
                return Ok(text);
            }
        }
    }

    #[tokio::test]
    async fn each_commit_has_its_text_in_order_and_words_come_while_they_are_spoken() {
        let canned =
            mock("canned", json!({ "texts": ["who is there", "goodbye"], "word_ms": 100, "delay_ms": 20 }));
        let mut ears = Transcribers::new(&Http::new(), vec![canned], LinkSettings::default()).open(8_000);
        ears.begin(&[0; 800]);
        assert_eq!(ears.next().await, Ok(Transcript::Partial("who".to_owned())));
        ears.push(&[0; 800]);
        assert_eq!(ears.next().await, Ok(Transcript::Partial("who is".to_owned())));
        ears.commit();
        ears.begin(&[]);
        ears.commit();
        assert_eq!(ears.next().await, Ok(Transcript::Final("who is there".to_owned())));
        assert_eq!(ears.next().await, Ok(Transcript::Final("goodbye".to_owned())));
    }

    #[tokio::test]
    async fn a_discarded_turn_is_never_heard_of_again() {
        let mut ears = Transcribers::new(
            &Http::new(),
            vec![mock("canned", json!({ "text": "hm" }))],
            LinkSettings::default(),
        )
        .open(8_000);
        ears.begin(&[0; 8_000]);
        ears.discard();
        ears.commit();
        tokio::select! {
            heard = ears.next() => panic!("{heard:?}"),
            () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
        }
    }

    #[tokio::test]
    async fn a_failure_is_one_answer_and_the_next_provider_gets_the_same_turn() {
        let broken = || mock("broken", json!({ "fail": "refuse" }));
        let mut alone = Transcribers::new(&Http::new(), vec![broken()], LinkSettings::default()).open(8_000);
        alone.begin(&[]);
        alone.commit();
        assert!(matches!(next_final(&mut alone).await, Err(Failure::Refused { .. })));
        let both = vec![broken(), mock("good", json!({ "text": "yes" }))];
        let mut ears = Transcribers::new(&Http::new(), both, LinkSettings::default()).open(8_000);
        ears.begin(&[]);
        ears.commit();
        assert_eq!(next_final(&mut ears).await, Ok("yes".to_owned()));
        assert_eq!((ears.figures().provider.as_str(), ears.figures().tries), ("good", 2));
    }

    #[test]
    fn an_endless_turn_keeps_its_end() {
        let mut ears =
            Transcribers::new(&Http::new(), vec![mock("canned", json!({}))], LinkSettings::default())
                .open(8_000);
        ears.begin(&[]);
        for _ in 0..TURN_MAX_S * 3 {
            ears.push(&[0; 8_000]);
        }
        let kept = ears.turn.as_ref().map_or(0, |turn| turn.samples.len());
        assert!((TURN_MAX_S * 8_000..=TURN_MAX_S * 10_000).contains(&kept), "{kept}");
        assert_eq!(ears.lost_samples() as usize + kept, TURN_MAX_S * 3 * 8_000);
    }
}
