//! Driver. A session with a realtime model: carries a machine of `talk::wire` over WebSockets and converts its sound.
//!
//! Nothing runs by itself: [`RealtimeSession::next`] connects, reads, writes and waits. What is pushed is queued and
//! written by it.

#![expect(clippy::disallowed_methods, reason = "the machine's time is read here")]

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::codec::g711::Law;
use crate::remote::websocket::{Ended, Frame, WebSocket, WebSocketSettings};
use crate::talk::message::{Endpoint, Failure, Image, Request, ToolSpec, Vendor};
use crate::talk::realtime::{Act, LinkId, RealtimeEvent, RealtimeFigures, RealtimeMachine, RealtimeSettings};
use crate::talk::wire::live::GeminiLive;
use crate::talk::wire::realtime::OpenAiRealtime;
use crate::talk::wire::sound::{Inward, Outward};

/// A connection that says farewell gets so long.
const FAREWELL: Duration = Duration::from_secs(2);
/// Connections at once: one, the one that is to follow it, and those that say farewell.
const LINES_MAX: usize = 6;

type Opening = Pin<Box<dyn Future<Output = Result<WebSocket, Failure>> + Send>>;

enum State {
    Opening(Opening),
    Open(Box<WebSocket>),
    Leaving(Box<WebSocket>, Instant),
}

struct Line {
    link: LinkId,
    state: State,
}

/// What a connection did.
enum News {
    Opened,
    Frame(Frame),
    Ended(Failure),
    Gone,
}

/// A conversation with a model that hears and speaks itself. Dropped: its connections close at once.
pub struct RealtimeSession {
    machine: Box<dyn RealtimeMachine>,
    lines: Vec<Line>,
    sockets: WebSocketSettings,
    inward: Inward,
    outward: Outward,
    events: VecDeque<RealtimeEvent>,
    /// Sound that could not be converted.
    unusable: u64,
}

impl RealtimeSession {
    /// Begins to connect; [`RealtimeEvent::Ready`] says when the model listens. Fails for a vendor without such a
    /// model. `settings.sound` is also what [`RealtimeEvent::Sound`] brings, as G.711 or as samples of that rate.
    pub fn open(endpoint: Endpoint, settings: RealtimeSettings) -> Result<RealtimeSession, Failure> {
        Self::open_with(endpoint, settings, WebSocketSettings::default())
    }

    /// The same with limits of connections.
    pub fn open_with(
        endpoint: Endpoint,
        settings: RealtimeSettings,
        sockets: WebSocketSettings,
    ) -> Result<RealtimeSession, Failure> {
        let (now, sound) = (Instant::now(), settings.sound);
        let machine: Box<dyn RealtimeMachine> = match endpoint.vendor {
            Vendor::OpenAi => Box::new(OpenAiRealtime::new(now, endpoint, settings)),
            Vendor::Gemini => Box::new(GeminiLive::new(now, endpoint, settings)),
            Vendor::Anthropic | Vendor::Deepgram | Vendor::Espeak | Vendor::Mock => {
                let text = format!("{:?} has no model that hears and speaks", endpoint.vendor);
                return Err(Failure::Refused { status: 0, text });
            }
        };
        Ok(RealtimeSession {
            inward: Inward::new(machine.sound_in()),
            outward: Outward::new(sound),
            machine,
            lines: Vec::new(),
            sockets,
            events: VecDeque::new(),
            unusable: 0,
        })
    }

    /// The caller's sound: samples at `rate` Hz.
    pub fn push_sound(&mut self, heard: &[i16], rate: u32) {
        match self.inward.samples(heard, rate) {
            Ok(bytes) => self.machine.handle_sound(Instant::now(), bytes),
            Err(_) => self.unusable += 1,
        }
        self.carry();
    }

    /// The caller's sound as it came, G.711. It goes on untouched to a provider that takes this law.
    pub fn push_payload(&mut self, law: Law, payload: &[u8]) {
        match self.inward.payload(law, payload) {
            Ok(bytes) => self.machine.handle_sound(Instant::now(), bytes),
            Err(_) => self.unusable += 1,
        }
        self.carry();
    }

    /// A picture for the model. It asks for no answer.
    pub fn push_image(&mut self, image: Arc<Image>) {
        self.machine.push_image(Instant::now(), image);
        self.carry();
    }

    /// The model is to forget that picture, where its provider can.
    pub fn drop_image(&mut self, id: u64) {
        self.machine.drop_image(Instant::now(), id);
        self.carry();
    }

    /// What the camera shows now, as another model says; the words before are forgotten. It asks for no answer.
    pub fn scene(&mut self, words: Option<&str>) {
        self.machine.scene(Instant::now(), words);
        self.carry();
    }

    /// What the detection on this box hears: a hint that keeps sessions from being exchanged in mid-word.
    pub fn caller_speaks(&mut self, speaks: bool) {
        self.machine.caller_speaks(Instant::now(), speaks);
        self.carry();
    }

    /// Where turns are ours: the caller began to speak. The half second before is sent too; push no pre-roll.
    pub fn begin_turn(&mut self) {
        self.machine.begin_turn(Instant::now());
        self.carry();
    }

    /// Where turns are ours: the caller's turn is over, the model is to answer.
    pub fn commit_turn(&mut self) {
        self.machine.commit_turn(Instant::now());
        self.carry();
    }

    /// Where turns are ours: what the caller said is not to be answered. Gemini cannot forget it.
    pub fn clear_turn(&mut self) {
        self.machine.clear_turn(Instant::now());
        self.carry();
    }

    /// Of that item the caller heard `ms` milliseconds and will hear no more: the model is to know.
    pub fn heard(&mut self, item: &str, ms: u64) {
        self.machine.heard(Instant::now(), item, ms);
        self.carry();
    }

    /// Ends the answer that is being made. Nothing more of it comes; tell [`RealtimeSession::heard`].
    pub fn interrupt(&mut self) {
        self.machine.interrupt(Instant::now());
        self.outward.clear();
        // What waits here to be taken belongs to it.
        self.events
            .retain(|event| !matches!(event, RealtimeEvent::Sound { .. } | RealtimeEvent::SoundDone { .. }));
        self.carry();
    }

    /// The model is to say this.
    pub fn say(&mut self, text: &str) {
        self.machine.say(Instant::now(), text);
        self.carry();
    }

    /// The caller wrote this; the model answers.
    pub fn text(&mut self, text: &str) {
        self.machine.text(Instant::now(), text);
        self.carry();
    }

    /// The result of a [`RealtimeEvent::Call`]. When all calls have one, the model goes on.
    pub fn answer_tool(&mut self, id: &str, result: &str) {
        self.machine.answer_tool(Instant::now(), id, result);
        self.carry();
    }

    /// A question beside the conversation; [`RealtimeEvent::Aside`] with this number answers it. Gemini has none and
    /// says so there.
    pub fn ask_aside(&mut self, request: &Request) -> u64 {
        let id = self.machine.ask_aside(Instant::now(), request);
        self.carry();
        id
    }

    /// Other instructions and tools from here on.
    pub fn update(&mut self, instructions: String, tools: Vec<ToolSpec>) {
        self.machine.update(Instant::now(), instructions, tools);
        self.carry();
    }

    pub fn figures(&self) -> RealtimeFigures {
        RealtimeFigures {
            resampled: self.inward.resampled() + self.outward.resampled(),
            malformed: self.machine.figures().malformed + self.unusable,
            ..self.machine.figures()
        }
    }

    /// What happens next. Cancel-safe; it also does the writing, so it is to be polled all the time. After
    /// [`RealtimeEvent::Closed`] it waits for ever.
    pub async fn next(&mut self) -> RealtimeEvent {
        loop {
            self.carry();
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            if let Some(event) = self.machine.poll_event() {
                self.convert(event);
                continue;
            }
            let wake = [self.machine.wake_at(), self.leaving_until()].into_iter().flatten().min();
            let news = match wake {
                Some(at) => {
                    let news = poll_fn(|context| self.poll_lines(context));
                    tokio::time::timeout_at(at.into(), news).await.ok()
                }
                None => Some(poll_fn(|context| self.poll_lines(context)).await),
            };
            let now = Instant::now();
            if let Some((at, news)) = news {
                self.take(now, at, news);
            }
            self.machine.handle_time(now);
            self.lines.retain(|line| !matches!(&line.state, State::Leaving(_, until) if now >= *until));
        }
    }

    fn leaving_until(&self) -> Option<Instant> {
        let leaving = self.lines.iter().filter_map(|line| match &line.state {
            State::Leaving(_, until) => Some(*until),
            State::Opening(_) | State::Open(_) => None,
        });
        leaving.min()
    }

    fn poll_lines(&mut self, context: &mut Context<'_>) -> Poll<(usize, News)> {
        for (at, line) in self.lines.iter_mut().enumerate() {
            let news = match &mut line.state {
                State::Opening(opening) => match opening.as_mut().poll(context) {
                    Poll::Ready(Ok(socket)) => {
                        line.state = State::Open(Box::new(socket));
                        Poll::Ready(News::Opened)
                    }
                    Poll::Ready(Err(failure)) => Poll::Ready(News::Ended(failure)),
                    Poll::Pending => Poll::Pending,
                },
                State::Open(socket) => poll_socket(socket, context).map(|frame| match frame {
                    Ok(frame) => News::Frame(frame),
                    Err(ended) => News::Ended(ended.failure()),
                }),
                State::Leaving(socket, _) => match poll_socket(socket, context) {
                    Poll::Ready(Ok(_)) => {
                        context.waker().wake_by_ref();
                        Poll::Pending
                    }
                    Poll::Ready(Err(_)) => Poll::Ready(News::Gone),
                    Poll::Pending => Poll::Pending,
                },
            };
            if let Poll::Ready(news) = news {
                return Poll::Ready((at, news));
            }
        }
        Poll::Pending
    }

    fn take(&mut self, now: Instant, at: usize, news: News) {
        let Some(link) = self.lines.get(at).map(|line| line.link) else { return };
        match news {
            News::Opened => self.machine.handle_opened(now, link),
            News::Frame(Frame::Text(text)) => self.machine.handle_frame(now, link, text.as_bytes()),
            News::Frame(Frame::Binary(bytes)) => self.machine.handle_frame(now, link, &bytes),
            News::Ended(failure) => {
                self.lines.remove(at);
                self.machine.handle_ended(now, link, failure);
            }
            News::Gone => {
                self.lines.remove(at);
            }
        }
    }

    /// Does what the machine wants.
    fn carry(&mut self) {
        while let Some(act) = self.machine.poll_act() {
            match act {
                Act::Open { link } => self.connect(link),
                Act::Send { link, text } => {
                    for line in self.lines.iter_mut().filter(|line| line.link == link) {
                        if let State::Open(socket) = &mut line.state {
                            // A peer that takes nothing any more is told of by its next frame.
                            socket.send(Frame::Text(text.into()));
                            break;
                        }
                    }
                }
                Act::Close { link } => self.leave(link),
            }
        }
    }

    fn connect(&mut self, link: LinkId) {
        let (address, sockets) = (self.machine.address(), self.sockets.clone());
        let opening = Box::pin(async move {
            let headers: Vec<(&str, &str)> =
                address.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            WebSocket::connect(&address.url, &headers, &sockets).await
        });
        if self.lines.len() >= LINES_MAX {
            self.lines.remove(0);
        }
        self.lines.push(Line { link, state: State::Opening(opening) });
    }

    fn leave(&mut self, link: LinkId) {
        let Some(at) = self.lines.iter().position(|line| line.link == link) else { return };
        if let State::Open(mut socket) = self.lines.remove(at).state {
            socket.close();
            let state = State::Leaving(socket, Instant::now() + FAREWELL);
            self.lines.push(Line { link, state });
        }
    }

    /// The call's sound instead of the provider's.
    fn convert(&mut self, event: RealtimeEvent) {
        match event {
            RealtimeEvent::Sound { item, sound } => match self.outward.take(sound) {
                Ok(sound) => self.events.push_back(RealtimeEvent::Sound { item, sound }),
                Err(_) => self.unusable += 1,
            },
            RealtimeEvent::SoundDone { item } => {
                let rest =
                    self.outward.rest().map(|sound| RealtimeEvent::Sound { item: item.clone(), sound });
                self.events.extend(rest);
                self.events.push_back(RealtimeEvent::SoundDone { item });
            }
            RealtimeEvent::Interrupted { item } => {
                self.outward.clear();
                self.events.push_back(RealtimeEvent::Interrupted { item });
            }
            other => self.events.push_back(other),
        }
    }
}

fn poll_socket(socket: &mut WebSocket, context: &mut Context<'_>) -> Poll<Result<Frame, Ended>> {
    std::pin::pin!(socket.next()).poll(context)
}
