//! The emulators of faces are what the vendors' own SDKs expect, for Python and for browsers; and a face made with LiveKit's
//! own code for workers is heard, seen and interrupted by our client.

use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use eyeline::avatar::livekit::token::{Grant, access_token};
use eyeline::avatar::room::RoomSettings;
use eyeline::media::access_unit::VideoCodec;
use serde_json::{Value, json};

use crate::harness::emulators::anam::{self, Anam};
use crate::harness::emulators::face::frequency;
use crate::harness::emulators::liveavatar::{Cast, LiveAvatarService};
use crate::harness::emulators::livekit::{KEY, LiveKit, SECRET};
use crate::harness::emulators::server::{Api, Exchange, Seen, Server};
use crate::harness::{sdks, wait_for};
use crate::rooms::{Talk, settings, tone};

/// Lets a guest into room `r`.
fn token(identity: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let grant = Grant::Join { room: "r", identity, name: "", on_behalf: None };
    access_token(KEY, SECRET, &grant, now, Duration::from_secs(60))
}

/// What a browser's proof measured.
fn judge(seen: &Value) {
    println!("browser: {seen}");
    assert!(seen["pictures"].as_u64().is_some_and(|pictures| pictures > 60), "{seen}");
}

#[test]
fn livekits_sdk_for_python_is_content_with_the_server_and_its_worker() {
    let server = LiveKit::start();
    server.bring_worker("r", "face");
    let content = sdks::content("livekit_room.py", &[&server.url(), &token("sdk"), "face"]);
    assert!(content.is_ok(), "{content:?} {:?}", server.refused());
    assert_eq!(server.heard().samples.len(), 24_000);
}

#[test]
fn livekits_sdk_for_browsers_is_content_with_the_server_and_its_worker() {
    let server = LiveKit::start();
    server.bring_worker("r", "face");
    let parameters = json!({ "url": server.url(), "token": token("browser"), "avatar": "face" });
    let seen = sdks::browser(&["livekit-client.js"], "livekit_client.js", parameters);
    judge(&seen.unwrap_or_else(|error| panic!("{error} {:?}", server.refused())));
    let heard = server.heard();
    assert_eq!((heard.rate, heard.cleared.len()), (24_000, 1));
    assert_eq!(server.refused(), [""; 0]);
}

#[test]
fn liveavatars_sdk_for_browsers_is_content_with_the_emulator() {
    let rooms = Arc::new(LiveKit::start());
    rooms.bring_worker("r", "heygen");
    let stage = rooms.clone();
    let service = LiveAvatarService::start(
        (rooms.url(), token("client")),
        Arc::new(move |cast| match cast {
            Cast::Say(samples) => stage.say("r", samples, 24_000),
            Cast::Cut => stage.cut_worker("r"),
        }),
    );
    let session = service.book(json!({ "avatar_id": "a-1", "mode": "LITE" }));
    let parameters = json!({ "url": service.root(), "token": session.token });
    let seen = sdks::browser(&["events.js", "liveavatar-web-sdk.js"], "liveavatar.js", parameters);
    judge(&seen.unwrap_or_else(|error| panic!("{error} {:?}", service.state().violations)));
    assert_eq!(service.leaks(), [""; 0]);
    let state = service.state();
    assert_eq!(state.violations, [""; 0]);
    assert_eq!((state.keep_alives, state.vanished), (1, 0));
    let told: Vec<&str> =
        state.commands.iter().map(String::as_str).filter(|told| *told != "agent.speak").collect();
    assert_eq!(told, ["agent.speak_end", "agent.speak_end", "agent.interrupt"]);
}

#[test]
fn anams_sdks_for_python_and_for_browsers_are_content_with_the_emulator() {
    for (sdk, mode) in [
        ("python", "passthrough"),
        ("python", "microphone"),
        ("browser", "passthrough"),
        ("browser", "microphone"),
    ] {
        let anam = Anam::start();
        let content = if sdk == "python" {
            sdks::content("anam_session.py", &[&anam.root(), anam::KEY, mode])
        } else {
            let parameters = json!({ "url": anam.root(), "key": anam::KEY, "mode": mode });
            sdks::browser(&["js-sdk.js"], "anam.js", parameters).map(|seen| judge(&seen))
        };
        assert!(content.is_ok(), "{sdk} {mode}: {content:?} {:?} {:#?}", anam.refused(), anam.sessions());
        assert_eq!(anam.refused(), [""; 0], "{sdk} {mode}");
        let sessions = anam.sessions();
        assert!(
            sessions.len() == 1 && sessions[0].ended.is_some_and(|(_, who)| who == "client"),
            "{sdk} {mode}"
        );
        assert_eq!(sessions[0].log.turns > 0, mode == "passthrough", "{sdk} {mode}");
    }
}

/// A vendor's REST in front of LiveKit's own code for workers.
#[derive(Default)]
struct Genuine {
    workers: Mutex<Vec<Child>>,
}

impl Api for Genuine {
    fn name(&self, _seen: &Seen) -> &'static str {
        "start"
    }

    fn answer(&self, seen: &Seen, exchange: &mut Exchange<'_>) {
        let body = seen.json();
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        let arguments = [text("livekit_url"), text("livekit_token")];
        let worker =
            sdks::python(Some("agents"), "livekit_worker.py", &arguments.each_ref().map(String::as_str))
                .spawn();
        self.workers.lock().expect("whole").push(worker.expect("python3"));
        exchange.json(200, &json!({ "id": "s-1" }), &[]);
    }
}

#[tokio::test]
async fn a_worker_of_livekits_own_code_hears_us_is_heard_and_stops_when_interrupted() {
    sdks::packages(Some("agents"));
    let genuine = Arc::new(Genuine::default());
    let (server, vendor) = (LiveKit::start(), Server::start(genuine.clone()));
    // Python takes seconds until it has loaded all that.
    let own = RoomSettings {
        base_url: format!("http://{}", vendor.address),
        timeout: Duration::from_secs(20),
        ..settings(&server)
    };
    let mut talk = Talk::open(own, &[VideoCodec::Vp8, VideoCodec::H264]);
    talk.until(0, "Ready").await;
    let begun = Instant::now();
    talk.say(1, &tone(24_000, 1_000)).await;
    talk.until(0, "Speaking { turn: 1 }").await;
    talk.until(0, "Ended { turn: 1, interrupted: false }").await;
    talk.listen(Duration::from_millis(400)).await;
    let back = talk.loud(begun);
    assert!((40_000..60_000).contains(&back.len()), "{} samples of a second", back.len());
    assert!((frequency(&back, 48_000) - 440.0).abs() < 3.0, "{}", frequency(&back, 48_000));
    assert!(talk.keys > 0 && talk.pictures > 20, "{} of {}", talk.keys, talk.pictures);

    talk.say(2, &tone(24_000, 5_000)).await;
    talk.until(0, "Speaking { turn: 2 }").await;
    talk.listen(Duration::from_millis(500)).await;
    let cut = Instant::now();
    talk.session.interrupt(2);
    let hushed = talk.until(0, "Hushed").await - cut;
    println!("worker: hushed after {hushed:?}, {} pictures, {} keys", talk.pictures, talk.keys);
    assert!(hushed < Duration::from_millis(1_000), "it tells: {hushed:?}");
    talk.listen(Duration::from_millis(500)).await;
    let quiet = Instant::now();
    talk.listen(Duration::from_millis(600)).await;
    assert!(talk.loud(quiet).is_empty(), "the cut turn goes on");
    talk.close().await;
    assert_eq!(server.refused(), [""; 0]);
    for worker in genuine.workers.lock().expect("whole").iter_mut() {
        let ended = wait_for(Duration::from_secs(8), || worker.try_wait().ok().flatten());
        assert!(ended.is_some_and(|status| status.success()), "it ends with its room: {ended:?}");
    }
}
