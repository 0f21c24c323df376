//! A call of ours: dialling. What its peer says until the answer is `early`'s.

use std::time::Instant;

use super::{Call, CallSettings, State};
use crate::engine::plan::{CallId, Wanted};

impl Call {
    /// A call we make.
    pub fn outgoing(now: Instant, id: CallId, settings: CallSettings) -> Self {
        let wanted = Wanted { audio: true, video: settings.media.video, slides: false };
        let mut call = Call::new(now, id, settings, State::Dialling);
        call.dialog_open = false;
        call.hold.own_dialog();
        call.prepare(wanted);
        call
    }
}
