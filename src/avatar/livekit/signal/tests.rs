//! A stay in a room in virtual time, against frames as a server would send them.

use livekit_protocol::{ParticipantInfo, Room, SubscriptionResponse, TrackInfo};

use super::*;

const OFFER: &str = "v=0\r\ns=-\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:1\r\na=sendonly\r\na=msid:PA_face|TR_a x\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:2\r\na=sendonly\r\na=msid:PA_face|TR_v x\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:3\r\na=sendonly\r\na=msid:PA_other|TR_o x\r\n";

fn participant(sid: &str, identity: &str, tracks: &[(&str, TrackType)]) -> ParticipantInfo {
    let track = |(sid, kind): &(&str, TrackType)| TrackInfo {
        sid: (*sid).to_owned(),
        r#type: *kind as i32,
        ..TrackInfo::default()
    };
    ParticipantInfo {
        sid: sid.to_owned(),
        identity: identity.to_owned(),
        state: Presence::Active as i32,
        tracks: tracks.iter().map(track).collect(),
        ..ParticipantInfo::default()
    }
}

fn face() -> ParticipantInfo {
    participant("PA_face", "face", &[("TR_a", TrackType::Audio), ("TR_v", TrackType::Video)])
}

fn frame(message: Response) -> Vec<u8> {
    SignalResponse { message: Some(message) }.encode_to_vec()
}

fn join(others: Vec<ParticipantInfo>) -> Vec<u8> {
    frame(Response::Join(JoinResponse {
        room: Some(Room { name: "r".to_owned(), ..Room::default() }),
        participant: Some(participant("PA_us", "eyeline", &[])),
        other_participants: others,
        ping_interval: 5,
        ping_timeout: 15,
        ..JoinResponse::default()
    }))
}

fn update(participants: Vec<ParticipantInfo>) -> Vec<u8> {
    frame(Response::Update(livekit_protocol::ParticipantUpdate { participants }))
}

fn offer(sdp: &str, id: u32) -> Vec<u8> {
    frame(Response::Offer(SessionDescription { sdp: sdp.to_owned(), id, ..SessionDescription::default() }))
}

fn leave(action: Action, reason: DisconnectReason) -> Vec<u8> {
    let leave = LeaveRequest { action: action as i32, reason: reason as i32, ..LeaveRequest::default() };
    frame(Response::Leave(leave))
}

struct Room1 {
    signal: Signal,
    now: Instant,
}

impl Room1 {
    fn new(identity: &str) -> Room1 {
        let now = Instant::now();
        let expected = Expected { identity: identity.to_owned() };
        let mut signal = Signal::new(now, "token".to_owned(), expected, Rejoins::default());
        assert_eq!(signal.poll_act(), Some(Act::Connect));
        Room1 { signal, now }
    }

    fn joined(identity: &str, others: Vec<ParticipantInfo>) -> Room1 {
        let mut room = Room1::new(identity);
        room.signal.handle_open(room.now);
        room.take(join(others));
        assert!(matches!(room.signal.poll_act(), Some(Act::NewPeers { .. })));
        assert!(matches!(room.signal.poll_notice(), Some(Notice::Joined { .. })));
        room
    }

    fn take(&mut self, frame: Vec<u8>) {
        self.signal.handle_frame(self.now, &frame);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.signal.handle_time(self.now, 0);
    }

    fn acts(&mut self) -> Vec<Act> {
        std::iter::from_fn(|| self.signal.poll_act()).collect()
    }

    fn notices(&mut self) -> Vec<Notice> {
        std::iter::from_fn(|| self.signal.poll_notice()).collect()
    }

    fn requests(&mut self) -> Vec<Request> {
        let sent = self.acts().into_iter().filter_map(|act| match act {
            Act::Send(bytes) => SignalRequest::decode(&bytes[..]).expect("a request").message,
            _ => None,
        });
        sent.collect()
    }
}

#[test]
fn the_avatars_lines_are_found_by_its_identity_and_others_are_sent_back() {
    let other = participant("PA_other", "guest", &[("TR_o", TrackType::Video)]);
    let mut room = Room1::joined("face", vec![other]);
    room.take(offer(OFFER, 3));
    assert_eq!(room.acts(), [Act::Offered { sdp: OFFER.to_owned(), id: 3 }], "it is not here yet");
    room.take(update(vec![face()]));
    let acts = room.acts();
    assert_eq!(acts[0], Act::Listen { sound: Some("1".to_owned()), video: Some("2".to_owned()) });
    let Act::Send(bytes) = &acts[1] else { panic!("{acts:?}") };
    let Some(Request::Subscription(sent)) = SignalRequest::decode(&bytes[..]).expect("a request").message
    else {
        panic!("no subscription")
    };
    assert_eq!((sent.track_sids, sent.subscribe), (vec!["TR_o".to_owned()], false));
    assert!(room.notices().contains(&Notice::Here {
        identity: "face".to_owned(),
        is_avatar: true,
        sound: true,
        video: true,
    }));
    room.signal.answer("sdp".to_owned(), 3);
    assert!(
        matches!(&room.requests()[..], [Request::Answer(answer)] if answer.id == 3 && answer.r#type == "answer")
    );
}

#[test]
fn a_track_that_is_replaced_is_followed_to_its_new_line() {
    let mut room = Room1::joined("face", vec![face()]);
    room.take(offer(OFFER, 1));
    room.acts();
    let more = format!(
        "{OFFER}m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:4\r\na=sendonly\r\na=msid:PA_face|TR_new x\r\n"
    );
    room.take(update(vec![participant(
        "PA_face",
        "face",
        &[("TR_a", TrackType::Audio), ("TR_new", TrackType::Video)],
    )]));
    room.take(offer(&more, 2));
    let listen = Act::Listen { sound: Some("1".to_owned()), video: Some("4".to_owned()) };
    assert!(room.acts().contains(&listen));
}

#[test]
fn who_publishes_for_us_is_the_avatar_if_no_identity_is_known() {
    let mut behalf = participant("PA_face", "agent-7", &[]);
    behalf.attributes.insert(ON_BEHALF.to_owned(), "eyeline".to_owned());
    let mut room = Room1::joined("", vec![participant("PA_other", "guest", &[]), behalf]);
    let here: Vec<(String, bool)> = room
        .notices()
        .into_iter()
        .filter_map(|notice| match notice {
            Notice::Here { identity, is_avatar, .. } => Some((identity, is_avatar)),
            _ => None,
        })
        .collect();
    assert_eq!(here, [("guest".to_owned(), false), ("agent-7".to_owned(), true)]);
    let mut gone = participant("PA_face", "agent-7", &[]);
    gone.state = Presence::Disconnected as i32;
    room.take(update(vec![gone]));
    assert!(
        matches!(&room.notices()[..], [Notice::Gone { identity, is_avatar: true }] if identity == "agent-7")
    );
}

#[test]
fn a_silent_server_is_pinged_and_then_left_for_another_attempt() {
    let mut room = Room1::joined("face", vec![]);
    room.pass(Duration::from_secs(5));
    assert!(matches!(room.requests()[..], [Request::PingReq(_)]));
    room.pass(Duration::from_secs(5));
    room.pass(Duration::from_secs(5));
    assert!(matches!(&room.notices()[..], [Notice::Rejoining { why }] if why.contains("silent")));
    assert!(!room.signal.is_in());
    assert!(!room.acts().contains(&Act::Connect), "not at once");
    room.pass(Duration::from_millis(250));
    assert_eq!(room.acts(), [Act::Connect]);
    room.signal.handle_open(room.now);
    room.take(join(vec![face()]));
    assert!(room.signal.is_in());
    assert!(matches!(room.acts()[0], Act::NewPeers { .. }));
}

#[test]
fn attempts_in_a_row_are_bounded_their_pauses_grow_and_a_long_stay_forgives() {
    let mut room = Room1::joined("face", vec![]);
    let cut = Failure::Cut;
    room.signal.handle_ended(room.now, &cut);
    for pause in [250, 500, 1_000, 2_000] {
        assert_eq!(room.signal.wake_at(), Some(room.now + Duration::from_millis(pause)));
        room.pass(Duration::from_millis(pause));
        room.signal.handle_ended(room.now, &cut);
    }
    let last = room.notices().pop();
    assert!(matches!(last, Some(Notice::Lost(Lost { cause: Cause::Connection, .. }))), "{last:?}");
    assert_eq!(room.signal.wake_at(), None);
    assert_eq!(room.acts().pop(), Some(Act::HangUp));

    let mut room = Room1::joined("face", vec![]);
    for _ in 0..20 {
        room.now += SETTLED;
        room.signal.handle_ended(room.now, &cut);
        room.pass(Duration::from_millis(250));
        room.signal.handle_open(room.now);
        room.take(join(vec![]));
        assert!(room.signal.is_in());
    }
}

#[test]
fn a_refusal_is_final_and_what_the_server_says_of_leaving_decides() {
    let mut room = Room1::new("face");
    room.signal.handle_ended(room.now, &Failure::Refused { status: 401, text: "no such key".to_owned() });
    assert!(matches!(&room.notices()[..], [Notice::Lost(Lost { cause: Cause::Refused, .. })]));

    for (action, reason, cause) in [
        (Action::Disconnect, DisconnectReason::RoomDeleted, Some(Cause::Over)),
        (Action::Disconnect, DisconnectReason::ParticipantRemoved, Some(Cause::Over)),
        (Action::Disconnect, DisconnectReason::ServerShutdown, Some(Cause::Connection)),
        (Action::Disconnect, DisconnectReason::DuplicateIdentity, Some(Cause::Refused)),
        (Action::Reconnect, DisconnectReason::Migration, None),
        (Action::Resume, DisconnectReason::UnknownReason, None),
    ] {
        let mut room = Room1::joined("face", vec![]);
        room.take(leave(action, reason));
        let lost = room.notices().into_iter().find_map(|notice| match notice {
            Notice::Lost(lost) => Some(lost.cause),
            _ => None,
        });
        assert_eq!(lost, cause, "{reason:?}");
    }
}

#[test]
fn a_room_is_entered_with_the_token_that_came_last_and_left_with_a_word() {
    let mut room = Room1::joined("face", vec![]);
    room.take(frame(Response::RefreshToken("newer".to_owned())));
    assert_eq!(room.signal.token(), "newer");
    room.signal.leave();
    let acts = room.acts();
    assert!(matches!(&acts[..], [Act::Send(_), Act::HangUp]), "{acts:?}");
    room.signal.handle_ended(room.now, &Failure::Cut);
    assert!(room.notices().is_empty(), "we left ourselves");
}

#[test]
fn candidates_pass_both_ways_and_what_cannot_be_read_is_counted() {
    let mut room = Room1::joined("face", vec![]);
    let trickle = |init: &str, target| {
        frame(Response::Trickle(TrickleRequest { candidate_init: init.to_owned(), target, r#final: false }))
    };
    room.take(trickle(r#"{"candidate":"candidate:1 1 udp 1 127.0.0.1 9 typ host","sdpMid":"0"}"#, 1));
    room.take(trickle("{", 1));
    room.take(trickle(r#"{"candidate":"x"}"#, 9));
    room.take(vec![0xff; 9]);
    assert_eq!(room.signal.counters().unread, 3);
    assert!(matches!(&room.acts()[..], [Act::Candidate { target: Target::Subscriber, .. }]));
    room.signal.candidate(Target::Publisher, "candidate:2", "0", 0);
    let requests = room.requests();
    let [Request::Trickle(trickle)] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!((trickle.target, trickle.candidate_init.contains("\"sdpMLineIndex\":0")), (0, true));
    room.take(frame(Response::SubscriptionResponse(SubscriptionResponse {
        track_sid: "TR_v".to_owned(),
        err: SubscriptionError::SeCodecUnsupported as i32,
    })));
    assert!(matches!(&room.notices()[..], [Notice::Warning(why)] if why.contains("codec")));
}

#[test]
fn a_server_that_says_nothing_after_the_socket_opened_is_tried_again() {
    let mut room = Room1::new("face");
    room.signal.handle_open(room.now);
    room.pass(Duration::from_secs(5));
    assert!(matches!(&room.notices()[..], [Notice::Rejoining { .. }]));
}
