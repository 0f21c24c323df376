//! Decoded pictures: planar I420, limited range, even sizes, read-only once frozen.
//!
//! `RawFrame` is a remote picture nobody has cleared and has no accessor; [`super::filter::Gate`] alone turns it
//! into a `CleanFrame`, the only type consumers accept. Pixels live in pooled buffers ([`super::pool`]).

use std::sync::Arc;

use crate::base::time::Pts;
use crate::media::pool::{Buffer, FramePool};

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    pub width: usize,
    pub height: usize,
}

impl Size {
    pub const fn new(width: usize, height: usize) -> Self {
        Size { width, height }
    }

    /// Width and height of the two chroma planes.
    pub const fn chroma(self) -> Size {
        Size { width: self.width.div_ceil(2), height: self.height.div_ceil(2) }
    }

    /// Bytes of one I420 picture without padding.
    pub const fn i420_len(self) -> usize {
        let chroma = self.chroma();
        self.width * self.height + 2 * chroma.width * chroma.height
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// The three planes in the order they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    Y,
    U,
    V,
}

impl Plane {
    pub const ALL: [Plane; 3] = [Plane::Y, Plane::U, Plane::V];
}

/// A frozen picture. Cloning shares the pixels (about 10 ns). Rows are contiguous: the stride is the plane's width.
#[derive(Clone)]
pub struct Frame {
    buffer: Arc<Buffer>,
    pts: Pts,
}

impl Frame {
    pub fn size(&self) -> Size {
        self.buffer.size()
    }

    pub fn pts(&self) -> Pts {
        self.pts
    }

    /// One plane, `width * height` bytes of that plane's size.
    pub fn plane(&self, plane: Plane) -> &[u8] {
        self.buffer.plane(plane)
    }

    /// All three planes, Y then U then V, [`Size::i420_len`] bytes.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }

    /// The sole owner edits in place; a shared picture is copied once. `None`: the pool is empty.
    pub fn edit(self, pool: &FramePool) -> Option<FrameMut> {
        let pts = self.pts;
        match Arc::try_unwrap(self.buffer) {
            Ok(buffer) => Some(FrameMut { buffer, pts }),
            Err(shared) => {
                let mut copy = pool.take_sized(shared.size(), pts)?;
                copy.bytes_mut().copy_from_slice(shared.bytes());
                Some(copy)
            }
        }
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({} at {} ms)", self.size(), self.pts.millis())
    }
}

/// A picture that may still be written, owned by one holder.
pub struct FrameMut {
    buffer: Buffer,
    pts: Pts,
}

impl FrameMut {
    pub(super) fn new(buffer: Buffer, pts: Pts) -> Self {
        FrameMut { buffer, pts }
    }

    pub fn size(&self) -> Size {
        self.buffer.size()
    }

    pub fn pts(&self) -> Pts {
        self.pts
    }

    pub fn plane(&self, plane: Plane) -> &[u8] {
        self.buffer.plane(plane)
    }

    pub fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }

    pub fn plane_mut(&mut self, plane: Plane) -> &mut [u8] {
        self.buffer.plane_mut(plane)
    }

    /// All planes at once: Y, U, V.
    pub fn planes_mut(&mut self) -> [&mut [u8]; 3] {
        self.buffer.planes_mut()
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.bytes_mut()
    }

    pub fn freeze(self) -> Frame {
        Frame { buffer: Arc::new(self.buffer), pts: self.pts }
    }
}

/// A picture from outside that nothing has cleared. It can be dropped or given to a gate, nothing else.
pub struct RawFrame(pub(super) Frame);

impl RawFrame {
    /// Marks a freshly decoded picture as uncleared.
    pub fn new(frame: Frame) -> Self {
        RawFrame(frame)
    }

    pub fn pts(&self) -> Pts {
        self.0.pts
    }

    pub fn size(&self) -> Size {
        self.0.size()
    }
}

/// A picture that may be shown, stored and sent: cleared by a gate, or drawn on this box from nothing remote.
#[derive(Clone, Debug)]
pub struct CleanFrame(pub(super) Frame);

impl CleanFrame {
    /// A picture that was drawn here (slate, test picture, still): it never held remote pixels.
    ///
    /// A remote picture cannot come this way: its pixels are locked in a [`RawFrame`].
    pub fn drawn_here(picture: FrameMut) -> Self {
        CleanFrame(picture.freeze())
    }

    pub fn frame(&self) -> &Frame {
        &self.0
    }

    pub fn size(&self) -> Size {
        self.0.size()
    }

    pub fn pts(&self) -> Pts {
        self.0.pts
    }

    /// The same picture at another time.
    pub fn at(&self, pts: Pts) -> Self {
        CleanFrame(Frame { buffer: self.0.buffer.clone(), pts })
    }

    /// Draws on a cleared picture; what comes out is still clear. `None`: the pool is empty.
    pub fn edit(self, pool: &FramePool, draw: impl FnOnce(&mut FrameMut)) -> Option<CleanFrame> {
        let mut picture = self.0.edit(pool)?;
        draw(&mut picture);
        Some(CleanFrame(picture.freeze()))
    }

    /// The same moment in another size or look: `draw` fills a new picture from this one, which is clear, so what
    /// comes out is. The new picture's first content is undefined. `None`: the pool is empty.
    pub fn redrawn(
        &self,
        size: Size,
        pool: &FramePool,
        draw: impl FnOnce(&Frame, &mut FrameMut),
    ) -> Option<CleanFrame> {
        let mut picture = pool.take_sized(size, self.pts())?;
        draw(&self.0, &mut picture);
        Some(CleanFrame(picture.freeze()))
    }
}
