//! Data packets between participants: streams of bytes outward, and procedures called both ways (RPC, version 1).
//!
//! Pure. What the procedures are belongs to who uses the room.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use livekit_protocol::data_packet::Value;
use livekit_protocol::data_stream::header::ContentHeader;
use livekit_protocol::data_stream::{ByteHeader, Chunk, Header, Trailer};
use livekit_protocol::{DataPacket, RpcAck, RpcError, RpcRequest, RpcResponse, rpc_response};
use prost::Message as _;

/// Bytes of a stream in one packet.
const CHUNK: usize = 15_000;
/// Bytes of what a procedure is given and gives.
const PAYLOAD: usize = 15_000;
/// A call is acknowledged in so long, or its callee is not there.
const ACK_WITHIN: Duration = Duration::from_secs(7);
/// Calls of ours without an answer.
const CALLS_MAX: usize = 16;
/// Bytes of streams, and packets, that wait to be sent: a minute and a half of sound at 24 kHz.
const WAITING_MAX: usize = 4 << 20;
const OUTWARD_MAX: usize = 1_024;
/// The largest packet looked at.
const PACKET_MAX: usize = 64 << 10;

/// The codes of errors that every party knows.
pub mod code {
    pub const UNSUPPORTED_METHOD: u32 = 1400;
    pub const UNSUPPORTED_VERSION: u32 = 1404;
    pub const CONNECTION_TIMEOUT: u32 = 1501;
    pub const RESPONSE_TIMEOUT: u32 = 1502;
    pub const SEND_FAILED: u32 = 1505;
}

/// Why a call brought nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct RpcFailure {
    pub code: u32,
    pub message: String,
}

/// What a packet brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inward {
    /// To be answered with [`Packets::answer`]; it is acknowledged.
    Call { id: String, from: String, method: String, payload: String },
    /// The answer to a call of ours.
    Answer { id: u64, result: Result<String, RpcFailure> },
    /// Something said to everybody or to us.
    Data { from: String, topic: String, payload: Vec<u8> },
}

struct Call {
    number: u64,
    acknowledged: bool,
    ack_by: Instant,
    answer_by: Instant,
}

/// Counts what could not be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketCounters {
    /// Packets that cannot be read, or answer nothing that was asked.
    pub odd: u64,
    /// Packets that were not sent because too much waits already.
    pub unsent: u64,
}

/// The packets of one stay in a room. What is to be sent lies in [`Packets::poll_outward`], encoded, in order.
pub struct Packets {
    /// Of the last packet sent; the first bears 1.
    sequence: u32,
    calls: HashMap<String, Call>,
    numbers: u64,
    outward: VecDeque<Outward>,
    /// Bytes of streams' bodies that wait.
    waiting: usize,
    inward: VecDeque<Inward>,
    counters: PacketCounters,
}

/// One packet that waits to be sent over the reliable channel.
struct Outward {
    to: String,
    value: Value,
    /// It belongs to the body of the stream with this number.
    body_of: Option<u64>,
}

impl Outward {
    fn body(&self) -> usize {
        match &self.value {
            Value::StreamChunk(chunk) => chunk.content.len(),
            _ => 0,
        }
    }
}

/// A stream of bytes that is being sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByteStream {
    pub number: u64,
    id: String,
    to: String,
    chunks: u64,
}

impl Default for Packets {
    fn default() -> Self {
        Packets::new()
    }
}

impl Packets {
    pub fn new() -> Self {
        Packets {
            sequence: 0,
            calls: HashMap::new(),
            numbers: 0,
            outward: VecDeque::new(),
            waiting: 0,
            inward: VecDeque::new(),
            counters: PacketCounters::default(),
        }
    }

    /// The connection begins anew: the other side counts from 1 again, and nothing of before is answered.
    pub fn restart(&mut self) {
        self.sequence = 0;
        self.outward.clear();
        self.waiting = 0;
        for (_, call) in self.calls.drain() {
            let result = Err(RpcFailure { code: code::SEND_FAILED, message: "the room was left".to_owned() });
            self.inward.push_back(Inward::Answer { id: call.number, result });
        }
    }

    pub fn counters(&self) -> PacketCounters {
        self.counters
    }

    /// The next message for the reliable channel.
    pub fn poll_outward(&mut self) -> Option<Vec<u8>> {
        let next = self.outward.pop_front()?;
        self.waiting -= next.body();
        self.sequence = self.sequence.wrapping_add(1);
        let packet = DataPacket {
            destination_identities: vec![next.to],
            sequence: self.sequence,
            value: Some(next.value),
            ..DataPacket::default()
        };
        Some(packet.encode_to_vec())
    }

    /// Whether something waits to be sent.
    pub fn has_outward(&self) -> bool {
        !self.outward.is_empty()
    }

    pub fn poll_inward(&mut self) -> Option<Inward> {
        self.inward.pop_front()
    }

    fn push(&mut self, to: &str, value: Value, body_of: Option<u64>) {
        let next = Outward { to: to.to_owned(), value, body_of };
        if self.outward.len() >= OUTWARD_MAX || self.waiting + next.body() > WAITING_MAX {
            self.counters.unsent += 1;
            return;
        }
        self.waiting += next.body();
        self.outward.push_back(next);
    }

    /// What waits of a stream's body is not sent any more.
    pub fn cut(&mut self, stream: &ByteStream) {
        self.outward.retain(|next| next.body_of != Some(stream.number));
        self.waiting = self.outward.iter().map(Outward::body).sum();
    }

    /// Opens a stream of bytes to one participant. `unix_ms`: the time of day; `seed` makes its id.
    pub fn open_stream(
        &mut self,
        to: &str,
        topic: &str,
        attributes: &[(&str, String)],
        unix_ms: i64,
        seed: u64,
    ) -> ByteStream {
        self.numbers += 1;
        let id = format!("{seed:016x}{:08x}", self.numbers);
        let header = Header {
            stream_id: id.clone(),
            timestamp: unix_ms,
            topic: topic.to_owned(),
            mime_type: "application/octet-stream".to_owned(),
            attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            content_header: Some(ContentHeader::ByteHeader(ByteHeader { name: format!("AUDIO_{id}") })),
            ..Header::default()
        };
        self.push(to, Value::StreamHeader(header), None);
        ByteStream { number: self.numbers, id, to: to.to_owned(), chunks: 0 }
    }

    /// More bytes of a stream.
    pub fn write(&mut self, stream: &mut ByteStream, bytes: &[u8]) {
        for content in bytes.chunks(CHUNK) {
            let chunk = Chunk {
                stream_id: stream.id.clone(),
                chunk_index: stream.chunks,
                content: content.to_vec(),
                ..Chunk::default()
            };
            stream.chunks += 1;
            self.push(&stream.to, Value::StreamChunk(chunk), Some(stream.number));
        }
    }

    /// The stream is complete.
    pub fn close_stream(&mut self, stream: ByteStream) {
        let trailer = Trailer { stream_id: stream.id, ..Trailer::default() };
        self.push(&stream.to, Value::StreamTrailer(trailer), None);
    }

    /// Calls a procedure of a participant. [`Inward::Answer`] with the number given here follows within `within`.
    pub fn call(
        &mut self,
        now: Instant,
        to: &str,
        method: &str,
        payload: &str,
        within: Duration,
        seed: u64,
    ) -> u64 {
        self.numbers += 1;
        let number = self.numbers;
        if self.calls.len() >= CALLS_MAX || payload.len() > PAYLOAD {
            let failure = RpcFailure { code: code::SEND_FAILED, message: "too much".to_owned() };
            self.inward.push_back(Inward::Answer { id: number, result: Err(failure) });
            return number;
        }
        let id = format!("{seed:016x}{number:08x}");
        let request = RpcRequest {
            id: id.clone(),
            method: method.to_owned(),
            payload: payload.to_owned(),
            response_timeout_ms: u32::try_from(within.as_millis()).unwrap_or(u32::MAX),
            version: 1,
            ..RpcRequest::default()
        };
        let call = Call {
            number,
            acknowledged: false,
            ack_by: now + ACK_WITHIN.min(within),
            answer_by: now + within,
        };
        self.calls.insert(id, call);
        self.push(to, Value::RpcRequest(request), None);
        number
    }

    /// Answers a call of `to`.
    pub fn answer(&mut self, to: &str, id: &str, result: Result<String, RpcFailure>) {
        let value = match result {
            Ok(payload) => rpc_response::Value::Payload(payload),
            Err(failure) => rpc_response::Value::Error(RpcError {
                code: failure.code,
                message: failure.message,
                data: String::new(),
            }),
        };
        let response = RpcResponse { request_id: id.to_owned(), value: Some(value) };
        self.push(to, Value::RpcResponse(response), None);
    }

    /// Takes one message of a data channel.
    pub fn handle(&mut self, bytes: &[u8]) {
        let packet = Some(bytes).filter(|bytes| bytes.len() <= PACKET_MAX);
        let Some(packet) = packet.and_then(|bytes| DataPacket::decode(bytes).ok()) else {
            self.counters.odd += 1;
            return;
        };
        let from = packet.participant_identity;
        match packet.value {
            Some(Value::User(user)) => {
                let topic = user.topic.unwrap_or_default();
                self.inward.push_back(Inward::Data { from, topic, payload: user.payload });
            }
            Some(Value::RpcRequest(request)) => self.called(from, request),
            Some(Value::RpcAck(ack)) => match self.calls.get_mut(&ack.request_id) {
                Some(call) => call.acknowledged = true,
                None => self.counters.odd += 1,
            },
            Some(Value::RpcResponse(response)) => self.answered(response),
            // Streams toward us, telephony, transcripts, figures: nobody here wants them.
            _ => {}
        }
    }

    fn called(&mut self, from: String, request: RpcRequest) {
        self.push(&from, Value::RpcAck(RpcAck { request_id: request.id.clone() }), None);
        if request.version != 1 || request.payload.len() > PAYLOAD {
            let message = "only version 1 is spoken".to_owned();
            let failure = RpcFailure { code: code::UNSUPPORTED_VERSION, message };
            return self.answer(&from, &request.id, Err(failure));
        }
        let (id, method, payload) = (request.id, request.method, request.payload);
        self.inward.push_back(Inward::Call { id, from, method, payload });
    }

    fn answered(&mut self, response: RpcResponse) {
        let Some(call) = self.calls.remove(&response.request_id) else {
            self.counters.odd += 1;
            return;
        };
        let result = match response.value {
            Some(rpc_response::Value::Payload(payload)) => Ok(payload),
            Some(rpc_response::Value::Error(error)) => {
                let message = error.message.chars().filter(|letter| !letter.is_control()).take(200).collect();
                Err(RpcFailure { code: error.code, message })
            }
            // Compressed payloads belong to versions that were not offered.
            _ => Err(RpcFailure { code: code::UNSUPPORTED_VERSION, message: "an answer unread".to_owned() }),
        };
        self.inward.push_back(Inward::Answer { id: call.number, result });
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.calls.values().map(|call| if call.acknowledged { call.answer_by } else { call.ack_by }).min()
    }

    /// Gives up calls that are not answered in time.
    pub fn handle_time(&mut self, now: Instant) {
        let late: Vec<String> = self
            .calls
            .iter()
            .filter(|(_, call)| now >= if call.acknowledged { call.answer_by } else { call.ack_by })
            .map(|(id, _)| id.clone())
            .collect();
        for id in late {
            let Some(call) = self.calls.remove(&id) else { continue };
            let code = if call.acknowledged { code::RESPONSE_TIMEOUT } else { code::CONNECTION_TIMEOUT };
            let result = Err(RpcFailure { code, message: "no answer".to_owned() });
            self.inward.push_back(Inward::Answer { id: call.number, result });
        }
    }
}

#[cfg(test)]
mod tests {
    use livekit_protocol::UserPacket;

    use super::*;

    fn sent(packets: &mut Packets) -> Vec<DataPacket> {
        std::iter::from_fn(|| packets.poll_outward())
            .map(|bytes| DataPacket::decode(&bytes[..]).expect("a packet"))
            .collect()
    }

    fn from(identity: &str, value: Value) -> Vec<u8> {
        DataPacket { participant_identity: identity.to_owned(), value: Some(value), ..DataPacket::default() }
            .encode_to_vec()
    }

    #[test]
    fn a_stream_is_a_header_chunks_and_a_trailer_to_one_participant_in_sequence() {
        let mut packets = Packets::new();
        let attributes = [("sample_rate", "24000".to_owned()), ("num_channels", "1".to_owned())];
        let mut stream = packets.open_stream("face", "lk.audio_stream", &attributes, 1_700_000_000_000, 7);
        packets.write(&mut stream, &[1; 32_000]);
        packets.close_stream(stream);
        let sent = sent(&mut packets);
        assert_eq!(sent.iter().map(|packet| packet.sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert!(sent.iter().all(|packet| packet.destination_identities == ["face"]));
        let Some(Value::StreamHeader(header)) = &sent[0].value else { panic!("{:?}", sent[0]) };
        assert_eq!(header.topic, "lk.audio_stream");
        assert_eq!(header.attributes["sample_rate"], "24000");
        let Some(ContentHeader::ByteHeader(own)) = &header.content_header else { panic!("no bytes") };
        assert_eq!(own.name, format!("AUDIO_{}", header.stream_id));
        let chunks: Vec<(u64, usize)> = sent[1..4]
            .iter()
            .map(|packet| match &packet.value {
                Some(Value::StreamChunk(chunk)) => (chunk.chunk_index, chunk.content.len()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(chunks, [(0, 15_000), (1, 15_000), (2, 2_000)]);
        assert!(
            matches!(&sent[4].value, Some(Value::StreamTrailer(end)) if end.stream_id == header.stream_id)
        );
    }

    #[test]
    fn a_stream_that_is_cut_says_no_more_than_that_it_is_over_and_one_nobody_takes_is_bounded() {
        let mut packets = Packets::new();
        let mut stream = packets.open_stream("face", "t", &[], 0, 1);
        packets.write(&mut stream, &[1; 45_000]);
        packets.cut(&stream);
        packets.close_stream(stream);
        let kept = sent(&mut packets);
        assert_eq!(kept.iter().map(|packet| packet.sequence).collect::<Vec<_>>(), [1, 2]);
        let mut stream = packets.open_stream("face", "t", &[], 0, 2);
        for _ in 0..300 {
            packets.write(&mut stream, &[1; 15_000]);
        }
        assert_eq!(packets.counters().unsent, 300 - (WAITING_MAX / 15_000) as u64);
    }

    #[test]
    fn a_call_of_ours_is_answered_or_given_up_at_its_time() {
        let (mut packets, now) = (Packets::new(), Instant::now());
        let second = Duration::from_secs(1);
        let call = packets.call(now, "face", "lk.clear_buffer", "", 10 * second, 1);
        let Some(Value::RpcRequest(request)) = sent(&mut packets).remove(0).value else {
            panic!("no request")
        };
        assert_eq!(
            (request.method.as_str(), request.version, request.response_timeout_ms),
            ("lk.clear_buffer", 1, 10_000)
        );
        packets.handle(&from("face", Value::RpcAck(RpcAck { request_id: request.id.clone() })));
        packets.handle_time(now + 8 * second);
        assert_eq!(packets.poll_inward(), None, "it was acknowledged");
        let value = Some(rpc_response::Value::Payload("ok".to_owned()));
        let response = RpcResponse { request_id: request.id, value };
        packets.handle(&from("face", Value::RpcResponse(response.clone())));
        assert_eq!(packets.poll_inward(), Some(Inward::Answer { id: call, result: Ok("ok".to_owned()) }));
        packets.handle(&from("face", Value::RpcResponse(response)));
        assert_eq!((packets.poll_inward(), packets.counters().odd), (None, 1), "once");

        let call = packets.call(now, "face", "lk.clear_buffer", "", 10 * second, 2);
        assert_eq!(packets.wake_at(), Some(now + 7 * second));
        packets.handle_time(now + 7 * second);
        let Some(Inward::Answer { id, result: Err(failure) }) = packets.poll_inward() else {
            panic!("given up")
        };
        assert_eq!((id, failure.code), (call, code::CONNECTION_TIMEOUT));
    }

    #[test]
    fn a_call_of_theirs_is_acknowledged_before_it_is_answered_and_another_version_is_refused() {
        let mut packets = Packets::new();
        let mut request = RpcRequest {
            id: "r1".to_owned(),
            method: "lk.playback_finished".to_owned(),
            payload: "{}".to_owned(),
            version: 1,
            ..RpcRequest::default()
        };
        packets.handle(&from("face", Value::RpcRequest(request.clone())));
        let Some(Inward::Call { id, from: who, method, .. }) = packets.poll_inward() else {
            panic!("a call")
        };
        assert_eq!((id.as_str(), who.as_str(), method.as_str()), ("r1", "face", "lk.playback_finished"));
        packets.answer(&who, &id, Ok("ok".to_owned()));
        let kinds: Vec<bool> =
            sent(&mut packets).iter().map(|packet| matches!(packet.value, Some(Value::RpcAck(_)))).collect();
        assert_eq!(kinds, [true, false]);
        request.version = 2;
        packets.handle(&from("face", Value::RpcRequest(request)));
        assert_eq!(packets.poll_inward(), None);
        assert!(matches!(
            &sent(&mut packets)[1].value,
            Some(Value::RpcResponse(RpcResponse { value: Some(rpc_response::Value::Error(error)), .. }))
                if error.code == code::UNSUPPORTED_VERSION
        ));
    }

    #[test]
    fn nonsense_is_counted_and_data_comes_with_its_topic() {
        let mut packets = Packets::new();
        packets.handle(&[0xff; 40]);
        packets.handle(&vec![0; PACKET_MAX + 1]);
        assert_eq!(packets.counters().odd, 2);
        let user = UserPacket {
            payload: b"hi".to_vec(),
            topic: Some("agent-response".to_owned()),
            ..UserPacket::default()
        };
        packets.handle(&from("heygen", Value::User(user)));
        let data = Inward::Data {
            from: "heygen".to_owned(),
            topic: "agent-response".to_owned(),
            payload: b"hi".to_vec(),
        };
        assert_eq!(packets.poll_inward(), Some(data));
    }

    #[test]
    fn a_room_entered_again_counts_from_one_and_owes_no_answers() {
        let (mut packets, now) = (Packets::new(), Instant::now());
        let call = packets.call(now, "face", "m", "", Duration::from_secs(1), 1);
        packets.restart();
        assert!(matches!(packets.poll_inward(), Some(Inward::Answer { id, result: Err(_) }) if id == call));
        assert!(packets.poll_outward().is_none());
        packets.answer("face", "r", Ok(String::new()));
        assert_eq!(sent(&mut packets)[0].sequence, 1);
    }
}
