//! Recordings as a user finds them: both voices on their side, pictures in step, whole after a crash, honest when
//! the disk is full.

#![allow(clippy::disallowed_methods, reason = "tests may read clocks and spawn")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use eyeline::base::queue::{Fifo, Gop, Latest, Sender, queue};
use eyeline::base::time::Pts;
use eyeline::codec::h264::encoder::{EncoderKind, EncoderSettings, open};
use eyeline::media::access_unit::AccessUnit;
use eyeline::media::audio::{Pcm, block_samples};
use eyeline::media::filter::Gate;
use eyeline::media::frame::Size;
use eyeline::media::pool::FramePool;
use eyeline::record::pauses::Pauses;
use eyeline::record::recorder::{
    PictureInput, RecordAudio, RecordVideo, RecorderInputs, RecorderReport, RecorderSettings, SoundLayout,
    run,
};
use eyeline::source::clip::{Clip, ClipItem, ClipSettings};
use eyeline::source::test_picture::{TestCard, read_marker};
use eyeline::source::tone;
use ffmpeg_next as ffmpeg;

const SIZE: Size = Size::new(320, 180);
const FPS: u32 = 15;
const CALLER_HZ: f64 = 440.0;
const AGENT_HZ: f64 = 1000.0;

fn at(number: u32) -> Pts {
    Pts::from_millis(i64::from(number) * 1000 / i64::from(FPS))
}

fn settings(path: &Path) -> RecorderSettings {
    RecorderSettings {
        path: path.to_owned(),
        epoch: Instant::now(),
        origin: Pts::ZERO,
        video: Some(RecordVideo {
            size: SIZE,
            fps: FPS,
            kbps: 500,
            encoder: EncoderKind::X264,
            expected: true,
        }),
        audio: Some(RecordAudio { rate: 16_000, layout: SoundLayout::Stereo }),
        pauses: Pauses::default(),
    }
}

/// One second of one voice from `second` on, in blocks.
fn speak(to: &Sender<Pcm, Fifo>, rate: u32, hz: f64, second: u32) {
    for (block, samples) in tone::sine(rate, hz, 1000, 0.4).chunks(block_samples(rate)).enumerate() {
        let pts = Pts::from_millis(i64::from(second) * 1000 + 20 * block as i64);
        to.offer(Pcm { rate, pts, samples: samples.into() });
    }
}

/// Records `seconds` of test pictures and two tones, faster than they would happen.
fn record(settings: RecorderSettings, seconds: u32) -> RecorderReport {
    let (pictures, from_pictures) = queue(Latest);
    let (caller, from_caller) = queue(Fifo { depth: 4_000 });
    let (agent, from_agent) = queue(Fifo { depth: 4_000 });
    for second in 0..seconds {
        speak(&caller, 8_000, CALLER_HZ, second);
        speak(&agent, 16_000, AGENT_HZ, second);
    }
    let painter = std::thread::spawn(move || {
        let (pool, card) = (FramePool::new(4), TestCard::new(SIZE, 5));
        for number in 0..seconds * FPS {
            pictures.offer(card.draw(number, at(number), &pool).expect("room"));
            // The queue keeps only the newest: the next one waits until this one has been encoded.
            let patience = Instant::now();
            while pool.in_use() > 0 && patience.elapsed() < Duration::from_secs(2) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        drop((caller, agent));
    });
    let inputs = RecorderInputs {
        pictures: Some(PictureInput::Pictures(from_pictures)),
        caller: Some(from_caller),
        agent: Some(from_agent),
    };
    let report = run(settings, inputs);
    painter.join().expect("the painter ends");
    report
}

struct Contents {
    /// Seconds of each packet, per track in file order of the tracks.
    pictures: Vec<f64>,
    left: Vec<f32>,
    right: Vec<f32>,
    rate: u32,
    /// Packets of sound that do not decode.
    broken: usize,
}

/// Reads a whole file with FFmpeg. `None`: it cannot even be opened.
fn read(path: &Path) -> Option<Contents> {
    ffmpeg::init().expect("FFmpeg");
    let mut input = ffmpeg::format::input(path).ok()?;
    let sound = input.streams().best(ffmpeg::media::Type::Audio)?;
    let (sound_at, parameters) = (sound.index(), sound.parameters());
    let mut decoder =
        ffmpeg::codec::context::Context::from_parameters(parameters).ok()?.decoder().audio().ok()?;
    let mut contents = Contents {
        pictures: Vec::new(),
        left: Vec::new(),
        right: Vec::new(),
        rate: decoder.rate(),
        broken: 0,
    };
    let packets: Vec<_> = input
        .packets()
        .map(|(stream, packet)| (stream.index(), f64::from(stream.time_base()), packet))
        .collect();
    let mut frame = ffmpeg::frame::Audio::empty();
    for (index, tick, packet) in packets {
        let seconds = packet.pts().expect("a time") as f64 * tick;
        if index != sound_at {
            contents.pictures.push(seconds);
            continue;
        }
        contents.broken += usize::from(decoder.send_packet(&packet).is_err());
        while decoder.receive_frame(&mut frame).is_ok() {
            contents.left.extend_from_slice(frame.plane::<f32>(0));
            contents.right.extend_from_slice(frame.plane::<f32>(if frame.planes() > 1 { 1 } else { 0 }));
        }
    }
    Some(contents)
}

fn share(samples: &[f32], rate: u32, hz: f64) -> f64 {
    let samples: Vec<i16> = samples.iter().map(|s| (s * 32_000.0) as i16).collect();
    tone::share(&samples, rate, hz)
}

fn clip(path: &Path) -> Clip {
    let settings =
        ClipSettings { path: path.to_owned(), max: Size::new(1280, 720), rate: 8_000, repeat: false };
    Clip::open(settings).expect("a recording plays")
}

/// Times and frame numbers of a file's pictures.
fn pictures_of(path: &Path) -> Vec<(i64, u16)> {
    let (pool, mut clip, mut found) = (FramePool::new(40), clip(path), Vec::new());
    while let Some(item) = clip.next(&pool).expect("readable") {
        if let ClipItem::Picture(raw) = item {
            let picture = Gate::open().release(Instant::now(), raw, &pool).expect("an open gate");
            let marker = read_marker(picture.frame()).expect("a test picture");
            assert_eq!(marker.source, 5);
            found.push((picture.pts().millis(), marker.number));
        }
    }
    found
}

#[test]
fn five_seconds_keep_both_voices_apart_and_the_pictures_in_step() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("call.mp4");
    let report = record(settings(&path), 5);
    println!("{report:?}");
    assert_eq!((report.error.as_deref(), report.paths.as_slice()), (None, &[path.clone()][..]));
    assert_eq!((report.audio_blocks, report.audio_gaps, report.late_blocks), (500, 0, 0));
    assert_eq!(report.pictures + report.lost_pictures, 75);
    assert!(report.pictures > 60, "{}", report.pictures);
    assert!((4.9..5.3).contains(&report.duration.as_secs_f64()), "{:?}", report.duration);

    let contents = read(&path).expect("readable");
    assert_eq!((contents.pictures.len() as u64, contents.broken), (report.pictures, 0));
    let seconds = contents.left.len() as f64 / f64::from(contents.rate);
    assert!((4.9..5.2).contains(&seconds), "{seconds}");
    let (from, to) = (contents.rate as usize, 4 * contents.rate as usize);
    for (side, own, other) in [(&contents.left, CALLER_HZ, AGENT_HZ), (&contents.right, AGENT_HZ, CALLER_HZ)]
    {
        assert!(share(&side[from..to], contents.rate, own) > 0.9, "{own}");
        assert!(share(&side[from..to], contents.rate, other) < 0.01, "{other}");
    }
    // Each picture is where its number says, to the millisecond.
    for (ms, number) in pictures_of(&path) {
        assert!((ms - at(u32::from(number)).millis()).abs() <= 1, "picture {number} at {ms} ms");
    }
}

#[test]
fn a_file_cut_anywhere_plays_to_its_last_whole_fragment() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("call.mp4");
    assert_eq!(record(settings(&path), 6).error, None);
    let whole = std::fs::read(&path).expect("the file");
    let fragments: Vec<usize> =
        whole.windows(4).enumerate().filter(|(_, w)| w == b"moof").map(|(at, _)| at - 4).collect();
    assert!(fragments.len() >= 5, "{fragments:?}");
    let cut = dir.path().join("cut.mp4");
    for (number, begins) in fragments.iter().enumerate().skip(1) {
        // Within the header of this fragment, and within its media.
        for more in [0, 20, 2_000] {
            std::fs::write(&cut, &whole[..(begins + more).min(whole.len())]).expect("written");
            let contents = read(&cut).expect("readable");
            let seconds = contents.left.len() as f64 / f64::from(contents.rate);
            assert!(seconds > number as f64 - 0.3, "{seconds} s of {number} fragments");
            assert!(contents.pictures.len() >= (number - 1) * 10, "{number}: {}", contents.pictures.len());
        }
    }
}

#[test]
fn what_was_said_a_second_and_a_half_ago_is_on_disk_already() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("call.mp4");
    let (caller, from_caller) = queue(Fifo { depth: 4_000 });
    let inputs = RecorderInputs { caller: Some(from_caller), ..Default::default() };
    let started = settings(&path);
    let recorder = std::thread::spawn(move || run(RecorderSettings { video: None, ..started }, inputs));
    let begun = Instant::now();
    for second in 0..3 {
        while begun.elapsed() < Duration::from_secs(u64::from(second)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        speak(&caller, 8_000, CALLER_HZ, second);
    }
    while begun.elapsed() < Duration::from_millis(4_500) {
        std::thread::sleep(Duration::from_millis(5));
    }
    // What a `kill -9` now would leave behind.
    let left = dir.path().join("left.mp4");
    std::fs::copy(&path, &left).expect("copied");
    drop(caller);
    assert_eq!(recorder.join().expect("ends").error, None);
    let contents = read(&left).expect("readable");
    let seconds = contents.left.len() as f64 / f64::from(contents.rate);
    assert!(seconds >= 2.9, "{seconds}");
}

fn units(size: Size, numbers: std::ops::Range<u32>) -> Vec<AccessUnit> {
    let (pool, card) = (FramePool::new(2), TestCard::new(size, 5));
    let mut encoder = open(EncoderKind::X264, &EncoderSettings::new(size, FPS, 500)).expect("an encoder");
    let draw = |number| card.draw(number, at(number), &pool).expect("room");
    numbers.filter_map(|number| encoder.encode(&draw(number), false).expect("encoded")).collect()
}

fn record_units(path: &Path, units: Vec<AccessUnit>, seconds: u32) -> RecorderReport {
    let (to_recorder, from_units) = queue(Gop::new(400));
    let (caller, from_caller) = queue(Fifo { depth: 4_000 });
    (0..seconds).for_each(|second| speak(&caller, 8_000, CALLER_HZ, second));
    for unit in units {
        to_recorder.offer(unit);
    }
    drop((to_recorder, caller));
    let pictures = Some(PictureInput::Units(from_units));
    run(settings(path), RecorderInputs { pictures, caller: Some(from_caller), agent: None })
}

#[test]
fn a_change_of_size_begins_the_next_file_and_both_play() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("call.mp4");
    let turned = Size::new(180, 320);
    let all = [units(SIZE, 0..30), units(turned, 30..60)].concat();
    let report = record_units(&path, all, 4);
    let second = dir.path().join("call-2.mp4");
    assert_eq!((report.error, report.paths, report.pictures), (None, vec![path.clone(), second.clone()], 60));
    let first = pictures_of(&path);
    assert_eq!((first.len(), first[0], first[29]), (30, (0, 0), (1933, 29)));
    let later = pictures_of(&second);
    assert_eq!((later.len(), later[0], later[29]), (30, (0, 30), (1933, 59)));
    for path in [&path, &second] {
        let contents = read(path).expect("readable");
        let seconds = contents.left.len() as f64 / f64::from(contents.rate);
        assert!((1.8..2.2).contains(&seconds), "{seconds}");
        assert!(share(&contents.left[8_000..24_000], contents.rate, CALLER_HZ) > 0.9);
    }
}

#[test]
fn pictures_that_start_late_are_late_in_the_file_and_nothing_precedes_a_key_picture() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("call.mp4");
    // The first key picture was lost; the next one comes at 3 s.
    let late = [units(SIZE, 20..40).split_off(1), units(SIZE, 45..60)].concat();
    let report = record_units(&path, late, 4);
    assert_eq!((report.error, report.paths.len(), report.pictures), (None, 1, 15));
    let found = pictures_of(&path);
    assert_eq!((found.len(), found[0]), (15, (3_000, 45)));
    let contents = read(&path).expect("readable");
    assert!((contents.left.len() as f64 / f64::from(contents.rate) - 4.0).abs() < 0.2);
}

#[test]
fn a_hole_in_the_pictures_is_a_standing_picture_not_a_shift() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("call.mp4");
    let holed = [units(SIZE, 0..20), units(SIZE, 60..75)].concat();
    let report = record_units(&path, holed, 5);
    assert_eq!((report.error, report.picture_gaps), (None, 1));
    for (ms, number) in pictures_of(&path) {
        assert!((ms - at(u32::from(number)).millis()).abs() <= 1, "picture {number} at {ms} ms");
    }
}

#[test]
fn pictures_that_come_after_the_last_sound_add_no_silence() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("call.mp4");
    let (to_recorder, from_units) = queue(Gop::new(400));
    let (caller, from_caller) = queue(Fifo { depth: 4_000 });
    speak(&caller, 8_000, CALLER_HZ, 0);
    let inputs = RecorderInputs {
        pictures: Some(PictureInput::Units(from_units)),
        caller: Some(from_caller),
        agent: None,
    };
    let settings = settings(&path);
    let recorder = std::thread::spawn(move || run(settings, inputs));
    drop(caller);
    // The end of a call whose last pictures wait for a slow detector.
    std::thread::sleep(Duration::from_millis(1500));
    for unit in units(SIZE, 0..15) {
        to_recorder.offer(unit);
    }
    drop(to_recorder);
    let report = recorder.join().expect("ends");
    assert_eq!((report.error, report.pictures), (None, 15));
    let contents = read(&path).expect("readable");
    let seconds = contents.left.len() as f64 / f64::from(contents.rate);
    assert!((0.9..1.3).contains(&seconds), "{seconds} s of sound");
    assert_eq!(pictures_of(&path).len(), 15);
}

#[test]
fn a_full_disk_ends_the_recording_with_its_reason_and_a_foreign_file_is_left_alone() {
    let report = record_units(Path::new("/dev/full"), units(SIZE, 0..30), 2);
    let error = report.error.expect("a full disk");
    assert!(error.contains("/dev/full") && error.contains("make room"), "{error}");

    let dir = tempfile::tempdir().expect("a directory");
    let path: PathBuf = dir.path().join("call.mp4");
    std::fs::write(&path, b"somebody else's").expect("written");
    let error = record_units(&path, units(SIZE, 0..30), 2).error.expect("an existing file");
    assert!(error.contains("not overwritten"), "{error}");
    assert_eq!(std::fs::read(&path).expect("there"), b"somebody else's");
}

#[test]
fn a_call_without_media_leaves_no_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("call.mp4");
    let report = record_units(&path, Vec::new(), 0);
    assert_eq!((report.error, report.paths.len(), path.exists()), (None, 0, false));
}

#[test]
fn a_clip_repeats_with_rising_times() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("call.mp4");
    assert_eq!(record_units(&path, units(SIZE, 0..15), 1).error, None);
    let settings = ClipSettings { path, max: SIZE, rate: 8_000, repeat: true };
    let mut clip = Clip::open(settings).expect("a clip");
    assert!(clip.has_video() && clip.has_audio());
    let pool = FramePool::new(4);
    let (mut times, mut sound) = (Vec::new(), Vec::new());
    while times.len() < 40 {
        match clip.next(&pool).expect("readable").expect("no end") {
            ClipItem::Picture(raw) => times.push(raw.pts()),
            ClipItem::Sound(pcm) => {
                assert_eq!((pcm.rate, pcm.samples.len()), (8_000, 160));
                sound.push(pcm.pts);
            }
        }
    }
    assert!(times.windows(2).all(|w| w[0] < w[1]), "{times:?}");
    assert!(sound.windows(2).all(|w| w[0] < w[1]), "{sound:?}");
}

#[test]
fn pictures_that_come_after_the_file_has_begun_find_their_track_in_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("call.mp4");
    let (pictures, from_pictures) = queue(Latest);
    let (caller, from_caller) = queue(Fifo { depth: 4_000 });
    (0..3).for_each(|second| speak(&caller, 8_000, CALLER_HZ, second));
    let inputs = RecorderInputs {
        pictures: Some(PictureInput::Pictures(from_pictures)),
        caller: Some(from_caller),
        agent: None,
    };
    // Two seconds of the call are over when the recorder looks for the first time.
    let epoch = Instant::now() - Duration::from_secs(2);
    let begun = RecorderSettings { epoch, ..settings(&path) };
    let recorder = std::thread::spawn(move || run(begun, inputs));
    let patience = Instant::now();
    while std::fs::metadata(&path).map_or(0, |file| file.len()) == 0 && patience.elapsed().as_secs() < 5 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let (pool, card) = (FramePool::new(4), TestCard::new(SIZE, 5));
    for number in 40..50 {
        pictures.offer(card.draw(number, at(number), &pool).expect("room"));
        while pool.in_use() > 0 && patience.elapsed().as_secs() < 5 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    drop((pictures, caller));
    let report = recorder.join().expect("ends");
    assert_eq!((report.error, report.paths.len(), report.pictures), (None, 1, 10));
    let found = pictures_of(&path);
    assert_eq!((found.len(), found[0].1), (10, 40));
    assert!((found[0].0 - at(40).millis()).abs() <= 1, "{found:?}");
}

#[test]
fn pictures_nobody_expected_begin_the_second_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("call.mp4");
    let (pictures, from_pictures) = queue(Latest);
    let (caller, from_caller) = queue(Fifo { depth: 4_000 });
    (0..4).for_each(|second| speak(&caller, 8_000, CALLER_HZ, second));
    let inputs = RecorderInputs {
        pictures: Some(PictureInput::Pictures(from_pictures)),
        caller: Some(from_caller),
        agent: None,
    };
    let epoch = Instant::now() - Duration::from_secs(2);
    let settings = RecorderSettings { epoch, ..settings(&path) };
    let video = settings.video.clone().map(|video| RecordVideo { expected: false, ..video });
    let recorder = std::thread::spawn(move || run(RecorderSettings { video, ..settings }, inputs));
    let (pool, card) = (FramePool::new(4), TestCard::new(SIZE, 5));
    let patience = Instant::now();
    while std::fs::metadata(&path).map_or(0, |file| file.len()) == 0 && patience.elapsed().as_secs() < 5 {
        std::thread::sleep(Duration::from_millis(5));
    }
    for number in 30..45 {
        pictures.offer(card.draw(number, at(number), &pool).expect("room"));
        while pool.in_use() > 0 && patience.elapsed().as_secs() < 5 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    drop((pictures, caller));
    let report = recorder.join().expect("ends");
    let second = dir.path().join("call-2.mp4");
    assert_eq!((report.error, report.paths, report.pictures), (None, vec![path.clone(), second.clone()], 15));
    let first = ffmpeg::format::input(&path).expect("a file");
    let kinds: Vec<_> = first.streams().map(|stream| stream.parameters().medium()).collect();
    assert_eq!(kinds, [ffmpeg::media::Type::Audio], "no picture, no track for one");
    assert_eq!(pictures_of(&second).len(), 15);
}
