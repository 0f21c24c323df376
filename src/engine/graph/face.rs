//! Builds the face of a call's agent: its task, where its pictures go, and when a session is wanted.

use std::sync::Arc;
use std::time::Duration;

use super::{Running, Supplies};
use crate::avatar::Terms;
use crate::base::queue::{self, Fifo, Gop, Latest, Sender};
use crate::base::stop::{Name, Outcome, Scope};
use crate::engine::face::figures::FaceFigures;
use crate::engine::face::lips::LipClock;
use crate::engine::face::picture::{FEED, FaceView};
use crate::engine::face::task::{Face, FaceOrder, FaceParts, ORDERS};
use crate::engine::face::turnkey::{ANSWERS, Client, Desk, WANTED};
use crate::engine::paint::Still;
use crate::engine::plan::VideoStream;
use crate::engine::playout::{Playout, Say, relayed};
use crate::engine::talk::Mind;
use crate::media::frame::Size;

/// A farewell takes up to five seconds.
const CLOSE_LIMIT: Duration = Duration::from_secs(6);

/// The face of a running call.
pub(super) struct Worn {
    orders: Sender<FaceOrder, Fifo>,
    scope: Scope,
    lips: Arc<LipClock>,
    figures: Arc<FaceFigures>,
    wish: Sender<(), Latest>,
    /// The agent is nothing else: it is there whether it is seen or not.
    turnkey: bool,
    /// Until the agent runs.
    pub client: Option<Client>,
}

impl Worn {
    pub(super) async fn close(self) -> Vec<(Name, Outcome)> {
        let Worn { orders, scope, wish, .. } = self;
        drop((orders, wish));
        scope.close(CLOSE_LIMIT).await
    }
}

impl Running {
    /// Before the streams are built: they join in.
    pub(super) fn prepare_face(&mut self, supplies: &Supplies) {
        let Some(agent) = self.plan.talk.clone() else { return };
        let Some(settings) = agent.face.clone() else { return };
        let (orders, given) = queue::queue(Fifo { depth: ORDERS });
        let (wish, wishes) = queue::queue(Latest);
        let turnkey = matches!(agent.mind, Mind::Avatar(_));
        let (client, desk) = match turnkey {
            true => {
                let (want, wanted) = queue::queue(Fifo { depth: WANTED });
                let (tell, answers) = queue::queue(Fifo { depth: ANSWERS });
                (Some(Client { wanted: want, answers }), Some(Desk { wanted, answers: tell }))
            }
            false => (None, None),
        };
        let figures = Arc::new(FaceFigures::default());
        let parts = FaceParts {
            call: self.call,
            epoch: self.epoch,
            settings,
            orders: given,
            wishes,
            events: supplies.events.clone(),
            figures: figures.clone(),
            desk,
        };
        let mut scope = Scope::new(format!("face {}", self.call), supplies.runtime.clone());
        scope.task("face", Face::new(parts).run());
        let lips = Arc::new(LipClock::default());
        self.face = Some(Worn { orders, scope, lips, figures, wish, turnkey, client });
        self.want_face();
    }

    /// A session is wanted where its pictures can be seen, and always where the agent is nothing else.
    pub(super) fn want_face(&self) {
        let Some(face) = &self.face else { return };
        let seen = self.streams.video.as_ref();
        let terms = (face.turnkey || seen.is_some()).then(|| self.face_terms(seen));
        face.orders.offer(FaceOrder::Want(terms));
    }

    fn face_terms(&self, seen: Option<&VideoStream>) -> Terms {
        let settings = self.plan.talk.as_ref().and_then(|agent| agent.face.as_ref());
        let out = self.plan.video_out.max;
        let most = settings.map_or(out, |settings| {
            Size::new(settings.most.width.min(out.width), settings.most.height.min(out.height))
        });
        Terms {
            call: self.plan.label.call.clone(),
            codecs: seen.map(|stream| stream.codec).into_iter().collect(),
            most,
            language: settings.map_or_else(String::new, |settings| settings.language.clone()),
            again: false,
        }
    }

    /// The line of an agent that wears a face; `None`: it wears none.
    pub(super) fn face_line(&self) -> Option<(Say, Playout)> {
        let face = self.face.as_ref()?;
        let (say, relay, playout) = relayed(self.epoch, face.lips.clone());
        face.orders.offer(FaceOrder::Sound(relay));
        Some((say, playout))
    }

    /// The face for a stream of pictures that begins; `None`: the agent wears none.
    pub(super) fn face_view(&self, supplies: &Supplies, text: &str, size: Size) -> Option<FaceView> {
        let face = self.face.as_ref()?;
        let settings = self.plan.talk.as_ref()?.face.clone()?;
        let (pictures, feed) = queue::queue(Gop::new(FEED));
        face.orders.offer(FaceOrder::Pictures(pictures));
        Some(FaceView {
            feed,
            wish: face.wish.clone(),
            lips: face.lips.clone(),
            settings,
            figures: face.figures.clone(),
            label: self.plan.label.clone(),
            clock: supplies.settings.clock,
            still: Box::new(Still::new(text, &self.plan.label.name, size)),
        })
    }
}
