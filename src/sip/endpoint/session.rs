//! The state of one INVITE session, and the repeating of a 2xx until its ACK (RFC 3261 §13.3.1.4).

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::super::dialog::Dialog;
use super::super::digest::client::Client as Prover;
use super::super::identifier::SessionIdentifier;
use super::super::message::RequestMessage;
use super::super::uri::Uri;
use super::prack::{Early, Reliably};
use super::timer::SessionTimer;
use super::{Hop, Peer, RequestId};

/// ACKs kept to answer repeated 2xx.
const ACKS_KEPT: usize = 4;

#[derive(Debug)]
pub(super) enum State {
    /// Their INVITE has no final response.
    Invited,
    /// Our 2xx has no ACK. `bye`: hang up as soon as it has.
    Answered {
        bye: Option<Option<String>>,
    },
    /// Our INVITE has no final response.
    Inviting {
        cancel: Cancel,
    },
    /// Their 2xx is not acknowledged yet.
    Accepted {
        cseq: u32,
    },
    Confirmed,
    /// Our BYE has no final response.
    Closing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cancel {
    No,
    /// It waits for a provisional response (§9.1).
    Wanted,
    /// It was sent; the INVITE must end by then.
    Sent {
        give_up_at: Instant,
    },
}

/// A 2xx being repeated.
#[derive(Debug)]
pub(super) struct Repeat {
    pub bytes: Vec<u8>,
    pub peer: Peer,
    pub cseq: u32,
    pub resend_at: Instant,
    pub interval: Duration,
    pub give_up_at: Instant,
}

#[derive(Debug)]
pub(super) struct Session {
    pub state: State,
    pub dialog: Option<Dialog>,
    /// Where the peer's signalling comes from.
    pub peer: Peer,
    /// Our listening address, for Contact and Via.
    pub contact_local: SocketAddr,
    /// The peer's own idea of its address is not where its packets come from.
    pub behind_translator: bool,
    /// Where the next hop leads, when it has a name: what is used in front, then what may stand in for it.
    pub named_target: Option<(Uri, VecDeque<Hop>)>,
    pub local_tag: String,
    /// The transaction of the initial INVITE.
    pub invite: u64,
    /// Answers challenges: only in sessions that we began with credentials.
    pub prover: Option<Prover>,
    /// What the last INVITE of ours proved itself with.
    pub proof: Vec<(&'static str, String)>,
    /// Our initial INVITE.
    pub sent_invite: Option<RequestMessage>,
    pub repeat: Option<Repeat>,
    /// ACKs sent, by CSeq and remote tag.
    pub acks: VecDeque<(u32, String, Peer, Vec<u8>)>,
    /// Their open requests inside the dialog and the transactions behind them.
    pub open: HashMap<RequestId, u64>,
    /// Their re-INVITE waits for our answer.
    pub their_reinvite: bool,
    /// The transaction of our re-INVITE that waits for their answer.
    pub our_reinvite: Option<u64>,
    /// Their UPDATE with an offer waits for our answer.
    pub their_update: Option<RequestId>,
    /// The transaction of our UPDATE that waits for their answer.
    pub our_update: Option<u64>,
    /// Our provisional responses.
    pub reliably: Reliably,
    /// The early dialogs of our INVITE.
    pub early: Vec<Early>,
    pub timer: SessionTimer,
    /// The Reason of the CANCEL that is wanted.
    pub cancel_reason: Option<String>,
    /// A provisional response above 100 has come: the call is where it is.
    pub progressed: bool,
    /// Both halves of its Session-ID.
    pub identifier: Option<SessionIdentifier>,
    /// The name in our Contact; empty: none.
    pub display: String,
    pub armed: Option<Instant>,
}

impl Session {
    pub fn new(state: State, peer: Peer, contact_local: SocketAddr, local_tag: String, invite: u64) -> Self {
        Session {
            state,
            dialog: None,
            peer,
            contact_local,
            behind_translator: false,
            named_target: None,
            local_tag,
            invite,
            prover: None,
            proof: Vec::new(),
            sent_invite: None,
            repeat: None,
            acks: VecDeque::new(),
            open: HashMap::new(),
            their_reinvite: false,
            our_reinvite: None,
            their_update: None,
            our_update: None,
            reliably: Reliably::default(),
            early: Vec::new(),
            timer: SessionTimer::default(),
            cancel_reason: None,
            progressed: false,
            identifier: None,
            display: String::new(),
            armed: None,
        }
    }

    pub fn wake_at(&self) -> Option<Instant> {
        let repeat = self.repeat.as_ref().map(|repeat| repeat.resend_at.min(repeat.give_up_at));
        let cancel = match self.state {
            State::Inviting { cancel: Cancel::Sent { give_up_at } } => Some(give_up_at),
            State::Invited
            | State::Answered { .. }
            | State::Inviting { .. }
            | State::Accepted { .. }
            | State::Confirmed
            | State::Closing => None,
        };
        [repeat, cancel, self.reliably.wake_at(), self.timer.wake_at()].into_iter().flatten().min()
    }

    pub fn keep_ack(&mut self, cseq: u32, remote_tag: String, peer: Peer, bytes: Vec<u8>) {
        if self.acks.len() >= ACKS_KEPT {
            self.acks.pop_front();
        }
        self.acks.push_back((cseq, remote_tag, peer, bytes));
    }
}
