//! `eyeline call` as an integrator uses it, and what an operator sees while it runs.

use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::harness::appliance::{Appliance, eyeline};
use crate::harness::baresip::{Baresip, Settings};
use crate::harness::{media, turn};

fn call(uri: &str, arguments: &[&str]) -> (Output, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let output = eyeline()
        .current_dir(folder.path())
        .args(["call", uri, "--json", "--out", "received"])
        .args(arguments)
        .output()
        .unwrap();
    (output, folder)
}

fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "exit {:?}\n{text}\n{problem}", output.status.code());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn the_client_calls_the_appliance_and_baresip() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    let baresip = Baresip::start(&Settings { answers: true, ..Settings::default() });
    let clip = media("face.mp4");
    for uri in [appliance.uri(), baresip.uri()] {
        let (output, folder) = call(&uri, &["--video", clip.to_str().unwrap(), "--duration", "4"]);
        assert!(report(&output).is_object());
        let saved = std::fs::read_dir(folder.path().join("received")).unwrap().count();
        assert!(saved > 0, "{uri}: what was received lies in --out");
    }
}

#[test]
fn a_call_that_nobody_takes_fails_by_itself() {
    let _turn = turn();
    let port = crate::harness::free_ports(2);
    let start = std::time::Instant::now();
    let (output, _folder) =
        call(&format!("sip:nobody@127.0.0.1:{port}"), &["--duration", "2", "--ring-timeout", "3"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(start.elapsed() < Duration::from_secs(40));
}

#[test]
fn health_and_metrics_tell_of_the_running_call() {
    let _turn = turn();
    let appliance = Appliance::start(&[]);
    assert_eq!(appliance.get("/healthz").map(|(status, _)| status), Some(200));
    assert_eq!(appliance.get("/nothing").map(|(status, _)| status), Some(404));
    let mut baresip = Baresip::start(&Settings::default());
    baresip.dial(&appliance.uri());
    baresip.talk(Duration::from_secs(3));
    let (status, metrics) = appliance.get("/metrics").expect("an answer");
    assert_eq!(status, 200);
    for line in metrics.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let value = line.rsplit(' ').next().unwrap();
        assert!(value.parse::<f64>().is_ok() && line.starts_with("eyeline_"), "{line}");
    }
    let calls = metrics.lines().find(|line| line.starts_with("eyeline_calls") && line.ends_with(" 1"));
    assert!(calls.is_some(), "one running call is counted: {metrics}");
    baresip.hang_up();
}
