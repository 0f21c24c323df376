//! What an operator or an application may ask of calls: make one, end it, hold, resume, press keys, send it elsewhere.
//!
//! Everything is checked here, whoever asks; how it is written (HTTP, command line) is not known.

use std::time::Instant;

use super::dialling::DialReason;
use super::metadata::check_headers;
use super::transfer::TransferTo;
use super::{Dial, Do, UserAgent, Way};
use crate::base::reply::Reply;
use crate::call::behaviour::{Behaviour, Room};
use crate::call::end::EndReason;
use crate::call::negotiate::MediaSettings;
use crate::engine::plan::{CallId, Command, Label};
use crate::engine::talk::{TalkOrder, Wish};
use crate::sip::party::shown;
use crate::sip::uri::Scheme;
use crate::sip::{NameAddr, Uri};
use crate::talk::message::Message;
use crate::talk::sight::description::Seen;

/// Keys pressed at once.
const DIGITS_MAX: usize = 64;
/// Letters of a text for an agent.
const TEXT_MAX: usize = 4_000;
/// The longest target that is looked at, bytes.
const TARGET_MAX: usize = 512;

/// An agent that calls can be made with.
#[derive(Clone, Debug)]
pub struct Agent {
    pub name: String,
    pub behaviour: Behaviour,
    pub room: Room,
    /// Whether video is offered.
    pub video: bool,
    /// The name shown to whom it calls.
    pub display_name: String,
}

/// A call to make for somebody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// A URI, the name of a registered user, or an extension of the account or peer.
    pub to: String,
    pub agent: String,
    /// An account or a peer through which it is made.
    pub account: Option<String>,
    /// `None`: as the agent has it.
    pub video: Option<bool>,
    pub headers: Vec<(String, String)>,
    /// What its agent is told before the first word.
    pub context: Vec<Message>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Place(Place),
    HangUp {
        call: String,
    },
    Hold {
        call: String,
    },
    Resume {
        call: String,
    },
    Digits {
        call: String,
        digits: String,
    },
    /// The agent says this, behind what it is saying.
    Say {
        call: String,
        text: String,
    },
    /// A turn of the caller in writing.
    Text {
        call: String,
        text: String,
    },
    /// What there is to see of the caller now; an empty question asks for nothing in particular.
    Describe {
        call: String,
        question: String,
        reply: Reply<Seen>,
    },
    /// The caller's turn is over, or was none.
    Turn {
        call: String,
        commit: bool,
    },
    /// Nothing is recorded from now on, or everything again.
    Record {
        call: String,
        paused: bool,
    },
    /// `to` or `with`.
    Transfer {
        call: String,
        to: Option<String>,
        with: Option<String>,
    },
}

/// Why it is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is no such thing.
    Unknown,
    /// Not in this state.
    Conflict,
    /// It is wrong in itself.
    Bad,
    /// It is not allowed.
    Denied,
    /// Not now.
    Unavailable,
    /// There has been enough of it in this call.
    Spent,
    /// Somebody else, who was asked for it, failed.
    Upstream,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    pub kind: Kind,
    /// A word to script against.
    pub code: &'static str,
    pub message: String,
    /// What of the request is meant.
    pub field: Option<&'static str>,
}

impl Refused {
    pub fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Self {
        Refused { kind, code, message: message.into(), field: None }
    }

    pub fn unknown(message: &str) -> Self {
        Refused::new(Kind::Unknown, "unknown_call", message)
    }

    fn bad(field: &'static str, message: impl Into<String>) -> Self {
        Refused::new(Kind::Bad, "bad_request", message).at(field)
    }

    #[must_use]
    pub fn at(mut self, field: &'static str) -> Self {
        self.field = Some(field);
        self
    }
}

const NO_CONVERSATION: &str = "the agent of this call does not talk: kind = \"pipeline\" or \"realtime\"";

/// What is to be said or was written.
fn text_of(text: String) -> Result<String, Refused> {
    let good = !text.trim().is_empty() && text.chars().count() <= TEXT_MAX;
    if good { Ok(text) } else { Err(Refused::bad("text", format!("1 to {TEXT_MAX} characters"))) }
}

impl UserAgent {
    /// Does what is asked; the call it concerned.
    ///
    /// # Errors
    /// Says why it is not done. Nothing has happened then.
    pub fn control(&mut self, now: Instant, asked: Asked) -> Result<CallId, Refused> {
        match asked {
            Asked::Place(place) => self.place(now, &place),
            Asked::HangUp { call } => {
                let call = self.find(&call)?;
                self.hang_up(now, call, EndReason::HungUp);
                Ok(call)
            }
            Asked::Hold { call } => {
                let call = self.find_established(&call)?;
                self.hold(now, call);
                Ok(call)
            }
            Asked::Resume { call } => {
                let call = self.find_established(&call)?;
                self.resume(now, call);
                Ok(call)
            }
            Asked::Digits { call, digits } => {
                let call = self.find_established(&call)?;
                let keys = |letter: char| letter.is_ascii_digit() || "*#ABCDabcd".contains(letter);
                if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.chars().all(keys) {
                    let text = format!("1 to {DIGITS_MAX} of 0-9, *, #, A-D");
                    return Err(Refused::bad("digits", text));
                }
                self.send_digits(now, call, &digits);
                Ok(call)
            }
            Asked::Say { call, text } => self.talk(now, &call, text_of(text)?, TalkOrder::Say),
            Asked::Text { call, text } => self.talk(now, &call, text_of(text)?, TalkOrder::Text),
            Asked::Describe { call, question, reply } => self.describe(now, &call, question, reply),
            Asked::Turn { call, commit } => {
                let order = if commit { TalkOrder::CommitTurn } else { TalkOrder::ClearTurn };
                let id = self.find(&call)?;
                if self.calls.get(&id).is_some_and(|call| !call.settings().behaviour.takes_turns(commit)) {
                    let text = "not for this agent: kind = \"pipeline\", or turn_detection = \"manual\" (Gemini only commits)";
                    return Err(Refused::new(Kind::Conflict, "no_turns", text));
                }
                self.talk(now, &call, String::new(), |_| order)
            }
            Asked::Record { call, paused } => {
                let call = self.find_established(&call)?;
                let mut recorded = false;
                self.step(now, call, |call| recorded = call.pause_recording(paused));
                self.settle(now);
                if !recorded {
                    return Err(Refused::new(Kind::Conflict, "not_recorded", "the call is not recorded"));
                }
                Ok(call)
            }
            Asked::Transfer { call, to, with } => {
                let call = self.find_established(&call)?;
                let to = match (to, with) {
                    (Some(to), None) => TransferTo::Blind(self.target(&to, None, "to")?.0),
                    (None, Some(with)) => {
                        let other = self.find(&with).map_err(|refused| refused.at("with"))?;
                        TransferTo::Attended(other)
                    }
                    (Some(_), Some(_)) | (None, None) => {
                        return Err(Refused::bad("to", "give either to or with"));
                    }
                };
                self.transfer(now, call, &to)?;
                Ok(call)
            }
        }
    }

    /// Something for the agent of a call.
    fn talk(
        &mut self,
        now: Instant,
        call: &str,
        text: String,
        order: impl FnOnce(String) -> TalkOrder,
    ) -> Result<CallId, Refused> {
        let call = self.find_established(call)?;
        let talks = self.calls.get(&call).is_some_and(|call| call.settings().behaviour.talks());
        if !talks {
            return Err(Refused::new(Kind::Conflict, "no_conversation", NO_CONVERSATION));
        }
        self.out.push_back(Do::Engine(Command::Talk { call, order: order(text) }));
        self.settle(now);
        Ok(call)
    }

    /// What there is to see is told by `reply`, in time.
    fn describe(
        &mut self,
        now: Instant,
        call: &str,
        question: String,
        reply: Reply<Seen>,
    ) -> Result<CallId, Refused> {
        if question.chars().count() > TEXT_MAX {
            return Err(Refused::bad("question", format!("at most {TEXT_MAX} characters")));
        }
        let call = self.find_established(call)?;
        let settings = self.calls.get(&call).map(|call| call.settings());
        if !settings.is_some_and(|settings| settings.behaviour.describes(&settings.room)) {
            let text = "no model looks at this call: say which in [vision], and not sight = \"off\"";
            return Err(Refused::new(Kind::Conflict, "no_vision", text));
        }
        let order = TalkOrder::Describe { question: question.trim().to_owned(), reply };
        self.out.push_back(Do::Engine(Command::Talk { call, order }));
        self.settle(now);
        Ok(call)
    }

    /// An agent wants something of its own call; it is told what came of it.
    pub(super) fn grant(&mut self, now: Instant, call: CallId, id: String, wish: Wish) {
        let name = call.to_string();
        let (asked, done) = match wish {
            Wish::HangUp => (Asked::HangUp { call: name }, "The call ends."),
            Wish::Digits(digits) => (Asked::Digits { call: name, digits }, "The keys are being pressed."),
            Wish::Transfer(to) => {
                (Asked::Transfer { call: name, to: Some(to), with: None }, "The call is being transferred.")
            }
            Wish::Hold => (Asked::Hold { call: name }, "The caller is on hold."),
            Wish::Record { paused: true } => {
                (Asked::Record { call: name, paused: true }, "Nothing is recorded until you resume it.")
            }
            Wish::Record { paused: false } => {
                (Asked::Record { call: name, paused: false }, "The call is recorded again.")
            }
        };
        let (result, done) = match self.control(now, asked) {
            Ok(_) => (done.to_owned(), true),
            Err(refused) => (format!("That was refused: {refused}."), false),
        };
        let order = TalkOrder::Done { id, result, done };
        self.out.push_back(Do::Engine(Command::Talk { call, order }));
    }

    fn place(&mut self, now: Instant, place: &Place) -> Result<CallId, Refused> {
        check_headers(&place.headers).map_err(|text| Refused::bad("headers", text))?;
        let agent = self.agent_named(&place.agent)?.clone();
        let behaviour = match place.context.as_slice() {
            [] => agent.behaviour,
            context => agent.behaviour.with_context(context).ok_or_else(|| {
                Refused::new(Kind::Conflict, "no_conversation", NO_CONVERSATION).at("context")
            })?,
        };
        let (to, trunk) = self.target(&place.to, place.account.as_deref(), "to")?;
        if self.draining {
            return Err(Refused::new(Kind::Unavailable, "draining", "shutting down: no new calls"));
        }
        if self.room().0 == 0 {
            return Err(Refused::new(Kind::Unavailable, "too_many_calls", "sip.max_calls is reached"));
        }
        self.dialling.permit(now, &to, DialReason::Call).map_err(|denied| {
            Refused::new(Kind::Denied, "not_allowed", format!("{to} may not be dialled: {denied}")).at("to")
        })?;
        let own = Uri::sip(&self.settings.sip.contact_user, &self.own_host(), None);
        let display = Some(agent.display_name).filter(|name| !name.is_empty());
        let video = place.video.unwrap_or(agent.video) && self.settings.media.video;
        let dial = Dial {
            to,
            from: NameAddr { display, ..NameAddr::new(own) },
            hops: Vec::new(),
            behaviour,
            room: agent.room,
            media: MediaSettings { video, ..self.settings.media.clone() },
            ring_timeout: self.settings.ring_timeout,
            headers: place.headers.clone(),
            way: self.way_of(trunk),
            label: Label { agent: agent.name, headers: place.headers.clone(), ..Label::default() },
        };
        Ok(self.dial(now, dial))
    }

    /// Whom a text means: a URI as it is; else a registered user, or an extension of an account or peer.
    /// And the account or peer it is called over.
    fn target(
        &self,
        text: &str,
        account: Option<&str>,
        field: &'static str,
    ) -> Result<(Uri, Option<String>), Refused> {
        let text = text.trim();
        if text.is_empty() || text.len() > TARGET_MAX || text.chars().any(char::is_control) {
            return Err(Refused::bad(field, "a SIP URI, a user's name or an extension"));
        }
        let scheme = text.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
        if matches!(scheme.as_deref(), Some("sip" | "sips" | "tel")) {
            let mut uri = Uri::parse(text).ok_or_else(|| {
                Refused::bad(field, format!("{:?} is not a SIP URI: sip:USER@HOST", shown(text)))
            })?;
            if matches!(uri.scheme, Scheme::Other(_)) {
                return self.extension(&uri.user_decoded().unwrap_or_default(), account, field);
            }
            // Header fields of a URI would be written into our INVITE.
            uri.headers = None;
            let trunk = account.map(str::to_owned);
            if trunk.as_ref().is_some_and(|name| !self.settings.trunks.iter().any(|(known, _)| known == name))
            {
                return Err(Refused::bad("account", "no account or peer has this name"));
            }
            return Ok((uri, trunk));
        }
        self.extension(text, account, field)
    }

    /// An extension at an account or peer.
    fn extension(
        &self,
        text: &str,
        account: Option<&str>,
        field: &'static str,
    ) -> Result<(Uri, Option<String>), Refused> {
        // A user of ours before anybody elsewhere.
        if let Some(address) = self.registrar.address(text).filter(|_| account.is_none()) {
            return Ok((address, None));
        }
        let trunk = match account {
            Some(name) => self.settings.trunks.iter().find(|(known, _)| known == name),
            None => self.settings.trunks.first().filter(|_| self.settings.trunks.len() == 1),
        };
        match (trunk, account) {
            (Some((name, at)), _) => {
                Ok((Uri { user: Uri::sip(text, "h", None).user, ..at.clone() }, Some(name.clone())))
            }
            (None, Some(_)) => Err(Refused::bad("account", "no account or peer has this name")),
            (None, None) => Err(Refused::bad(
                field,
                "not a URI and no registered user: write sip:USER@HOST or name an account",
            )),
        }
    }

    /// How a call goes over an account, or proves itself to a peer.
    fn way_of(&self, trunk: Option<String>) -> Way {
        let Some(name) = trunk else { return Way::default() };
        if self.settings.accounts.iter().any(|account| account.name == name) {
            return Way::over(&name);
        }
        let peer = self.settings.admission.peers().iter().find(|peer| peer.name == name);
        Way { credentials: peer.and_then(|peer| peer.credentials.clone()), ..Way::default() }
    }

    /// Our host in a From, where it is known before the hop is.
    fn own_host(&self) -> String {
        self.settings.advertise.map_or_else(String::new, |address| address.to_string())
    }

    /// The one live call with this id.
    fn find(&self, id: &str) -> Result<CallId, Refused> {
        let mut found = self.calls.values().filter(|call| call.is_live() && call.id().to_string() == id);
        match (found.next(), found.next()) {
            (Some(call), None) => Ok(call.id()),
            (Some(_), Some(_)) | (None, _) => Err(Refused::unknown("no live call has this id")),
        }
    }

    /// An agent calls can be made with.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn agent_named(&self, name: &str) -> Result<&Agent, Refused> {
        self.settings.agents.iter().find(|agent| agent.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.settings.agents.iter().map(|agent| agent.name.as_str()).collect();
            Refused::bad("agent", format!("no agent has this name; there are {}", known.join(", ")))
        })
    }

    /// The live call with this id, if it was answered.
    ///
    /// # Errors
    /// There is none, or it is not answered yet.
    pub fn find_established(&self, id: &str) -> Result<CallId, Refused> {
        let call = self.find(id)?;
        let state = self.calls.get(&call).map_or("over", |call| call.state_name());
        if state == "established" {
            Ok(call)
        } else {
            Err(Refused::new(Kind::Conflict, "wrong_state", format!("the call is {state}: not answered yet")))
        }
    }
}
