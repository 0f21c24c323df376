//! The peer connection as signalling sees it: offered, answered, lost, restarted, given up.
//!
//! Pure. The connection itself is `webrtc`'s. Pictures are offered in the one codec that can go on to the caller as it
//! is, and in every codec only where that is refused.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::machine::Act;
use super::signal::Candidate;
use crate::avatar::{Cause, Lost};
use crate::media::access_unit::VideoCodec;
use crate::sdp::{self, Direction};

/// An offer of one codec, or of all, is answered within so long.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// An answer to new paths.
const RESTART_WITHIN: Duration = Duration::from_secs(3);
/// A new path is found so long after its answer.
const FOUND_WITHIN: Duration = Duration::from_secs(4);
/// Paths that do not work get so long to come back by themselves.
const GRACE: Duration = Duration::from_secs(2);
/// Where the engine hangs up, the socket may tell why a moment later.
const WORD_OF_WHY: Duration = Duration::from_millis(250);
const RESTARTS: u32 = 3;
/// Paths that work so long have forgotten what was before.
const STABLE: Duration = Duration::from_secs(10);
/// The first picture after the connection stands.
const PICTURE_WITHIN: Duration = Duration::from_secs(15);
/// Sound and pictures come all the time; without any for so long nobody is there.
const SILENT_AFTER: Duration = Duration::from_secs(8);
/// Candidates of the engine that wait for its answer.
const EARLY_MAX: usize = 64;

/// What the next answer is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// The codec of choice alone.
    One,
    All,
    Restart,
}

/// How the peer connection stands.
#[derive(Debug)]
pub struct Path {
    first: VideoCodec,
    asked: Asked,
    /// The offer has gone out and is not answered; until when it must be.
    answer_by: Option<Instant>,
    /// An offer is being made or is on its way.
    pending: bool,
    /// The last offer of a peer connection that was new was of all codecs.
    all: bool,
    /// The peer connection is of no use any more: a restart takes a new one.
    dead: bool,
    answered: bool,
    early: Vec<Candidate>,
    connected_since: Option<Instant>,
    hung_up_by: Option<Instant>,
    restart_at: Option<Instant>,
    restarts: u32,
    picture_by: Option<Instant>,
    media_at: Option<Instant>,
}

fn lost(why: &str) -> Lost {
    Lost { why: why.to_owned(), cause: Cause::Connection }
}

impl Path {
    /// `wanted` first; else of what the caller takes.
    pub fn new(wanted: Option<VideoCodec>, codecs: &[VideoCodec]) -> Self {
        let vp8_only = codecs.contains(&VideoCodec::Vp8) && !codecs.contains(&VideoCodec::H264);
        let usual = if vp8_only { VideoCodec::Vp8 } else { VideoCodec::H264 };
        Path {
            first: wanted.unwrap_or(usual),
            asked: Asked::One,
            answer_by: None,
            pending: false,
            all: false,
            dead: false,
            answered: false,
            early: Vec::new(),
            connected_since: None,
            hung_up_by: None,
            restart_at: None,
            restarts: 0,
            picture_by: None,
            media_at: None,
        }
    }

    pub fn is_connected(&self) -> bool {
        self.connected_since.is_some()
    }

    /// The engine closed the peer connection.
    pub fn hung_up(&mut self, now: Instant) {
        self.hung_up_by.get_or_insert(now + WORD_OF_WHY);
    }

    /// ICE restarts so far.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    fn codecs(&self) -> Vec<VideoCodec> {
        match self.asked {
            Asked::One => vec![self.first],
            Asked::All | Asked::Restart => vec![VideoCodec::H264, VideoCodec::Vp8],
        }
    }

    fn ask(&mut self, asked: Asked, acts: &mut VecDeque<Act>) {
        self.asked = asked;
        (self.pending, self.answered, self.answer_by) = (true, false, None);
        self.early.clear();
        if asked == Asked::Restart {
            acts.push_back(Act::Restart);
            return;
        }
        (self.all, self.dead) = (asked == Asked::All, false);
        acts.push_back(Act::Offer { codecs: self.codecs() });
    }

    pub fn begin(&mut self, acts: &mut VecDeque<Act>) {
        self.ask(Asked::One, acts);
    }

    /// The offer has gone out.
    pub fn offer_went(&mut self, now: Instant) {
        let limit = if self.asked == Asked::Restart { RESTART_WITHIN } else { ANSWER_WITHIN };
        self.answer_by = Some(now + limit);
    }

    /// The signalling is another: an offer that was not answered is made anew.
    pub fn signalling_again(&mut self, acts: &mut VecDeque<Act>) {
        if self.pending && self.answer_by.is_some() {
            self.ask(self.asked, acts);
        }
    }

    /// The engine's answer. Fails if it takes no codec that was offered.
    pub fn answer(&mut self, now: Instant, answer: String, acts: &mut VecDeque<Act>) -> Result<(), Lost> {
        if !self.pending {
            return Ok(());
        }
        if self.asked != Asked::Restart && !takes_video(&answer, &self.codecs()) {
            if self.asked == Asked::One {
                self.ask(Asked::All, acts);
                return Ok(());
            }
            return Err(Lost { why: "it sends no H.264 and no VP8".to_owned(), cause: Cause::Refused });
        }
        (self.pending, self.answered, self.answer_by) = (false, true, None);
        acts.push_back(Act::Answer(answer));
        acts.extend(self.early.drain(..).map(Act::Candidate));
        if self.asked == Asked::Restart {
            self.restart_at = Some(now + FOUND_WITHIN);
        }
        Ok(())
    }

    /// A candidate of the engine: kept until its answer is there.
    pub fn candidate(&mut self, candidate: Candidate, acts: &mut VecDeque<Act>) {
        if self.answered {
            acts.push_back(Act::Candidate(candidate));
        } else if self.early.len() < EARLY_MAX {
            self.early.push(candidate);
        }
    }

    pub fn connected(&mut self, now: Instant) {
        if self.connected_since.is_none() && self.media_at.is_none() {
            self.picture_by = Some(now + PICTURE_WITHIN);
        }
        self.connected_since = Some(now);
        self.restart_at = None;
        self.media_at = self.media_at.map(|_| now);
    }

    /// Nothing passes for now.
    pub fn disconnected(&mut self, now: Instant) {
        if let Some(since) = self.connected_since.take() {
            if now.saturating_duration_since(since) >= STABLE {
                self.restarts = 0;
            }
            self.restart_at = Some(now + GRACE);
        }
    }

    /// It does not connect, and will not.
    pub fn failed(&mut self, now: Instant) {
        self.connected_since = None;
        (self.dead, self.answer_by, self.restart_at) = (true, None, Some(now));
    }

    /// Sound came.
    pub fn sound(&mut self, now: Instant) {
        self.media_at = Some(now);
    }

    pub fn picture(&mut self, now: Instant) {
        self.media_at = Some(now);
        self.picture_by = None;
    }

    fn silent_at(&self) -> Option<Instant> {
        self.connected_since.and(self.media_at).map(|at| at + SILENT_AFTER)
    }

    pub fn wake_at(&self) -> Option<Instant> {
        [self.answer_by, self.hung_up_by, self.restart_at, self.picture_by, self.silent_at()]
            .into_iter()
            .flatten()
            .min()
    }

    pub fn handle_time(&mut self, now: Instant, acts: &mut VecDeque<Act>) -> Result<(), Lost> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.hung_up_by) {
            return Err(lost("it hung up"));
        }
        if due(self.answer_by) {
            self.answer_by = None;
            match self.asked {
                Asked::One => self.ask(Asked::All, acts),
                Asked::All => return Err(lost("no answer to our offer")),
                Asked::Restart => self.restart_at = Some(now),
            }
        }
        if due(self.restart_at) {
            self.restart_at = None;
            if self.restarts == RESTARTS {
                return Err(lost("no path to it is left"));
            }
            self.restarts += 1;
            self.ask(
                match (self.dead, self.all) {
                    (false, _) => Asked::Restart,
                    (true, false) => Asked::One,
                    (true, true) => Asked::All,
                },
                acts,
            );
        }
        if due(self.picture_by) {
            return Err(lost("no picture came"));
        }
        if due(self.silent_at()) {
            return Err(lost("sound and pictures have stopped"));
        }
        Ok(())
    }
}

/// Whether an answer takes video in one of these codecs. One that cannot be read takes nothing.
fn takes_video(answer: &str, codecs: &[VideoCodec]) -> bool {
    let Ok(answer) = sdp::parse(answer.as_bytes()) else { return false };
    answer.media.iter().filter(|media| media.is_video() && media.port != 0).any(|media| {
        let sends = matches!(answer.direction_of(media), Direction::SendReceive | Direction::SendOnly);
        let named = media.payload_types().into_iter().filter_map(|payload_type| media.rtpmap(payload_type));
        let mut known = named.map(|map| map.encoding.to_owned());
        sends && known.any(|name| codecs.iter().any(|codec| name.eq_ignore_ascii_case(codec.name())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with this video.
    pub fn answer(video: &str) -> String {
        format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n{video}m=audio 9 UDP/TLS/RTP/SAVPF 96\r\n"
        )
    }

    const TAKEN: &str = "m=video 9 UDP/TLS/RTP/SAVPF 98\r\na=rtpmap:98 h264/90000\r\na=sendonly\r\n";
    const TAKEN_VP8: &str = "m=video 9 UDP/TLS/RTP/SAVPF 97\r\na=rtpmap:97 VP8/90000\r\na=sendonly\r\n";
    const REFUSED: &str = "m=video 0 UDP/TLS/RTP/SAVPF 98\r\na=rtpmap:98 H264/90000\r\n";

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn taken(acts: &mut VecDeque<Act>) -> Vec<Act> {
        acts.drain(..).collect()
    }

    fn offer(codecs: &[VideoCodec]) -> Act {
        Act::Offer { codecs: codecs.to_vec() }
    }

    const BOTH: [VideoCodec; 2] = [VideoCodec::H264, VideoCodec::Vp8];

    #[test]
    fn one_codec_is_offered_first_and_all_where_it_is_refused_or_not_answered() {
        for answered in [Some(REFUSED), Some(""), None] {
            let (now, mut acts) = (Instant::now(), VecDeque::new());
            let mut path = Path::new(None, &BOTH);
            path.begin(&mut acts);
            assert_eq!(taken(&mut acts), [offer(&BOTH[..1])]);
            path.offer_went(now);
            match answered {
                Some(video) => path.answer(now, answer(video), &mut acts).expect("asked again"),
                None => path.handle_time(now + ANSWER_WITHIN, &mut acts).expect("asked again"),
            }
            assert_eq!(taken(&mut acts), [offer(&BOTH)]);
            path.offer_went(now);
            assert!(path.answer(now, answer(REFUSED), &mut VecDeque::new()).is_err());
            path.answer(now, answer(TAKEN_VP8), &mut acts).expect("taken");
            assert_eq!(taken(&mut acts), [Act::Answer(answer(TAKEN_VP8))]);
        }
        let mut acts = VecDeque::new();
        Path::new(None, &BOTH[1..]).begin(&mut acts);
        assert_eq!(taken(&mut acts), [offer(&BOTH[1..])], "what the caller takes goes on as it is");
        assert!(!takes_video(&answer("m=video 9 x 98\r\na=rtpmap:98 H264/90000\r\na=inactive\r\n"), &BOTH));
        assert!(!takes_video("nonsense", &BOTH));
    }

    /// A connection that stands.
    fn standing(now: Instant) -> Path {
        let mut acts = VecDeque::new();
        let mut path = Path::new(None, &BOTH);
        path.begin(&mut acts);
        path.offer_went(now);
        path.answer(now, answer(TAKEN), &mut acts).expect("taken");
        path.connected(now);
        path.picture(now);
        path
    }

    #[test]
    fn candidates_wait_for_the_answer_and_are_bounded() {
        let (now, mut acts) = (Instant::now(), VecDeque::new());
        let mut path = Path::new(None, &BOTH);
        path.begin(&mut acts);
        acts.clear();
        let candidate = |n: usize| Candidate { candidate: n.to_string(), mid: None, line: None };
        for n in 0..100 {
            path.candidate(candidate(n), &mut acts);
        }
        assert!(acts.is_empty());
        path.answer(now, answer(TAKEN), &mut acts).expect("taken");
        let acts = taken(&mut acts);
        assert_eq!((acts.len(), &acts[1]), (1 + EARLY_MAX, &Act::Candidate(candidate(0))));
    }

    #[test]
    fn a_lost_path_has_two_seconds_of_grace_and_three_restarts() {
        let (now, mut acts) = (Instant::now(), VecDeque::new());
        let mut path = standing(now);
        path.disconnected(now);
        path.handle_time(now + seconds(1), &mut acts).expect("grace");
        path.connected(now + seconds(1));
        path.handle_time(now + seconds(3), &mut acts).expect("it came back");
        assert!(acts.is_empty());

        path.disconnected(now + seconds(4));
        let mut at = now + seconds(6);
        for _ in 0..RESTARTS {
            path.handle_time(at, &mut acts).expect("a restart");
            assert_eq!(taken(&mut acts), [Act::Restart]);
            path.offer_went(at);
            at += RESTART_WITHIN;
        }
        assert_eq!(path.handle_time(at, &mut acts).expect_err("given up").cause, Cause::Connection);
    }

    #[test]
    fn a_restart_that_is_answered_and_finds_a_path_is_forgotten_once_it_is_stable() {
        let (mut now, mut acts) = (Instant::now(), VecDeque::new());
        let mut path = standing(now);
        for _ in 0..6 {
            now += STABLE;
            path.disconnected(now);
            path.handle_time(now + GRACE, &mut acts).expect("a restart");
            assert_eq!(taken(&mut acts), [Act::Restart]);
            path.offer_went(now + GRACE);
            path.answer(now + GRACE, answer(""), &mut acts).expect("of no new media");
            path.connected(now + GRACE);
            acts.clear();
            now += GRACE;
        }
        assert_eq!(path.restarts(), 1);
    }

    #[test]
    fn a_connection_that_failed_is_replaced_by_a_new_one_at_once() {
        let (now, mut acts) = (Instant::now(), VecDeque::new());
        let mut path = standing(now);
        path.failed(now);
        path.handle_time(now, &mut acts).expect("another");
        assert_eq!(taken(&mut acts), [offer(&BOTH[..1])]);
        assert_eq!(path.wake_at(), None, "the answer is waited for once the offer has gone out");
    }

    #[test]
    fn an_offer_on_its_way_when_the_socket_is_lost_is_made_anew() {
        let (now, mut acts) = (Instant::now(), VecDeque::new());
        let mut path = Path::new(None, &BOTH);
        path.begin(&mut acts);
        acts.clear();
        path.signalling_again(&mut acts);
        assert!(acts.is_empty(), "it waits to be sent");
        path.offer_went(now);
        path.signalling_again(&mut acts);
        assert_eq!(taken(&mut acts), [offer(&BOTH[..1])]);
    }

    #[test]
    fn a_connection_without_pictures_is_given_up() {
        let (now, mut acts) = (Instant::now(), VecDeque::new());
        let mut path = Path::new(None, &BOTH);
        path.connected(now);
        path.sound(now + seconds(14));
        assert!(path.handle_time(now + seconds(14), &mut acts).is_ok());
        assert!(path.handle_time(now + PICTURE_WITHIN, &mut acts).is_err(), "sound alone");
        let mut path = standing(now);
        path.sound(now + seconds(3));
        assert_eq!(path.wake_at(), Some(now + seconds(3) + SILENT_AFTER));
        assert!(path.handle_time(now + seconds(3) + SILENT_AFTER, &mut acts).is_err());
    }
}
