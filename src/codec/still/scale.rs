//! One swscale context: from one shape, format and range to another, again and again.
//!
//! Shared by `encode` and `decode`. Bicubic, and every source pixel counts when a picture becomes smaller. BT.601, as
//! JPEG's files are.

use std::ffi::c_int;
use std::ptr;

use ffmpeg_next::ffi::{self, AVPixelFormat};

use crate::codec::ffmpeg::{broken, check};
use crate::media::codec::CodecError;

/// One end of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub width: c_int,
    pub height: c_int,
    pub format: AVPixelFormat,
    /// Luma from 0 to 255 rather than 16 to 235.
    pub full: bool,
}

/// Where the planes of one end begin and how long their lines are.
#[derive(Clone, Copy)]
pub struct Planes {
    pub data: [*mut u8; 4],
    pub lines: [c_int; 4],
}

pub struct Scaling {
    context: *mut ffi::SwsContext,
    from: Shape,
    to: Shape,
}

// SAFETY: the scaling context is used by one thread at a time, through `&mut`.
unsafe impl Send for Scaling {}

impl Scaling {
    pub fn new(from: Shape, to: Shape) -> Result<Self, CodecError> {
        let how = ffi::SWS_BICUBIC | ffi::SWS_ACCURATE_RND | ffi::SWS_FULL_CHR_H_INT;
        // SAFETY: allocates; freed by the owner made at once.
        let context = unsafe { ffi::sws_alloc_context() };
        if context.is_null() {
            return Err(broken("no memory for scaling"));
        }
        let scaling = Scaling { context, from, to };
        // Before it is initialised: afterwards a change of range between equal formats would be ignored.
        for (option, value) in [
            (c"srcw", from.width),
            (c"srch", from.height),
            (c"src_format", from.format as c_int),
            (c"src_range", c_int::from(from.full)),
            (c"dstw", to.width),
            (c"dsth", to.height),
            (c"dst_format", to.format as c_int),
            (c"dst_range", c_int::from(to.full)),
            (c"sws_flags", how),
        ] {
            // SAFETY: the context is valid and begins with its class; the name is terminated.
            let code = unsafe { ffi::av_opt_set_int(context.cast(), option.as_ptr(), i64::from(value), 0) };
            check(code, "setting up a scaler")?;
        }
        let null = ptr::null_mut();
        // SAFETY: the context is valid; no filters are given.
        let code = unsafe { ffi::sws_init_context(context, null, null) };
        check(code, &format!("converting from {from:?} to {to:?}"))?;
        Ok(scaling)
    }

    /// The one in `slot` if it does this conversion, else a new one in its place.
    pub fn kept(slot: &mut Option<Scaling>, from: Shape, to: Shape) -> Result<&mut Scaling, CodecError> {
        let scaling = match slot.take() {
            Some(scaling) if scaling.from == from && scaling.to == to => scaling,
            _ => Scaling::new(from, to)?,
        };
        Ok(slot.insert(scaling))
    }

    /// # Safety
    /// `from` and `to` must hold pictures of the shapes this was made for, `to` writable and nobody else's.
    pub unsafe fn run(&mut self, from: Planes, to: Planes) -> Result<(), CodecError> {
        let source = from.data.map(|plane| plane.cast_const());
        // SAFETY: as promised by the caller.
        let code = unsafe {
            ffi::sws_scale(
                self.context,
                source.as_ptr(),
                from.lines.as_ptr(),
                0,
                self.from.height,
                to.data.as_ptr(),
                to.lines.as_ptr(),
            )
        };
        check(code, "scaling a picture").map(drop)
    }
}

impl Drop for Scaling {
    fn drop(&mut self) {
        // SAFETY: this is the only owner.
        unsafe { ffi::sws_freeContext(self.context) };
    }
}
