//! The offers of many makes, sent to the running binary one after the other: status and lines as written beside them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::appliance::Appliance;
use crate::harness::turn;
use crate::harness::uac::Caller;

/// The offer as somebody on loopback would send it.
fn local(offer: &str) -> String {
    let here = |line: &str| {
        let address = line.starts_with("c=IN ") && !line.contains("0.0.0.0");
        let line = if address { "c=IN IP4 127.0.0.1" } else { line };
        format!("{line}\r\n")
    };
    offer.lines().map(here).collect()
}

/// Each `m=` line without its port, and whether it is taken.
fn lines(sdp: &str) -> Vec<(String, bool)> {
    let media = sdp.lines().filter_map(|line| line.trim_end().strip_prefix("m="));
    let read = |line: &str| {
        let mut words = line.split(' ');
        let (kind, port) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        (format!("{kind} {}", words.collect::<Vec<_>>().join(" ")), port != "0")
    };
    media.map(read).collect()
}

#[test]
fn the_binary_answers_every_make_as_written() {
    let _turn = turn();
    let appliance = Appliance::start(&[
        "sip.max_calls=50",
        "sip.calls_per_second=0",
        r#"media.audio_codecs=["pcma", "pcmu"]"#,
    ]);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sdp");
    let mut asked = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        // Answers belong to offers of ours, and this caller has no second address family.
        if path.extension().is_none_or(|kind| kind != "sdp") || name.starts_with("answer-") || name == "ipv6"
        {
            continue;
        }
        // Ports rest for two seconds before they are used again.
        if asked % 12 == 11 {
            std::thread::sleep(Duration::from_millis(2500));
        }
        let offer = std::fs::read(&path).unwrap();
        let expected = std::fs::read_to_string(path.with_extension("answer")).unwrap();
        let mut caller = Caller::new(&appliance.uri());
        let answer = caller.invite(&local(&String::from_utf8_lossy(&offer)));
        match expected.split(' ').next().and_then(|status| status.parse::<u16>().ok()) {
            Some(status) => assert_eq!(answer.status, status, "{name}: {answer:?}"),
            None => {
                assert_eq!(answer.status, 200, "{name}: {answer:?}");
                assert_eq!(lines(&answer.sdp), lines(&expected), "{name}");
                caller.hang_up();
            }
        }
        asked += 1;
    }
    assert!(asked >= 35, "{asked} offers");
}

/// The judge and the bodies of real endpoints, when they lie beside the checkout.
#[test]
fn the_binary_answers_real_endpoints() {
    let judge = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/lab/sdp_corpus.py");
    if !judge.exists() {
        eprintln!("no {}: the check against real bodies is left out", judge.display());
        return;
    }
    let _turn = turn();
    let appliance = Appliance::start(&["sip.max_calls=50"]);
    let (address, port) = (appliance.sip.ip().to_string(), appliance.sip.port().to_string());
    let output = Command::new("python3").arg(judge).args([&address, &port]).arg("--strict").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let wrong: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("FAIL ")).collect();
    assert!(text.contains(" passed, ") && wrong.is_empty(), "{text}");
}
