//! Driver. Builds the video part of a call: its machine, the thread of inbound pictures and that of outbound ones.
//!
//! What cannot be built costs only itself: without an encoder the caller's picture is still recorded, without a
//! decoder the caller still sees a slate.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{Running, Supplies};
use crate::base::queue::{self, Gop, Latest, Receiver, Sender};
use crate::codec::decoder::Decoder;
use crate::codec::h264::encoder::EncoderKind;
use crate::codec::vp8;
use crate::engine::bus::Bus;
use crate::engine::canvas::{self, Canvas};
use crate::engine::coding::{Coder, Encoding, Limits};
use crate::engine::network::sockets::Sockets;
use crate::engine::network::video::{Inlet, VideoChange, VideoPart, send_format};
use crate::engine::paint::{FIRST_SLATE, Playing, Still};
use crate::engine::plan::{PacketizationMode, Picture, VideoCodec, VideoStream};
use crate::engine::ports::Pair;
use crate::engine::report::Gauges;
use crate::engine::sight;
use crate::engine::steering::{Steered, Steering, steering};
use crate::engine::video_in::VideoIn;
use crate::engine::video_out::{Painter, Source, VideoOut};
use crate::media::access_unit::AccessUnit;
use crate::media::frame::{CleanFrame, Size};
use crate::media::pool::FramePool;
use crate::rtp::video::{REORDER_WAIT, VideoSettings, VideoStream as VideoMachine};
use crate::source::test_picture::TestCard;
use crate::vision::filters::{Resize, Transforms};
use crate::vision::overlay::Overlay;

/// Beside what sight holds: decoder hand 1 + gate copy 1 + {observers 2, video-out, recorder, looker} × (slot 1 + working 1) + slate 1 +
/// burst 1.
const POOL_IN: usize = 14;
/// Source 1 + resized 1 + encoder 1 + next of a file 2, and those of the canvas.
const POOL_OUT: usize = 5 + canvas::HELD;
const UNITS_IN: usize = 30;
const UNITS_OUT: usize = 15;
/// Payload bytes of a packet: with headers, SRTP tag and IPv6 below the 1,280 bytes every path carries.
const MAX_PAYLOAD: usize = 1200;
const LARGEST_PICTURE: Size = Size::new(4096, 2304);
/// Less than this nothing can be coded in; a peer that allows less gets this.
const LEAST_KBPS: u32 = 32;

/// Where cleared pictures of a stream go, and who counts them.
struct Inbound {
    bus: Bus,
    /// Takes the pictures whose coded form the recorder cannot copy.
    recoded: Option<Sender<CleanFrame, Latest>>,
    gauges: Arc<Gauges>,
    /// Whether observers look at it.
    observed: bool,
}

/// What a stream sends.
struct Outbound {
    steering: Steering,
    encoded: Option<Receiver<AccessUnit, Gop>>,
    /// Takes coded pictures as they came.
    recorder: Option<Sender<AccessUnit, Gop>>,
}

impl Running {
    pub(super) fn video(
        &mut self,
        supplies: &mut Supplies,
        stream: &VideoStream,
        pair: Pair,
    ) -> Result<VideoPart, String> {
        let (steering, steered) = steering(stream.route.direction.sends());
        let mut bus = Bus::default();
        if self.plan.video_out.picture == Picture::Mirror {
            bus.add(steering.feed());
        }
        if let Some(recorder) = &self.taps.pictures {
            bus.add(recorder.clone());
        }
        if let Some(sight) = self.talk.as_ref().and_then(|talk| talk.sight.as_ref()) {
            bus.add(sight.camera.clone());
        }
        let (look, pictures) = queue::queue(Latest);
        bus.add_looker(look);
        self.pictures.watch(pictures);
        let encoded = self.video_out(supplies, stream, steered);
        let recoded = self.taps.recoded.clone();
        let inbound = Inbound { bus, recoded, gauges: self.gauges.clone(), observed: true };
        let outbound = Outbound { steering, encoded, recorder: self.taps.units.clone() };
        let part = self.part(supplies, stream, pair, inbound, outbound)?;
        self.key_needed = Some(part.key_needed.clone());
        Ok(part)
    }

    /// A second picture of the peer, received only: through a gate of its own into a file of its own. Nobody else
    /// gets it.
    pub(super) fn shared_screen(
        &mut self,
        supplies: &mut Supplies,
        stream: &VideoStream,
        pair: Pair,
    ) -> Result<VideoPart, String> {
        let mut bus = Bus::default();
        if let Some(recorder) = self.slides_recorder(supplies) {
            bus.add(recorder);
        }
        if let Some(sight) = self.talk.as_ref().and_then(|talk| talk.sight.as_ref()) {
            bus.add(sight.screen.clone());
        }
        let (steering, _) = steering(false);
        let inbound = Inbound { bus, recoded: None, gauges: self.slides.clone(), observed: false };
        self.part(supplies, stream, pair, inbound, Outbound { steering, encoded: None, recorder: None })
    }

    fn part(
        &mut self,
        supplies: &mut Supplies,
        stream: &VideoStream,
        pair: Pair,
        inbound: Inbound,
        outbound: Outbound,
    ) -> Result<VideoPart, String> {
        let sockets = Sockets::new(pair, stream.route.rtcp_mux);
        let bell = supplies.bell(&sockets)?;
        let guard = self.guard(supplies, &stream.route);
        let settings = VideoSettings {
            stream: self.stream_settings(supplies, &stream.route, &guard, 90_000),
            receive: stream.receive.clone(),
            send_payload_type: stream.send_payload_type,
            send_format: send_format(stream),
            parameter_sets: stream.parameter_sets.clone(),
            feedback: stream.feedback,
            retransmission: stream.retransmission.clone(),
            max_payload: MAX_PAYLOAD,
            pace_kbps: self.kbps(stream),
            reorder_wait: REORDER_WAIT,
        };
        let machine = VideoMachine::new(self.epoch, settings, supplies.seed());
        let key_needed = Arc::new(AtomicBool::new(false));
        let decoder = self.video_in(supplies, stream, inbound, key_needed.clone());
        let Outbound { steering, encoded, recorder } = outbound;
        if !guard.ready() {
            steering.set_sending(false);
        }
        Ok(VideoPart {
            sockets,
            guard,
            inlet: Inlet::new(bell),
            machine,
            first_ms: None,
            stream: stream.clone(),
            decoder,
            encoded,
            steering,
            key_needed,
            recorder,
            recorded: false,
            blind: false,
            shift: 0,
            skew_ms: None,
        })
    }

    /// What a renewed offer and answer make of the running stream.
    pub(super) fn video_change(&mut self, supplies: &Supplies, stream: VideoStream) -> VideoChange {
        let coder = self.coder(supplies, &stream).filter(|coder| self.coder != Some(*coder));
        if coder.is_some() {
            self.coder = coder;
        }
        VideoChange { pace_kbps: self.kbps(&stream), stream, coder }
    }

    pub(super) fn kbps(&self, stream: &VideoStream) -> u32 {
        let own = self.plan.video_out.kbps;
        stream.max_kbps.map_or(own, |most| most.min(own)).max(LEAST_KBPS)
    }

    /// How pictures for this peer are coded. `None`: there is no encoder for it, which is told.
    fn coder(&self, supplies: &Supplies, stream: &VideoStream) -> Option<Coder> {
        let bounded = stream.codec == VideoCodec::H264 && stream.send_mode == PacketizationMode::SingleNal;
        let out = &self.plan.video_out;
        let encoding = match stream.codec {
            VideoCodec::Vp8 => vp8::proven().map(|()| Encoding::Vp8).map_err(|error| error.to_string()),
            // What is only received: the thread waits, with the usual encoder, for an offer that lets it send.
            VideoCodec::H264 | VideoCodec::Vp9 | VideoCodec::H265 => {
                (supplies.settings.choose_encoder)(&out.encoder, bounded).map(Encoding::H264)
            }
        };
        match encoding {
            Ok(encoding) => Some(Coder {
                encoding,
                limits: Limits {
                    max: out.max,
                    max_macroblocks: stream.max_macroblocks,
                    max_macroblocks_per_second: stream.max_macroblocks_per_second,
                    kbps: self.kbps(stream),
                    fps: out.fps,
                    // Where nothing is sent again, a lost packet is to cost no more than a slice.
                    max_nal_bytes: (bounded
                        || encoding == Encoding::H264(EncoderKind::X264) && !stream.feedback.nack)
                        .then_some(MAX_PAYLOAD),
                    single_nal: bounded,
                    profile_level_id: stream.profile_level_id,
                },
            }),
            Err(text) => {
                self.fault(format!("no outbound picture: {text}"));
                None
            }
        }
    }

    /// Starts the outbound thread; it pauses while nothing may be sent.
    fn video_out(
        &mut self,
        supplies: &Supplies,
        stream: &VideoStream,
        steered: Steered,
    ) -> Option<Receiver<AccessUnit, Gop>> {
        let coder = self.coder(supplies, stream)?;
        self.coder = Some(coder);
        let (units, encoded) = queue::queue(Gop::new(UNITS_OUT));
        let out = VideoOut {
            source: self.source(supplies),
            steered,
            coder,
            units,
            pool: FramePool::new(POOL_OUT),
            epoch: self.epoch,
            name: self.plan.label.name.clone(),
            gauges: self.gauges.clone(),
            canvas: Canvas::new(self.pictures.board().clone(), self.plan.video_out.max),
        };
        self.scope.thread("video-out", move || out.run());
        Some(encoded)
    }

    /// Whether a sight holds pictures of this call.
    fn looks(&self) -> bool {
        self.talk.as_ref().is_some_and(|talk| talk.sight.is_some())
    }

    fn source(&self, supplies: &Supplies) -> Source {
        let name = &self.plan.label.name;
        let painter: Box<dyn Painter> = match &self.plan.video_out.picture {
            Picture::Mirror => {
                let slate = Box::new(Still::new("waiting for your picture", name, FIRST_SLATE));
                return Source::Mirror { slate };
            }
            Picture::TestCard { source, size } => Box::new(TestCard::new(*size, *source)),
            Picture::Face { text, size } => match self.face_view(supplies, text, *size) {
                Some(view) => return Source::Face(Box::new(view)),
                None => Box::new(Still::new(text, name, *size)),
            },
            Picture::Still { text, size } => Box::new(Still::new(text, name, *size)),
            Picture::Clip { path, size } => match Playing::open(path, *size) {
                Ok(playing) => Box::new(playing),
                Err(text) => {
                    self.fault(text);
                    Box::new(Still::new("no picture", name, FIRST_SLATE))
                }
            },
        };
        Source::Own { painter, fps: self.plan.video_out.fps }
    }

    fn video_in(
        &mut self,
        supplies: &Supplies,
        stream: &VideoStream,
        inbound: Inbound,
        key_needed: Arc<AtomicBool>,
    ) -> Sender<AccessUnit, Gop> {
        let Inbound { bus, recoded, gauges, observed } = inbound;
        let (sender, units) = queue::queue(Gop::new(UNITS_IN));
        let decoder = match Decoder::new(expected(stream), LARGEST_PICTURE) {
            Ok(decoder) => decoder,
            Err(error) => {
                self.fault(format!("decoder: {error}"));
                return sender;
            }
        };
        let look = self.plan.video_in.look().clone();
        let (mut undrawn, mut seen) = (Vec::new(), Vec::new());
        let watched = self.talk.as_ref().is_some_and(|talk| talk.seen.is_some());
        if (look.overlay.boxes || watched) && observed {
            for name in &look.observers {
                if let Some((pictures, boxes)) = self.observer(supplies, name) {
                    undrawn.push(pictures);
                    if look.overlay.boxes {
                        seen.push(boxes);
                    }
                }
            }
        }
        let thread = VideoIn {
            units,
            decoder: Box::new(decoder),
            gate: self.gate(supplies),
            transforms: Transforms::new(look.transforms),
            resize: look.resize.map(Resize::new),
            overlay: Overlay::new(look.overlay),
            label: self.plan.label.clone(),
            clock: supplies.settings.clock,
            pool: FramePool::new(POOL_IN + if self.looks() { sight::HELD } else { 0 }),
            undrawn,
            seen,
            bus,
            recoded,
            epoch: self.epoch,
            gauges,
            key_needed,
            frame: 0,
        };
        self.scope.thread("video-in", move || thread.run());
        sender
    }
}

/// The codec the peer will most likely send: the one we send, if it may, else its first.
fn expected(stream: &VideoStream) -> VideoCodec {
    let ours = stream.receive.iter().find(|(_, codec)| *codec == stream.codec);
    ours.or(stream.receive.first()).map_or(stream.codec, |(_, codec)| *codec)
}
