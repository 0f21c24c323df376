//! A name server for one test: a table of records, on a free port of loopback.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One record, as a zone file would say it.
#[derive(Clone)]
pub enum Record {
    Address(&'static str, IpAddr),
    /// Name, priority, port, target.
    Srv(&'static str, u16, u16, &'static str),
}

pub struct NameServer {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl NameServer {
    pub fn start(records: Vec<Record>) -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port on loopback");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let address = socket.local_addr().expect("a bound socket");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        std::thread::spawn(move || {
            let mut query = [0; 1500];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut query)
                    && let Some(answer) = answer(&query[..length], &records)
                {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        NameServer { address, stop }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn answer(query: &[u8], records: &[Record]) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let (name, kind) = (labels.join("."), u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]));
    let found: Vec<(u16, Vec<u8>)> = records
        .iter()
        .filter_map(|record| match record {
            Record::Address(owner, IpAddr::V4(ip)) => {
                (*owner == name && kind == 1).then(|| (1, ip.octets().to_vec()))
            }
            Record::Address(owner, IpAddr::V6(ip)) => {
                (*owner == name && kind == 28).then(|| (28, ip.octets().to_vec()))
            }
            Record::Srv(owner, priority, port, target) => (*owner == name && kind == 33).then(|| {
                let mut data = [priority.to_be_bytes(), [0, 0], port.to_be_bytes()].concat();
                data.extend(encoded(target));
                (33, data)
            }),
        })
        .collect();
    let mut message = query[..2].to_vec();
    message.extend([0x85, 0x80, 0, 1]);
    message.extend(u16::try_from(found.len()).ok()?.to_be_bytes());
    message.extend([0, 0, 0, 0]);
    message.extend(&query[12..at + 4]);
    for (kind, data) in found {
        message.extend([0xc0, 12]);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1, 0, 0, 0, 60]);
        message.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        message.extend(data);
    }
    Some(message)
}

fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}
