//! H.264 parameter sets and the stream they stand in.

use eyeline::media::nal;
use eyeline::media::sps::{self, MAX_HEIGHT, MAX_WIDTH, Sps};

pub fn run(data: &[u8]) {
    if let Ok(read) = Sps::parse(data) {
        assert!((1..=MAX_WIDTH).contains(&read.width) && (1..=MAX_HEIGHT).contains(&read.height));
    }
    let _ = sps::pps_ids(data);
    let _ = sps::picture_size(data);
    assert!(nal::slices(data).len() <= data.len() && nal::longest(data) <= data.len());
    if let Some(sets) = nal::parameter_sets(data) {
        assert_eq!(nal::parameter_sets(&sets).as_ref(), Some(&sets));
    }
}
