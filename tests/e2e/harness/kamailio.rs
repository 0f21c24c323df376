//! Kamailio as registrar and proxy: `tests/data/kamailio/office.cfg` on loopback. Debian's package starts no daemon of
//! its own here; only this harness does, and ends it by its PID.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;
use super::{free_ports, root, wait_for};

/// A running Kamailio.
pub struct Kamailio {
    pub sip: SocketAddr,
    process: Process,
    folder: TempDir,
}

impl Kamailio {
    pub fn start() -> Kamailio {
        let sip = SocketAddr::from((Ipv4Addr::LOCALHOST, free_ports(2)));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let process = spawn(sip, &folder);
        let kamailio = Kamailio { sip, process, folder };
        kamailio.assert_up();
        kamailio
    }

    fn assert_up(&self) {
        let up = wait_for(Duration::from_secs(10), || (self.status_of("nobody") == Some(404)).then_some(()));
        assert!(up.is_some(), "Kamailio answers: {}", self.process.last_words());
    }

    /// Ends it; what it knew of registrations is gone.
    pub fn stop(&mut self) {
        self.process.stop();
    }

    /// Starts it again at the same place.
    pub fn start_again(&mut self) {
        self.process = spawn(self.sip, &self.folder);
        self.assert_up();
    }

    /// The address of one of its users.
    pub fn uri(&self, user: &str) -> String {
        format!("sip:{user}@{}", self.sip)
    }

    /// What an OPTIONS to one of its users is answered with; 404 by Kamailio itself when nobody is registered.
    pub fn status_of(&self, user: &str) -> Option<u16> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        let own = socket.local_addr().expect("its address");
        let uri = self.uri(user);
        let branch = own.port();
        let text = format!(
            "OPTIONS {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bKo{branch}\r\n\
             From: <sip:peer@{own}>;tag=o\r\nTo: <{uri}>\r\nCall-ID: options-{branch}\r\nCSeq: 1 OPTIONS\r\n\
             Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        );
        socket.send_to(text.as_bytes(), self.sip).ok()?;
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).ok()?;
            let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let status: u16 = answer.split(' ').nth(1)?.parse().ok()?;
            if status >= 200 {
                return Some(status);
            }
        }
    }

    /// Waits until a user can be reached through it.
    pub fn reaches(&self, user: &str, limit: Duration) -> bool {
        wait_for(limit, || (self.status_of(user) == Some(200)).then_some(())).is_some()
    }
}

fn spawn(sip: SocketAddr, folder: &TempDir) -> Process {
    let mut command = Command::new("/usr/sbin/kamailio");
    command
        .env("OFFICE_LISTEN", sip.to_string())
        .current_dir(folder.path())
        .args(["-DD", "-E", "-m", "32", "-M", "4", "-w", ".", "-Y", "."])
        .arg("-f")
        .arg(root().join("tests/data/kamailio/office.cfg"));
    Process::start("kamailio", &mut command, folder.path())
}
