//! An engine without media: it answers commands as told, later, and keeps them.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use eyeline::engine::plan::{BoundPorts, CallId, Command, Event, Report};

/// What `Prepare` gets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Binds,
    /// The first so many binds work.
    Runs(usize),
    IsSilent,
}

pub struct Engine {
    pub manner: Manner,
    pub delay: Duration,
    pub commands: Vec<Command>,
    bound: HashMap<CallId, BoundPorts>,
    next_port: u16,
    binds: usize,
    waiting: BTreeMap<(Instant, u64), Event>,
    count: u64,
}

impl Engine {
    pub fn new() -> Self {
        Engine {
            manner: Manner::Binds,
            delay: Duration::from_millis(1),
            commands: Vec::new(),
            bound: HashMap::new(),
            next_port: 20_000,
            binds: 0,
            waiting: BTreeMap::new(),
            count: 0,
        }
    }

    pub fn handle(&mut self, now: Instant, command: Command) {
        let event = match &command {
            Command::Prepare { call, wanted, address } => {
                let ports = self.bound.entry(*call).or_insert(BoundPorts {
                    address: *address,
                    audio: None,
                    video: None,
                    slides: None,
                });
                for (wanted, port) in [
                    (wanted.audio, &mut ports.audio),
                    (wanted.video, &mut ports.video),
                    (wanted.slides, &mut ports.slides),
                ] {
                    if wanted && port.is_none() {
                        *port = Some(self.next_port);
                        self.next_port += 2;
                    }
                }
                self.binds += 1;
                let works = match self.manner {
                    Manner::Binds => true,
                    Manner::Runs(times) => self.binds <= times,
                    Manner::IsSilent => return self.commands.push(command),
                };
                if works {
                    Some(Event::Prepared { call: *call, ports: *ports })
                } else {
                    Some(Event::NotPrepared { call: *call, why: "no port is free".to_owned() })
                }
            }
            Command::Stop { call } => {
                self.bound.remove(call);
                Some(Event::Stopped { call: *call, report: Box::new(Report::default()) })
            }
            Command::Start { .. }
            | Command::Update { .. }
            | Command::Answered { .. }
            | Command::SendKey { .. }
            | Command::SendDigits { .. }
            | Command::Talk { .. }
            | Command::PauseRecording { .. } => None,
        };
        self.commands.push(command);
        if let Some(event) = event {
            self.says(now + self.delay, event);
        }
    }

    /// An event of its own.
    pub fn says(&mut self, at: Instant, event: Event) {
        self.count += 1;
        self.waiting.insert((at, self.count), event);
    }

    pub fn next(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    pub fn due(&mut self, now: Instant) -> Option<Event> {
        let entry = self.waiting.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    /// The commands by name, as `prepare start stop`.
    pub fn story(&self) -> String {
        let name = |command: &Command| match command {
            Command::Prepare { .. } => "prepare",
            Command::Start { .. } => "start",
            Command::Update { .. } => "update",
            Command::Answered { .. } => "answered",
            Command::SendKey { .. } => "key",
            Command::SendDigits { .. } => "digits",
            Command::Talk { .. } => "talk",
            Command::PauseRecording { .. } => "pause",
            Command::Stop { .. } => "stop",
        };
        self.commands.iter().map(name).collect::<Vec<_>>().join(" ")
    }

    /// Every call that prepared was stopped once, and nothing was asked of it afterwards.
    pub fn assert_balanced(&self) {
        let mut stories: BTreeMap<CallId, Vec<&Command>> = BTreeMap::new();
        for command in &self.commands {
            stories.entry(command.call()).or_default().push(command);
        }
        for (call, story) in stories {
            assert!(matches!(story.first(), Some(Command::Prepare { .. })), "{call}: {story:?}");
            assert!(matches!(story.last(), Some(Command::Stop { .. })), "{call} is not stopped: {story:?}");
            let count = |is: fn(&Command) -> bool| story.iter().filter(|command| is(command)).count();
            assert_eq!(count(|command| matches!(command, Command::Stop { .. })), 1, "{call}: {story:?}");
            assert!(count(|command| matches!(command, Command::Start { .. })) <= 1, "{call}: {story:?}");
        }
        assert!(self.bound.is_empty(), "ports stay bound: {:?}", self.bound);
    }
}
