//! Appliances, phones, the network between them, and the clock that jumps.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use eyeline::call::behaviour::mirror::Mirror;
use eyeline::call::behaviour::{Behaviour, Room};
use eyeline::call::end::EndReason;
use eyeline::call::negotiate::{KeyOffer, MediaSettings, SrtpPolicy};
use eyeline::call::{Ended, Tell};
use eyeline::engine::plan::{
    AudioCodec, CallId, Command, Direction, Event, Label, Look, Picture, Streams, Timeouts, VideoCodec,
    VideoOut,
};
use eyeline::media::frame::Size;
use eyeline::rtp::reach::Reach;
use eyeline::sip::locate::{Located, Place, locate};
use eyeline::sip::register::State;
use eyeline::sip::{self, Hop, NameAddr, Peer, Transport, Uri};
use eyeline::useragent::admission::Admission;
use eyeline::useragent::control::Agent;
use eyeline::useragent::dialling::Dialling;
use eyeline::useragent::routing::Route;
use eyeline::useragent::{Dial, Do, Settings, UserAgent, Way};

use crate::engine::Engine;
use crate::network::{Datagram, Network};
use crate::phone::Phone;

/// How long a world is let run before it has to be quiet.
const PATIENCE: Duration = Duration::from_secs(300);
/// More wake-ups than this are a machine that turns in place.
const STEPS_MAX: u64 = 5_000_000;

pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// One user agent with its engine, and what it said.
pub struct Appliance {
    pub agent: UserAgent,
    pub address: SocketAddr,
    pub engine: Engine,
    pub told: Vec<(CallId, Tell)>,
    pub ended: Vec<(CallId, Box<Ended>)>,
    pub registrations: Vec<(String, State)>,
}

impl Appliance {
    pub fn new(number: u8, settings: Settings, seed: u64) -> Self {
        let mut bytes = [number; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Appliance {
            agent: UserAgent::new(settings, bytes),
            address: SocketAddr::from(([192, 0, 2, number], 5060)),
            engine: Engine::new(),
            told: Vec::new(),
            ended: Vec::new(),
            registrations: Vec::new(),
        }
    }

    /// The only call.
    pub fn call(&self) -> CallId {
        let ids: Vec<CallId> = self.agent.calls().map(|call| call.id()).collect();
        assert_eq!(ids.len(), 1, "one call");
        ids[0]
    }

    /// Why the only call ended.
    pub fn end(&self) -> &EndReason {
        assert_eq!(self.ended.len(), 1, "one call ended");
        &self.ended[0].1.reason
    }

    pub fn streams(&self) -> &Streams {
        self.agent.calls().next().expect("a call").streams()
    }

    /// What the engine was last given.
    pub fn updated(&self) -> &Streams {
        let updates = self.engine.commands.iter().rev().find_map(|command| match command {
            Command::Update { streams, .. } => Some(streams),
            _ => None,
        });
        updates.expect("an update")
    }
}

pub struct World {
    pub now: Instant,
    pub network: Network,
    pub appliances: Vec<Appliance>,
    pub phones: Vec<Phone>,
    /// What was sent to addresses where nobody is.
    pub unclaimed: Vec<Vec<u8>>,
    /// Whoever asks where a URI leads hears nothing.
    pub dns_is_silent: bool,
    steps: u64,
}

impl World {
    /// One appliance as [`settings`] say, and a phone.
    pub fn new() -> Self {
        World::with(settings())
    }

    pub fn with(settings: Settings) -> Self {
        let mut world = World::of(vec![Appliance::new(1, settings, 1)], 1);
        world.add_phone();
        world
    }

    pub fn of(appliances: Vec<Appliance>, seed: u64) -> Self {
        World {
            now: Instant::now(),
            network: Network::new(seed),
            appliances,
            phones: Vec::new(),
            unclaimed: Vec::new(),
            dns_is_silent: false,
            steps: 0,
        }
    }

    pub fn add_phone(&mut self) -> usize {
        let number = self.phones.len();
        self.phones.push(Phone::new(number, self.appliances[0].address));
        number
    }

    pub fn appliance(&mut self) -> &mut Appliance {
        &mut self.appliances[0]
    }

    pub fn phone(&mut self) -> &mut Phone {
        &mut self.phones[0]
    }

    /// The first phone does something, and 100 ms pass.
    pub fn act(&mut self, act: impl FnOnce(&mut Phone)) {
        self.act_on(0, act);
    }

    pub fn act_on(&mut self, phone: usize, act: impl FnOnce(&mut Phone)) {
        act(&mut self.phones[phone]);
        self.run(ms(100));
    }

    /// The first appliance does something, and 100 ms pass.
    pub fn command<T>(&mut self, command: impl FnOnce(&mut UserAgent, Instant) -> T) -> T {
        let done = command(&mut self.appliances[0].agent, self.now);
        self.run(ms(100));
        done
    }

    /// The engine of the only call says something of its own, and 100 ms pass.
    pub fn engine_says(&mut self, event: impl FnOnce(CallId) -> Event) {
        let (now, appliance) = (self.now, &mut self.appliances[0]);
        let event = event(appliance.call());
        appliance.engine.says(now, event);
        self.run(ms(100));
    }

    /// The first phone calls and acknowledges the answer.
    pub fn establish(&mut self, user: &str, sdp: &str) {
        self.act(|phone| phone.invite(user, Some(sdp)));
        assert_eq!(self.phones[0].statuses(sip::Method::Invite), [180, 200]);
        self.act(|phone| phone.ack(None));
    }

    /// The first appliance calls the first phone.
    pub fn dial(&mut self, ring_timeout: Duration) -> CallId {
        let dial = dial(self.appliances[0].address, self.phones[0].address, ring_timeout);
        self.command(|agent, now| agent.dial(now, dial))
    }

    /// Lets time pass, wake-up by wake-up.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.carry();
        while let Some(at) = self.next().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.step();
        }
        self.now = end;
    }

    /// Whether nothing will ever happen by itself any more.
    fn next(&self) -> Option<Instant> {
        let of = |appliance: &Appliance| {
            [appliance.agent.wake_at(), appliance.engine.next()].into_iter().flatten().min()
        };
        let appliances = self.appliances.iter().filter_map(of).min();
        [appliances, self.network.next()].into_iter().flatten().min()
    }

    fn step(&mut self) {
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "a machine turns in place");
        let now = self.now;
        while let Some(datagram) = self.network.arrived(now) {
            self.deliver(&datagram);
        }
        for appliance in &mut self.appliances {
            while let Some(event) = appliance.engine.due(now) {
                appliance.agent.handle_engine(now, event);
            }
            appliance.agent.handle_time(now);
        }
        self.carry();
    }

    fn deliver(&mut self, datagram: &Datagram) {
        let now = self.now;
        if let Some(to) = self.appliances.iter_mut().find(|known| known.address == datagram.to) {
            let peer = Peer {
                transport: Transport::Udp,
                local: datagram.to,
                remote: datagram.from,
                connection: None,
            };
            to.agent.handle_datagram(now, peer, &datagram.bytes);
        } else if let Some(phone) = self.phones.iter_mut().find(|known| known.address == datagram.to) {
            phone.hears(now, &datagram.bytes);
        } else {
            self.unclaimed.push(datagram.bytes.clone());
        }
        self.carry();
    }

    /// Takes away what everybody wants to send.
    fn carry(&mut self) {
        let now = self.now;
        for appliance in &mut self.appliances {
            while let Some(wanted) = appliance.agent.poll() {
                match wanted {
                    Do::Send { peer, bytes } => {
                        let datagram = Datagram { from: appliance.address, to: peer.remote, bytes };
                        self.network.send(now, datagram);
                    }
                    Do::Connect { connection, .. } => appliance.agent.handle_closed(now, connection),
                    Do::Close(_) | Do::Guessed { .. } => {}
                    Do::Resolve { .. } if self.dns_is_silent => {}
                    // There is no DNS here: only addresses lead somewhere.
                    Do::Resolve { id, uri } => {
                        let found = match locate(&uri, &HashMap::new(), 1) {
                            Located::Places(places) => {
                                let hop =
                                    |place: &Place| Hop::to(place.transport, place.remote, appliance.address);
                                Ok(places.iter().map(hop).collect())
                            }
                            Located::Ask(_) | Located::Nowhere(_) => Err(format!("{} is unknown", uri.host)),
                        };
                        appliance.agent.handle_resolved(now, id, found);
                    }
                    Do::Engine(command) => appliance.engine.handle(now, command),
                    Do::Tell { call, tell, .. } => appliance.told.push((call, tell)),
                    Do::Ended { call, ended, .. } => appliance.ended.push((call, ended)),
                    Do::Registration { account, state } => appliance.registrations.push((account, state)),
                }
            }
        }
        for phone in &mut self.phones {
            for bytes in phone.outbox.drain(..) {
                let to = self.appliances[0].address;
                self.network.send(now, Datagram { from: phone.address, to, bytes });
            }
        }
    }

    /// Every call ended once with its engine, and nothing is left of any.
    pub fn end(&mut self) {
        self.run(PATIENCE);
        for appliance in &self.appliances {
            let agent = &appliance.agent;
            assert_eq!(agent.calls().map(|call| call.state_name()).collect::<Vec<_>>(), [] as [&str; 0]);
            assert_eq!(agent.sip_open(), (0, 0), "sessions and transactions");
            assert_eq!(agent.wake_at(), None, "a timer runs for nothing");
            let counters = agent.counters();
            assert_eq!(counters.ended, counters.incoming + counters.outgoing);
            assert_eq!(appliance.ended.len() as u64, counters.ended);
            let mut calls: Vec<CallId> = appliance.ended.iter().map(|(call, _)| *call).collect();
            calls.sort_unstable();
            calls.dedup();
            assert_eq!(calls.len(), appliance.ended.len(), "a call ended twice");
            appliance.engine.assert_balanced();
        }
    }
}

/// Routes: `100` mirrors with video, `audio` without; `ring` rings 5 s before, `look` looks meanwhile; `haus tor` shows that
/// names are decoded. Phones are trusted.
pub fn settings() -> Settings {
    let route = |to: &str, video: bool| Route {
        to: Some(to.to_owned()),
        from: None,
        sources: Vec::new(),
        headers: Vec::new(),
        agent: "mirror".to_owned(),
        behaviour: mirror(),
        room: room(),
        video,
        display_name: String::new(),
        ring: Duration::ZERO,
        early_media: false,
        slides: true,
    };
    Settings {
        sip: sip::Settings::default(),
        admission: Admission::new(vec!["10.0.0.0/8".parse().unwrap(), "192.0.2.0/24".parse().unwrap()]),
        routes: vec![
            route("100", true),
            route("audio", false),
            Route { ring: seconds(5), ..route("ring", true) },
            Route { ring: seconds(5), early_media: true, ..route("look", true) },
            route("haus tor", true),
        ],
        media: media(),
        name: "door".to_owned(),
        advertise: None,
        max_calls: 0,
        calls_per_second: 0,
        busy: 503,
        max_call: seconds(3600),
        ring_timeout: seconds(30),
        agents: vec![Agent {
            name: "mirror".to_owned(),
            behaviour: mirror(),
            room: room(),
            video: true,
            display_name: "Door \"1\"".to_owned(),
        }],
        trunks: vec![("pbx".to_owned(), Uri::parse("sip:10.0.0.2").unwrap())],
        accounts: Vec::new(),
        registrar: Default::default(),
        dial_max: seconds(3600),
        dialling: Dialling::new(vec!["sip:*@10.0.0.*".to_owned(), "sip:10.0.0.*".to_owned()]),
    }
}

fn media() -> MediaSettings {
    MediaSettings {
        audio_codecs: vec![AudioCodec::Pcma, AudioCodec::Pcmu],
        audio_direction: Direction::SendReceive,
        video: true,
        video_codecs: VideoCodec::ALL.to_vec(),
        vp8_encoder: true,
        video_direction: Direction::SendReceive,
        max_size: Size::new(1280, 720),
        fps: 15,
        max_kbps: 1000,
        slides: false,
        srtp: SrtpPolicy::Optional,
        key_offer: KeyOffer::Sdes,
        dtls_fingerprint: None,
        ice: false,
        browser: false,
    }
}

fn mirror() -> Behaviour {
    Behaviour::Mirror(Mirror { greeting: String::new(), echo: true })
}

fn room() -> Room {
    let max = Size::new(1280, 720);
    Room {
        watch: None,
        reach: Reach::default(),
        gate: None,
        look: Look {
            observers: Vec::new(),
            overlay: Default::default(),
            transforms: Vec::new(),
            resize: None,
        },
        video_out: VideoOut {
            picture: Picture::Mirror,
            max,
            fps: 15,
            kbps: 1000,
            encoder: "auto".to_owned(),
            showing: Default::default(),
        },
        recording: None,
        timeouts: Timeouts { start: seconds(10), flow: seconds(30), hold: seconds(300) },
    }
}

/// A call from one address to `100` at another.
pub fn dial(local: SocketAddr, destination: SocketAddr, ring_timeout: Duration) -> Dial {
    Dial {
        to: Uri::parse(&format!("sip:100@{destination}")).unwrap(),
        from: NameAddr::parse("<sip:door@example.com>").unwrap(),
        hops: vec![Hop::to(Transport::Udp, destination, local)],
        behaviour: mirror(),
        room: room(),
        media: media(),
        ring_timeout,
        headers: Vec::new(),
        label: Label::default(),
        way: Way::default(),
    }
}

/// The session of a phone: address lines and the given media lines.
fn session(version: u32, lines: &str) -> String {
    format!("v=0\r\no=phone 5 {version} IN IP4 10.0.0.1\r\ns=call\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\n{lines}")
}

const AUDIO: &str = "m=audio 4000 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n\
    a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n";
const VIDEO: &str = "m=video 4002 RTP/AVP 97\r\na=rtpmap:97 H264/90000\r\n\
    a=fmtp:97 profile-level-id=42e01f;packetization-mode=1\r\na=rtcp-fb:97 nack pli\r\n";

/// A phone with a camera.
pub fn audio_video() -> String {
    session(1, &format!("{AUDIO}{VIDEO}"))
}

pub fn audio_only() -> String {
    session(1, AUDIO)
}

/// [`audio_video`] with an attribute such as `sendonly` on both lines.
pub fn directed(attribute: &str) -> String {
    session(2, &format!("{AUDIO}a={attribute}\r\n{VIDEO}a={attribute}\r\n"))
}

/// Readable, and nothing in it can be taken.
pub fn unusable() -> String {
    session(2, "m=audio 4000 RTP/AVP 18\r\na=rtpmap:18 G729/8000\r\n")
}
