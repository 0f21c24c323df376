//! The copy of the caller's sound that is listened to: noise taken out, a quiet voice brought up.
//!
//! Pure. For networks and transcribers only; what is echoed, recorded or sent on is untouched. Both are WebRTC's
//! (ports: `sonora-ns`, `sonora-agc2`), in frames of 160 samples. Noise suppression was made for 16 kHz; at 8 kHz its
//! time constants are twice as long, which speech over a telephone bears well.

use std::collections::VecDeque;

use sonora_agc2::adaptive_digital_gain_controller::{AdaptiveDigitalGainController, FrameInfo};
use sonora_agc2::limiter::Limiter;
use sonora_agc2::saturation_protector::SaturationProtector;
use sonora_agc2::speech_level_estimator::{AdaptiveDigitalConfig, SpeechLevelEstimator};
use sonora_ns::config::{NS_FRAME_SIZE as FRAME, NsConfig, SuppressionLevel};
use sonora_ns::noise_suppressor::NoiseSuppressor;

/// Frames of speech in a row until the gain rises: as WebRTC has it.
const SPEECH_FRAMES: i32 = 12;
const HEADROOM_DB: f32 = 20.0;
/// Gain of a voice nothing is known of, and the most there is.
const FIRST_GAIN_DB: f32 = 6.0;
const MOST_GAIN_DB: f32 = 30.0;
/// Nothing is louder than the loudest sample.
const SILENT_DB: f32 = -90.0;

/// One stream's copy.
pub struct Enhance {
    noise: Option<NoiseSuppressor>,
    gain: Option<Gain>,
    /// Samples that do not fill a frame yet, and those that are done.
    waiting: Vec<f32>,
    ready: VecDeque<i16>,
}

impl Enhance {
    /// `rate`: 8000 or 16000 Hz.
    pub fn new(rate: u32, noise: bool, gain: bool) -> Self {
        let level = NsConfig { target_level: SuppressionLevel::K12dB };
        Enhance {
            noise: noise.then(|| NoiseSuppressor::new(level)),
            gain: gain.then(|| Gain::new(rate)),
            waiting: Vec::with_capacity(4 * FRAME),
            ready: VecDeque::with_capacity(4 * FRAME),
        }
    }

    /// Whether the copy is the sound itself.
    pub fn does_nothing(&self) -> bool {
        self.noise.is_none() && self.gain.is_none()
    }

    /// Replaces `copy` by as many samples as `sound` has, at most a frame later. `speech`: how likely the caller speaks;
    /// `noise_db`: the level of the line without him.
    pub fn process(&mut self, sound: &[i16], speech: f32, noise_db: f32, copy: &mut Vec<i16>) {
        self.waiting.extend(sound.iter().map(|sample| f32::from(*sample)));
        let mut done = 0;
        while let Some(frame) = self.waiting.get_mut(done..done + FRAME) {
            if let (Some(noise), Ok(frame)) = (&mut self.noise, <&mut [f32; FRAME]>::try_from(&mut *frame)) {
                noise.analyze(frame);
                noise.process(frame);
            }
            if let Some(gain) = &mut self.gain {
                gain.process(frame, speech, noise_db);
            }
            // `as` saturates, which is what an overshoot needs.
            self.ready.extend(frame.iter().map(|sample| sample.round() as i16));
            done += FRAME;
        }
        self.waiting.drain(..done);
        copy.clear();
        // Blocks that are no multiple of a frame cost their listener a frame once, at the start.
        copy.resize(sound.len().saturating_sub(self.ready.len()), 0);
        let rest = sound.len() - copy.len();
        copy.extend(self.ready.drain(..rest));
    }
}

/// Brings a voice to the level networks were trained on.
struct Gain {
    /// Samples of 10 ms.
    frame: usize,
    speech: SpeechLevelEstimator,
    saturation: SaturationProtector,
    controller: AdaptiveDigitalGainController,
    limiter: Limiter,
}

impl Gain {
    fn new(rate: u32) -> Self {
        let frame = if rate == 8_000 { FRAME / 2 } else { FRAME };
        let config = AdaptiveDigitalConfig {
            max_gain_db: MOST_GAIN_DB,
            initial_gain_db: FIRST_GAIN_DB,
            ..AdaptiveDigitalConfig::default()
        };
        Gain {
            frame,
            speech: SpeechLevelEstimator::new(&config, SPEECH_FRAMES),
            saturation: SaturationProtector::new(HEADROOM_DB, SPEECH_FRAMES),
            controller: AdaptiveDigitalGainController::new(config, SPEECH_FRAMES),
            limiter: Limiter::new(frame),
        }
    }

    fn process(&mut self, sound: &mut [f32], speech_probability: f32, noise_db: f32) {
        let noise_rms_dbfs = noise_db.clamp(SILENT_DB, 0.0);
        let speech_probability = speech_probability.clamp(0.0, 1.0);
        for frame in sound.chunks_exact_mut(self.frame) {
            let power = frame.iter().map(|sample| sample * sample).sum::<f32>() / frame.len() as f32;
            let peak = frame.iter().fold(0.0f32, |peak, sample| peak.max(sample.abs()));
            self.speech.update(dbfs(power.sqrt()), speech_probability);
            self.saturation.analyze(speech_probability, dbfs(peak), self.speech.level_dbfs());
            let info = FrameInfo {
                speech_probability,
                speech_level_dbfs: self.speech.level_dbfs(),
                speech_level_reliable: self.speech.is_confident(),
                noise_rms_dbfs,
                headroom_db: self.saturation.headroom_db(),
                limiter_envelope_dbfs: dbfs(self.limiter.last_audio_level()),
            };
            self.controller.process(&info, &mut [&mut *frame]);
            self.limiter.process(&mut [frame]);
        }
    }
}

/// Of a value between 0 and 32768.
fn dbfs(value: f32) -> f32 {
    (20.0 * (value / 32_768.0).max(1e-9).log10()).clamp(SILENT_DB, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talk::hear::energy::level_db;

    /// Noise of this level, always the same.
    fn noise(samples: usize, db: f32) -> Vec<i16> {
        let scale = 32_768.0 * 10f32.powf(db / 20.0) * 3f32.sqrt();
        let mut seed = 1u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..samples).map(|_| (next() * scale) as i16).collect()
    }

    fn through(enhance: &mut Enhance, sound: &[i16], block: usize, speech: f32) -> Vec<i16> {
        let noise_db = if speech < 0.5 { -45.0 } else { -75.0 };
        let mut copy = Vec::new();
        let blocks = sound.chunks(block).flat_map(|part| {
            enhance.process(part, speech, noise_db, &mut copy);
            assert_eq!(copy.len(), part.len());
            copy.clone()
        });
        blocks.collect()
    }

    /// Stands for syllables: a harmonic sound that comes and goes.
    fn voice(rate: u32, seconds: usize, peak: f32) -> Vec<i16> {
        let sample = |n: usize| {
            let t = n as f32 / rate as f32;
            let open = if (t * 4.0).fract() < 0.6 { 1.0 } else { 0.0 };
            let tone = |hz: f32| (std::f32::consts::TAU * hz * t).sin();
            (peak * open * (tone(180.0) + tone(360.0) + tone(720.0) + tone(1_440.0)) / 2.0) as i16
        };
        (0..rate as usize * seconds).map(sample).collect()
    }

    #[test]
    fn steady_noise_goes_down_by_ten_decibels_and_a_tone_in_it_stays() {
        for rate in [8_000u32, 16_000] {
            let mut enhance = Enhance::new(rate, true, false);
            let sound = noise(rate as usize * 4, -40.0);
            let out = through(&mut enhance, &sound, rate as usize / 50, 0.0);
            let after = level_db(&out[out.len() / 2..]);
            assert!(after < -50.0, "{rate}: {after}");
            let voice = voice(rate, 2, 4_000.0);
            let mixed: Vec<i16> = voice.iter().zip(&sound).map(|(a, b)| a.saturating_add(*b)).collect();
            let out = through(&mut enhance, &mixed, rate as usize / 50, 1.0);
            let lost = level_db(&mixed) - level_db(&out);
            assert!(lost < 2.0, "{rate}: {lost} dB of the voice are gone");
        }
    }

    #[test]
    fn a_quiet_voice_comes_up_noise_does_not_and_nothing_clips() {
        let mut enhance = Enhance::new(8_000, false, true);
        let quiet = voice(8_000, 8, 200.0);
        let out = through(&mut enhance, &quiet, 160, 0.99);
        let gained = level_db(&out[48_000..]) - level_db(&quiet[48_000..]);
        assert!(gained > 12.0, "{gained} dB");

        let mut enhance = Enhance::new(8_000, false, true);
        let steady = noise(8_000 * 6, -45.0);
        let out = through(&mut enhance, &steady, 160, 0.02);
        let gained = level_db(&out[40_000..]) - level_db(&steady[40_000..]);
        assert!(gained < 8.0, "{gained} dB");

        let loud: Vec<i16> = noise(8_000 * 3, -6.0);
        let out = through(&mut enhance, &loud, 160, 0.99);
        assert!(level_db(&out[16_000..]) <= level_db(&loud[16_000..]) + 1.0);
    }

    #[test]
    fn blocks_of_any_length_come_back_as_long_as_they_went_in() {
        let sound = noise(8_000, -30.0);
        for block in [1, 80, 100, 159, 160, 333] {
            let mut enhance = Enhance::new(8_000, true, true);
            assert_eq!(through(&mut enhance, &sound, block, 0.5).len(), sound.len());
        }
        assert!(Enhance::new(16_000, false, false).does_nothing());
    }
}
