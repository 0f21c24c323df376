//! Which pictures a model still has before it: the last few, and those that are pinned.
//!
//! Pure. Without it every picture stays in the conversation, is paid for again with every turn, and after half a minute
//! the model answers about what was there before. `Context` uses it for models that are sent the whole conversation
//! each time, a realtime session deletes what [`Memory::show`] returns.

use std::collections::VecDeque;

use crate::talk::message::Image;

/// The ids of the pictures one model knows.
#[derive(Clone, Debug)]
pub struct Memory {
    keep: usize,
    /// Newest last, without pinned ones.
    held: VecDeque<u64>,
}

impl Memory {
    /// Keeps the last `keep` pictures; 0 keeps those that are pinned only.
    pub fn new(keep: usize) -> Self {
        Memory { keep, held: VecDeque::with_capacity(keep + 1) }
    }

    /// `image` is shown now. Returns what is to be forgotten for it: `image` itself when nothing is kept. One that is
    /// shown again counts as new.
    pub fn show(&mut self, image: &Image) -> Vec<u64> {
        if image.pinned {
            return Vec::new();
        }
        self.held.retain(|id| *id != image.id);
        self.held.push_back(image.id);
        let over = self.held.len().saturating_sub(self.keep);
        self.held.drain(..over).collect()
    }

    /// Whether the model has it. Pinned pictures are not asked about.
    pub fn holds(&self, id: u64) -> bool {
        self.held.contains(&id)
    }

    /// The ids it has, oldest first.
    pub fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.held.iter().copied()
    }

    /// Nothing is known any more: a new session. Returns what was.
    pub fn clear(&mut self) -> Vec<u64> {
        self.held.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::still::ImageType;
    use crate::media::frame::Size;

    fn image(id: u64) -> Image {
        Image::given(id, ImageType::Jpeg, vec![0], Size::new(1, 1), "a picture")
    }

    #[test]
    fn the_oldest_goes_and_what_is_shown_again_stays() {
        let mut memory = Memory::new(2);
        assert!(memory.show(&image(1)).is_empty());
        assert!(memory.show(&image(2)).is_empty());
        assert!(memory.show(&image(1)).is_empty());
        assert_eq!(memory.show(&image(3)), [2]);
        assert!(memory.holds(1) && memory.holds(3) && !memory.holds(2));
        assert_eq!(memory.clear(), [1, 3]);
    }

    #[test]
    fn pinned_pictures_take_no_place_and_none_is_kept_of_none() {
        let mut memory = Memory::new(1);
        memory.show(&image(1));
        let mut pinned = image(2);
        pinned.pinned = true;
        assert!(memory.show(&pinned).is_empty());
        assert!(memory.holds(1));
        assert_eq!(Memory::new(0).show(&image(7)), [7]);
    }
}
