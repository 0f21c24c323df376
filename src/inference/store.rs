//! Driver. Model files on disk: which of the manifest's entries are present, where, and whether they are sound.
//!
//! Presence is decided by name and length (cheap, at start); the SHA-256 is checked when a file is loaded, by
//! `models verify`, and before `models pull` or `import` store anything.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::inference::manifest::{
    FACE_MODELS, Labels, Manifest, ManifestError, Model, ModelSpec, search_directories,
};

/// Model files larger than this are not read.
pub const MAX_MODEL_BYTES: u64 = 512 << 20;

/// Why a wanted model cannot be had; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{}: {problem}", path.display())]
    File { path: PathBuf, problem: String },
    #[error("{}: {error}", path.display())]
    Manifest { path: PathBuf, error: ManifestError },
    #[error("no model {name:?} in the manifest; `eyeline models list` shows the names")]
    Unknown { name: String },
    #[error("model {name} is not in {searched}: run `eyeline models pull {name}`")]
    Absent { name: String, searched: String },
    #[error("none of the models {names} is in {searched}: run `eyeline models pull`")]
    AbsentAny { names: String, searched: String },
    #[error("model {name}: this build cannot read decode = {decode:?} yet")]
    Undecodable { name: String, decode: String },
}

/// A model file on its own, for networks that have no picture contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFile {
    pub name: String,
    pub path: PathBuf,
    /// Accepted SHA-256 values in lower-case hex; empty: any file is taken.
    pub sha256: Vec<String>,
}

/// The manifest together with the folders its files may lie in.
pub struct Store {
    pub manifest: Manifest,
    pub directories: Vec<PathBuf>,
}

/// At which size a free-size model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizing {
    /// Free-size models follow the picture, as in calls.
    Live,
    /// Every model at the manifest's own size, for which the published figures hold.
    Reference,
}

impl Store {
    /// `directory`: the setting `[models] dir`, `None` for `auto`. A `models.toml` in a searched folder adds entries.
    pub fn open(directory: Option<&Path>) -> Result<Store, StoreError> {
        let executable = std::env::current_exe().ok();
        let directories = search_directories(directory, executable.as_deref());
        let mut manifest = Manifest::built_in().clone();
        for directory in &directories {
            let path = directory.join("models.toml");
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::File { path, problem: error.to_string() }),
            };
            let added = Manifest::parse(&text).map_err(|error| StoreError::Manifest { path, error })?;
            manifest = manifest.extended(added);
        }
        Ok(Store { manifest, directories })
    }

    /// The file of a model: right name and an accepted length, in the first folder that has it.
    pub fn locate(&self, model: &Model) -> Option<PathBuf> {
        let candidates =
            self.directories.iter().flat_map(|dir| model.files.iter().map(|file| dir.join(file)));
        candidates.into_iter().find(|path| {
            let metadata = std::fs::metadata(path);
            metadata.is_ok_and(|m| m.is_file() && (model.bytes.is_empty() || model.bytes.contains(&m.len())))
        })
    }

    /// Finds what a detector's `model` setting names: `auto` (the first face model present), a manifest name, or a
    /// path to a file the manifest knows by name or hash.
    pub fn spec(&self, wanted: &str, sizing: Sizing) -> Result<ModelSpec, StoreError> {
        if wanted == "auto" {
            let present = FACE_MODELS.iter().filter_map(|name| self.manifest.model(name));
            let present = present.into_iter().find_map(|model| Some((model, self.locate(model)?)));
            let (model, path) = present.ok_or_else(|| StoreError::AbsentAny {
                names: FACE_MODELS.join(", "),
                searched: self.searched(),
            })?;
            return self.spec_of(model, path, sizing);
        }
        if let Some(model) = self.manifest.model(wanted) {
            let path = self.locate(model).ok_or_else(|| self.absent(model.name.clone()))?;
            return self.spec_of(model, path, sizing);
        }
        let path = PathBuf::from(wanted);
        if !path.is_file() {
            return Err(StoreError::Unknown { name: wanted.to_owned() });
        }
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let model = match self.manifest.by_hash(&hash_file(&path)?) {
            Some(model) => model,
            None => self.manifest.by_file(&file).ok_or(StoreError::Unknown { name: wanted.to_owned() })?,
        };
        self.spec_of(model, path, sizing)
    }

    /// The file of the model `name`, whatever the network in it is for.
    pub fn file(&self, name: &str) -> Result<ModelFile, StoreError> {
        let model = self.manifest.model(name).ok_or_else(|| StoreError::Unknown { name: name.to_owned() })?;
        let path = self.locate(model).ok_or_else(|| self.absent(model.name.clone()))?;
        Ok(ModelFile { name: model.name.clone(), path, sha256: model.sha256.clone() })
    }

    /// The classes a detector's `model` setting stands for, whether its file is here or not; empty when unknown.
    pub fn labels(&self, wanted: &str) -> Vec<String> {
        let name = if wanted == "auto" { FACE_MODELS[0] } else { wanted };
        match self.manifest.model(name).map(|model| &model.labels) {
            Some(Labels::Inline(labels)) => labels.clone(),
            Some(Labels::File(_)) | None => {
                self.spec(wanted, Sizing::Live).map_or(Vec::new(), |spec| spec.labels)
            }
        }
    }

    fn searched(&self) -> String {
        let searched: Vec<String> = self.directories.iter().map(|dir| dir.display().to_string()).collect();
        searched.join(", ")
    }

    fn absent(&self, name: String) -> StoreError {
        StoreError::Absent { name, searched: self.searched() }
    }

    fn spec_of(&self, model: &Model, path: PathBuf, sizing: Sizing) -> Result<ModelSpec, StoreError> {
        let Some(contract) = model.contract.clone() else {
            return Err(StoreError::Undecodable { name: model.name.clone(), decode: model.decode.clone() });
        };
        let labels = match &model.labels {
            Labels::Inline(labels) => labels.clone(),
            Labels::File(file) => self.read_labels(file, &path)?,
        };
        Ok(ModelSpec {
            name: model.name.clone(),
            path,
            sha256: model.sha256.clone(),
            contract,
            labels,
            live: sizing == Sizing::Live,
        })
    }

    /// A label file lies beside the manifest that names it, which is beside the model file.
    fn read_labels(&self, file: &Path, model: &Path) -> Result<Vec<String>, StoreError> {
        let path = model.parent().unwrap_or(Path::new(".")).join(file);
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|error| StoreError::File { path, problem: error.to_string() })?;
        Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }
}

/// The SHA-256 of a file in lower-case hex.
pub fn hash_file(path: &Path) -> Result<String, StoreError> {
    let fail =
        |error: std::io::Error| StoreError::File { path: path.to_path_buf(), problem: error.to_string() };
    let mut file = std::fs::File::open(path).map_err(fail)?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).map_err(fail)?;
    Ok(hex(&hash.finalize()))
}

/// The SHA-256 of bytes in lower-case hex.
pub fn hash_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A digest as lower-case hex.
pub fn hex(digest: &[u8]) -> String {
    use std::fmt::Write;
    digest.iter().fold(String::with_capacity(digest.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads a model file whose SHA-256 is one of `accepted`; none given: any.
pub fn read_checked(path: &Path, accepted: &[String]) -> Result<Vec<u8>, StoreError> {
    let fail = |problem: String| StoreError::File { path: path.to_path_buf(), problem };
    let file = std::fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MAX_MODEL_BYTES).read_to_end(&mut bytes).map_err(|error| fail(error.to_string()))?;
    if !accepted.is_empty() {
        let found = hash_bytes(&bytes);
        if !accepted.contains(&found) {
            return Err(fail(format!(
                "SHA-256 {found} is not the one in the manifest; remove the file and run `eyeline models pull`"
            )));
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store_with(entry: &str, file: &str, content: &[u8]) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("models.toml"), entry).expect("written");
        std::fs::write(dir.path().join(file), content).expect("written");
        let store = Store::open(Some(dir.path())).expect("readable");
        (dir, store)
    }

    fn entry(content: &[u8]) -> String {
        format!(
            "[[model]]\nname='own'\nfile='own.onnx'\nsha256='{}'\nbytes={}\nrole='face'\ndecode='yunet'\n\
             input_size=[64,64]\nresize='stretch'\ncolor='RGB'\nscale=1.0\nconf=0.5\nnms=0.3\nclasses='labels.txt'\n\
             outputs=['a','b','c','d','e','f','g','h','i']",
            hash_bytes(content),
            content.len()
        )
    }

    #[test]
    fn a_model_is_found_by_name_or_path_with_the_labels_beside_it() {
        let (dir, store) = store_with(&entry(b"weights"), "own.onnx", b"weights");
        std::fs::write(dir.path().join("labels.txt"), "face\n\n").expect("written");
        let spec = store.spec("own", Sizing::Live).expect("present");
        assert_eq!((spec.labels, spec.live), (vec!["face".to_owned()], true));
        std::fs::copy(dir.path().join("own.onnx"), dir.path().join("renamed")).expect("copied");
        let renamed = dir.path().join("renamed");
        let by_path = store.spec(&renamed.to_string_lossy(), Sizing::Reference).expect("known by its hash");
        assert_eq!((by_path.name.as_str(), by_path.path), ("own", renamed));
    }

    #[test]
    fn what_is_missing_says_which_command_brings_it() {
        let (dir, store) = store_with(&entry(b"weights"), "own.onnx", b"cut");
        let text = |name: &str| store.spec(name, Sizing::Live).expect_err("not there").to_string();
        assert!(text("own").contains("models pull own"), "a file of the wrong length does not count");
        assert!(text("auto").contains("run `eyeline models pull`"));
        assert!(text("yolo-from-outer-space").contains("models list"));
        assert!(text("silero-vad").contains("models pull"));
        drop(dir);
    }

    #[test]
    fn a_file_with_another_hash_is_not_read() {
        let (dir, _) = store_with(&entry(b"weights"), "own.onnx", b"WEIGHTS");
        let path = dir.path().join("own.onnx");
        let error = read_checked(&path, &[hash_bytes(b"weights")]).expect_err("another file");
        assert!(error.to_string().contains("SHA-256"), "{error}");
        assert_eq!(read_checked(&path, &[hash_bytes(b"WEIGHTS")]).expect("the right one"), b"WEIGHTS");
    }
}
