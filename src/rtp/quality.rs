//! How a listener would judge a line: the E-model (ITU-T G.107) from what was lost, in what bursts, and the delay.
//!
//! R = 93.2 - Idd - Ie,eff: everything but delay, codec and loss at the default of the Recommendation (handset, quiet
//! room, no echo). It is the narrow-band scale for all codecs, 4.4 at best, so that calls can be compared by what their
//! network did. Measuring what is lost and how long it takes is [`super::jitter`]'s and [`super::session`]'s.

/// R with all defaults and no delay (G.107 §7.7).
const BEST: f64 = 93.2;
/// Below this delay is not heard (G.107 equation 7-27), in milliseconds.
const DELAY_FREE_MS: f64 = 100.0;

/// What a codec takes from quality (G.113 appendix I).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impairment {
    /// Ie: without any loss.
    pub codec: f64,
    /// Bpl: how well it bears random loss.
    pub robustness: f64,
}

impl Impairment {
    /// G.711 with concealment after its appendix I. G.722 and Opus have no values on this scale in G.113: they are
    /// taken for the same, so their figures speak of the network and not of their wider band.
    pub const CONCEALED: Impairment = Impairment { codec: 0.0, robustness: 25.1 };
}

/// What was missing of a stream of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    pub played: u64,
    /// Never came, or too late to be played.
    pub missing: u64,
    /// Runs of missing packets.
    pub gaps: u64,
}

impl Loss {
    /// Share of packets, 0 to 1.
    pub fn share(&self) -> f64 {
        self.missing as f64 / (self.played + self.missing).max(1) as f64
    }

    /// BurstR: the mean length of runs, over what it would be if each packet were lost independently of the others.
    pub fn burst_ratio(&self) -> f64 {
        if self.gaps == 0 {
            return 1.0;
        }
        let mean = self.missing as f64 / self.gaps as f64;
        (mean * (1.0 - self.share())).max(1.0)
    }

    /// What was added since `earlier`.
    pub fn since(&self, earlier: Loss) -> Loss {
        Loss {
            played: self.played.saturating_sub(earlier.played),
            missing: self.missing.saturating_sub(earlier.missing),
            gaps: self.gaps.saturating_sub(earlier.gaps),
        }
    }
}

/// Packets received in a row that end a burst (RFC 3611 §4.7.2, Gmin).
const BURST_ENDS: u64 = 16;

/// Bursts and gaps of RFC 3611 §4.7.2: a burst begins and ends with a lost packet, has at least two, and never
/// [`BURST_ENDS`] received ones in a row; what is not burst is gap.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bursts {
    /// Since the last lost packet; nothing before the first is a burst.
    received: u64,
    /// The losses that may be a burst: packets from the first to the last of them, and how many are lost.
    span: u64,
    lost: u64,
    bursts: u64,
    burst_packets: u64,
    burst_lost: u64,
    packets: u64,
    packets_lost: u64,
}

/// What [`Bursts`] says. Densities are shares of lost packets, 0 to 1, lengths means in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BurstFigures {
    pub burst_density: f64,
    pub gap_density: f64,
    pub burst_packets: f64,
    pub gap_packets: f64,
}

impl Bursts {
    /// So many packets are missing, then one was received.
    pub fn note(&mut self, missing: u64) {
        if missing > 0 {
            if self.lost > 0 && self.received < BURST_ENDS {
                self.span += self.received + missing;
                self.lost += missing;
            } else {
                self.close();
                (self.span, self.lost) = (missing, missing);
            }
            self.received = 0;
        }
        self.received += 1;
        self.packets += missing + 1;
        self.packets_lost += missing;
    }

    fn close(&mut self) {
        if self.lost >= 2 {
            self.bursts += 1;
            self.burst_packets += self.span;
            self.burst_lost += self.lost;
        }
    }

    pub fn figures(&self) -> BurstFigures {
        let mut all = *self;
        all.close();
        let share = |part: u64, of: u64| part as f64 / of.max(1) as f64;
        let gap_packets = all.packets.saturating_sub(all.burst_packets);
        BurstFigures {
            burst_density: share(all.burst_lost, all.burst_packets),
            gap_density: share(all.packets_lost.saturating_sub(all.burst_lost), gap_packets),
            burst_packets: share(all.burst_packets, all.bursts),
            gap_packets: share(gap_packets, all.bursts + 1),
        }
    }
}

/// The rating factor R, 0 to 93.2. `lost`: share of packets, 0 to 1. `delay_ms`: from mouth to ear, one way.
pub fn rating(lost: f64, burst_ratio: f64, impairment: Impairment, delay_ms: f64) -> f64 {
    let percent = lost.clamp(0.0, 1.0) * 100.0;
    let Impairment { codec, robustness } = impairment;
    let of_loss = (95.0 - codec) * percent / (percent / burst_ratio.max(1.0) + robustness);
    (BEST - delay_impairment(delay_ms) - codec - of_loss).clamp(0.0, BEST)
}

/// Idd of G.107 §7.4: delay that is felt although there is no echo.
fn delay_impairment(delay_ms: f64) -> f64 {
    if delay_ms <= DELAY_FREE_MS {
        return 0.0;
    }
    let x = (delay_ms / DELAY_FREE_MS).log2();
    let root = |x: f64| (1.0 + x.powi(6)).powf(1.0 / 6.0);
    25.0 * (root(x) - 3.0 * root(x / 3.0) + 2.0)
}

/// Mean opinion score of a conversation, 1 to 4.5 (G.107 annex B).
pub fn opinion(rating: f64) -> f64 {
    if rating <= 0.0 {
        return 1.0;
    }
    let rating = rating.min(100.0);
    (1.0 + 0.035 * rating + rating * (rating - 60.0) * (100.0 - rating) * 7e-6).clamp(1.0, 4.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, expected: f64) {
        assert!((value - expected).abs() < 0.05, "{value} is not {expected}");
    }

    #[test]
    fn the_scale_is_that_of_the_recommendation() {
        // Annex B, table B.1: R and MOS.
        for (rating, mos) in [(90.0, 4.34), (80.0, 4.03), (70.0, 3.60), (60.0, 3.10), (50.0, 2.58)] {
            near(opinion(rating), mos);
        }
        near(opinion(0.0), 1.0);
        near(rating(0.0, 1.0, Impairment::CONCEALED, 0.0), 93.2);
    }

    #[test]
    fn delay_counts_from_100_ms_on() {
        let at = |delay_ms| rating(0.0, 1.0, Impairment::CONCEALED, delay_ms);
        assert_eq!(at(100.0), at(0.0));
        // G.107: Idd of 150 ms is small, of 400 ms about 24.
        assert!((0.0..2.0).contains(&(at(0.0) - at(150.0))), "{}", at(150.0));
        assert!((22.0..26.0).contains(&(at(0.0) - at(400.0))), "{}", at(400.0));
    }

    #[test]
    fn loss_costs_more_in_bursts() {
        let at = |percent: f64, burst| rating(percent / 100.0, burst, Impairment::CONCEALED, 50.0);
        near(at(5.0, 1.0), 93.2 - 95.0 * 5.0 / 30.1);
        assert!(at(5.0, 2.85) < at(5.0, 1.0));
        assert_eq!(rating(1.0, f64::INFINITY, Impairment::CONCEALED, 0.0), 0.0);
    }

    #[test]
    fn what_loss_of_each_kind_is_worth() {
        let mos = |percent: f64, mean_run: f64| {
            let lost = percent / 100.0;
            opinion(rating(lost, mean_run * (1.0 - lost), Impairment::CONCEALED, 60.0))
        };
        // By chance: 4.2, 3.8 and 3.2 at 1, 5 and 10 percent are kept.
        for (percent, expected) in [(1.0, 4.31), (5.0, 3.91), (10.0, 3.42)] {
            near(mos(percent, 1.0), expected);
        }
        // In runs of three on average: that of 10 percent is not, whatever conceals it; G.107 says so.
        for (percent, expected) in [(1.0, 4.30), (5.0, 3.84), (10.0, 3.11)] {
            near(mos(percent, 3.0), expected);
        }
    }

    #[test]
    fn bursts_and_gaps_are_told_apart() {
        let mut bursts = Bursts::default();
        assert_eq!(bursts.figures(), BurstFigures::default());
        // One lost alone; 100 received; three losses close together; 100 received.
        for missing in [0, 1].into_iter().chain([0; 99]).chain([2, 0, 0, 1]).chain([0; 99]) {
            bursts.note(missing);
        }
        let figures = bursts.figures();
        near(figures.burst_packets, 6.0);
        near(figures.burst_density, 0.5);
        assert!((figures.gap_density - 1.0 / 202.0).abs() < 1e-4, "{}", figures.gap_density);
        near(figures.gap_packets, 101.0);
    }

    #[test]
    fn bursts_are_counted_against_chance() {
        let random = Loss { played: 900, missing: 100, gaps: 90 };
        near(random.burst_ratio(), 1.0);
        let bursts = Loss { played: 900, missing: 100, gaps: 33 };
        near(bursts.burst_ratio(), 2.73);
        assert_eq!(Loss::default().burst_ratio(), 1.0);
        assert_eq!(bursts.since(random), Loss { played: 0, missing: 0, gaps: 0 });
    }
}
