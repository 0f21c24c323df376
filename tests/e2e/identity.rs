//! Real phones and registrars: baresip registers here, we register at Kamailio and at SIPp, and calls go both ways.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::harness::appliance::{Appliance, eyeline};
use crate::harness::baresip::{Account, Baresip, Settings};
use crate::harness::kamailio::Kamailio;
use crate::harness::relay::Relay;
use crate::harness::sipp::{Calls, Script, Sipp};
use crate::harness::{turn, wait_for};

/// Signalling is what is looked at here.
const PLAIN: [&str; 2] = [
    r#"route=[{to="*", agent="mirror", censor=false, detect=[], record=false}]"#,
    r#"agent.mirror={kind="mirror", audio="echo"}"#,
];
const USERS: &str = r#"sip.user=[{name="door1", password="s3cret"}, {name="door2", password="other"}]"#;

fn office(more: &[&str]) -> Appliance {
    let settings: Vec<&str> = PLAIN.iter().chain(&[USERS]).chain(more).copied().collect();
    Appliance::start(&settings)
}

fn door(appliance: &Appliance, password: &'static str) -> Settings {
    let account = Account { user: "door1", password, registrar: appliance.sip, proxy: None };
    Settings { clip: None, answers: true, account: Some(account), ..Settings::default() }
}

/// The value of one metric of the console.
fn metric(appliance: &Appliance, name: &str) -> Option<f64> {
    let (_, page) = appliance.get("/metrics")?;
    let line = page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn becomes(appliance: &Appliance, name: &str, value: f64, limit: Duration) -> bool {
    wait_for(limit, || (metric(appliance, name) == Some(value)).then_some(())).is_some()
}

#[test]
fn baresip_registers_with_its_password_only() {
    let _turn = turn();
    let appliance = office(&[]);
    let mut phone = Baresip::start(&door(&appliance, "s3cret"));
    phone.registered().unwrap_or_else(|why| panic!("{why}; {}", appliance.process.last_words()));
    assert!(becomes(&appliance, "eyeline_registrar_bindings", 1.0, Duration::from_secs(2)));
    assert_eq!(metric(&appliance, "eyeline_sip_proofs_refused_total"), Some(0.0));

    let mut thief = Baresip::start(&door(&appliance, "guess"));
    let why = thief.registered().expect_err("a wrong password");
    assert!(why.contains("403"), "{why}");
    assert_eq!(metric(&appliance, "eyeline_registrar_bindings"), Some(1.0));
    assert!(becomes(&appliance, "eyeline_sip_proofs_refused_total", 1.0, Duration::from_secs(2)));
}

#[test]
fn a_registered_phone_is_called_by_its_name() {
    let _turn = turn();
    let appliance = office(&[]);
    let body = r#"{"to": "door1", "agent": "mirror", "video": false}"#;
    let limit = Duration::from_secs(8);
    // Nobody is there yet.
    let (status, placed) = appliance.api("POST", "/api/v1/calls", body);
    assert_eq!(status, 201, "{placed}");
    let path =
        |placed: &serde_json::Value| format!("/api/v1/calls/{}", placed["id"].as_str().expect("an id"));
    let ended = wait_for(limit, || {
        let (_, call) = appliance.api("GET", &path(&placed), "");
        (call["state"] == "ended").then_some(call)
    });
    assert_eq!(ended.expect("an end")["end_reason"], "rejected");

    let mut phone = Baresip::start(&door(&appliance, "s3cret"));
    phone.registered().unwrap_or_else(|why| panic!("{why}; {}", appliance.process.last_words()));
    let (status, placed) = appliance.api("POST", "/api/v1/calls", body);
    assert_eq!(status, 201, "{placed}");
    assert!(phone.called(limit), "{}", appliance.process.last_words());
    phone.talk(Duration::from_secs(2));
    let (_, call) = appliance.api("GET", &path(&placed), "");
    assert_eq!((&call["to"], &call["state"]), (&"door1".into(), &"established".into()), "{call}");
    assert!(call["audio"]["packets_received"].as_u64() > Some(25), "{call}");
    assert_eq!(appliance.api("DELETE", &path(&placed), "").0, 200);
    assert!(phone.closed(limit).is_some(), "{}", phone.process.last_words());
}

#[test]
fn what_was_overheard_cannot_be_sent_again() {
    let _turn = turn();
    let appliance = office(&[]);
    let relay = Relay::before(appliance.sip);
    let mut settings = door(&appliance, "s3cret");
    settings.account.as_mut().unwrap().proxy = Some(relay.address);
    let mut phone = Baresip::start(&settings);
    phone.registered().unwrap_or_else(|why| panic!("{why}; {}", appliance.process.last_words()));
    let heard = relay.last_with(&["REGISTER ", "Authorization: Digest"]).expect("a proof on the wire");

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let own = socket.local_addr().unwrap();
    let lines = heard.split("\r\n").map(|line| match line.split(':').next() {
        Some("Via") => format!("Via: SIP/2.0/UDP {own};rport;branch=z9hG4bKreplayed"),
        Some("CSeq") => "CSeq: 900 REGISTER".to_owned(),
        Some("Contact") => format!("Contact: <sip:thief@{own}>"),
        _ => line.to_owned(),
    });
    let replayed = lines.collect::<Vec<_>>().join("\r\n");
    socket.send_to(replayed.as_bytes(), appliance.sip).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("an answer");
    let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert!(answer.starts_with("SIP/2.0 403 "), "{answer}");
    assert!(becomes(&appliance, "eyeline_registrar_bindings", 1.0, Duration::from_secs(2)));
}

#[test]
fn kamailio_registers_us_calls_us_and_is_called_with_proof() {
    let _turn = turn();
    let kamailio = Kamailio::start();
    let account = format!(
        r#"sip.account=[{{name="pbx", registrar="sip:{}", username="200", password="s3cret"}}]"#,
        kamailio.sip
    );
    let appliance = office(&[&account]);
    let up = "eyeline_registration_up{account=\"pbx\"}";
    assert!(becomes(&appliance, up, 1.0, Duration::from_secs(5)), "{}", appliance.process.last_words());
    let (_, ready) = appliance.get("/readyz").unwrap();
    assert!(ready.contains("\"pbx\""), "{ready}");

    let mut caller = Baresip::start(&Settings { clip: None, ..Settings::default() });
    caller.dial(&kamailio.uri("200"));
    caller.talk(Duration::from_secs(1));
    caller.hang_up();

    let there = Account { user: "201", password: "s3cret", registrar: kamailio.sip, proxy: None };
    let settings = Settings { clip: None, answers: true, account: Some(there), ..Settings::default() };
    let mut callee = Baresip::start(&settings);
    callee.registered().unwrap_or_else(|why| panic!("{why}"));
    let call = |password: &str| {
        let folder = tempfile::tempdir().unwrap();
        let uri = kamailio.uri("201");
        let options = ["--audio-only", "--duration", "1", "--ring-timeout", "5", "--json"];
        let identity = ["--user", "200", "--password", password];
        eyeline()
            .current_dir(folder.path())
            .args(["call", &uri])
            .args(options)
            .args(identity)
            .output()
            .unwrap()
    };
    let output = call("s3cret");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(callee.called(Duration::from_secs(2)));
    let refused = call("wrong");
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(text.contains("407"), "{text}");

    // Taking leave is heard by the registrar.
    assert!(kamailio.reaches("200", Duration::from_secs(2)));
    let mut appliance = appliance;
    appliance.process.stop();
    assert_eq!(kamailio.status_of("200"), Some(404), "{}", appliance.process.last_words());
}

#[test]
fn a_registrar_that_restarts_without_its_memory_has_us_back_with_the_next_refresh() {
    let _turn = turn();
    // Twenty seconds instead of the usual five minutes, of which 55 s are used over UDP: `sip::register` shows that.
    let mut kamailio = Kamailio::start();
    let account = |name: &str, more: &str| {
        format!(
            r#"{{name="{name}", registrar="sip:{}{more}", username="{name}", password="s3cret", expires_s=20}}"#,
            kamailio.sip
        )
    };
    let accounts = format!("sip.account=[{}, {}]", account("200", ""), account("201", ";transport=tcp"));
    let appliance = office(&[&accounts]);
    for user in ["200", "201"] {
        let reached = kamailio.reaches(user, Duration::from_secs(5));
        assert!(reached, "{user}: {}", appliance.process.last_words());
    }
    kamailio.stop();
    std::thread::sleep(Duration::from_secs(1));
    kamailio.start_again();
    let back = Instant::now();
    for user in ["201", "200"] {
        let left = Duration::from_secs(21).saturating_sub(back.elapsed());
        assert!(kamailio.reaches(user, left), "{user}: {}", appliance.process.last_words());
    }
}

#[test]
fn a_registrar_of_sipp_wants_longer_and_proof() {
    let _turn = turn();
    let calls = Calls { patience: Duration::from_secs(10), ..Calls::default() };
    let registrar = Sipp::callee(Script::File("registrar"), calls);
    let account = format!(
        r#"sip.account=[{{name="pbx", registrar="sip:127.0.0.1:{}", username="200", password="s3cret"}}]"#,
        registrar.port
    );
    let appliance = office(&[&account]);
    let up = "eyeline_registration_up{account=\"pbx\"}";
    assert!(becomes(&appliance, up, 1.0, Duration::from_secs(10)), "{}", appliance.process.last_words());
    registrar.passed().unwrap_or_else(|why| panic!("{why}"));
}
