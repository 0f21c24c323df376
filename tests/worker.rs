//! The inference child as calls see it: right boxes, kept deadlines, and what happens when it dies or hangs.
//!
//! Needs ONNX Runtime beside the binary (`make setup`). The network is made here: it finds white squares.

#![expect(clippy::disallowed_methods, reason = "tests wait for another process")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use eyeline::base::time::Pts;
use eyeline::inference::family::Family;
use eyeline::inference::manifest::{Colour, Contract, Fit, ModelSpec};
use eyeline::media::codec::{DetectError, Detection, Detector};
use eyeline::media::frame::{Frame, Plane, Size};
use eyeline::media::pool::FramePool;
use eyeline::worker::client::{ModelState, Worker, WorkerError, WorkerSettings};
use rustix::process::{Pid, Signal};

/// Just enough protobuf to write an ONNX file.
mod protobuf {
    pub fn message(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        fill(&mut out);
        out
    }

    pub fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
        varint(out, field << 3 | 2);
        varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }

    pub fn number(out: &mut Vec<u8>, field: u64, value: u64) {
        varint(out, field << 3);
        varint(out, value);
    }

    fn varint(out: &mut Vec<u8>, mut value: u64) {
        while value >= 0x80 {
            out.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
}

/// An ONNX file in the form CenterFace has: the heat map is the mean brightness of 4x4 pixels, boxes are 4x4.
fn white_square_finder() -> Vec<u8> {
    use protobuf::{bytes, message, number};
    let integers = |name: &str, values: &[u64]| {
        message(|out| {
            bytes(out, 1, name.as_bytes());
            values.iter().for_each(|value| number(out, 8, *value));
            number(out, 20, 7);
        })
    };
    let node = |kind: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]| {
        message(|out| {
            inputs.iter().for_each(|input| bytes(out, 1, input.as_bytes()));
            bytes(out, 2, output.as_bytes());
            bytes(out, 4, kind.as_bytes());
            attributes.iter().for_each(|attribute| bytes(out, 5, attribute));
        })
    };
    let weights = |name: &str, channels: u64, value: f32| {
        message(|out| {
            [channels, 3, 1, 1].iter().for_each(|size| number(out, 1, *size));
            number(out, 2, 1);
            bytes(out, 8, name.as_bytes());
            bytes(out, 9, &value.to_le_bytes().repeat(channels as usize * 3));
        })
    };
    let value = |name: &str, dimensions: &[u64]| {
        let shape = message(|out| {
            dimensions.iter().for_each(|size| bytes(out, 1, &message(|out| number(out, 1, *size))));
        });
        let tensor = message(|out| {
            number(out, 1, 1);
            bytes(out, 2, &shape);
        });
        message(|out| {
            bytes(out, 1, name.as_bytes());
            bytes(out, 2, &message(|out| bytes(out, 1, &tensor)));
        })
    };
    let pool = [integers("kernel_shape", &[4, 4]), integers("strides", &[4, 4])];
    let graph = message(|out| {
        bytes(out, 1, &node("AveragePool", &["x"], "mean", &pool));
        bytes(out, 1, &node("Conv", &["mean", "bright"], "heat", &[]));
        bytes(out, 1, &node("Conv", &["mean", "none"], "scale", &[]));
        bytes(out, 1, &node("Conv", &["mean", "none"], "offset", &[]));
        bytes(out, 2, b"white");
        bytes(out, 5, &weights("bright", 1, 1.0 / 765.0));
        bytes(out, 5, &weights("none", 2, 0.0));
        bytes(out, 11, &value("x", &[10, 3, 32, 32]));
        bytes(out, 12, &value("heat", &[10, 1, 8, 8]));
        bytes(out, 12, &value("scale", &[10, 2, 8, 8]));
        bytes(out, 12, &value("offset", &[10, 2, 8, 8]));
    });
    message(|out| {
        number(out, 1, 4);
        bytes(out, 7, &graph);
        bytes(out, 8, &message(|out| number(out, 2, 11)));
    })
}

fn spec(folder: &Path) -> ModelSpec {
    let path = folder.join("white.onnx");
    std::fs::write(&path, white_square_finder()).expect("written");
    let contract = Contract {
        family: Family::Centerface,
        input: "x".to_owned(),
        outputs: ["heat", "scale", "offset"].map(str::to_owned).to_vec(),
        width: 64,
        height: 64,
        live_edge: Some(640),
        fit: Fit::Stretch,
        pad: 0,
        colour: Colour::Rgb,
        mean: [0.0; 3],
        scale: 1.0,
        confidence: 0.5,
        iou: 0.3,
    };
    let labels = vec!["square".to_owned()];
    ModelSpec { name: "white".to_owned(), path, sha256: Vec::new(), contract, labels, live: true }
}

struct Bench {
    worker: Worker,
    spec: ModelSpec,
    _folder: tempfile::TempDir,
}

fn settings() -> WorkerSettings {
    WorkerSettings { executable: PathBuf::from(env!("CARGO_BIN_EXE_eyeline")), ..WorkerSettings::default() }
}

fn bench(settings: WorkerSettings) -> Bench {
    let folder = tempfile::tempdir().expect("a folder");
    let spec = spec(folder.path());
    Bench { worker: Worker::start(settings).expect("the child starts"), spec, _folder: folder }
}

impl Bench {
    fn detector(&self) -> Box<dyn Detector> {
        let model = self.worker.load(self.spec.clone()).expect("the model loads");
        let options = model.options();
        self.worker.detector(vec![(model, options)])
    }

    fn child(&self) -> Pid {
        let pid = self.worker.status().pid.expect("a running child");
        Pid::from_raw(pid as i32).expect("not 0")
    }

    fn until(&self, what: &str, done: impl Fn(&Worker) -> bool) {
        let limit = Instant::now() + Duration::from_secs(20);
        while !done(&self.worker) {
            assert!(Instant::now() < limit, "never: {what}: {:?}", self.worker.status());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn until_ready_again(&self) {
        self.until("ready again", |worker| {
            let status = worker.status();
            status.alive && status.restarts > 0 && status.models.iter().all(|m| m.state == ModelState::Ready)
        });
    }
}

fn picture(size: Size, squares: &[(usize, usize)]) -> Frame {
    let mut picture = FramePool::new(1).take_sized(size, Pts::ZERO).expect("room");
    picture.plane_mut(Plane::Y).fill(16);
    picture.plane_mut(Plane::U).fill(128);
    picture.plane_mut(Plane::V).fill(128);
    for (x, y) in squares {
        for row in *y..y + 4 {
            picture.plane_mut(Plane::Y)[row * size.width + x..row * size.width + x + 4].fill(235);
        }
    }
    picture.freeze()
}

const SMALL: Size = Size::new(64, 64);

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn corners(found: &[Detection]) -> Vec<(usize, usize)> {
    let mut corners: Vec<_> = found.iter().map(|f| (f.rect.x1 as usize, f.rect.y1 as usize)).collect();
    corners.sort_unstable();
    corners
}

#[test]
fn squares_are_found_where_they_are_in_pictures_of_any_size() {
    let bench = bench(settings());
    let mut detector = bench.detector();
    let found = detector.detect(&picture(SMALL, &[(8, 16), (40, 4)]), soon()).expect("an answer");
    assert_eq!(corners(&found), [(8, 16), (40, 4)]);
    assert_eq!(&*found[0].class, "square");
    assert_eq!((found[0].rect.width(), found[0].rect.height()), (4.0, 4.0));
    let large = Size::new(640, 384);
    let found = detector.detect(&picture(large, &[(600, 300)]), soon()).expect("an answer");
    assert_eq!(corners(&found), [(600, 300)]);
    let found = detector.detect(&picture(SMALL, &[]), soon()).expect("an answer");
    assert!(found.is_empty());
    let status = bench.worker.status();
    assert_eq!((status.models[0].count, status.late, status.restarts), (3, 0, 0));
    assert!(status.models[0].mean_ms > 0.0 && status.models[0].last_ms > 0.0);
}

#[test]
fn calls_at_the_same_time_each_get_the_boxes_of_their_own_picture() {
    let bench = bench(settings());
    let model = bench.worker.load(bench.spec.clone()).expect("the model loads");
    std::thread::scope(|scope| {
        for call in 0..4 {
            let models = vec![(model.clone(), model.options())];
            let worker = &bench.worker;
            scope.spawn(move || {
                let mut detector =
                    if call % 2 == 0 { worker.detector(models) } else { worker.observer(models) };
                for turn in 0..25 {
                    let corner = (call * 12, turn * 2 / 4 * 4);
                    let found = detector.detect(&picture(SMALL, &[corner]), soon()).expect("an answer");
                    assert_eq!(corners(&found), [corner]);
                }
            });
        }
    });
    assert_eq!(bench.worker.status().models[0].count, 100);
    assert_eq!(bench.worker.status().detectors, 0);
}

#[test]
fn a_late_answer_is_no_answer_and_never_the_answer_to_the_next_picture() {
    let bench = bench(settings());
    let mut detector = bench.detector();
    detector.detect(&picture(SMALL, &[]), soon()).expect("an answer");
    for turn in 0..5 {
        rustix::process::kill_process(bench.child(), Signal::STOP).expect("stopped");
        let deadline = Instant::now() + Duration::from_millis(30);
        let late = detector.detect(&picture(SMALL, &[(4, 4)]), deadline);
        assert_eq!(late, Err(DetectError::Late), "turn {turn}");
        // Not answered yet: its memory is not to be touched, so this one is late as well.
        let deadline = Instant::now() + Duration::from_millis(30);
        assert_eq!(detector.detect(&picture(SMALL, &[(8, 8)]), deadline), Err(DetectError::Late));
        rustix::process::kill_process(bench.child(), Signal::CONT).expect("continued");
        let found = detector.detect(&picture(SMALL, &[(20, 20)]), soon()).expect("an answer");
        assert_eq!(corners(&found), [(20, 20)], "turn {turn}");
    }
    let status = bench.worker.status();
    assert_eq!((status.late, status.restarts), (10, 0));
}

#[test]
fn a_killed_child_is_replaced_with_its_models_and_detectors_say_down_meanwhile() {
    let bench = bench(settings());
    let mut detector = bench.detector();
    detector.detect(&picture(SMALL, &[]), soon()).expect("an answer");
    rustix::process::kill_process(bench.child(), Signal::KILL).expect("killed");
    let answer = detector.detect(&picture(SMALL, &[(12, 12)]), soon());
    assert!(matches!(answer, Err(DetectError::Down(_))), "{answer:?}");
    bench.until_ready_again();
    let found = detector.detect(&picture(SMALL, &[(12, 12)]), soon()).expect("an answer");
    assert_eq!(corners(&found), [(12, 12)]);
    let status = bench.worker.status();
    assert_eq!(status.restarts, 1);
    assert!(status.last_error.is_some_and(|why| why.contains("signal: 9") || why.contains("ended")));
}

#[test]
fn a_child_that_hangs_is_killed_and_replaced() {
    let bench = bench(WorkerSettings { stall: Duration::from_secs(1), ..settings() });
    let mut detector = bench.detector();
    detector.detect(&picture(SMALL, &[]), soon()).expect("an answer");
    let hung = bench.child();
    rustix::process::kill_process(hung, Signal::STOP).expect("stopped");
    // The caller waits for its deadline at most, or learns sooner that the child was given up.
    let answer = detector.detect(&picture(SMALL, &[(4, 4)]), soon());
    assert!(matches!(answer, Err(DetectError::Down(_))), "{answer:?}");
    bench.until_ready_again();
    assert_ne!(bench.child(), hung);
    let found = detector.detect(&picture(SMALL, &[(4, 4)]), soon()).expect("an answer");
    assert_eq!(corners(&found), [(4, 4)]);
}

#[test]
fn what_is_missing_is_said_when_a_model_is_loaded() {
    let no_library =
        bench(WorkerSettings { onnxruntime: Some("/nowhere/libonnxruntime.so".into()), ..settings() });
    let error = no_library.worker.load(no_library.spec.clone()).expect_err("no library").to_string();
    assert!(error.contains("/nowhere/libonnxruntime.so") && error.contains("make setup"), "{error}");

    let bench = bench(settings());
    let load = |change: &dyn Fn(&mut ModelSpec)| {
        let mut spec = bench.spec.clone();
        change(&mut spec);
        bench.worker.load(spec).expect_err("cannot be loaded").to_string()
    };
    assert!(load(&|spec| spec.sha256 = vec!["00".repeat(32)]).contains("SHA-256"));
    assert!(load(&|spec| spec.path = "/nowhere/model.onnx".into()).contains("/nowhere/model.onnx"));
    assert!(load(&|spec| spec.contract.outputs[2] = "unknown".to_owned()).contains("manifest"));
    assert!(bench.worker.load(bench.spec.clone()).is_ok(), "the child lives on");
    assert_eq!(bench.worker.status().restarts, 0);

    let nothing = WorkerSettings { executable: "/nowhere/eyeline".into(), ..settings() };
    assert!(
        matches!(Worker::start(nothing), Err(WorkerError::Start(why)) if why.contains("/nowhere/eyeline"))
    );
}

#[test]
fn a_detector_without_models_never_says_that_nothing_is_there() {
    let bench = bench(settings());
    let mut detector = bench.worker.detector(Vec::new());
    assert!(matches!(detector.detect(&picture(SMALL, &[]), soon()), Err(DetectError::Down(_))));
    let model = bench.worker.load(bench.spec.clone()).expect("the model loads");
    let mut options = model.options();
    options.classes = vec!["circle".to_owned()];
    let mut circles = bench.worker.detector(vec![(model, options)]);
    assert_eq!(circles.detect(&picture(SMALL, &[(4, 4)]), soon()), Ok(Vec::new()));
}

#[test]
fn the_child_ends_with_the_last_holder_of_the_worker() {
    let bench = bench(settings());
    let detector = bench.detector();
    let child = bench.child();
    drop(bench);
    assert!(rustix::process::test_kill_process(child).is_ok(), "the detector still holds it");
    drop(detector);
    gone(child);
}

/// Waits until a process has ended; one that nobody has waited for yet counts as ended.
fn gone(process: Pid) {
    let limit = Instant::now() + Duration::from_secs(10);
    let stat = format!("/proc/{}/stat", process.as_raw_nonzero());
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < limit, "process {process:?} is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Not a test of its own: the program that the next test kills.
#[test]
fn a_program_with_a_worker() {
    if std::env::var_os("EYELINE_TEST_HOLD").is_none() {
        return;
    }
    let bench = bench(settings());
    println!("child={}", bench.worker.status().pid.expect("a running child"));
    std::thread::sleep(Duration::from_secs(30));
}

#[test]
fn the_child_dies_with_a_killed_program_even_when_it_hangs() {
    let mut program = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "a_program_with_a_worker", "--nocapture"])
        .env("EYELINE_TEST_HOLD", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("started");
    let lines = std::io::BufReader::new(program.stdout.take().expect("piped"));
    let mut lines = std::io::BufRead::lines(lines).map(|line| line.expect("text"));
    let child = lines.find_map(|line| line.split("child=").nth(1)?.trim().parse().ok()).expect("its number");
    let child = Pid::from_raw(child).expect("not 0");
    // A stopped process cannot notice that its socket closes.
    std::thread::sleep(Duration::from_millis(200));
    rustix::process::kill_process(child, Signal::STOP).expect("stopped");
    program.kill().expect("killed");
    program.wait().expect("gone");
    gone(child);
}

#[cfg(feature = "faults")]
mod faults {
    use super::*;
    use eyeline::media::filter::{BlackSlate, Gate};
    use eyeline::media::frame::{CleanFrame, RawFrame};
    use eyeline::vision::censor::{Censor, CensorSettings};
    use eyeline::vision::mask::Style;
    use eyeline::vision::schedule::Schedule;
    use eyeline::worker::Fault;

    #[test]
    fn injected_faults_are_errors_and_pass() {
        let bench = bench(WorkerSettings { stall: Duration::from_secs(1), ..settings() });
        let mut detector = bench.detector();
        let mut look =
            |ms| detector.detect(&picture(SMALL, &[(4, 4)]), Instant::now() + Duration::from_millis(ms));
        assert!(look(10_000).is_ok());
        bench.worker.inject(Fault::FailAnswers(1));
        assert!(matches!(look(10_000), Err(DetectError::Failed(_))));
        assert!(look(10_000).is_ok());
        bench.worker.inject(Fault::Stall { ms: 100 });
        assert_eq!(look(30), Err(DetectError::Late));
        assert!(look(10_000).is_ok());
        // An answer that never comes costs the child its place, not the detector.
        bench.worker.inject(Fault::DropAnswers(1));
        assert_eq!(look(30), Err(DetectError::Late));
        bench.until_ready_again();
        assert!(look(10_000).is_ok());
        bench.worker.inject(Fault::Kill);
        bench.until("it is killed", |worker| worker.status().restarts > 1);
        bench.until_ready_again();
        assert!(look(10_000).is_ok());
    }

    #[test]
    fn a_plan_of_faults_never_lets_a_wrong_answer_through() {
        let plan = ("EYELINE_FAULTS".to_owned(), "fail:3,stall:7:60,kill:40".to_owned());
        let bench = bench(WorkerSettings { environment: vec![plan], ..settings() });
        let mut detector = bench.detector();
        let mut answers = 0;
        let mut turn = 0;
        let limit = soon() + Duration::from_secs(50);
        while answers < 60 {
            assert!(Instant::now() < limit, "{answers} answers, {:?}", bench.worker.status());
            turn += 1;
            let corner = (turn % 15 * 4, turn / 15 % 15 * 4);
            match detector.detect(&picture(SMALL, &[corner]), Instant::now() + Duration::from_millis(50)) {
                Ok(found) => {
                    assert_eq!(corners(&found), [corner], "turn {turn}");
                    answers += 1;
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        assert!(bench.worker.status().restarts > 0);
    }

    /// A red tint that occurs only in the square; the censor leaves none of it.
    const MARKER: u8 = 210;

    fn marked(pool: &FramePool, number: usize) -> RawFrame {
        let mut picture = pool.take_sized(SMALL, Pts::from_millis(number as i64)).expect("room");
        picture.plane_mut(Plane::Y).fill(16);
        picture.plane_mut(Plane::U).fill(128);
        picture.plane_mut(Plane::V).fill(128);
        let (x, y) = (number % 15 * 4, number / 15 % 15 * 4);
        for row in y..y + 4 {
            picture.plane_mut(Plane::Y)[row * SMALL.width + x..][..4].fill(235);
        }
        for row in y / 2..y / 2 + 2 {
            picture.plane_mut(Plane::V)[row * SMALL.width / 2 + x / 2..][..2].fill(MARKER);
        }
        RawFrame::new(picture.freeze())
    }

    fn leaks(picture: &CleanFrame) -> bool {
        let (luma, red) = (picture.frame().plane(Plane::Y), picture.frame().plane(Plane::V));
        luma.iter().any(|luma| *luma > 100) || red.iter().any(|red| red.abs_diff(MARKER) < 40)
    }

    fn censor(bench: &Bench, style: Style) -> Gate {
        let settings = CensorSettings { targets: vec!["square".to_owned()], style, ..Default::default() };
        // Unpaced: a picture comes as soon as the one before has left.
        let schedule = Schedule { deadline: Duration::from_millis(5), ..Schedule::default() };
        Gate::filtering(
            vec![Box::new(Censor::new(settings, bench.detector(), schedule))],
            Box::new(BlackSlate),
        )
    }

    #[test]
    fn no_marker_passes_the_gate_whatever_happens_to_the_child() {
        let pool = FramePool::new(2);
        let raw = Gate::open().release(Instant::now(), marked(&pool, 7), &pool).expect("room");
        assert!(leaks(&raw), "the judge sees an uncensored marker");
        drop(raw);
        let environment = vec![("EYELINE_FAULTS".to_owned(), "fail:7,stall:90:8,kill:6001".to_owned())];
        let bench = bench(WorkerSettings { environment, stall: Duration::from_millis(500), ..settings() });
        let mut gate = censor(&bench, Style::Black);
        let mut harder = [
            (2_000, Fault::Stall { ms: 1_000 }),
            (5_000, Fault::DropAnswers(1)),
            (7_000, Fault::FailAnswers(50)),
            (15_000, Fault::Stall { ms: 30 }),
        ]
        .into_iter()
        .peekable();
        let start = Instant::now();
        let (mut number, mut leaked) = (0, 0);
        // While the child is down pictures are withheld without a wait; they must not make up the number.
        while gate.counters().passed < 20_000 {
            if let Some((_, fault)) = harder.next_if(|(passed, _)| gate.counters().passed >= *passed) {
                bench.worker.inject(fault);
            }
            let picture = gate.release(Instant::now(), marked(&pool, number), &pool).expect("room");
            leaked += usize::from(leaks(&picture));
            number += 1;
            assert!(start.elapsed() < Duration::from_secs(60), "{number}: {:?}", bench.worker.status());
        }
        let status = bench.worker.status();
        println!("{number} pictures, {:?}, {status:?}, {:?}", gate.counters(), start.elapsed());
        assert_eq!(leaked, 0, "of {number} pictures");
        assert!(status.restarts >= 3 && status.late > 50 && gate.counters().withheld > 2_000, "{status:?}");
    }
}
