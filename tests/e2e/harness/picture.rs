//! Judges of pictures: which picture of a clip is this, how well did it survive, can the face be recognised, is
//! something outlined.

use std::cell::OnceCell;
use std::path::Path;
use std::process::Command;

use super::media;
use super::process::output_of;

pub const WIDTH: usize = 640;
pub const HEIGHT: usize = 360;

/// The ground of slates.
const SLATE_LUMA: u8 = 40;

/// A decoded 4:2:0 picture of 640x360.
pub struct Picture {
    luma: Vec<u8>,
    blue: Vec<u8>,
    red: Vec<u8>,
    fine: OnceCell<Vec<f32>>,
}

/// A rectangle in pixels: left, top, right, bottom (right and bottom outside).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Area {
    pub left: usize,
    pub top: usize,
    pub right: usize,
    pub bottom: usize,
}

impl Area {
    fn pixels(self) -> impl Iterator<Item = (usize, usize)> {
        (self.top..self.bottom.min(HEIGHT))
            .flat_map(move |y| (self.left..self.right.min(WIDTH)).map(move |x| (x, y)))
    }
}

/// Decodes every picture of a file, whatever FFmpeg can open; none is doubled or left out.
pub fn read(file: &Path) -> Vec<Picture> {
    let bytes = output_of(
        Command::new("ffmpeg").args(["-hide_banner", "-loglevel", "error", "-nostdin", "-i"]).arg(file).args(
            [
                "-an",
                "-fps_mode",
                "passthrough",
                "-vf",
                &format!("scale={WIDTH}:{HEIGHT}"),
                "-pix_fmt",
                "yuv420p",
                "-f",
                "rawvideo",
                "-",
            ],
        ),
    );
    let luma = WIDTH * HEIGHT;
    bytes
        .chunks_exact(luma * 3 / 2)
        .map(|picture| Picture {
            luma: picture[..luma].to_vec(),
            blue: picture[luma..luma * 5 / 4].to_vec(),
            red: picture[luma * 5 / 4..].to_vec(),
            fine: OnceCell::new(),
        })
        .collect()
}

/// Decodes an H.264 byte stream.
pub fn read_h264(bytes: &[u8]) -> Vec<Picture> {
    let file = tempfile::Builder::new().suffix(".h264").tempfile().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("a writable temporary file");
    read(file.path())
}

impl Picture {
    /// Mean luma of an area.
    pub fn mean(&self, area: Area) -> f64 {
        let sum: usize = area.pixels().map(|(x, y)| usize::from(self.luma[y * WIDTH + x])).sum();
        sum as f64 / area.pixels().count().max(1) as f64
    }

    /// Brightness of one pixel.
    pub fn luma_at(&self, x: usize, y: usize) -> u8 {
        self.luma[y * WIDTH + x]
    }

    /// Peak signal-to-noise ratio of the luma in dB, over an area or everything.
    pub fn psnr(&self, other: &Picture, area: Option<Area>) -> f64 {
        let area = area.unwrap_or(Area { left: 0, top: 0, right: WIDTH, bottom: HEIGHT });
        let (mut sum, mut count) = (0.0, 0.0);
        for (x, y) in area.pixels() {
            let difference = f64::from(self.luma[y * WIDTH + x]) - f64::from(other.luma[y * WIDTH + x]);
            sum += difference * difference;
            count += 1.0;
        }
        10.0 * (255.0 * 255.0 / f64::max(sum / count, 0.01)).log10()
    }

    /// How much of the other picture's fine detail is in this one: the correlation of what remains of the luma once
    /// its local mean is taken away. 1: all of it; around 0: none, whatever the colours and large shapes are.
    pub fn detail(&self, other: &Picture, area: Area) -> f64 {
        let (own_detail, other_detail) = (self.fine(), other.fine());
        let (mut both, mut own, mut others) = (0.0, 0.0, 0.0);
        for (x, y) in area.pixels() {
            let at = y * WIDTH + x;
            let (a, b) = (f64::from(own_detail[at]), f64::from(other_detail[at]));
            both += a * b;
            own += a * a;
            others += b * b;
        }
        both / f64::max((own * others).sqrt(), 1.0)
    }

    /// The luma minus its mean over 9x9 pixels.
    fn fine(&self) -> &[f32] {
        const REACH: usize = 4;
        self.fine.get_or_init(|| {
            // Sums over everything left of and above each pixel make any rectangle's sum four look-ups.
            let mut sums = vec![0u32; (WIDTH + 1) * (HEIGHT + 1)];
            for y in 0..HEIGHT {
                let mut row = 0;
                for x in 0..WIDTH {
                    row += u32::from(self.luma[y * WIDTH + x]);
                    sums[(y + 1) * (WIDTH + 1) + x + 1] = sums[y * (WIDTH + 1) + x + 1] + row;
                }
            }
            let mut fine = Vec::with_capacity(WIDTH * HEIGHT);
            for y in 0..HEIGHT {
                let (top, bottom) = (y.saturating_sub(REACH), (y + REACH + 1).min(HEIGHT));
                for x in 0..WIDTH {
                    let (left, right) = (x.saturating_sub(REACH), (x + REACH + 1).min(WIDTH));
                    let corner = |x: usize, y: usize| sums[y * (WIDTH + 1) + x];
                    let sum =
                        corner(right, bottom) + corner(left, top) - corner(left, bottom) - corner(right, top);
                    let mean = sum as f32 / ((right - left) * (bottom - top)) as f32;
                    fine.push(f32::from(self.luma[y * WIDTH + x]) - mean);
                }
            }
            fine
        })
    }

    /// Share of an area's pixels that are nearly as in the other picture.
    pub fn share_kept(&self, other: &Picture, area: Area) -> f64 {
        let (mut kept, mut count) = (0.0, 0.0);
        for (x, y) in area.pixels() {
            let at = y * WIDTH + x;
            kept += f64::from(u8::from(self.luma[at].abs_diff(other.luma[at]) <= 20));
            count += 1.0;
        }
        kept / count
    }

    /// Is a coloured line drawn that the other picture does not have, both a level and an upright one, each at least
    /// `length` pixels long? A censored region changes colours too, but over areas, not along lines.
    pub fn is_outlined(&self, other: &Picture, length: usize) -> bool {
        let (width, height) = (WIDTH / 2, HEIGHT / 2);
        let changed: Vec<bool> = (0..width * height)
            .map(|at| {
                let change = u16::from(self.blue[at].abs_diff(other.blue[at]))
                    + u16::from(self.red[at].abs_diff(other.red[at]));
                change > 30
            })
            .collect();
        let level = |x: isize, y: isize| changed_at(&changed, width, height, x, y);
        let upright = |x: isize, y: isize| changed_at(&changed, width, height, y, x);
        has_line(level, width, height, length / 2) && has_line(upright, height, width, length / 2)
    }

    /// More white than black.
    pub fn is_bright(&self) -> bool {
        let sum: usize = self.luma.iter().map(|value| usize::from(*value)).sum();
        sum > self.luma.len() * 128
    }

    /// Is this the picture shown in place of one that was withheld? Most of it is one dark grey.
    pub fn is_slate(&self) -> bool {
        let ground = self.luma.iter().filter(|luma| luma.abs_diff(SLATE_LUMA) <= 8).count();
        ground * 10 > self.luma.len() * 6
    }

    fn thumbnail(&self) -> Vec<f32> {
        const CELL: usize = 10;
        let mut cells = vec![0.0; (WIDTH / CELL) * (HEIGHT / CELL)];
        for (at, value) in self.luma.iter().enumerate() {
            let (x, y) = (at % WIDTH / CELL, at / WIDTH / CELL);
            cells[y * (WIDTH / CELL) + x] += f32::from(*value) / (CELL * CELL) as f32;
        }
        cells
    }
}

fn changed_at(changed: &[bool], width: usize, height: usize, x: isize, y: isize) -> bool {
    let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return false };
    x < width && y < height && changed[y * width + x]
}

/// Is there a run along x of at least `length`, most of which has nothing changed four and more pixels to its sides?
fn has_line(changed: impl Fn(isize, isize) -> bool, along: usize, across: usize, length: usize) -> bool {
    for y in 0..across as isize {
        let mut run = 0;
        for x in 0..along as isize {
            let on_line = changed(x, y) && (!changed(x, y - 5) || !changed(x, y + 5));
            run = if on_line { run + 1 } else { 0 };
            if run >= length {
                return true;
            }
        }
    }
    false
}

/// A clip as the reference for what comes back of it.
pub struct Clip {
    pub pictures: Vec<Picture>,
    thumbnails: Vec<Vec<f32>>,
}

impl Clip {
    pub fn open(name: &str) -> Clip {
        let pictures = read(&media(name));
        assert_eq!(pictures.len(), 180, "{name} has all its pictures");
        let thumbnails = pictures.iter().map(Picture::thumbnail).collect();
        Clip { pictures, thumbnails }
    }

    /// Number of the picture that looks most like this one, and how much, as a PSNR in dB of coarse cells.
    pub fn best(&self, picture: &Picture) -> (usize, f64) {
        let cells = picture.thumbnail();
        let mut best = (0, f32::MAX);
        for (number, candidate) in self.thumbnails.iter().enumerate() {
            let error: f32 = candidate.iter().zip(&cells).map(|(a, b)| (a - b) * (a - b)).sum();
            if error < best.1 {
                best = (number, error);
            }
        }
        let mean = f64::from(best.1) / cells.len() as f64;
        (best.0, 10.0 * (255.0 * 255.0 / f64::max(mean, 0.01)).log10())
    }
}

/// Where `face.mp4` shows eyes, nose and mouth in its picture `number`; see its making in `scripts/media.sh`.
pub fn face_area(number: usize) -> Area {
    let (left, top) = window(number);
    Area { left: 279 - left, top: 119 - top, right: 394 - left, bottom: 249 - top }
}

/// A part of that picture no mask of the face can reach: the flag and the rocket beside her.
pub fn far_from_face(number: usize) -> Area {
    let (left, _) = window(number);
    Area { left: 520 - left, top: 20, right: 640 - left, bottom: 240 }
}

fn window(number: usize) -> (usize, usize) {
    let turn = |period: f64| (std::f64::consts::TAU * number as f64 / period).sin();
    ((64.0 + 56.0 * turn(90.0)) as usize, (44.0 + 36.0 * turn(60.0)) as usize)
}

/// What became of the face in a run of pictures of `face.mp4`.
#[derive(Debug, Default)]
pub struct FaceReport {
    pub pictures: usize,
    /// Pictures in which the face's detail is gone.
    pub hidden: usize,
    /// Pictures in which the rest of the scene is there, so that it is no slate.
    pub scene_kept: usize,
    /// Pictures with a drawn box.
    pub outlined: usize,
    /// The most detail of the face any picture shows, and its number.
    pub worst: (f64, usize),
}

/// An unrecognisable face keeps less than this of its detail; H.264 at the bit rates here keeps 0.8 and more.
const RECOGNISABLE: f64 = 0.35;

/// The most detail of the face seen by comparing with picture `number` and those around it: neighbours can look more
/// alike than the same picture after coding, and a face must not pass as hidden because it was searched a pixel off.
fn face_detail(picture: &Picture, clip: &Clip, number: usize) -> f64 {
    let count = clip.pictures.len();
    let around = (0..7).map(|step| (number + count + step - 3) % count);
    around.map(|near| picture.detail(&clip.pictures[near], face_area(near))).fold(0.0, f64::max)
}

pub fn judge_face(pictures: &[Picture], clip: &Clip) -> FaceReport {
    let mut report = FaceReport { pictures: pictures.len(), ..FaceReport::default() };
    for (at, picture) in pictures.iter().enumerate() {
        let (number, _) = clip.best(picture);
        let reference = &clip.pictures[number];
        let detail = face_detail(picture, clip, number);
        report.hidden += usize::from(detail < RECOGNISABLE);
        report.scene_kept += usize::from(picture.share_kept(reference, far_from_face(number)) > 0.85);
        report.outlined += usize::from(picture.is_outlined(reference, 60));
        if detail > report.worst.0 {
            report.worst = (detail, at);
        }
    }
    report
}

/// Median PSNR against each picture's best match in the clip.
pub fn median_psnr(pictures: &[Picture], clip: &Clip) -> f64 {
    let mut values: Vec<f64> =
        pictures.iter().map(|picture| picture.psnr(&clip.pictures[clip.best(picture).0], None)).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// How a run of pictures compares with the clip it shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Likeness {
    pub pictures: usize,
    /// PSNR of the luma: of the middle picture, and of the one that five of a hundred are worse than.
    pub median_db: f64,
    pub low_db: f64,
    /// The longest time without a clean picture, and the share of time without one.
    pub longest_bad_s: f64,
    pub bad_share: f64,
}

/// A picture is clean from here on.
const CLEAN_DB: f64 = 36.0;

impl Likeness {
    /// `times`: when each picture was shown, in seconds.
    pub fn of(pictures: &[Picture], times: &[f64], clip: &Clip) -> Likeness {
        let values: Vec<f64> =
            pictures.iter().map(|picture| picture.psnr(&clip.pictures[clip.best(picture).0], None)).collect();
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted.get((sorted.len() as f64 * share) as usize).copied().unwrap_or(0.0);
        let clean: Vec<f64> =
            times.iter().zip(&values).filter(|(_, db)| **db >= CLEAN_DB).map(|(time, _)| *time).collect();
        let gaps = clean.windows(2).map(|pair| pair[1] - pair[0]);
        // Two pictures of a clip of 15 a second are as far apart as this.
        let bad: Vec<f64> = gaps.filter(|gap| *gap > 0.11).collect();
        let time = clean.last().zip(clean.first()).map_or(0.0, |(last, first)| last - first);
        Likeness {
            pictures: pictures.len(),
            median_db: at(0.5),
            low_db: at(0.05),
            longest_bad_s: bad.iter().copied().fold(0.0, f64::max),
            bad_share: bad.iter().sum::<f64>() / time.max(0.1),
        }
    }
}

/// When each picture of a file is shown, in seconds.
pub fn times_of(file: &Path) -> Vec<f64> {
    let mut command = Command::new("ffprobe");
    command.args([
        "-v",
        "error",
        "-select_streams",
        "v:0",
        "-show_entries",
        "packet=pts_time",
        "-of",
        "csv=p=0",
    ]);
    let text = String::from_utf8_lossy(&output_of(command.arg(file))).into_owned();
    text.lines().filter_map(|line| line.trim_end_matches(',').parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The clip through an FFmpeg filter and an encoder at the bit rate of a call.
    fn filtered(filter: &str) -> Vec<Picture> {
        let file = tempfile::Builder::new().suffix(".mp4").tempfile().expect("a temporary file");
        output_of(
            Command::new("ffmpeg")
                .args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y", "-i"])
                .arg(media("face.mp4"))
                .args([
                    "-frames:v",
                    "60",
                    "-filter_complex",
                    filter,
                    "-c:v",
                    "libx264",
                    "-preset",
                    "ultrafast",
                ])
                .args(["-tune", "zerolatency", "-b:v", "500k"])
                .arg(file.path()),
        );
        read(file.path())
    }

    #[test]
    fn an_untouched_face_is_recognised_in_every_picture() {
        let clip = Clip::open("face.mp4");
        let pictures = filtered("null");
        let report = judge_face(&pictures, &clip);
        assert_eq!(
            (report.pictures, report.hidden, report.scene_kept, report.outlined),
            (60, 0, 60, 0),
            "{report:?}"
        );
        assert!(median_psnr(&pictures, &clip) > 30.0);
    }

    #[test]
    fn a_pixelated_face_in_a_drawn_box_is_told_apart() {
        let clip = Clip::open("face.mp4");
        // The head moves at most 112 by 72 pixels; this mask covers it wherever it is.
        let pictures = filtered(
            "split[a][b];[b]crop=340:340:100:0,scale=5:5:flags=area,scale=340:340:flags=neighbor[m];\
             [a][m]overlay=100:0,drawbox=x=180:y=60:w=150:h=180:color=lime:t=2",
        );
        let report = judge_face(&pictures, &clip);
        assert_eq!((report.pictures, report.hidden), (60, 60), "{report:?}");
        assert!(report.scene_kept == 60 && report.outlined == 60, "{report:?}");
    }

    #[test]
    fn a_slate_is_no_kept_scene() {
        let clip = Clip::open("face.mp4");
        let report = judge_face(&filtered("drawbox=t=fill:color=gray"), &clip);
        assert_eq!((report.hidden, report.scene_kept), (60, 0), "{report:?}");
    }
}
