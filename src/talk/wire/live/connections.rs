//! From one connection to the next: resumed after a loss, handed over before the server goes, and what a state does
//! not hold told again.

use std::time::Instant;

use super::{GeminiLive, HANDOVER_AHEAD, Line, PRE_ROLL, REPLAY_PIECE_MS, SOUND_IN, Stage, write};
use crate::talk::message::Failure;
use crate::talk::realtime::{Act, LinkId, RealtimeEvent, Turns};

impl GeminiLive {
    pub(super) fn open(&mut self, now: Instant) -> Line {
        let id = LinkId(self.next_link);
        self.next_link += 1;
        self.acts.push_back(Act::Open { link: id });
        Line { id, stage: Stage::Connecting, since: now }
    }

    pub(super) fn close_for_good(&mut self, failure: Failure) {
        for line in [self.current.take(), self.standby.take()].into_iter().flatten() {
            self.acts.push_back(Act::Close { link: line.id });
        }
        self.reopen_at = None;
        self.closed = true;
        self.tell(RealtimeEvent::Closed(failure));
    }

    pub(super) fn lose(&mut self, now: Instant, failure: Failure) {
        let Some(line) = self.current.take() else { return };
        if line.stage == Stage::Live {
            self.lost_at = Some(now);
            self.refusals = 0;
        }
        self.abandon();
        self.handover_by = None;
        if !failure.is_passing() {
            self.refusals += 1;
            let resumed = self.handle.take().is_some();
            // A state that cannot be resumed is one; a fresh session refused as well is the end of it.
            if !resumed && (line.stage != Stage::Live || self.refusals > 1) {
                self.close_for_good(failure);
                return;
            }
        }
        self.tell(RealtimeEvent::Trouble(failure.clone()));
        let delay = self.back_off.delay(&failure);
        match self.standby.take() {
            Some(standby) => {
                self.current = Some(standby);
                self.resumed = self.standby_handle.is_some();
            }
            None => self.reopen_at = Some(now + delay),
        }
        if self.current.is_some_and(|line| line.stage == Stage::Configured) {
            self.begin(now);
        }
    }

    /// What was under way on the old connection ends.
    pub(super) fn abandon(&mut self) {
        self.sound_done();
        let talk = std::mem::take(&mut self.talk);
        if talk.turn.is_some() {
            self.tell(RealtimeEvent::TurnDone { usage: talk.usage });
            self.turn_since = None;
        }
        self.talk.last_item = talk.last_item;
        self.talk.unflushed = talk.unflushed;
        self.owed_since = None;
        if !talk.calls.is_empty() {
            let ids = talk.calls.into_iter().map(|(id, _)| id).collect();
            self.tell(RealtimeEvent::CallsCancelled(ids));
        }
    }

    pub(super) fn configured(&mut self, now: Instant, link: LinkId) {
        if let Some(standby) = self.standby.as_mut().filter(|line| line.id == link) {
            standby.stage = Stage::Configured;
        } else {
            self.begin(now);
        }
    }

    /// A configured session takes over: what it does not know, then the sound it missed.
    pub(super) fn begin(&mut self, now: Instant) {
        let Some(line) = &mut self.current else { return };
        let exchanged = self.lost_at.is_none() && self.was_ready;
        *line = Line { stage: Stage::Live, since: now, ..*line };
        self.back_off.succeeded();
        self.handover_by = None;
        self.handover_wanted = false;
        let consumed = self.consumed.take();
        // The setup was message 0.
        self.sent_before = self.sent;
        self.sent += 1;
        if !self.resumed {
            self.handle_at = now;
            let history = write::history(&self.settings.history, self.said.all());
            history.into_iter().for_each(|history| {
                self.send(history);
            });
            let images: Vec<String> = self.images.iter().map(|image| write::image(image)).collect();
            self.figures.images_sent += images.len() as u64;
            images.into_iter().for_each(|image| {
                self.send(image);
            });
        }
        self.replay(now, consumed);
        self.tell(match exchanged {
            true => RealtimeEvent::Recycled,
            false => RealtimeEvent::Ready,
        });
        match exchanged {
            true => self.figures.recycled += 1,
            false => self.figures.reconnected += u64::from(self.was_ready),
        }
        self.was_ready = true;
        for waiting in std::mem::take(&mut self.waiting) {
            self.hand(now, waiting);
        }
    }

    /// Tells the sound again that the new connection cannot know.
    pub(super) fn replay(&mut self, now: Instant, consumed: Option<u64>) {
        let lost = self.lost_at.take();
        let from = match (self.turn_since, lost) {
            (Some(since), _) if !self.resumed => since,
            (Some(since), _) => since.max(self.handle_at),
            (None, Some(lost)) => lost.checked_sub(PRE_ROLL).unwrap_or(lost),
            (None, None) => now.checked_sub(PRE_ROLL).unwrap_or(now),
        };
        let sound = match consumed.filter(|_| self.resumed) {
            Some(number) => self.lately.behind(number),
            None => self.lately.since(from),
        };
        let ours = self.settings.turns == Turns::Ours;
        let owed = ours && self.turn_since.is_some() && !self.in_turn;
        if ours && !self.in_turn && !owed {
            return;
        }
        if ours {
            self.send(write::activity("activityStart"));
        }
        for piece in sound.chunks(SOUND_IN.bytes_per_ms() * REPLAY_PIECE_MS) {
            self.send(write::audio(piece));
        }
        if owed {
            self.send(write::activity("activityEnd"));
            self.owed_since = Some(now);
        }
        if !ours && !self.was_ready {
            self.turn_since = None;
        }
        self.figures.replayed_ms += (sound.len() / SOUND_IN.bytes_per_ms()) as u64;
    }

    pub(super) fn is_quiet(&self) -> bool {
        let speaks = self.local_speaks || self.in_turn || self.turn_since.is_some();
        let busy = self.talk.turn.is_some() || !self.talk.calls.is_empty();
        !speaks && !busy && self.owed_since.is_none()
    }

    /// Moves to a second connection when nobody speaks, or when the server will not wait any longer.
    pub(super) fn hand_over(&mut self, now: Instant) {
        let (Some(old), true) = (self.live(), self.handover_by.is_some() || self.handover_wanted) else {
            return;
        };
        let at_last = self.handover_by.is_some_and(|by| now >= by);
        let soon = self.handover_by.is_some_and(|by| now + HANDOVER_AHEAD >= by);
        let quiet = self.is_quiet();
        match self.standby {
            None if (quiet || soon) && self.standby_at.is_none_or(|at| now >= at) => {
                self.standby_at = None;
                self.standby_handle = self.handle.clone();
                self.standby = Some(self.open(now));
            }
            // More was said since: what it was resumed from is old.
            Some(standby) if self.standby_handle != self.handle && quiet && !at_last => {
                self.acts.push_back(Act::Close { link: standby.id });
                self.standby_handle = self.handle.clone();
                self.standby = Some(self.open(now));
            }
            Some(standby) if standby.stage == Stage::Configured && (quiet || at_last) => {
                self.acts.push_back(Act::Close { link: old });
                self.abandon();
                self.current = self.standby.take();
                self.resumed = self.standby_handle.is_some();
                self.begin(now);
            }
            None | Some(_) => {}
        }
    }
}
