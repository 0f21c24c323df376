//! Who a stream is taken from and sent to: third parties that send what could be the call's, before it flows, while it
//! flows, and into the port of a call that is over.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::harness::appliance::Appliance;
use crate::harness::uac::{Caller, Lines, Received, Sending};
use crate::harness::{free_ports, sound, turn, wait_for};

const ECHO: &str = r#"agent.mirror={kind="mirror", audio="echo"}"#;
const BARE: &str = r#"route=[{to="*", agent="mirror", censor=false, detect=[], record=false, video=false}]"#;
const HERTZ: f64 = 700.0;
/// What strangers say.
const FOREIGN_HERTZ: f64 = 1900.0;

/// Somebody who knows the port, the codec, the source number and nearly the sequence.
struct Stranger {
    socket: UdpSocket,
    sequence: u16,
    sent: u32,
}

impl Stranger {
    fn at(host: Ipv4Addr) -> Stranger {
        let socket = UdpSocket::bind((host, 0)).expect("an address of loopback");
        socket.set_nonblocking(true).expect("a socket that does not block");
        Stranger { socket, sequence: 65_500, sent: 0 }
    }

    /// 20 ms of sound, and RTCP that says goodbye and asks for pictures.
    fn send(&mut self, to: SocketAddr) {
        let ssrc = 0x5eed_0000_u32;
        let mut packet = vec![0x80, 0];
        packet.extend(self.sequence.to_be_bytes());
        packet.extend((self.sent * 160).to_be_bytes());
        packet.extend(ssrc.to_be_bytes());
        packet.extend((0..160).map(|at| {
            let time = f64::from(self.sent * 160 + at) / f64::from(sound::RATE);
            sound::to_mu_law((std::f64::consts::TAU * FOREIGN_HERTZ * time).sin() * 0.6)
        }));
        self.sequence = self.sequence.wrapping_add(1);
        self.sent += 1;
        let _ = self.socket.send_to(&packet, to);
        let empty_report = [&[0x80, 201, 0, 1][..], &ssrc.to_be_bytes()].concat();
        let goodbye = [&[0x81, 203, 0, 1][..], &ssrc.to_be_bytes()].concat();
        let control = SocketAddr::new(to.ip(), to.port() + 1);
        let _ = self.socket.send_to(&[empty_report, goodbye].concat(), control);
    }

    /// Datagrams that came to it.
    fn heard(&self) -> usize {
        let mut buffer = [0; 2048];
        std::iter::from_fn(|| self.socket.recv_from(&mut buffer).ok()).count()
    }
}

/// The caller hears itself and nobody else.
fn assert_own_echo(received: &Received, time: Duration, when: &str) {
    let packets = &received.audio.packets;
    assert!(packets.len() as f64 > time.as_secs_f64() * 47.0, "{when}: {} packets", packets.len());
    let heard: Vec<f64> = packets
        .iter()
        .skip(25)
        .flat_map(|packet| packet.payload.iter().map(|byte| sound::from_mu_law(*byte)))
        .collect();
    let (own, foreign) = (sound::tone_share(&heard, HERTZ), sound::tone_share(&heard, FOREIGN_HERTZ));
    assert!(
        own > 0.9 && foreign < 0.01,
        "{when}: {own:.3} is the caller's tone, {foreign:.3} the stranger's"
    );
}

fn foreign_packets(appliance: &Appliance) -> f64 {
    let (_, page) = appliance.get("/metrics").expect("the console answers");
    let lines = page.lines().filter(|line| line.starts_with("eyeline_rtp_foreign_source_total"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn speaking(millis: u64) -> Sending<'static> {
    Sending { time: Duration::from_millis(millis), tone: Some(HERTZ), ..Sending::default() }
}

#[test]
fn a_third_party_changes_nothing_before_and_after_the_caller_is_heard() {
    let _turn = turn();
    let appliance = Appliance::start(&[ECHO, BARE]);
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(None));
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, answer.ports()[0]));
    // Another host of a trusted network, for longer than any silence that lets a translated address in.
    let mut elsewhere = Stranger::at(Ipv4Addr::new(127, 0, 0, 2));
    for _ in 0..100 {
        elsewhere.send(to);
        std::thread::sleep(Duration::from_millis(18));
    }
    assert_eq!(elsewhere.heard(), 0, "our media goes to the stranger");
    // And while the call flows, that one and one on the caller's own host.
    let mut beside = Stranger::at(Ipv4Addr::LOCALHOST);
    let disturb = |lines: &Lines<'_>, at: Duration| {
        if at >= Duration::from_millis(100) && at >= Duration::from_millis(20) * beside.sent {
            elsewhere.send(lines.audio.1);
            beside.send(lines.audio.1);
        }
    };
    let received = caller.stream_as(&answer, &speaking(4000), disturb);
    assert_own_echo(&received, Duration::from_secs(4), "beside strangers");
    assert_eq!((elsewhere.heard(), beside.heard()), (0, 0), "our media goes to a stranger");
    // RTP and RTCP, all of it.
    let expected = f64::from(elsewhere.sent + beside.sent) * 2.0;
    let counted = wait_for(Duration::from_secs(3), || {
        Some(foreign_packets(&appliance)).filter(|counted| *counted >= expected * 0.98)
    });
    let counted = counted.unwrap_or_else(|| foreign_packets(&appliance));
    assert!(counted >= expected * 0.98 && counted <= expected, "{counted} of {expected} count as foreign");
    caller.hang_up();
}

#[test]
fn a_port_that_is_still_sent_to_serves_no_other_call() {
    let _turn = turn();
    let ports = free_ports(4);
    let two_pairs = format!("media.rtp_ports=[{ports}, {}]", ports + 3);
    let appliance = Appliance::start(&[ECHO, BARE, &two_pairs]);
    // One of the two is taken all the time.
    let mut other = Caller::new(&appliance.uri());
    assert_eq!(other.invite(&other.offer(None)).status, 200);
    let mut first = Caller::new(&appliance.uri());
    let answer = first.invite(&first.offer(None));
    let port = answer.ports()[0];
    first.stream_as(&answer, &speaking(300), |_, _| ());
    first.hang_up();
    // Its sender goes on as if nothing had happened.
    let mut late = Stranger::at(Ipv4Addr::LOCALHOST);
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for round in 0..180 {
        late.send(to);
        std::thread::sleep(Duration::from_millis(20));
        if round % 60 == 59 {
            let mut next = Caller::new(&appliance.uri());
            let answer = next.invite(&next.offer(None));
            assert!(answer.status >= 400, "after {} ms the port serves another call: {answer:?}", round * 20);
        }
    }
    // Once it is quiet, the port is free within seconds; then the sender comes back.
    let answered = wait_for(Duration::from_secs(6), || {
        let mut next = Caller::new(&appliance.uri());
        let answer = next.invite(&next.offer(None));
        (answer.status == 200).then_some((next, answer))
    });
    let (mut next, answer) = answered.expect("the port is free again");
    late.heard();
    let disturb = |lines: &Lines<'_>, at: Duration| {
        if at >= Duration::from_millis(20) * (late.sent - 180) {
            late.send(lines.audio.1);
        }
    };
    let received = next.stream_as(&answer, &speaking(2000), disturb);
    assert_own_echo(&received, Duration::from_secs(2), "beside a late sender");
    assert_eq!(late.heard(), 0, "our media goes to the sender of before");
    next.hang_up();
    other.hang_up();
}
