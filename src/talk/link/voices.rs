//! Driver. Voices: a sentence to a list of providers, its sound piece by piece.

#![expect(clippy::disallowed_methods, reason = "measures how long the first sound takes")]

use std::sync::Arc;
use std::time::Instant;

use super::deepgram::{self, DeepgramSpeech, Idle};
use super::espeak::Espeak;
use super::mock::CannedSpeech;
use super::provider::{Provider, Providers};
use super::speaking::{self, Spoken};
use super::{AskFigures, Http, LinkSettings, ProviderFigures, Sound};
use crate::remote::flow::{Flow, Outlet};
use crate::talk::message::{Endpoint, Failure, Vendor};

/// Voices in fail-over order, shared by the calls of an agent.
#[derive(Clone)]
pub struct Voices {
    providers: Arc<Providers>,
    idle: Arc<Idle>,
}

impl Voices {
    pub fn new(http: &Http, endpoints: Vec<Endpoint>, settings: LinkSettings) -> Self {
        let providers = Arc::new(Providers::new(http.clone(), endpoints, settings));
        Voices { providers, idle: Arc::default() }
    }

    /// Has a sentence spoken; nothing happens until the speech is polled, and dropping it stops the provider.
    pub fn say(&self, text: &str, sound: impl Into<Sound>) -> Speech {
        let (voices, text, sound) = (self.clone(), Arc::from(text), sound.into());
        let asked_at = Instant::now();
        Speech {
            flow: Flow::new(|out| speech(voices, text, sound, asked_at, out)),
            figures: AskFigures::default(),
            over: false,
        }
    }

    /// Has a connection ready for a sentence that comes soon. Polled by its owner like all else.
    pub async fn warm(&self, sound: impl Into<Sound>) {
        let Some(first) = self.providers.list.iter().find(|provider| provider.is_awake()) else { return };
        let endpoint = &first.endpoint;
        match endpoint.vendor {
            Vendor::Deepgram => deepgram::warm(endpoint, &self.idle, sound.into()).await,
            Vendor::OpenAi => {
                if let Ok(url) = speaking::place(endpoint) {
                    self.providers.http.warm(url).await;
                }
            }
            Vendor::Espeak | Vendor::Mock | Vendor::Gemini | Vendor::Anthropic => {}
        }
    }

    pub fn figures(&self) -> Vec<ProviderFigures> {
        self.providers.figures()
    }
}

/// What the work tells its owner.
enum Told {
    Figures(AskFigures),
    Sound(Arc<[i16]>),
    Failure(Failure),
}

/// The sound of one sentence, as it arrives.
pub struct Speech {
    flow: Flow<Told>,
    figures: AskFigures,
    over: bool,
}

impl Speech {
    /// The next piece, of any length, at the rate asked for; `None`: that was all. Cancel-safe. Another provider is
    /// asked only before the first piece; after a failure there is nothing more.
    pub async fn next(&mut self) -> Result<Option<Arc<[i16]>>, Failure> {
        while !self.over {
            match self.flow.next().await {
                Some(Told::Figures(figures)) => self.figures = figures,
                Some(Told::Sound(samples)) => return Ok(Some(samples)),
                Some(Told::Failure(failure)) => {
                    self.over = true;
                    return Err(failure);
                }
                None => self.over = true,
            }
        }
        Ok(None)
    }

    /// Lets it be fetched ahead while another sentence plays; ends when all of it is here. Cancel-safe.
    pub async fn fetch(&mut self) {
        self.flow.work().await;
    }

    /// Who speaks and how fast; complete once [`Speech::next`] has given something.
    pub fn figures(&self) -> &AskFigures {
        &self.figures
    }
}

/// Sound that has begun.
enum Source {
    Canned(CannedSpeech),
    Http(Box<Spoken>),
    Deepgram(Box<DeepgramSpeech>),
    Espeak(Box<Espeak>),
}

impl Source {
    async fn begin(
        voices: &Voices,
        provider: &Provider,
        text: Arc<str>,
        sound: Sound,
        number: u64,
    ) -> Result<Self, Failure> {
        let endpoint = &provider.endpoint;
        let http = &voices.providers.http;
        Ok(match endpoint.vendor {
            Vendor::Mock => Source::Canned(CannedSpeech::begin(endpoint, &text, sound.rate, number).await?),
            Vendor::OpenAi => Source::Http(Box::new(Spoken::begin(http, endpoint, &text, sound.rate).await?)),
            Vendor::Deepgram => {
                let speech = DeepgramSpeech::begin(endpoint, voices.idle.clone(), text, sound).await?;
                Source::Deepgram(Box::new(speech))
            }
            Vendor::Espeak => Source::Espeak(Box::new(Espeak::begin(endpoint, &text, sound.rate)?)),
            Vendor::Gemini | Vendor::Anthropic => return Err(no_voice(endpoint)),
        })
    }

    async fn next(&mut self) -> Result<Option<Vec<i16>>, Failure> {
        match self {
            Source::Canned(speech) => speech.next().await,
            Source::Http(speech) => speech.next().await,
            Source::Deepgram(speech) => speech.next().await,
            Source::Espeak(speech) => speech.next().await,
        }
    }
}

fn no_voice(endpoint: &Endpoint) -> Failure {
    Failure::Refused { status: 0, text: format!("{:?} has no voices here", endpoint.vendor) }
}

/// The first sound and what follows; `None`: there is none, as of a text without words.
async fn begin(
    voices: &Voices,
    provider: Arc<Provider>,
    text: Arc<str>,
    sound: Sound,
    number: u64,
) -> Result<(Option<Vec<i16>>, Source), Failure> {
    let mut source = Source::begin(voices, &provider, text, sound, number).await?;
    Ok((source.next().await?, source))
}

async fn speech(voices: Voices, text: Arc<str>, sound: Sound, asked_at: Instant, out: Outlet<Told>) {
    let providers = &voices.providers;
    let begin = |provider, number| begin(&voices, provider, text.clone(), sound, number);
    let ((mut next, mut source), provider, figures) = match providers.first(asked_at, begin).await {
        Ok(begun) => begun,
        Err((failure, figures)) => {
            out.give(Told::Figures(figures)).await;
            return out.give(Told::Failure(failure)).await;
        }
    };
    out.give(Told::Figures(figures)).await;
    while let Some(samples) = next {
        out.give(Told::Sound(samples.into())).await;
        next = match source.next().await {
            Ok(next) => next,
            Err(failure) => {
                provider.count_failed(Instant::now(), &failure, &providers.settings);
                return out.give(Told::Failure(failure)).await;
            }
        };
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

    #[tokio::test]
    async fn the_next_voice_speaks_when_one_fails() {
        let broken = mock("broken", json!({ "fail": "garbled" }));
        let voices = Voices::new(
            &Http::new(),
            vec![broken, mock("good", json!({ "letter_ms": 100 }))],
            LinkSettings::default(),
        );
        let mut speech = voices.say("hello", 8_000);
        let mut samples = 0;
        while let Some(piece) = speech.next().await.expect("sound") {
            samples += piece.len();
        }
        assert_eq!((samples, speech.figures().provider.as_str()), (4_000, "good"));
        assert_eq!(speech.next().await, Ok(None), "it stays over");
    }

    #[tokio::test]
    async fn a_voice_that_breaks_off_is_a_failure_after_what_it_said() {
        let voices =
            Voices::new(&Http::new(), vec![mock("cut", json!({ "fail": "cut" }))], LinkSettings::default());
        let mut speech = voices.say("hello hello hello", 8_000);
        assert!(matches!(speech.next().await, Ok(Some(_))));
        let mut end = speech.next().await;
        while let Ok(Some(_)) = end {
            end = speech.next().await;
        }
        assert_eq!(end, Err(Failure::Cut));
        assert_eq!(speech.next().await, Ok(None));
    }

    #[tokio::test]
    async fn a_sentence_is_fetched_ahead() {
        let voices =
            Voices::new(&Http::new(), vec![mock("slow", json!({ "delay_ms": 80 }))], LinkSettings::default());
        let mut speech = voices.say("hello", 8_000);
        speech.fetch().await;
        let begin = Instant::now();
        assert!(matches!(speech.next().await, Ok(Some(_))));
        assert!(begin.elapsed().as_millis() < 40);
    }
}
