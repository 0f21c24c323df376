//! Driver. Language models: a question to a list of providers, its answer piece by piece.

#![expect(clippy::disallowed_methods, reason = "measures how long the first piece takes")]

use std::sync::Arc;
use std::time::Instant;

use super::asking::{self, Streamed};
use super::mock::CannedAnswer;
use super::provider::{Provider, Providers};
use super::{AskFigures, Http, LinkSettings, ProviderFigures};
use crate::remote::flow::{Flow, Outlet};
use crate::talk::message::{Delta, Endpoint, Failure, Finish, Request, Vendor};

/// Language models in fail-over order, shared by the calls of an agent.
#[derive(Clone)]
pub struct Models {
    providers: Arc<Providers>,
}

impl Models {
    pub fn new(http: &Http, endpoints: Vec<Endpoint>, settings: LinkSettings) -> Self {
        Models { providers: Arc::new(Providers::new(http.clone(), endpoints, settings)) }
    }

    /// Asks; nothing happens until the answer is polled, and dropping it takes the question back.
    pub fn ask(&self, request: Arc<Request>) -> Answer {
        let providers = self.providers.clone();
        let asked_at = Instant::now();
        Answer {
            flow: Flow::new(|out| answer(providers, request, asked_at, out)),
            figures: AskFigures::default(),
        }
    }

    /// Has a connection ready for a question that comes soon: at the start of a call, and when the caller begins to
    /// speak. Polled by its owner like all else; takes as long as the handshakes.
    pub async fn warm(&self) {
        let first = self.providers.list.iter().find(|provider| provider.is_awake());
        if let Some(Ok(url)) = first.and_then(|provider| asking::place(&provider.endpoint)) {
            self.providers.http.warm(url).await;
        }
    }

    pub fn figures(&self) -> Vec<ProviderFigures> {
        self.providers.figures()
    }
}

/// What the work tells its owner.
enum Told {
    Figures(AskFigures),
    Delta(Result<Delta, Failure>),
}

/// The answer to one question, as it arrives.
pub struct Answer {
    flow: Flow<Told>,
    figures: AskFigures,
}

impl Answer {
    /// The next piece; `None` after [`Delta::Finish`] or a failure. Cancel-safe. Another provider is asked only before
    /// the first piece; a failure after it is the last item.
    pub async fn next(&mut self) -> Option<Result<Delta, Failure>> {
        loop {
            match self.flow.next().await? {
                Told::Figures(figures) => self.figures = figures,
                Told::Delta(delta) => return Some(delta),
            }
        }
    }

    /// Who answered and how fast; complete once [`Answer::next`] has given something.
    pub fn figures(&self) -> &AskFigures {
        &self.figures
    }
}

/// An answer that has begun.
enum Source {
    Canned(CannedAnswer),
    Streamed(Box<Streamed>),
}

impl Source {
    async fn begin(
        http: &Http,
        provider: &Provider,
        request: &Request,
        number: u64,
    ) -> Result<Self, Failure> {
        let endpoint = &provider.endpoint;
        match endpoint.vendor {
            Vendor::Mock => CannedAnswer::begin(endpoint, request, number).await.map(Source::Canned),
            Vendor::OpenAi | Vendor::Gemini | Vendor::Anthropic | Vendor::Deepgram | Vendor::Espeak => {
                let streamed = Streamed::begin(http, endpoint, request).await?;
                Ok(Source::Streamed(Box::new(streamed)))
            }
        }
    }

    async fn next(&mut self) -> Result<Option<Delta>, Failure> {
        match self {
            Source::Canned(answer) => answer.next().await,
            Source::Streamed(answer) => answer.next().await,
        }
    }
}

/// The first piece of an answer and what follows.
async fn begin(
    http: &Http,
    provider: Arc<Provider>,
    request: &Request,
    number: u64,
) -> Result<(Delta, Source), Failure> {
    let mut source = Source::begin(http, &provider, request, number).await?;
    let first = source.next().await?.ok_or(Failure::Cut)?;
    Ok((first, source))
}

async fn answer(providers: Arc<Providers>, request: Arc<Request>, asked_at: Instant, out: Outlet<Told>) {
    let begin = |provider, number| begin(&providers.http, provider, &request, number);
    let begun = providers.first(asked_at, begin).await;
    let ((first, mut source), provider, figures) = match begun {
        Ok(begun) => begun,
        Err((failure, figures)) => {
            out.give(Told::Figures(figures)).await;
            out.give(Told::Delta(Err(failure))).await;
            return;
        }
    };
    out.give(Told::Figures(figures)).await;
    let mut next = Ok(Some(first));
    loop {
        let is_last = matches!(next, Ok(Some(Delta::Finish(_))));
        match next {
            Ok(Some(delta)) => out.give(Told::Delta(Ok(delta))).await,
            // The provider said no more; nobody waits for a word that does not come.
            Ok(None) => return out.give(Told::Delta(Ok(Delta::Finish(Finish::Stop)))).await,
            Err(failure) => {
                provider.count_failed(Instant::now(), &failure, &providers.settings);
                return out.give(Told::Delta(Err(failure))).await;
            }
        }
        if is_last {
            return;
        }
        next = source.next().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talk::message::{Message, Role};
    use serde_json::json;

    fn mock(name: &str, options: serde_json::Value) -> Endpoint {
        let options = options.as_object().cloned().expect("a table");
        Endpoint { options, timeout_ms: 300, ..Endpoint::new(name, Vendor::Mock) }
    }

    async fn ask(models: &Models) -> (String, Option<Failure>, AskFigures) {
        let messages = vec![Message::text(Role::User, "hello")];
        let mut answer = models.ask(Arc::new(Request { messages, ..Request::default() }));
        let (mut words, mut failure) = (String::new(), None);
        while let Some(delta) = answer.next().await {
            match delta {
                Ok(Delta::Text(text)) => words.push_str(&text),
                Ok(_) => {}
                Err(why) => failure = Some(why),
            }
        }
        (words, failure, answer.figures().clone())
    }

    #[tokio::test]
    async fn the_next_provider_answers_when_one_fails_and_it_rests_after_three_failures() {
        let broken = mock("broken", json!({ "fail": "error" }));
        let models = Models::new(
            &Http::new(),
            vec![broken, mock("good", json!({ "text": "Hello." }))],
            LinkSettings::default(),
        );
        for tries in [2, 2, 2, 1] {
            let (words, failure, figures) = ask(&models).await;
            assert_eq!((words.as_str(), failure, figures.provider.as_str()), ("Hello.", None, "good"));
            assert_eq!(figures.tries, tries);
        }
        let figures = models.figures();
        assert!(figures[0].rests && figures[0].failed == 3 && !figures[1].rests && figures[1].answered == 4);
    }

    #[tokio::test]
    async fn a_slow_provider_gets_company() {
        let settings =
            LinkSettings { beside_after: std::time::Duration::from_millis(50), ..LinkSettings::default() };
        let slow = mock("slow", json!({ "delay_ms": 280 }));
        let models =
            Models::new(&Http::new(), vec![slow, mock("quick", json!({ "text": "Quick." }))], settings);
        let (words, _, figures) = ask(&models).await;
        assert_eq!((words.as_str(), figures.provider.as_str()), ("Quick.", "quick"));
        assert!((50..250).contains(&figures.first.as_millis()), "{:?}", figures.first);
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_after_it_began_is_a_failure_at_its_end() {
        let cut = mock("cut", json!({ "fail": "cut", "text": "one two three four" }));
        let models = Models::new(&Http::new(), vec![cut, mock("good", json!({}))], LinkSettings::default());
        let (words, failure, figures) = ask(&models).await;
        assert_eq!((words.as_str(), failure, figures.tries), ("one two three ", Some(Failure::Cut), 1));
    }
}
