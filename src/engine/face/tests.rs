//! A call whose agent wears a face, over loopback: a scripted provider says what it is given a while later and opens its
//! mouth while it does; the peer measures when it hears and sees that.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::time::Interval;

use super::*;
use crate::avatar::{
    AvatarEvent, Cause, Farewell, Limits, Lost, MediaTime, Picture as Shown, Provider, Session, Terms, Turn,
};
use crate::base::queue::{self, Latest};
use crate::codec::still::encode::StillSettings;
use crate::engine::face::FaceSettings;
use crate::engine::face::task::{Face, FaceOrder, FaceParts};
use crate::engine::sight::SightSettings;
use crate::engine::talk::seeing::SeeingSettings;
use crate::engine::talk::{Agent, Mind, Pipeline, TalkOrder};
use crate::media::frame::{CleanFrame, Plane};
use crate::talk::conversation::{ConversationSettings, Told};
use crate::talk::hear::HearingSettings;
use crate::talk::link::{Http, LinkSettings, Models, Transcribers, Voices};
use crate::talk::message::{Detail, Endpoint, Vendor};

/// What the provider does.
#[derive(Clone)]
struct Script {
    ready_after: Duration,
    latency: Duration,
    /// Pictures come so many blocks after the sound they were made with.
    lag: u32,
    /// After so much of a turn was said: an end by an event, or none at all.
    dies: Option<(Duration, bool)>,
    refuses: Option<Cause>,
    /// Mouth closed, mouth open; each a key picture.
    mouths: [AccessUnit; 2],
}

#[derive(Default)]
struct Ledger {
    opened: usize,
    closed: Vec<Farewell>,
    keys: usize,
}

struct Scripted {
    script: Script,
    ledger: Arc<Mutex<Ledger>>,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl Provider for Scripted {
    fn open(&self, _terms: Terms) -> Box<dyn Session> {
        let mut ledger = self.ledger.lock().expect("whole");
        ledger.opened += 1;
        let mut script = self.script.clone();
        if ledger.opened > 1 {
            script.dies = None;
        }
        let mut events = VecDeque::new();
        if let Some(cause) = script.refuses {
            events.push_back(AvatarEvent::Lost(Lost { why: "scripted".to_owned(), cause }));
        }
        Box::new(ScriptedSession {
            limits: Limits::default(),
            beat: tokio::time::interval(BLOCK),
            ticks: 0,
            queue: VecDeque::new(),
            from: None,
            said: Duration::ZERO,
            late: VecDeque::new(),
            events,
            dead: script.refuses.is_some(),
            closing: false,
            script,
            ledger: self.ledger.clone(),
        })
    }

    fn reap<'a>(&'a self, _session: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async { true })
    }
}

struct ScriptedSession {
    limits: Limits,
    script: Script,
    ledger: Arc<Mutex<Ledger>>,
    beat: Interval,
    ticks: u32,
    queue: VecDeque<i16>,
    from: Option<u32>,
    said: Duration,
    late: VecDeque<(u32, AvatarEvent)>,
    events: VecDeque<AvatarEvent>,
    dead: bool,
    closing: bool,
}

impl ScriptedSession {
    fn tick(&mut self) {
        self.ticks += 1;
        let at = MediaTime(i64::from(self.ticks) * 20_000);
        if BLOCK * self.ticks == self.script.ready_after {
            self.events.push_back(AvatarEvent::Opened { session: "scripted-1".to_owned() });
            self.events.push_back(AvatarEvent::Ready);
        }
        if BLOCK * self.ticks < self.script.ready_after {
            return;
        }
        let due = self.from.is_some_and(|from| BLOCK * (self.ticks - from) >= self.script.latency);
        let speaks = due && !self.queue.is_empty();
        let mut samples = vec![0; 480];
        if speaks {
            samples.iter_mut().for_each(|sample| *sample = self.queue.pop_front().unwrap_or(0));
            self.said += BLOCK;
        } else if self.queue.is_empty() {
            self.from = None;
        }
        self.events.push_back(AvatarEvent::Sound { at, rate: 24_000, samples: samples.into() });
        if self.ticks.is_multiple_of(2) {
            let picture = Shown::Coded(self.script.mouths[usize::from(speaks)].clone());
            self.late.push_back((self.ticks + self.script.lag, AvatarEvent::Picture { at, picture }));
        }
        while self.late.front().is_some_and(|(due, _)| *due <= self.ticks) {
            self.events.extend(self.late.pop_front().map(|(_, event)| event));
        }
        if let Some((after, tells)) = self.script.dies
            && self.said >= after
        {
            self.dead = true;
            self.events.clear();
            if tells {
                let lost = Lost { why: "scripted".to_owned(), cause: Cause::Connection };
                self.events.push_back(AvatarEvent::Lost(lost));
            }
        }
    }
}

impl Session for ScriptedSession {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<AvatarEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            if std::mem::take(&mut self.closing) {
                return Poll::Ready(AvatarEvent::Closed { ended: true });
            }
            if self.dead {
                return Poll::Pending;
            }
            std::task::ready!(Pin::new(&mut self.beat).poll_tick(context));
            self.tick();
        }
    }

    fn speak(&mut self, _turn: Turn, samples: &[i16]) {
        self.from.get_or_insert(self.ticks);
        self.queue.extend(samples);
    }

    fn end(&mut self, _turn: Turn) {}

    fn interrupt(&mut self, _turn: Turn) {
        self.queue.clear();
        self.events.push_back(AvatarEvent::Hushed);
    }

    fn want_key_picture(&mut self) {
        self.ledger.lock().expect("whole").keys += 1;
    }

    fn close(&mut self, farewell: Farewell) {
        self.ledger.lock().expect("whole").closed.push(farewell);
        self.closing = true;
    }
}

/// A dark picture, or one with so much in it that it is told by its bytes.
fn mouth(open: bool, size: Size) -> AccessUnit {
    let settings = EncoderSettings {
        profile_level_id: Some([0x42, 0xe0, 0x1f]),
        ..EncoderSettings::new(size, 25, 2_000)
    };
    let mut encoder = super::open(EncoderKind::X264, &settings).expect("an encoder");
    let mut picture = FramePool::new(1).take_sized(size, Pts::ZERO).expect("room");
    let mut noise = 1_u32;
    for (at, luma) in picture.plane_mut(Plane::Y).iter_mut().enumerate() {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let inside = at % size.width < size.width / 8 && at / size.width < size.width / 8;
        *luma = if open && inside { (noise >> 24) as u8 } else { 40 };
    }
    let unit = encoder.encode(&CleanFrame::drawn_here(picture), true).expect("coded");
    unit.expect("a picture")
}

fn script(size: Size) -> Script {
    Script {
        ready_after: MS(400),
        latency: MS(240),
        lag: 3,
        dies: None,
        refuses: None,
        mouths: [mouth(false, size), mouth(true, size)],
    }
}

fn agent(face: FaceSettings) -> Agent {
    let http = Http::new();
    let links = LinkSettings::default();
    let options = serde_json::json!({ "letter_ms": 100, "tone_hz": 500 });
    let options = options.as_object().cloned().expect("a table");
    let voice = Endpoint { options, ..Endpoint::new("canned", Vendor::Mock) };
    let clock = Clock::new(Instant::now(), SystemTime::now());
    Agent {
        name: "test".to_owned(),
        conversation: ConversationSettings::default(),
        hearing: HearingSettings::new(8_000),
        seeing: SeeingSettings {
            mode: Default::default(),
            sight: SightSettings {
                watch: Default::default(),
                still: StillSettings::default(),
                detail: Detail::Low,
                clock,
                first_id: 1,
            },
            sees: false,
            blind: None,
            describing: None,
            aside: false,
            budget: Default::default(),
        },
        mind: Mind::Pipeline(Pipeline {
            models: Arc::new(Models::new(&http, Vec::new(), links)),
            transcribers: Arc::new(Transcribers::new(&http, Vec::new(), links)),
            voices: Arc::new(Voices::new(&http, vec![voice], links)),
        }),
        face: Some(Arc::new(face)),
        ears: None,
        decisions: None,
        tools: Arc::default(),
    }
}

struct Call {
    world: World,
    ledger: Arc<Mutex<Ledger>>,
}

/// What the peer noticed of something that was said.
#[derive(Debug)]
struct Noticed {
    /// From the words being wanted to the first sound, and how much of it there was.
    after: Duration,
    loud: Duration,
    /// The longest pause in it.
    hole: Duration,
    /// How much later the mouth opens than the sound begins, and closes than it ends, in milliseconds.
    opens: Option<i64>,
    closes: Option<i64>,
}

impl Call {
    fn begin(port: u16, script: Script, change: impl FnOnce(&mut FaceSettings)) -> Call {
        let mut world = World::new(port);
        world.talks = false;
        world.shows = false;
        let ledger: Arc<Mutex<Ledger>> = Arc::default();
        let provider = Arc::new(Scripted { script, ledger: ledger.clone() });
        let mut face = FaceSettings { retry_after: MS(200), ..FaceSettings::new("scripted", provider) };
        change(&mut face);
        let mut plan = world.plan(world.streams(true, true));
        plan.video_out.picture = Picture::Face { text: "test".to_owned(), size: Size::new(640, 360) };
        plan.voice.then = Then::Silence;
        plan.recording = None;
        plan.talk = Some(Arc::new(agent(face)));
        world.start_plan(plan);
        world.tell(Command::Answered { call: CALL });
        Call { world, ledger }
    }

    fn told(&self, kind: &str) -> Vec<&Told> {
        let told = self.world.happened.iter().filter_map(|event| match event {
            Event::Told { told, .. } if told.kind == kind => Some(told),
            _ => None,
        });
        told.collect()
    }

    /// Has letters said, each a tenth of a second, and lets `time` pass.
    fn say(&mut self, letters: usize, time: Duration) -> Noticed {
        let start = Instant::now();
        self.world.tell(Command::Talk { call: CALL, order: TalkOrder::Say("a".repeat(letters)) });
        self.world.run(time);
        self.noticed(start)
    }

    fn noticed(&self, start: Instant) -> Noticed {
        let loud: Vec<Instant> = self
            .world
            .heard
            .iter()
            .filter(|packet| {
                let mut samples = Vec::new();
                g711::decode(Law::Mu, &packet.payload, &mut samples);
                samples.iter().any(|sample| sample.unsigned_abs() > 2_000)
            })
            .map(|packet| packet.at)
            .collect();
        let (first, last) = (*loud.first().expect("it is heard"), *loud.last().expect("it is heard"));
        // Pictures by when they were complete, and whether the mouth is open.
        let mut mouths: Vec<(u32, Instant, usize)> = Vec::new();
        for packet in &self.world.seen {
            match mouths.last_mut().filter(|(timestamp, ..)| *timestamp == packet.timestamp) {
                Some((_, at, bytes)) => (*at, *bytes) = (packet.at, *bytes + packet.payload.len()),
                None => mouths.push((packet.timestamp, packet.at, packet.payload.len())),
            }
        }
        let is_open = |bytes: usize| bytes > 600;
        let since = |at: Instant, from: Instant| {
            let ahead = at.saturating_duration_since(from).as_millis() as i64;
            ahead - from.saturating_duration_since(at).as_millis() as i64
        };
        let opens = mouths.iter().find(|(.., bytes)| is_open(*bytes)).map(|(_, at, _)| since(*at, first));
        let closed = mouths.iter().rev().take_while(|(.., bytes)| !is_open(*bytes)).last();
        Noticed {
            after: first - start,
            loud: BLOCK * loud.len() as u32,
            hole: loud.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default(),
            opens,
            closes: closed.map(|(_, at, _)| since(*at, last + BLOCK)),
        }
    }

    /// Hangs up: the face's figures and the report.
    fn end(mut self) -> (Told, Report, Arc<Mutex<Ledger>>) {
        self.world.tell(Command::Stop { call: CALL });
        let ended = |world: &World| matches!(world.happened.last(), Some(Event::Stopped { .. }));
        self.world.run_until(MS(8_000), ended).expect("it stops");
        let figures = self.told("avatar.figures").first().map(|told| (*told).clone()).expect("figures");
        let Some(Event::Stopped { report, .. }) = self.world.happened.pop() else { panic!("no report") };
        (figures, *report, self.ledger)
    }
}

fn figure(told: &Told, name: &str) -> u64 {
    let found = told.data.iter().find(|(own, _)| *own == name);
    found.and_then(|(_, value)| value.as_u64()).unwrap_or_else(|| panic!("{name} in {told:?}"))
}

#[test]
fn a_face_that_fits_goes_through_as_it_came_in_step_with_its_sound() {
    let mut call = Call::begin(320, script(SIZE), |_| {});
    let first = call.world.run_until(MS(1_000), |world| world.seen.iter().any(Seen::is_slice));
    assert!(first.is_some_and(|first| first < MS(200)), "a picture after {first:?}");
    assert!(call.world.seen.iter().find(|packet| packet.is_slice()).is_some_and(Seen::is_key));
    call.world.run(MS(1_000));
    let before = call.world.gauges().encoded.value();
    for _ in 0..2 {
        let noticed = call.say(15, MS(3_000));
        assert!((MS(1_440)..=MS(1_560)).contains(&noticed.loud), "{noticed:?}");
        assert!(noticed.after < MS(600) && noticed.hole < MS(60), "{noticed:?}");
        for offset in [noticed.opens, noticed.closes] {
            assert!(offset.is_some_and(|offset| offset.abs() <= 45), "{noticed:?}");
        }
    }
    assert_eq!(call.world.gauges().encoded.value(), before, "nothing is encoded");
    assert_eq!(call.told("avatar.connected").len(), 1);
    let (figures, report, ledger) = call.end();
    assert!(figure(&figures, "passed_through") > 150, "{figures:?}");
    assert_eq!((figure(&figures, "decoded"), figure(&figures, "encoded")), (0, 0), "{figures:?}");
    assert_eq!((figure(&figures, "sessions"), figure(&figures, "turns")), (1, 2), "{figures:?}");
    assert_eq!(report.faults, Vec::<String>::new());
    assert_eq!(ledger.lock().expect("whole").closed, [Farewell::CallOver]);
}

#[test]
fn a_face_that_is_too_large_is_coded_anew_in_step_with_its_sound() {
    let mut call = Call::begin(340, script(Size::new(960, 540)), |_| {});
    call.world.run(MS(1_500));
    let noticed = call.say(15, MS(3_000));
    assert!((MS(1_440)..=MS(1_560)).contains(&noticed.loud), "{noticed:?}");
    assert!(noticed.opens.is_some_and(|offset| offset.abs() <= 45), "{noticed:?}");
    let (figures, _, _) = call.end();
    assert_eq!(figure(&figures, "passed_through"), 0, "{figures:?}");
    assert!(figure(&figures, "decoded") > 60 && figure(&figures, "encoded") > 30, "{figures:?}");
}

#[test]
fn a_face_that_is_lost_in_mid_sentence_leaves_the_voice_and_another_comes() {
    for (port, tells) in [(360, true), (380, false)] {
        let dies = Some((MS(1_000), tells));
        let mut call = Call::begin(port, Script { dies, ..script(SIZE) }, |_| {});
        call.world.run(MS(1_000));
        let noticed = call.say(30, MS(5_000));
        assert!(noticed.hole < MS(1_000), "{noticed:?}");
        assert!((MS(2_900)..=MS(3_120)).contains(&noticed.loud), "{noticed:?}");
        let (lost, connected) = (call.told("avatar.lost").len(), call.told("avatar.connected").len());
        assert_eq!((lost, connected), (1, 2), "told: {tells}");
        let noticed = call.say(10, MS(2_000));
        assert!(noticed.opens.is_some_and(|offset| offset.abs() <= 45), "{noticed:?}");
        let (_, _, ledger) = call.end();
        let ledger = ledger.lock().expect("whole");
        assert_eq!((ledger.opened, &ledger.closed[..]), (2, &[Farewell::Broken, Farewell::CallOver][..]));
    }
}

#[test]
fn a_face_that_does_not_come_leaves_the_agent_heard_and_a_refusal_is_not_asked_again() {
    let mut slow = Call::begin(400, Script { ready_after: MS(60_000), ..script(SIZE) }, |_| {});
    slow.world.run(MS(300));
    let noticed = slow.say(10, MS(1_500));
    assert!(noticed.after < MS(250) && noticed.loud >= MS(960), "{noticed:?}");
    assert!(pictures(&slow.world.seen) > 0, "a still");
    let (_, _, ledger) = slow.end();
    assert_eq!(ledger.lock().expect("whole").closed, [Farewell::CallOver]);

    for (cause, opened) in [(Cause::Refused, 1), (Cause::Connection, 3)] {
        let mut refused = Call::begin(400, Script { refuses: Some(cause), ..script(SIZE) }, |_| {});
        refused.world.run(MS(900));
        let noticed = refused.say(10, MS(1_500));
        assert!(noticed.after < MS(250) && noticed.loud >= MS(960), "{noticed:?}");
        assert_eq!(refused.told("avatar.lost").len(), opened);
        let (_, _, ledger) = refused.end();
        let ledger = ledger.lock().expect("whole");
        assert_eq!((ledger.opened, ledger.closed.len()), (opened, opened), "{cause:?}");
    }
}

#[tokio::test]
async fn a_call_that_ends_is_noticed_whatever_of_it_ends_first() {
    let ledger: Arc<Mutex<Ledger>> = Arc::default();
    let provider = Arc::new(Scripted { script: script(SIZE), ledger: ledger.clone() });
    let (give, orders) = queue::queue(Fifo { depth: 4 });
    let (wish, wishes) = queue::queue(Latest);
    let (events, _told) = queue::queue(Fifo { depth: 16 });
    let parts = FaceParts {
        call: CALL,
        epoch: Instant::now(),
        settings: Arc::new(FaceSettings::new("scripted", provider)),
        orders,
        wishes,
        events,
        figures: Arc::default(),
        desk: None,
    };
    let face = tokio::spawn(Face::new(parts).run());
    let terms =
        Terms { call: "c".into(), codecs: Vec::new(), most: SIZE, language: String::new(), again: false };
    give.offer(FaceOrder::Want(Some(terms)));
    drop(wish);
    tokio::time::sleep(MS(50)).await;
    drop(give);
    let outcome = tokio::time::timeout(MS(2_000), face).await.expect("it ends").expect("no panic");
    assert_eq!(outcome, crate::base::stop::Outcome::Done);
    assert_eq!(ledger.lock().expect("whole").closed, [Farewell::CallOver]);
}
