//! Takes the addresses out of a description that media may not go to ([`crate::rtp::reach`]).
//!
//! Nothing is sent on such a stream until media has come, as for a peer behind a translator.

use crate::engine::plan::{Route, Streams};
use crate::rtp::reach::Reach;

/// Takes out the addresses that nothing may be sent to.
pub fn limit(reach: &Reach, streams: &mut Streams) {
    let audio = streams.audio.as_mut().map(|audio| &mut audio.route);
    let video = streams.video.as_mut().map(|video| &mut video.route);
    let slides = streams.slides.as_mut().map(|slides| &mut slides.route);
    for route in audio.into_iter().chain(video).chain(slides) {
        limit_route(reach, route);
    }
}

fn limit_route(reach: &Reach, route: &mut Route) {
    for remote in [&mut route.remote, &mut route.remote_rtcp] {
        if remote.is_some_and(|address| !reach.allows(address)) {
            tracing::warn!(
                address = ?remote,
                "media may not go where the peer says: list it in `networks` of its [[sip.peer]], or in sip.trusted"
            );
            *remote = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plan::{Direction, Protection};

    #[test]
    fn what_may_not_be_reached_is_left_out_of_the_route() {
        let reach = Reach { signalling: "192.0.2.1".parse().ok(), ..Reach::default() };
        let mut route = Route {
            remote: "192.0.2.1:4000".parse().ok(),
            remote_rtcp: "198.51.100.1:4001".parse().ok(),
            rtcp_mux: false,
            direction: Direction::SendReceive,
            protection: Protection::None,
            ice: None,
        };
        limit_route(&reach, &mut route);
        assert_eq!((route.remote, route.remote_rtcp), ("192.0.2.1:4000".parse().ok(), None));
    }
}
