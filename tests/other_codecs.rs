//! VP8, VP9 and H.265: packets of FFmpeg through our payload formats and the decoder, our VP8 through packets and
//! back, changes of codec and size in mid-stream, loss, limits, rubbish.

#![allow(clippy::disallowed_methods, reason = "tests may read clocks and spawn")]

use std::path::Path;
use std::time::Instant;

use eyeline::base::time::Pts;
use eyeline::codec::decoder::Decoder;
use eyeline::codec::h264::encoder::{EncoderKind, EncoderSettings, open};
use eyeline::codec::vp8::Vp8Encoder;
use eyeline::media::access_unit::{AccessUnit, VideoCodec};
use eyeline::media::codec::{VideoDecoder, VideoEncoder};
use eyeline::media::filter::Gate;
use eyeline::media::frame::{CleanFrame, Plane, Size};
use eyeline::media::pool::FramePool;
use eyeline::media::psnr::psnr_y;
use eyeline::rtp::payload::{Depacketizer, Packetizer, SendFormat, Unit};
use eyeline::rtp::reorder::Piece;
use eyeline::source::test_picture::{Marker, TestCard, read_marker};

const SIZE: Size = Size::new(640, 360);
const FPS: u32 = 15;
const LIMIT: Size = Size::new(1280, 720);
const OTHERS: [VideoCodec; 3] = [VideoCodec::Vp8, VideoCodec::Vp9, VideoCodec::H265];

fn at(number: u32) -> Pts {
    Pts::from_millis(i64::from(number) * 1000 / i64::from(FPS))
}

fn coded(unit: Unit) -> AccessUnit {
    let pts = Pts::from_millis(i64::from(unit.timestamp));
    AccessUnit { codec: unit.codec, data: unit.data, pts, key: unit.key, damaged: unit.damaged }
}

/// Ten pictures as FFmpeg's encoder and payload format made them, 128x96.
fn golden(codec: VideoCodec) -> Vec<AccessUnit> {
    golden_of(codec, "ffmpeg")
}

/// A file of packets, each behind marker and length.
fn golden_of(codec: VideoCodec, file: &str) -> Vec<AccessUnit> {
    let name = format!("tests/fuzz/corpus/{}_payload/{file}", codec.name().to_lowercase());
    let data = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("packets");
    let mut depacketizer = Depacketizer::default();
    let (mut rest, mut timestamp, mut units) = (data.as_slice(), 0, Vec::new());
    while let [flags, high, low, tail @ ..] = rest {
        let (payload, tail) = tail.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        timestamp += u32::from(flags & 4 != 0);
        let piece = Piece { codec, payload, timestamp, marker: flags & 1 != 0, after_gap: false };
        units.extend(depacketizer.push(piece).into_iter().flatten());
        rest = tail;
    }
    assert!(units.iter().all(|unit| !unit.damaged && unit.decodable && !unit.after_loss));
    units.into_iter().map(coded).collect()
}

fn drawn(number: usize, pool: &FramePool) -> CleanFrame {
    drawn_at(Size::new(128, 96), number, pool)
}

/// What FFmpeg was asked to draw.
fn drawn_at(size: Size, number: usize, pool: &FramePool) -> CleanFrame {
    let mut picture = pool.take_sized(size, Pts::ZERO).expect("room");
    for (y, row) in picture.plane_mut(Plane::Y).chunks_exact_mut(size.width).enumerate() {
        for (x, pixel) in row.iter_mut().enumerate() {
            let wave = (x as f64 / 9.0 + number as f64 / 3.0).sin() * (y as f64 / 7.0).cos();
            *pixel = (128.0 + 80.0 * wave) as u8;
        }
    }
    CleanFrame::drawn_here(picture)
}

fn decoded(decoder: &mut Decoder, unit: &AccessUnit, pool: &FramePool) -> Option<CleanFrame> {
    let raw = decoder.decode(unit, pool).expect("no error")?;
    Gate::open().release(Instant::now(), raw, pool)
}

fn packets(packetizer: &mut Packetizer, unit: &AccessUnit) -> Vec<(Vec<u8>, bool)> {
    let mut packets = Vec::new();
    assert_eq!(
        packetizer.packetize(&unit.data, |part| packets.push((part.parts().concat(), part.marker))),
        0
    );
    packets
}

#[test]
fn streams_of_ffmpeg_are_seen_as_they_were_drawn() {
    let pool = FramePool::new(4);
    for codec in OTHERS {
        let units = golden(codec);
        assert_eq!(units.len(), 10, "{codec:?}");
        assert!(units[0].key && !units[1].key, "{codec:?}");
        let mut decoder = Decoder::new(codec, LIMIT).expect("a decoder");
        for (number, unit) in units.iter().enumerate() {
            let picture = decoded(&mut decoder, unit, &pool).expect("every unit gives its picture at once");
            let psnr = psnr_y(drawn(number, &pool).frame(), picture.frame());
            assert!(psnr > 30.0, "{codec:?} picture {number}: {psnr:.1} dB");
        }
    }
}

#[test]
fn one_decoder_follows_a_peer_that_changes_its_codec() {
    let pool = FramePool::new(4);
    let mut decoder = Decoder::new(VideoCodec::H264, LIMIT).expect("a decoder");
    let mut encoder = open(EncoderKind::X264, &EncoderSettings::new(SIZE, FPS, 600)).expect("an encoder");
    let picture = TestCard::new(SIZE, 9).draw(1, at(1), &pool).expect("room");
    let h264 = encoder.encode(&picture, true).expect("coded").expect("now");
    for codec in [VideoCodec::Vp8, VideoCodec::H265, VideoCodec::Vp9, VideoCodec::Vp8] {
        for (number, unit) in golden(codec).iter().enumerate() {
            let picture = decoded(&mut decoder, unit, &pool).expect("a picture");
            assert!(psnr_y(drawn(number, &pool).frame(), picture.frame()) > 30.0, "{codec:?} {number}");
        }
        assert_eq!(decoded(&mut decoder, &h264, &pool).expect("a picture").size(), SIZE);
    }
}

#[test]
fn a_stream_may_change_its_size_and_begin_anew() {
    let pool = FramePool::new(4);
    for codec in OTHERS {
        let mut decoder = Decoder::new(codec, LIMIT).expect("a decoder");
        for file in ["ffmpeg", "smaller", "ffmpeg"] {
            let size = if file == "smaller" { Size::new(64, 48) } else { Size::new(128, 96) };
            for (number, unit) in golden_of(codec, file).iter().enumerate() {
                let picture = decoded(&mut decoder, unit, &pool).expect("a picture");
                assert_eq!(picture.size(), size, "{codec:?}");
                let psnr = psnr_y(drawn_at(size, number, &pool).frame(), picture.frame());
                assert!(psnr > 28.0, "{codec:?} {file} {number}: {psnr:.1} dB");
            }
        }
        assert_eq!(decoder.counters().unusable, 0);
    }
}

#[test]
fn a_picture_over_the_limit_is_refused_whatever_its_codec() {
    let pool = FramePool::new(4);
    for codec in OTHERS {
        let mut decoder = Decoder::new(codec, Size::new(96, 64)).expect("a decoder");
        let shown = |decoder: &mut Decoder, file| {
            golden_of(codec, file).iter().filter_map(|unit| decoded(decoder, unit, &pool)).count()
        };
        assert_eq!(shown(&mut decoder, "ffmpeg"), 0, "{codec:?}");
        assert!(decoder.counters().bad_size > 0, "{codec:?}");
        assert_eq!(shown(&mut decoder, "smaller"), 10, "{codec:?}: the next stream is fine");
    }
}

#[test]
fn our_vp8_comes_back_through_packets_as_it_was() {
    let pool = FramePool::new(8);
    let mut encoder = Vp8Encoder::open(&EncoderSettings::new(SIZE, FPS, 1000)).expect("libvpx");
    let mut decoder = Decoder::new(VideoCodec::Vp8, SIZE).expect("a decoder");
    let mut packetizer = Packetizer::new(SendFormat::Vp8, 1200, 5);
    let (mut depacketizer, card) = (Depacketizer::default(), TestCard::new(SIZE, 9));
    let (mut worst, mut bytes) = (100.0_f64, 0);
    let started = Instant::now();
    for number in 0..60 {
        let picture = card.draw(number, at(number), &pool).expect("room");
        let unit = encoder.encode(&picture, number == 30).expect("coded").expect("no delay");
        assert_eq!(unit.key, number == 0 || number == 30, "{number}");
        bytes += unit.data.len();
        for (payload, marker) in packets(&mut packetizer, &unit) {
            assert!(payload.len() <= 1200);
            let piece =
                Piece { codec: unit.codec, timestamp: number, marker, payload: &payload, after_gap: false };
            for unit in depacketizer.push(piece).into_iter().flatten() {
                let back = decoded(&mut decoder, &coded(unit), &pool).expect("a picture");
                assert_eq!(read_marker(back.frame()), Some(Marker { source: 9, number: number as u16 }));
                worst = worst.min(psnr_y(picture.frame(), back.frame()));
            }
        }
    }
    let kbps = bytes as f64 * 8.0 / 1000.0 / 4.0;
    println!("VP8: worst {worst:.1} dB, {kbps:.0} kbit/s, {:?} for 60 pictures both ways", started.elapsed());
    assert!(worst >= 28.0, "{worst}");
    assert!(kbps < 1500.0, "{kbps} kbit/s where 1000 were asked for");
    assert_eq!(decoder.counters().unusable, 0);
}

#[test]
fn vp8_pictures_may_change_their_size_and_too_large_ones_are_refused() {
    let pool = FramePool::new(4);
    let mut decoder = Decoder::new(VideoCodec::Vp8, SIZE).expect("a decoder");
    for size in [Size::new(320, 180), SIZE, Size::new(360, 640), LIMIT, Size::new(176, 144)] {
        let mut encoder = Vp8Encoder::open(&EncoderSettings::new(size, FPS, 600)).expect("libvpx");
        let card = TestCard::new(size, 9);
        let mut shown = 0;
        for number in 0..3 {
            let picture = card.draw(number, at(number), &pool).expect("room");
            let unit = encoder.encode(&picture, false).expect("coded").expect("no delay");
            if let Some(back) = decoded(&mut decoder, &unit, &pool) {
                assert_eq!(back.size(), size);
                shown += 1;
            }
        }
        assert_eq!(shown, if size == LIMIT { 0 } else { 3 }, "{size}");
    }
    assert!(decoder.counters().bad_size > 0);
}

#[test]
fn after_loss_vp8_is_clean_again_with_the_next_key_picture() {
    let pool = FramePool::new(8);
    let mut encoder = Vp8Encoder::open(&EncoderSettings::new(SIZE, FPS, 800)).expect("libvpx");
    let mut decoder = Decoder::new(VideoCodec::Vp8, SIZE).expect("a decoder");
    let mut packetizer = Packetizer::new(SendFormat::Vp8, 1200, 5);
    let (mut depacketizer, card) = (Depacketizer::default(), TestCard::new(SIZE, 9));
    let (mut sent, mut gap, mut broken, mut lost, mut clean) = (0, false, false, 0, 0);
    for number in 0..60 {
        let picture = card.draw(number, at(number), &pool).expect("room");
        // A key picture comes three pictures after it was asked for.
        let unit = encoder.encode(&picture, broken && number % 4 == 3).expect("coded").expect("no delay");
        let mut seen = None;
        for (payload, marker) in packets(&mut packetizer, &unit) {
            sent += 1;
            if sent % 41 == 0 {
                (gap, lost) = (true, lost + 1);
                continue;
            }
            let after_gap = std::mem::take(&mut gap);
            let piece = Piece { codec: unit.codec, timestamp: number, marker, payload: &payload, after_gap };
            for unit in depacketizer.push(piece).into_iter().flatten() {
                broken = (broken || unit.after_loss || unit.damaged) && (!unit.key || unit.damaged);
                if !unit.data.is_empty() && unit.timestamp == number {
                    seen = decoded(&mut decoder, &coded(unit), &pool);
                }
            }
        }
        broken |= seen.is_none();
        if let Some(back) = seen.filter(|_| !broken) {
            assert!(psnr_y(picture.frame(), back.frame()) > 28.0, "picture {number}");
            clean += 1;
        }
    }
    assert!(lost >= 3 && clean >= 20, "{lost} lost, {clean} clean");
}

#[test]
fn rubbish_and_bent_streams_give_no_error_and_the_decoder_lives_on() {
    let pool = FramePool::new(4);
    let mut seed = 1_u32;
    let mut random = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed >> 8
    };
    for codec in OTHERS {
        let mut decoder = Decoder::new(codec, LIMIT).expect("a decoder");
        let units = golden(codec);
        for round in 0..200 {
            let unit = &units[round % units.len()];
            let mut data = unit.data.to_vec();
            for _ in 0..random() % 6 {
                let at = random() as usize % data.len();
                data[at] = random() as u8;
            }
            data.truncate(data.len() - (random() as usize % data.len()) * usize::from(round % 5 == 0));
            let bent = AccessUnit { data: data.into(), damaged: true, ..unit.clone() };
            drop(decoder.decode(&bent, &pool).expect("no error"));
        }
        assert!(decoder.counters().unusable > 0, "{codec:?}");
        let picture = decoded(&mut decoder, &units[0], &pool).expect("a picture");
        assert!(psnr_y(drawn(0, &pool).frame(), picture.frame()) > 30.0, "{codec:?}");
    }
}
