//! From one connection to the next: lost ones are made anew, old ones exchanged, and what they knew is told again.

use std::time::Instant;

use super::{Line, OpenAiRealtime, PRE_ROLL, REPLAY_PIECE_MS, Stage, image_item, write};
use crate::talk::message::{Failure, Role, Usage};
use crate::talk::realtime::{Act, LinkId, RealtimeEvent, Turns};

impl OpenAiRealtime {
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
        self.standby_at = None;
        self.closed = true;
        self.fail_asides(&failure);
        self.tell(RealtimeEvent::Closed(failure));
    }

    /// The current connection is of no use any more.
    pub(super) fn lose(&mut self, now: Instant, failure: Failure) {
        let Some(line) = self.current.take() else { return };
        let was_live = line.stage == Stage::Live;
        if was_live {
            self.lost_at = Some(now);
            self.refusals = 0;
        }
        self.abandon(&failure);
        if !failure.is_passing() {
            self.refusals += 1;
            if !was_live || self.refusals > 1 {
                self.close_for_good(failure);
                return;
            }
        }
        self.tell(RealtimeEvent::Trouble(failure.clone()));
        let delay = self.back_off.delay(&failure);
        match self.standby.take() {
            Some(standby) => self.current = Some(standby),
            None => self.reopen_at = Some(now + delay),
        }
        if self.current.is_some_and(|line| line.stage == Stage::Configured) {
            // It was configured and only waited for its turn.
            self.begin(now);
        }
    }

    /// What was under way on the old connection ends.
    pub(super) fn abandon(&mut self, failure: &Failure) {
        let talk = std::mem::take(&mut self.talk);
        let sounded = talk.active.as_ref().is_some_and(|active| active.sounded && !active.cancelled);
        for spoken in talk.spoken.iter().filter(|spoken| !spoken.done) {
            self.events.push_back(RealtimeEvent::SoundDone { item: spoken.item.clone() });
        }
        if sounded {
            self.tell(RealtimeEvent::TurnDone { usage: Usage::default() });
            self.turn_since = None;
        } else if let Some(wanted) = talk.creating {
            self.wanted.push_front(wanted);
        }
        self.owed_since = None;
        if !talk.calls.is_empty() {
            let ids = talk.calls.into_iter().map(|(id, _)| id).collect();
            self.tell(RealtimeEvent::CallsCancelled(ids));
        }
        self.fail_asides(failure);
    }

    pub(super) fn fail_asides(&mut self, failure: &Failure) {
        for aside in std::mem::take(&mut self.asides) {
            let answer = Err(failure.clone());
            self.events.push_back(RealtimeEvent::Aside { id: aside.id, answer, usage: Usage::default() });
        }
    }

    /// A configured session takes over: what was said and seen, then the sound it missed.
    pub(super) fn begin(&mut self, now: Instant) {
        let Some(line) = &mut self.current else { return };
        let exchanged = self.lost_at.is_none() && self.was_ready;
        *line = Line { stage: Stage::Live, since: now, ..*line };
        self.back_off.succeeded();
        self.seed();
        let from = match (self.turn_since, self.lost_at.take()) {
            (Some(since), _) => since,
            (None, Some(lost)) => lost.checked_sub(PRE_ROLL).unwrap_or(lost),
            // Nothing was lost; an onset between the two sessions is not to be.
            (None, None) => now.checked_sub(PRE_ROLL).unwrap_or(now),
        };
        let owed = self.turn_since.is_some() && !self.in_turn;
        if self.settings.turns != Turns::Ours || self.in_turn || owed {
            self.replay(from);
        }
        if self.settings.turns != Turns::Ours && !self.was_ready {
            self.turn_since = None;
        }
        if self.settings.turns == Turns::Ours && owed {
            self.commit(now);
        }
        self.tell(match exchanged {
            true => RealtimeEvent::Recycled,
            false => RealtimeEvent::Ready,
        });
        match exchanged {
            true => self.figures.recycled += 1,
            false => self.figures.reconnected += u64::from(self.was_ready),
        }
        self.was_ready = true;
        self.ask_wanted(now);
    }

    pub(super) fn seed(&mut self) {
        let history: Vec<String> = self.settings.history.iter().filter_map(write::message).collect();
        let mut spoken: Vec<String> =
            self.said.all().map(|said| write::said(&said.item, said.role, &said.text)).collect();
        let mut all = history;
        all.append(&mut spoken);
        let images = self.images.iter().filter_map(|image| write::image(&image_item(image.id), image));
        all.extend(images);
        all.extend(self.scene.iter().map(|(item, text)| write::said(item, Role::User, text)));
        self.figures.images_sent += self.images.len() as u64;
        for text in all {
            self.send(text);
        }
    }

    pub(super) fn replay(&mut self, from: Instant) {
        let sound = self.lately.since(from);
        let piece = self.format.bytes_per_ms() * REPLAY_PIECE_MS;
        for piece in sound.chunks(piece.max(1)) {
            self.send(write::append(piece));
        }
        let ms = (sound.len() / self.format.bytes_per_ms().max(1)) as u64;
        self.talk.buffered_ms += ms;
        self.figures.replayed_ms += ms;
    }

    pub(super) fn is_quiet(&self) -> bool {
        let speaks = self.talk.caller_speaks || self.local_speaks || self.in_turn;
        let busy = self.talk.active.is_some() || self.talk.creating.is_some() || !self.talk.calls.is_empty();
        !speaks && !busy && self.owed_since.is_none() && self.asides.is_empty() && self.wanted.is_empty()
    }

    /// Opens a fresh session in time, and changes to it when nobody speaks.
    pub(super) fn recycle(&mut self, now: Instant) {
        let Some(line) = self.current.filter(|line| line.stage == Stage::Live) else { return };
        let at_last = now >= line.since + self.settings.recycle_at_last;
        if now < line.since + self.settings.recycle_after {
            return;
        }
        match self.standby {
            None if self.standby_at.is_none_or(|at| now >= at) => {
                self.standby_at = None;
                self.standby = Some(self.open(now));
            }
            Some(standby) if standby.stage == Stage::Configured && (at_last || self.is_quiet()) => {
                self.acts.push_back(Act::Close { link: line.id });
                self.abandon(&Failure::Cut);
                self.current = self.standby.take();
                self.begin(now);
            }
            None | Some(_) => {}
        }
    }
}
