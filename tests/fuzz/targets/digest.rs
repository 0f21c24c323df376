//! Digest headers, one in each line: as the proof of somebody who wants in, and as challenges to us.
//!
//! One guard has the password that the kept inputs were made with, another one has a password that stands nowhere:
//! what convinces the second one is a hole.

use std::net::IpAddr;
use std::str;
use std::time::Instant;

use eyeline::sip::digest::Credentials;
use eyeline::sip::digest::client::{Attempts, Client};
use eyeline::sip::digest::server::{Guard, User, Verdict};
use eyeline::sip::message::{Headers, Method, RequestMessage};
use eyeline::sip::uri::Uri;

const REALM: &str = "eyeline";
const NAME: &str = "door1";
const PASSWORD: &str = "the secret of door1";
const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));
/// Lines read.
const MOST: usize = 8;

fn guard(password: &str) -> Guard {
    let user = User { name: NAME.to_owned(), password: password.to_owned() };
    Guard::new(REALM.to_owned(), &[user], [7; 32])
}

fn client() -> Client {
    let realms = vec![REALM.to_owned()];
    Client::new(Credentials { username: NAME.to_owned(), password: PASSWORD.to_owned(), realms })
}

fn request() -> RequestMessage {
    let uri = Uri::parse("sip:eyeline.example").expect("a URI");
    RequestMessage::new(Method::Register, uri)
}

pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    // As the reader of messages leaves values.
    let text = text.replace('\r', " ");
    let lines: Vec<&str> = text.lines().take(MOST).collect();
    #[expect(clippy::disallowed_methods, reason = "virtual time starts at a real instant")]
    let now = Instant::now();
    proofs(now, &lines);
    challenges(now, &lines);
}

/// Nobody is known twice by one proof, and nobody at all by a proof made with another password.
fn proofs(now: Instant, lines: &[&str]) {
    let (mut known, mut unknown) = (guard(PASSWORD), guard("a password that stands nowhere else"));
    // The nonce of the first challenge is the same in every run; the kept inputs answer it.
    let _ = (known.challenges(now, SOURCE, false), unknown.challenges(now, SOURCE, false));
    for line in lines {
        let mut request = request();
        request.headers.push("Authorization", (*line).to_owned());
        match known.judge(now, SOURCE, &request) {
            Verdict::Known(name) => {
                assert_eq!(name, NAME);
                assert_eq!(known.judge(now, SOURCE, &request), Verdict::Replayed);
            }
            Verdict::Unproven | Verdict::Stale | Verdict::Replayed | Verdict::Wrong => {}
        }
        let verdict = unknown.judge(now, SOURCE, &request);
        assert!(matches!(verdict, Verdict::Unproven | Verdict::Wrong), "{verdict:?}: {line}");
        assert_eq!(unknown.remembered(), 0);
    }
    assert!(known.remembered() <= lines.len());
}

/// Only our realm is answered, at most twice, in one header line, without the password in it.
fn challenges(now: Instant, lines: &[&str]) {
    let mut guard = guard(PASSWORD);
    let ours = guard.challenges(now, SOURCE, false);
    let (mut client, mut attempts) = (client(), Attempts::default());
    for round in 0.. {
        let mut headers = Headers::new();
        for line in lines {
            headers.push("WWW-Authenticate", (*line).to_owned());
        }
        headers.push("WWW-Authenticate", ours[0].clone());
        let mut asked = request();
        let Some(answers) = client.answer(&headers, &mut attempts, &asked, "0a4f113b") else { break };
        assert!(round < 2, "a refused proof is sent again and again");
        for (name, value) in answers {
            assert!(value.contains("realm=\"eyeline\""), "{value}");
            assert!(!value.contains(['\r', '\n']) && !value.contains(PASSWORD), "{value}");
            asked.headers.push(name, value);
        }
        // The first of equals is answered, so ours only if no line was as strong.
        let proof = asked.headers.value("Authorization").unwrap_or_default().to_owned();
        let nonce =
            ours[0].split("nonce=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a nonce");
        if proof.contains(&format!("nonce=\"{nonce}\"")) && !proof.contains("-sess") {
            let verdict = guard.judge(now, SOURCE, &asked);
            // A nonce without a count is good once, however often it is called stale.
            let spent = round > 0 && verdict == Verdict::Replayed;
            assert!(spent || matches!(verdict, Verdict::Known(_) | Verdict::Wrong), "{verdict:?}: {proof}");
            assert!(!lines.is_empty() || verdict == Verdict::Known(NAME.to_owned()), "{proof}");
        }
    }
}
