//! Driver (a lock around a free list). A fixed number of picture buffers per call.
//!
//! The pool bounds what pictures of one call can cost. Its size is a sum over every holder, written next to the
//! constant that uses it. An empty pool drops the new picture; it never grows.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::time::Pts;
use crate::media::frame::{FrameMut, Plane, Size};

/// A buffer is used again for pictures that need at least this part of it.
const KEPT_FACTOR: usize = 2;

struct Shared {
    capacity: usize,
    out: AtomicUsize,
    refused: AtomicU64,
    free: Mutex<Vec<Vec<u8>>>,
}

/// Buffers for the pictures of one call. Cloning shares the pool.
#[derive(Clone)]
pub struct FramePool {
    shared: Arc<Shared>,
}

impl FramePool {
    /// At most `count` pictures exist at a time. Memory is taken on first use.
    pub fn new(count: usize) -> Self {
        let free = Mutex::new(Vec::with_capacity(count));
        let shared = Shared { capacity: count, out: AtomicUsize::new(0), refused: AtomicU64::new(0), free };
        FramePool { shared: Arc::new(shared) }
    }

    /// A buffer for a picture of `size`; its content is what the last user left. `None`: all are in use.
    pub fn take_sized(&self, size: Size, pts: Pts) -> Option<FrameMut> {
        let claim = |out: usize| (out < self.shared.capacity).then_some(out + 1);
        if self.shared.out.fetch_update(Ordering::AcqRel, Ordering::Acquire, claim).is_err() {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let recycled = self.shared.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let wanted = size.i420_len();
        // One broken parameter set may speak of huge pictures: what they took is not kept for small ones.
        let mut bytes = recycled.filter(|bytes| bytes.capacity() <= KEPT_FACTOR * wanted).unwrap_or_default();
        bytes.resize(wanted, 0);
        Some(FrameMut::new(Buffer { bytes, size, home: self.shared.clone() }, pts))
    }

    /// Pictures refused because all buffers were in use.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Buffers in use.
    pub fn in_use(&self) -> usize {
        self.shared.out.load(Ordering::Acquire)
    }
}

/// One picture's memory; goes back to its pool when dropped.
pub struct Buffer {
    bytes: Vec<u8>,
    size: Size,
    home: Arc<Shared>,
}

impl Buffer {
    pub(super) fn size(&self) -> Size {
        self.size
    }

    fn bounds(&self) -> (usize, usize) {
        let luma = self.size.width * self.size.height;
        let chroma = self.size.chroma();
        (luma, luma + chroma.width * chroma.height)
    }

    pub(super) fn plane(&self, plane: Plane) -> &[u8] {
        let (u, v) = self.bounds();
        match plane {
            Plane::Y => &self.bytes[..u],
            Plane::U => &self.bytes[u..v],
            Plane::V => &self.bytes[v..],
        }
    }

    pub(super) fn planes_mut(&mut self) -> [&mut [u8]; 3] {
        let (u, v) = self.bounds();
        let (y, rest) = self.bytes.split_at_mut(u);
        let (u, v) = rest.split_at_mut(v - y.len());
        [y, u, v]
    }

    pub(super) fn plane_mut(&mut self, plane: Plane) -> &mut [u8] {
        let [y, u, v] = self.planes_mut();
        match plane {
            Plane::Y => y,
            Plane::U => u,
            Plane::V => v,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.home.free.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        self.home.out.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_pool_refuses_and_a_dropped_picture_returns() {
        let pool = FramePool::new(1);
        let size = Size::new(4, 2);
        let picture = pool.take_sized(size, Pts::ZERO);
        assert!(picture.is_some());
        assert!(pool.take_sized(size, Pts::ZERO).is_none());
        assert_eq!(pool.refused(), 1);
        drop(picture);
        assert!(pool.take_sized(Size::new(640, 360), Pts::ZERO).is_some());
    }

    #[test]
    fn what_one_huge_picture_took_is_not_kept_for_small_ones() {
        let pool = FramePool::new(1);
        let kept = |size: Size| {
            drop(pool.take_sized(size, Pts::ZERO).expect("room"));
            pool.shared.free.lock().expect("unbroken")[0].capacity()
        };
        let (huge, small) = (Size::new(2048, 1024), Size::new(320, 180));
        assert!(kept(huge) >= huge.i420_len());
        assert!(kept(small) <= KEPT_FACTOR * small.i420_len());
        assert_eq!(kept(Size::new(300, 180)), kept(small), "what fits is used again");
    }

    #[test]
    fn a_sole_owner_edits_in_place_and_a_shared_picture_is_copied() {
        let pool = FramePool::new(2);
        let frame = pool.take_sized(Size::new(2, 2), Pts::ZERO).map(FrameMut::freeze).expect("room");
        let kept = frame.clone();
        let mut edited = frame.edit(&pool).expect("room for the copy");
        edited.plane_mut(Plane::Y)[0] = 99;
        assert_ne!(kept.plane(Plane::Y)[0], 99);
        drop(kept);
        let alone = edited.freeze();
        assert_eq!(alone.edit(&pool).expect("no copy needed").plane(Plane::Y)[0], 99);
        assert_eq!(pool.in_use(), 0);
    }
}
