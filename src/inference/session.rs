//! Driver. ONNX Runtime: finding and loading the library, and one network with its input tensor.
//!
//! The library is opened at run time, so the program starts without it and says what is missing. One intra-op thread
//! that does not spin: on small boxes ONNX Runtime's defaults are slower and burn twice the CPU. `ort` knows one
//! environment per process; it lives as long as its [`Runtime`]. What the numbers mean is [`super::family`]'s.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;

use crate::inference::family::{self, Family, Found, Limits, Output};
use crate::inference::manifest::{Contract, ModelSpec};
use crate::inference::store::ModelFile;
use crate::inference::tensor::{Filler, Picture, Placement};
use crate::inference::{onnx, store};

const LIBRARY: &str = "libonnxruntime.so";

/// What to do when the library is not there; part of every such message.
const HOW_TO_INSTALL: &str = "run `make setup`, or `pip download --no-deps onnxruntime==1.31.1` and put \
    onnxruntime/capi/libonnxruntime.so.* of the wheel beside the binary as libonnxruntime.so";

/// Why a network cannot be loaded or run.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SessionError {
    #[error("ONNX Runtime is not available ({0}): {HOW_TO_INSTALL}")]
    NoRuntime(String),
    #[error("model {model}: {problem}")]
    Model { model: String, problem: String },
    #[error("the picture is incomplete")]
    BadPicture,
}

/// Where the library is looked for, in order: `explicit` alone, or beside the binary, `ORT_DYLIB_PATH`
/// (`environment`), the loader's own path. Names without a folder are left to the loader.
pub fn library_candidates(
    explicit: Option<&Path>,
    executable: Option<&Path>,
    environment: Option<OsString>,
) -> Vec<PathBuf> {
    if let Some(path) = explicit {
        return vec![path.to_path_buf()];
    }
    let mut candidates = Vec::new();
    if let Some(folder) = executable.and_then(Path::parent) {
        candidates.push(folder.join(LIBRARY));
        // Packages keep libraries out of bin/.
        candidates.extend(folder.parent().map(|prefix| prefix.join("lib/eyeline").join(LIBRARY)));
    }
    candidates.extend(environment.filter(|path| !path.is_empty()).map(PathBuf::from));
    candidates.push(PathBuf::from(LIBRARY));
    candidates.push(PathBuf::from("libonnxruntime.so.1"));
    candidates
}

/// The loaded library. Only one can exist in a process.
pub struct Runtime {
    environment: Environment,
}

impl Runtime {
    /// Loads the library from the first of [`library_candidates`] that works.
    pub fn start(explicit: Option<&Path>) -> Result<Runtime, SessionError> {
        let executable = std::env::current_exe().ok();
        let environment = std::env::var_os("ORT_DYLIB_PATH");
        let mut reasons = Vec::new();
        for library in library_candidates(explicit, executable.as_deref(), environment) {
            let has_folder = library.components().count() > 1;
            if has_folder && !library.is_file() {
                reasons.push(format!("{} does not exist", library.display()));
                continue;
            }
            match ort::init_from(&library) {
                Ok(builder) => {
                    let environment = builder.with_name("eyeline").with_telemetry(false).build();
                    let environment =
                        environment.map_err(|error| SessionError::NoRuntime(error.to_string()))?;
                    environment.set_log_level(LogLevel::Error);
                    return Ok(Runtime { environment });
                }
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(SessionError::NoRuntime(reasons.join("; ")))
    }

    /// Reads, checks (SHA-256) and loads a file as it is.
    pub(super) fn session(&self, file: &ModelFile) -> Result<Session, SessionError> {
        let fail = |problem: String| SessionError::Model { model: file.name.clone(), problem };
        let bytes = store::read_checked(&file.path, &file.sha256).map_err(|error| fail(error.to_string()))?;
        commit(&self.environment, &bytes).map_err(|error| fail(error.to_string()))
    }
}

/// How long the parts of one look at a picture took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    pub prepare: Duration,
    pub run: Duration,
    pub decode: Duration,
}

impl Timing {
    pub fn total(&self) -> Duration {
        self.prepare + self.run + self.decode
    }
}

/// One loaded network.
pub struct Network {
    name: String,
    contract: Contract,
    live: bool,
    session: Session,
    filler: Filler,
    tensor: Vec<f32>,
}

impl Network {
    /// Reads, checks (SHA-256), repairs where the family needs it, and loads the model file.
    pub fn load(runtime: &Runtime, spec: &ModelSpec) -> Result<Network, SessionError> {
        let fail = |problem: String| SessionError::Model { model: spec.name.clone(), problem };
        let mut bytes =
            store::read_checked(&spec.path, &spec.sha256).map_err(|error| fail(error.to_string()))?;
        if spec.contract.family == Family::Centerface {
            bytes = onnx::free_sizes(&bytes).map_err(|error| fail(error.to_string()))?;
        }
        let session = commit(&runtime.environment, &bytes).map_err(|error| fail(error.to_string()))?;
        let mut contract = spec.contract.clone();
        let first = session.inputs().first().map(|input| input.name().to_owned()).unwrap_or_default();
        if session.inputs().iter().all(|input| input.name() != contract.input) {
            contract.input = first;
        }
        for wanted in &contract.outputs {
            if session.outputs().iter().all(|output| output.name() != wanted) {
                return Err(fail(format!(
                    "the file has no output {wanted:?}: it does not fit its manifest entry"
                )));
            }
        }
        let (name, live) = (spec.name.clone(), spec.live);
        Ok(Network { name, contract, live, session, filler: Filler::default(), tensor: Vec::new() })
    }

    /// Looks at one picture; `found` is replaced.
    pub fn detect(
        &mut self,
        picture: &Picture<'_>,
        limits: &Limits<'_>,
        found: &mut Vec<Found>,
    ) -> Result<Timing, SessionError> {
        if !picture.is_whole() {
            return Err(SessionError::BadPicture);
        }
        let started = clock();
        let size = self.contract.tensor_size(picture.size(), self.live);
        let placement = Placement::new(self.contract.fit, picture.size(), size);
        self.filler.fill(picture, &self.contract, &placement, &mut self.tensor);
        let prepared = clock();
        let fail = |problem: String| SessionError::Model { model: self.name.clone(), problem };
        let shape = [1, 3, size.height, size.width];
        let input =
            TensorRef::from_array_view((shape, self.tensor.as_slice())).map_err(|e| fail(e.to_string()))?;
        let inputs = ort::inputs![self.contract.input.as_str() => input];
        let answers = self.session.run(inputs).map_err(|e| fail(e.to_string()))?;
        let answered = clock();
        // The longest list of outputs any family reads.
        let mut outputs = [Output { shape: &[], values: &[] }; 9];
        for (output, name) in outputs.iter_mut().zip(&self.contract.outputs) {
            let Some(value) = answers.get(name) else { return Err(fail(format!("no output {name:?}"))) };
            let (shape, values) = value.try_extract_tensor::<f32>().map_err(|e| fail(e.to_string()))?;
            *output = Output { shape, values };
        }
        let outputs = &outputs[..self.contract.outputs.len()];
        family::decode(self.contract.family, outputs, &placement, limits, found)
            .map_err(|e| fail(e.to_string()))?;
        let decoded = clock();
        Ok(Timing { prepare: prepared - started, run: answered - prepared, decode: decoded - answered })
    }
}

#[expect(clippy::disallowed_methods, reason = "measures its own work; nothing is decided by the reading")]
fn clock() -> Instant {
    Instant::now()
}

fn commit(environment: &Environment, model: &[u8]) -> ort::Result<Session> {
    let builder = Session::builder(environment)?
        .with_log_level(LogLevel::Error)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(1)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?;
    let mut builder = builder;
    builder.commit_from_memory(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explicit_library_is_the_only_one_tried_and_otherwise_the_folder_of_the_binary_comes_first() {
        let exe = Some(Path::new("/opt/eyeline/bin/eyeline"));
        let explicit = library_candidates(Some(Path::new("/x/y.so")), exe, Some("/env.so".into()));
        assert_eq!(explicit, [PathBuf::from("/x/y.so")]);
        let auto = library_candidates(None, exe, Some("/env.so".into()));
        let at = |path: &str| auto.iter().position(|candidate| candidate == Path::new(path)).expect(path);
        assert!(at("/opt/eyeline/bin/libonnxruntime.so") < at("/opt/eyeline/lib/eyeline/libonnxruntime.so"));
        assert!(at("/opt/eyeline/lib/eyeline/libonnxruntime.so") < at("/env.so"));
        assert!(at("/env.so") < at("libonnxruntime.so"));
    }

    #[test]
    fn a_missing_library_is_an_error_that_says_what_to_do() {
        let error =
            Runtime::start(Some(Path::new("/nowhere/libonnxruntime.so"))).err().expect("no such file");
        let text = error.to_string();
        assert!(text.contains("/nowhere/libonnxruntime.so") && text.contains("make setup"), "{text}");
    }
}
