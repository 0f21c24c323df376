//! How many streams one source and all together may hold open, so that a flood of connections costs only itself.

use std::collections::HashMap;
use std::net::IpAddr;

/// Streams of one address.
const OF_A_STRANGER: usize = 32;
const OF_A_TRUSTED_PEER: usize = 256;
/// Streams of everybody; the last half is kept for trusted peers.
const OF_ALL: usize = 1000;
const OF_ALL_STRANGERS: usize = OF_ALL / 2;

/// Counts of accepted streams.
#[derive(Debug, Default)]
pub(super) struct Caps {
    of: HashMap<IpAddr, usize>,
    open: usize,
}

impl Caps {
    /// Counts one more stream of `source`, unless there are enough.
    pub fn admit(&mut self, source: IpAddr, trusted: bool) -> bool {
        let (own, all) =
            if trusted { (OF_A_TRUSTED_PEER, OF_ALL) } else { (OF_A_STRANGER, OF_ALL_STRANGERS) };
        let source = grouped(source);
        if self.open >= all || self.of.get(&source).is_some_and(|open| *open >= own) {
            return false;
        }
        *self.of.entry(source).or_default() += 1;
        self.open += 1;
        true
    }

    /// One of its streams is gone.
    pub fn release(&mut self, source: IpAddr) {
        let source = grouped(source);
        let Some(open) = self.of.get_mut(&source) else { return };
        *open -= 1;
        self.open -= 1;
        if *open == 0 {
            self.of.remove(&source);
        }
    }
}

/// Whoever has one IPv6 address has the whole /64.
fn grouped(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_greedy_source_takes_no_place_of_others() {
        let mut caps = Caps::default();
        let taken = (0..100).filter(|_| caps.admit(v4(1), false)).count();
        assert_eq!(taken, OF_A_STRANGER);
        assert!(caps.admit(v4(2), false));
        caps.release(v4(1));
        assert!(caps.admit(v4(1), false) && !caps.admit(v4(1), false));
    }

    #[test]
    fn many_strangers_leave_room_for_trusted_peers() {
        let mut caps = Caps::default();
        let strangers =
            (0..=255).map(|last| (0..10).filter(|_| caps.admit(v4(last), false)).count()).sum::<usize>();
        assert_eq!(strangers, OF_ALL_STRANGERS);
        let peer = IpAddr::from([10, 0, 0, 1]);
        assert_eq!((0..1000).filter(|_| caps.admit(peer, true)).count(), OF_A_TRUSTED_PEER);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_source_and_a_mapped_address_as_what_it_is() {
        let mut caps = Caps::default();
        let taken = (0..100u16)
            .filter(|last| caps.admit(format!("2001:db8::{last:x}").parse().unwrap(), false))
            .count();
        assert_eq!(taken, OF_A_STRANGER);
        assert!(caps.admit("2001:db8:0:1::1".parse().unwrap(), false));
        let taken = (0..100).filter(|_| caps.admit("::ffff:192.0.2.9".parse().unwrap(), false)).count();
        assert_eq!(taken, OF_A_STRANGER);
        assert!(!caps.admit(v4(9), false));
    }

    #[test]
    fn what_was_never_counted_is_not_released() {
        let mut caps = Caps::default();
        caps.release(v4(1));
        assert!(caps.admit(v4(1), false));
        assert_eq!(caps.open, 1);
    }
}
