//! Driver. The detectors of the configuration: which models they need, what is loaded, and one detector per call.
//!
//! A model that cannot be had is said at the start. A censor whose detector is missing keeps its gate closed; a
//! missing observer only costs its boxes.

use std::collections::{BTreeMap, BTreeSet};

use crate::app::config::settings::{Agent, Config, Detector as DetectorConfig, Route};
use crate::app::config::tools::settings::Trigger;
use crate::engine::Catalogue;
use crate::inference::manifest::ModelSpec;
use crate::inference::store::{Sizing, Store};
use crate::media::codec::Detector;
use crate::vision::observer::ObserverSettings;
use crate::vision::schedule::Schedule;
use crate::worker::client::{DetectorOptions, ModelHandle, Worker, WorkerSettings, WorkerStatus};

/// One `[detector.NAME]` and its model.
struct Entry {
    config: DetectorConfig,
    model: Result<ModelHandle, String>,
    /// Classes its model knows, present or not; empty for a model nobody has heard of.
    labels: Vec<String>,
}

/// Whether an agent wants to know what comes into the picture.
pub fn watches(config: &Config, agent: &str) -> bool {
    let talks = matches!(config.agents.get(agent), Some(Agent::Pipeline(_) | Agent::Realtime(_)));
    let triggers = &config.tools.triggers;
    let waits = |trigger: &Trigger| {
        !trigger.class.is_empty()
            && (trigger.agents.is_empty() || trigger.agents.iter().any(|name| name == agent))
    };
    talks && (triggers.iter().any(waits) || config.tools.doors.values().any(|door| !door.present.is_empty()))
}

/// The detectors in use.
pub struct Detectors {
    worker: Option<Worker>,
    entries: BTreeMap<String, Entry>,
    /// Classes that must be hidden, in lower case.
    targets: Vec<String>,
}

impl Detectors {
    /// Starts the inference child when any route needs it, and loads what the routes use.
    pub fn load(config: &Config) -> Self {
        let censors = config.routes.iter().any(|route| route.censor && route.video);
        let targets: Vec<String> = if censors { lower(&config.censor.targets) } else { Vec::new() };
        let looks = |route: &&Route| route.video && (config.overlay.boxes || watches(config, &route.agent));
        let observed = config.routes.iter().filter(looks);
        let wanted: BTreeSet<&String> = observed.flat_map(|route| &route.detect).collect();
        let mut detectors = Detectors { worker: None, entries: BTreeMap::new(), targets };
        if wanted.is_empty() && detectors.targets.is_empty() {
            return detectors;
        }
        let store = Store::open(config.models.dir.as_deref()).map_err(|error| error.to_string());
        for (name, detector) in &config.detectors {
            let spec = store.as_ref().map_err(Clone::clone).and_then(|store| {
                store.spec(&detector.model, Sizing::Live).map_err(|error| error.to_string())
            });
            let labels = store.as_ref().map_or(Vec::new(), |store| store.labels(&detector.model));
            let labels = lower(&labels);
            let needed =
                wanted.contains(name) || labels.iter().any(|label| detectors.targets.contains(label));
            if needed {
                let entry = detectors.load_one(config, detector, spec, labels);
                detectors.entries.insert(name.clone(), entry);
            }
        }
        detectors
    }

    fn load_one(
        &mut self,
        config: &Config,
        detector: &DetectorConfig,
        spec: Result<ModelSpec, String>,
        labels: Vec<String>,
    ) -> Entry {
        let model = spec.and_then(|spec| {
            let worker = self.worker(config)?;
            worker.load(spec).map_err(|error| error.to_string())
        });
        Entry { config: detector.clone(), model, labels }
    }

    fn worker(&mut self, config: &Config) -> Result<Worker, String> {
        if let Some(worker) = &self.worker {
            return Ok(worker.clone());
        }
        let settings =
            WorkerSettings { onnxruntime: config.models.onnxruntime.clone(), ..WorkerSettings::default() };
        let worker = Worker::start(settings).map_err(|error| error.to_string())?;
        self.worker = Some(worker.clone());
        Ok(worker)
    }

    /// The detectors a gate needs, by name: for each target the first loaded one that finds it, else whichever
    /// should (so that the gate stays closed and says why).
    pub fn for_gate(&self) -> Vec<String> {
        let mut chosen = Vec::new();
        for target in &self.targets {
            let finds = |entry: &Entry| entry.labels.contains(target) || entry.labels.is_empty();
            let loaded = self.entries.iter().find(|(_, entry)| entry.model.is_ok() && finds(entry));
            let any = || self.entries.iter().find(|(_, entry)| finds(entry));
            match loaded.or_else(any) {
                Some((name, _)) if !chosen.contains(name) => chosen.push(name.clone()),
                Some(_) => {}
                // A name nobody has keeps the gate closed.
                None => chosen.push(target.clone()),
            }
        }
        chosen
    }

    /// Each censor target with its problem, if any.
    pub fn target_states(&self) -> Vec<(String, Option<String>)> {
        let running = self.worker.as_ref().is_none_or(|worker| worker.status().alive);
        self.targets
            .iter()
            .map(|target| {
                let finders = self.entries.values().filter(|entry| entry.labels.contains(target));
                let found = finders.clone().any(|entry| entry.model.is_ok());
                let problem = match found {
                    true if running => None,
                    true => Some("the inference process is not running".to_owned()),
                    false => Some(self.why_missing(target)),
                };
                (target.clone(), problem)
            })
            .collect()
    }

    fn why_missing(&self, target: &str) -> String {
        let finders = self.entries.values().filter(|entry| entry.labels.iter().any(|label| label == target));
        let failed = finders.filter_map(|entry| entry.model.as_ref().err()).next();
        failed.cloned().unwrap_or_else(|| format!("no detector finds {target}: see `eyeline models list`"))
    }

    /// Each detector with its problem, if any.
    pub fn detector_states(&self) -> Vec<(String, Option<String>)> {
        self.entries.iter().map(|(name, entry)| (name.clone(), entry.model.as_ref().err().cloned())).collect()
    }

    /// The inference child, when one is needed.
    pub fn status(&self) -> Option<WorkerStatus> {
        self.worker.as_ref().map(Worker::status)
    }

    fn entry(&self, name: &str) -> Result<(&Entry, &Worker, ModelHandle), String> {
        let entry = self.entries.get(name).ok_or_else(|| format!("no detector finds {name}"))?;
        let model = entry.model.clone()?;
        let worker = self.worker.as_ref().ok_or("the inference process is not running")?;
        Ok((entry, worker, model))
    }
}

impl Catalogue for Detectors {
    fn gate(&self, name: &str) -> Result<(Box<dyn Detector>, Schedule), String> {
        let (entry, worker, model) = self.entry(name)?;
        let mut options = options(entry, &model);
        // What must be hidden is looked for whatever the detector is otherwise asked to show.
        let found = entry.labels.iter().filter(|label| self.targets.contains(label));
        options.classes = found.cloned().collect();
        let schedule = Schedule { every: entry.config.every, ..Schedule::default() };
        Ok((worker.detector(vec![(model, options)]), schedule))
    }

    fn observer(&self, name: &str) -> Result<(Box<dyn Detector>, ObserverSettings), String> {
        let (entry, worker, model) = self.entry(name)?;
        let options = options(entry, &model);
        let settings = ObserverSettings {
            fps: entry.config.fps,
            motion_gate: entry.config.motion_gate,
            ..ObserverSettings::default()
        };
        Ok((worker.observer(vec![(model, options)]), settings))
    }
}

fn options(entry: &Entry, model: &ModelHandle) -> DetectorOptions {
    let own = model.options();
    DetectorOptions {
        confidence: entry.config.confidence,
        iou: entry.config.iou.unwrap_or(own.iou),
        classes: entry.config.classes.clone(),
    }
}

fn lower(words: &[String]) -> Vec<String> {
    words.iter().map(|word| word.to_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(labels: &[&str]) -> Entry {
        Entry {
            config: DetectorConfig::named("x"),
            model: Err("the model is not here".to_owned()),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        }
    }

    #[test]
    fn a_target_that_nothing_finds_keeps_the_gate_closed_and_says_why() {
        let detectors = Detectors {
            worker: None,
            entries: BTreeMap::from([("faces".to_owned(), entry(&["face"]))]),
            targets: vec!["face".to_owned(), "plate".to_owned()],
        };
        assert_eq!(detectors.for_gate(), ["faces", "plate"]);
        assert!(detectors.gate("faces").is_err() && detectors.gate("plate").is_err());
        let states = detectors.target_states();
        assert!(states.iter().all(|(_, problem)| problem.is_some()), "{states:?}");
    }
}
