//! What comes down a peer connection becomes an avatar's sound and pictures on one clock.
//!
//! Pure. Sound is put in order, its gaps are concealed and it is held as long as its arrival is uneven, then given as it
//! is due; pictures are given as they come, with the time that says to which sound they belong: how they are paced is
//! `engine::face`'s. Before the sender's reports say how its clocks stand, arrival does; from then on times are led over
//! slowly, so that nothing jumps.

mod clock;
mod sound;

use std::time::{Duration, Instant};

use self::clock::Clocks;
use self::sound::Jitter;
use super::{AvatarEvent, Picture};
use crate::media::codec::CodecError;
use crate::webrtc::Mid;
use crate::webrtc::event::{Kind, PeerEvent, SoundPacket, UnitPacket};

/// Pictures that stay away so long are asked for.
const NO_PICTURE: Duration = Duration::from_secs(2);
/// A key picture is asked for again after so long.
const ASK_EVERY: Duration = Duration::from_millis(400);

/// What [`Downlink`] noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DownlinkCounters {
    pub packets: u64,
    /// Samples made up in place of lost ones.
    pub concealed: u64,
    /// Packets that came too late to be heard, or too many at once.
    pub late: u64,
    pub pictures: u64,
    /// Pictures that could not be shown because of one lost before them.
    pub unshown: u64,
    pub key_wishes: u64,
}

/// One peer's sound and pictures.
pub struct Downlink {
    sound: Option<Mid>,
    video: Option<Mid>,
    jitter: Jitter,
    clocks: Clocks,
    /// A key picture has come, and nothing was lost since.
    whole: bool,
    wished: bool,
    asked: Option<Instant>,
    /// When the last picture came, or was first waited for.
    seen: Option<Instant>,
    stalled: bool,
    counters: DownlinkCounters,
}

impl Downlink {
    /// # Errors
    /// libopus cannot be had.
    pub fn new(now: Instant) -> Result<Self, CodecError> {
        Ok(Downlink {
            sound: None,
            video: None,
            jitter: Jitter::new()?,
            clocks: Clocks::new(now),
            whole: false,
            wished: false,
            asked: None,
            seen: None,
            stalled: false,
            counters: DownlinkCounters::default(),
        })
    }

    pub fn counters(&self) -> DownlinkCounters {
        let jitter = self.jitter.counters();
        DownlinkCounters { concealed: jitter.concealed, late: jitter.late, ..self.counters }
    }

    /// How long sound is held for now.
    pub fn delay(&self) -> Duration {
        self.jitter.delay()
    }

    /// Takes the avatar's own streams; others of a room are left alone. Without this the first of each kind is taken.
    pub fn listen_to(&mut self, mid: Mid, kind: Kind) {
        let own = if kind == Kind::Sound { &mut self.sound } else { &mut self.video };
        if own.replace(mid) != Some(mid) {
            match kind {
                Kind::Sound => self.jitter.restart(),
                Kind::Video => self.whole = false,
            }
            self.clocks.restart(kind);
        }
    }

    /// The stream of sound.
    pub fn sound(&self) -> Option<Mid> {
        self.sound
    }

    /// The stream of pictures, to which key picture wishes go.
    pub fn video(&self) -> Option<Mid> {
        self.video
    }

    /// Nothing of a reply that was cut is heard any more: what waits is thrown away.
    pub fn flush(&mut self) {
        self.jitter.flush();
    }

    /// Whoever watches wants a key picture.
    pub fn want_key_picture(&mut self) {
        self.wished = true;
    }

    /// Takes what a peer told; gives pictures at once. Sound comes from [`Downlink::poll`].
    pub fn take(&mut self, now: Instant, event: PeerEvent) -> Option<AvatarEvent> {
        match event {
            PeerEvent::Sound(packet) => {
                if *self.sound.get_or_insert(packet.mid) == packet.mid {
                    self.take_sound(packet);
                }
                None
            }
            PeerEvent::Unit(packet) => {
                let is_own = *self.video.get_or_insert(packet.mid) == packet.mid;
                if is_own { self.take_unit(now, packet) } else { None }
            }
            PeerEvent::TrackGone { mid } => {
                if self.sound == Some(mid) {
                    self.sound = None;
                    self.jitter.restart();
                }
                if self.video == Some(mid) {
                    (self.video, self.whole, self.seen) = (None, false, None);
                }
                None
            }
            PeerEvent::Track(track) => {
                if track.kind == Kind::Video && self.video.is_none_or(|own| own == track.mid) {
                    self.seen.get_or_insert(now);
                }
                None
            }
            PeerEvent::Connected
            | PeerEvent::Disconnected
            | PeerEvent::Failed(_)
            | PeerEvent::Candidate(_)
            | PeerEvent::Gathered
            | PeerEvent::ChannelOpen { .. }
            | PeerEvent::ChannelClosed { .. }
            | PeerEvent::Data { .. }
            | PeerEvent::KeyWanted { .. }
            | PeerEvent::Closed => None,
        }
    }

    fn take_sound(&mut self, packet: SoundPacket) {
        self.counters.packets += 1;
        self.clocks.arrived(Kind::Sound, packet.at, packet.time, packet.report);
        self.jitter.push(packet.at, packet.time, packet.data);
    }

    fn take_unit(&mut self, now: Instant, packet: UnitPacket) -> Option<AvatarEvent> {
        self.clocks.arrived(Kind::Video, packet.at, packet.time, packet.report);
        (self.seen, self.stalled) = (Some(now), false);
        let unit = packet.unit;
        if unit.key {
            (self.whole, self.wished, self.asked) = (true, false, None);
        } else if unit.damaged {
            self.whole = false;
        }
        if !self.whole {
            self.counters.unshown += 1;
            return None;
        }
        self.counters.pictures += 1;
        let at = self.clocks.place(Kind::Video, packet.time);
        Some(AvatarEvent::Picture { at, picture: Picture::Coded(unit) })
    }

    /// Sound that is due, and a warning when pictures stay away. `None`: nothing until [`Downlink::wake_at`].
    pub fn poll(&mut self, now: Instant) -> Option<AvatarEvent> {
        if let Some(block) = self.jitter.poll(now) {
            self.clocks.slew(block.samples.len());
            let at = self.clocks.place(Kind::Sound, block.time);
            return Some(AvatarEvent::Sound { at, rate: sound::RATE, samples: block.samples });
        }
        let since = self.seen.filter(|_| !self.stalled)?;
        if now.saturating_duration_since(since) < NO_PICTURE {
            return None;
        }
        (self.stalled, self.wished) = (true, true);
        Some(AvatarEvent::Warning(format!("no picture for {} s", NO_PICTURE.as_secs())))
    }

    /// Whether the peer is to be asked for a key picture now; asking is counted, and bounded.
    pub fn takes_key_wish(&mut self, now: Instant) -> bool {
        let waits = self.wished || (self.seen.is_some() && self.video.is_some() && !self.whole);
        let may = self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= ASK_EVERY);
        let asks = waits && may && self.video.is_some();
        if asks {
            self.asked = Some(now);
            self.counters.key_wishes += 1;
        }
        asks
    }

    /// When [`Downlink::poll`] and [`Downlink::takes_key_wish`] are due.
    pub fn wake_at(&self) -> Option<Instant> {
        let watch = self.seen.filter(|_| !self.stalled).map(|seen| seen + NO_PICTURE);
        let waits = self.wished || !self.whole && self.seen.is_some();
        let ask = self.asked.filter(|_| waits && self.video.is_some()).map(|asked| asked + ASK_EVERY);
        [self.jitter.wake_at(), watch, ask].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
