//! Messages that strain a reader, given to a whole appliance: it lives through each, and answers as RFC 4475 says.
//!
//! The 49 messages of that RFC are read where a checkout has them beside it; ours are in `tests/data/sip`. What the
//! reader alone makes of them is in `tests/golden/sip_torture.rs`.

use std::path::Path;

use eyeline::sip::message::{Message, Method};
use eyeline::sip::parse::parse;
use eyeline::useragent::Settings;

use crate::network::Datagram;
use crate::torture_files::messages;
use crate::world::{World, ms, settings};

/// What may be answered finally.
#[derive(Debug)]
enum Expected {
    /// One of these.
    Status(&'static [u16]),
    Silence,
}
use Expected::{Silence, Status};

/// For a REGISTER: what a registrar says to those it does not know, and 405 where there is none.
const NOT_REGISTERED: Expected = Status(&[401, 403, 404, 405]);

/// Every message, by the section of RFC 4475 it stands in. `*`: the RFC leaves more than one way; this is ours.
const MESSAGES: [(&str, Expected); 49] = [
    // 3.1.1, valid. The dialog that wsinv names by its To tag is not here.
    ("wsinv", Status(&[481])),
    ("intmeth", Status(&[405, 501])),
    ("esc01", Status(&[200])),
    ("escnull", NOT_REGISTERED),
    ("esc02", Status(&[405, 501])),
    ("lwsdisp", Status(&[200])),
    ("longreq", Status(&[200])),
    ("dblreq", NOT_REGISTERED),
    ("semiuri", Status(&[200])),
    ("transports", Status(&[200])),
    // A signed body is not for a machine that reads plain text.
    ("mpart01", Status(&[200, 202, 405, 415])),
    ("unreason", Silence),
    ("noreason", Silence),
    // 3.1.2, invalid.
    ("badinv01", Status(&[400])),
    ("clerr", Status(&[400])),
    ("ncl", Status(&[400])),
    ("scalar02", Status(&[400])),
    ("scalarlg", Silence),
    ("quotbal", Status(&[400])),
    ("ltgtruri", Status(&[400])),
    ("lwsruri", Status(&[400])),
    // *: more than one space in the request line leaves no doubt about its three words.
    ("lwsstart", Status(&[200])),
    // *: neither does a space behind it.
    ("trws", Status(&[200])),
    ("escruri", Status(&[400])),
    // *: Date is not used, and what is not used is not judged.
    ("baddate", Status(&[200])),
    ("regbadct", Status(&[400])),
    // *: a space inside the angle brackets leaves no doubt about the URI.
    ("badaspec", Status(&[200])),
    // *: the display name can be told from the URI although it should have been quoted.
    ("baddn", Status(&[200])),
    ("badvers", Status(&[505])),
    ("mismatch01", Status(&[400])),
    ("mismatch02", Status(&[400, 501])),
    ("bigcode", Silence),
    // 3.2, transactions.
    ("badbranch", Status(&[200])),
    // 3.3, application.
    // Deviation: "ideally 400", but a response without the From, To and Call-ID it must repeat is none.
    ("insuf", Silence),
    ("unkscm", Status(&[416])),
    ("novelsc", Status(&[416])),
    ("unksm2", Status(&[400, 401, 403, 404, 405])),
    ("bext01", Status(&[420])),
    ("invut", Status(&[415])),
    ("regaut01", NOT_REGISTERED),
    ("multi01", Status(&[400])),
    ("mcl01", Status(&[400])),
    ("bcast", Silence),
    ("zeromf", Status(&[200])),
    ("cparam01", NOT_REGISTERED),
    ("cparam02", NOT_REGISTERED),
    ("regescrt", NOT_REGISTERED),
    ("sdp01", Status(&[400, 406])),
    // 3.4, what RFC 2543 allowed.
    ("inv2543", Status(&[200])),
];

/// One route takes everybody.
fn open() -> Settings {
    let mut settings = settings();
    settings.routes.truncate(1);
    settings.routes[0].to = None;
    settings
}

/// Gives the bytes to a fresh appliance, says what came back finally, and sees it answer another phone afterwards and
/// keep nothing.
fn answers(bytes: &[u8]) -> Vec<u16> {
    let mut world = World::with(open());
    let (now, to) = (world.now, world.appliances[0].address);
    let from = "10.9.9.9:5060".parse().unwrap();
    world.network.send(now, Datagram { from, to, bytes: bytes.to_vec() });
    world.run(ms(100));
    // As text: an answer repeats what it cannot read.
    let status = |bytes: &Vec<u8>| {
        let text = String::from_utf8_lossy(bytes);
        text.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok())
    };
    let said: Vec<u16> = world.unclaimed.iter().filter_map(status).collect();
    let invited = matches!(parse(bytes), Ok(Message::Request(request)) if request.method == Method::Invite);
    assert!(invited || said.iter().all(|status| *status >= 200), "{said:?}");
    world.act(|phone| {
        phone.prepare_outside();
        phone.request("OPTIONS", None);
    });
    assert_eq!(world.phones[0].statuses(Method::Options), [200], "it answers others");
    world.end();
    said.into_iter().filter(|status| *status >= 200).collect()
}

#[test]
fn an_appliance_lives_through_rfc_4475_and_answers_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/rfc4475");
    if !folder.exists() {
        return;
    }
    let known = messages(&folder, "dat");
    assert_eq!(known.len(), MESSAGES.len());
    let mut wrong = Vec::new();
    for (name, expected) in &MESSAGES {
        let (_, bytes) = known.iter().find(|(known, _)| known == name).expect("a message of the RFC");
        let said = answers(bytes);
        let right = match expected {
            Status(statuses) => matches!(said[..], [status] if statuses.contains(&status)),
            Silence => said.is_empty(),
        };
        if !right {
            wrong.push(format!("{name}: {said:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_appliance_lives_through_our_own_messages_and_answers_what_it_can_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sip");
    let ours = messages(&folder, "sip");
    assert_eq!(ours.len(), 49);
    for (name, bytes) in ours {
        let said = answers(&bytes);
        match parse(&bytes) {
            Ok(Message::Request(request)) if request.method != Method::Ack => {
                assert_eq!(said.len(), 1, "{name}: {said:?}");
            }
            Ok(_) => assert!(said.is_empty(), "{name}: {said:?}"),
            Err(malformed) if malformed.answerable.is_some() => {
                assert_eq!(said, [malformed.status], "{name}")
            }
            Err(_) => assert!(said.is_empty(), "{name}: {said:?}"),
        }
    }
}
