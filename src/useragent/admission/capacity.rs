//! How many more calls the box can carry, from what it was measured to do: another call must fit into 90 % of its
//! processors. Calls that run are never touched by it.
//!
//! Pure. The figures are read by the driver; nothing is refused before there are some.

/// Load of the box, of all its processors, up to which calls are admitted.
const FULL: f32 = 0.90;
/// Once full, the load has to fall below this.
const FREE_AGAIN: f32 = 0.80;
/// What a call is taken to cost until one has been measured, and the bounds of what is believed.
const GUESSED: f32 = 0.02;
const CHEAPEST: f32 = 0.000_5;
const DEAREST: f32 = 0.5;
/// Nothing is decided on less.
const SAMPLES: u32 = 3;
/// How much a new sample counts.
const WEIGHT: f32 = 0.4;
/// Memory left for others: no call is taken below it.
const MEMORY_FLOOR: u64 = 96 << 20;
/// A call with video takes so many pairs of ports.
const PAIRS: usize = 2;

/// What was measured in the last second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Share of all processors in use, by anybody.
    pub busy: f32,
    /// Share of them in use by this process.
    pub own: f32,
    /// Bytes that could be had.
    pub memory: u64,
    /// Pairs of RTP ports nobody uses.
    pub port_pairs: usize,
}

/// The measured box.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    samples: u32,
    busy: f32,
    /// Load without calls.
    quiet: f32,
    per_call: f32,
    memory: u64,
    port_pairs: usize,
    /// Calls when it was measured.
    calls: usize,
    is_full: bool,
}

impl Default for Capacity {
    fn default() -> Self {
        Capacity {
            samples: 0,
            busy: 0.0,
            quiet: 1.0,
            per_call: GUESSED,
            memory: u64::MAX,
            port_pairs: usize::MAX,
            calls: 0,
            is_full: false,
        }
    }
}

impl Capacity {
    /// Takes the figures of one second in which `calls` were running.
    pub fn observe(&mut self, figures: Figures, calls: usize) {
        let busy = figures.busy.clamp(0.0, 1.0);
        let smooth = |old: f32, new: f32| old + (new - old) * WEIGHT;
        // What came and went since the last second is expected to show.
        let expected = self.load_with(calls, 0);
        self.busy = if self.samples == 0 { busy } else { smooth(expected, busy) };
        if calls == 0 {
            self.quiet = if self.quiet >= 1.0 { busy } else { smooth(self.quiet, busy) };
        } else if calls == self.calls {
            // Only a second without coming and going says what a call costs.
            let of_calls = figures.own.max(busy - self.quiet).max(0.0);
            let cost = (of_calls / calls as f32).clamp(CHEAPEST, DEAREST);
            self.per_call = smooth(self.per_call, cost);
        }
        (self.memory, self.port_pairs, self.calls) = (figures.memory, figures.port_pairs, calls);
        self.samples = self.samples.saturating_add(1);
        if self.is_full && self.load_with(calls, 1) < FREE_AGAIN {
            self.is_full = false;
        }
    }

    /// Whether one more call fits beside the `calls` that run.
    pub fn admit(&mut self, calls: usize) -> bool {
        if self.samples < SAMPLES {
            return true;
        }
        let began = calls.saturating_sub(self.calls);
        if self.memory < MEMORY_FLOOR || self.port_pairs < (began + 1).saturating_mul(PAIRS) {
            return false;
        }
        if calls == 0 {
            // Whoever else loads the box: the first call is not refused.
            return true;
        }
        self.is_full |= self.load_with(calls, 1) >= FULL;
        !self.is_full
    }

    /// The load to be expected with `calls` running and `more` beside them.
    fn load_with(&self, calls: usize, more: usize) -> f32 {
        let change = (calls + more) as f32 - self.calls as f32;
        (self.busy + change * self.per_call).max(0.0)
    }

    /// How many more calls fit.
    pub fn free(&self, calls: usize) -> usize {
        let began = calls.saturating_sub(self.calls);
        let by_ports = (self.port_pairs / PAIRS).saturating_sub(began);
        let by_load = ((FULL - self.load_with(calls, 0)) / self.per_call).max(0.0) as usize;
        match self.samples >= SAMPLES && (self.memory < MEMORY_FLOOR || (self.is_full && calls > 0)) {
            true => 0,
            false => by_load.min(by_ports).min(MOST),
        }
    }
}

/// More than this is not promised to anybody.
const MOST: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Figures = Figures { busy: 0.1, own: 0.05, memory: 4 << 30, port_pairs: 500 };

    fn settled(figures: Figures, calls: usize) -> Capacity {
        let mut capacity = Capacity::default();
        for _ in 0..5 {
            capacity.observe(Figures { busy: 0.1, own: 0.0, ..ROOM }, 0);
        }
        for _ in 0..30 {
            capacity.observe(figures, calls);
        }
        capacity
    }

    #[test]
    fn nothing_is_refused_before_the_box_was_measured() {
        let mut capacity = Capacity::default();
        assert!((0..1000).all(|calls| capacity.admit(calls)));
        for _ in 0..SAMPLES - 1 {
            capacity.observe(Figures { busy: 1.0, own: 1.0, memory: 0, port_pairs: 0 }, 5);
        }
        assert!(capacity.admit(5));
        capacity.observe(Figures { busy: 1.0, own: 1.0, memory: 0, port_pairs: 0 }, 5);
        assert!(!capacity.admit(5));
    }

    #[test]
    fn calls_are_admitted_until_the_next_would_fill_the_box() {
        // Ten calls cost 38 % beside the 10 % of others: 3.8 % each.
        let mut capacity = settled(Figures { busy: 0.48, own: 0.38, ..ROOM }, 10);
        assert_eq!(capacity.free(10), 11);
        let taken = (10..100).take_while(|calls| capacity.admit(*calls)).count();
        assert_eq!(taken, 11);
        // Full stays full until it is clearly not.
        capacity.observe(Figures { busy: 0.84, own: 0.74, ..ROOM }, 21);
        assert!(!capacity.admit(21) && capacity.free(21) == 0);
        for _ in 0..10 {
            capacity.observe(Figures { busy: 0.48, own: 0.38, ..ROOM }, 10);
        }
        assert!(capacity.admit(10));
    }

    #[test]
    fn load_of_others_takes_room_but_never_the_first_call() {
        let mut capacity = settled(Figures { busy: 0.99, own: 0.02, ..ROOM }, 0);
        assert!(capacity.admit(0));
        assert!(!capacity.admit(1));
    }

    #[test]
    fn memory_and_ports_bound_as_well() {
        let mut capacity = settled(Figures { memory: 10 << 20, ..ROOM }, 1);
        assert!(!capacity.admit(1) && !capacity.admit(0) && capacity.free(1) == 0);
        let mut capacity = settled(Figures { port_pairs: 4, ..ROOM }, 1);
        assert_eq!(capacity.free(1), 2);
        assert!(capacity.admit(1) && capacity.admit(2) && !capacity.admit(3));
    }
}
