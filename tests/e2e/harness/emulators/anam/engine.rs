//! The engine of a session: its signalling socket, the peer connection with a made-up face, and in microphone mode ears and
//! a voice of its own.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use eyeline::codec::opus::OpusDecoder;
use eyeline::media::codec::AudioDecoder as _;
use eyeline::webrtc::event::{ChannelId, PeerEvent};
use eyeline::webrtc::link::PeerLink;
use eyeline::webrtc::settings::{PeerSettings, VideoWish, Way};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::{Booked, Command, OWN_HZ, Rules, Shared, lock};
use crate::harness::emulators::face::{Coding, Face, FaceSettings};

const LARGEST_MESSAGE: usize = 1 << 20;
/// Sound of the caller louder than that is speech; for so long, and silence for so long after it.
const LOUD: u16 = 1_500;
const SPEECH: Duration = Duration::from_millis(100);
const SILENCE: Duration = Duration::from_millis(500);
/// A turn whose end nobody tells: the picture stands still so long after its last sound.
const STARVED: Duration = Duration::from_secs(2);
/// What a letter takes to be spoken by a voice of its own.
const LETTER_MS: u64 = 40;

fn tone(hz: f64, ms: u64) -> Vec<i16> {
    let step = std::f64::consts::TAU * hz / 24_000.0;
    (0..24 * ms).map(|n| ((n as f64 * step).sin() * 9_000.0) as i16).collect()
}

/// The ears of microphone mode.
struct Ears {
    decoder: OpusDecoder,
    loud_since: Option<Instant>,
    quiet_since: Instant,
    speaks: bool,
}

/// One session as its engine has it.
struct Live {
    id: String,
    passthrough: bool,
    over_at: Option<Instant>,
    over: bool,
    stream: Option<Box<WebSocketStream<TcpStream>>>,
    outgoing: VecDeque<Message>,
    peer: Option<PeerLink>,
    fingerprint: String,
    channel: Option<ChannelId>,
    connected: Option<Instant>,
    ready: bool,
    face: Face,
    /// The number the next piece must bear.
    number: u64,
    /// Sound came of a turn whose end did not.
    open: bool,
    /// The turn was cut: the rest of it is not spoken.
    cut: bool,
    spoken: Instant,
    starved: bool,
    heard_of: Instant,
    ears: Ears,
    reply_at: Option<Instant>,
    /// The message that is being spoken.
    saying: Option<u32>,
    messages: u32,
}

/// All sessions.
pub struct Engine {
    shared: Arc<Mutex<Shared>>,
    told: mpsc::UnboundedReceiver<Command>,
    stop: Arc<AtomicBool>,
    live: Vec<Live>,
}

fn fingerprint(sdp: &str) -> String {
    sdp.lines().find(|line| line.starts_with("a=fingerprint:")).unwrap_or_default().to_owned()
}

impl Engine {
    pub fn new(
        shared: Arc<Mutex<Shared>>,
        told: mpsc::UnboundedReceiver<Command>,
        stop: Arc<AtomicBool>,
    ) -> Engine {
        Engine { shared, told, stop, live: Vec::new() }
    }

    pub async fn run(mut self) {
        let mut beat = tokio::time::interval(Duration::from_millis(5));
        while !self.stop.load(Ordering::Relaxed) {
            std::future::poll_fn(|context| {
                self.poll(context);
                beat.poll_tick(context).map(|_| ())
            })
            .await;
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) {
        let now = Instant::now();
        while let Poll::Ready(Some(command)) = self.told.poll_recv(context) {
            self.obey(now, command);
        }
        let mut shared = lock(&self.shared);
        let Shared { rules, refused, sessions, .. } = &mut *shared;
        for live in &mut self.live {
            let Some(booked) = sessions.iter_mut().find(|own| own.id == live.id) else { continue };
            live.poll(now, context, rules, booked, refused);
        }
        drop(shared);
        self.live.retain(|live| !(live.over && live.stream.is_none()));
    }

    fn obey(&mut self, now: Instant, command: Command) {
        match command {
            Command::Arrived { stream, session } => {
                let mut shared = lock(&self.shared);
                let coding = shared.rules.coding;
                let Some(booked) = shared.sessions.iter_mut().find(|own| own.id == session) else { return };
                booked.log.sockets += 1;
                if let Some(live) = self.live.iter_mut().find(|live| live.id == session) {
                    live.stream = Some(stream);
                    live.heard_of = now;
                    return;
                }
                self.live.push(Live::new(now, booked, coding, stream));
            }
            Command::CutSockets => self.live.iter_mut().for_each(|live| live.stream = None),
            Command::CutPeers => self.live.iter_mut().for_each(|live| live.peer = None),
            Command::End(why) => {
                let mut shared = lock(&self.shared);
                for live in self.live.iter_mut().filter(|live| !live.over) {
                    let booked = shared.sessions.iter_mut().find(|own| own.id == live.id);
                    booked.into_iter().for_each(|booked| live.end(now, booked, "engine", &why));
                }
            }
        }
    }
}

impl Live {
    fn new(now: Instant, booked: &Booked, coding: Coding, stream: Box<WebSocketStream<TcpStream>>) -> Live {
        let persona = &booked.asked["personaConfig"];
        let longest = persona["maxSessionLengthSeconds"].as_u64();
        Live {
            id: booked.id.clone(),
            passthrough: persona["enableAudioPassthrough"] == true,
            over_at: longest.map(|seconds| booked.begun + Duration::from_secs(seconds)),
            over: false,
            stream: Some(stream),
            outgoing: VecDeque::new(),
            peer: None,
            fingerprint: String::new(),
            channel: None,
            connected: None,
            ready: false,
            face: Face::new(FaceSettings { coding, ..FaceSettings::default() }, now),
            number: 0,
            open: false,
            cut: false,
            spoken: now,
            starved: false,
            heard_of: now,
            ears: Ears {
                decoder: OpusDecoder::new().expect("libopus"),
                loud_since: None,
                quiet_since: now,
                speaks: false,
            },
            reply_at: None,
            saying: None,
            messages: 0,
        }
    }

    fn send(&mut self, action: &str, payload: Value) {
        let text = json!({ "actionType": action, "sessionId": self.id, "payload": payload }).to_string();
        self.outgoing.push_back(Message::text(text));
    }

    fn tell(&mut self, kind: &str, data: &Value) {
        let text = json!({ "messageType": kind, "data": data }).to_string();
        if let (Some(peer), Some(channel)) = (&mut self.peer, self.channel) {
            peer.send(channel, text.as_bytes(), true);
        }
    }

    fn words(&mut self, id: u32, role: &str, content: &str, last: bool, interrupted: bool) {
        let data = json!({ "message_id": format!("m-{id}"), "content_index": 0, "content": content,
            "role": role, "end_of_speech": last, "interrupted": interrupted });
        self.tell("speechText", &data);
    }

    fn end(&mut self, now: Instant, booked: &mut Booked, who: &'static str, why: &str) {
        booked.ended.get_or_insert((now, who));
        if who != "client" {
            self.send("endsession", json!(why));
        }
        let frame = CloseFrame { code: 1000.into(), reason: "over".into() };
        self.outgoing.push_back(Message::Close(Some(frame)));
        if let Some(peer) = &mut self.peer {
            peer.close();
        }
        self.over = true;
    }

    fn poll(
        &mut self,
        now: Instant,
        context: &mut Context<'_>,
        rules: &Rules,
        booked: &mut Booked,
        refused: &mut Vec<String>,
    ) {
        self.poll_socket(now, context, rules, booked, refused);
        let mut events = Vec::new();
        while let Some(Poll::Ready(event)) = self.peer.as_mut().map(|peer| peer.poll_next(context)) {
            events.push(event);
        }
        for event in events {
            self.happened(now, event, rules, booked, refused);
        }
        if self.over {
            return;
        }
        if self.over_at.is_some_and(|at| at <= now) {
            return self.end(now, booked, "limit", "Session length limit reached");
        }
        if now > self.heard_of + Duration::from_secs(3 * rules.heartbeat_s) {
            refused.push(format!("{}: no heartbeat", self.id));
            return self.end(now, booked, "heartbeat", "No heartbeat");
        }
        if !self.ready && self.connected.is_some_and(|at| at + rules.ready_after <= now) {
            self.ready = true;
            self.send("sessionready", json!({}));
            let greets = !self.passthrough && booked.asked["personaConfig"]["skipGreeting"] != true;
            if greets && !rules.greeting.is_empty() {
                self.say(now, &rules.greeting);
            }
        }
        if self.reply_at.take_if(|at| *at <= now).is_some() {
            self.say(now, &rules.reply);
        }
        if self.face.is_speaking() || !self.open {
            self.spoken = now;
        } else if now > self.spoken + STARVED && !self.starved {
            self.starved = true;
            self.face.freeze(true);
            refused.push(format!("{}: a turn without an end: {:?}", self.id, booked.log.actions));
        }
        if !self.face.is_speaking() {
            self.saying = None;
        }
        if let Some(peer) = self.peer.as_mut().filter(|_| self.connected.is_some()) {
            self.face.run(now, peer);
        }
        (booked.log.pictures, booked.log.key_wishes) = (self.face.log.pictures, self.face.log.key_wishes);
    }

    fn poll_socket(
        &mut self,
        now: Instant,
        context: &mut Context<'_>,
        rules: &Rules,
        booked: &mut Booked,
        refused: &mut Vec<String>,
    ) {
        loop {
            let Some(stream) = &mut self.stream else { return };
            while let Some(message) = self.outgoing.pop_front() {
                let closes = matches!(message, Message::Close(_));
                if stream.poll_ready_unpin(context).is_pending() || stream.start_send_unpin(message).is_err()
                {
                    self.stream = None;
                    return;
                }
                if closes {
                    let _ = stream.poll_flush_unpin(context);
                }
            }
            let _ = stream.poll_flush_unpin(context);
            match stream.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(Message::Text(text)))) => {
                    self.heard_of = now;
                    if let Err(why) = self.signalled(now, &text, rules, booked) {
                        refused.push(format!("{}: {why}", self.id));
                    }
                }
                Poll::Ready(Some(Ok(Message::Binary(_)))) => refused.push("bytes".to_owned()),
                // Browsers say no farewell: they hang up.
                Poll::Ready(Some(Ok(Message::Close(_)))) if !self.over => {
                    self.end(now, booked, "client", "");
                    self.stream = None;
                    return;
                }
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => self.stream = None,
                Poll::Pending => return,
            }
        }
    }

    /// A message of the socket.
    fn signalled(
        &mut self,
        now: Instant,
        text: &str,
        rules: &Rules,
        booked: &mut Booked,
    ) -> Result<(), String> {
        if text.len() > LARGEST_MESSAGE {
            return Err(format!("a message of {} bytes", text.len()));
        }
        let message: Value = serde_json::from_str(text).map_err(|why| format!("{why}: {text}"))?;
        let (action, payload) = (message["actionType"].as_str().unwrap_or_default(), &message["payload"]);
        if message["sessionId"] != self.id.as_str() {
            return Err(format!("{action} for {}", message["sessionId"]));
        }
        if !["agentaudioinput", "icecandidate", "heartbeat"].contains(&action) {
            booked.log.actions.push(action.to_owned());
        }
        if self.over {
            return Ok(());
        }
        match action {
            "offer" => self.offered(payload, rules),
            "icecandidate" => {
                let candidate = payload["candidate"].as_str().ok_or("a candidate without one")?;
                if self.fingerprint.is_empty() {
                    return Err("a candidate before the offer".to_owned());
                }
                if let Some(peer) = &mut self.peer {
                    peer.add_remote_candidate(candidate);
                }
                Ok(())
            }
            "heartbeat" => {
                booked.log.heartbeats += 1;
                if *payload == "" { Ok(()) } else { Err(format!("a heartbeat with {payload}")) }
            }
            "agentaudioinput" => self.spoken_to(now, payload, booked),
            "agentaudioinputend" => {
                if !self.open && !self.cut {
                    return Err("the end of a turn of which nothing came".to_owned());
                }
                booked.log.turns += usize::from(!self.cut);
                (self.open, self.cut, self.starved, self.number) = (false, false, false, 0);
                self.face.freeze(false);
                Ok(())
            }
            "talkstream" => self.talk(now, payload),
            "endsession" => {
                self.end(now, booked, "client", "");
                Ok(())
            }
            other => Err(format!("unknown action {other:?}")),
        }
    }

    fn offered(&mut self, payload: &Value, rules: &Rules) -> Result<(), String> {
        let description = &payload["connectionDescription"];
        if description["type"] != "offer" || payload["userUid"] != self.id.as_str() {
            return Err(format!("an offer of {payload}"));
        }
        let sdp = description["sdp"].as_str().unwrap_or_default();
        let video = sdp.split("m=").find(|media| media.starts_with("video")).unwrap_or_default();
        let whole = sdp.contains("m=application") && sdp.contains("m=audio") && video.contains("a=recvonly");
        if !whole {
            return Err(format!("an offer that lacks something: {sdp}"));
        }
        if !rules.answers {
            return Ok(());
        }
        let own = fingerprint(sdp);
        if self.peer.is_none() || own != self.fingerprint {
            let video = VideoWish { way: Way::Send, codecs: vec![rules.coding.codec()] };
            let sound = if self.passthrough { Way::Send } else { Way::Both };
            let toward = "127.0.0.1".to_owned();
            self.peer = Some(PeerLink::new(PeerSettings { toward, sound, video, ..PeerSettings::default() }));
            (self.fingerprint, self.channel, self.connected) = (own, None, None);
        }
        let Some(peer) = &mut self.peer else { return Ok(()) };
        let answer = peer.take_offer(sdp).map_err(|why| format!("an offer: {why}"))?;
        self.send("answer", json!({ "type": "answer", "sdp": answer }));
        Ok(())
    }

    /// A piece of our voice.
    fn spoken_to(&mut self, now: Instant, payload: &Value, booked: &mut Booked) -> Result<(), String> {
        let rate = payload["sampleRate"].as_u64().unwrap_or(0) as u32;
        let sound = STANDARD.decode(payload["audioData"].as_str().unwrap_or_default());
        let sound = sound.map_err(|why| format!("sound: {why}"))?;
        if payload["encoding"] != "pcm_s16le"
            || payload["channels"] != 1
            || !(16_000..=48_000).contains(&rate)
            || sound.is_empty()
            || !sound.len().is_multiple_of(2)
        {
            return Err(format!("{} bytes of sound at {rate} Hz", sound.len()));
        }
        if !self.passthrough || !self.ready {
            return Err("sound that nobody hears".to_owned());
        }
        if payload["sequenceNumber"] != self.number {
            return Err(format!("piece {} in the place of {}", payload["sequenceNumber"], self.number));
        }
        self.number += 1;
        if self.cut {
            booked.log.late += 1;
            return Ok(());
        }
        let pairs = sound.as_chunks::<2>().0.iter();
        let samples: Vec<i16> = pairs.map(|pair| i16::from_le_bytes(*pair)).collect();
        self.open = true;
        self.face.freeze(false);
        self.face.say(now, &samples, rate);
        booked.log.rate = rate;
        booked.log.heard.extend(samples);
        Ok(())
    }

    /// A text for a voice of its own.
    fn talk(&mut self, now: Instant, payload: &Value) -> Result<(), String> {
        let (start, end) = (&payload["startOfSpeech"], &payload["endOfSpeech"]);
        let whole = start.is_boolean() && end.is_boolean() && payload["correlationId"].is_string();
        let Some(text) = payload["content"].as_str().filter(|_| whole && !self.passthrough && self.ready)
        else {
            return Err(format!("a talk stream of {payload}"));
        };
        self.say(now, text);
        Ok(())
    }

    /// Speaks by itself, and tells all of it at once, as such services do.
    fn say(&mut self, now: Instant, text: &str) {
        self.messages += 1;
        let id = self.messages;
        self.face.say(now, &tone(OWN_HZ, text.chars().count() as u64 * LETTER_MS), 24_000);
        let middle = text.char_indices().nth(text.chars().count() / 2).map_or(0, |(at, _)| at);
        self.words(id, "persona", &text[..middle], false, false);
        self.words(id, "persona", &text[middle..], true, false);
        self.saying = Some(id);
    }

    fn hush(&mut self, now: Instant, rules: &Rules) {
        if rules.deaf {
            return;
        }
        self.face.cut(now);
        self.reply_at = None;
        if let Some(id) = self.saying.take() {
            self.words(id, "persona", "", true, true);
        }
    }

    fn happened(
        &mut self,
        now: Instant,
        event: PeerEvent,
        rules: &Rules,
        booked: &mut Booked,
        refused: &mut Vec<String>,
    ) {
        match event {
            PeerEvent::Candidate(own) => {
                let payload = json!({ "candidate": own.candidate, "sdpMid": own.mid,
                    "sdpMLineIndex": own.index });
                self.send("icecandidate", payload);
            }
            PeerEvent::Connected if self.connected.is_none() => {
                // It begins to be seen: not before, else all that went by would come at once.
                let coding = rules.coding;
                self.face = Face::new(FaceSettings { coding, ..FaceSettings::default() }, now);
                self.connected = Some(now);
            }
            PeerEvent::Closed | PeerEvent::Failed(_) => (self.peer, self.connected) = (None, None),
            PeerEvent::ChannelOpen { id, label } if label == "session" => self.channel = Some(id),
            PeerEvent::ChannelOpen { label, .. } => refused.push(format!("a channel {label:?}")),
            PeerEvent::KeyWanted { .. } => self.face.key_wanted(),
            PeerEvent::Sound(packet) if !self.passthrough => {
                let mut samples = Vec::new();
                let _ = self.ears.decoder.decode(&packet.data, &mut samples);
                booked.log.microphone.extend(&samples);
                self.listen(now, &samples, rules);
            }
            PeerEvent::Data { data, text, .. } => {
                if let Err(why) = self.told(now, &data, text, rules, booked) {
                    refused.push(format!("{}: {why}", self.id));
                }
            }
            _ => {}
        }
    }

    /// A message of the data channel.
    fn told(
        &mut self,
        now: Instant,
        data: &[u8],
        is_text: bool,
        rules: &Rules,
        booked: &mut Booked,
    ) -> Result<(), String> {
        let message: Value = serde_json::from_slice(data).map_err(|why| format!("data: {why}"))?;
        let kind = message["message_type"].as_str().unwrap_or_default();
        let stamp = message["timestamp"].as_str().unwrap_or_default();
        if !is_text || message["session_id"] != self.id.as_str() || !stamp.starts_with("20") {
            return Err(format!("data: {message}"));
        }
        match kind {
            "interrupt" => {
                booked.log.interrupts.push(now);
                // The rest of the turn is thrown away up to its end.
                self.cut |= self.open && !rules.deaf;
                self.open &= rules.deaf;
                self.hush(now, rules);
                Ok(())
            }
            "speech" => {
                let text = message["content"].as_str().unwrap_or_default().to_owned();
                self.messages += 1;
                self.words(self.messages, "user", &text, true, false);
                booked.log.texts.push(text);
                self.reply_at = Some(now + rules.thinks);
                Ok(())
            }
            other => Err(format!("unknown message {other:?}")),
        }
    }

    /// The caller.
    fn listen(&mut self, now: Instant, samples: &[i16], rules: &Rules) {
        let loud = samples.iter().any(|sample| sample.unsigned_abs() > LOUD);
        if loud {
            self.ears.quiet_since = now;
            let since = *self.ears.loud_since.get_or_insert(now);
            if !self.ears.speaks && now >= since + SPEECH {
                self.ears.speaks = true;
                self.tell("userSpeechStarted", &json!({}));
                if self.face.is_speaking() || self.reply_at.is_some() {
                    self.hush(now, rules);
                }
            }
        } else if now >= self.ears.quiet_since + SILENCE {
            self.ears.loud_since = None;
            if std::mem::take(&mut self.ears.speaks) {
                self.tell("userSpeechEnded", &json!({}));
                self.messages += 1;
                self.words(self.messages, "user", &rules.understands, true, false);
                self.reply_at = Some(now + rules.thinks);
            }
        }
    }
}
