//! Driver. A list of providers in fail-over order, what is known of each, and asking them until one begins to answer.

#![expect(clippy::disallowed_methods, reason = "waits for providers, and reads the clock for the pure plan")]

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::stream::{FuturesUnordered, StreamExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::breaker::Breaker;
use super::retry::{Plan, Step};
use super::{AskFigures, Http, LinkSettings, ProviderFigures};
use crate::talk::message::{Endpoint, Failure};

/// One provider and what is known of it, by all calls.
pub struct Provider {
    pub endpoint: Endpoint,
    breaker: Mutex<Breaker>,
    asked: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Provider {
    fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner).rests_until(now)
    }

    /// Whether it may be asked now.
    pub fn is_awake(&self) -> bool {
        self.rests_until(Instant::now()).is_none()
    }

    /// The number of this question, from 0.
    pub fn count_asked(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::Relaxed)
    }

    pub fn count_answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner).handle_answer();
    }

    pub fn count_failed(&self, now: Instant, failure: &Failure, settings: &LinkSettings) {
        tracing::warn!(provider = self.endpoint.name, "{failure}");
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        breaker.handle_failure(now, failure, settings);
    }

    pub fn figures(&self) -> ProviderFigures {
        ProviderFigures {
            name: self.endpoint.name.clone(),
            asked: self.asked.load(Ordering::Relaxed),
            answered: self.answered.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            rests: !self.is_awake(),
        }
    }
}

/// Providers in fail-over order.
pub struct Providers {
    pub http: Http,
    pub list: Vec<Arc<Provider>>,
    pub settings: LinkSettings,
}

impl Providers {
    pub fn new(http: Http, endpoints: Vec<Endpoint>, settings: LinkSettings) -> Self {
        let provider = |endpoint| {
            Arc::new(Provider {
                endpoint,
                breaker: Mutex::default(),
                asked: AtomicU64::new(0),
                answered: AtomicU64::new(0),
                failed: AtomicU64::new(0),
            })
        };
        Providers { http, list: endpoints.into_iter().map(provider).collect(), settings }
    }

    pub fn figures(&self) -> Vec<ProviderFigures> {
        self.list.iter().map(|provider| provider.figures()).collect()
    }

    /// Asks one after the other, by [`Plan`], until one has begun to answer; `begin` is given the provider and the
    /// number of the question it is for it. Others still being asked are dropped then.
    pub async fn first<T, F>(
        &self,
        asked_at: Instant,
        begin: impl Fn(Arc<Provider>, u64) -> F,
    ) -> Result<(T, Arc<Provider>, AskFigures), (Failure, AskFigures)>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut plan = Plan::new(Instant::now(), self.settings, self.list.len(), chance());
        let mut figures = AskFigures::default();
        let mut running = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            let rests = |index: usize| self.list.get(index).and_then(|provider| provider.rests_until(now));
            let wake = match plan.step(now, rests) {
                Step::Ask(index) => {
                    plan.handle_asked(now, index);
                    figures.tries += 1;
                    if let Some(provider) = self.list.get(index) {
                        let work = begin(provider.clone(), provider.count_asked());
                        running.push(async move { (index, work.await) });
                    }
                    continue;
                }
                Step::Wait(until) => until,
                Step::GiveUp(failure) => return Err((failure, figures)),
            };
            let (index, result) = tokio::select! {
                Some(ended) = running.next() => ended,
                () = tokio::time::sleep_until(wake.into()) => continue,
            };
            let Some(provider) = self.list.get(index) else { continue };
            match result {
                Ok(answer) => {
                    provider.count_answered();
                    figures.provider.clone_from(&provider.endpoint.name);
                    figures.first = asked_at.elapsed();
                    return Ok((answer, provider.clone(), figures));
                }
                Err(failure) => {
                    let now = Instant::now();
                    provider.count_failed(now, &failure, &self.settings);
                    plan.handle_failure(now, index, failure);
                }
            }
        }
    }
}

/// 0 to 1.
fn chance() -> f64 {
    StdRng::from_os_rng().random()
}
