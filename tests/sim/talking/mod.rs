//! Sessions with realtime models against their emulators: minutes and half hours of talk with pictures.
//!
//! ```text
//! caller (blocks of 20 ms, pictures) ─▶ machine ─Act─▶ line (20 ms each way, 150 ms to open) ─▶ emulator's core
//! ```

mod gemini;
mod openai;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use eyeline::media::frame::Size;
use eyeline::talk::message::{Detail, Failure, Image, ImageType};
use eyeline::talk::realtime::{Act, LinkId, RealtimeEvent, RealtimeMachine, SoundFormat};

use crate::emulators::socket::{Asked, Core, Out, Refusal};
use crate::world::ms;

/// One way.
const LINE_DELAY: Duration = ms_const(20);
const TO_OPEN: Duration = ms_const(150);
/// How long a hung line is believed; the driver's pings decide it there.
const SILENT: Duration = ms_const(10_000);

const fn ms_const(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

type Accept = Box<dyn Fn(Instant, Asked) -> Result<Box<dyn Core>, Refusal>>;

enum Flight {
    Opened,
    Refused(Failure),
    ToServer(Vec<u8>),
    ToClient(Vec<u8>),
    Ended(Failure),
    Gone,
}

/// What the caller does: speaks or is silent.
#[derive(Clone, Copy, PartialEq)]
enum Voice {
    Speech,
    Silence,
}

struct Talk {
    start: Instant,
    now: Instant,
    machine: Box<dyn RealtimeMachine>,
    accept: Accept,
    cores: BTreeMap<LinkId, Box<dyn Core>>,
    flights: VecDeque<(Instant, LinkId, Flight)>,
    events: Vec<(Instant, RealtimeEvent)>,
    next_block: Instant,
    block: u64,
    next_picture: Option<Instant>,
    pictures: u64,
    voice: Voice,
    /// Connections cannot be made at all.
    down: bool,
}

impl Talk {
    fn new(now: Instant, machine: Box<dyn RealtimeMachine>, accept: Accept) -> Talk {
        Talk {
            start: now,
            now,
            machine,
            accept,
            cores: BTreeMap::new(),
            flights: VecDeque::new(),
            events: Vec::new(),
            next_block: now,
            block: 0,
            next_picture: None,
            pictures: 0,
            voice: Voice::Silence,
            down: false,
        }
    }

    fn fly(&mut self, delay: Duration, link: LinkId, flight: Flight) {
        let at = self.now + delay;
        let place = self.flights.iter().position(|(due, _, _)| *due > at).unwrap_or(self.flights.len());
        self.flights.insert(place, (at, link, flight));
    }

    fn pump(&mut self) {
        loop {
            let mut moved = false;
            while let Some(act) = self.machine.poll_act() {
                moved = true;
                match act {
                    Act::Open { link } => self.open(link),
                    Act::Send { link, text } => {
                        self.fly(LINE_DELAY, link, Flight::ToServer(text.into_bytes()))
                    }
                    Act::Close { link } => self.fly(LINE_DELAY, link, Flight::Gone),
                }
            }
            let links: Vec<LinkId> = self.cores.keys().copied().collect();
            for link in links {
                while let Some(out) = self.cores.get_mut(&link).and_then(|core| core.poll(self.now)) {
                    moved = true;
                    self.out(link, out);
                }
            }
            while let Some(event) = self.machine.poll_event() {
                moved = true;
                self.events.push((self.now, event));
            }
            if !moved {
                return;
            }
        }
    }

    fn open(&mut self, link: LinkId) {
        if self.down {
            self.fly(TO_OPEN, link, Flight::Refused(Failure::Unreached("no way".to_owned())));
            return;
        }
        let address = self.machine.address();
        let path = address.url.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
        let asked = Asked {
            path: path.map_or(String::from("/"), |(_, path)| format!("/{path}")),
            headers: address
                .headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        };
        match (self.accept)(self.now + TO_OPEN, asked) {
            Ok(core) => {
                self.fly(TO_OPEN, link, Flight::Opened);
                self.cores.insert(link, core);
            }
            Err(Refusal(429, wait, _)) => {
                let retry_after_ms = wait.map(|seconds| u64::from(seconds) * 1000);
                self.fly(TO_OPEN, link, Flight::Refused(Failure::Busy { retry_after_ms }));
            }
            Err(Refusal(status @ 500.., _, text)) => {
                self.fly(TO_OPEN, link, Flight::Refused(Failure::Failed { status, text }));
            }
            Err(Refusal(status, _, text)) => {
                self.fly(TO_OPEN, link, Flight::Refused(Failure::Refused { status, text }));
            }
        }
    }

    fn out(&mut self, link: LinkId, out: Out) {
        // What is said before the handshake is over arrives with its end.
        let delay = if self.flights.iter().any(|(_, own, f)| *own == link && matches!(f, Flight::Opened)) {
            TO_OPEN
        } else {
            LINE_DELAY
        };
        match out {
            Out::Text(text) => self.fly(delay, link, Flight::ToClient(text.into_bytes())),
            Out::Binary(bytes) => self.fly(delay, link, Flight::ToClient(bytes)),
            Out::Close(code, reason) => {
                let ended = eyeline::talk::link::websocket::Ended::Closed { code, reason };
                self.fly(delay, link, Flight::Ended(ended.failure()));
            }
            Out::Cut => self.fly(delay, link, Flight::Ended(Failure::Cut)),
            Out::Hang => self.fly(SILENT, link, Flight::Ended(Failure::TooSlow(10_000))),
        }
    }

    fn land(&mut self, link: LinkId, flight: Flight) {
        match flight {
            Flight::Opened => self.machine.handle_opened(self.now, link),
            Flight::Refused(failure) => self.machine.handle_ended(self.now, link, failure),
            Flight::ToServer(bytes) => {
                if let Some(core) = self.cores.get_mut(&link) {
                    core.handle(self.now, &bytes, false);
                }
            }
            Flight::ToClient(bytes) => self.machine.handle_frame(self.now, link, &bytes),
            Flight::Ended(failure) => {
                self.cores.remove(&link);
                self.machine.handle_ended(self.now, link, failure);
            }
            Flight::Gone => {
                self.cores.remove(&link);
            }
        }
    }

    /// Everything up to `until`, in order.
    fn run_until(&mut self, until: Instant) {
        loop {
            self.pump();
            let cores = self.cores.values().filter_map(|core| core.wake_at());
            let flight = self.flights.front().map(|(at, _, _)| *at);
            let next = cores
                .chain(flight)
                .chain(self.machine.wake_at())
                .chain([self.next_block])
                .chain(self.next_picture)
                .min()
                .unwrap_or(until);
            if next > until {
                self.now = until;
                return;
            }
            let stuck = next <= self.now;
            self.now = next.max(self.now);
            while self.flights.front().is_some_and(|(at, _, _)| *at <= self.now) {
                let Some((_, link, flight)) = self.flights.pop_front() else { break };
                self.land(link, flight);
            }
            self.machine.handle_time(self.now);
            if self.now >= self.next_block {
                self.next_block += ms(20);
                self.speak_block();
            } else if stuck && flight.is_none() {
                self.now += ms(1);
            }
            if self.next_picture.is_some_and(|at| self.now >= at) {
                self.next_picture = Some(self.now + ms(1_000));
                self.pictures += 1;
                let image = picture(self.pictures, self.now);
                self.machine.push_image(self.now, image);
            }
        }
    }

    fn run(&mut self, milliseconds: u64) {
        self.run_until(self.now + ms(milliseconds));
    }

    /// 20 ms of the caller's voice; samples carry the block's number.
    fn speak_block(&mut self) {
        self.block += 1;
        let speaks = self.voice == Voice::Speech;
        let bytes = match self.machine.sound_in() {
            SoundFormat::Law(_) if speaks => {
                (0..160).map(|n| if n / 8 % 2 == 0 { 0x9f } else { 0x1f }).collect()
            }
            SoundFormat::Law(law) => vec![law.silence(); 160],
            SoundFormat::Samples { rate } => {
                let count = rate as usize / 50;
                let level = if speaks { 5_000_i16 } else { 0 };
                let mut samples: Vec<i16> =
                    (0..count).map(|n| if n / 16 % 2 == 0 { level } else { -level }).collect();
                samples[0] = 99;
                samples[1] = (self.block / 10_000) as i16;
                samples[2] = (self.block % 10_000) as i16;
                samples.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<u8>>()
            }
        };
        self.machine.handle_sound(self.now, &bytes);
    }

    fn say_for(&mut self, milliseconds: u64) {
        self.voice = Voice::Speech;
        self.machine.caller_speaks(self.now, true);
        self.run(milliseconds);
        self.voice = Voice::Silence;
        self.machine.caller_speaks(self.now, false);
    }

    fn count(&self, wanted: impl Fn(&RealtimeEvent) -> bool) -> usize {
        self.events.iter().filter(|(_, event)| wanted(event)).count()
    }

    /// Milliseconds of sound told since `from`.
    fn sound_ms(&self, from: usize) -> u128 {
        let sounds = self.events[from..].iter().filter_map(|(_, event)| match event {
            RealtimeEvent::Sound { sound, .. } => Some(sound.duration().as_millis()),
            _ => None,
        });
        sounds.sum()
    }
}

fn picture(id: u64, taken: Instant) -> Arc<Image> {
    let mut bytes = b"\xff\xd8\xff\xe0picture".to_vec();
    bytes.extend(id.to_be_bytes());
    let size = Size { width: 640, height: 360 };
    let mut image = Image::given(id, ImageType::Jpeg, bytes, size, "");
    image.detail = Detail::Low;
    image.taken = Some(taken);
    Arc::new(image)
}
