//! One who is in a room over the network: its socket and its two peer connections.

use std::collections::VecDeque;

use eyeline::webrtc::Mid;
use eyeline::webrtc::event::ChannelId;
use eyeline::webrtc::link::PeerLink;
use eyeline::webrtc::settings::Way;
use livekit_protocol::signal_response::Message as Response;
use livekit_protocol::{DataPacket, ParticipantInfo, SessionDescription, SignalResponse};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// One who joined over the network.
pub struct Participant {
    pub info: ParticipantInfo,
    pub room: String,
    pub stream: Box<WebSocketStream<TcpStream>>,
    pub outgoing: VecDeque<Message>,
    pub subscriber: PeerLink,
    pub reliable: Option<ChannelId>,
    pub open: bool,
    pub waiting: VecDeque<Vec<u8>>,
    pub offers: u32,
    pub answered: u32,
    /// Something changed while an offer was not answered: another follows.
    pub again: bool,
    /// Whose tracks are offered.
    pub shown: Option<ParticipantInfo>,
    pub publisher: Option<PeerLink>,
    /// Its picture among what it publishes.
    pub picture: Option<Mid>,
    pub sequence: u32,
    pub gone: bool,
}

impl Participant {
    pub fn send(&mut self, message: Response) {
        let bytes = SignalResponse { message: Some(message) }.encode_to_vec();
        self.outgoing.push_back(Message::Binary(bytes.into()));
    }

    /// An offer of what is there for it, with the tracks under their owner's name.
    pub fn offer(&mut self) {
        self.again = self.offers > self.answered;
        if self.again {
            return;
        }
        let Some(sdp) = self.subscriber.create_offer() else { return };
        self.offers += 1;
        let sdp = self.shown.as_ref().map_or_else(|| sdp.clone(), |owner| named(&sdp, owner));
        let id = self.offers;
        self.send(Response::Offer(SessionDescription {
            r#type: "offer".to_owned(),
            sdp,
            id,
            ..SessionDescription::default()
        }));
    }

    pub fn show(&mut self, owner: &ParticipantInfo) {
        self.shown = Some(owner.clone());
        // What nobody publishes yet has no name to be offered under.
        let has = |kind: i32| owner.tracks.iter().any(|track| track.r#type == kind);
        if has(0) {
            self.subscriber.want_sound(Way::Send);
        }
        if has(1) {
            self.subscriber.want_video(Way::Send);
        }
        self.offer();
    }

    pub fn give(&mut self, packet: &DataPacket) {
        self.waiting.push_back(packet.encode_to_vec());
        self.hand_over();
    }

    /// What waits, as the channel takes it: what is written while it is full is lost.
    pub fn hand_over(&mut self) {
        let Some(id) = self.reliable.filter(|_| self.open) else { return };
        while self.subscriber.buffered(id) < 32 << 10
            && let Some(bytes) = self.waiting.pop_front()
        {
            self.subscriber.send(id, &bytes, false);
        }
    }
}

/// The participant and the track instead of what our peer connection calls them.
fn named(sdp: &str, owner: &ParticipantInfo) -> String {
    let mut kind = 0;
    let lines = sdp.lines().map(|line| {
        if let Some(media) = line.strip_prefix("m=") {
            kind = i32::from(media.starts_with("video"));
        }
        let track = owner.tracks.iter().find(|track| track.r#type == kind);
        match (line.starts_with("a=msid:"), track) {
            (true, Some(track)) => format!("a=msid:{}|{} {}", owner.sid, track.sid, track.sid),
            _ => line.to_owned(),
        }
    });
    lines.map(|line| line + "\r\n").collect()
}
