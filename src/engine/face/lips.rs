//! When the face's pictures leave: beside the sound they were made with, which leads.
//!
//! Pure but for one atomic. The beat publishes what it puts out ([`LipClock`]); the thread of pictures follows it
//! ([`Lips`]); the face's task holds the first sound of a turn back until the pictures that go with it are here
//! ([`Pace`]). Times are microseconds of the call.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::avatar::MediaTime;
use crate::base::time::Pts;

/// Sound that was put out so long ago is not being put out any more: three beats.
const SOUNDING_US: i64 = 60_000;
/// Between turns, pictures leave so much later than they or sound usually come, as the first sound of a turn does: its
/// cushion and half a beat. Lips that are ahead by more open before there is a voice.
const MARGIN_US: i64 = CUSHION_US + 10_000;
/// A single one counts for one in so many of what is usual.
const USUAL: i64 = 8;
/// By so much an idle face's clock moves at each picture.
const SLEW_US: i64 = 8_000;
/// It is set anew when it is off by more.
const JUMP_US: i64 = 300_000;
/// Sound waits so long for sound that comes late.
const CUSHION_US: i64 = 20_000;
/// Pictures come late by less than this, or are not waited for.
const LATEST_US: i64 = 400_000;
/// What made pictures late is forgotten by so much at each picture, and what made sound early at each piece of it.
const FORGET_LATE_US: i64 = 4_000;
const FORGET_EARLY_US: i64 = 500;

/// What the beat last put out: when that was made, and when it left. One word in memory, good for 49 days.
#[derive(Debug, Default)]
pub struct LipClock(AtomicU64);

impl LipClock {
    pub fn publish(&self, made: MediaTime, left: Pts) {
        let [made, left] = [made.0 / 1_000, left.millis()].map(|ms| u64::from(ms.max(0) as u32));
        // The lowest bit of what left tells zero from nothing: beats do not leave in the first millisecond.
        self.0.store(made << 32 | left.max(1), Ordering::Release);
    }

    /// `None`: nothing was put out yet.
    pub fn read(&self) -> Option<(MediaTime, Pts)> {
        let word = self.0.load(Ordering::Acquire);
        let (made, left) = ((word >> 32) as i64 * 1_000, (word as u32).into());
        (word != 0).then(|| (MediaTime(made), Pts::from_millis(left)))
    }
}

/// Follows the sound.
#[derive(Debug, Default)]
pub struct Lips {
    last: Option<(MediaTime, Pts)>,
    /// What leaves now was made so long ago; `None`: nothing came yet.
    offset: Option<i64>,
    /// How late pictures usually come.
    usual: i64,
    sounding: bool,
}

impl Lips {
    /// Another session: nothing is known of it.
    pub fn reset(&mut self) {
        *self = Lips { last: self.last, ..Lips::default() };
    }

    /// What the beat put out last.
    pub fn follow(&mut self, now: Pts, put_out: Option<(MediaTime, Pts)>) {
        let Some((made, left)) = put_out else { return };
        self.sounding = micros(now) - micros(left) <= SOUNDING_US;
        if self.last != put_out {
            self.last = put_out;
            if self.sounding {
                self.offset = Some(micros(left) - made.0);
            }
        }
    }

    /// A picture has come; sound takes so long, in microseconds ([`Pace::sound`]).
    pub fn arrived(&mut self, now: Pts, made: MediaTime, sound: Option<i64>) {
        let late = micros(now) - made.0;
        // Sound is held as long as its arrival is uneven, pictures are not.
        let behind = |usual: i64| usual.max(sound.unwrap_or(usual)) + MARGIN_US;
        let Some(offset) = &mut self.offset else {
            (self.offset, self.usual) = (Some(behind(late)), late);
            return;
        };
        let off = late - self.usual;
        self.usual += if off.abs() > JUMP_US { off } else { off / USUAL };
        if self.sounding {
            return;
        }
        let off = behind(self.usual) - *offset;
        *offset += if off.abs() > JUMP_US { off } else { off.clamp(-SLEW_US, SLEW_US) };
    }

    /// Whether sound that pictures go with is being put out.
    pub fn is_sounding(&self) -> bool {
        self.sounding
    }

    /// When a picture made then is to leave.
    pub fn due(&self, made: MediaTime) -> Pts {
        Pts::from_nanos((made.0 + self.offset.unwrap_or(0)) * 1_000)
    }
}

fn micros(pts: Pts) -> i64 {
    pts.nanos() / 1_000
}

/// How long the first sound of a turn is held back.
#[derive(Debug, Default)]
pub struct Pace {
    /// How long the quickest sound and the slowest pictures took from being made until they came.
    sound: Option<i64>,
    picture: Option<i64>,
}

impl Pace {
    /// How long the quickest sound took from being made until it came, in microseconds.
    pub fn sound(&self) -> Option<i64> {
        self.sound
    }

    pub fn heard(&mut self, now: Pts, made: MediaTime) {
        let took = micros(now) - made.0;
        self.sound = Some(self.sound.map_or(took, |least| took.min(least + FORGET_EARLY_US)));
    }

    pub fn saw(&mut self, now: Pts, made: MediaTime) {
        let took = micros(now) - made.0;
        self.picture = Some(self.picture.map_or(took, |most| took.max(most - FORGET_LATE_US)));
    }

    /// How much later than the quickest sound the slowest pictures come.
    pub fn lag(&self) -> Duration {
        let lag = self.picture.zip(self.sound).map_or(0, |(picture, sound)| picture - sound);
        Duration::from_micros(lag.clamp(0, LATEST_US) as u64)
    }

    /// When sound made then may be put out, `now` or later, but for `most`.
    pub fn release(&self, now: Pts, made: MediaTime, most: Duration) -> Duration {
        let Some(sound) = self.sound else { return Duration::ZERO };
        let due = made.0 + sound + self.lag().as_micros() as i64 + CUSHION_US;
        let wait = Duration::from_micros((due - micros(now)).max(0) as u64);
        wait.min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: i64) -> Pts {
        Pts::from_millis(ms)
    }

    fn made(ms: i64) -> MediaTime {
        MediaTime(ms * 1_000)
    }

    #[test]
    fn what_the_beat_put_out_is_read_as_it_was_written() {
        let clock = LipClock::default();
        assert_eq!(clock.read(), None);
        clock.publish(made(61_234), ms(4_000_000));
        assert_eq!(clock.read(), Some((made(61_234), ms(4_000_000))));
    }

    #[test]
    fn pictures_leave_with_their_sound_and_wait_while_it_is_held() {
        let mut lips = Lips::default();
        lips.arrived(ms(1_000), made(200), None);
        assert_eq!(lips.due(made(200)), ms(1_030));
        // Sound made at 240 leaves at 1100.
        lips.follow(ms(1_105), Some((made(240), ms(1_100))));
        assert_eq!(lips.due(made(300)), ms(1_160));
        // Held: the same sound, later and later.
        for beat in 1..=10 {
            let now = 1_100 + 20 * beat;
            lips.follow(ms(now), Some((made(240), ms(now))));
        }
        assert_eq!(lips.due(made(300)), ms(1_360));
        // Said to its end: the face goes on at that pace.
        lips.follow(ms(1_500), Some((made(240), ms(1_300))));
        assert_eq!(lips.due(made(400)), ms(1_460));
    }

    #[test]
    fn an_idle_face_waits_for_the_sound_that_will_be_held() {
        let mut lips = Lips::default();
        // A picture takes 5 ms, sound 60.
        for n in 0..100 {
            let now = 1_000 + 40 * n;
            lips.arrived(ms(now), made(now - 5), Some(60_000));
        }
        assert_eq!(lips.due(made(5_000)), ms(5_090));
    }

    #[test]
    fn an_idle_face_comes_back_to_its_own_delay_by_and_by() {
        let mut lips = Lips::default();
        lips.follow(ms(1_000), Some((made(0), ms(1_000))));
        lips.arrived(ms(1_000), made(900), None);
        let mut now = 1_000;
        let mut steps = Vec::new();
        for n in 0..400 {
            now = 1_000 + 40 * n;
            lips.follow(ms(now), Some((made(0), ms(1_000))));
            let before = lips.due(made(0));
            lips.arrived(ms(now), made(now - 100), Some(90_000));
            steps.push((lips.due(made(0)).nanos() - before.nanos()) / 1_000_000);
        }
        // To the millisecond: what is usual is rounded.
        let off = lips.due(made(now - 100)).nanos().abs_diff(ms(now + 30).nanos());
        assert!(off < 1_000_000, "{off} ns");
        // At once what is off by a second, the rest in small steps.
        assert!(steps.iter().filter(|step| step.abs() > 8).count() <= 1, "{steps:?}");
    }

    #[test]
    fn sound_waits_for_pictures_that_come_later_but_not_for_ever() {
        let mut pace = Pace::default();
        let longest = Duration::from_secs(1);
        assert_eq!(pace.release(ms(100), made(0), longest), Duration::ZERO);
        for n in 0..50 {
            pace.heard(ms(100 + 20 * n + n % 3), made(20 * n));
            pace.saw(ms(180 + 20 * n), made(20 * n));
        }
        let wait = pace.release(ms(1_100), made(1_000), longest);
        assert!((Duration::from_millis(95)..=Duration::from_millis(105)).contains(&wait), "{wait:?}");
        assert_eq!(pace.release(ms(1_300), made(1_000), longest), Duration::ZERO);
        assert_eq!(
            pace.release(ms(1_100), made(1_000), Duration::from_millis(30)),
            Duration::from_millis(30)
        );
    }
}
