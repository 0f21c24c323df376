//! An extended report: its figures are in range, and written again they read the same.

use eyeline::rtp::xr::{self, VoipMetrics};

pub fn run(data: &[u8]) {
    let mut blocks: Vec<VoipMetrics> = Vec::new();
    let _ = xr::read(data, |metrics| blocks.push(metrics));
    assert!(blocks.len() * 36 <= data.len(), "{} blocks in {} bytes", blocks.len(), data.len());
    for metrics in blocks {
        for share in [metrics.loss, metrics.discard, metrics.burst_density, metrics.gap_density] {
            assert!((0.0..1.0).contains(&share), "{share}");
        }
        assert!(metrics.rating.is_none_or(|rating| (0.0..=100.0).contains(&rating)));
        for score in [metrics.listening, metrics.conversation] {
            assert!(score.is_none_or(|score| (1.0..=5.0).contains(&score)));
        }
        let mut again = None;
        let written = xr::write(1, &metrics);
        assert!(xr::read(&written, |metrics| again = Some(metrics)).is_some());
        assert_eq!(again, Some(metrics));
    }
}
