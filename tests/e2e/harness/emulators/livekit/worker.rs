//! A vendor's worker inside the server: speech by `lk.audio_stream`, the three procedures of playback, a made-up face.

use std::time::{Duration, Instant};

use livekit_protocol::data_packet::Value as Packet;
use livekit_protocol::{ParticipantInfo, RpcAck, RpcRequest, RpcResponse, rpc_response};
use serde_json::json;

use super::Shared;
use crate::harness::emulators::face::{Coding, Face, FaceSettings};

/// How a worker behaves.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// From the request to its being in the room.
    pub late: Duration,
    /// It never tells that it has finished.
    pub never_finishes: bool,
    pub coding: Coding,
    /// Width and height of its picture.
    pub size: (usize, usize),
}

impl Default for WorkerSettings {
    fn default() -> Self {
        WorkerSettings {
            late: Duration::from_millis(50),
            never_finishes: false,
            coding: Coding::Baseline,
            size: (640, 360),
        }
    }
}

impl WorkerSettings {
    pub fn face(&self) -> FaceSettings {
        let (width, height) = self.size;
        FaceSettings { coding: self.coding, width, height, ..FaceSettings::default() }
    }
}

/// What a worker got.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    pub rate: u32,
    pub samples: Vec<i16>,
    /// Streams that were closed.
    pub segments: usize,
    pub cleared: Vec<Instant>,
    /// Key pictures somebody asked for.
    pub key_wishes: usize,
    /// When its lips were lit and went dark.
    pub lips: Vec<(Instant, bool)>,
}

/// A worker inside the server: what it is sent and what it sends is what goes over the network.
pub struct Worker {
    pub info: ParticipantInfo,
    pub room: String,
    pub face: Face,
    pub settings: WorkerSettings,
    /// Who speaks through it.
    pub speaker: String,
    pub stream: Option<String>,
    /// What follows of this stream is dropped.
    pub dropped: Option<String>,
    pub closed: bool,
    pub told: bool,
    pub sent_ms: u64,
    pub calls: u32,
    pub outgoing: Vec<(String, Packet)>,
}

impl Worker {
    fn call(&mut self, method: &str, payload: String) {
        self.calls += 1;
        let request = RpcRequest {
            id: format!("{}-{}", self.info.sid, self.calls),
            method: method.to_owned(),
            payload,
            response_timeout_ms: 8_000,
            version: 1,
            ..RpcRequest::default()
        };
        self.outgoing.push((self.speaker.clone(), Packet::RpcRequest(request)));
    }

    fn finished(&mut self, interrupted: bool) {
        self.told = false;
        self.closed = false;
        if !self.settings.never_finishes {
            let position = self.sent_ms as f64 / 1_000.0;
            let report = json!({ "playback_position": position, "interrupted": interrupted });
            self.call("lk.playback_finished", report.to_string());
        }
        self.sent_ms = 0;
    }

    pub fn take(&mut self, now: Instant, from: &str, packet: Packet, shared: &mut Shared) {
        let heard = shared.heard.entry(self.room.clone()).or_default();
        match packet {
            Packet::StreamHeader(header) => {
                let number =
                    |name: &str| header.attributes.get(name).and_then(|text| text.parse::<u32>().ok());
                let good = header.topic == "lk.audio_stream" && number("num_channels") == Some(1);
                let Some(rate) = number("sample_rate").filter(|_| good && self.stream.is_none()) else {
                    return shared.refused.push(format!("a stream {header:?}"));
                };
                heard.rate = rate;
                self.stream = Some(header.stream_id);
                self.speaker = from.to_owned();
                self.closed = false;
            }
            Packet::StreamChunk(chunk) => {
                if self.dropped.as_ref() == Some(&chunk.stream_id) {
                    return;
                }
                if self.stream.as_ref() != Some(&chunk.stream_id) || chunk.content.len() > 15_000 {
                    return shared.refused.push(format!("a chunk of {} bytes", chunk.content.len()));
                }
                let samples: Vec<i16> =
                    chunk.content.chunks_exact(2).map(|two| i16::from_le_bytes([two[0], two[1]])).collect();
                self.sent_ms += samples.len() as u64 * 1_000 / u64::from(heard.rate.max(1));
                self.face.say(now, &samples, heard.rate);
                heard.samples.extend(samples);
            }
            Packet::StreamTrailer(end) => {
                if self.dropped.take_if(|dropped| *dropped == end.stream_id).is_none() {
                    self.closed = true;
                    heard.segments += 1;
                }
                self.stream = self.stream.take().filter(|own| *own != end.stream_id);
            }
            Packet::RpcRequest(request) => {
                self.outgoing
                    .push((from.to_owned(), Packet::RpcAck(RpcAck { request_id: request.id.clone() })));
                if request.method == "lk.clear_buffer" {
                    heard.cleared.push(now);
                    self.face.cut(now);
                    self.dropped = self.stream.take();
                    self.finished(true);
                } else {
                    shared.refused.push(format!("a call of {}", request.method));
                }
                let value = Some(rpc_response::Value::Payload(String::new()));
                let response = RpcResponse { request_id: request.id, value };
                self.outgoing.push((from.to_owned(), Packet::RpcResponse(response)));
            }
            _ => {}
        }
    }

    pub fn watch(&mut self, shared: &mut Shared) {
        let heard = shared.heard.entry(self.room.clone()).or_default();
        heard.lips.append(&mut self.face.log.turns);
        if self.face.is_speaking() && !self.told && (self.sent_ms > 0) {
            self.told = true;
            self.call("lk.playback_started", String::new());
        }
        if self.told && self.closed && self.face.waiting().is_zero() {
            self.finished(false);
        }
    }
}
