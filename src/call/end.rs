//! Why a call ended: one reason, shown everywhere the same.
//!
//! It alone maps to a SIP status before the answer, to a BYE with a `Reason` header (RFC 3326) after it, and to the
//! words of the log, the console and the call record.

/// The one reason of one ended call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The peer sent BYE.
    PeerHungUp,
    /// The caller gave up before the answer.
    PeerCancelled,
    /// The operator, the agent or `eyeline call` ended it.
    HungUp,
    /// An outgoing call nobody answered in time.
    NoAnswer,
    /// An outgoing call that was refused, with the peer's final status.
    Rejected { status: u16, text: String },
    /// An incoming call we refused, with our status.
    Refused { status: u16, text: String },
    /// Our answer was never acknowledged.
    AckMissing,
    /// Its peer was sent to somebody else, and is there.
    Transferred,
    /// Another call took its place (RFC 3891).
    Replaced,
    /// Neither RTP nor RTCP came for too long.
    MediaTimeout,
    /// Nobody refreshed the session in time (RFC 4028).
    SessionExpired,
    /// `sip.max_call_s` is over.
    TooLong,
    /// SIGTERM, and the time to drain is over.
    Shutdown,
    /// The offer or answer could not be used.
    NegotiationFailed(String),
    /// A stream that had to be protected could not be: no keys in time, or the wrong peer.
    ProtectionFailed(String),
    /// A part of the media engine broke; the text says which.
    EngineFault(String),
    /// A bug in the control plane, caught at the call's edge.
    ControlFault(String),
}

impl EndReason {
    /// The word used in records, events and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            EndReason::PeerHungUp => "peer-hung-up",
            EndReason::PeerCancelled => "peer-cancelled",
            EndReason::HungUp => "hung-up",
            EndReason::NoAnswer => "no-answer",
            EndReason::Rejected { .. } => "rejected",
            EndReason::Refused { .. } => "refused",
            EndReason::AckMissing => "ack-missing",
            EndReason::Transferred => "transferred",
            EndReason::Replaced => "replaced",
            EndReason::MediaTimeout => "media-timeout",
            EndReason::SessionExpired => "session-expired",
            EndReason::TooLong => "too-long",
            EndReason::Shutdown => "shutdown",
            EndReason::NegotiationFailed(_) => "negotiation-failed",
            EndReason::ProtectionFailed(_) => "protection-failed",
            EndReason::EngineFault(_) => "engine-fault",
            EndReason::ControlFault(_) => "control-fault",
        }
    }

    /// The final response when the call ends before its answer.
    pub fn status(&self) -> (u16, &str) {
        match self {
            EndReason::Refused { status, text } | EndReason::Rejected { status, text } => (*status, text),
            EndReason::PeerCancelled => (487, "Request Terminated"),
            EndReason::NegotiationFailed(_) | EndReason::ProtectionFailed(_) => (488, "Not Acceptable Here"),
            EndReason::Shutdown => (503, "Service Unavailable"),
            EndReason::NoAnswer => (480, "Temporarily Unavailable"),
            EndReason::PeerHungUp
            | EndReason::HungUp
            | EndReason::Transferred
            | EndReason::Replaced
            | EndReason::TooLong => (480, "Temporarily Unavailable"),
            EndReason::AckMissing | EndReason::MediaTimeout | EndReason::SessionExpired => {
                (500, "Server Internal Error")
            }
            EndReason::EngineFault(_) | EndReason::ControlFault(_) => (500, "Server Internal Error"),
        }
    }

    /// The `Reason` header of our BYE or CANCEL: Q.850 causes where telephony has one.
    pub fn reason_header(&self) -> String {
        let (cause, text) = match self {
            EndReason::MediaTimeout => (102, "media-timeout"),
            EndReason::TooLong => (16, "call too long"),
            EndReason::Shutdown => (41, "shutdown"),
            EndReason::SessionExpired => (102, "session-expired"),
            EndReason::AckMissing => (102, "ack-missing"),
            EndReason::NoAnswer => (19, "no answer from user"),
            EndReason::NegotiationFailed(_) => (88, "negotiation-failed"),
            EndReason::ProtectionFailed(_) => (88, "protection-failed"),
            EndReason::EngineFault(_) | EndReason::ControlFault(_) => (41, "engine-fault"),
            EndReason::Transferred => (16, "transferred"),
            EndReason::Replaced => (16, "replaced"),
            EndReason::PeerHungUp
            | EndReason::PeerCancelled
            | EndReason::HungUp
            | EndReason::Rejected { .. }
            | EndReason::Refused { .. } => (16, "normal call clearing"),
        };
        format!("Q.850;cause={cause};text=\"{text}\"")
    }
}

impl std::fmt::Display for EndReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EndReason::Rejected { status, text } | EndReason::Refused { status, text } => {
                write!(f, "{} ({status} {text})", self.name())
            }
            EndReason::NegotiationFailed(text)
            | EndReason::ProtectionFailed(text)
            | EndReason::EngineFault(text)
            | EndReason::ControlFault(text) => write!(f, "{}: {text}", self.name()),
            EndReason::PeerHungUp
            | EndReason::PeerCancelled
            | EndReason::HungUp
            | EndReason::NoAnswer
            | EndReason::AckMissing
            | EndReason::Transferred
            | EndReason::Replaced
            | EndReason::MediaTimeout
            | EndReason::SessionExpired
            | EndReason::TooLong
            | EndReason::Shutdown => f.write_str(self.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_line_is_named_in_the_reason_header_of_the_bye() {
        assert_eq!(EndReason::MediaTimeout.reason_header(), "Q.850;cause=102;text=\"media-timeout\"");
    }

    #[test]
    fn a_refusal_shows_its_status_and_text() {
        let reason = EndReason::Refused { status: 404, text: "No Route".to_owned() };
        assert_eq!(reason.status(), (404, "No Route"));
        assert_eq!(reason.to_string(), "refused (404 No Route)");
    }
}
