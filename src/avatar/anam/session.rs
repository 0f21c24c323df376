//! Driver. A session with Anam: carries its machine over HTTP, a WebSocket and a peer connection.
//!
//! Nothing runs by itself: [`AnamSession::poll_next`] asks, connects, reads, writes and waits.

#![expect(clippy::disallowed_methods, reason = "Driver: the machine's time is read here")]

use std::collections::VecDeque;
use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use tokio::time::Sleep;

use super::machine::{Act, Figures, Machine};
use super::microphone::Microphone;
use super::rest::{self, Admission};
use super::signal::{self, Candidate};
use super::{AnamSettings, Mode};
use crate::avatar::downlink::Downlink;
use crate::avatar::{AvatarEvent, Farewell, Limits, Provider, Session, Terms, Turn};
use crate::base::time::Clock;
use crate::media::access_unit::VideoCodec;
use crate::remote::address::is_encrypted;
use crate::remote::failure::Failure;
use crate::remote::http::{self, Http};
use crate::remote::websocket::{Frame, WebSocket, WebSocketSettings, system_tls};
use crate::webrtc::event::{ChannelId, PeerEvent};
use crate::webrtc::link::PeerLink;
use crate::webrtc::settings::{PeerSettings, VideoWish, Way};

/// One try to get a session, milliseconds.
const ASK_LIMIT_MS: u64 = 10_000;
/// The offer waits so long for our own addresses; what is found later trickles.
const GATHER: Duration = Duration::from_millis(400);
/// Bytes given to the socket and not written; what is over waits where an interruption finds it.
const IN_FLIGHT: usize = 64 << 10;
/// Of a message that may come.
const LARGEST_MESSAGE: usize = 1 << 20;
/// Each step of ending a session that an earlier run left.
const REAP_LIMIT: Duration = Duration::from_secs(4);

/// Anam, as one `[avatar.NAME]` describes it.
#[derive(Clone)]
pub struct Anam {
    settings: AnamSettings,
    http: Http,
}

impl fmt::Debug for Anam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Anam({:?})", self.settings)
    }
}

impl Anam {
    pub fn new(http: &Http, settings: AnamSettings) -> Self {
        Anam { settings, http: http.clone() }
    }
}

impl Provider for Anam {
    fn open(&self, terms: Terms) -> Box<dyn Session> {
        Box::new(AnamSession::open(&self.http, self.settings.clone(), terms))
    }

    /// The vendor has no call that ends a session. Its signalling socket takes whoever knows the session's id, as after a
    /// lost connection, and there it is said.
    fn reap<'a>(&'a self, session: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            // What is no handle names no session.
            let Some(admission) = Admission::of_handle(session) else { return true };
            let settings = WebSocketSettings { connect_within: REAP_LIMIT, ..sockets() };
            let mut socket = match WebSocket::connect(&admission.url(), &[], &settings).await {
                Ok(socket) => socket,
                Err(failure) => return !failure.is_passing(),
            };
            socket.send(Frame::Text(signal::end(&admission.session).into()));
            socket.close();
            let ended = async { while socket.next().await.is_ok() {} };
            tokio::time::timeout(REAP_LIMIT, ended).await.is_ok()
        })
    }
}

fn sockets() -> WebSocketSettings {
    WebSocketSettings { largest_message: LARGEST_MESSAGE, ..WebSocketSettings::default() }
}

enum Socket {
    Absent,
    Opening(BoxFuture<'static, Result<WebSocket, Failure>>),
    Open(Box<WebSocket>),
}

/// One peer connection.
struct Peer {
    link: PeerLink,
    channel: Option<ChannelId>,
    /// The offer is made then at the latest.
    offer_by: Option<Instant>,
}

/// A session. Dropped before it is closed, its peer connection breaks, which the engine notices within seconds.
pub struct AnamSession {
    machine: Machine,
    settings: AnamSettings,
    terms: Terms,
    http: Http,
    begun: Instant,
    asking: Option<BoxFuture<'static, Result<Admission, Failure>>>,
    socket: Socket,
    peer: Option<Peer>,
    downlink: Option<Downlink>,
    microphone: Option<Microphone>,
    /// What came down, behind what it means for turns.
    media: VecDeque<AvatarEvent>,
    timer: Pin<Box<Sleep>>,
    waker: Option<Waker>,
}

impl AnamSession {
    /// Begins to ask for a session. Needs a runtime around it.
    pub fn open(http: &Http, settings: AnamSettings, terms: Terms) -> Self {
        let now = Instant::now();
        let clock = Clock::new(now, SystemTime::now());
        AnamSession {
            machine: Machine::new(now, clock, settings.clone(), &terms),
            settings,
            terms,
            http: http.clone(),
            begun: now,
            asking: None,
            socket: Socket::Absent,
            peer: None,
            downlink: None,
            microphone: None,
            media: VecDeque::new(),
            timer: Box::pin(tokio::time::sleep_until(now.into())),
            waker: None,
        }
    }

    pub fn figures(&self) -> Figures {
        self.machine.figures()
    }

    /// Does what the machine wants, and gives the socket what it takes.
    fn carry(&mut self) {
        loop {
            if let Socket::Open(socket) = &mut self.socket {
                while socket.waiting_bytes() < IN_FLIGHT
                    && let Some(text) = self.machine.poll_text(Instant::now())
                {
                    // A peer that takes nothing any more is told of by its next frame.
                    socket.send(Frame::Text(text.into()));
                }
            }
            match self.machine.poll_act() {
                Some(act) => self.act(act),
                None => break,
            }
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Ask => self.asking = Some(self.ask()),
            Act::Connect => {
                if let Some(url) = self.machine.admission().map(Admission::url) {
                    let opening = async move { WebSocket::connect(&url, &[], &sockets()).await };
                    self.socket = Socket::Opening(Box::pin(opening));
                }
            }
            Act::Disconnect => match &mut self.socket {
                Socket::Open(socket) => socket.close(),
                Socket::Absent | Socket::Opening(_) => self.socket = Socket::Absent,
            },
            Act::Offer { codecs } => self.offer(codecs),
            Act::Restart => {
                if let Some(peer) = &mut self.peer {
                    peer.link.restart_ice();
                    peer.offer_by = Some(Instant::now());
                }
            }
            Act::Answer(sdp) => {
                let taken = self.peer.as_mut().map(|peer| peer.link.take_answer(&sdp));
                if let Some(Err(error)) = taken {
                    self.machine.handle_unusable(Instant::now(), &error.to_string());
                }
            }
            Act::Candidate(candidate) => {
                if let Some(peer) = &mut self.peer {
                    peer.link.add_remote_candidate(&candidate.candidate);
                }
            }
            Act::Data(text) => {
                if let Some(peer) = &mut self.peer
                    && let Some(channel) = peer.channel
                {
                    peer.link.send(channel, text.as_bytes(), true);
                }
            }
            Act::ClosePeer => {
                if let Some(peer) = &mut self.peer {
                    peer.link.close();
                    peer.offer_by = None;
                }
            }
        }
    }

    fn ask(&self) -> BoxFuture<'static, Result<Admission, Failure>> {
        let (http, key) = (self.http.clone(), self.settings.api_key.clone());
        let (url, body) = (rest::address(&self.settings), rest::body(&self.settings, &self.terms));
        Box::pin(async move {
            let url = url?;
            let encrypted = is_encrypted(&url);
            let request = http.post(url)?.bearer_auth(&key).json(&body);
            let mut reply = http::send(ASK_LIMIT_MS, &key, request).await?;
            rest::admission(&http::whole(&mut reply, rest::ANSWER_BYTES).await?, encrypted)
        })
    }

    fn offer(&mut self, codecs: Vec<VideoCodec>) {
        let now = Instant::now();
        if let Some(mut peer) = self.peer.take() {
            peer.link.close();
        }
        let Some(admission) = self.machine.admission() else { return };
        // Times go on from the session's beginning, whichever connection brings what they belong to.
        self.downlink = match Downlink::new(self.begun) {
            Ok(downlink) => Some(downlink),
            Err(error) => return self.machine.handle_unusable(now, &error.to_string()),
        };
        let listens = self.settings.mode == Mode::Microphone;
        let over_tls = admission.ice_servers.iter().flat_map(|server| &server.urls);
        let over_tls = over_tls.into_iter().any(|url| url.starts_with("turns:"));
        let mut link = PeerLink::new(PeerSettings {
            toward: admission.socket.host_str().unwrap_or_default().to_owned(),
            ice_servers: admission.ice_servers.clone(),
            relay_only: admission.relay_only,
            sound: if listens { Way::Both } else { Way::Receive },
            video: VideoWish { way: Way::Receive, codecs },
            tls: over_tls.then(|| system_tls().ok()).flatten(),
            ..PeerSettings::default()
        });
        let channel = link.open_channel("session", true, None);
        self.machine.handle_channel(false);
        self.peer = Some(Peer { link, channel, offer_by: Some(now + GATHER) });
    }

    /// Whether there is more to do.
    fn poll_asking(&mut self, context: &mut Context<'_>) -> bool {
        let Some(asking) = &mut self.asking else { return false };
        let Poll::Ready(answer) = asking.as_mut().poll(context) else { return false };
        self.asking = None;
        let now = Instant::now();
        match answer {
            Ok(admission) => self.machine.handle_admitted(now, admission),
            Err(failure) => self.machine.handle_refused(now, &failure),
        }
        true
    }

    fn poll_socket(&mut self, context: &mut Context<'_>) -> bool {
        match &mut self.socket {
            Socket::Absent => false,
            Socket::Opening(opening) => {
                let Poll::Ready(opened) = opening.as_mut().poll(context) else { return false };
                match opened {
                    Ok(socket) => {
                        self.socket = Socket::Open(Box::new(socket));
                        self.machine.handle_open(Instant::now());
                    }
                    Err(failure) => {
                        self.socket = Socket::Absent;
                        self.machine.handle_unopened(Instant::now(), &failure);
                    }
                }
                true
            }
            Socket::Open(socket) => match socket.poll_next(context) {
                Poll::Pending => false,
                Poll::Ready(Ok(Frame::Text(text))) => {
                    self.machine.handle_text(Instant::now(), &text);
                    true
                }
                Poll::Ready(Ok(Frame::Binary(_))) => true,
                Poll::Ready(Err(ended)) => {
                    self.socket = Socket::Absent;
                    self.machine.handle_closed(Instant::now(), &ended);
                    true
                }
            },
        }
    }

    fn poll_peer(&mut self, context: &mut Context<'_>) -> bool {
        let Some(peer) = &mut self.peer else { return false };
        let mut more = false;
        if let Poll::Ready(event) = peer.link.poll_next(context) {
            more = true;
            self.take(event);
        }
        let (Some(peer), now) = (&mut self.peer, Instant::now()) else { return more };
        if peer.offer_by.is_some_and(|by| by <= now) {
            peer.offer_by = None;
            more = true;
            match peer.link.create_offer() {
                Some(sdp) => self.machine.handle_offer(&sdp),
                None => self.machine.handle_unusable(now, "there is nothing to offer"),
            }
        }
        more
    }

    fn take(&mut self, event: PeerEvent) {
        let now = Instant::now();
        let Some(peer) = &mut self.peer else { return };
        match &event {
            PeerEvent::Connected => self.machine.handle_connected(now),
            PeerEvent::Disconnected => self.machine.handle_disconnected(now),
            PeerEvent::Failed(_) => self.machine.handle_failed(now),
            PeerEvent::Closed => self.machine.handle_hung_up(now),
            PeerEvent::Candidate(own) => self.machine.handle_candidate(&Candidate {
                candidate: own.candidate.clone(),
                mid: Some(own.mid.clone()),
                line: u16::try_from(own.index).ok(),
            }),
            PeerEvent::Gathered => {
                if peer.offer_by.is_some() {
                    peer.offer_by = Some(now);
                }
            }
            PeerEvent::ChannelOpen { id, .. } if peer.channel == Some(*id) => {
                self.machine.handle_channel(true);
            }
            PeerEvent::ChannelClosed { id } if peer.channel == Some(*id) => {
                self.machine.handle_channel(false)
            }
            PeerEvent::Data { data, text: true, .. } => {
                if let Ok(text) = std::str::from_utf8(data) {
                    self.machine.handle_data(text);
                }
            }
            PeerEvent::Unit(_) => self.machine.handle_picture(now),
            PeerEvent::Data { .. }
            | PeerEvent::ChannelOpen { .. }
            | PeerEvent::ChannelClosed { .. }
            | PeerEvent::Sound(_)
            | PeerEvent::Track(_)
            | PeerEvent::TrackGone { .. }
            | PeerEvent::KeyWanted { .. } => {}
        }
        let picture = self.downlink.as_mut().and_then(|downlink| downlink.take(now, event));
        self.media.extend(picture);
    }

    /// Sound that is due, and the wish for a key picture.
    fn poll_downlink(&mut self) -> bool {
        let now = Instant::now();
        let Some(downlink) = &mut self.downlink else { return false };
        if downlink.takes_key_wish(now)
            && let (Some(peer), Some(mid)) = (&mut self.peer, downlink.video())
        {
            peer.link.want_key_picture(mid);
        }
        let Some(event) = downlink.poll(now) else { return false };
        if let AvatarEvent::Sound { samples, .. } = &event {
            self.machine.handle_sound(now, samples);
        }
        self.media.push_back(event);
        true
    }

    fn wake_at(&self) -> Option<Instant> {
        let downlink = self.downlink.as_ref().and_then(Downlink::wake_at);
        let offer = self.peer.as_ref().and_then(|peer| peer.offer_by);
        [self.machine.wake_at(), downlink, offer].into_iter().flatten().min()
    }

    /// `true`: something was due.
    fn poll_time(&mut self, context: &mut Context<'_>) -> bool {
        let Some(at) = self.wake_at() else { return false };
        self.timer.as_mut().reset(at.into());
        if self.timer.as_mut().poll(context).is_pending() {
            return false;
        }
        self.machine.handle_time(Instant::now());
        true
    }
}

impl Session for AnamSession {
    fn limits(&self) -> &Limits {
        self.machine.limits()
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<AvatarEvent> {
        // Who polls is awake: woken by its own poll it would never sleep.
        self.waker = None;
        loop {
            self.carry();
            if let Some(event) = self.machine.poll_event() {
                if matches!(event, AvatarEvent::Lost(_) | AvatarEvent::Closed { .. }) {
                    // Nothing of it is seen or heard after that.
                    self.media.clear();
                    self.downlink = None;
                }
                return Poll::Ready(event);
            }
            if let Some(event) = self.media.pop_front() {
                return Poll::Ready(event);
            }
            let more = self.poll_asking(context)
                | self.poll_socket(context)
                | self.poll_peer(context)
                | self.poll_downlink();
            if !more && !self.poll_time(context) {
                self.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
    }

    fn speak(&mut self, turn: Turn, samples: &[i16]) {
        self.machine.speak(Instant::now(), turn, samples);
        self.carry();
    }

    fn end(&mut self, turn: Turn) {
        self.machine.end(turn);
        self.carry();
    }

    fn interrupt(&mut self, turn: Turn) {
        self.machine.interrupt(Instant::now(), turn);
        self.carry();
        if let Some(downlink) = &mut self.downlink {
            downlink.flush();
        }
        self.media.retain(|event| !matches!(event, AvatarEvent::Sound { .. }));
    }

    fn microphone(&mut self, samples: &[i16], rate: u32) {
        if !self.machine.hears() {
            return;
        }
        if self.microphone.is_none() {
            self.microphone = Microphone::new().ok();
        }
        let (Some(microphone), Some(peer)) = (&mut self.microphone, &mut self.peer) else { return };
        // Sound at a rate nobody has is not heard.
        let _ = microphone.take(samples, rate);
        while peer.link.is_connected()
            && let Some(packet) = microphone.poll()
        {
            peer.link.send_sound(Instant::now(), packet.time, &packet.data);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn say(&mut self, text: &str) -> bool {
        let said = self.machine.say(text);
        self.carry();
        said
    }

    fn text(&mut self, text: &str) -> bool {
        let taken = self.machine.text(Instant::now(), text);
        self.carry();
        taken
    }

    fn want_key_picture(&mut self) {
        if let Some(downlink) = &mut self.downlink {
            downlink.want_key_picture();
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn close(&mut self, _farewell: Farewell) {
        self.machine.close(Instant::now());
        self.carry();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::media::frame::Size;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_session_that_waits_does_not_wake_who_polls_it() {
        // Takes connections, and never says a word.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let base_url = format!("http://{}", silent.local_addr().expect("an address"));
        let settings = AnamSettings { base_url, ..AnamSettings::default() };
        let terms = Terms {
            call: "c".to_owned(),
            codecs: vec![],
            most: Size::new(640, 360),
            language: String::new(),
            again: false,
        };
        let mut session = AnamSession::open(&Http::new(), settings, terms);
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        for _ in 0..100 {
            while session.poll_next(&mut Context::from_waker(&waker)).is_ready() {}
            tokio::task::yield_now().await;
        }
        // The connection itself wakes now and then.
        assert!(wakes.0.load(Ordering::Relaxed) < 20, "{:?} of 100", wakes.0);
    }
}
