//! Driver. Builds the audio part of a call: its machine, its voice.

use std::collections::VecDeque;

use super::{Running, Supplies};
use crate::base::queue::{self, Latest, Sender};
use crate::base::stop::Outcome;
use crate::engine::mix::{Mixer, Steady};
use crate::engine::network::audio::{AudioPart, Beat, Prepared, terms};
use crate::engine::network::sockets::Sockets;
use crate::engine::plan::{AudioStream, Then};
use crate::engine::ports::Pair;
use crate::engine::voice::Speaker;
use crate::rtp::audio::{AudioSettings, AudioStream as AudioMachine};

/// Hz at which the sound of files is kept; the mixer converts it to the call's.
const FILE_RATE: u32 = 16_000;

impl Running {
    pub(super) fn audio(
        &mut self,
        supplies: &mut Supplies,
        stream: &AudioStream,
        pair: Pair,
    ) -> Result<AudioPart, String> {
        let rate = stream.codec.sample_rate();
        let guard = self.guard(supplies, &stream.route);
        let settings = AudioSettings {
            stream: self.stream_settings(supplies, &stream.route, &guard, stream.codec.clock_rate()),
            terms: terms(stream),
        };
        let machine = AudioMachine::new(self.epoch, settings, supplies.seed());
        let (tell, prepared) = queue::queue(Latest);
        // Nobody is greeted twice, however often the sound comes back.
        let greets = self.plan.voice.greeting.is_some() && !std::mem::replace(&mut self.greeted, true);
        let (listener, playout) = self.talk_line(stream.codec).unzip();
        let mixer = Mixer::new(steady(&self.plan.voice.then), rate, greets);
        let beat = Beat::new(stream).map_err(|error| error.to_string())?;
        self.voice(supplies.speaker.clone(), rate, greets, tell);
        Ok(AudioPart {
            sockets: Sockets::new(pair, stream.route.rtcp_mux),
            guard,
            machine,
            first_ms: None,
            stream: stream.clone(),
            mixer,
            prepared,
            digits: VecDeque::new(),
            caller: self.taps.caller.clone(),
            agent: self.taps.agent.clone(),
            listener,
            playout,
            beat,
        })
    }

    /// Speech and files take time to prepare: beside the call, not before it.
    fn voice(&mut self, speaker: Speaker, rate: u32, greets: bool, tell: Sender<Prepared, Latest>) {
        let (voice, gauges) = (self.plan.voice.clone(), self.gauges.clone());
        if !greets && !matches!(voice.then, Then::Speech(_) | Then::Clip(_)) {
            return;
        }
        // Minutes of a file at full bandwidth would be tens of MiB for each call.
        let rate = if matches!(voice.then, Then::Clip(_)) { rate.min(FILE_RATE) } else { rate };
        self.scope.thread("voice", move || {
            let greeting = voice.greeting.filter(|_| greets);
            let opening = greeting.map(|text| speaker.say(&text, rate));
            let looped = match &voice.then {
                Then::Speech(text) => Some(speaker.say(text, rate)),
                Then::Clip(path) => match Speaker::sound_of(path, rate) {
                    Ok(sound) => Some(sound),
                    Err(text) => {
                        gauges.fault(text);
                        None
                    }
                },
                Then::Echo | Then::Silence | Then::Tone(_) => None,
            };
            tell.offer(Prepared { rate, opening, looped });
            Outcome::Done
        });
    }
}

fn steady(then: &Then) -> Steady {
    match then {
        Then::Echo => Steady::Echo,
        Then::Silence => Steady::Silence,
        Then::Tone(hertz) => Steady::Tone { hertz: *hertz },
        Then::Speech(_) | Then::Clip(_) => Steady::Loop,
    }
}
