//! Sequence numbers beyond 16 bits, with the restart rule of RFC 3550 appendix A.1 and the loss figures of A.3.
//!
//! Extended numbers only ever grow, also over a restart, so that whatever orders by them needs no special case.
//! Waiting for late packets is `jitter` and `reorder`.

/// A jump forward of at least this many packets is a restart, not loss (A.1).
const DROPOUT_MAX: u16 = 3000;
/// Packets this far behind the newest are told apart one by one.
const WINDOW: u64 = 512;
/// The first extended number: room below it for packets the first one overtook.
const FIRST: u64 = 1 << 16;
/// So many old packets in order, and nothing newer in between, are a restart slightly backwards; where packets are sent
/// again, a burst of them may come twice.
const OLD_RUN_MAX: u32 = 8;
const OLD_RUN_REPEATED: u32 = 200;

/// What one packet is in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// New, at this extended number; it may lie behind the newest.
    Counted(u64),
    /// Received before.
    Duplicate,
    /// Far away from the stream; the next one decides whether the sender restarted.
    Suspect,
    /// The sender restarted here. The number continues after the old ones.
    Restarted(u64),
}

/// The numbering of one synchronization source.
#[derive(Clone, Debug)]
pub struct Sequence {
    misorder_max: u16,
    old_run_max: u32,
    first: u64,
    newest: Option<u64>,
    base: u64,
    /// The 16-bit number of the sender is `extended + shift`.
    shift: u16,
    seen: [u64; (WINDOW / 64) as usize],
    suspect: Option<u16>,
    old_run: u32,
    old_next: u16,
    received: u64,
    duplicates: u64,
    expected_before: u64,
    received_before: u64,
    reported: (u64, u64),
}

impl Sequence {
    /// `misorder_max`: how many packets late one may come and still belong to its place, at most 500.
    pub fn new(misorder_max: u16) -> Self {
        Sequence {
            misorder_max: misorder_max.min(500),
            old_run_max: OLD_RUN_MAX,
            first: FIRST,
            newest: None,
            base: 0,
            shift: 0,
            seen: [0; (WINDOW / 64) as usize],
            suspect: None,
            old_run: 0,
            old_next: 0,
            received: 0,
            duplicates: 0,
            expected_before: 0,
            received_before: 0,
            reported: (0, 0),
        }
    }

    /// Another sender takes over: everything begins anew, but extended numbers go on growing.
    pub fn continue_with(&mut self, misorder_max: u16) {
        let first = self.newest.map_or(FIRST, |newest| newest + WINDOW);
        *self = Sequence { first, old_run_max: self.old_run_max, ..Sequence::new(misorder_max) };
    }

    /// The sender repeats packets when asked to.
    pub fn expect_repeats(&mut self, repeats: bool) {
        self.old_run_max = if repeats { OLD_RUN_REPEATED } else { OLD_RUN_MAX };
    }

    /// Places one packet.
    pub fn arrive(&mut self, sequence: u16) -> Arrival {
        let Some(newest) = self.newest else {
            self.shift = sequence.wrapping_sub(self.first as u16);
            self.begin(self.first);
            return Arrival::Counted(self.first);
        };
        let ahead = sequence.wrapping_sub(self.shift).wrapping_sub(newest as u16);
        if ahead == 0 {
            self.duplicates += 1;
            return Arrival::Duplicate;
        }
        if ahead < DROPOUT_MAX {
            let extended = newest + u64::from(ahead);
            self.advance(newest, extended);
            return Arrival::Counted(extended);
        }
        let behind = ahead.wrapping_neg();
        if behind <= self.misorder_max {
            return self.arrive_old(sequence, newest, newest - u64::from(behind));
        }
        if self.suspect == Some(sequence) {
            return self.restart(sequence, newest);
        }
        self.suspect = Some(sequence.wrapping_add(1));
        Arrival::Suspect
    }

    fn arrive_old(&mut self, sequence: u16, newest: u64, extended: u64) -> Arrival {
        self.old_run = if sequence == self.old_next { self.old_run + 1 } else { 1 };
        self.old_next = sequence.wrapping_add(1);
        if self.old_run > self.old_run_max && self.seen(extended) {
            return self.restart(sequence, newest);
        }
        self.fill(extended).map_or(Arrival::Duplicate, Arrival::Counted)
    }

    fn fill(&mut self, extended: u64) -> Option<u64> {
        if self.seen(extended) {
            self.duplicates += 1;
            return None;
        }
        self.mark(extended);
        self.base = self.base.min(extended);
        self.received += 1;
        Some(extended)
    }

    /// Places a packet that was sent again beside its stream; it never moves the stream. `None`: it came before, or has
    /// no place any more.
    pub fn arrive_again(&mut self, sequence: u16) -> Option<u64> {
        let newest = self.newest?;
        let behind = self.written(newest).wrapping_sub(sequence);
        (1..=self.misorder_max).contains(&behind).then(|| self.fill(newest - u64::from(behind))).flatten()
    }

    fn restart(&mut self, sequence: u16, newest: u64) -> Arrival {
        self.expected_before += newest - self.base + 1;
        self.received_before += self.received;
        let first = newest + WINDOW;
        self.first = first;
        self.shift = sequence.wrapping_sub(first as u16);
        self.begin(first);
        Arrival::Restarted(first)
    }

    fn begin(&mut self, first: u64) {
        self.newest = Some(first);
        self.base = first;
        self.seen = Default::default();
        self.received = 1;
        self.mark(first);
        self.suspect = None;
        self.old_run = 0;
    }

    fn advance(&mut self, newest: u64, extended: u64) {
        for skipped in (newest + 1..extended).rev().take(WINDOW as usize) {
            self.seen[(skipped % WINDOW / 64) as usize] &= !(1 << (skipped % 64));
        }
        self.newest = Some(extended);
        self.mark(extended);
        self.received += 1;
        self.suspect = None;
        self.old_run = 0;
    }

    fn mark(&mut self, extended: u64) {
        self.seen[(extended % WINDOW / 64) as usize] |= 1 << (extended % 64);
    }

    /// The number of a packet as its sender wrote it.
    pub fn written(&self, extended: u64) -> u16 {
        (extended as u16).wrapping_add(self.shift)
    }

    /// Whether the packet of this extended number has come; packets long ago count as not.
    pub fn seen(&self, extended: u64) -> bool {
        let Some(newest) = self.newest else {
            return false;
        };
        extended <= newest
            && newest - extended < WINDOW
            && self.seen[(extended % WINDOW / 64) as usize] >> (extended % 64) & 1 == 1
    }

    /// Whether every packet strictly between two extended numbers has come.
    pub fn seen_between(&self, after: u64, before: u64) -> bool {
        before.saturating_sub(after) <= WINDOW && (after + 1..before).all(|extended| self.seen(extended))
    }

    /// The newest number as the sender wrote it, with the count of its wraps above: the form of a report block.
    pub fn highest_for_report(&self) -> u32 {
        self.newest.map_or(0, |newest| {
            newest.wrapping_sub(self.first - u64::from(self.first as u16)).wrapping_add(u64::from(self.shift))
                as u32
        })
    }

    /// Different packets received.
    pub fn received(&self) -> u64 {
        self.received_before + self.received
    }

    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Packets the numbers say were sent.
    pub fn expected(&self) -> u64 {
        self.expected_before + self.newest.map_or(0, |newest| newest - self.base + 1)
    }

    pub fn lost(&self) -> u64 {
        self.expected().saturating_sub(self.received())
    }

    /// Share of packets lost since the last call, in 256ths (A.3).
    pub fn fraction_lost_since_report(&mut self) -> u8 {
        let now = (self.expected(), self.received());
        let expected = now.0.saturating_sub(self.reported.0);
        let received = now.1.saturating_sub(self.reported.1);
        self.reported = now;
        let lost = expected.saturating_sub(received);
        (lost * 256).checked_div(expected).unwrap_or(0).min(255) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(sequence: &mut Sequence, numbers: impl IntoIterator<Item = u16>) -> Vec<Arrival> {
        numbers.into_iter().map(|number| sequence.arrive(number)).collect()
    }

    #[test]
    fn numbers_continue_over_the_wrap() {
        let mut sequence = Sequence::new(100);
        let arrivals = run(&mut sequence, [65534, 65535, 0, 1]);
        assert_eq!(arrivals, (65536..65540).map(Arrival::Counted).collect::<Vec<_>>());
        assert_eq!((sequence.lost(), sequence.highest_for_report()), (0, 65536 + 1));
    }

    #[test]
    fn late_packets_fill_their_gap_and_duplicates_do_not() {
        let mut sequence = Sequence::new(100);
        run(&mut sequence, [10, 11, 13, 14]);
        assert_eq!(sequence.lost(), 1);
        assert_eq!(sequence.arrive(13), Arrival::Duplicate);
        assert_eq!(sequence.arrive(14), Arrival::Duplicate);
        assert_eq!(sequence.arrive(12), Arrival::Counted(65538));
        assert_eq!(sequence.arrive(12), Arrival::Duplicate);
        assert_eq!((sequence.lost(), sequence.duplicates(), sequence.received()), (0, 3, 5));
        assert_eq!(sequence.arrive(9), Arrival::Counted(65535), "overtaken by the first");
        assert!(sequence.seen_between(65535, 65540));
    }

    #[test]
    fn loss_is_counted_and_reported_as_a_fraction() {
        let mut sequence = Sequence::new(100);
        run(&mut sequence, (0..100).filter(|n| n % 4 != 1));
        assert_eq!(sequence.lost(), 25);
        assert_eq!(sequence.fraction_lost_since_report(), 64);
        run(&mut sequence, 100..200);
        assert_eq!(sequence.fraction_lost_since_report(), 0);
        assert!(
            !sequence.seen_between(65536 + 92, 65536 + 94) && sequence.seen_between(65536 + 93, 65536 + 96)
        );
    }

    #[test]
    fn a_far_jump_needs_two_in_order_and_then_restarts() {
        for jump in [5000u16, 40_000, 0] {
            let mut sequence = Sequence::new(100);
            run(&mut sequence, 1000..1010);
            assert_eq!(sequence.arrive(jump), Arrival::Suspect);
            assert_eq!(sequence.arrive(jump + 1), Arrival::Restarted(65536 + 9 + 512));
            assert_eq!(sequence.arrive(jump + 2), Arrival::Counted(65536 + 9 + 513));
            assert_eq!((sequence.lost(), sequence.received()), (0, 12));
        }
    }

    #[test]
    fn a_single_stray_packet_restarts_nothing() {
        let mut sequence = Sequence::new(100);
        run(&mut sequence, 1000..1010);
        assert_eq!(sequence.arrive(30_000), Arrival::Suspect);
        assert_eq!(sequence.arrive(1010), Arrival::Counted(65546));
        assert_eq!(sequence.arrive(30_001), Arrival::Suspect);
    }

    #[test]
    fn a_restart_slightly_backwards_is_noticed() {
        let mut sequence = Sequence::new(100);
        run(&mut sequence, 0..50);
        let arrivals = run(&mut sequence, 0..20);
        assert!(matches!(arrivals[8], Arrival::Restarted(_)), "{arrivals:?}");
        assert!(arrivals[9..].iter().all(|arrival| matches!(arrival, Arrival::Counted(_))));
    }

    #[test]
    fn packets_sent_again_fill_gaps_and_restart_nothing() {
        let mut sequence = Sequence::new(100);
        run(&mut sequence, (65_000..65_020).chain(65_030..=65_535).chain(0..20));
        assert_eq!(sequence.arrive_again(65_029), None, "too far back");
        run(&mut sequence, 30..40);
        let again: Vec<Option<u64>> = (20..31).map(|number| sequence.arrive_again(number)).collect();
        assert!(again[..10].iter().all(Option::is_some) && again[10].is_none());
        sequence.expect_repeats(true);
        assert!(run(&mut sequence, 15..35).iter().all(|arrival| *arrival == Arrival::Duplicate));
        assert_eq!(sequence.written(sequence.newest.unwrap_or_default()), 39);
    }

    #[test]
    fn every_number_in_every_order_is_survived() {
        let mut sequence = Sequence::new(500);
        let mut number = 1u16;
        for _ in 0..300_000u32 {
            number = number.wrapping_mul(25_173).wrapping_add(13_849);
            sequence.arrive(number);
            sequence.arrive(number.wrapping_add(1));
            sequence.arrive(number.wrapping_sub(400));
        }
        assert!(sequence.received() <= 900_000);
    }
}
