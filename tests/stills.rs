//! Given pictures, opened in a process of their own: what comes back, what is refused, and what a bad file can break.

#![expect(clippy::disallowed_methods, reason = "tests wait for another process")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use eyeline::base::time::Pts;
use eyeline::codec::still::decode::Unusable;
use eyeline::codec::still::encode::{StillFormat, StillSettings, Stills};
use eyeline::codec::still::fit::Fit;
use eyeline::media::filter::Gate;
use eyeline::media::frame::{CleanFrame, Plane, Size};
use eyeline::media::pool::FramePool;
use eyeline::media::psnr::psnr_y;
use eyeline::worker::stills::{Opener, OpenerSettings};

fn opener() -> Opener {
    let executable = PathBuf::from(env!("CARGO_BIN_EXE_eyeline"));
    Opener::new(OpenerSettings { executable, patience: Duration::from_secs(10), ..OpenerSettings::default() })
}

fn scene(size: Size) -> CleanFrame {
    let mut picture = FramePool::new(1).take_sized(size, Pts::ZERO).expect("room");
    for (at, luma) in picture.plane_mut(Plane::Y).iter_mut().enumerate() {
        let (x, y) = (at % size.width, at / size.width);
        *luma = (30 + x * 120 / size.width + if (x / 32 + y / 32).is_multiple_of(2) { 50 } else { 0 }) as u8;
    }
    picture.plane_mut(Plane::U).fill(120);
    picture.plane_mut(Plane::V).fill(136);
    CleanFrame::drawn_here(picture)
}

fn file(picture: &CleanFrame, format: StillFormat) -> Vec<u8> {
    let fit = Fit { width: 0, height: 0, ..Fit::default() };
    let mut stills = Stills::new(StillSettings { fit, format }).expect("FFmpeg");
    stills.encode(picture).expect("a still").bytes().to_vec()
}

#[tokio::test]
async fn a_given_picture_comes_back_as_one_nobody_has_cleared() {
    let scene = scene(Size::new(640, 360));
    for format in [StillFormat::Jpeg { quality: 90 }, StillFormat::Png] {
        let raw = opener().open(&file(&scene, format)).await.expect("a picture");
        let picture = Gate::open().release(Instant::now(), raw, &FramePool::new(1)).expect("an open gate");
        let likeness = psnr_y(scene.frame(), picture.frame());
        assert!(likeness > 38.0, "{format:?}: {likeness:.1} dB");
    }
}

#[tokio::test]
async fn a_large_picture_comes_back_within_the_limits() {
    let raw = opener().open(&file(&scene(Size::new(2560, 1440)), StillFormat::Png)).await.expect("a picture");
    assert_eq!(raw.size(), Size::new(1920, 1080));
}

#[tokio::test]
async fn damaged_and_foreign_files_are_refused_and_few_are_open_at_a_time() {
    let opener = opener();
    assert_eq!(opener.open(b"%PDF-1.7").await.err(), Some(Unusable::Unknown));
    let whole = file(&scene(Size::new(320, 240)), StillFormat::Png);
    let damaged = [&whole[..60], &[0xff; 400]].concat();
    assert!(matches!(opener.open(&damaged).await, Err(Unusable::Damaged(_))));
    let all = tokio::join!(opener.open(&whole), opener.open(&whole), opener.open(&whole));
    assert!(all.0.is_ok() && all.1.is_ok());
    assert_eq!(all.2.err(), Some(Unusable::NoRoom));
    assert!(opener.open(&whole).await.is_ok(), "there is room again");
}

#[tokio::test]
async fn a_child_that_is_not_ours_or_hangs_is_given_up_in_time() {
    let whole = file(&scene(Size::new(320, 240)), StillFormat::Png);
    let of = |executable: &str| {
        let executable = PathBuf::from(executable);
        let patience = Duration::from_millis(300);
        Opener::new(OpenerSettings { executable, patience, ..OpenerSettings::default() })
    };
    let begun = Instant::now();
    assert!(matches!(of("/bin/false").open(&whole).await, Err(Unusable::Damaged(_))));
    assert_eq!(of("/nowhere/eyeline").open(&whole).await.err(), Some(Unusable::NoRoom));
    let hanging = tempfile::tempdir().expect("a folder");
    let script = hanging.path().join("hang");
    std::fs::write(&script, "#!/bin/sh\nexec tail -f /dev/null\n").expect("a script");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).expect("executable");
    let hung = of(script.to_str().expect("a path")).open(&whole).await;
    assert!(matches!(hung, Err(Unusable::Damaged(why)) if why.contains("too long")));
    assert!(begun.elapsed() < Duration::from_secs(5));
}
