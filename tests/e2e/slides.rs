//! A shared screen beside the camera's picture: a stream of its own, behind a gate of its own, in a file of its own.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::harness::appliance::Appliance;
use crate::harness::picture::{self, Clip, judge_face};
use crate::harness::uac::{Answer, Caller, Packetized, Sending};
use crate::harness::{media, turn};

/// The second picture of a caller.
struct Screen {
    socket: UdpSocket,
    clip: Packetized,
    sent: u32,
    sequence: u16,
}

impl Screen {
    fn new(clip: &str) -> Screen {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        Screen { socket, clip: Packetized::read(&media(clip), 1), sent: 0, sequence: 1 }
    }

    fn line(&self) -> String {
        let port = self.socket.local_addr().expect("a bound socket").port();
        format!(
            "m=video {port} RTP/AVP 98\na=rtpmap:98 H264/90000\n\
             a=fmtp:98 profile-level-id=42e01f;packetization-mode=1\na=content:slides\na=rtcp-fb:98 nack pli\na=sendonly"
        )
    }

    /// Sends what is due at 15 pictures a second.
    fn send(&mut self, to: SocketAddr, at: Duration) {
        while at * 15 >= self.sent * Duration::from_secs(1) {
            let unit = &self.clip.units[self.sent as usize % self.clip.units.len()];
            for (number, payload) in unit.iter().enumerate() {
                let marker = u8::from(number + 1 == unit.len()) << 7;
                let mut packet = vec![0x80, marker | 98];
                packet.extend(self.sequence.to_be_bytes());
                packet.extend((self.sent * 6000).to_be_bytes());
                packet.extend(0x51de_0000u32.to_be_bytes());
                packet.extend_from_slice(payload);
                let _ = self.socket.send_to(&packet, to);
                self.sequence = self.sequence.wrapping_add(1);
            }
            self.sent += 1;
        }
    }
}

fn offer(caller: &Caller, screen: &Screen) -> String {
    caller.offer(Some(&format!("{}\n{}", Caller::h264_offer(1), screen.line())))
}

fn talk(caller: &mut Caller, answer: &Answer, clip: &Packetized, screen: &mut Screen, seconds: u64) {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, answer.ports()[2]));
    let sending = Sending { time: Duration::from_secs(seconds), video: Some(clip), ..Sending::default() };
    let begun = Duration::from_secs(1) * screen.sent / 15;
    caller.stream_as(answer, &sending, |_, at| screen.send(to, begun + at));
}

#[test]
fn a_shared_screen_is_recorded_apart_and_its_faces_are_hidden_too() {
    let _turn = turn();
    let appliance = Appliance::start(&[r#"route=[{to="*", agent="mirror", slides=true}]"#]);
    let camera = Packetized::read(&media("scene.mp4"), 1);
    let mut screen = Screen::new("face.mp4");
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&offer(&caller, &screen));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.ports().len() == 3 && answer.ports().iter().all(|port| *port > 0), "{answer:?}");
    let (_, slides) = answer.sdp.rsplit_once("m=video").unwrap();
    assert!(slides.contains("a=recvonly") && slides.contains("a=content:slides"), "{answer:?}");
    talk(&mut caller, &answer, &camera, &mut screen, 6);
    let (_, calls) = appliance.get("/api/v1/calls").unwrap_or_default();
    assert!(calls.contains("\"slides\":{"), "the console shows the screen: {calls}");
    caller.hang_up();

    let own = appliance.finished_recording();
    let files = appliance.recordings();
    let beside: Vec<_> =
        files.iter().filter(|file| file.to_string_lossy().ends_with("-slides.mp4")).collect();
    assert_eq!((files.len(), beside.len()), (2, 1), "{files:?}");
    let pictures = picture::read(beside[0]);
    let report = judge_face(&pictures, &Clip::open("face.mp4"));
    assert!(report.pictures > 60 && report.hidden == report.pictures, "{report:?}");
    assert!(report.scene_kept * 10 >= report.pictures * 8, "a screen, not a slate: {report:?}");
    let record = appliance.call_record(&own);
    assert_eq!(record["recording"]["files"].as_array().map(Vec::len), Some(2), "{record}");
    assert!(record["slides"]["pictures"]["decoded"].as_u64() > Some(60), "{record}");
    let main = record["video"]["packets_received"].as_u64();
    assert!(main > Some(60) && main != record["slides"]["packets_received"].as_u64(), "{record}");
}

#[test]
fn a_route_that_wants_no_screen_takes_the_camera_alone() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    let screen = Screen::new("scene.mp4");
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&offer(&caller, &screen));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.ports()[1] > 0 && answer.ports()[2] == 0, "{answer:?}");
    caller.hang_up();
}
