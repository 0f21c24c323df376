//! Which packet indexes were seen (RFC 3711 §3.3.2): nothing is taken twice, nothing older than the window at all.

/// Indexes remembered below the highest: a burst of large pictures that overtakes itself stays inside.
const SPAN: u64 = 1024;
const WORDS: usize = (SPAN / 64) as usize;

/// The indexes of one stream, from its first packet on.
#[derive(Clone, Debug)]
pub struct Window {
    highest: u64,
    seen: [u64; WORDS],
}

impl Window {
    /// A window whose first index is `first`.
    pub fn new(first: u64) -> Self {
        let mut window = Window { highest: first, seen: [0; WORDS] };
        window.mark(first);
        window
    }

    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// Whether a packet of this index may be new.
    pub fn is_new(&self, index: u64) -> bool {
        if index > self.highest {
            return true;
        }
        let (word, bit) = place(index);
        self.highest - index < SPAN && self.seen[word] & bit == 0
    }

    /// A packet of this index was authentic.
    pub fn take(&mut self, index: u64) {
        if index > self.highest {
            let skipped = index - self.highest - 1;
            if skipped >= SPAN {
                self.seen = [0; WORDS];
            } else {
                for between in self.highest + 1..index {
                    let (word, bit) = place(between);
                    self.seen[word] &= !bit;
                }
            }
            self.highest = index;
        }
        self.mark(index);
    }

    fn mark(&mut self, index: u64) {
        let (word, bit) = place(index);
        self.seen[word] |= bit;
    }
}

fn place(index: u64) -> (usize, u64) {
    let at = index % SPAN;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_index_passes_once_in_any_order_within_the_window() {
        let mut window = Window::new(70_000);
        assert!(!window.is_new(70_000));
        for index in [70_003, 70_001, 70_900, 70_002, 69_999] {
            assert!(window.is_new(index), "{index}");
            window.take(index);
            assert!(!window.is_new(index), "{index}");
        }
        assert!(window.is_new(70_004) && !window.is_new(70_001));
        assert!(!window.is_new(70_900 - SPAN), "too old");
        assert!(window.is_new(70_900 - SPAN + 1));
    }

    #[test]
    fn a_jump_forgets_what_lies_far_behind_and_nothing_else() {
        let mut window = Window::new(5);
        for index in 6..2_000 {
            window.take(index);
        }
        window.take(2_500);
        assert!(!window.is_new(1_999) && window.is_new(2_000) && !window.is_new(1_476));
        window.take(1 << 40);
        assert!(!window.is_new(2_500) && window.is_new((1 << 40) - 1));
    }
}
