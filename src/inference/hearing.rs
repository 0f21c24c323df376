//! Driver. The two networks that listen: is this speech (silero-vad), and has the speaker finished (smart-turn).
//!
//! Streams share a network and keep their own state. What their answers mean belongs to `talk::hear`.

use std::time::{Duration, Instant};

use ort::session::Session;
use ort::value::TensorRef;

use crate::inference::mel::{BANDS, FRAMES, LogMel};
use crate::inference::session::{Runtime, SessionError};
use crate::inference::store::ModelFile;

/// Values of a stream's state.
const STATE: usize = 2 * 128;

/// Says how likely a window of sound is speech.
pub struct VoiceNetwork {
    name: String,
    session: Session,
}

/// What the network remembers of one stream.
pub struct VoiceStream {
    rate: i64,
    /// Samples of a window, and of the one before it that stand in front.
    window: usize,
    context: usize,
    /// Context, then the window being judged.
    input: Vec<f32>,
    state: Vec<f32>,
}

impl VoiceStream {
    /// `rate`: 8000 or 16000 Hz, the only ones it knows; others count as 16000.
    pub fn new(rate: u32) -> Self {
        let (rate, window, context) = if rate == 8_000 { (8_000, 256, 32) } else { (16_000, 512, 64) };
        VoiceStream { rate, window, context, input: vec![0.0; context + window], state: vec![0.0; STATE] }
    }

    /// Samples of one window.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Forgets what was heard.
    pub fn reset(&mut self) {
        self.input.fill(0.0);
        self.state.fill(0.0);
    }
}

impl VoiceNetwork {
    pub fn load(runtime: &Runtime, file: &ModelFile) -> Result<Self, SessionError> {
        let session = runtime.session(file)?;
        for (input, output) in [("input", "output"), ("state", "stateN"), ("sr", "output")] {
            expect(file, &session, input, output)?;
        }
        Ok(VoiceNetwork { name: file.name.clone(), session })
    }

    /// How likely the next window of a stream, as long as [`VoiceStream::window`] says, is speech.
    pub fn judge(&mut self, stream: &mut VoiceStream, window: &[i16]) -> Result<f32, SessionError> {
        let fail = |problem: String| SessionError::Model { model: self.name.clone(), problem };
        if window.len() != stream.window {
            return Err(fail(format!("a window of {} samples", window.len())));
        }
        let VoiceStream { rate, context, input, state, .. } = stream;
        let length = input.len();
        input.copy_within(length - *context.., 0);
        input[*context..]
            .iter_mut()
            .zip(window)
            .for_each(|(out, sample)| *out = f32::from(*sample) / 32_768.0);
        let rate = [*rate];
        let broken = |error: ort::Error| fail(error.to_string());
        let inputs = ort::inputs![
            "input" => TensorRef::from_array_view(([1, length], input.as_slice())).map_err(broken)?,
            "state" => TensorRef::from_array_view(([2usize, 1, 128], state.as_slice())).map_err(broken)?,
            "sr" => TensorRef::from_array_view(([0usize; 0], rate.as_slice())).map_err(broken)?,
        ];
        let answers = self.session.run(inputs).map_err(broken)?;
        let value = |name: &str| match answers.get(name) {
            Some(value) => value.try_extract_tensor::<f32>().map(|(_, values)| values).map_err(broken),
            None => Err(fail(format!("no output {name:?}"))),
        };
        let probability = value("output")?.first().copied().filter(|value| value.is_finite());
        let next = value("stateN")?;
        if next.len() != STATE {
            return Err(fail(format!("a state of {} values", next.len())));
        }
        state.copy_from_slice(next);
        probability.ok_or_else(|| fail("no probability".to_owned()))
    }
}

/// Says how likely a speaker has finished.
pub struct FinishNetwork {
    name: String,
    session: Session,
    mel: LogMel,
    features: Vec<f32>,
}

/// How long an answer took.
#[derive(Clone, Copy, Debug, Default)]
pub struct FinishTiming {
    pub prepare: Duration,
    pub run: Duration,
}

impl FinishNetwork {
    pub fn load(runtime: &Runtime, file: &ModelFile) -> Result<Self, SessionError> {
        let session = runtime.session(file)?;
        expect(file, &session, "input_features", "logits")?;
        Ok(FinishNetwork { name: file.name.clone(), session, mel: LogMel::default(), features: Vec::new() })
    }

    /// How likely the speaker of `sound` (16 kHz, its last 8 s count) has finished with its end.
    pub fn ask(&mut self, sound: &[i16]) -> Result<(f32, FinishTiming), SessionError> {
        let started = clock();
        self.mel.compute(sound, &mut self.features);
        let prepared = clock();
        let fail = |problem: String| SessionError::Model { model: self.name.clone(), problem };
        let broken = |error: ort::Error| fail(error.to_string());
        let features = TensorRef::from_array_view(([1, BANDS, FRAMES], self.features.as_slice()));
        let inputs = ort::inputs!["input_features" => features.map_err(broken)?];
        let answers = self.session.run(inputs).map_err(broken)?;
        let value = answers.get("logits").ok_or_else(|| fail("no output \"logits\"".to_owned()))?;
        let (_, values) = value.try_extract_tensor::<f32>().map_err(broken)?;
        let probability = values.first().copied().filter(|value| value.is_finite());
        let probability = probability.ok_or_else(|| fail("no probability".to_owned()))?;
        Ok((probability, FinishTiming { prepare: prepared - started, run: clock() - prepared }))
    }
}

/// A file of another network under the right name would answer nonsense.
fn expect(file: &ModelFile, session: &Session, input: &str, output: &str) -> Result<(), SessionError> {
    let has_input = session.inputs().iter().any(|found| found.name() == input);
    let has_output = session.outputs().iter().any(|found| found.name() == output);
    if has_input && has_output {
        return Ok(());
    }
    let problem = format!("the file has no input {input:?} or no output {output:?}: it is another network");
    Err(SessionError::Model { model: file.name.clone(), problem })
}

#[expect(clippy::disallowed_methods, reason = "measures its own work; nothing is decided by the reading")]
fn clock() -> Instant {
    Instant::now()
}
