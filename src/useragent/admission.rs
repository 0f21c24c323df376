//! Who may call: decided from the source address before anything is parsed or allocated.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::sip::Access;

/// `[sip] trusted`.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    trusted: Vec<IpNet>,
}

impl Admission {
    pub fn new(trusted: Vec<IpNet>) -> Self {
        Admission { trusted }
    }

    pub fn networks(&self) -> &[IpNet] {
        &self.trusted
    }

    /// An IPv4 address that arrived on an IPv6 socket counts as IPv4.
    pub fn access(&self, source: IpAddr) -> Access {
        let source = source.to_canonical();
        if self.trusted.iter().any(|network| network.contains(&source)) {
            Access::Trusted
        } else {
            Access::Stranger
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_count_as_what_they_are_and_others_are_strangers() {
        let admission = Admission::new(vec!["10.0.0.0/8".parse().expect("a network")]);
        let access = |text: &str| admission.access(text.parse().expect("an address"));
        assert_eq!(access("10.1.2.3"), Access::Trusted);
        assert_eq!(access("::ffff:10.1.2.3"), Access::Trusted);
        assert_eq!(access("192.0.2.1"), Access::Stranger);
    }
}
