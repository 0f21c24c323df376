//! Driver. Which device this is, for registrars: the same after every start, another on every machine (RFC 5626 §4.1).

use sha2::{Digest as _, Sha256};

/// `urn:uuid:…` of one account of this appliance, made of the machine's own identifier (or its name without one).
pub fn instance(appliance: &str, account: &str) -> String {
    let machine = std::fs::read_to_string("/etc/machine-id")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .unwrap_or_default();
    uuid(&[machine.trim(), appliance, account])
}

/// A name-based UUID of our own kind (RFC 9562 §5.8).
fn uuid(parts: &[&str]) -> String {
    let mut hash: [u8; 32] = Sha256::digest(parts.join("\n").as_bytes()).into();
    hash[6] = (hash[6] & 0x0f) | 0x80;
    hash[8] = (hash[8] & 0x3f) | 0x80;
    let hex: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("urn:uuid:{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_account_has_one_identifier_that_stays() {
        let one = instance("door", "pbx");
        assert_eq!(one, instance("door", "pbx"));
        assert_ne!(one, instance("door", "trunk"));
        assert_eq!(one.len(), "urn:uuid:00000000-0000-0000-0000-000000000000".len());
        assert_eq!(&one[23..24], "8");
    }
}
