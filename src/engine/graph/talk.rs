//! Driver. Builds the conversation of a call: the line its agent hears and speaks on, its sight, its task. Where nobody
//! talks, sight alone.
//!
//! The task runs beside the network tasks, not among them: it waits for models and must not hold up a beat.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Running, Supplies};
use crate::base::queue::{self, Fifo, Sender};
use crate::base::stop::{Name, Outcome, Scope};
use crate::codec::g711::Law;
use crate::engine::face::turnkey::TurnkeyTalking;
use crate::engine::pictures::Given;
use crate::engine::plan::{AudioCodec, Label};
use crate::engine::playout::{Playout, playout};
use crate::engine::sight::{Sight, SightHandle, SightInputs};
use crate::engine::talk::realtime::RealtimeTalking;
use crate::engine::talk::seeing::Seeing;
use crate::engine::talk::watching::Watching;
use crate::engine::talk::{BLOCKS, Line, Mind, ORDERS, Parts, SEEN, TalkOrder, Talking};
use crate::media::audio::Pcm;
use crate::talk::tools::unlock::Who;
use crate::vision::appearance::Appearance;

/// A conversation waits for networks only: it ends at once.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

fn law_of(codec: AudioCodec) -> Option<Law> {
    match codec {
        AudioCodec::Pcmu => Some(Law::Mu),
        AudioCodec::Pcma => Some(Law::A),
        AudioCodec::G722 | AudioCodec::Opus => None,
    }
}

/// Whom doors take the peer for: what it proved, what its network stands by, where it is.
fn who(label: &Label) -> Who {
    let address = label.peer.parse::<SocketAddr>().ok().map(|peer| peer.ip());
    Who {
        names: label.proven.iter().chain(&label.asserted).cloned().collect(),
        address,
        shown: format!("{} ({})", if label.incoming { &label.from } else { &label.to }, label.peer),
    }
}

/// The conversation of a running call.
pub(super) struct Talk {
    orders: Sender<TalkOrder, Fifo>,
    scope: Scope,
    /// Until the task runs.
    beginning: Option<Beginning>,
    /// Where cleared pictures go for it.
    pub sight: Option<SightInputs>,
    /// Where observers say what comes into the picture, if the agent wants to know.
    pub seen: Option<Sender<Appearance, Fifo>>,
}

struct Beginning {
    given: queue::Receiver<TalkOrder, Fifo>,
    sight: Option<SightHandle>,
    pictures: queue::Receiver<Given, Fifo>,
    seen: Option<queue::Receiver<Appearance, Fifo>>,
}

impl Talk {
    pub(super) async fn close(self) -> Vec<(Name, Outcome)> {
        let Talk { orders, scope, .. } = self;
        drop(orders);
        scope.close(CLOSE_LIMIT).await
    }
}

impl Running {
    /// Before the streams are built: they join in.
    pub(super) fn prepare_talk(&mut self, supplies: &Supplies, pictures: queue::Receiver<Given, Fifo>) {
        let settings = match (&self.plan.talk, &self.plan.watch) {
            (Some(agent), _) => &agent.seeing,
            (None, Some(watch)) => watch,
            (None, None) => return,
        };
        let (orders, given) = queue::queue(Fifo { depth: ORDERS });
        let mut scope = Scope::new(format!("talk {}", self.call), supplies.runtime.clone());
        let (sight, handle) = match Some(settings).filter(|settings| settings.looks()) {
            None => (None, None),
            Some(settings) => {
                let (inputs, handle) = Sight::start(settings.sight.clone(), &mut scope);
                // Until the call is answered.
                handle.open(false);
                (Some(inputs), Some(handle))
            }
        };
        let (seen, watched) = match self.plan.talk.as_ref().is_some_and(|agent| agent.tools.watches()) {
            true => {
                let (seen, watched) = queue::queue(Fifo { depth: SEEN });
                (Some(seen), Some(watched))
            }
            false => (None, None),
        };
        let beginning = Some(Beginning { given, sight: handle, seen: watched, pictures });
        self.talk = Some(Talk { orders, scope, beginning, sight, seen });
    }

    /// The line of a stream of sound that begins: what its agent hears, and what it says.
    pub(super) fn talk_line(&mut self, codec: AudioCodec) -> Option<(Sender<Pcm, Fifo>, Playout)> {
        let talk = self.talk.as_ref().filter(|_| self.plan.talk.is_some())?;
        let (listener, sound) = queue::queue(Fifo { depth: BLOCKS });
        let (say, playout) = self.face_line().unwrap_or_else(|| playout(self.epoch));
        let (rate, law) = (codec.sample_rate(), law_of(codec));
        talk.orders.offer(TalkOrder::Attach(Line { rate, law, say, sound }));
        Some((listener, playout))
    }

    pub(super) fn start_talk(&mut self, supplies: &Supplies) {
        let Some(talk) = &mut self.talk else { return };
        let Some(Beginning { given, sight, seen, pictures: shown }) = talk.beginning.take() else { return };
        let Some(agent) = self.plan.talk.clone() else {
            let settings = self.plan.watch.as_deref().cloned();
            let seeing = Seeing::new(self.call, supplies.events.clone(), settings, sight);
            return talk.scope.task("watch", Watching::new(given, seeing).run());
        };
        let parts = Parts {
            call: self.call,
            epoch: self.epoch,
            agent,
            orders: given,
            events: supplies.events.clone(),
            sight,
            pictures: self.pictures.clone(),
            given: shown,
            seen,
            caller: who(&self.plan.label),
        };
        match parts.agent.mind.clone() {
            Mind::Pipeline(pipeline) => talk.scope.task("talk", Talking::new(parts, pipeline).run()),
            Mind::Avatar(turnkey) => {
                let Some(client) = self.face.as_mut().and_then(|face| face.client.take()) else { return };
                talk.scope.task("talk", TurnkeyTalking::new(parts, turnkey, client).run());
            }
            Mind::Realtime(realtime) => {
                talk.scope.task("talk", RealtimeTalking::new(parts, *realtime).run());
            }
        }
    }

    /// Something for the agent; one that is not there needs nothing.
    pub(in crate::engine) fn talk(&self, order: TalkOrder) {
        if let Some(talk) = &self.talk {
            talk.orders.offer(order);
        }
    }
}
