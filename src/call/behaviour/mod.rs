//! What an agent does on a call, as a [`Plan`]: one kind of agent a file.
//!
//! Pure: a behaviour turns negotiated streams into a plan. Running it is the engine's work, and signalling is
//! the call's.

pub mod dialled;
pub mod mirror;
pub mod record;
pub mod talk;

use std::sync::Arc;

use crate::engine::plan::{
    GatedRecord, Gating, Label, Look, OpenRecord, Plan, Recording, Streams, Timeouts, VideoIn, VideoOut,
};
use crate::engine::talk::seeing::SeeingSettings;
use crate::engine::talk::{Agent, Mind};
use crate::rtp::reach::Reach;
use crate::talk::message::Message;
use crate::talk::realtime::Turns;

/// The agent of a route.
#[derive(Clone, Debug)]
pub enum Behaviour {
    Mirror(mirror::Mirror),
    Record(record::Record),
    Talk(talk::Talk),
    /// `eyeline call`: we dialled and send a clip or a test picture.
    Dialled(dialled::Dialled),
}

/// What the route and the appliance give every agent.
#[derive(Clone, Debug)]
pub struct Room {
    /// Where the peer signals from and which networks its media may use.
    pub reach: Reach,
    pub gate: Option<Gating>,
    pub look: Look,
    /// How the calls of agents that do not talk are looked at.
    pub watch: Option<Arc<SeeingSettings>>,
    pub video_out: VideoOut,
    pub recording: Option<Recording>,
    pub timeouts: Timeouts,
}

impl Behaviour {
    /// Whether turns of the caller can be ended (`commit`) or made none by an application.
    pub fn takes_turns(&self, commit: bool) -> bool {
        match self {
            Behaviour::Talk(agent) => match &agent.speaker.agent.mind {
                Mind::Pipeline(_) => true,
                // The provider ends turns.
                Mind::Avatar(_) => false,
                Mind::Realtime(realtime) => {
                    realtime.settings.turns == Turns::Ours && (commit || realtime.can_forget_turns())
                }
            },
            Behaviour::Mirror(_) | Behaviour::Record(_) | Behaviour::Dialled(_) => false,
        }
    }

    /// Whether the peer's keys may be a PIN, which nobody is to read.
    pub fn hides_digits(&self) -> bool {
        match self {
            Behaviour::Talk(agent) => agent.speaker.agent.tools.asks_pins(),
            Behaviour::Mirror(_) | Behaviour::Record(_) | Behaviour::Dialled(_) => false,
        }
    }

    /// Whether an agent talks with the caller.
    pub fn talks(&self) -> bool {
        matches!(self, Behaviour::Talk(_))
    }

    /// The agent that talks, if it is one.
    pub fn agent(&self) -> Option<&Arc<Agent>> {
        match self {
            Behaviour::Talk(agent) => Some(&agent.speaker.agent),
            Behaviour::Mirror(_) | Behaviour::Record(_) | Behaviour::Dialled(_) => None,
        }
    }

    /// Told more before its call begins. `None`: it does not talk.
    pub fn with_context(&self, context: &[Message]) -> Option<Behaviour> {
        match self {
            Behaviour::Talk(agent) => Some(Behaviour::Talk(agent.with_context(context))),
            Behaviour::Mirror(_) | Behaviour::Record(_) | Behaviour::Dialled(_) => None,
        }
    }

    /// Whether a model can be asked what there is to see.
    pub fn describes(&self, room: &Room) -> bool {
        match self {
            Behaviour::Talk(agent) => agent.speaker.agent.seeing.describes(),
            Behaviour::Mirror(_) | Behaviour::Record(_) => {
                room.watch.as_ref().is_some_and(|watch| watch.describes())
            }
            Behaviour::Dialled(_) => false,
        }
    }

    /// Plans one call's media.
    pub fn plan(&self, label: Label, streams: Streams, room: &Room) -> Plan {
        match self {
            Behaviour::Mirror(agent) => agent.plan(label, streams, room),
            Behaviour::Record(agent) => agent.plan(label, streams, room),
            Behaviour::Talk(agent) => agent.plan(label, streams, room),
            Behaviour::Dialled(agent) => agent.plan(label, streams, room),
        }
    }
}

impl Room {
    /// The inbound side as the route wants it: a gated picture is never recorded as it came in.
    fn video_in(&self) -> VideoIn {
        let records = self.recording.as_ref().is_some_and(|recording| recording.video);
        match &self.gate {
            Some(gate) => VideoIn::Gated {
                gate: gate.clone(),
                record: if records { GatedRecord::Reencode } else { GatedRecord::Off },
                look: self.look.clone(),
            },
            None => VideoIn::Open {
                record: if records { OpenRecord::CopyUnits } else { OpenRecord::Off },
                look: self.look.clone(),
            },
        }
    }
}
