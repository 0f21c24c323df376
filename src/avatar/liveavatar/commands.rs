//! LiveAvatar's command channel: speech in pieces that move lips, its end, interruptions, posture, staying alive.
//!
//! Source: the vendor's documents of LITE mode and its SDK. Pure. Whether the avatar talks is believed of
//! `agent.state_updated` alone: the other reports come twice, late or never. What is said before the service is
//! connected is lost without a word, so nothing is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::avatar::uplink::{Up, Uplink};
use crate::avatar::{AvatarEvent, Cause, Limits, Lost, Turn};
use crate::remote::websocket::Utf8Bytes;

/// The service ends a session of which it heard nothing for five minutes.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// An interruption nobody acknowledged is believed after so long.
const HUSHED_WITHIN: Duration = Duration::from_secs(2);
/// Sound is heard so long after it went up, at most; what was cut before cannot begin later.
const BEGINS_WITHIN: Duration = Duration::from_secs(4);
/// Turns on their way.
const TURNS_MOST: usize = 16;
const LETTERS: usize = 200;

/// What is wanted.
#[derive(Debug)]
pub enum Act {
    Send(Utf8Bytes),
    Tell(AvatarEvent),
}

/// An interruption on its way.
#[derive(Clone, Copy, Debug)]
struct Cut {
    turn: Turn,
    /// Sent; else it waits for the avatar to begin what is not to be heard.
    sent: bool,
    until: Instant,
}

/// See the module.
pub struct Commands {
    uplink: Uplink,
    connected: bool,
    talking: bool,
    /// Turns that went up and were not heard to their end, oldest first.
    turns: VecDeque<Turn>,
    speaking: Option<Turn>,
    cut: Option<Cut>,
    next_alive: Option<Instant>,
    listening: bool,
    numbered: u64,
    /// Messages that could not be read.
    pub odd: u64,
    acts: VecDeque<Act>,
}

/// The command's own id, by which the service speaks of the turn.
fn id_of(turn: Turn) -> String {
    format!("turn-{turn}")
}

fn turn_of(id: &str) -> Option<Turn> {
    id.strip_prefix("turn-")?.parse().ok()
}

fn words(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    text.chars().filter(|letter| !letter.is_control()).take(LETTERS).collect()
}

impl Commands {
    pub fn new(limits: &Limits) -> Self {
        Commands {
            uplink: Uplink::new(limits),
            connected: false,
            talking: false,
            turns: VecDeque::new(),
            speaking: None,
            cut: None,
            next_alive: None,
            listening: false,
            numbered: 0,
            odd: 0,
            acts: VecDeque::new(),
        }
    }

    /// What is sent is obeyed.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    pub fn next_act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    fn send(&mut self, said: &Value) {
        self.acts.push_back(Act::Send(said.to_string().into()));
    }

    fn tell(&mut self, event: AvatarEvent) {
        self.acts.push_back(Act::Tell(event));
    }

    fn command(&mut self, kind: &str) {
        self.numbered += 1;
        self.send(&json!({ "type": kind, "event_id": format!("command-{}", self.numbered) }));
    }

    fn take(&mut self, ups: Vec<Up>) {
        for up in ups {
            match up {
                Up::Piece { turn, samples } => {
                    if self.turns.back() != Some(&turn) {
                        if self.turns.len() >= TURNS_MOST {
                            self.turns.pop_front();
                        }
                        self.turns.push_back(turn);
                    }
                    let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
                    let audio = STANDARD.encode(bytes);
                    self.send(&json!({ "type": "agent.speak", "event_id": id_of(turn), "audio": audio }));
                }
                Up::End { turn } => self.speak_end(turn),
            }
        }
    }

    fn speak_end(&mut self, turn: Turn) {
        self.send(&json!({ "type": "agent.speak_end", "event_id": id_of(turn) }));
    }

    pub fn speak(&mut self, now: Instant, turn: Turn, samples: &[i16]) {
        if !self.connected {
            return;
        }
        let mut ups = Vec::new();
        self.uplink.speak(now, turn, samples, |up| ups.push(up));
        self.take(ups);
    }

    pub fn end(&mut self, turn: Turn) {
        let mut ups = Vec::new();
        self.uplink.end(turn, |up| ups.push(up));
        self.take(ups);
    }

    /// Interrupts where there is something to interrupt: at once while the avatar talks, as soon as it does where the
    /// sound is still on its way.
    pub fn interrupt(&mut self, now: Instant, turn: Turn) {
        let open = self.uplink.cut(turn);
        let on_their_way = self.turns.iter().any(|other| *other <= turn);
        if on_their_way && self.talking {
            self.command("agent.interrupt");
        }
        if open {
            // Without it the picture waits for the rest.
            self.speak_end(turn);
        }
        if !on_their_way {
            return self.tell(AvatarEvent::Hushed);
        }
        let patience = if self.talking { HUSHED_WITHIN } else { BEGINS_WITHIN };
        self.cut = Some(Cut { turn, sent: self.talking, until: now + patience });
    }

    pub fn listening(&mut self, listening: bool) {
        if self.connected && listening != self.listening {
            self.listening = listening;
            self.command(if listening { "agent.start_listening" } else { "agent.stop_listening" });
        }
    }

    pub fn wake_at(&self) -> Option<Instant> {
        let cut = self.cut.map(|cut| cut.until);
        [self.uplink.wake_at(), self.next_alive, cut].into_iter().flatten().min()
    }

    pub fn handle_time(&mut self, now: Instant) {
        let mut ups = Vec::new();
        self.uplink.handle_time(now, |up| ups.push(up));
        self.take(ups);
        if self.next_alive.take_if(|due| *due <= now).is_some() {
            self.next_alive = Some(now + KEEP_ALIVE);
            self.command("session.keep_alive");
        }
        if self.cut.is_some_and(|cut| cut.until <= now) {
            self.hush();
        }
    }

    /// Nothing of what was cut is heard any more, as far as anybody can tell.
    fn hush(&mut self) {
        let Some(cut) = self.cut.take() else { return };
        if let Some(turn) = self.speaking.take_if(|speaking| *speaking <= cut.turn) {
            self.tell(AvatarEvent::Ended { turn, interrupted: true });
        }
        self.turns.retain(|turn| *turn > cut.turn);
        self.tell(AvatarEvent::Hushed);
    }

    pub fn handle_text(&mut self, now: Instant, text: &str) {
        let Ok(said) = serde_json::from_str::<Value>(text) else {
            self.odd += 1;
            return;
        };
        match said["type"].as_str().unwrap_or_default() {
            "session.state_updated" => self.session_state(now, &said["state"]),
            "agent.state_updated" => self.agent_state(now, &said["new_state"]),
            "agent.speak_started" => {
                // Turns that follow one another without a pause in talking.
                let turn = said["source_event_id"].as_str().and_then(turn_of);
                let known = turn.filter(|turn| self.turns.contains(turn));
                if self.talking
                    && let Some(turn) = known
                    && self.speaking.is_some_and(|other| other < turn)
                {
                    self.pass_to(turn);
                }
            }
            "error" => {
                let (kind, why) = (words(&said["error"]["type"]), words(&said["error"]["message"]));
                self.tell(AvatarEvent::Warning(format!("LiveAvatar: {kind}: {why}")));
            }
            "warning" => {
                let (kind, why) = (words(&said["warning"]["type"]), words(&said["warning"]["message"]));
                self.tell(AvatarEvent::Warning(format!("LiveAvatar: {kind}: {why}")));
            }
            // Acknowledgements, and what is to come.
            _ => {}
        }
    }

    fn session_state(&mut self, now: Instant, state: &Value) {
        match state.as_str().unwrap_or_default() {
            "connected" if !self.connected => {
                self.connected = true;
                self.next_alive = Some(now + KEEP_ALIVE);
            }
            state @ ("closing" | "closed" | "disconnected") => {
                let why = format!("LiveAvatar says that the session is {state}");
                self.tell(AvatarEvent::Lost(Lost::new(Cause::Over, why)));
            }
            _ => {}
        }
    }

    fn agent_state(&mut self, now: Instant, state: &Value) {
        let talking = state == "talking";
        if talking == self.talking {
            return;
        }
        self.talking = talking;
        if !talking {
            return self.silent();
        }
        // The oldest that was not heard.
        let Some(turn) = self.turns.front().copied() else { return };
        match &mut self.cut {
            Some(cut) if turn <= cut.turn => {
                if !cut.sent {
                    (cut.sent, cut.until) = (true, now + HUSHED_WITHIN);
                    self.command("agent.interrupt");
                }
            }
            Some(_) | None => {
                self.speaking = Some(turn);
                self.tell(AvatarEvent::Speaking { turn });
            }
        }
    }

    /// It does not talk any more.
    fn silent(&mut self) {
        if self.cut.is_some_and(|cut| cut.sent) {
            return self.hush();
        }
        let Some(turn) = self.speaking.take() else { return };
        self.turns.retain(|other| *other > turn);
        self.tell(AvatarEvent::Ended { turn, interrupted: false });
    }

    fn pass_to(&mut self, turn: Turn) {
        if let Some(before) = self.speaking.replace(turn) {
            self.tell(AvatarEvent::Ended { turn: before, interrupted: false });
        }
        self.turns.retain(|other| *other >= turn);
        self.tell(AvatarEvent::Speaking { turn });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avatar::liveavatar::limits;

    struct World {
        commands: Commands,
        now: Instant,
        sent: Vec<Value>,
        told: Vec<String>,
    }

    impl World {
        fn new() -> World {
            let commands = Commands::new(&limits(None));
            let mut world = World { commands, now: Instant::now(), sent: vec![], told: vec![] };
            world.commands.speak(world.now, 1, &[1; 24_000]);
            world.hear(json!({ "type": "session.state_updated", "state": "connecting" }));
            world.commands.speak(world.now, 1, &[1; 24_000]);
            world.hear(json!({ "type": "session.state_updated", "state": "connected" }));
            assert!(world.commands.is_connected() && world.sent.is_empty(), "said in vain");
            world
        }

        fn acts(&mut self) {
            while let Some(act) = self.commands.next_act() {
                match act {
                    Act::Send(text) => self.sent.push(serde_json::from_str(&text).expect("JSON")),
                    Act::Tell(AvatarEvent::Speaking { turn }) => self.told.push(format!("speaking {turn}")),
                    Act::Tell(AvatarEvent::Ended { turn, interrupted }) => {
                        self.told.push(format!("ended {turn} {interrupted}"));
                    }
                    Act::Tell(AvatarEvent::Hushed) => self.told.push("hushed".to_owned()),
                    Act::Tell(AvatarEvent::Warning(why)) => self.told.push(why),
                    Act::Tell(AvatarEvent::Lost(lost)) => self.told.push(format!("{:?}", lost.cause)),
                    Act::Tell(other) => panic!("{other:?}"),
                }
            }
        }

        fn hear(&mut self, said: Value) {
            self.commands.handle_text(self.now, &said.to_string());
            self.acts();
        }

        fn state(&mut self, state: &str) {
            self.hear(json!({ "type": "agent.state_updated", "previous_state": "?", "new_state": state }));
        }

        fn speak(&mut self, turn: Turn, millis: usize) {
            for _ in 0..millis / 20 {
                self.commands.speak(self.now, turn, &[1; 480]);
            }
            self.acts();
        }

        fn run(&mut self, length: Duration) {
            let until = self.now + length;
            while let Some(due) = self.commands.wake_at().filter(|due| *due <= until) {
                self.now = due;
                self.commands.handle_time(due);
                self.acts();
            }
            self.now = until;
        }

        fn kinds(&mut self) -> Vec<String> {
            let sent = std::mem::take(&mut self.sent);
            sent.iter().map(|sent| sent["type"].as_str().expect("a type").to_owned()).collect()
        }
    }

    #[test]
    fn speech_goes_up_in_pieces_that_move_lips_under_one_id_and_its_end_follows() {
        let mut world = World::new();
        world.speak(4, 2_700);
        world.commands.end(4);
        world.acts();
        let audio = |sent: &Value| {
            let bytes = STANDARD.decode(sent["audio"].as_str().unwrap_or_default()).expect("base64");
            bytes.len() / 48
        };
        assert_eq!(world.sent.iter().map(audio).collect::<Vec<_>>(), [500, 1_000, 1_000, 200, 0]);
        assert!(world.sent.iter().all(|sent| sent["event_id"] == "turn-4"));
        assert_eq!(world.kinds().last().map(String::as_str), Some("agent.speak_end"));
        world.state("talking");
        world.hear(json!({ "type": "agent.speak_ended", "source_event_id": "turn-4" }));
        assert_eq!(world.told, ["speaking 4"], "only its state is believed");
        world.state("idle");
        assert_eq!(world.told, ["speaking 4", "ended 4 false"]);
    }

    #[test]
    fn a_voice_that_pauses_starves_no_picture() {
        let mut world = World::new();
        world.speak(1, 300);
        assert!(world.sent.is_empty());
        world.run(Duration::from_millis(200));
        assert_eq!(world.kinds(), ["agent.speak"]);
    }

    #[test]
    fn it_interrupts_while_the_avatar_talks_and_is_hushed_by_its_state() {
        let mut world = World::new();
        world.speak(1, 3_000);
        world.state("talking");
        world.kinds();
        world.commands.interrupt(world.now, 1);
        world.speak(1, 2_000);
        world.commands.end(1);
        world.acts();
        assert_eq!(world.kinds(), ["agent.interrupt", "agent.speak_end"], "nothing more of it goes up");
        world.hear(json!({ "type": "agent.audio_buffer_cleared" }));
        assert_eq!(world.told, ["speaking 1"]);
        world.state("listening");
        assert_eq!(world.told[1..], ["ended 1 true", "hushed"]);
        world.speak(2, 500);
        world.state("talking");
        assert_eq!(world.told.last().map(String::as_str), Some("speaking 2"));
    }

    #[test]
    fn what_was_cut_before_it_began_is_interrupted_when_it_begins() {
        let mut world = World::new();
        world.speak(1, 500);
        world.commands.end(1);
        world.acts();
        world.kinds();
        world.commands.interrupt(world.now, 1);
        world.acts();
        assert!(world.kinds().is_empty(), "the avatar is silent: it would be confused");
        world.run(Duration::from_millis(800));
        world.state("talking");
        assert_eq!(world.kinds(), ["agent.interrupt"]);
        world.state("idle");
        assert_eq!(world.told, ["hushed"], "nobody heard of it");
    }

    #[test]
    fn an_acknowledgement_that_never_comes_is_not_waited_for() {
        let mut world = World::new();
        world.speak(1, 500);
        world.state("talking");
        world.commands.interrupt(world.now, 1);
        world.run(Duration::from_secs(3));
        assert_eq!(world.told, ["speaking 1", "ended 1 true", "hushed"]);
        // With nothing of ours to be heard there is nothing to interrupt.
        world.kinds();
        world.commands.interrupt(world.now, 2);
        world.acts();
        assert!(world.kinds().is_empty());
        assert_eq!(world.told.last().map(String::as_str), Some("hushed"));
    }

    #[test]
    fn turns_without_a_pause_are_told_apart() {
        let mut world = World::new();
        world.speak(1, 500);
        world.commands.end(1);
        world.speak(2, 500);
        world.state("talking");
        world.hear(json!({ "type": "agent.speak_started", "source_event_id": "turn-1" }));
        world.hear(json!({ "type": "agent.speak_started", "source_event_id": "turn-2" }));
        world.state("idle");
        assert_eq!(world.told, ["speaking 1", "ended 1 false", "speaking 2", "ended 2 false"]);
    }

    #[test]
    fn it_is_kept_alive_posed_and_its_troubles_are_told() {
        let mut world = World::new();
        world.run(Duration::from_secs(125));
        assert_eq!(world.kinds(), ["session.keep_alive", "session.keep_alive"]);
        for on in [false, true, true, false] {
            world.commands.listening(on);
        }
        world.acts();
        assert_eq!(world.kinds(), ["agent.start_listening", "agent.stop_listening"]);
        world.hear(
            json!({ "type": "error", "error": { "type": "video_starvation", "message": "no\u{7} audio" } }),
        );
        assert_eq!(world.told, ["LiveAvatar: video_starvation: no audio"]);
        world.commands.handle_text(world.now, "no JSON");
        assert_eq!(world.commands.odd, 1);
        world.hear(json!({ "type": "session.state_updated", "state": "closed" }));
        assert_eq!(world.told.last().map(String::as_str), Some("Over"));
    }
}
