//! Whether a door opens: by a PIN the caller types, by somebody who was seen, by who calls; and how often it may be
//! tried.
//!
//! Pure. The model names a door and nothing else: it is never told a PIN, and none it writes is looked at. A PIN comes
//! as keys of the caller's telephone and is compared here. What opens a door (keys pressed on the line, a request) is
//! the toolbox's to do.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde_json::json;
use subtle::ConstantTimeEq;

use super::http::Service;
use super::policy::covers;
use crate::talk::message::ToolSpec;

/// The tool's name.
pub const UNLOCK: &str = "unlock";
/// Keys taken of one try; a longer one is wrong.
const TYPED_MAX: usize = 32;
/// Wrong PINs of a door in a row, of all calls, after which it rests, and for how long.
const WRONG_MAX: u32 = 10;
const REST: Duration = Duration::from_secs(600);

/// What is typed to open a door. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Pin(String);

impl Pin {
    pub fn new(pin: impl Into<String>) -> Self {
        Pin(pin.into())
    }

    fn is(&self, typed: &str) -> bool {
        self.0.as_bytes().ct_eq(typed.as_bytes()).into()
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(…)")
    }
}

/// How a door opens.
#[derive(Clone, Debug, PartialEq)]
pub enum Opening {
    /// These keys are pressed on the caller's line: the caller is the door station.
    Digits(String),
    Request(Service),
}

/// `[unlock.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Door {
    pub name: String,
    /// For the model: what it is.
    pub description: String,
    pub opening: Opening,
    /// The caller types it.
    pub pin: Option<Pin>,
    /// Wrong PINs in one call after which it stays shut for that call.
    pub max_tries: u32,
    /// How long the caller has to type.
    pub pin_timeout: Duration,
    /// A class that must have been seen so lately.
    pub present: Option<(String, Duration)>,
    /// Who may open it; empty: anybody.
    pub callers: Vec<Allowed>,
}

/// A caller that may open a door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    Anybody,
    /// A user's name, `*` at the end for any rest. It must be proven: what a caller writes into From is nothing.
    Name(String),
    /// Calls that come from there.
    Network(IpNet),
}

impl Allowed {
    /// `*`, a network or an address, or a name.
    ///
    /// # Errors
    /// Says what a name is not.
    pub fn parse(text: &str) -> Result<Allowed, String> {
        let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        match (text, network) {
            ("*", _) => Ok(Allowed::Anybody),
            (_, Some(network)) => Ok(Allowed::Network(network)),
            ("", _) => Err("write a user's name, an address or a network".to_owned()),
            (name, None) if name.contains([':', '@', '/', ' ']) => {
                Err(format!("{name:?} is no user's name, address or network"))
            }
            (name, None) => Ok(Allowed::Name(name.to_owned())),
        }
    }

    fn covers(&self, caller: &Who) -> bool {
        match self {
            Allowed::Anybody => true,
            Allowed::Name(pattern) => caller.names.iter().any(|name| covers(pattern, name)),
            Allowed::Network(network) => {
                caller.address.is_some_and(|address| network.contains(&address.to_canonical()))
            }
        }
    }
}

/// Who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// Proven by a password, or stood by a network that is believed.
    pub names: Vec<String>,
    /// Where the call comes from.
    pub address: Option<IpAddr>,
    /// As it is written into records; it proves nothing.
    pub shown: String,
}

/// Wrong PINs of one door, of all calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resting {
    wrong: u32,
    until: Option<Instant>,
}

impl Resting {
    fn rests(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    fn judged(&mut self, now: Instant, right: bool) {
        if right {
            *self = Resting::default();
            return;
        }
        self.wrong += 1;
        if self.wrong >= WRONG_MAX {
            *self = Resting { wrong: 0, until: Some(now + REST) };
        }
    }
}

/// What is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// By what right.
    Open(&'static str),
    /// The caller is to type it.
    AskPin,
    Refused(&'static str),
}

/// The doors of an agent during one call.
#[derive(Debug)]
pub struct Doors {
    doors: Vec<Arc<Door>>,
    caller: Who,
    /// When each class that matters was last seen.
    seen: BTreeMap<String, Instant>,
    /// Wrong PINs of each door in this call.
    wrong: Vec<u32>,
    typing: Option<Typing>,
}

#[derive(Debug)]
struct Typing {
    door: usize,
    typed: String,
    until: Instant,
}

impl Doors {
    pub fn new(doors: Vec<Arc<Door>>, caller: Who) -> Self {
        Doors { wrong: vec![0; doors.len()], doors, caller, seen: BTreeMap::new(), typing: None }
    }

    pub fn door(&self, at: usize) -> Option<&Arc<Door>> {
        self.doors.get(at)
    }

    /// The door a model means; it need not name the only one.
    pub fn find(&self, name: &str) -> Option<usize> {
        match &self.doors[..] {
            [_] if name.is_empty() => Some(0),
            doors => doors.iter().position(|door| door.name == name),
        }
    }

    /// Something of this class is in the picture.
    pub fn handle_seen(&mut self, now: Instant, class: &str) {
        let matters = |door: &Arc<Door>| door.present.as_ref().is_some_and(|(wanted, _)| wanted == class);
        if self.doors.iter().any(matters) {
            self.seen.insert(class.to_owned(), now);
        }
    }

    /// Somebody wants it open.
    pub fn handle_call(&mut self, now: Instant, at: usize, resting: &Resting) -> Verdict {
        let Some(door) = self.doors.get(at).cloned() else {
            return Verdict::Refused("there is no such door");
        };
        if !door.callers.is_empty() && !door.callers.iter().any(|allowed| allowed.covers(&self.caller)) {
            return Verdict::Refused("this caller may not open it");
        }
        if let Some((class, within)) = &door.present {
            let lately = |seen: &Instant| now.saturating_duration_since(*seen) <= *within;
            if !self.seen.get(class).is_some_and(lately) {
                return Verdict::Refused("nobody was seen there");
            }
        }
        if door.pin.is_none() {
            return Verdict::Open(if door.present.is_some() { "presence" } else { "caller" });
        }
        if resting.rests(now) {
            return Verdict::Refused("too many wrong PINs: it rests");
        }
        if self.wrong[at] >= door.max_tries {
            return Verdict::Refused("too many wrong PINs in this call");
        }
        self.typing = Some(Typing { door: at, typed: String::new(), until: now + door.pin_timeout });
        Verdict::AskPin
    }

    /// The door whose PIN is being typed.
    pub fn typing(&self) -> Option<usize> {
        self.typing.as_ref().map(|typing| typing.door)
    }

    /// The caller pressed a key: `#` ends a PIN, `*` begins it again. Keys pressed while nobody asked are not kept.
    pub fn handle_digit(&mut self, now: Instant, digit: char, resting: &mut Resting) -> Option<Verdict> {
        let typing = self.typing.as_mut()?;
        let door = self.doors.get(typing.door)?.clone();
        let pin = door.pin.as_ref()?;
        match digit {
            '*' => {
                typing.typed.clear();
                return None;
            }
            '#' if typing.typed.is_empty() => return None,
            '#' => {}
            digit if typing.typed.len() < TYPED_MAX => {
                typing.typed.push(digit);
                // Complete PINs need no end; a wrong one is not told to be wrong before it is as long.
                if typing.typed.len() < pin.0.len() {
                    return None;
                }
            }
            _ => {}
        }
        let (at, right) = (typing.door, pin.is(&typing.typed) && now < typing.until && !resting.rests(now));
        resting.judged(now, right);
        self.typing = None;
        if right {
            return Some(Verdict::Open("pin"));
        }
        self.wrong[at] += 1;
        if self.wrong[at] >= door.max_tries {
            return Some(Verdict::Refused("the PIN was wrong, and that was the last try"));
        }
        self.typing = Some(Typing { door: at, typed: String::new(), until: now + door.pin_timeout });
        Some(Verdict::Refused("the PIN was wrong; the caller may type it again"))
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.typing.as_ref().map(|typing| typing.until)
    }

    /// Nobody typed a PIN in time: of which door.
    pub fn handle_time(&mut self, now: Instant) -> Option<usize> {
        self.typing.take_if(|typing| now >= typing.until).map(|typing| typing.door)
    }
}

/// The tool as a model is told of it.
pub fn spec(doors: &[Arc<Door>]) -> ToolSpec {
    let names: Vec<&str> = doors.iter().map(|door| door.name.as_str()).collect();
    let each = doors.iter().map(|door| match door.description.as_str() {
        "" => door.name.clone(),
        description => format!("{} ({description})", door.name),
    });
    let list = each.collect::<Vec<_>>().join(", ");
    let required: &[&str] = if doors.len() > 1 { &["door"] } else { &[] };
    ToolSpec {
        name: UNLOCK.to_owned(),
        description: format!(
            "Open a door for the caller: {list}. Whether it opens is decided by rules you cannot change. Where a PIN \
             is wanted, the caller types it on the telephone; never ask for it to be said."
        ),
        parameters: super::object(json!({"door": {"type": "string", "enum": names}}), required),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door() -> Door {
        Door {
            name: "front".into(),
            description: "the front door".into(),
            opening: Opening::Digits("1#".into()),
            pin: Some(Pin::new("4711")),
            max_tries: 3,
            pin_timeout: Duration::from_secs(20),
            present: None,
            callers: Vec::new(),
        }
    }

    fn doors(door: Door) -> Doors {
        Doors::new(vec![Arc::new(door)], Who::default())
    }

    fn typed(doors: &mut Doors, now: Instant, keys: &str, resting: &mut Resting) -> Vec<Verdict> {
        keys.chars().filter_map(|key| doors.handle_digit(now, key, resting)).collect()
    }

    #[test]
    fn a_pin_opens_only_after_it_was_asked_for_and_only_when_it_is_right() {
        let (mut doors, now, mut resting) = (doors(door()), Instant::now(), Resting::default());
        assert_eq!(typed(&mut doors, now, "4711#", &mut resting), [], "nobody asked");
        assert_eq!(doors.handle_call(now, 0, &resting), Verdict::AskPin);
        assert_eq!(typed(&mut doors, now, "12*4711", &mut resting), [Verdict::Open("pin")]);
        assert_eq!(typed(&mut doors, now, "4711#", &mut resting), [], "once");
        assert_eq!(doors.typing(), None);
    }

    #[test]
    fn tries_are_limited_in_a_call_and_over_all_calls() {
        let (now, mut resting) = (Instant::now(), Resting::default());
        let mut of_call = doors(door());
        assert_eq!(of_call.handle_call(now, 0, &resting), Verdict::AskPin);
        let verdicts = typed(&mut of_call, now, "0000 471# 9999 4711", &mut resting);
        assert!(!verdicts.contains(&Verdict::Open("pin")) && verdicts.len() == 3, "{verdicts:?}");
        assert_eq!(of_call.typing(), None);
        let refused = of_call.handle_call(now, 0, &resting);
        assert_eq!(refused, Verdict::Refused("too many wrong PINs in this call"));
        // Whoever calls again and again.
        for _ in 0..3 {
            let mut of_call = doors(door());
            of_call.handle_call(now, 0, &resting);
            typed(&mut of_call, now, "000100020003", &mut resting);
        }
        let mut next = doors(door());
        assert_eq!(next.handle_call(now, 0, &resting), Verdict::Refused("too many wrong PINs: it rests"));
        assert_eq!(next.handle_call(now + REST, 0, &resting), Verdict::AskPin);
    }

    #[test]
    fn a_pin_comes_in_time_or_not_at_all() {
        let (mut doors, now, mut resting) = (doors(door()), Instant::now(), Resting::default());
        doors.handle_call(now, 0, &resting);
        let late = now + Duration::from_secs(20);
        assert_eq!((doors.wake_at(), doors.handle_time(now)), (Some(late), None));
        let mut other = Doors::new(doors.doors.clone(), Who::default());
        other.handle_call(now, 0, &resting);
        assert!(matches!(typed(&mut other, late, "4711", &mut resting)[..], [Verdict::Refused(_)]));
        assert_eq!((doors.handle_time(late), doors.typing()), (Some(0), None));
        assert_eq!(typed(&mut doors, late, "4711", &mut resting), []);
    }

    #[test]
    fn somebody_must_have_been_seen_lately_and_the_caller_be_allowed() {
        let rule = Some(("person".to_owned(), Duration::from_secs(10)));
        let mut doors = doors(Door { pin: None, present: rule, ..door() });
        let (now, resting) = (Instant::now(), Resting::default());
        let at = |s: u64| now + Duration::from_secs(s);
        assert_eq!(doors.handle_call(now, 0, &resting), Verdict::Refused("nobody was seen there"));
        doors.handle_seen(now, "dog");
        assert_eq!(doors.handle_call(now, 0, &resting), Verdict::Refused("nobody was seen there"));
        doors.handle_seen(at(1), "person");
        assert_eq!(doors.handle_call(at(11), 0, &resting), Verdict::Open("presence"));
        assert_eq!(doors.handle_call(at(12), 0, &resting), Verdict::Refused("nobody was seen there"));
        let rules = ["gate", "10.0.0.0/24"].map(|text| Allowed::parse(text).expect("a rule"));
        let only = Door { callers: rules.to_vec(), pin: None, ..door() };
        let tried = |names: &[&str], address: &str, shown: &str| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let caller = Who { names, address: address.parse().ok(), shown: shown.to_owned() };
            Doors::new(vec![Arc::new(only.clone())], caller).handle_call(now, 0, &resting)
        };
        // What somebody calls itself opens nothing.
        let stranger = tried(&["gatecrasher"], "192.0.2.1", "gate");
        assert_eq!(stranger, Verdict::Refused("this caller may not open it"));
        assert_eq!(tried(&["gate"], "192.0.2.1", "x"), Verdict::Open("caller"));
        assert_eq!(tried(&[], "10.0.0.9", "x"), Verdict::Open("caller"));
        for bad in ["", "sip:gate@*", "10.0.0.0/33"] {
            assert!(Allowed::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_door_is_named_and_its_pin_is_shown_nowhere() {
        let two = [door(), Door { name: "garage".into(), ..door() }].map(Arc::new);
        let spec = spec(&two);
        assert_eq!(spec.parameters["properties"]["door"]["enum"], json!(["front", "garage"]));
        assert!(!format!("{two:?} {spec:?}").contains("4711"));
        let doors = Doors::new(two.to_vec(), Who::default());
        assert_eq!([doors.find("garage"), doors.find(""), doors.find("safe")], [Some(1), None, None]);
    }
}
