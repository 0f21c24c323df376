//! What a call survives and what it leaves behind: dead lines, broken packets for seconds, many short calls, and the
//! time to the first picture.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::harness::appliance::Appliance;
use crate::harness::endurance::{at_rest, many_calls, mutated_call};
use crate::harness::uac::{Caller, Packetized, Sending};
use crate::harness::{media, picture, sound, turn};

const ECHO: &str = r#"agent.mirror={kind="mirror", audio="echo"}"#;
const BARE: &str = r#"route=[{to="*", agent="mirror", censor=false, detect=[], record=false}]"#;
const HERTZ: f64 = 700.0;

fn speaking(time: Duration) -> Sending<'static> {
    Sending { time, tone: Some(HERTZ), ..Sending::default() }
}

/// Waits for the BYE of a dead line: when it came, and the reason it gives.
fn hung_up(caller: &mut Caller, limit: Duration) -> Option<(Duration, String)> {
    let start = Instant::now();
    let bye = caller.is_asked("BYE", "200 OK", "", limit)?;
    let reason = bye.lines().find(|line| line.to_ascii_lowercase().starts_with("reason:"));
    Some((start.elapsed(), reason.unwrap_or_default().to_owned()))
}

fn assert_dead(ended: Option<(Duration, String)>, from: f64, to: f64, when: &str) {
    let (after, reason) = ended.unwrap_or_else(|| panic!("{when}: the call goes on"));
    let after = after.as_secs_f64();
    assert!(after >= from && after <= to, "{when}: ended after {after:.1} s, not {from} to {to}");
    assert!(reason.contains("media-timeout"), "{when}: {reason}");
}

#[test]
fn a_dead_line_is_hung_up_with_a_reason_and_one_that_lives_is_not() {
    let _turn = turn();
    let times = ["media.rtp_start_timeout_s=2", "media.rtp_timeout_s=1", "media.hold_timeout_s=4"];
    let appliance = Appliance::start(&[&[ECHO, BARE], &times[..]].concat());
    let uri = appliance.uri();
    let answered = || {
        let mut caller = Caller::new(&uri);
        let answer = caller.invite(&caller.offer(None));
        assert_eq!(answer.status, 200, "{answer:?}");
        (caller, answer)
    };
    // The line is looked at once a second.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut caller, _) = answered();
            assert_dead(hung_up(&mut caller, Duration::from_secs(6)), 1.8, 4.0, "nothing ever came");
        });
        scope.spawn(|| {
            let (mut caller, answer) = answered();
            caller.stream_as(&answer, &speaking(Duration::from_millis(500)), |_, _| ());
            assert_dead(hung_up(&mut caller, Duration::from_secs(6)), 0.8, 3.0, "it stopped");
        });
        scope.spawn(|| {
            let (mut caller, answer) = answered();
            caller.stream_as(&answer, &speaking(Duration::from_millis(500)), |_, _| ());
            // Muted without a hold: reports alone say that the caller is there. They come from its RTP port.
            let control = SocketAddr::from((Ipv4Addr::LOCALHOST, answer.ports()[0] + 1));
            let report = [0x80, 201, 0, 1, 0x5e, 0xed, 0, 0];
            let mut next = Duration::ZERO;
            let silent = Sending { time: Duration::from_secs(3), silent: true, ..Sending::default() };
            caller.stream_as(&answer, &silent, |lines, at| {
                if at >= next {
                    let _ = lines.audio.0.send_to(&report, control);
                    next = at + Duration::from_millis(300);
                }
            });
            assert_dead(hung_up(&mut caller, Duration::from_secs(6)), 0.4, 3.0, "the reports stopped, too");
        });
        scope.spawn(|| {
            let (mut caller, answer) = answered();
            caller.stream_as(&answer, &speaking(Duration::from_millis(500)), |_, _| ());
            let held = caller.reinvite(&caller.offer(None).replace("a=sendrecv", "a=inactive"));
            assert_eq!(held.status, 200, "{held:?}");
            assert_dead(hung_up(&mut caller, Duration::from_secs(9)), 3.5, 6.0, "held");
        });
    });
}

#[test]
fn broken_media_from_the_caller_itself_costs_neither_the_call_nor_memory() {
    let _turn = turn();
    let appliance = Appliance::start(&[ECHO]);
    let clip = Packetized::read(&media("face.mp4"), 1);
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    let clean = |seconds| Sending {
        time: Duration::from_secs(seconds),
        video: Some(&clip),
        tone: Some(HERTZ),
        ..Sending::default()
    };
    caller.stream_as(&answer, &clean(1), |_, _| ());
    let ordeal = mutated_call(&appliance, &mut caller, &answer, Duration::from_secs(10), &clip, 20_261_120);
    println!("{} packets were spoilt; MiB: {:.1?}", ordeal.spoilt, ordeal.memory);
    assert!(ordeal.spoilt > 500, "{} packets were spoilt", ordeal.spoilt);
    let log = appliance.process.log();
    assert!(!log.contains("panicked") && !log.contains("broke"), "{log}");
    let growth = ordeal.memory[9] - ordeal.memory[2];
    assert!(growth < 8.0, "memory grew: {:.1?} MiB", ordeal.memory);

    // Whoever looks in from now on needs a key picture.
    let mut asked = 0;
    let after = caller.stream_as(&answer, &clean(4), |lines, at| {
        if asked < 2 && at >= Duration::from_millis(1200) * asked {
            let control = SocketAddr::new(lines.video.1.ip(), lines.video.1.port() + 1);
            let _ = lines.video.0.send_to(&[0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1], control);
            asked += 1;
        }
    });
    let heard: Vec<f64> = after
        .audio
        .packets
        .iter()
        .skip(50)
        .flat_map(|packet| packet.payload.iter().map(|byte| sound::from_mu_law(*byte)))
        .collect();
    let share = sound::tone_share(&heard, HERTZ);
    assert!(share > 0.9, "{share:.3} of the echo is the tone again");
    let pictures = picture::read_h264(&after.video.h264());
    let shown = pictures.iter().rev().take(15).filter(|picture| !picture.is_slate()).count();
    assert!(shown >= 10, "{shown} of the last 15 pictures show the scene again");
    caller.hang_up();
}

#[test]
fn hundreds_of_short_calls_leave_nothing_behind() {
    let _turn = turn();
    // Below the ports of everything else in these tests.
    let wide = "media.rtp_ports=[3000, 11999]";
    let appliance = Appliance::start(&[ECHO, BARE, wide, "sip.calls_per_second=0"]);
    let clip = Packetized::read(&media("face.mp4"), 1);
    // As many before: what the first calls make is made once.
    many_calls(&appliance.uri(), 240, 6, &clip);
    let (before, memory_before) = at_rest(&appliance);
    let start = Instant::now();
    let shown = many_calls(&appliance.uri(), 240, 6, &clip);
    let took = start.elapsed();
    let (after, memory) = at_rest(&appliance);
    println!(
        "240 calls in {took:.1?}, {shown} with a picture; {before:?} {memory_before:.1} MiB, {after:?} {memory:.1}"
    );
    assert!(shown >= 200, "{shown} of 240 calls got a picture");
    assert_eq!(after.udp_ports, before.udp_ports, "RTP ports");
    assert!(after.threads <= before.threads && after.files <= before.files, "{before:?}, then {after:?}");
    // Transactions outlive their calls by half a minute (RFC 3261 §17.2): 64 KiB each. A picture alone is 345 KiB.
    assert!(memory < memory_before + 15.0, "{memory_before:.1} MiB, then {memory:.1}");
}

#[test]
fn the_first_key_picture_is_whole_soon_after_the_answer() {
    let _turn = turn();
    let appliance = Appliance::start(&[ECHO, BARE]);
    let clip = Packetized::read(&media("face.mp4"), 1);
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            let mut caller = Caller::new(&appliance.uri());
            let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
            let sending =
                Sending { time: Duration::from_millis(700), video: Some(&clip), ..Sending::default() };
            let received = caller.stream_as(&answer, &sending, |_, _| ());
            caller.hang_up();
            first_key_ms(&received.video)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("the first key picture is whole after {times:.0?} ms");
    assert!(times[2] <= 200.0, "{times:.0?} ms");
}

/// Milliseconds to the last packet of the first key picture.
fn first_key_ms(video: &crate::harness::capture::Stream) -> f64 {
    // An IDR slice, or the first fragment of one (RFC 6184 §5.8).
    let is_key = |payload: &[u8]| match payload {
        [first, header, ..] => first & 31 == 5 || (first & 31 == 28 && header & 0x9f == 0x85),
        _ => false,
    };
    let Some(key) = video.packets.iter().find(|packet| is_key(&packet.payload)) else { return f64::INFINITY };
    let whole = video.packets.iter().rfind(|packet| packet.timestamp == key.timestamp);
    whole.map_or(f64::INFINITY, |packet| packet.at * 1e3)
}
