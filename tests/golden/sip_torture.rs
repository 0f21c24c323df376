//! SIP messages that strain a parser: ours in `tests/data/sip`, those of RFC 4475 where a checkout has them beside it,
//! and seeded mutations of ours.

use std::path::Path;

use eyeline::sip::header::{NameAddr, Via};
use eyeline::sip::message::{Headers, Message, ResponseMessage};
use eyeline::sip::parse::parse;
use eyeline::sip::stream::{Framed, Framer};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::torture_files::messages;

#[derive(Debug, PartialEq)]
enum Outcome {
    /// Method and length of the body.
    Request(String, usize),
    /// Status and length of the body.
    Response(u16, usize),
    /// Refused with this status.
    Answered(u16),
    /// Refused without an answer.
    Silent,
}
use Outcome::{Answered, Response, Silent};

fn request(method: &str, body: usize) -> Outcome {
    Outcome::Request(method.to_owned(), body)
}

fn outcome(bytes: &[u8]) -> Outcome {
    match parse(bytes) {
        Ok(Message::Request(request)) => Outcome::Request(request.method.to_string(), request.body.len()),
        Ok(Message::Response(response)) => Response(response.status, response.body.len()),
        Err(malformed) if malformed.answerable.is_some() => Answered(malformed.status),
        Err(_) => Silent,
    }
}

fn ours() -> Vec<(String, Vec<u8>)> {
    messages(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sip"), "sip")
}

#[test]
fn our_torture_messages_end_as_the_table_says() {
    let sdp = 88;
    let expected = [
        ("ack_short_of_body", Silent),
        ("before_rfc3261", request("INVITE", 0)),
        ("binary_body", request("MESSAGE", 256)),
        ("body_too_short", Answered(400)),
        ("body_without_length", request("INVITE", sdp)),
        ("bytes_behind_the_body", request("INVITE", sdp)),
        ("call_id_twice", Answered(400)),
        ("compact_names", request("INVITE", sdp)),
        ("contact_headers_without_brackets", Answered(400)),
        ("cseq_other_method", Answered(400)),
        ("cseq_too_large", Answered(400)),
        ("cut_in_a_header", Silent),
        ("fold_in_front", Answered(400)),
        ("folded_and_spaced", request("INVITE", 0)),
        ("http_request", Silent),
        ("ipv6_everywhere", request("INVITE", 0)),
        ("length_negative", Answered(400)),
        ("length_not_a_number", Answered(400)),
        ("length_twice_different", Answered(400)),
        ("length_twice_the_same", request("INVITE", sdp)),
        ("line_ends_in_front", request("OPTIONS", 0)),
        ("line_feeds_only", request("INVITE", sdp)),
        ("line_without_colon", Answered(400)),
        ("no_blank_line", request("OPTIONS", 0)),
        ("no_from", Silent),
        ("no_via", Silent),
        ("plain_invite", request("INVITE", sdp)),
        ("quote_never_closed", Answered(400)),
        ("random_bytes", Silent),
        ("record_route_unreadable", Answered(400)),
        ("response_contact_unreadable", Response(183, 0)),
        ("response_reason_utf8", Response(200, sdp)),
        ("response_version_three", Silent),
        ("response_without_reason", Response(180, 0)),
        ("response_without_to", Silent),
        ("scheme_unknown", Answered(416)),
        ("second_via_unreadable", Answered(400)),
        ("status_four_digits", Silent),
        ("status_out_of_range", Silent),
        ("telephone_uri", request("INVITE", 0)),
        ("text_not_utf8", request("INVITE", 0)),
        ("too_many_lines", Silent),
        ("unknown_method", request("X-SNAP!", 0)),
        ("uri_host_empty", Answered(400)),
        ("uri_in_brackets", Answered(400)),
        ("uri_with_headers", Answered(400)),
        ("uri_with_space", Answered(400)),
        ("version_three", Answered(505)),
        ("via_unreadable", Silent),
    ];
    let seen: Vec<_> = ours().into_iter().map(|(name, bytes)| (name, outcome(&bytes))).collect();
    let expected: Vec<_> = expected.into_iter().map(|(name, outcome)| (name.to_owned(), outcome)).collect();
    assert_eq!(seen, expected);
}

/// Section 3.1.1: valid.
const VALID: &[&str] = &[
    "wsinv",
    "intmeth",
    "esc01",
    "escnull",
    "esc02",
    "lwsdisp",
    "longreq",
    "dblreq",
    "semiuri",
    "transports",
    "mpart01",
    "unreason",
    "noreason",
];

/// Section 3.1.2: invalid.
const INVALID: &[&str] = &[
    "badinv01",
    "clerr",
    "ncl",
    "scalar02",
    "scalarlg",
    "quotbal",
    "ltgtruri",
    "lwsruri",
    "lwsstart",
    "trws",
    "escruri",
    "baddate",
    "regbadct",
    "badaspec",
    "baddn",
    "badvers",
    "mismatch01",
    "mismatch02",
    "bigcode",
];

/// Of section 3.1.2, what is taken nevertheless.
const DEVIATIONS: &[(&str, &str)] = &[
    ("lwsstart", "more than one space in the request line leaves no doubt about its three words"),
    ("trws", "space behind the request line leaves no doubt about its three words"),
    ("baddate", "Date is not read"),
    ("badaspec", "space inside the angle brackets leaves no doubt about the URI"),
    ("baddn", "From and To hold one value, so an unquoted comma in a display name leaves no doubt"),
];

/// Sections 3.2 to 3.4: well formed or nearly so, and for the layers above to judge; exceptions stand in the test.
const OTHERS: &[&str] = &[
    "badbranch",
    "insuf",
    "unkscm",
    "novelsc",
    "unksm2",
    "bext01",
    "invut",
    "regaut01",
    "multi01",
    "mcl01",
    "bcast",
    "zeromf",
    "cparam01",
    "cparam02",
    "regescrt",
    "sdp01",
    "inv2543",
];

#[test]
fn rfc_4475_messages_are_taken_or_refused_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/rfc4475");
    if !folder.exists() {
        return;
    }
    let mut known = 0;
    for (name, bytes) in messages(&folder, "dat") {
        let name = name.as_str();
        let outcome = outcome(&bytes);
        let taken = matches!(outcome, Outcome::Request(..) | Response(..));
        if VALID.contains(&name) {
            assert!(taken, "{name}: {:?}", parse(&bytes));
        } else if INVALID.contains(&name) {
            assert_eq!(taken, DEVIATIONS.iter().any(|(known, _)| *known == name), "{name}: {outcome:?}");
        } else {
            assert!(OTHERS.contains(&name), "{name} stands in no table");
            match name {
                "insuf" => assert_eq!(outcome, Silent, "{name}"),
                "unkscm" | "novelsc" => assert_eq!(outcome, Answered(416), "{name}"),
                "multi01" | "mcl01" => assert_eq!(outcome, Answered(400), "{name}"),
                _ => assert!(taken, "{name}: {:?}", parse(&bytes)),
            }
        }
        if taken {
            assert_stable(name, &bytes);
        }
        known += 1;
    }
    assert_eq!(known, VALID.len() + INVALID.len() + OTHERS.len());
}

/// Reading what was printed gives the same message, and the same for each value with a grammar.
fn assert_stable(name: &str, bytes: &[u8]) {
    let Ok(message) = parse(bytes) else { return };
    let printed = message.to_bytes();
    assert_eq!(parse(&printed).as_ref(), Ok(&message), "{name}: {:?}", String::from_utf8_lossy(bytes));
    let headers: &Headers = match &message {
        Message::Request(request) => &request.headers,
        Message::Response(response) => &response.headers,
    };
    let addresses = headers.values("From").chain(headers.values("To"));
    for text in addresses.chain(headers.list("Contact")).chain(headers.list("Record-Route")) {
        if let Some(address) = NameAddr::parse(text) {
            assert_eq!(NameAddr::parse(&address.to_string()), Some(address), "{name}: {text}");
        }
    }
    for text in headers.list("Via") {
        let via = Via::parse(text).unwrap();
        assert_eq!(Via::parse(&via.to_string()), Some(via), "{name}: {text}");
    }
}

/// What goes in between: separators, line ends, quotes, broken text, and lengths that lie.
const SPLINTERS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n ",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b";",
    b",",
    b"\"",
    b"\\",
    b"<",
    b">",
    b"=",
    b"@",
    b":",
    b"?",
    b"/",
    b"%",
    b"[",
    b"]",
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xc2\xa0",
    b"l: 9\r\n",
    b"Content-Length: -1\r\n",
    b"99999999999999999999",
    b"SIP/2.0",
    b"sip:",
    b"tel:",
    b";tag=",
    b";rport=70000",
    b"Via: SIP/2.0/UDP [::",
];

fn mutate(rng: &mut StdRng, good: &[Vec<u8>], any: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = good[rng.random_range(0..good.len())].clone();
    for _ in 0..rng.random_range(1..=3) {
        let at = rng.random_range(0..=bytes.len());
        let end = rng.random_range(at..=bytes.len().min(at + 24));
        match rng.random_range(0..12) {
            0..3 if at < bytes.len() => bytes[at] = rng.random(),
            3 | 4 => drop(bytes.drain(at..end)),
            5 | 6 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            7 => {
                let other = &any[rng.random_range(0..any.len())];
                let from = rng.random_range(0..=other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
            _ => {
                let splinter = SPLINTERS[rng.random_range(0..SPLINTERS.len())];
                bytes.splice(at..at, splinter.iter().copied());
            }
        }
    }
    bytes
}

#[test]
fn mutated_messages_never_panic_and_print_stably() {
    let mut rng = StdRng::seed_from_u64(4475);
    let any: Vec<Vec<u8>> = ours().into_iter().map(|(_, bytes)| bytes).collect();
    let good: Vec<Vec<u8>> = any.iter().filter(|bytes| parse(bytes).is_ok()).cloned().collect();
    let (mut taken, mut answered, mut framed) = (0, 0, 0);
    for round in 0..20_000 {
        let bytes = mutate(&mut rng, &good, &any);
        match parse(&bytes) {
            Ok(_) => {
                assert_stable(&format!("round {round}"), &bytes);
                taken += 1;
            }
            Err(malformed) => {
                if let Some(request) = malformed.answerable {
                    assert!(!ResponseMessage::answering(&request, malformed.status).to_bytes().is_empty());
                    answered += 1;
                }
            }
        }
        let mut framer = Framer::new(4096);
        for chunk in bytes.chunks(rng.random_range(1..=400)) {
            framer.push(chunk);
            // Each step but the last takes at least one byte.
            for _ in 0..=bytes.len() {
                match framer.next() {
                    Framed::Message(message) => {
                        let _ = parse(&message);
                        framed += 1;
                    }
                    Framed::KeepAlive => {}
                    Framed::Need | Framed::Broken(_) => break,
                }
            }
        }
    }
    println!("taken {taken}, answered {answered}, framed {framed}");
    assert!(taken > 2_000 && answered > 2_000 && framed > 2_000, "mutations too wild or too tame");
}
