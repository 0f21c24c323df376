//! Every configuration in `examples/` starts and takes calls as its comments say.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::harness::appliance::Appliance;
use crate::harness::uac::Caller;
use crate::harness::{root, turn};

/// The SIP status a caller from 127.0.0.1 gets for a user name, per example; what is not listed answers 200 to `100`.
const OTHERWISE: [(&str, &[(&str, u16)]); 2] = [
    ("agents-by-number.toml", &[("100", 200), ("101", 200), ("300", 404)]),
    ("tcp-trunk.toml", &[("100", 403)]),
];

#[test]
fn every_example_takes_calls() {
    let _turn = turn();
    let entries = std::fs::read_dir(root().join("examples")).expect("the examples");
    let files: BTreeMap<String, _> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .filter(|(name, _)| name.ends_with(".toml"))
        .collect();
    assert!(files.len() >= 5 && OTHERWISE.iter().all(|(name, _)| files.contains_key(*name)), "{files:?}");
    for (name, file) in files {
        // A box on which tests run has no door network and may be nearly full.
        let appliance = Appliance::start_with_file(&file, &["sip.advertise=\"auto\""]);
        let expected =
            OTHERWISE.iter().find(|(other, _)| *other == name).map_or(&[("100", 200)][..], |(_, all)| *all);
        for (user, status) in expected {
            let mut caller = Caller::new(&format!("sip:{user}@{}", appliance.sip));
            let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
            assert_eq!(answer.status, *status, "{name}: {user}: {answer:?}");
            if answer.status == 200 {
                let received = caller.stream(&answer, Duration::from_millis(700), None);
                assert!(received.audio.packets.len() > 10, "{name}: {user}: sound flows");
                caller.hang_up();
            }
        }
    }
}

#[test]
fn a_single_line_is_busy_for_the_second_caller() {
    let _turn = turn();
    let appliance = Appliance::start_with_file(&root().join("examples/single-line.toml"), &[]);
    let mut first = Caller::new(&appliance.uri());
    assert_eq!(first.invite(&first.offer(None)).status, 200);
    let mut second = Caller::new(&appliance.uri());
    assert_eq!(second.invite(&second.offer(None)).status, 486);
    first.hang_up();
}
