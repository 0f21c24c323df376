//! Driver. The child that listens: one thread judges windows as they come, another is asked about ends of turns.
//!
//! Started as `eyeline worker ears` with the control socket as standard input. A question about an end takes a hundred
//! times as long as a window, so it is answered beside the line and with a lower priority.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rustix::io::Errno;

use crate::base::queue::{self, Fifo, Receiver, Sender};
use crate::codec::resample::Resampler;
use crate::inference::hearing::{FinishNetwork, VoiceNetwork, VoiceStream};
use crate::inference::mel;
use crate::inference::session::Runtime;
use crate::worker::child::isolate;
use crate::worker::control::{self, Blocking, Received};
use crate::worker::ears::wire::{Ask, Hello, MAX_MESSAGE, Reply};

/// Questions about ends of turns that wait; further ones are answered with "nobody can say".
const QUESTIONS_MAX: usize = 16;
/// Added to the nice value of the thread that answers them.
const QUESTION_NICE: i32 = 5;
/// Streams of one child.
const STREAMS_MAX: usize = 1_024;

/// Runs until the program closes its end of `control`. The result is the exit code.
pub fn run(control: impl AsFd) -> i32 {
    let control = control.as_fd();
    if rustix::net::sockopt::socket_type(control).is_err() {
        eprintln!("eyeline worker is started by eyeline itself");
        return 2;
    }
    isolate(c"eyeline-ears");
    let mut child = Child::new(control);
    loop {
        if control::wait(&[&control], None).is_err() {
            return 1;
        }
        match child.take_messages() {
            Ok(true) => {}
            // The program is gone, or wants us gone.
            Ok(false) | Err(Errno::PIPE | Errno::CONNRESET) => return 0,
            Err(error) => {
                eprintln!("eyeline worker: control socket: {error}");
                return 1;
            }
        }
    }
}

/// One caller.
struct Stream {
    rate: u32,
    /// `None`: the network takes the rate as it is.
    resampler: Option<Resampler>,
    voice: VoiceStream,
    /// The position behind the last sample heard.
    heard: u64,
    /// Heard and not judged, at the network's rate.
    waiting: Vec<i16>,
    /// What a question is about: the last sound at the network's rate, at most 8 s and what has not been cut off yet.
    last: Vec<i16>,
}

impl Stream {
    fn new(rate: u32) -> Option<Stream> {
        let own = if rate == 8_000 { 8_000 } else { mel::RATE };
        let resampler = if rate == own { None } else { Some(Resampler::new(rate, own).ok()?) };
        let voice = VoiceStream::new(own);
        Some(Stream { rate, resampler, voice, heard: 0, waiting: Vec::new(), last: Vec::new() })
    }

    fn own_rate(&self) -> u32 {
        if self.rate == 8_000 { 8_000 } else { mel::RATE }
    }

    fn hear(&mut self, from: u64, sound: &[u8]) {
        if from != self.heard {
            // Something was lost: what follows does not join.
            self.waiting.clear();
            self.heard = from;
        }
        let samples = sound.as_chunks::<2>().0.iter().map(|pair| i16::from_le_bytes(*pair));
        self.heard += (sound.len() / 2) as u64;
        let before = self.waiting.len();
        match &mut self.resampler {
            None => self.waiting.extend(samples),
            Some(resampler) => {
                let samples: Vec<i16> = samples.collect();
                // Both rates are ones it was made for.
                let _ = resampler.process(&samples, &mut self.waiting);
            }
        }
        self.last.extend_from_slice(&self.waiting[before..]);
        let most = self.own_rate() as usize * 8;
        if self.last.len() > 2 * most {
            self.last.drain(..self.last.len() - most);
        }
    }

    /// Where the window that begins `waiting` ends, in samples heard.
    fn window_end(&self) -> u64 {
        let behind = (self.waiting.len() - self.voice.window()) as u64;
        self.heard.saturating_sub(behind * u64::from(self.rate) / u64::from(self.own_rate()))
    }
}

/// One question on its way to the thread that answers it.
struct Question {
    listener: u32,
    until: u64,
    rate: u32,
    sound: Vec<i16>,
}

struct Child<'a> {
    control: BorrowedFd<'a>,
    voice: Option<VoiceNetwork>,
    questions: Option<Sender<Question, Fifo>>,
    /// Questions handed over and not answered.
    open: Arc<AtomicUsize>,
    streams: BTreeMap<u32, Stream>,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    #[cfg(feature = "faults")]
    silent: u32,
}

impl<'a> Child<'a> {
    fn new(control: BorrowedFd<'a>) -> Self {
        Child {
            control,
            voice: None,
            questions: None,
            open: Arc::new(AtomicUsize::new(0)),
            streams: BTreeMap::new(),
            incoming: vec![0; MAX_MESSAGE],
            outgoing: Vec::new(),
            #[cfg(feature = "faults")]
            silent: 0,
        }
    }

    /// Takes everything that waits at the socket. `false`: the program has closed it.
    fn take_messages(&mut self) -> Result<bool, Errno> {
        loop {
            match control::receive(self.control, &mut self.incoming)? {
                Received::Nothing => return Ok(true),
                Received::Closed => return Ok(false),
                Received::Message(length, _) => {
                    let incoming = std::mem::take(&mut self.incoming);
                    let handled = match incoming.get(..length).and_then(Ask::read) {
                        Some(ask) => self.handle(ask),
                        None => Ok(()),
                    };
                    self.incoming = incoming;
                    handled?;
                }
            }
        }
    }

    fn handle(&mut self, ask: Ask<'_>) -> Result<(), Errno> {
        match ask {
            Ask::Hello(hello) => {
                // Without the right to change it the priority stays; the work gets done all the same.
                let _ = rustix::process::nice(hello.nice);
                let reply = match self.load(&hello) {
                    Ok(turn) => Reply::Ready { turn },
                    Err(problem) => Reply::Failed { problem },
                };
                self.send(&reply)
            }
            Ask::Open { listener, rate } => {
                if self.streams.len() < STREAMS_MAX
                    && let Some(stream) = Stream::new(rate)
                {
                    self.streams.insert(listener, stream);
                }
                Ok(())
            }
            Ask::Close { listener } => {
                self.streams.remove(&listener);
                Ok(())
            }
            Ask::Hear { listener, from, sound } => self.hear(listener, from, sound),
            Ask::Finished { listener, samples } => self.ask(listener, samples),
            Ask::Ping { number } => self.send(&Reply::Pong { number }),
            #[cfg(feature = "faults")]
            Ask::Fault(fault) => {
                self.break_something(fault);
                Ok(())
            }
        }
    }

    /// Loads the networks; the result says why there is no second one, if one was wanted.
    fn load(&mut self, hello: &Hello) -> Result<Option<String>, String> {
        let runtime = Runtime::start(hello.onnxruntime.as_deref()).map_err(|error| error.to_string())?;
        self.voice = Some(VoiceNetwork::load(&runtime, &hello.voice).map_err(|error| error.to_string())?);
        let Some(turn) = &hello.turn else { return Ok(None) };
        let network = match FinishNetwork::load(&runtime, turn) {
            Ok(network) => network,
            Err(error) => return Ok(Some(error.to_string())),
        };
        let control = self.control.try_clone_to_owned().map_err(|error| error.to_string())?;
        let (sender, receiver) = queue::queue(Fifo { depth: QUESTIONS_MAX });
        let open = self.open.clone();
        crate::base::stop::process_thread("ends-of-turns", move || {
            answer(network, &receiver, &control, &open)
        })
        .map_err(|error| error.to_string())?;
        self.questions = Some(sender);
        Ok(None)
    }

    fn hear(&mut self, listener: u32, from: u64, sound: &[u8]) -> Result<(), Errno> {
        let (Some(stream), Some(voice)) = (self.streams.get_mut(&listener), &mut self.voice) else {
            return Ok(());
        };
        stream.hear(from, sound);
        loop {
            let Some(stream) = self.streams.get_mut(&listener) else { return Ok(()) };
            let window = stream.voice.window();
            let Some(samples) = stream.waiting.get(..window) else { return Ok(()) };
            let started = clock();
            // A network that fails says nothing, which is noticed like one that hangs.
            let judged = voice.judge(&mut stream.voice, samples).ok();
            let until = stream.window_end();
            stream.waiting.drain(..window);
            #[cfg(feature = "faults")]
            if self.silent > 0 {
                self.silent -= 1;
                continue;
            }
            if let Some(probability) = judged {
                let reply = Reply::Speech { listener, probability, until, took_us: micros(started) };
                reply.write(&mut self.outgoing);
                control::send(self.control, &self.outgoing, None, Blocking::Yes)?;
            }
        }
    }

    fn ask(&mut self, listener: u32, samples: u64) -> Result<(), Errno> {
        let Some(stream) = self.streams.get(&listener) else {
            return self.send(&nobody(listener, 0));
        };
        let until = stream.heard;
        let own = stream.own_rate();
        let wanted = samples * u64::from(own) / u64::from(stream.rate.max(1));
        let wanted = (wanted as usize).min(own as usize * 8).min(stream.last.len());
        let full = self.open.load(Ordering::Relaxed) >= QUESTIONS_MAX;
        let Some(questions) = self.questions.as_ref().filter(|_| !full) else {
            return self.send(&nobody(listener, until));
        };
        let sound = stream.last[stream.last.len() - wanted..].to_vec();
        self.open.fetch_add(1, Ordering::Relaxed);
        questions.offer(Question { listener, until, rate: own, sound });
        Ok(())
    }

    fn send(&mut self, reply: &Reply) -> Result<(), Errno> {
        reply.write(&mut self.outgoing);
        control::send(self.control, &self.outgoing, None, Blocking::Yes)
    }

    #[cfg(feature = "faults")]
    #[expect(clippy::disallowed_methods, reason = "a stalled native call is imitated by sleeping")]
    fn break_something(&mut self, fault: crate::worker::Fault) {
        match fault {
            crate::worker::Fault::Kill => std::process::abort(),
            crate::worker::Fault::Stall { ms } => std::thread::sleep(std::time::Duration::from_millis(ms)),
            crate::worker::Fault::DropAnswers(count) | crate::worker::Fault::FailAnswers(count) => {
                self.silent += count;
            }
        }
    }
}

/// The thread that answers questions, one after the other.
fn answer(
    mut network: FinishNetwork,
    questions: &Receiver<Question, Fifo>,
    control: &OwnedFd,
    open: &AtomicUsize,
) {
    // On Linux it is this thread's value alone.
    let _ = rustix::process::nice(QUESTION_NICE);
    let mut message = Vec::new();
    while let Some(question) = questions.take() {
        let started = clock();
        let Question { listener, until, rate, sound } = question;
        let asked = at_model_rate(rate, sound).and_then(|sound| network.ask(&sound).ok());
        let reply = match asked {
            Some((probability, _)) => {
                let probability = probability.clamp(0.0, 1.0);
                Reply::Finished { listener, probability, until, took_us: micros(started) }
            }
            None => nobody(listener, until),
        };
        open.fetch_sub(1, Ordering::Relaxed);
        reply.write(&mut message);
        if control::send(control.as_fd(), &message, None, Blocking::Yes).is_err() {
            return;
        }
    }
}

fn at_model_rate(rate: u32, sound: Vec<i16>) -> Option<Vec<i16>> {
    if rate == mel::RATE {
        return Some(sound);
    }
    let mut resampler = Resampler::new(rate, mel::RATE).ok()?;
    let mut out = Vec::with_capacity(sound.len() * 2 + 1_024);
    resampler.process(&sound, &mut out).ok()?;
    // What it holds back is the very end, which is what counts.
    resampler.process(&vec![0; resampler.delay() + rate as usize / 100], &mut out).ok()?;
    Some(out)
}

fn nobody(listener: u32, until: u64) -> Reply {
    Reply::Finished { listener, probability: -1.0, until, took_us: 0 }
}

fn micros(since: Instant) -> u32 {
    u32::try_from((clock() - since).as_micros()).unwrap_or(u32::MAX)
}

#[expect(clippy::disallowed_methods, reason = "measures its own work; nothing is decided by the reading")]
fn clock() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_those_of_what_was_heard_whatever_the_rate() {
        for rate in [8_000, 16_000, 48_000] {
            let mut stream = Stream::new(rate).expect("a rate of calls");
            let block = vec![0u8; rate as usize / 50 * 2];
            let mut ends = Vec::new();
            for number in 0..100 {
                stream.hear(number * u64::from(rate) / 50, &block);
                while stream.waiting.len() >= stream.voice.window() {
                    ends.push(stream.window_end());
                    let window = stream.voice.window();
                    stream.waiting.drain(..window);
                }
            }
            assert!(ends.len() >= 60, "{rate}: {}", ends.len());
            let step = u64::from(rate) * 32 / 1_000;
            assert!(ends.windows(2).all(|pair| pair[1] - pair[0] == step), "{rate}: {ends:?}");
            assert!(ends.iter().all(|end| *end <= u64::from(rate) * 2));
            assert!(stream.last.len() <= 2 * 8 * 16_000);
        }
        assert!(Stream::new(0).is_none());
    }

    #[test]
    fn after_a_gap_old_sound_is_not_joined_to_new() {
        let mut stream = Stream::new(8_000).expect("a rate");
        stream.hear(0, &[1; 200]);
        stream.hear(5_000, &[0; 520]);
        assert_eq!((stream.heard, stream.waiting.len(), stream.window_end()), (5_260, 260, 5_256));
    }
}
