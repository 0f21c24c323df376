//! One peer connection without sockets and clocks: SDP, ICE, DTLS-SRTP, media and data channels, by `str0m`.
//!
//! Offers and answers of JSEP (RFC 9429): everything over one transport, in the order browsers use (video, sound, then
//! data). Candidates trickle (RFC 8838). How addresses are had is [`super::link`]'s.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::channel::{ChannelConfig, Reliability};
use str0m::format::{Codec, PayloadParams};
use str0m::media::{Direction, Frequency, KeyframeRequestKind, MediaData, MediaKind, MediaTime, Pt};
use str0m::net::{Protocol, Receive, Transmit};
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc, RtcError};

use super::Mid;
use super::event::{ChannelId, Kind, LocalCandidate, PeerEvent, Report, SoundPacket, Track, UnitPacket};
use super::settings::{PeerSettings, Way};
use crate::base::time::Pts;
use crate::media::access_unit::{AccessUnit, VideoCodec};
use crate::media::nal::{self, NalType};
use crate::media::vp8;

/// The longest SDP that is read.
const SDP_MAX: usize = 256 * 1024;
/// Remote candidates taken in one round.
const CANDIDATES_MAX: usize = 64;
/// Data channels known at a time.
const CHANNELS_MAX: usize = 32;
/// Pictures wait for one that is being repeated; more than so many behind it, it is given up.
const PICTURES_WAIT: usize = 12;
/// Checks of a path in use, and how many go unanswered until it is given up.
const CHECK_EVERY: Duration = Duration::from_millis(1_000);
const CHECKS: usize = 5;
/// A path in use is checked every second, and every check is answered: nothing at all for so long, and it is cut.
const SILENT: Duration = Duration::from_millis(3_500);

/// Why an offer or an answer is of no use.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PeerError {
    #[error("SDP: {0}")]
    Sdp(String),
    /// An answer to no offer, or to one that was replaced.
    #[error("an answer to no offer of ours")]
    Unasked,
}

/// What a peer wants next.
#[derive(Debug)]
pub enum Step {
    Send(Transmit),
    Event(PeerEvent),
    /// Nothing until then, or until something comes.
    Wait(Instant),
}

/// What could not be used, for the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Datagrams that are none of WebRTC's, or break its rules.
    pub refused: u64,
    /// Media that could not be put together.
    pub broken: u64,
    /// Messages not sent: the channel is not open, or too much waits.
    pub unsent: u64,
    /// Candidates of another protocol or too many.
    pub candidates_refused: u64,
}

struct Channel {
    config: ChannelConfig,
    inner: Option<str0m::channel::ChannelId>,
    /// No offer needs to name it any more.
    agreed: bool,
}

/// A medium of ours in our offers.
#[derive(Clone, Copy)]
struct Medium {
    way: Way,
    mid: Option<Mid>,
    agreed: bool,
}

/// One end of a peer connection.
pub struct Peer {
    rtc: Rtc,
    sound: Medium,
    video: Medium,
    patience: Duration,
    pending: Option<SdpPendingOffer>,
    negotiated: bool,
    /// What is agreed on holds an m-line for data.
    has_data: bool,
    channels: Vec<Channel>,
    restart: bool,
    /// The mid candidates are said to belong to; `None`: no SDP of ours went out.
    first_mid: Option<String>,
    /// Candidates of the peer that came before the SDP they belong to.
    early: Vec<Candidate>,
    candidates: usize,
    events: VecDeque<PeerEvent>,
    /// What the peer sends, by its `a=msid`, and the media we may send on.
    tracks: HashMap<Mid, String>,
    sound_out: Option<Mid>,
    video_out: Option<Mid>,
    /// What the last key picture was sent as, and the parameter sets that came last.
    payload_type: Option<Pt>,
    parameter_sets: HashMap<Mid, Vec<u8>>,
    /// The latest time told; the first one.
    now: Instant,
    started: Instant,
    ice: bool,
    dtls: bool,
    up: bool,
    /// When anything came last.
    heard: Instant,
    /// Not connected since.
    down_since: Option<Instant>,
    closing: bool,
    over: bool,
    counters: PeerCounters,
}

fn direction(way: Way) -> Option<Direction> {
    match way {
        Way::None => None,
        Way::Receive => Some(Direction::RecvOnly),
        Way::Send => Some(Direction::SendOnly),
        Way::Both => Some(Direction::SendRecv),
    }
}

fn build(now: Instant, codecs: &[VideoCodec]) -> Rtc {
    let mut config = Rtc::builder()
        .clear_codecs()
        .enable_opus(true, false)
        .set_rtcp_report_interval_audio(Duration::from_secs(1))
        .set_rtcp_report_interval_video(Duration::from_secs(1))
        // Sound is put in order where it is known when it is due.
        .set_reordering_size_audio(0)
        .set_reordering_timeout_audio(None)
        .set_reordering_size_video(PICTURES_WAIT);
    config.set_max_stun_rto(CHECK_EVERY);
    config.set_max_stun_retransmits(CHECKS);
    let known = config.codec_config();
    for codec in codecs {
        match codec {
            VideoCodec::Vp8 => known.enable_vp8(true),
            VideoCodec::H264 => {
                // Constrained Baseline, Baseline, Main, High: the number goes up by two, its repetition lies between.
                for (at, profile) in [0x42_e01f, 0x42_001f, 0x4d_001f, 0x64_001f].into_iter().enumerate() {
                    let pt = 102 + 2 * at as u8;
                    known.add_h264(Pt::new_with_value(pt), Some(Pt::new_with_value(pt + 1)), true, profile);
                }
            }
            VideoCodec::Vp9 | VideoCodec::H265 => {}
        }
    }
    config.build(now)
}

impl Peer {
    pub fn new(now: Instant, settings: &PeerSettings) -> Self {
        let medium = |way| Medium { way, mid: None, agreed: false };
        Peer {
            rtc: build(now, &settings.video.codecs),
            sound: medium(settings.sound),
            video: medium(settings.video.way),
            patience: settings.patience(),
            pending: None,
            negotiated: false,
            has_data: false,
            channels: Vec::new(),
            restart: false,
            first_mid: None,
            early: Vec::new(),
            candidates: 0,
            events: VecDeque::new(),
            tracks: HashMap::new(),
            sound_out: None,
            video_out: None,
            payload_type: None,
            parameter_sets: HashMap::new(),
            now,
            started: now,
            ice: false,
            dtls: false,
            up: false,
            heard: now,
            down_since: None,
            closing: false,
            over: false,
            counters: PeerCounters::default(),
        }
    }

    pub fn counters(&self) -> PeerCounters {
        self.counters
    }

    /// Nothing happens any more.
    pub fn is_over(&self) -> bool {
        self.over
    }

    pub fn is_connected(&self) -> bool {
        self.up
    }

    /// From the next offer on, sound goes this way too.
    pub fn want_sound(&mut self, way: Way) {
        self.sound.way = way;
    }

    /// As [`Peer::want_sound`], of pictures.
    pub fn want_video(&mut self, way: Way) {
        self.video.way = way;
    }

    /// The next offer restarts ICE.
    pub fn restart_ice(&mut self) {
        self.restart = true;
    }

    /// An offer of all that was asked for; `None`: there is nothing to agree on. An earlier one that is not answered is
    /// void.
    pub fn create_offer(&mut self) -> Option<String> {
        if self.over || self.closing {
            return None;
        }
        self.pending = None;
        let mut api = self.rtc.sdp_api();
        for (medium, kind) in [(&mut self.video, MediaKind::Video), (&mut self.sound, MediaKind::Audio)] {
            if let Some(way) = direction(medium.way).filter(|_| !medium.agreed) {
                medium.mid = Some(api.add_media(kind, way, None, None, None));
            }
        }
        for channel in self.channels.iter_mut().filter(|channel| !channel.agreed) {
            channel.inner = Some(api.add_channel_with_config(channel.config.clone()));
        }
        if std::mem::take(&mut self.restart) && self.negotiated {
            api.ice_restart(true);
        }
        let (offer, pending) = api.apply()?;
        self.pending = Some(pending);
        let text = offer.to_sdp_string();
        self.first_mid = first_mid(&text);
        Some(text)
    }

    /// Takes the answer to the last offer.
    pub fn take_answer(&mut self, now: Instant, sdp: &str) -> Result<(), PeerError> {
        let pending = self.pending.take().ok_or(PeerError::Unasked)?;
        let answer = SdpAnswer::from_sdp_string(bounded(sdp)?).map_err(said)?;
        self.rtc.sdp_api().accept_answer(pending, answer).map_err(said)?;
        for medium in [&mut self.video, &mut self.sound] {
            medium.agreed |= medium.mid.is_some();
        }
        self.channels.iter_mut().for_each(|channel| channel.agreed |= channel.inner.is_some());
        self.agreed(now, sdp);
        Ok(())
    }

    /// Takes an offer, the first or a later one, and gives the answer. An offer of ours that is not answered is void.
    pub fn take_offer(&mut self, now: Instant, sdp: &str) -> Result<String, PeerError> {
        if self.over || self.closing {
            return Err(PeerError::Unasked);
        }
        let offer = SdpOffer::from_sdp_string(bounded(sdp)?).map_err(said)?;
        self.pending = None;
        let answer = self.rtc.sdp_api().accept_offer(offer).map_err(said)?;
        let text = answer.to_sdp_string();
        self.first_mid = first_mid(&text);
        self.agreed(now, sdp);
        Ok(text)
    }

    /// Both sides agree; `sdp` is the peer's.
    fn agreed(&mut self, now: Instant, sdp: &str) {
        self.negotiated = true;
        if !self.up && self.down_since.is_none() {
            self.down_since = Some(now);
        }
        self.candidates = 0;
        for candidate in std::mem::take(&mut self.early) {
            self.rtc.add_remote_candidate(candidate);
        }
        (self.sound_out, self.video_out) = (None, None);
        for section in sections(sdp) {
            match section.kind {
                None => self.has_data |= section.is_data,
                Some(kind) => self.take_section(kind, &section),
            }
        }
        self.tick(now);
    }

    fn take_section(&mut self, kind: Kind, section: &Section<'_>) {
        let mid = Mid::from(section.mid);
        let Some(media) = self.rtc.media(mid) else { return };
        let direction = media.direction();
        if direction.is_sending() {
            let out = if kind == Kind::Sound { &mut self.sound_out } else { &mut self.video_out };
            out.get_or_insert(mid);
        }
        if direction.is_receiving() && !media.stopped() {
            let known = self.tracks.insert(mid, section.msid.to_owned());
            if known.as_deref() != Some(section.msid) {
                // Another track in its place is another source of pictures.
                if known.is_some() {
                    self.parameter_sets.remove(&mid);
                    self.events.push_back(PeerEvent::TrackGone { mid });
                }
                let mut words = section.msid.split(' ').map(str::to_owned);
                let (stream, track) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                self.events.push_back(PeerEvent::Track(Track { mid, kind, stream, track }));
            }
        } else if self.tracks.remove(&mid).is_some() {
            self.parameter_sets.remove(&mid);
            self.events.push_back(PeerEvent::TrackGone { mid });
        }
    }

    /// An address of ours. Told to the peer if no SDP does.
    pub fn add_local_candidate(&mut self, now: Instant, candidate: Candidate) {
        let added = self.rtc.add_local_candidate(candidate).map(Candidate::to_sdp_string);
        if let Some((candidate, mid)) = added.zip(self.first_mid.clone()) {
            self.events.push_back(PeerEvent::Candidate(LocalCandidate { candidate, mid, index: 0 }));
        }
        self.tick(now);
    }

    /// A candidate of the peer, `candidate:…`. Which m-line it is said to belong to does not matter: all share one
    /// transport. Empty: there are no more.
    pub fn add_remote_candidate(&mut self, now: Instant, candidate: &str) {
        let text = candidate.trim();
        let text = text.strip_prefix("a=").unwrap_or(text);
        if text.is_empty() {
            return;
        }
        let parsed = Candidate::from_sdp_string(text).ok();
        let parsed = parsed.filter(|candidate| candidate.proto() == Protocol::Udp);
        let Some(candidate) = parsed.filter(|_| self.candidates < CANDIDATES_MAX) else {
            self.counters.candidates_refused += 1;
            return;
        };
        self.candidates += 1;
        if self.negotiated && self.pending.is_none() {
            self.rtc.add_remote_candidate(candidate);
            self.tick(now);
        } else {
            self.early.push(candidate);
        }
    }

    /// Opens a data channel; before the first offer it is part of it. `None`: there are too many.
    pub fn open_channel(
        &mut self,
        now: Instant,
        label: &str,
        ordered: bool,
        max_retransmits: Option<u16>,
    ) -> Option<ChannelId> {
        if self.channels.len() >= CHANNELS_MAX {
            return None;
        }
        let reliability = match max_retransmits {
            Some(retransmits) => Reliability::MaxRetransmits { retransmits },
            None => Reliability::Reliable,
        };
        let config =
            ChannelConfig { label: label.to_owned(), ordered, reliability, ..ChannelConfig::default() };
        let mut channel = Channel { config, inner: None, agreed: false };
        if self.has_data && self.negotiated {
            let mut api = self.rtc.sdp_api();
            channel.inner = Some(api.add_channel_with_config(channel.config.clone()));
            // Needs no offer, as data is agreed on.
            channel.agreed = api.apply().is_none();
        }
        self.channels.push(channel);
        self.tick(now);
        Some(ChannelId(self.channels.len() - 1))
    }

    fn channel(&mut self, id: ChannelId) -> Option<str0m::channel::Channel<'_>> {
        let inner = self.channels.get(id.0)?.inner?;
        self.rtc.channel(inner)
    }

    /// Sends a message. `false`: the channel is not open or too much waits; it is lost.
    pub fn send(&mut self, now: Instant, id: ChannelId, bytes: &[u8], text: bool) -> bool {
        let sent = self.channel(id).is_some_and(|mut channel| channel.write(!text, bytes).unwrap_or(false));
        self.counters.unsent += u64::from(!sent);
        self.tick(now);
        sent
    }

    /// Bytes that wait to be sent.
    pub fn buffered(&mut self, id: ChannelId) -> usize {
        self.channel(id).map_or(0, |mut channel| channel.buffered_amount())
    }

    /// Sends one packet of Opus. `at`: the moment to which `time` (RTP, 48 kHz) belongs, not after `now`. `false`: there
    /// is no medium to send it on.
    pub fn send_sound(&mut self, now: Instant, at: Instant, time: u64, packet: &[u8]) -> bool {
        let Some(mid) = self.sound_out.filter(|_| self.up) else { return false };
        let Some(writer) = self.rtc.writer(mid) else { return false };
        let payload = writer.payload_params().find(|payload| payload.spec().codec == Codec::Opus);
        let Some(pt) = payload.map(PayloadParams::pt) else { return false };
        let time = MediaTime::new(time, Frequency::FORTY_EIGHT_KHZ);
        let sent = writer.write(pt, at.min(now), time, packet).is_ok();
        self.tick(now);
        sent
    }

    /// Sends a picture; `time` is RTP time, 90 kHz. As [`Peer::send_sound`]. H.264 goes out under the payload type of its
    /// profile where that is agreed on.
    pub fn send_unit(&mut self, now: Instant, at: Instant, time: u64, unit: &AccessUnit) -> bool {
        let Some(mid) = self.video_out.filter(|_| self.up) else { return false };
        let Some(writer) = self.rtc.writer(mid) else { return false };
        let wanted = match unit.codec {
            VideoCodec::H264 => Codec::H264,
            VideoCodec::Vp8 => Codec::Vp8,
            VideoCodec::Vp9 | VideoCodec::H265 => return false,
        };
        if unit.key || self.payload_type.is_none() {
            let profile = profile_of(unit);
            let fits = |payload: &&PayloadParams| {
                let own = payload.spec().format.profile_level_id.map(|id| (id >> 16) as u8);
                payload.spec().codec == wanted && (profile.is_none() || own == profile)
            };
            let any = |payload: &&PayloadParams| payload.spec().codec == wanted;
            let payload = writer.payload_params().find(fits).or_else(|| writer.payload_params().find(any));
            self.payload_type = payload.map(PayloadParams::pt);
        }
        let Some(pt) = self.payload_type else { return false };
        let time = MediaTime::new(time, Frequency::NINETY_KHZ);
        let sent = writer.write(pt, at.min(now), time, &unit.data[..]).is_ok();
        self.tick(now);
        sent
    }

    /// The codecs agreed on for pictures we send, most wanted first.
    pub fn codecs_out(&mut self) -> Vec<VideoCodec> {
        let Some(writer) = self.video_out.and_then(|mid| self.rtc.writer(mid)) else { return Vec::new() };
        let mut codecs = Vec::new();
        for payload in writer.payload_params() {
            let codec = video_codec(payload.spec().codec);
            codecs.extend(codec.filter(|codec| !codecs.contains(codec)));
        }
        codecs
    }

    /// Asks the peer for a key picture (PLI). How often is the caller's to bound.
    pub fn want_key_picture(&mut self, now: Instant, mid: Mid) {
        if let Some(mut writer) = self.rtc.writer(mid) {
            // Fails while nothing has come: then the first picture is a key picture anyway.
            let _ = writer.request_keyframe(None, KeyframeRequestKind::Pli);
        }
        self.tick(now);
    }

    /// Says farewell; [`PeerEvent::Closed`] comes once it is said.
    pub fn close(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.closing, true) {
            if self.rtc.close().is_err() {
                self.rtc.disconnect();
            }
            self.tick(now);
        }
    }

    /// A datagram that came from `source` to our address `destination`.
    pub fn receive(&mut self, now: Instant, source: SocketAddr, destination: SocketAddr, bytes: &[u8]) {
        self.now = self.now.max(now);
        self.heard = self.now;
        match Receive::new(Protocol::Udp, source, destination, bytes) {
            Ok(received) => {
                let taken = self.rtc.handle_input(Input::Receive(now, received));
                self.counters.refused += u64::from(taken.is_err());
                // Back after a silence.
                self.check_up();
            }
            Err(_) => self.counters.refused += 1,
        }
    }

    fn tick(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let taken = self.rtc.handle_input(Input::Timeout(now));
        self.counters.refused += u64::from(taken.is_err());
    }

    /// To be called when [`Step::Wait`] is over.
    pub fn handle_time(&mut self, now: Instant) {
        self.tick(now);
        if self.up && now.saturating_duration_since(self.heard) >= SILENT {
            self.go_down();
        }
        let late = self.down_since.is_some_and(|since| now.saturating_duration_since(since) >= self.patience);
        if late && !self.over && !self.closing {
            self.fail(format!("no connection within {} s", self.patience.as_secs()));
        }
    }

    fn fail(&mut self, why: String) {
        if !std::mem::replace(&mut self.over, true) {
            self.rtc.disconnect();
            self.events.push_back(PeerEvent::Failed(why));
        }
    }

    /// What to do next.
    pub fn poll(&mut self) -> Step {
        let mut errors = 0;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Step::Event(event);
            }
            if self.over {
                return Step::Wait(self.far());
            }
            match self.rtc.poll_output() {
                Ok(Output::Transmit(transmit)) => return Step::Send(transmit),
                Ok(Output::Event(event)) => self.take(event),
                Ok(Output::Timeout(at)) if self.rtc.is_alive() => {
                    let limit = self.down_since.map(|since| since + self.patience);
                    let silent = Some(self.heard + SILENT).filter(|_| self.up);
                    return Step::Wait(limit.into_iter().chain(silent).fold(at, Instant::min));
                }
                Ok(Output::Timeout(_)) if self.closing => {
                    self.over = true;
                    self.events.push_back(PeerEvent::Closed);
                }
                Ok(Output::Timeout(_)) => self.fail("the connection broke".to_owned()),
                Err(error) => {
                    self.counters.broken += 1;
                    errors += 1;
                    let is_media = matches!(error, RtcError::Packet(..));
                    if !self.rtc.is_alive() || !is_media && errors > 8 {
                        self.fail(error.to_string());
                    }
                }
            }
        }
    }

    fn far(&self) -> Instant {
        self.started + Duration::from_secs(1_000_000_000)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Connected => {
                self.dtls = true;
                self.check_up();
            }
            Event::IceConnectionStateChange(state) => self.take_state(state),
            Event::MediaData(data) => self.take_media(data),
            Event::ChannelOpen(inner, label) => {
                if let Some(id) = self.id_of(inner, &label) {
                    self.events.push_back(PeerEvent::ChannelOpen { id, label });
                }
            }
            Event::ChannelData(data) => {
                if let Some(id) = self.id_of(data.id, "") {
                    let text = !data.binary;
                    self.events.push_back(PeerEvent::Data { id, data: Bytes::from(data.data), text });
                }
            }
            Event::ChannelClose(inner) => {
                if let Some(at) = self.channels.iter().position(|channel| channel.inner == Some(inner)) {
                    self.channels[at].inner = None;
                    self.events.push_back(PeerEvent::ChannelClosed { id: ChannelId(at) });
                }
            }
            Event::KeyframeRequest(request) => {
                self.events.push_back(PeerEvent::KeyWanted { mid: request.mid });
            }
            Event::Closed => self.closing = true,
            // Statistics, and what is not asked for.
            _ => {}
        }
    }

    fn id_of(&mut self, inner: str0m::channel::ChannelId, label: &str) -> Option<ChannelId> {
        if let Some(at) = self.channels.iter().position(|channel| channel.inner == Some(inner)) {
            return Some(ChannelId(at));
        }
        if self.channels.len() >= CHANNELS_MAX {
            self.counters.unsent += 1;
            return None;
        }
        let config = ChannelConfig { label: label.to_owned(), ..ChannelConfig::default() };
        self.channels.push(Channel { config, inner: Some(inner), agreed: true });
        Some(ChannelId(self.channels.len() - 1))
    }

    fn take_state(&mut self, state: IceConnectionState) {
        self.ice = state.is_connected();
        if self.ice {
            self.check_up();
        } else {
            self.go_down();
        }
    }

    fn go_down(&mut self) {
        if std::mem::take(&mut self.up) {
            self.down_since = Some(self.now);
            self.events.push_back(PeerEvent::Disconnected);
        }
    }

    fn check_up(&mut self) {
        if self.ice && self.dtls && !std::mem::replace(&mut self.up, true) {
            self.down_since = None;
            self.events.push_back(PeerEvent::Connected);
        }
    }

    fn take_media(&mut self, data: MediaData) {
        let report =
            data.last_sender_info.map(|info| Report { wall: info.ntp_time, time: info.rtp_time.numer() });
        let (mid, at, time) = (data.mid, data.network_time, data.time.numer());
        if data.params.spec().codec == Codec::Opus {
            let packet = SoundPacket { mid, at, time, report, data: data.data };
            return self.events.push_back(PeerEvent::Sound(packet));
        }
        let Some(codec) = video_codec(data.params.spec().codec) else { return };
        let (damaged, bytes) = (!data.contiguous, Bytes::from_owner(data.data));
        let (bytes, key) = match codec {
            VideoCodec::H264 => self.with_parameter_sets(mid, bytes),
            VideoCodec::Vp8 | VideoCodec::Vp9 | VideoCodec::H265 => {
                let key = vp8::is_key(&bytes);
                (bytes, key)
            }
        };
        // Decoding starts anew with a key picture: what was lost before it is not missed.
        let unit = AccessUnit { codec, data: bytes, pts: Pts::ZERO, key, damaged: damaged && !key };
        self.events.push_back(PeerEvent::Unit(UnitPacket { mid, at, time, report, unit }));
    }

    /// Some senders give their parameter sets once: a key picture here has its own.
    fn with_parameter_sets(&mut self, mid: Mid, bytes: Bytes) -> (Bytes, bool) {
        let is_idr = nal::units(&bytes).any(|unit| NalType::of(unit[0]) == NalType::Idr);
        match (nal::parameter_sets(&bytes), is_idr) {
            (Some(sets), _) => {
                self.parameter_sets.insert(mid, sets);
                (bytes, is_idr)
            }
            (None, true) => match self.parameter_sets.get(&mid) {
                Some(sets) => (Bytes::from([sets.as_slice(), &bytes].concat()), true),
                None => (bytes, false),
            },
            (None, false) => (bytes, false),
        }
    }
}

fn video_codec(codec: Codec) -> Option<VideoCodec> {
    match codec {
        Codec::H264 => Some(VideoCodec::H264),
        Codec::Vp8 => Some(VideoCodec::Vp8),
        _ => None,
    }
}

/// profile_idc of an H.264 key picture.
fn profile_of(unit: &AccessUnit) -> Option<u8> {
    let is_h264 = unit.codec == VideoCodec::H264;
    let sps = nal::units(&unit.data).find(|unit| is_h264 && NalType::of(unit[0]) == NalType::Sps)?;
    sps.get(1).copied()
}

fn said(error: impl std::fmt::Display) -> PeerError {
    PeerError::Sdp(error.to_string())
}

fn bounded(sdp: &str) -> Result<&str, PeerError> {
    if sdp.len() > SDP_MAX { Err(PeerError::Sdp("too long".to_owned())) } else { Ok(sdp) }
}

/// What is read of an m-line here; the rest is str0m's.
struct Section<'a> {
    /// `None`: data, or what is not known.
    kind: Option<Kind>,
    is_data: bool,
    mid: &'a str,
    msid: &'a str,
}

fn sections(sdp: &str) -> Vec<Section<'_>> {
    let mut found: Vec<Section<'_>> = Vec::new();
    for line in sdp.lines().map(str::trim_end) {
        if let Some(media) = line.strip_prefix("m=") {
            let kind = match media.split(' ').next() {
                Some("audio") => Some(Kind::Sound),
                Some("video") => Some(Kind::Video),
                _ => None,
            };
            found.push(Section { kind, is_data: media.starts_with("application"), mid: "", msid: "" });
        } else if let Some(last) = found.last_mut() {
            if let Some(mid) = line.strip_prefix("a=mid:") {
                last.mid = mid;
            } else if let Some(msid) = line.strip_prefix("a=msid:") {
                last.msid = msid;
            }
        }
    }
    found
}

fn first_mid(sdp: &str) -> Option<String> {
    sections(sdp).first().map(|section| section.mid.to_owned())
}

#[cfg(test)]
mod tests;
