//! The last sound heard, for those who learn late that it was wanted.
//!
//! Pure. A ring of fixed length; nothing is allocated after the start.

/// A ring of samples.
pub struct History {
    ring: Box<[i16]>,
    /// Where the next sample goes.
    next: usize,
    filled: usize,
}

impl History {
    /// Keeps the last `samples`.
    pub fn new(samples: usize) -> Self {
        History { ring: vec![0; samples.max(1)].into_boxed_slice(), next: 0, filled: 0 }
    }

    pub fn push(&mut self, block: &[i16]) {
        let kept = self.ring.len();
        let block = &block[block.len().saturating_sub(kept)..];
        let (head, tail) = block.split_at(block.len().min(kept - self.next));
        self.ring[self.next..self.next + head.len()].copy_from_slice(head);
        self.ring[..tail.len()].copy_from_slice(tail);
        self.next = (self.next + block.len()) % kept;
        self.filled = (self.filled + block.len()).min(kept);
    }

    /// Replaces `into` by the last `samples`, fewer where there are none.
    pub fn last(&self, samples: usize, into: &mut Vec<i16>) {
        into.clear();
        let wanted = samples.min(self.filled);
        let start = (self.next + self.ring.len() - wanted) % self.ring.len();
        let head = wanted.min(self.ring.len() - start);
        into.extend_from_slice(&self.ring[start..start + head]);
        into.extend_from_slice(&self.ring[..wanted - head]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_samples_come_back_whatever_the_blocks() {
        let sound: Vec<i16> = (0..1_000).collect();
        for block in [1, 7, 64, 100, 333] {
            let mut history = History::new(100);
            let mut into = vec![1, 2, 3];
            history.last(5, &mut into);
            assert!(into.is_empty());
            let mut pushed = 0;
            for part in sound.chunks(block) {
                history.push(part);
                pushed += part.len();
                for wanted in [0, 1, 50, 100, 200] {
                    history.last(wanted, &mut into);
                    let have = wanted.min(100).min(pushed);
                    assert_eq!(into, sound[pushed - have..pushed], "blocks of {block}, {wanted} wanted");
                }
            }
        }
    }
}
