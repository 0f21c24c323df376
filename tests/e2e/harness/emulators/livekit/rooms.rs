//! Everybody in all rooms: who comes and goes, what is asked over the socket, tracks and packets passed on.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use eyeline::media::access_unit::VideoCodec;
use eyeline::webrtc::event::PeerEvent;
use eyeline::webrtc::link::PeerLink;
use eyeline::webrtc::settings::{PeerSettings, VideoWish, Way};
use futures_util::{SinkExt as _, StreamExt as _};
use livekit_protocol::signal_request::Message as Request;
use livekit_protocol::signal_response::Message as Response;
use livekit_protocol::{
    DataPacket, DisconnectReason, JoinResponse, LeaveRequest, ParticipantInfo, ParticipantPermission,
    ParticipantUpdate, Pong, Room, ServerInfo, SessionDescription, SignalRequest, TrackInfo,
    TrackPublishedResponse, TrackSubscribed, TrickleRequest,
};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::participant::Participant;
use super::worker::Worker;
use super::{Command, Shared, lock};
use crate::harness::emulators::face::{Coding, Due, Face};

/// Everybody in all rooms.
pub struct Rooms {
    shared: Arc<Mutex<Shared>>,
    told: mpsc::UnboundedReceiver<Command>,
    tell: mpsc::UnboundedSender<Command>,
    stop: Arc<AtomicBool>,
    here: Vec<Participant>,
    workers: Vec<Worker>,
    coming: Vec<(Instant, String, String, String)>,
    next: u32,
}

fn settings(way: Way) -> PeerSettings {
    let video = VideoWish { way, codecs: vec![VideoCodec::H264, VideoCodec::Vp8] };
    PeerSettings { toward: "127.0.0.1".to_owned(), sound: way, video, ..PeerSettings::default() }
}

impl Rooms {
    pub fn new(
        shared: Arc<Mutex<Shared>>,
        told: mpsc::UnboundedReceiver<Command>,
        tell: mpsc::UnboundedSender<Command>,
        stop: Arc<AtomicBool>,
    ) -> Rooms {
        Rooms { shared, told, tell, stop, here: Vec::new(), workers: Vec::new(), coming: Vec::new(), next: 0 }
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

    fn sid(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}_{:04}", self.next)
    }

    fn poll(&mut self, context: &mut Context<'_>) {
        let now = Instant::now();
        while let Poll::Ready(Some(command)) = self.told.poll_recv(context) {
            self.obey(now, command);
        }
        let due: Vec<_> = self.coming.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, room, identity, behalf) in due {
            self.come(now, room, identity, &behalf);
        }
        for at in 0..self.here.len() {
            self.poll_one(now, at, context);
        }
        self.poll_workers(now);
        let gone: Vec<Participant> = self.here.extract_if(.., |one| one.gone).collect();
        for one in gone {
            self.update(&one.room, ParticipantInfo { state: 3, ..one.info });
        }
    }

    fn obey(&mut self, now: Instant, command: Command) {
        match command {
            Command::Arrived { stream, identity, room, agent } => self.arrive(stream, identity, room, agent),
            Command::Worker { room, identity, behalf } => {
                let late = lock(&self.shared).worker.late;
                self.coming.push((now + late, room, identity, behalf));
            }
            Command::WorkerLeaves { room } => {
                self.coming.retain(|(_, own, ..)| *own != room);
                let gone: Vec<Worker> = self.workers.extract_if(.., |worker| worker.room == room).collect();
                for worker in gone {
                    self.update(&room, ParticipantInfo { state: 3, ..worker.info });
                }
            }
            Command::RoomDeleted { room } => {
                let leave =
                    LeaveRequest { reason: DisconnectReason::RoomDeleted as i32, ..LeaveRequest::default() };
                for one in self.here.iter_mut().filter(|one| one.room == room) {
                    one.send(Response::Leave(leave.clone()));
                }
                // A worker that is thrown out ends its session.
                let mut shared = lock(&self.shared);
                shared.ledger.iter_mut().filter(|own| own.1 == room).for_each(|own| own.2 = false);
                drop(shared);
                let _ = self.tell.send(Command::WorkerLeaves { room });
            }
            Command::Say { room, samples, rate } => {
                for worker in self.workers.iter_mut().filter(|worker| worker.room == room) {
                    worker.face.say(now, &samples, rate);
                }
            }
            Command::CutWorker { room } => {
                for worker in self.workers.iter_mut().filter(|worker| worker.room == room) {
                    worker.face.cut(now);
                }
            }
            Command::Reconnect => {
                for one in &mut self.here {
                    one.send(Response::Leave(LeaveRequest { action: 2, ..LeaveRequest::default() }));
                }
            }
            Command::Refresh(token) => {
                self.here.iter_mut().for_each(|one| one.send(Response::RefreshToken(token.clone())));
            }
            Command::Cut => self.here.iter_mut().for_each(|one| one.gone = true),
        }
    }

    fn arrive(
        &mut self,
        stream: Box<WebSocketStream<TcpStream>>,
        identity: String,
        room: String,
        agent: bool,
    ) {
        lock(&self.shared).joined.push(identity.clone());
        // Who comes twice is thrown out the first time.
        self.here.retain(|one| one.info.identity != identity || one.room != room);
        let info = ParticipantInfo {
            sid: self.sid("PA"),
            identity,
            state: 2,
            kind: if agent { 4 } else { 0 },
            permission: Some(ParticipantPermission {
                can_subscribe: true,
                can_publish: true,
                can_publish_data: true,
                ..ParticipantPermission::default()
            }),
            ..ParticipantInfo::default()
        };
        let others = self.others(&room);
        let shown = others.iter().find(|other| !other.tracks.is_empty()).cloned();
        let way = if shown.is_some() { Way::Send } else { Way::None };
        let mut subscriber = PeerLink::new(settings(way));
        let reliable = subscriber.open_channel("_reliable", true, None);
        let _ = subscriber.open_channel("_lossy", false, Some(0));
        let join = JoinResponse {
            room: Some(Room { sid: "RM_1".to_owned(), name: room.clone(), ..Room::default() }),
            participant: Some(info.clone()),
            other_participants: others,
            subscriber_primary: true,
            ping_timeout: 15,
            ping_interval: 5,
            server_version: "1.9.0".to_owned(),
            server_info: Some(ServerInfo {
                version: "1.9.0".to_owned(),
                protocol: 16,
                ..ServerInfo::default()
            }),
            ..JoinResponse::default()
        };
        self.update(&room, info.clone());
        let mut one = Participant {
            info,
            room,
            stream,
            outgoing: VecDeque::new(),
            subscriber,
            reliable,
            open: false,
            waiting: VecDeque::new(),
            offers: 0,
            answered: 0,
            again: false,
            shown,
            publisher: None,
            picture: None,
            sequence: 0,
            gone: false,
        };
        one.send(Response::Join(join));
        one.offer();
        self.here.push(one);
    }

    fn others(&self, room: &str) -> Vec<ParticipantInfo> {
        let workers =
            self.workers.iter().filter(|worker| worker.room == room).map(|worker| worker.info.clone());
        let here = self.here.iter().filter(|one| one.room == room).map(|one| one.info.clone());
        workers.chain(here).collect()
    }

    fn update(&mut self, room: &str, info: ParticipantInfo) {
        for one in self.here.iter_mut().filter(|one| one.room == room && one.info.sid != info.sid) {
            one.send(Response::Update(ParticipantUpdate { participants: vec![info.clone()] }));
        }
    }

    fn come(&mut self, now: Instant, room: String, identity: String, behalf: &str) {
        let settings = lock(&self.shared).worker.clone();
        let mime = if settings.coding == Coding::Vp8 { "video/VP8" } else { "video/H264" };
        let track = |kind: i32, name: &str, mime: &str, sid: String| TrackInfo {
            sid,
            r#type: kind,
            name: name.to_owned(),
            source: if kind == 0 { 2 } else { 1 },
            mime_type: mime.to_owned(),
            ..TrackInfo::default()
        };
        let (sound, video) = (self.sid("TR"), self.sid("TR"));
        let mut info = ParticipantInfo {
            sid: self.sid("PA"),
            identity: identity.clone(),
            state: 2,
            kind: 4,
            tracks: vec![track(0, "voice", "audio/opus", sound), track(1, "face", mime, video)],
            ..ParticipantInfo::default()
        };
        info.attributes.insert("lk.publish_on_behalf".to_owned(), behalf.to_owned());
        lock(&self.shared).joined.push(identity);
        self.update(&room, info.clone());
        for one in self.here.iter_mut().filter(|one| one.room == room) {
            one.show(&info);
        }
        let face = Face::new(settings.face(), now);
        self.workers.push(Worker {
            info,
            room,
            face,
            settings,
            speaker: String::new(),
            stream: None,
            dropped: None,
            closed: false,
            told: false,
            sent_ms: 0,
            calls: 0,
            outgoing: Vec::new(),
        });
    }

    fn poll_workers(&mut self, now: Instant) {
        for worker in &mut self.workers {
            while let Some(due) = worker.face.poll(now) {
                for one in self.here.iter_mut().filter(|one| one.room == worker.room) {
                    match &due {
                        Due::Sound { at, time, packet, .. } => one.subscriber.send_sound(*at, *time, packet),
                        Due::Unit { at, time, unit, .. } => one.subscriber.send_unit(*at, *time, unit),
                    };
                }
            }
            worker.watch(&mut lock(&self.shared));
            for (to, value) in std::mem::take(&mut worker.outgoing) {
                let packet = DataPacket {
                    participant_identity: worker.info.identity.clone(),
                    participant_sid: worker.info.sid.clone(),
                    destination_identities: vec![to.clone()],
                    value: Some(value),
                    ..DataPacket::default()
                };
                let reached = |one: &&mut Participant| one.room == worker.room && one.info.identity == to;
                self.here.iter_mut().filter(reached).for_each(|one| one.give(&packet));
            }
        }
    }

    fn poll_one(&mut self, now: Instant, at: usize, context: &mut Context<'_>) {
        loop {
            let one = &mut self.here[at];
            while let Some(message) = one.outgoing.pop_front() {
                if one.stream.poll_ready_unpin(context).is_pending()
                    || one.stream.start_send_unpin(message).is_err()
                {
                    one.gone = true;
                    return;
                }
            }
            let _ = one.stream.poll_flush_unpin(context);
            match one.stream.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(Message::Binary(bytes)))) => self.request(at, &bytes),
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => {
                    one.gone = true;
                    return;
                }
                Poll::Pending => break,
            }
        }
        while let Poll::Ready(event) = self.here[at].subscriber.poll_next(context) {
            self.subscriber_told(at, event);
        }
        self.here[at].hand_over();
        while let Some(Poll::Ready(event)) =
            self.here[at].publisher.as_mut().map(|own| own.poll_next(context))
        {
            self.publisher_told(now, at, event);
        }
    }

    fn request(&mut self, at: usize, bytes: &[u8]) {
        let Some(message) = SignalRequest::decode(bytes).ok().and_then(|request| request.message) else {
            return lock(&self.shared).refused.push("a request that cannot be read".to_owned());
        };
        let sid = self.sid("TR");
        let one = &mut self.here[at];
        let refuse = |why: String| lock(&self.shared).refused.push(why);
        match message {
            Request::Answer(answer) => {
                // The vendor's own SDK leaves the number out.
                let id = if answer.id == 0 { one.offers } else { answer.id };
                if id != one.offers || one.answered == id || answer.r#type != "answer" {
                    return refuse(format!("the answer {} to {}", answer.id, one.offers));
                }
                one.answered = id;
                match one.subscriber.take_answer(&answer.sdp) {
                    Ok(()) if one.again => one.offer(),
                    Ok(()) => {}
                    Err(why) => refuse(format!("an answer: {why}")),
                }
            }
            Request::Offer(offer) => {
                let publisher = one.publisher.get_or_insert_with(|| PeerLink::new(settings(Way::None)));
                // One picture of each is enough here.
                let plain = |line: &&str| !line.starts_with("a=simulcast") && !line.starts_with("a=rid");
                let sdp: String =
                    offer.sdp.lines().filter(plain).map(|line| line.to_owned() + "\r\n").collect();
                match publisher.take_offer(&sdp) {
                    Ok(sdp) => one.send(Response::Answer(SessionDescription {
                        r#type: "answer".to_owned(),
                        sdp,
                        id: offer.id,
                        ..SessionDescription::default()
                    })),
                    Err(why) => refuse(format!("an offer: {why}")),
                }
            }
            Request::Trickle(trickle) => {
                let init: Value = serde_json::from_str(&trickle.candidate_init).unwrap_or_default();
                let candidate = init["candidate"].as_str().unwrap_or_default();
                match (trickle.target, &mut one.publisher) {
                    (1, _) => one.subscriber.add_remote_candidate(candidate),
                    (0, Some(publisher)) => publisher.add_remote_candidate(candidate),
                    (0, None) => {}
                    (other, _) => refuse(format!("a candidate for {other}")),
                }
            }
            Request::AddTrack(add) => {
                let track = TrackInfo {
                    sid,
                    r#type: add.r#type,
                    name: add.name,
                    source: add.source,
                    ..TrackInfo::default()
                };
                one.info.tracks.push(track.clone());
                one.send(Response::TrackPublished(TrackPublishedResponse {
                    cid: add.cid,
                    track: Some(track),
                }));
                let (room, info) = (one.room.clone(), one.info.clone());
                self.update(&room, info);
            }
            Request::PingReq(ping) => {
                one.send(Response::PongResp(Pong {
                    last_ping_timestamp: ping.timestamp,
                    timestamp: ping.timestamp,
                }));
            }
            Request::Ping(timestamp) => one.send(Response::Pong(timestamp)),
            Request::Leave(_) => one.gone = true,
            // Qualities, attributes, subscriptions: there is nothing to choose from here.
            _ => {}
        }
    }

    fn trickle(one: &mut Participant, target: i32, candidate: &str, mid: &str) {
        let init = json!({ "candidate": candidate, "sdpMid": mid, "sdpMLineIndex": 0 });
        let candidate_init = init.to_string();
        one.send(Response::Trickle(TrickleRequest { candidate_init, target, r#final: false }));
    }

    fn subscriber_told(&mut self, at: usize, event: PeerEvent) {
        let one = &mut self.here[at];
        match event {
            PeerEvent::Candidate(local) => Self::trickle(one, 1, &local.candidate, &local.mid),
            PeerEvent::ChannelOpen { id, .. } if Some(id) == one.reliable => {
                one.open = true;
                one.hand_over();
            }
            PeerEvent::KeyWanted { .. } => {
                let room = one.room.clone();
                lock(&self.shared).heard.entry(room.clone()).or_default().key_wishes += 1;
                for other in self.here.iter_mut().filter(|other| other.room == room) {
                    if let Some((publisher, mid)) = other.publisher.as_mut().zip(other.picture) {
                        publisher.want_key_picture(mid);
                    }
                }
                self.workers
                    .iter_mut()
                    .filter(|worker| worker.room == room)
                    .for_each(|worker| worker.face.key_wanted());
            }
            _ => {}
        }
    }

    fn publisher_told(&mut self, now: Instant, at: usize, event: PeerEvent) {
        let one = &mut self.here[at];
        match event {
            PeerEvent::Candidate(local) => Self::trickle(one, 0, &local.candidate, &local.mid),
            PeerEvent::Data { data, .. } => self.packet(now, at, &data),
            PeerEvent::Track(_) => {
                let (room, info) = (one.room.clone(), one.info.clone());
                let others = |other: &&mut Participant| other.room == room && other.info.sid != info.sid;
                let mut seen = false;
                for other in self.here.iter_mut().filter(others) {
                    other.show(&info);
                    seen = true;
                }
                // Whoever publishes may wait until somebody takes it.
                for track in info.tracks.iter().filter(|_| seen) {
                    let track_sid = track.sid.clone();
                    self.here[at].send(Response::TrackSubscribed(TrackSubscribed { track_sid }));
                }
            }
            PeerEvent::Sound(packet) => {
                let (room, sid) = (one.room.clone(), one.info.sid.clone());
                for other in self.here.iter_mut().filter(|other| other.room == room && other.info.sid != sid)
                {
                    other.subscriber.send_sound(packet.at, packet.time, &packet.data);
                }
            }
            PeerEvent::Unit(packet) => {
                one.picture = Some(packet.mid);
                let (room, sid) = (one.room.clone(), one.info.sid.clone());
                for other in self.here.iter_mut().filter(|other| other.room == room && other.info.sid != sid)
                {
                    other.subscriber.send_unit(packet.at, packet.time, &packet.unit);
                }
            }
            _ => {}
        }
    }

    fn packet(&mut self, now: Instant, at: usize, bytes: &[u8]) {
        let (room, sid, identity) = {
            let one = &self.here[at];
            (one.room.clone(), one.info.sid.clone(), one.info.identity.clone())
        };
        let mut shared = lock(&self.shared);
        let Ok(mut packet) = DataPacket::decode(bytes) else {
            return shared.refused.push("a packet that cannot be read".to_owned());
        };
        let one = &mut self.here[at];
        if packet.sequence != 0 && packet.sequence != one.sequence + 1 {
            shared.refused.push(format!("packet {} after {}", packet.sequence, one.sequence));
        }
        one.sequence = packet.sequence.max(one.sequence);
        packet.participant_identity.clone_from(&identity);
        packet.participant_sid.clone_from(&sid);
        let to = packet.destination_identities.clone();
        let wanted = |other: &str| to.is_empty() || to.iter().any(|name| name == other);
        for worker in self.workers.iter_mut().filter(|own| own.room == room && wanted(&own.info.identity)) {
            if let Some(value) = packet.value.clone() {
                worker.take(now, &identity, value, &mut shared);
            }
        }
        drop(shared);
        let reached = |other: &&mut Participant| {
            other.room == room && other.info.sid != sid && wanted(&other.info.identity)
        };
        self.here.iter_mut().filter(reached).for_each(|other| other.give(&packet));
    }
}
