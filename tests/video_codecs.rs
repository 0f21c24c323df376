//! Every encoder this box has, through the decoder: quality, key pictures, NAL unit sizes, loss, sizes, bitrates.

#![allow(clippy::disallowed_methods, reason = "tests may read clocks and spawn")]

use std::time::Instant;

use eyeline::base::time::Pts;
use eyeline::codec::decoder::Decoder;
use eyeline::codec::h264::encoder::{EncoderKind, EncoderSettings, open};
use eyeline::codec::h264::probe;
use eyeline::media::access_unit::{AccessUnit, VideoCodec};
use eyeline::media::codec::{VideoDecoder, VideoEncoder};
use eyeline::media::filter::Gate;
use eyeline::media::frame::{CleanFrame, RawFrame, Size};
use eyeline::media::nal;
use eyeline::media::pool::FramePool;
use eyeline::media::psnr::psnr_y;
use eyeline::media::sps::{self, Sps};
use eyeline::source::test_picture::{Marker, TestCard, read_marker};

const SIZE: Size = Size::new(640, 360);
const FPS: u32 = 15;

fn at(number: u32) -> Pts {
    Pts::from_millis(i64::from(number) * 1000 / i64::from(FPS))
}

fn clear(raw: RawFrame, pool: &FramePool) -> CleanFrame {
    Gate::open().release(Instant::now(), raw, pool).expect("an open gate")
}

fn available(max_nal_bytes: Option<usize>) -> Vec<EncoderKind> {
    EncoderKind::ALL.into_iter().filter(|kind| probe::prove(*kind, max_nal_bytes).is_ok()).collect()
}

fn encode(
    encoder: &mut dyn VideoEncoder,
    numbers: std::ops::Range<u32>,
    pool: &FramePool,
) -> Vec<AccessUnit> {
    let card = TestCard::new(encoder.size(), 9);
    let draw = |number| card.draw(number, at(number), pool).expect("room");
    numbers.filter_map(|number| encoder.encode(&draw(number), false).expect("encoded")).collect()
}

/// CPU milliseconds of this thread.
fn cpu_ms() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists and the pointer is a timespec of this frame.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

#[test]
fn sixty_pictures_come_back_as_they_were_from_every_encoder() {
    let pool = FramePool::new(8);
    let kinds = available(None);
    assert!(kinds.contains(&EncoderKind::X264), "the test machine has libx264");
    for kind in kinds {
        for max_nal_bytes in [None, Some(1200)] {
            let settings = EncoderSettings { max_nal_bytes, ..EncoderSettings::new(SIZE, FPS, 1000) };
            let mut encoder = open(kind, &settings).expect("an encoder");
            let mut decoder = Decoder::new(VideoCodec::H264, SIZE).expect("a decoder");
            let card = TestCard::new(SIZE, 9);
            let (mut worst, mut sum, mut seen, mut bytes, mut longest) = (100.0_f64, 0.0, 0, 0, 0);
            let (mut encoding, mut decoding) = (0.0, 0.0);
            for number in 0..60 {
                let picture = card.draw(number, at(number), &pool).expect("room");
                let start = cpu_ms();
                let unit = encoder.encode(&picture, false).expect("encoded");
                encoding += cpu_ms() - start;
                let Some(unit) = unit else { continue };
                bytes += unit.data.len();
                longest = longest.max(nal::longest(&unit.data));
                let start = cpu_ms();
                let raw = decoder.decode(&unit, &pool).expect("decoded");
                decoding += cpu_ms() - start;
                let Some(raw) = raw else { continue };
                assert_eq!(raw.pts(), at(number));
                let back = clear(raw, &pool);
                let marker = Marker { source: 9, number: number as u16 };
                assert_eq!(read_marker(back.frame()), Some(marker), "{kind:?}");
                let psnr = psnr_y(picture.frame(), back.frame());
                (worst, sum, seen) = (worst.min(psnr), sum + psnr, seen + 1);
            }
            println!(
                "{} {max_nal_bytes:?}: {seen} pictures, PSNR {:.1} (worst {worst:.1}) dB, {bytes} bytes, \
                 longest NAL unit {longest}, encode {:.2} ms, decode {:.2} ms of CPU",
                kind.name(),
                sum / f64::from(seen),
                encoding / 60.0,
                decoding / 60.0
            );
            assert!(seen >= 55, "{kind:?}: {seen}");
            assert!(worst >= 28.0, "{kind:?}: {worst}");
            if let Some(limit) = max_nal_bytes {
                assert!(longest <= limit, "{kind:?}: {longest}");
            }
        }
    }
}

#[test]
fn a_key_picture_comes_when_asked_for_with_its_parameter_sets() {
    let pool = FramePool::new(4);
    for kind in available(None) {
        let mut encoder = open(kind, &EncoderSettings::new(SIZE, FPS, 800)).expect("an encoder");
        let card = TestCard::new(SIZE, 9);
        let mut keys = Vec::new();
        for number in 0..30 {
            let picture = card.draw(number, at(number), &pool).expect("room");
            let unit = encoder.encode(&picture, number == 7 || number == 20).expect("encoded");
            if let Some(unit) = unit.filter(|unit| unit.key) {
                assert!(nal::parameter_sets(&unit.data).is_some(), "{kind:?}");
                assert_eq!(sps::picture_size(&unit.data), Some(SIZE), "{kind:?}");
                let sets = nal::units(&unit.data).find_map(|nal| Sps::parse(nal).ok());
                let sps = sets.expect("a sequence parameter set");
                assert_eq!(
                    (sps.profile_idc, sps.constraint_flags & 0x40),
                    (66, 0x40),
                    "{kind:?} is Constrained Baseline"
                );
                keys.push(unit.pts);
            }
        }
        assert_eq!(keys, [at(0), at(7), at(20)], "{kind:?}");
    }
}

#[test]
fn a_key_picture_stays_within_the_rate_controls_buffer() {
    let pool = FramePool::new(4);
    let mut encoder = open(EncoderKind::X264, &EncoderSettings::new(SIZE, FPS, 400)).expect("an encoder");
    let units = encode(encoder.as_mut(), 0..30, &pool);
    let largest = units.iter().map(|unit| unit.data.len()).max().expect("units");
    assert!(largest <= 400_000 / 8 * 4 / 10, "{largest}");
}

#[test]
fn a_lower_bitrate_takes_effect_at_once() {
    let pool = FramePool::new(4);
    for kind in available(None) {
        let mut encoder = open(kind, &EncoderSettings::new(SIZE, FPS, 1500)).expect("an encoder");
        let size = |units: Vec<AccessUnit>| units.iter().map(|unit| unit.data.len()).sum::<usize>();
        let high = size(encode(encoder.as_mut(), 15..60, &pool));
        encoder.set_bitrate(60).expect("a lower rate");
        encode(encoder.as_mut(), 60..75, &pool);
        let low = size(encode(encoder.as_mut(), 75..120, &pool));
        encoder.set_bitrate(1500).expect("a higher rate");
        encode(encoder.as_mut(), 120..135, &pool);
        let again = size(encode(encoder.as_mut(), 135..180, &pool));
        println!("{}: {high} then {low} then {again} bytes in 45 pictures", kind.name());
        assert!(low * 3 < high * 2, "{kind:?}: {high} then {low}");
        assert!(again > low * 3 / 2, "{kind:?}: {low} then {again}");
        // 45 pictures are 3 s; a third more than the rate is what rate control may owe.
        assert!(low < 60_000 / 8 * 3 * 4 / 3, "{kind:?}: {low}");
    }
}

#[test]
fn the_size_may_change_in_mid_stream_and_too_large_ones_are_refused() {
    let pool = FramePool::new(6);
    let mut decoder = Decoder::new(VideoCodec::H264, Size::new(640, 360)).expect("a decoder");
    let mut sizes = Vec::new();
    let mut number = 0;
    for size in [Size::new(320, 240), Size::new(360, 640), Size::new(1280, 720), Size::new(320, 180)] {
        let mut encoder = open(EncoderKind::X264, &EncoderSettings::new(size, FPS, 800)).expect("an encoder");
        for unit in encode(encoder.as_mut(), number..number + 4, &pool) {
            if let Some(raw) = decoder.decode(&unit, &pool).expect("decoded") {
                let back = clear(raw, &pool);
                assert_eq!(read_marker(back.frame()).map(|m| m.source), Some(9));
                sizes.push(back.size());
            }
        }
        number += 4;
    }
    sizes.dedup();
    assert_eq!(sizes, [Size::new(320, 240), Size::new(360, 640), Size::new(320, 180)]);
    assert!(decoder.counters().bad_size > 0);
}

#[test]
fn a_lost_slice_costs_sharpness_but_no_picture() {
    let pool = FramePool::new(6);
    let settings = EncoderSettings { max_nal_bytes: Some(300), ..EncoderSettings::new(SIZE, FPS, 1500) };
    let mut encoder = open(EncoderKind::X264, &settings).expect("an encoder");
    let mut decoder = Decoder::new(VideoCodec::H264, SIZE).expect("a decoder");
    let card = TestCard::new(SIZE, 9);
    let (mut seen, mut damaged) = (0, 0);
    for (number, mut unit) in encode(encoder.as_mut(), 0..40, &pool).into_iter().enumerate() {
        let slices: Vec<Vec<u8>> = nal::units(&unit.data).map(|nal| [&[0, 0, 1][..], nal].concat()).collect();
        if number % 5 == 3 && slices.len() > 1 {
            let kept: Vec<Vec<u8>> =
                slices.iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, s)| s.clone()).collect();
            unit = AccessUnit { data: kept.concat().into(), damaged: true, ..unit };
            damaged += 1;
        }
        if let Some(raw) = decoder.decode(&unit, &pool).expect("decoded") {
            let back = clear(raw, &pool);
            let original = card.draw(number as u32, at(number as u32), &pool).expect("room");
            assert!(psnr_y(original.frame(), back.frame()) > 18.0, "picture {number}");
            seen += 1;
        }
    }
    assert!(damaged >= 5, "{damaged}");
    assert_eq!(seen, 40);
}

#[test]
fn rubbish_and_a_stream_without_a_key_picture_give_no_picture_and_no_error() {
    let pool = FramePool::new(4);
    let mut decoder = Decoder::new(VideoCodec::H264, SIZE).expect("a decoder");
    let unit = |data: Vec<u8>| AccessUnit {
        codec: VideoCodec::H264,
        data: data.into(),
        pts: Pts::ZERO,
        key: false,
        damaged: true,
    };
    let mut seed = 1_u32;
    for length in 0..200 {
        let mut data = vec![0, 0, 1, [0x65, 0x67, 0x68, 0x41][length % 4]];
        data.extend((0..length).map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        }));
        drop(decoder.decode(&unit(data), &pool).expect("no error"));
    }
    assert!(decoder.counters().unusable > 0);
    let mut decoder = Decoder::new(VideoCodec::H264, SIZE).expect("a decoder");
    let mut encoder = open(EncoderKind::X264, &EncoderSettings::new(SIZE, FPS, 800)).expect("an encoder");
    for coded in encode(encoder.as_mut(), 0..20, &pool).into_iter().skip(1) {
        assert!(decoder.decode(&coded, &pool).expect("no error").is_none());
    }
}

#[test]
fn a_lost_picture_hides_at_most_the_rest_of_its_frame_num_cycle() {
    let pool = FramePool::new(6);
    let mut encoder = open(EncoderKind::X264, &EncoderSettings::new(SIZE, FPS, 800)).expect("an encoder");
    let coded = encode(encoder.as_mut(), 0..64, &pool);
    for lost in 1..40 {
        let mut decoder = Decoder::new(VideoCodec::H264, SIZE).expect("a decoder");
        let mut shown = Vec::new();
        for (number, unit) in coded.iter().enumerate() {
            if number != lost && decoder.decode(unit, &pool).expect("decoded").is_some() {
                shown.push(number);
            }
        }
        let longest = shown.windows(2).map(|w| w[1] - w[0] - 1).max().expect("pictures");
        // FFmpeg misses the wrap of frame_num (16 pictures here) when the picture at the wrap is the lost one; the
        // next key picture or the next wrap ends it. Anywhere else one lost picture is one picture.
        let bound = if lost % 16 == 0 { 15 } else { 1 };
        assert!(longest <= bound, "picture {lost} lost: {longest} pictures hidden");
    }
}
