//! One message of a ladder as people read it: when, which way, with whom, and the whole text beneath.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::mask::mask;
use crate::sip::Transport;

/// Which way a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
}

impl Way {
    /// For one line of a log.
    pub fn arrow(self) -> &'static str {
        match self {
            Way::In => "<-",
            Way::Out => "->",
        }
    }
}

/// `since`: from the start of the trace. `with`: the peer; `None`: a stream that is gone already.
pub fn step(since: Duration, way: Way, with: Option<(Transport, SocketAddr)>, bytes: &[u8]) -> String {
    let text = mask(bytes);
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let arrow = match way {
        Way::In => "──▶ in ",
        Way::Out => "◀── out",
    };
    let transport = with.map_or("", |(transport, _)| transport.name());
    let with = with.map_or_else(String::new, |(_, address)| address.to_string());
    let mut step =
        format!("{:>10.3} {arrow} {transport:<4} {with:<22} {}\n", since.as_secs_f64(), printable(first));
    for line in lines {
        let _ = writeln!(step, "{:>10} │ {}", "", printable(line));
    }
    step
}

/// What arrived must not drive the terminal it is shown on.
fn printable(line: &str) -> String {
    line.chars()
        .map(|letter| match letter {
            '\t' => ' ',
            letter if letter.is_control() => char::REPLACEMENT_CHARACTER,
            letter => letter,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_shows_the_whole_message_and_drives_no_terminal() {
        let bytes = b"OPTIONS sip:a@b SIP/2.0\r\nUser-Agent: \x1b[2Jx\r\n\r\n";
        let with = Some((Transport::Udp, SocketAddr::from(([192, 0, 2, 1], 5060))));
        let step = step(Duration::from_millis(1234), Way::In, with, bytes);
        let mut lines = step.lines();
        let first = lines.next().unwrap_or_default();
        assert!(
            first.contains("1.234 ──▶ in  UDP  192.0.2.1:5060") && first.ends_with("OPTIONS sip:a@b SIP/2.0")
        );
        assert!(step.contains("│ User-Agent: \u{fffd}[2Jx"), "{step}");
        assert_eq!(step.lines().count(), 3);
    }
}
