//! Driver: a room, as the socket and the peer connections of one participant that is not seen in it.
//!
//! Nothing runs by itself: [`RoomLink::poll_next`] connects, reads, writes and waits.
#![expect(clippy::disallowed_methods, reason = "Driver: the clock and the sockets of a room")]

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use tokio::time::Sleep;

use super::packet::{ByteStream, Inward, PacketCounters, Packets, RpcFailure};
use super::signal::{Act, Expected, Notice, Rejoins, Signal, SignalCounters, Target};
use crate::avatar::downlink::{Downlink, DownlinkCounters};
use crate::avatar::{AvatarEvent, Cause, Lost};
use crate::media::access_unit::VideoCodec;
use crate::remote::address;
use crate::remote::failure::Failure;
use crate::remote::websocket::{Frame, WebSocket, WebSocketSettings, system_tls};
use crate::webrtc::Mid;
use crate::webrtc::event::{ChannelId, Kind, PeerEvent};
use crate::webrtc::link::PeerLink;
use crate::webrtc::settings::{IceServer, PeerSettings, VideoWish, Way};

/// The version of the protocol whose messages are understood here; 17 would bring a single peer connection.
const PROTOCOL: u32 = 16;
/// A farewell gets so long.
const FAREWELL: Duration = Duration::from_secs(1);
/// Bytes that may lie in the data channel; the rest waits here, where it can still be cut.
const BUFFERED: usize = 48 << 10;
/// The subscriber must pass something so long after the server offered it.
const MEDIA_WITHIN: Duration = Duration::from_secs(15);
/// Events nobody took.
const EVENTS_MAX: usize = 256;

/// Which room is joined, and for whose sake.
#[derive(Clone)]
pub struct RoomTerms {
    /// `wss://…`, or what a vendor gives as `https://…`.
    pub url: String,
    /// Never logged.
    pub token: String,
    /// Whose sound and picture are wanted; empty: whoever publishes for us, or a picture.
    pub avatar: String,
    /// What is taken of pictures, most wanted first; empty: none.
    pub codecs: Vec<VideoCodec>,
    /// Something will be sent: the way up is opened at once.
    pub publishes: bool,
    pub rejoins: Rejoins,
    pub sockets: WebSocketSettings,
}

impl RoomTerms {
    pub fn new(url: &str, token: &str, avatar: &str) -> Self {
        RoomTerms {
            url: url.to_owned(),
            token: token.to_owned(),
            avatar: avatar.to_owned(),
            codecs: vec![VideoCodec::H264, VideoCodec::Vp8],
            publishes: false,
            rejoins: Rejoins::default(),
            sockets: WebSocketSettings::default(),
        }
    }
}

/// What happened in a room. After [`RoomEvent::Lost`] only [`RoomEvent::Closed`] follows, and nothing after that.
#[derive(Debug)]
pub enum RoomEvent {
    /// The room was entered, for the first time or again.
    Joined {
        room: String,
        identity: String,
    },
    /// The room is being entered again: nothing comes and nothing goes meanwhile.
    Rejoining {
        why: String,
    },
    /// Somebody is here, and publishes that.
    Here {
        identity: String,
        is_avatar: bool,
        sound: bool,
        video: bool,
    },
    Gone {
        identity: String,
        is_avatar: bool,
    },
    /// The way up is open: streams and calls go through.
    Publishing,
    /// [`AvatarEvent::Sound`], [`AvatarEvent::Picture`] and warnings, of the avatar only. Their clock goes on over
    /// rejoining.
    Media(AvatarEvent),
    /// The avatar's first picture came, at first or after a rejoining.
    Seen,
    /// A call, an answer, or data of other participants.
    Packet(Inward),
    Lost(Lost),
    Closed,
}

type Opening = Pin<Box<dyn Future<Output = Result<WebSocket, Failure>> + Send>>;

enum Line {
    None,
    Opening(Opening),
    Open(Box<WebSocket>),
}

/// The peer connections of one stay.
struct Peers {
    subscriber: PeerLink,
    publisher: Option<PeerLink>,
    reliable: Option<ChannelId>,
    /// The way up is open.
    open: bool,
    offered: Option<Instant>,
    seen: bool,
}

/// A room. Dropped: it is left without a word.
pub struct RoomLink {
    terms: RoomTerms,
    signal: Signal,
    packets: Packets,
    line: Line,
    peers: Option<Peers>,
    downlink: Option<Downlink>,
    events: VecDeque<RoomEvent>,
    timer: Pin<Box<Sleep>>,
    /// The farewell is over by then.
    leaving: Option<Instant>,
    over: bool,
    /// Events that were lost because nobody took them.
    lost: u64,
}

/// What a room noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomCounters {
    pub signal: SignalCounters,
    pub packets: PacketCounters,
    pub downlink: DownlinkCounters,
    pub untaken: u64,
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Where a room is joined; what the URL has of a path stays.
fn address_of(url: &str) -> Result<(String, String), Failure> {
    let root = address::root(url, "")?;
    let host = root.host_str().unwrap_or_default().to_owned();
    let mut url = address::with_scheme(address::below(&root, "", "rtc"), true);
    url.set_query(Some(&format!(
        "auto_subscribe=1&adaptive_stream=0&protocol={PROTOCOL}&client_protocol=0&sdk=unknown&os=linux&version={}",
        env!("CARGO_PKG_VERSION"),
    )));
    Ok((url.to_string(), host))
}

impl RoomLink {
    /// Begins to join as soon as it is polled. Fails only through events.
    pub fn open(terms: RoomTerms) -> Self {
        let now = Instant::now();
        let expected = Expected { identity: terms.avatar.clone() };
        RoomLink {
            signal: Signal::new(now, terms.token.clone(), expected, terms.rejoins),
            terms,
            packets: Packets::new(),
            line: Line::None,
            peers: None,
            downlink: Downlink::new(now).ok(),
            events: VecDeque::new(),
            timer: Box::pin(tokio::time::sleep_until(now.into())),
            leaving: None,
            over: false,
            lost: 0,
        }
    }

    pub fn counters(&self) -> RoomCounters {
        RoomCounters {
            signal: self.signal.counters(),
            packets: self.packets.counters(),
            downlink: self.downlink.as_ref().map(Downlink::counters).unwrap_or_default(),
            untaken: self.lost,
        }
    }

    /// Whether streams and calls go through now.
    pub fn is_publishing(&self) -> bool {
        self.peers.as_ref().is_some_and(|peers| peers.open)
    }

    /// The next coded picture should be a key picture.
    pub fn want_key_picture(&mut self) {
        if let Some(downlink) = &mut self.downlink {
            downlink.want_key_picture();
        }
    }

    /// What came and was not yet given is thrown away.
    pub fn flush(&mut self) {
        if let Some(downlink) = &mut self.downlink {
            downlink.flush();
        }
    }

    /// Opens a stream of bytes to a participant; [`RoomLink::write`] and [`RoomLink::close_stream`] follow.
    pub fn open_stream(&mut self, to: &str, topic: &str, attributes: &[(&str, String)]) -> ByteStream {
        self.packets.open_stream(to, topic, attributes, unix_ms(), rand::random())
    }

    pub fn write(&mut self, stream: &mut ByteStream, bytes: &[u8]) {
        self.packets.write(stream, bytes);
        self.send_packets();
    }

    pub fn close_stream(&mut self, stream: ByteStream) {
        self.packets.close_stream(stream);
        self.send_packets();
    }

    /// As [`RoomLink::close_stream`]; of what was written nothing more goes.
    pub fn cut_stream(&mut self, stream: ByteStream) {
        self.packets.cut(&stream);
        self.close_stream(stream);
    }

    /// Calls a procedure of a participant; [`Inward::Answer`] with this number follows.
    pub fn call(&mut self, to: &str, method: &str, payload: &str, within: Duration) -> u64 {
        let number = self.packets.call(Instant::now(), to, method, payload, within, rand::random());
        self.send_packets();
        number
    }

    /// Answers [`Inward::Call`].
    pub fn answer(&mut self, to: &str, id: &str, result: Result<String, RpcFailure>) {
        self.packets.answer(to, id, result);
        self.send_packets();
    }

    /// Leaves; [`RoomEvent::Closed`] follows within a second. Again: nothing.
    pub fn close(&mut self) {
        if self.leaving.is_none() {
            self.signal.leave();
            self.leaving = Some(Instant::now() + FAREWELL);
        }
    }

    /// What happens next. Cancel-safe; it also does the writing, so it is to be polled all the time.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<RoomEvent> {
        loop {
            if self.over {
                return Poll::Pending;
            }
            self.carry();
            if let Some(event) = self.events.pop_front() {
                self.over = matches!(event, RoomEvent::Closed);
                return Poll::Ready(event);
            }
            let mut more = self.poll_line(context);
            more |= self.poll_peers(context);
            let now = Instant::now();
            self.signal.handle_time(now, unix_ms());
            self.packets.handle_time(now);
            self.poll_downlink(now);
            self.watch(now);
            // What was begun is to be polled once, or nothing wakes it.
            more |= self.carry();
            if more || !self.events.is_empty() {
                continue;
            }
            let Some(wake) = self.wake_at() else { return Poll::Pending };
            self.timer.as_mut().reset(wake.into());
            if self.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// As [`RoomLink::poll_next`]; cancel-safe.
    pub async fn next(&mut self) -> RoomEvent {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn wake_at(&self) -> Option<Instant> {
        let media = self.peers.as_ref().and_then(|peers| peers.offered).map(|at| at + MEDIA_WITHIN);
        let downlink = self.downlink.as_ref().and_then(Downlink::wake_at);
        [self.signal.wake_at(), self.packets.wake_at(), downlink, media, self.leaving]
            .into_iter()
            .flatten()
            .min()
    }

    fn push(&mut self, event: RoomEvent) {
        if self.events.len() >= EVENTS_MAX {
            let media = self.events.iter().position(|event| matches!(event, RoomEvent::Media(_)));
            self.events.remove(media.unwrap_or(0));
            self.lost += 1;
        }
        self.events.push_back(event);
    }

    fn poll_line(&mut self, context: &mut Context<'_>) -> bool {
        let now = Instant::now();
        match &mut self.line {
            Line::None => false,
            Line::Opening(opening) => match opening.as_mut().poll(context) {
                Poll::Pending => false,
                Poll::Ready(Ok(socket)) => {
                    self.line = Line::Open(Box::new(socket));
                    self.signal.handle_open(now);
                    true
                }
                Poll::Ready(Err(failure)) => {
                    self.line = Line::None;
                    self.signal.handle_ended(now, &failure);
                    true
                }
            },
            Line::Open(socket) => match socket.poll_next(context) {
                Poll::Pending => false,
                Poll::Ready(Ok(Frame::Binary(bytes))) => {
                    self.signal.handle_frame(now, &bytes);
                    true
                }
                Poll::Ready(Ok(Frame::Text(_))) => true,
                Poll::Ready(Err(ended)) => {
                    self.line = Line::None;
                    self.signal.handle_ended(now, &ended.failure());
                    if self.leaving.is_some() {
                        self.leaving = Some(now);
                    }
                    true
                }
            },
        }
    }

    /// Does what the machine wants, and tells what it noticed. Whether there was something to do.
    fn carry(&mut self) -> bool {
        let mut acted = false;
        while let Some(act) = self.signal.poll_act() {
            self.act(act);
            acted = true;
        }
        while let Some(notice) = self.signal.poll_notice() {
            let event = match notice {
                Notice::Joined { room, identity } => RoomEvent::Joined { room, identity },
                Notice::Rejoining { why } => {
                    self.drop_peers();
                    self.line = Line::None;
                    RoomEvent::Rejoining { why }
                }
                Notice::Here { identity, is_avatar, sound, video } => {
                    RoomEvent::Here { identity, is_avatar, sound, video }
                }
                Notice::Gone { identity, is_avatar } => RoomEvent::Gone { identity, is_avatar },
                Notice::Warning(why) => RoomEvent::Media(AvatarEvent::Warning(why)),
                Notice::Lost(lost) => {
                    self.leaving.get_or_insert(Instant::now() + FAREWELL);
                    RoomEvent::Lost(lost)
                }
            };
            self.push(event);
        }
        while let Some(inward) = self.packets.poll_inward() {
            self.push(RoomEvent::Packet(inward));
        }
        acted
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Connect => self.connect(),
            Act::NewPeers { servers } => self.new_peers(servers),
            Act::Send(bytes) => {
                if let Line::Open(socket) = &mut self.line {
                    // A server that takes nothing any more is told of by its next frame.
                    socket.send(Frame::Binary(bytes.into()));
                }
            }
            Act::Offered { sdp, id } => {
                let Some(peers) = &mut self.peers else { return };
                // Once something passes, a further offer is no reason to wait for it again.
                if !peers.subscriber.is_connected() {
                    peers.offered.get_or_insert(Instant::now());
                }
                match peers.subscriber.take_offer(&sdp) {
                    Ok(answer) => self.signal.answer(answer, id),
                    Err(error) => self.signal.handle_peer_failed(Instant::now(), &error.to_string()),
                }
            }
            Act::Answered { sdp } => {
                let publisher = self.peers.as_mut().and_then(|peers| peers.publisher.as_mut());
                if let Some(Err(error)) = publisher.map(|publisher| publisher.take_answer(&sdp)) {
                    self.signal.handle_peer_failed(Instant::now(), &error.to_string());
                }
            }
            Act::Candidate { target, candidate } => {
                let Some(peers) = &mut self.peers else { return };
                match target {
                    Target::Subscriber => peers.subscriber.add_remote_candidate(&candidate),
                    Target::Publisher => {
                        if let Some(publisher) = &mut peers.publisher {
                            publisher.add_remote_candidate(&candidate);
                        }
                    }
                }
            }
            Act::Listen { sound, video } => self.listen(sound.as_deref(), video.as_deref()),
            Act::HangUp => {
                if let Line::Open(socket) = &mut self.line {
                    socket.close();
                } else {
                    self.line = Line::None;
                    self.leaving = Some(Instant::now());
                }
            }
        }
    }

    fn connect(&mut self) {
        let (place, token, sockets) =
            (address_of(&self.terms.url), self.signal.token().to_owned(), self.terms.sockets.clone());
        self.line = Line::Opening(Box::pin(async move {
            let bearer = format!("Bearer {token}");
            WebSocket::connect(&place?.0, &[("authorization", &bearer)], &sockets).await
        }));
    }

    fn new_peers(&mut self, servers: Vec<IceServer>) {
        self.drop_peers();
        self.packets.restart();
        let toward = address_of(&self.terms.url).map(|(_, host)| host).unwrap_or_default();
        let over_tls = servers.iter().flat_map(|server| &server.urls).any(|url| url.starts_with("turns:"));
        let tls = if over_tls { system_tls().ok() } else { None };
        let settings = PeerSettings { toward, ice_servers: servers, tls, ..PeerSettings::default() };
        let video = VideoWish { way: Way::Receive, codecs: self.terms.codecs.clone() };
        let subscriber = PeerLink::new(PeerSettings { video, sound: Way::Receive, ..settings.clone() });
        let mut peers =
            Peers { subscriber, publisher: None, reliable: None, open: false, offered: None, seen: false };
        if self.terms.publishes {
            let mut publisher = PeerLink::new(settings);
            peers.reliable = publisher.open_channel("_reliable", true, None);
            let _ = publisher.open_channel("_lossy", false, Some(0));
            if let Some(offer) = publisher.create_offer() {
                self.signal.offer(offer);
            }
            peers.publisher = Some(publisher);
        }
        self.peers = Some(peers);
    }

    /// What comes next comes over other peer connections, whose m-lines may have the same names.
    fn drop_peers(&mut self) {
        self.peers = None;
        if let Some(downlink) = &mut self.downlink {
            for mid in [downlink.sound(), downlink.video()].into_iter().flatten() {
                downlink.take(Instant::now(), PeerEvent::TrackGone { mid });
            }
        }
    }

    fn listen(&mut self, sound: Option<&str>, video: Option<&str>) {
        let Some(downlink) = &mut self.downlink else { return };
        if let Some(mid) = sound {
            downlink.listen_to(Mid::from(mid), Kind::Sound);
        }
        if let Some(mid) = video {
            downlink.listen_to(Mid::from(mid), Kind::Video);
            downlink.want_key_picture();
        }
    }

    fn poll_peers(&mut self, context: &mut Context<'_>) -> bool {
        let Some(peers) = &mut self.peers else { return false };
        let mut told = Vec::new();
        if let Poll::Ready(event) = peers.subscriber.poll_next(context) {
            told.push((Target::Subscriber, event));
        }
        if let Some(publisher) = &mut peers.publisher
            && let Poll::Ready(event) = publisher.poll_next(context)
        {
            told.push((Target::Publisher, event));
        }
        let more = !told.is_empty();
        for (target, event) in told {
            self.peer_told(target, event);
        }
        self.send_packets();
        more
    }

    fn peer_told(&mut self, target: Target, event: PeerEvent) {
        let now = Instant::now();
        let Some(peers) = &mut self.peers else { return };
        match event {
            PeerEvent::Candidate(local) => {
                self.signal.candidate(target, &local.candidate, &local.mid, local.index);
            }
            PeerEvent::Connected => {
                if target == Target::Subscriber {
                    peers.offered = None;
                }
            }
            PeerEvent::Failed(why) => self.signal.handle_peer_failed(now, &why),
            PeerEvent::Closed => self.signal.handle_peer_failed(now, "the server closed it"),
            PeerEvent::Data { data, .. } => self.packets.handle(&data),
            PeerEvent::ChannelOpen { id, .. }
                if Some(id) == peers.reliable && target == Target::Publisher =>
            {
                peers.open = true;
                self.push(RoomEvent::Publishing);
            }
            // Only the avatar's own m-lines are listened to: which they are says the offer.
            PeerEvent::Sound(_) | PeerEvent::Unit(_) | PeerEvent::TrackGone { .. } | PeerEvent::Track(_) => {
                self.take_media(now, event);
            }
            PeerEvent::Disconnected
            | PeerEvent::Gathered
            | PeerEvent::ChannelOpen { .. }
            | PeerEvent::ChannelClosed { .. }
            | PeerEvent::KeyWanted { .. } => {}
        }
    }

    fn take_media(&mut self, now: Instant, event: PeerEvent) {
        let Some(downlink) = &mut self.downlink else { return };
        let known = match &event {
            PeerEvent::Sound(packet) => downlink.sound() == Some(packet.mid),
            PeerEvent::Unit(packet) => downlink.video() == Some(packet.mid),
            _ => true,
        };
        let Some(told) = known.then(|| downlink.take(now, event)).flatten() else { return };
        let first = self.peers.as_mut().is_some_and(|peers| !std::mem::replace(&mut peers.seen, true));
        if first {
            self.push(RoomEvent::Seen);
        }
        self.push(RoomEvent::Media(told));
    }

    fn poll_downlink(&mut self, now: Instant) {
        let Some(downlink) = &mut self.downlink else { return };
        let mut due = Vec::new();
        while let Some(event) = downlink.poll(now) {
            due.push(event);
        }
        if downlink.takes_key_wish(now)
            && let Some((mid, peers)) = downlink.video().zip(self.peers.as_mut())
        {
            peers.subscriber.want_key_picture(mid);
        }
        for event in due {
            self.push(RoomEvent::Media(event));
        }
    }

    fn send_packets(&mut self) {
        let Some(peers) = &mut self.peers else { return };
        let Some((publisher, id)) = peers.publisher.as_mut().zip(peers.reliable).filter(|_| peers.open)
        else {
            return;
        };
        while self.packets.has_outward() && publisher.buffered(id) < BUFFERED {
            let Some(bytes) = self.packets.poll_outward() else { return };
            publisher.send(id, &bytes, false);
        }
    }

    /// What takes too long.
    fn watch(&mut self, now: Instant) {
        if let Some(peers) = &mut self.peers
            && peers.offered.is_some_and(|at| now >= at + MEDIA_WITHIN)
        {
            peers.offered = None;
            self.signal.handle_peer_failed(now, "nothing passes");
        }
        if self.downlink.is_none() && self.leaving.is_none() {
            self.push(RoomEvent::Lost(Lost::new(Cause::Refused, "no decoder of sound")));
            self.close();
        }
        if self.leaving.is_some_and(|until| now >= until) {
            (self.line, self.peers, self.leaving) = (Line::None, None, None);
            self.push(RoomEvent::Closed);
        }
    }
}
