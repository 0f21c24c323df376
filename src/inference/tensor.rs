//! From a picture to a network's input tensor: placing, scaling, colour, padding, normalising.
//!
//! Pure. Scaling is bilinear with half-pixel centres and no antialiasing on 8-bit samples, rounded: the published
//! figures of the models were made so, and an antialiased resize costs a tenth of the faces. I420 (BT.601, limited
//! range) is scaled plane by plane straight to the tensor's size; no RGB picture of the source ever exists.

use crate::inference::manifest::{Colour, Contract, Fit};
use crate::media::codec::Rect;
use crate::media::frame::Size;

/// A picture to look at.
#[derive(Clone, Copy, Debug)]
pub enum Picture<'a> {
    /// Y, U and V planes without padding, [`Size::i420_len`] bytes.
    I420 { size: Size, bytes: &'a [u8] },
    /// Interleaved full-range RGB, 3 bytes a pixel.
    Rgb8 { size: Size, bytes: &'a [u8] },
}

impl Picture<'_> {
    pub fn size(&self) -> Size {
        match self {
            Picture::I420 { size, .. } | Picture::Rgb8 { size, .. } => *size,
        }
    }

    /// Whether there are as many bytes as the size says, and at least one pixel.
    pub fn is_whole(&self) -> bool {
        match self {
            Picture::I420 { size, bytes } => !bytes.is_empty() && bytes.len() >= size.i420_len(),
            Picture::Rgb8 { size, bytes } => !bytes.is_empty() && bytes.len() >= size.width * size.height * 3,
        }
    }
}

/// Where the picture lies in the tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    pub picture: Size,
    pub tensor: Size,
    /// Size of the scaled picture inside the tensor, and its top left corner.
    pub content: Size,
    pub left: usize,
    pub top: usize,
    scale_x: f32,
    scale_y: f32,
}

impl Placement {
    pub fn new(fit: Fit, picture: Size, tensor: Size) -> Self {
        let scale_x = tensor.width as f32 / picture.width.max(1) as f32;
        let scale_y = tensor.height as f32 / picture.height.max(1) as f32;
        if fit == Fit::Stretch {
            return Placement { picture, tensor, content: tensor, left: 0, top: 0, scale_x, scale_y };
        }
        let scale = scale_x.min(scale_y);
        let scaled =
            |side: usize, most: usize| ((side as f32 * scale).round_ties_even() as usize).clamp(1, most);
        let content = Size::new(scaled(picture.width, tensor.width), scaled(picture.height, tensor.height));
        let (left, top) = match fit {
            Fit::Centred => ((tensor.width - content.width) / 2, (tensor.height - content.height) / 2),
            Fit::TopLeft | Fit::Stretch => (0, 0),
        };
        Placement { picture, tensor, content, left, top, scale_x: scale, scale_y: scale }
    }

    /// A box in tensor pixels as a box in picture pixels, cut at the picture's edges.
    pub fn to_picture(&self, rect: &Rect) -> Rect {
        let (width, height) = (self.picture.width as f32, self.picture.height as f32);
        let x = |x: f32| ((x - self.left as f32) / self.scale_x).clamp(0.0, width);
        let y = |y: f32| ((y - self.top as f32) / self.scale_y).clamp(0.0, height);
        Rect { x1: x(rect.x1), y1: y(rect.y1), x2: x(rect.x2), y2: y(rect.y2) }
    }
}

/// Fills tensors; keeps its tables and rows between pictures of the same size.
#[derive(Default)]
pub struct Filler {
    scalers: Vec<PlaneScaler>,
    rows: [Vec<u8>; 3],
}

impl Filler {
    /// Writes the whole tensor: `3 * width * height` values in `contract`'s colour order.
    ///
    /// The picture must be whole ([`Picture::is_whole`]) and have the placement's size.
    pub fn fill(
        &mut self,
        picture: &Picture<'_>,
        contract: &Contract,
        placement: &Placement,
        tensor: &mut Vec<f32>,
    ) {
        let area = placement.tensor.width * placement.tensor.height;
        tensor.resize(3 * area, 0.0);
        pad(contract, placement, tensor);
        self.prepare(picture, placement);
        for row in &mut self.rows {
            row.resize(placement.content.width, 0);
        }
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            unsafe { self.fill_rows_avx2(picture, contract, placement, tensor) };
            return;
        }
        self.fill_rows(picture, contract, placement, tensor);
    }

    /// The same code for processors with wider registers: half the time.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn fill_rows_avx2(
        &mut self,
        picture: &Picture<'_>,
        contract: &Contract,
        placement: &Placement,
        tensor: &mut [f32],
    ) {
        self.fill_rows(picture, contract, placement, tensor);
    }

    // Inlined, with what it calls, so that it is compiled once for each kind of processor.
    #[inline(always)]
    fn fill_rows(
        &mut self,
        picture: &Picture<'_>,
        contract: &Contract,
        placement: &Placement,
        tensor: &mut [f32],
    ) {
        let area = placement.tensor.width * placement.tensor.height;
        let Size { width, height } = placement.content;
        let planes = channels(picture);
        let [first, second, third] = &mut self.rows;
        for y in 0..height {
            let rows = [&mut *first, &mut *second, &mut *third];
            for ((row, scaler), plane) in rows.into_iter().zip(&mut self.scalers).zip(planes) {
                scaler.row(plane, y, row);
            }
            if matches!(picture, Picture::I420 { .. }) {
                to_rgb(first, second, third);
            }
            let start = (placement.top + y) * placement.tensor.width + placement.left;
            for (channel, mean) in contract.mean.into_iter().enumerate() {
                let source: &[u8] = match (channel, contract.colour) {
                    (0, Colour::Rgb) | (2, Colour::Bgr) => first,
                    (1, Colour::Rgb | Colour::Bgr) => second,
                    _ => third,
                };
                let from = channel * area + start;
                normalise(source, &mut tensor[from..from + width], mean, contract.scale);
            }
        }
    }

    fn prepare(&mut self, picture: &Picture<'_>, placement: &Placement) {
        let size = placement.picture;
        let chroma = size.chroma();
        let sources = match picture {
            Picture::I420 { .. } => [(size, 1), (chroma, 1), (chroma, 1)],
            Picture::Rgb8 { .. } => [(size, 3), (size, 3), (size, 3)],
        };
        self.scalers.resize_with(sources.len(), PlaneScaler::default);
        for (scaler, (source, step)) in self.scalers.iter_mut().zip(sources) {
            scaler.prepare(source, placement.content, step);
        }
    }
}

/// The three sample planes of a picture; interleaved ones start at their own channel.
fn channels<'a>(picture: &Picture<'a>) -> [&'a [u8]; 3] {
    match *picture {
        Picture::I420 { size, bytes } => {
            let chroma = size.chroma();
            let (y, rest) = bytes.split_at(size.width * size.height);
            let (u, v) = rest.split_at(chroma.width * chroma.height);
            [y, u, v]
        }
        Picture::Rgb8 { bytes, .. } => [bytes, &bytes[1..], &bytes[2..]],
    }
}

/// Fills what the picture does not cover.
fn pad(contract: &Contract, placement: &Placement, tensor: &mut [f32]) {
    let Placement { tensor: size, content, left, top, .. } = *placement;
    if content == size {
        return;
    }
    for (plane, mean) in tensor.chunks_exact_mut(size.width * size.height).zip(contract.mean) {
        let value = (f32::from(contract.pad) - mean) * contract.scale;
        for (y, row) in plane.chunks_exact_mut(size.width).enumerate() {
            if y < top || y >= top + content.height {
                row.fill(value);
            } else {
                row[..left].fill(value);
                row[left + content.width..].fill(value);
            }
        }
    }
}

#[inline(always)]
fn normalise(source: &[u8], target: &mut [f32], mean: f32, scale: f32) {
    for (value, pixel) in target.iter_mut().zip(source) {
        *value = (f32::from(*pixel) - mean) * scale;
    }
}

/// BT.601 limited-range Y, U, V to full-range R, G, B, in place; 16-bit fixed point.
#[inline(always)]
fn to_rgb(first: &mut [u8], second: &mut [u8], third: &mut [u8]) {
    const HALF: i32 = 1 << 15;
    for ((a, b), c) in first.iter_mut().zip(second).zip(third) {
        let y = (i32::from(*a) - 16) * 76_309 + HALF;
        let u = i32::from(*b) - 128;
        let v = i32::from(*c) - 128;
        *a = ((y + 104_597 * v) >> 16).clamp(0, 255) as u8;
        *b = ((y - 25_675 * u - 53_279 * v) >> 16).clamp(0, 255) as u8;
        *c = ((y + 132_201 * u) >> 16).clamp(0, 255) as u8;
    }
}

/// Interpolation weights are 11-bit fractions: two of them and a sample stay inside 30 bits.
const WEIGHT_BITS: u32 = 11;
const ONE: i32 = 1 << WEIGHT_BITS;

/// Two neighbours on one axis and the weight of the second.
#[derive(Clone, Copy, Default)]
struct Tap {
    low: u32,
    high: u32,
    weight: i32,
}

/// Scales one plane row by row; a source row is interpolated once however many target rows it serves.
#[derive(Default)]
struct PlaneScaler {
    from: Size2,
    to: Size2,
    step: usize,
    across: Vec<Tap>,
    down: Vec<Tap>,
    cached: [Cached; 2],
}

type Size2 = (usize, usize);

#[derive(Default)]
struct Cached {
    line: Option<u32>,
    values: Vec<i32>,
}

impl PlaneScaler {
    fn prepare(&mut self, from: Size, to: Size, step: usize) {
        let (from, to) = ((from.width, from.height), (to.width, to.height));
        for cached in &mut self.cached {
            cached.line = None;
        }
        if (self.from, self.to, self.step) == (from, to, step) {
            return;
        }
        self.across = taps(from.0, to.0);
        self.down = taps(from.1, to.1);
        (self.from, self.to, self.step) = (from, to, step);
    }

    /// Target row `y` of `plane` into `out`.
    #[inline(always)]
    fn row(&mut self, plane: &[u8], y: usize, out: &mut [u8]) {
        if self.from == self.to && self.step == 1 {
            let start = y * self.from.0;
            out.copy_from_slice(&plane[start..start + self.from.0]);
            return;
        }
        let Some(tap) = self.down.get(y).copied() else { return };
        self.interpolate(plane, tap.low);
        if tap.weight != 0 {
            self.interpolate(plane, tap.high);
        }
        let low = &self.cached[(tap.low & 1) as usize].values;
        let high = if tap.weight == 0 { low } else { &self.cached[(tap.high & 1) as usize].values };
        for ((value, low), high) in out.iter_mut().zip(low).zip(high) {
            let sum = low * (ONE - tap.weight) + high * tap.weight;
            *value = ((sum + (1 << (2 * WEIGHT_BITS - 1))) >> (2 * WEIGHT_BITS)) as u8;
        }
    }

    /// Source line `line`, interpolated across, into its cache place. Neighbouring lines never share one.
    #[inline(always)]
    fn interpolate(&mut self, plane: &[u8], line: u32) {
        let cached = &mut self.cached[(line & 1) as usize];
        if cached.line == Some(line) {
            return;
        }
        cached.line = Some(line);
        cached.values.resize(self.to.0, 0);
        let width = self.from.0 * self.step;
        let start = line as usize * width;
        // The last pixel of an interleaved plane ends before the row does: its other channels lie outside the view.
        let source = &plane[start..plane.len().min(start + width)];
        for (value, tap) in cached.values.iter_mut().zip(&self.across) {
            let low = i32::from(source[tap.low as usize * self.step]);
            let high = i32::from(source[tap.high as usize * self.step]);
            *value = (low << WEIGHT_BITS) + (high - low) * tap.weight;
        }
    }
}

/// Half-pixel centres: target sample `i` lies at `(i + 0.5) * from / to - 0.5` of the source, held inside it.
fn taps(from: usize, to: usize) -> Vec<Tap> {
    let ratio = from as f64 / to.max(1) as f64;
    let last = from.saturating_sub(1) as u32;
    let tap = |i: usize| {
        let at = ((i as f64 + 0.5) * ratio - 0.5).clamp(0.0, f64::from(last));
        let low = at as u32;
        let weight = ((at - f64::from(low)) * f64::from(ONE)).round() as i32;
        Tap { low, high: (low + 1).min(last), weight }
    };
    (0..to).map(tap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::manifest::Manifest;

    fn contract(fit: Fit, colour: Colour, pad: u8) -> Contract {
        let model = Manifest::built_in().model("yolox-nano").expect("listed");
        Contract { fit, colour, pad, ..model.contract.clone().expect("a picture model") }
    }

    fn tensor(picture: &Picture<'_>, contract: &Contract, to: Size) -> Vec<f32> {
        let placement = Placement::new(contract.fit, picture.size(), to);
        let mut filler = Filler::default();
        let mut values = vec![-1.0; 7];
        filler.fill(picture, contract, &placement, &mut values);
        let once = values.clone();
        filler.fill(picture, contract, &placement, &mut values);
        assert_eq!(once, values, "what is kept between pictures must not show");
        values
    }

    #[test]
    fn scaling_is_bilinear_with_half_pixel_centres_and_without_antialiasing() {
        // Values computed by hand from src = (i + 0.5) * from / to - 0.5.
        let grey: Vec<u8> = [0u8, 100, 200, 40].iter().flat_map(|v| [*v; 3]).collect();
        let picture = Picture::Rgb8 { size: Size::new(4, 1), bytes: &grey };
        let to = |w| tensor(&picture, &contract(Fit::Stretch, Colour::Rgb, 0), Size::new(w, 1))[..w].to_vec();
        assert_eq!(to(4), [0.0, 100.0, 200.0, 40.0]);
        assert_eq!(to(2), [50.0, 120.0]);
        assert_eq!(to(8), [0.0, 25.0, 75.0, 125.0, 175.0, 160.0, 80.0, 40.0]);
        assert_eq!(to(1), [150.0]);
    }

    #[test]
    fn rows_are_interpolated_down_as_well_as_across() {
        let bytes: Vec<u8> = [0u8, 0, 80, 160].iter().flat_map(|v| [*v; 3]).collect();
        let picture = Picture::Rgb8 { size: Size::new(2, 2), bytes: &bytes };
        let values = tensor(&picture, &contract(Fit::Stretch, Colour::Rgb, 0), Size::new(4, 4));
        assert_eq!(values[4..8], [20.0, 25.0, 35.0, 40.0]);
        assert_eq!(values[12..16], [80.0, 100.0, 140.0, 160.0]);
    }

    #[test]
    fn the_picture_stands_top_left_or_centred_in_its_padding() {
        let bytes = [255u8; 8 * 4 * 3];
        let picture = Picture::Rgb8 { size: Size::new(8, 4), bytes: &bytes };
        let top = tensor(&picture, &contract(Fit::TopLeft, Colour::Bgr, 114), Size::new(4, 4));
        assert_eq!(top[..8], [255.0; 8]);
        assert_eq!(top[8..16], [114.0; 8]);
        let middle = tensor(&picture, &contract(Fit::Centred, Colour::Bgr, 114), Size::new(4, 4));
        assert_eq!(middle[..4], [114.0; 4]);
        assert_eq!(middle[4..12], [255.0; 8]);
        assert_eq!(middle[28..32], [114.0; 4]);
    }

    #[test]
    fn colour_planes_stand_in_the_order_the_model_wants() {
        let picture = Picture::Rgb8 { size: Size::new(1, 1), bytes: &[10, 20, 30] };
        assert_eq!(
            tensor(&picture, &contract(Fit::Stretch, Colour::Rgb, 0), Size::new(1, 1)),
            [10.0, 20.0, 30.0]
        );
        let mut normalised = contract(Fit::Stretch, Colour::Bgr, 0);
        normalised.mean = [30.0, 0.0, 0.0];
        normalised.scale = 0.5;
        assert_eq!(tensor(&picture, &normalised, Size::new(1, 1)), [0.0, 10.0, 5.0]);
    }

    #[test]
    fn i420_is_read_as_bt601_limited_range() {
        let check = |yuv: [u8; 3], rgb: [f32; 3]| {
            let bytes = [&[yuv[0]; 4][..], &[yuv[1]], &[yuv[2]]].concat();
            let picture = Picture::I420 { size: Size::new(2, 2), bytes: &bytes };
            let values = tensor(&picture, &contract(Fit::Stretch, Colour::Rgb, 0), Size::new(1, 1));
            assert_eq!(values, rgb, "{yuv:?}");
        };
        check([16, 128, 128], [0.0, 0.0, 0.0]);
        check([235, 128, 128], [255.0, 255.0, 255.0]);
        check([81, 90, 240], [254.0, 0.0, 0.0]);
        check([145, 54, 34], [0.0, 255.0, 1.0]);
        check([41, 240, 110], [0.0, 0.0, 255.0]);
    }

    #[test]
    fn odd_sizes_and_chroma_planes_of_their_own_size_are_covered() {
        for (w, h) in [(1, 1), (3, 5), (17, 9), (2, 64)] {
            let size = Size::new(w, h);
            let bytes = vec![128u8; size.i420_len()];
            let picture = Picture::I420 { size, bytes: &bytes };
            assert!(picture.is_whole());
            let values = tensor(&picture, &contract(Fit::TopLeft, Colour::Rgb, 7), Size::new(32, 32));
            assert_eq!(values[0], 130.0);
            assert!(values.iter().all(|v| *v == 130.0 || *v == 7.0));
        }
    }

    #[test]
    fn boxes_return_to_the_picture_and_stop_at_its_edge() {
        let placement = Placement::new(Fit::Centred, Size::new(640, 360), Size::new(320, 320));
        let rect = placement.to_picture(&Rect { x1: 10.0, y1: 80.0, x2: 20.0, y2: 500.0 });
        assert_eq!(rect, Rect { x1: 20.0, y1: 20.0, x2: 40.0, y2: 360.0 });
    }
}
