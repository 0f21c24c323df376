//! How a session is known outside of its dialog: its Session-ID (RFC 7989), the name in our Contact, and the dialog a
//! Replaces header means (RFC 3891 §3).

use rand::RngCore as _;

use super::super::dialog::DialogKey;
use super::super::identifier::SessionIdentifier;
use super::super::message::{RequestMessage, ResponseMessage};
use super::super::party::shown;
use super::super::replaces::Replaces;
use super::super::uri::Uri;
use super::session::{Session, State};
use super::transactions::User;
use super::{Endpoint, SessionId};

/// What a Replaces header means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// A dialog that has its 2xx.
    Confirmed(SessionId),
    /// Our own INVITE that has no answer yet.
    Early(SessionId),
    /// A dialog that is ending.
    Ended,
    /// None that may be taken over.
    Unknown,
}

impl Endpoint {
    pub(super) fn new_identifier(&mut self, theirs: Option<&str>) -> SessionIdentifier {
        let mut random = [0; 16];
        self.rng.fill_bytes(&mut random);
        let mut identifier = SessionIdentifier::new(random);
        identifier.hear(theirs);
        identifier
    }

    /// Session-ID of this call as we write it: our half and the peer's.
    pub fn identifier(&self, session: SessionId) -> Option<String> {
        Some(self.sessions.get(&session)?.identifier.as_ref()?.to_string())
    }

    /// The name beside our address in Contact, from the next message on.
    pub fn set_display(&mut self, session: SessionId, display: &str) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.display = shown(display);
        }
    }

    /// The Call-ID of a session.
    pub fn call_id(&self, session: SessionId) -> Option<String> {
        let state = self.sessions.get(&session)?;
        let sent = state.sent_invite.as_ref().and_then(|invite| invite.call_id());
        let made = state.dialog.as_ref().map(|dialog| dialog.key.call_id.as_str());
        made.or(sent).map(str::to_owned)
    }

    /// The dialog of a session and where its peer is, once there is one.
    pub fn dialog(&self, session: SessionId) -> Option<(DialogKey, Uri)> {
        let dialog = self.sessions.get(&session)?.dialog.as_ref()?;
        Some((dialog.key.clone(), dialog.remote_target.clone()))
    }

    /// The dialog that a Replaces header names.
    pub fn replaced(&self, replaces: &Replaces) -> Replaced {
        let key = replaces.dialog();
        let of_invite = |state: &Session| {
            let call_id = state.sent_invite.as_ref().and_then(|invite| invite.call_id());
            matches!(state.state, State::Inviting { .. })
                && call_id == Some(key.call_id.as_str())
                && state.local_tag == key.local_tag
        };
        let known = self.session_of.get(&key).copied();
        // A dialog of ours without an answer need not be in the table of dialogs yet.
        let session = known.or_else(|| {
            self.sessions.iter().find(|(_, state)| of_invite(state)).map(|(session, _)| *session)
        });
        let Some((session, state)) = session.and_then(|id| Some((id, self.sessions.get(&id)?))) else {
            return Replaced::Unknown;
        };
        match state.state {
            State::Answered { .. } | State::Accepted { .. } | State::Confirmed => {
                Replaced::Confirmed(session)
            }
            State::Inviting { .. } => Replaced::Early(session),
            State::Closing => Replaced::Ended,
            // §3: an early dialog that its own caller did not make is not taken over.
            State::Invited => Replaced::Unknown,
        }
    }

    /// The session a response of ours belongs to.
    pub(super) fn session_answering(&self, request: &RequestMessage, tag: &str) -> Option<&Session> {
        let local_tag = request.to().and_then(|to| to.tag().map(str::to_owned));
        let key = DialogKey {
            call_id: request.call_id()?.to_owned(),
            local_tag: local_tag.unwrap_or_else(|| tag.to_owned()),
            remote_tag: request.from()?.tag().unwrap_or_default().to_owned(),
        };
        self.sessions.get(self.session_of.get(&key)?)
    }

    /// Takes the peer's half from a response.
    pub(super) fn hear_identifier(&mut self, user: &User, response: &ResponseMessage) {
        let (User::Invite(session) | User::Request(session, ..) | User::Bye(session)) = user else { return };
        if let Some(identifier) = self.sessions.get_mut(session).and_then(|state| state.identifier.as_mut()) {
            identifier.hear(response.headers.value("Session-ID"));
        }
    }
}

/// `"name" <contact>`, or the contact alone.
pub(super) fn with_display(display: &str, contact: String) -> String {
    if display.is_empty() {
        return contact;
    }
    let quoted: String = display
        .chars()
        .flat_map(|letter| matches!(letter, '"' | '\\').then_some('\\').into_iter().chain([letter]))
        .collect();
    format!("\"{quoted}\" {contact}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_contact_stays_in_its_quotes() {
        assert_eq!(with_display("", "<sip:a@h>".into()), "<sip:a@h>");
        assert_eq!(with_display("A \"b\" \\", "<sip:a@h>".into()), "\"A \\\"b\\\" \\\\\" <sip:a@h>");
    }
}
