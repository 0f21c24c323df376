//! The detectors against reference results on photographs.
//!
//! Runs where the hand-over folder lies beside the repository (`../shared/models`, `../shared/images`) and ONNX
//! Runtime has been set up; elsewhere there is nothing to compare with and the tests say so.
//!
//! The criterion: per image and model, greedy by reference score, a match has the same class, IoU >= 0.90 and a score
//! within 0.05; every required reference box is matched, and no unmatched box scores conf + 0.05 or more.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use eyeline::inference::family::{Found, Limits};
use eyeline::inference::manifest::ModelSpec;
use eyeline::inference::session::{Network, Runtime};
use eyeline::inference::store::{Sizing, Store};
use eyeline::inference::tensor::Picture;
use eyeline::media::codec::Rect;
use eyeline::media::frame::Size;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shared() -> Option<PathBuf> {
    let folder = root().join("../shared");
    let found = folder.join("images/expected.json").is_file();
    if !found {
        eprintln!("skipped: no reference results at {}", folder.display());
    }
    found.then_some(folder)
}

/// `make setup` puts the library beside the binaries; test binaries lie one folder deeper.
fn runtime() -> Option<&'static Runtime> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let start = || {
        let executable = std::env::current_exe().expect("a path");
        let library = executable.ancestors().nth(2).expect("target/debug").join("libonnxruntime.so");
        let found = Runtime::start(library.is_file().then_some(library.as_path()));
        found.inspect_err(|error| eprintln!("skipped: {error}")).ok()
    };
    RUNTIME.get_or_init(start).as_ref()
}

fn decode(path: &Path, format: &str) -> Vec<u8> {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-i"]).arg(path).args(["-f", "rawvideo", "-pix_fmt", format, "-"]);
    let output = ffmpeg.output().expect("ffmpeg runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[derive(Default, Debug)]
struct Agreement {
    required: usize,
    matched: usize,
    extra: usize,
    notes: Vec<String>,
}

fn compare(reference: &[Value], found: &[Found], labels: &[String], floor: f64, agreement: &mut Agreement) {
    let mut left: Vec<&Found> = found.iter().collect();
    let mut reference: Vec<&Value> = reference.iter().collect();
    let score = |value: &Value| value["score"].as_f64().expect("a score");
    reference.sort_by(|a, b| score(b).total_cmp(&score(a)));
    for wanted in reference {
        let side = |i: usize| wanted["box"][i].as_f64().expect("a side") as f32;
        let rect = Rect { x1: side(0), y1: side(1), x2: side(2), y2: side(3) };
        let same = |f: &&Found| labels[usize::from(f.class)] == wanted["cls"].as_str().expect("a class");
        let best = (0..left.len()).filter(|i| same(&left[*i]));
        let best = best.max_by(|a, b| left[*a].rect.iou(&rect).total_cmp(&left[*b].rect.iou(&rect)));
        let best = best.filter(|i| {
            left[*i].rect.iou(&rect) >= 0.90 && (f64::from(left[*i].score) - score(wanted)).abs() <= 0.05
        });
        let required = wanted["required"] == true;
        agreement.required += usize::from(required);
        match best {
            Some(index) => {
                agreement.matched += usize::from(required);
                left.remove(index);
            }
            None if required => agreement.notes.push(format!("missing {wanted}")),
            None => {}
        }
    }
    for extra in left.iter().filter(|f| f64::from(f.score) >= floor) {
        agreement.extra += 1;
        agreement.notes.push(format!("extra {extra:?}"));
    }
}

fn agreement(spec: &ModelSpec, format: &str) -> Option<Agreement> {
    // One session at a time: the test machine is small.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let images = shared()?.join("images");
    let mut network = Network::load(runtime()?, spec).expect("the model loads");
    let expected = std::fs::read_to_string(images.join("expected.json")).expect("readable");
    let expected: Value = serde_json::from_str(&expected).expect("JSON");
    let limits = Limits { confidence: spec.contract.confidence, iou: spec.contract.iou, classes: &[] };
    let floor = expected["conf"][&spec.name].as_f64().expect("a limit") + 0.05;
    let mut total = Agreement::default();
    let mut found = Vec::new();
    for (image, entry) in expected["images"].as_object().expect("images") {
        let Some(reference) = entry["detections"][&spec.name].as_array() else { continue };
        let side = |key: &str| entry[key].as_u64().expect("a size") as usize;
        let size = Size::new(side("width"), side("height"));
        let bytes = decode(&images.join(image), format);
        let picture = match format {
            "rgb24" => Picture::Rgb8 { size, bytes: &bytes },
            _ => Picture::I420 { size, bytes: &bytes },
        };
        network.detect(&picture, &limits, &mut found).expect("an answer");
        compare(reference, &found, &spec.labels, floor, &mut total);
    }
    assert!(total.required > 0, "nothing was compared");
    eprintln!("{} {format}: {} of {}, {} extra", spec.name, total.matched, total.required, total.extra);
    Some(total)
}

fn spec(name: &str) -> Option<ModelSpec> {
    let store = Store::open(Some(&shared()?.join("models"))).expect("the hand-over manifest is readable");
    Some(store.spec(name, Sizing::Reference).expect("handed over"))
}

fn agrees_fully(name: &str) {
    let Some(total) = spec(name).and_then(|spec| agreement(&spec, "rgb24")) else { return };
    assert!(total.matched == total.required && total.extra == 0, "{name}: {total:#?}");
}

#[test]
fn yolox_finds_what_the_reference_finds() {
    agrees_fully("yolox-nano");
}

#[test]
fn yunet_of_fixed_size_finds_what_the_reference_finds() {
    agrees_fully("yunet-640");
}

#[test]
fn yunet_of_free_size_finds_what_the_reference_finds() {
    agrees_fully("yunet-dyn");
}

#[test]
fn centerface_finds_what_the_reference_finds() {
    agrees_fully("centerface");
}

/// The published file declares 10x3x32x32; freed on loading it must answer like the file freed beforehand.
#[test]
fn centerface_as_published_finds_what_the_reference_finds() {
    let store = Store::open(Some(&root().join("models"))).expect("readable");
    let Ok(published) = store.spec("centerface", Sizing::Reference) else {
        eprintln!("skipped: centerface is not in ./models");
        return;
    };
    let Some(total) = agreement(&published, "rgb24") else { return };
    assert!(total.matched == total.required && total.extra == 0, "{total:#?}");
}

/// In calls its tensor follows the picture, 320 pixels at most.
#[test]
fn centerface_at_the_size_of_calls_finds_the_large_faces() {
    let Some(spec) = spec("centerface") else { return };
    let Some(runtime) = runtime() else { return };
    let Some(images) = shared().map(|shared| shared.join("images")) else { return };
    let mut network = Network::load(runtime, &ModelSpec { live: true, ..spec }).expect("the model loads");
    let bytes = decode(&images.join("astronaut.png"), "yuv420p");
    let picture = Picture::I420 { size: Size::new(512, 512), bytes: &bytes };
    let limits = Limits { confidence: 0.4, iou: 0.3, classes: &[] };
    let mut found = Vec::new();
    network.detect(&picture, &limits, &mut found).expect("an answer");
    // YuNet's box: the reference of CenterFace itself is of a picture stretched to another aspect ratio.
    let face = Rect { x1: 177.7, y1: 61.8, x2: 271.6, y2: 176.1 };
    assert!(found.len() == 1 && found[0].rect.iou(&face) > 0.8, "{found:?}");
}

/// Video is I420, whose chroma has half the resolution: nearly the same boxes.
#[test]
fn i420_pictures_give_nearly_the_same_boxes() {
    for name in ["yunet-dyn", "yolox-nano"] {
        let Some(total) = spec(name).and_then(|spec| agreement(&spec, "yuv420p")) else { return };
        let share = total.matched as f64 / total.required as f64;
        assert!(share >= 0.95 && total.extra <= 1, "{name}: {share:.3} {total:#?}");
    }
}
