//! Our own protocol for servers on the local network: sound both ways, coded pictures, one clock, interruption.
//!
//! Pure. Described in `docs/AVATAR_WEBSOCKET.md`; `examples/avatar_server.py` is a server.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::WebSocketSettings;
use super::machine::{Act, Beginning, Machine};
use super::wire::{
    Coding, Greeting, Media, Order, Told, VERSION, hello, order, read_media, read_picture, read_text,
    write_sound,
};
use crate::avatar::uplink::{Up, Uplink};
use crate::avatar::{AvatarEvent, Cause, Farewell, Limits, Lost, MediaTime, Picture, Terms, Turn};
use crate::base::time::Pts;
use crate::codec::rgb;
use crate::media::access_unit::AccessUnit;
use crate::media::frame::{RawFrame, Size};
use crate::media::pool::FramePool;
use crate::remote::websocket::{Bytes, Frame};

/// Plain pictures alive at a time.
const POOL: usize = 40;
const LARGEST: Size = Size::new(1920, 1080);
/// Of a coded picture.
const CODED_MOST: usize = 1 << 20;
/// Sound in one message.
const SOUND_MOST: Duration = Duration::from_secs(2);
/// Pictures that stay away so long are worth a word to the operator.
const BLIND: Duration = Duration::from_secs(3);
const KEY_EVERY: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Our greeting is not answered.
    Greeting,
    /// The session exists and takes no sound.
    Opened,
    Ready,
}

/// See the module.
pub struct Timed {
    terms: Terms,
    settings: WebSocketSettings,
    limits: Limits,
    uplink: Uplink,
    codings: Vec<Coding>,
    stage: Stage,
    /// Of what comes down.
    rate: u32,
    coding: Option<Coding>,
    turn: Turn,
    /// Samples of the turn that went up.
    risen: u64,
    /// Turns up to this one are not to be heard.
    cut: Turn,
    speaking: Option<Turn>,
    /// When the last picture came; `None`: said already that none comes.
    seen: Option<Instant>,
    key_asked: Option<Instant>,
    now: Instant,
    pool: FramePool,
    acts: VecDeque<Act>,
    odd: u64,
}

impl Timed {
    pub fn new(now: Instant, terms: Terms, settings: WebSocketSettings) -> Self {
        let limits = Limits {
            rate: settings.rate,
            first_piece: Duration::from_millis(40),
            next_piece: Duration::from_millis(100),
            largest_piece: 2 * settings.rate as usize,
            flush_after: Duration::from_millis(60),
            longest: settings.longest,
            ready_within: settings.ready_within,
            ..Limits::default()
        };
        Timed {
            codings: Coding::wanted(&terms.codecs),
            terms,
            settings,
            uplink: Uplink::new(&limits),
            limits,
            stage: Stage::Greeting,
            rate: 0,
            coding: None,
            turn: 0,
            risen: 0,
            cut: 0,
            speaking: None,
            seen: None,
            key_asked: None,
            now,
            pool: FramePool::new(POOL),
            acts: VecDeque::new(),
            odd: 0,
        }
    }

    fn tell(&mut self, event: AvatarEvent) {
        self.acts.push_back(Act::Tell(event));
    }

    fn order(&mut self, said: Order) {
        self.acts.push_back(Act::Send(Frame::Text(order(said))));
    }

    fn lose(&mut self, cause: Cause, why: String) {
        self.tell(AvatarEvent::Lost(Lost::new(cause, why)));
    }

    /// What cannot be used is counted; the operator is told of the first.
    fn odd(&mut self, what: &str) {
        self.odd += 1;
        if self.odd == 1 {
            self.tell(AvatarEvent::Warning(format!("the avatar's server sent {what}")));
        }
    }

    fn take(&mut self, up: Up) {
        match up {
            Up::Piece { turn, samples } => {
                if turn != self.turn {
                    (self.turn, self.risen) = (turn, 0);
                }
                let at = MediaTime((self.risen * 1_000_000 / u64::from(self.limits.rate)) as i64);
                self.risen += samples.len() as u64;
                self.acts.push_back(Act::Send(Frame::Binary(write_sound(turn, at, &samples))));
            }
            Up::End { turn } => self.order(Order::End(turn)),
        }
    }

    fn told(&mut self, now: Instant, told: Told) {
        match (&self.stage, told) {
            (Stage::Greeting, Told::Hello { version, session, rate, coding }) => {
                self.greeted(now, version, session, rate, coding);
            }
            (_, Told::Refused { reason, text }) => self.refused(&reason, &text),
            (_, Told::Bye(reason)) => self.lose(Cause::Over, format!("its server says goodbye: {reason}")),
            (_, Told::Warning(text)) => self.tell(AvatarEvent::Warning(text)),
            (Stage::Opened, Told::Ready) => {
                self.stage = Stage::Ready;
                self.seen = self.coding.map(|_| now);
                self.tell(AvatarEvent::Ready);
            }
            (_, Told::Limit { left }) => self.acts.push_back(Act::Left(left)),
            (Stage::Ready, Told::Speaking(turn)) => {
                if turn > self.cut {
                    self.speaking = Some(turn);
                    self.tell(AvatarEvent::Speaking { turn });
                }
            }
            (Stage::Ready, Told::Ended { turn, interrupted }) => {
                if self.speaking.take_if(|speaking| *speaking == turn).is_some() {
                    self.tell(AvatarEvent::Ended { turn, interrupted });
                }
            }
            (Stage::Ready, Told::Interrupted(_)) => self.tell(AvatarEvent::Hushed),
            (
                Stage::Greeting | Stage::Opened | Stage::Ready,
                Told::Hello { .. }
                | Told::Ready
                | Told::Speaking(_)
                | Told::Ended { .. }
                | Told::Interrupted(_),
            ) => self.odd("words out of order"),
        }
    }

    fn greeted(&mut self, now: Instant, version: u64, session: String, rate: u32, coding: Option<Coding>) {
        if version != VERSION {
            let why = format!("its server speaks version {version}, this box {VERSION}");
            return self.lose(Cause::Refused, why);
        }
        if !(8_000..=48_000).contains(&rate) {
            return self.lose(Cause::Refused, format!("its server gives sound of {rate} Hz"));
        }
        if !self.codings.is_empty() && coding.is_none_or(|coding| !self.codings.contains(&coding)) {
            return self.lose(Cause::Refused, "its server has no pictures the caller takes".to_owned());
        }
        (self.rate, self.coding, self.stage, self.seen) = (rate, coding, Stage::Opened, None);
        self.now = now;
        self.tell(AvatarEvent::Opened { session });
    }

    fn refused(&mut self, reason: &str, text: &str) {
        let cause = match reason {
            "busy" => Cause::Busy,
            "over" => Cause::Over,
            _ => Cause::Refused,
        };
        self.lose(cause, format!("its server refuses: {reason}: {text}"));
    }

    fn media(&mut self, now: Instant, message: &Bytes) {
        if self.stage == Stage::Greeting {
            return self.odd("sound or pictures before its greeting");
        }
        match read_media(message) {
            Err(odd) => self.odd(&odd.to_string()),
            // Of a turn that was cut: some are on their way.
            Ok(Media::Sound { turn, .. }) if turn != 0 && turn <= self.cut => {}
            Ok(Media::Sound { at, samples, .. }) => {
                if samples.len() as u128 > SOUND_MOST.as_millis() * u128::from(self.rate) / 1_000 {
                    return self.odd("too much sound at once");
                }
                self.tell(AvatarEvent::Sound { at, rate: self.rate, samples: samples.into() });
            }
            Ok(Media::Picture { at, key, data, turn }) => {
                self.seen = Some(now);
                match self.coding {
                    None => self.odd("a picture nobody wants"),
                    // A coded picture that is left out spoils those after it.
                    Some(Coding::Video(codec)) if data.len() <= CODED_MOST => {
                        let unit = AccessUnit { codec, data, pts: Pts::ZERO, key, damaged: false };
                        self.tell(AvatarEvent::Picture { at, picture: Picture::Coded(unit) });
                    }
                    Some(Coding::Video(_)) => self.odd("a coded picture that is too large"),
                    Some(Coding::Rgb) if turn != 0 && turn <= self.cut => {}
                    Some(Coding::Rgb) => self.plain(at, &data),
                }
            }
        }
    }

    fn plain(&mut self, at: MediaTime, data: &Bytes) {
        let read = read_picture(data);
        let fits = |size: &Size| size.width * size.height <= LARGEST.width * LARGEST.height;
        let picture = read
            .filter(|(size, _)| fits(size))
            .and_then(|(size, pixels)| rgb::picture(&pixels, size, &self.pool, Pts::ZERO));
        match picture {
            Some(picture) => {
                let picture = Picture::Plain(RawFrame::new(picture.freeze()));
                self.tell(AvatarEvent::Picture { at, picture });
            }
            None => self.odd("a picture that is none, or for which there is no room"),
        }
    }
}

impl Machine for Timed {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn handle_open(&mut self, now: Instant, _beginning: Beginning) {
        self.now = now;
        let said = hello(&Greeting {
            terms: &self.terms,
            avatar: &self.settings.avatar_id,
            size: self.settings.size_within(self.terms.most),
            fps: self.settings.fps,
            rate: self.limits.rate,
            codings: &self.codings,
        });
        self.acts.push_back(Act::Send(Frame::Text(said)));
    }

    fn handle_frame(&mut self, now: Instant, frame: Frame) {
        self.now = now;
        match frame {
            Frame::Binary(message) => self.media(now, &message),
            Frame::Text(text) => match read_text(&text) {
                Ok(told) => self.told(now, told),
                Err(odd) => self.odd(&odd.to_string()),
            },
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let blind = self.seen.map(|seen| seen + BLIND);
        [blind, self.uplink.wake_at()].into_iter().flatten().min()
    }

    fn handle_time(&mut self, now: Instant) {
        self.now = now;
        let mut ups = Vec::new();
        self.uplink.handle_time(now, |up| ups.push(up));
        ups.into_iter().for_each(|up| self.take(up));
        if self.seen.take_if(|seen| *seen + BLIND <= now).is_some() {
            self.tell(AvatarEvent::Warning("the avatar's server sends no pictures".to_owned()));
        }
    }

    fn speak(&mut self, now: Instant, turn: Turn, samples: &[i16]) {
        if self.stage != Stage::Ready {
            return;
        }
        let mut ups = Vec::new();
        self.uplink.speak(now, turn, samples, |up| ups.push(up));
        ups.into_iter().for_each(|up| self.take(up));
    }

    fn end(&mut self, turn: Turn) {
        let mut ups = Vec::new();
        self.uplink.end(turn, |up| ups.push(up));
        ups.into_iter().for_each(|up| self.take(up));
    }

    fn interrupt(&mut self, turn: Turn) {
        if turn <= self.cut || self.stage != Stage::Ready {
            return;
        }
        self.cut = turn;
        self.uplink.cut(turn);
        self.order(Order::Interrupt(turn));
        if let Some(turn) = self.speaking.take_if(|speaking| *speaking <= turn) {
            self.tell(AvatarEvent::Ended { turn, interrupted: true });
        }
    }

    fn listening(&mut self, listening: bool) {
        if self.stage == Stage::Ready {
            self.order(Order::Listening(listening));
        }
    }

    fn want_key_picture(&mut self) {
        let coded = matches!(self.coding, Some(Coding::Video(_)));
        let lately = self.key_asked.is_some_and(|asked| self.now < asked + KEY_EVERY);
        if coded && !lately {
            self.key_asked = Some(self.now);
            self.order(Order::Key);
        }
    }

    fn leave(&mut self, farewell: Farewell) {
        self.order(Order::Bye(match farewell {
            Farewell::CallOver => "call over",
            Farewell::Idle => "idle",
            Farewell::Limit => "limit",
            Farewell::Broken => "broken",
        }));
    }

    fn next_act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::access_unit::VideoCodec;

    struct World {
        timed: Timed,
        now: Instant,
        said: Vec<String>,
        sounds: Vec<Bytes>,
        seen: Vec<AvatarEvent>,
        left: Option<Duration>,
    }

    impl World {
        fn new(codecs: &[VideoCodec]) -> World {
            let terms = Terms {
                call: "c1".to_owned(),
                codecs: codecs.to_vec(),
                most: Size::new(640, 480),
                language: "de".to_owned(),
                again: false,
            };
            let now = Instant::now();
            let timed = Timed::new(now, terms, WebSocketSettings::default());
            let mut world = World { timed, now, said: vec![], sounds: vec![], seen: vec![], left: None };
            world.timed.handle_open(now, Beginning::default());
            world.acts();
            world
        }

        fn ready() -> World {
            let mut world = World::new(&[VideoCodec::H264]);
            world.text(r#"{"type":"hello","version":1,"session":"s1","rate":16000,"picture":"h264"}"#);
            world.text(r#"{"type":"ready"}"#);
            (world.said, world.seen) = (vec![], vec![]);
            world
        }

        fn acts(&mut self) {
            while let Some(act) = self.timed.next_act() {
                match act {
                    Act::Send(Frame::Text(text)) => self.said.push(text.to_string()),
                    Act::Send(Frame::Binary(sound)) => self.sounds.push(sound),
                    Act::Tell(event) => self.seen.push(event),
                    Act::Left(left) => self.left = Some(left),
                }
            }
        }

        fn text(&mut self, text: &str) {
            self.timed.handle_frame(self.now, Frame::Text(text.into()));
            self.acts();
        }

        fn media(&mut self, kind: u8, turn: Turn, at: i64, data: &[u8]) {
            let head = [&[kind, 1, 0, 0][..], &turn.to_be_bytes(), &at.to_be_bytes()].concat();
            self.timed.handle_frame(self.now, Frame::Binary([&head, data].concat().into()));
            self.acts();
        }

        fn lost(&self) -> Option<Cause> {
            self.seen.iter().find_map(|event| match event {
                AvatarEvent::Lost(lost) => Some(lost.cause),
                _ => None,
            })
        }
    }

    #[test]
    fn a_session_is_greeted_and_sound_goes_up_once_it_is_ready() {
        let mut world = World::new(&[VideoCodec::H264, VideoCodec::Vp8]);
        let hello: serde_json::Value = serde_json::from_str(&world.said[0]).expect("JSON");
        assert_eq!(hello["versions"], serde_json::json!([1]));
        assert_eq!(hello["pictures"], serde_json::json!(["h264", "vp8", "rgb"]));
        assert_eq!((&hello["width"], &hello["height"]), (&480.into(), &480.into()));
        world.timed.speak(world.now, 1, &[1; 16_000]);
        world.text(r#"{"type":"hello","version":1,"session":"s1","rate":24000,"picture":"vp8"}"#);
        world.timed.speak(world.now, 1, &[1; 16_000]);
        world.text(r#"{"type":"ready"}"#);
        assert!(
            matches!(&world.seen[..], [AvatarEvent::Opened { session }, AvatarEvent::Ready] if session == "s1")
        );
        assert!(world.sounds.is_empty());
        world.timed.speak(world.now, 2, &[1; 4_000]);
        world.timed.end(2);
        world.acts();
        // 40 ms, then 100 ms, then what is left.
        let lengths: Vec<usize> = world.sounds.iter().map(|sound| (sound.len() - 16) / 32).collect();
        assert_eq!(lengths, [40, 100, 100, 10]);
        assert_eq!(world.sounds[1][4..16], [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0x9c, 0x40], "turn 2 at 40 ms");
        assert_eq!(world.said[1], r#"{"turn":2,"type":"end"}"#);
    }

    #[test]
    fn another_version_no_room_and_pictures_nobody_can_see_are_refusals() {
        for (answer, cause) in [
            (r#"{"type":"hello","version":2,"session":"s","rate":16000,"picture":"h264"}"#, Cause::Refused),
            (r#"{"type":"hello","version":1,"session":"s","rate":16000,"picture":"vp8"}"#, Cause::Refused),
            (r#"{"type":"hello","version":1,"session":"s","rate":96000,"picture":"h264"}"#, Cause::Refused),
            (r#"{"type":"refused","reason":"version","text":"2 only"}"#, Cause::Refused),
            (r#"{"type":"refused","reason":"busy","text":"one at a time"}"#, Cause::Busy),
            (r#"{"type":"bye","reason":"shutting down"}"#, Cause::Over),
        ] {
            let mut world = World::new(&[VideoCodec::H264]);
            world.text(answer);
            assert_eq!(world.lost(), Some(cause), "{answer}");
        }
        let mut world = World::new(&[]);
        world.text(r#"{"type":"hello","version":1,"session":"s","rate":16000}"#);
        assert_eq!(world.lost(), None, "a caller that sees nothing needs no pictures");
    }

    #[test]
    fn what_comes_down_keeps_its_time_and_a_cut_turn_is_not_heard() {
        let mut world = World::ready();
        world.media(1, 1, 5_000, &[1, 0, 2, 0]);
        world.media(2, 1, 6_000, &[0, 0, 0, 1, 0x65]);
        assert!(matches!(&world.seen[0], AvatarEvent::Sound { at: MediaTime(5_000), rate: 16_000, samples }
            if samples[..] == [1, 2]));
        assert!(
            matches!(&world.seen[1], AvatarEvent::Picture { at: MediaTime(6_000), picture: Picture::Coded(unit) }
            if unit.key && unit.data.len() == 5)
        );
        world.text(r#"{"type":"speaking","turn":1}"#);
        world.timed.interrupt(1);
        world.timed.interrupt(1);
        world.acts();
        assert_eq!(world.said, [r#"{"turn":1,"type":"interrupt"}"#]);
        assert!(matches!(world.seen.last(), Some(AvatarEvent::Ended { turn: 1, interrupted: true })));
        world.seen.clear();
        world.media(1, 1, 7_000, &[1, 0]);
        world.text(r#"{"type":"speaking","turn":1}"#);
        world.text(r#"{"type":"ended","turn":1}"#);
        assert!(world.seen.is_empty(), "{:?}", world.seen);
        world.media(2, 1, 8_000, &[0, 0, 0, 1, 0x41]);
        world.media(1, 0, 8_000, &[0, 0]);
        world.media(1, 2, 9_000, &[3, 0]);
        world.text(r#"{"type":"interrupted","turn":1}"#);
        assert_eq!(world.seen.len(), 4, "coded pictures go on, silence and the next turn are heard");
        assert!(matches!(world.seen[3], AvatarEvent::Hushed));
    }

    #[test]
    fn key_pictures_are_asked_for_now_and_then() {
        let mut world = World::ready();
        for _ in 0..4 {
            world.timed.want_key_picture();
            world.now += Duration::from_millis(200);
            world.timed.handle_time(world.now);
        }
        world.timed.listening(true);
        world.timed.leave(Farewell::Idle);
        world.acts();
        let wanted = [
            r#"{"type":"key"}"#,
            r#"{"type":"key"}"#,
            r#"{"on":true,"type":"listening"}"#,
            r#"{"reason":"idle","type":"bye"}"#,
        ];
        assert_eq!(world.said, wanted);
    }

    #[test]
    fn nonsense_is_told_once_and_blindness_once() {
        let mut world = World::ready();
        world.media(1, 1, 0, &[1]);
        world.media(1, 1, 0, &[0; 96_000]);
        world.media(7, 1, 0, &[]);
        world.text("no");
        world.text(r#"{"type":"hello","version":1,"session":"again","rate":16000,"picture":"h264"}"#);
        assert_eq!((world.seen.len(), world.timed.odd), (1, 5));
        world.text(r#"{"type":"limit","left_s":20}"#);
        assert_eq!(world.left, Some(Duration::from_secs(20)));
        assert_eq!(world.timed.wake_at(), Some(world.now + BLIND));
        world.timed.handle_time(world.now + BLIND);
        world.timed.handle_time(world.now + 2 * BLIND);
        world.acts();
        assert_eq!(world.seen.len(), 2);
        assert!(matches!(&world.seen[1], AvatarEvent::Warning(why) if why.contains("no pictures")));
    }
}
