//! The server under the emulators of HTTP APIs: threads on loopback, what was asked with its time, and answers that go
//! wrong on demand, to the byte.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When the last byte of it was here.
    pub at: Instant,
    pub method: String,
    /// Without its query.
    pub path: String,
    pub query: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The body; `Null` where it is no JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A parameter of the query, decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| unescaped(value)).next()
    }
}

fn unescaped(text: &str) -> String {
    let (mut out, bytes) = (Vec::new(), text.as_bytes());
    let mut at = 0;
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).and_then(|code| u8::from_str_radix(code, 16).ok());
        match (bytes[at], code) {
            (b'%', Some(code)) => {
                out.push(code);
                at += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                at += 1;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// How one answer goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// This status instead of an answer, with `Retry-After` as it is given.
    Status(u16, Option<String>),
    /// The request is taken and nothing follows; the connection stays open.
    Hang,
    /// The same after so many pieces: a half-open connection.
    HangAfter(usize),
    /// The connection is cut after so many pieces, without an end.
    CutAfter(usize),
    /// A piece that cannot be read stands in the place of this one.
    GarbledAt(usize),
    /// The mark of the end is left out.
    NoEnd,
}

/// How all answers of one API come.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// Before the first piece; the head of the answer goes with it.
    pub delay: Duration,
    /// Between pieces.
    pub gap: Duration,
    /// Pieces are cut into so many bytes each, in the middle of letters and samples; 0: they are not.
    pub bytes: usize,
}

#[derive(Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    faults: Mutex<HashMap<&'static str, VecDeque<Fault>>>,
    always: Mutex<HashMap<&'static str, Fault>>,
    paces: Mutex<HashMap<&'static str, Pace>>,
    /// Of one path and all its connections: the peer left before the answer was over.
    left: AtomicUsize,
    connections: AtomicUsize,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers requests of one or more APIs.
pub trait Api: Send + Sync + 'static {
    /// Which API a path belongs to: the name its faults and paces go by.
    fn name(&self, seen: &Seen) -> &'static str;
    fn answer(&self, seen: &Seen, exchange: &mut Exchange<'_>);
}

/// A running server on a free port of loopback; it ends when dropped.
pub struct Server {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Server {
    pub fn start(api: Arc<dyn Api>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("a bound socket");
        listener.set_nonblocking(true).expect("not blocking");
        let state = Arc::new(State::default());
        let own = state.clone();
        std::thread::spawn(move || {
            while !own.stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        own.connections.fetch_add(1, Ordering::Relaxed);
                        let (state, api) = (own.clone(), api.clone());
                        std::thread::spawn(move || serve(&stream, &state, &*api));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Server { address, state }
    }

    /// Requests so far, in order.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.state.seen).clone()
    }

    /// Requests whose path ends so.
    pub fn seen_at(&self, path: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.path.ends_with(path)).collect()
    }

    pub fn forget(&self) {
        lock(&self.state.seen).clear();
    }

    /// The next answer of an API goes wrong so; several queue up.
    pub fn fault(&self, api: &'static str, fault: Fault) {
        lock(&self.state.faults).entry(api).or_default().push_back(fault);
    }

    /// All its answers do, or none any more.
    pub fn fault_always(&self, api: &'static str, fault: Option<Fault>) {
        match fault {
            Some(fault) => lock(&self.state.always).insert(api, fault),
            None => lock(&self.state.always).remove(api),
        };
    }

    pub fn pace(&self, api: &'static str, pace: Pace) {
        lock(&self.state.paces).insert(api, pace);
    }

    /// Connections taken since the start.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Answers whose peer left before their end.
    pub fn left(&self) -> usize {
        self.state.left.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
    }
}

fn serve(stream: &TcpStream, state: &State, api: &dyn Api) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(120)));
    let mut reader = BufReader::new(stream);
    while !state.stop.load(Ordering::Relaxed) {
        let Some(seen) = read_request(&mut reader) else { return };
        // A connection being made ready for a question says nothing worth keeping.
        if seen.method != "HEAD" {
            lock(&state.seen).push(seen.clone());
        }
        let name = api.name(&seen);
        let fault = lock(&state.faults).get_mut(name).and_then(VecDeque::pop_front);
        let fault = fault.or_else(|| lock(&state.always).get(name).cloned());
        let pace = lock(&state.paces).get(name).cloned().unwrap_or_default();
        let mut exchange = Exchange { stream, state, fault, pace, closed: false, pieces: 0 };
        if seen.method == "HEAD" {
            exchange.fault = None;
            exchange.pace = Pace::default();
            exchange.write(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n");
        } else if !exchange.go_wrong_at_once() {
            api.answer(&seen, &mut exchange);
        }
        if exchange.closed {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let header = |name: &str| headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    let mut body = Vec::new();
    if header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let length = usize::from_str_radix(line.trim().split(';').next()?, 16).ok()?;
            let mut piece = vec![0; length + 2];
            reader.read_exact(&mut piece).ok()?;
            body.extend_from_slice(&piece[..length]);
            if length == 0 {
                break;
            }
        }
    } else if let Some(length) = header("content-length").and_then(|length| length.parse::<usize>().ok()) {
        assert!(length < 64 << 20, "a request of {length} bytes");
        body.resize(length, 0);
        reader.read_exact(&mut body).ok()?;
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    Some(Seen { at: Instant::now(), method, path, query, headers, body })
}

/// One answer being written.
pub struct Exchange<'a> {
    pub stream: &'a TcpStream,
    state: &'a State,
    pub fault: Option<Fault>,
    pub pace: Pace,
    /// The connection is not to be used again.
    pub closed: bool,
    pieces: usize,
}

impl Exchange<'_> {
    pub fn write(&mut self, bytes: &[u8]) {
        if !self.closed && self.stream.write_all(bytes).is_err() {
            self.leave();
        }
    }

    fn leave(&mut self) {
        self.closed = true;
        self.state.left.fetch_add(1, Ordering::Relaxed);
    }

    fn go_wrong_at_once(&mut self) -> bool {
        match self.fault.clone() {
            Some(Fault::Status(status, retry_after)) => {
                let message = if status == 429 { "Rate limit reached" } else { "The server had an error" };
                let body = serde_json::json!({ "error": { "message": message, "type": "server_error", "code": null } });
                let retry = retry_after.map(|value| ("retry-after", value));
                self.json(status, &body, retry.as_slice());
                true
            }
            Some(Fault::Hang) => {
                self.hang();
                true
            }
            _ => false,
        }
    }

    /// Until the peer leaves or the emulator ends.
    pub fn hang(&mut self) {
        let _ = self.stream.set_read_timeout(Some(Duration::from_millis(20)));
        let mut byte = [0];
        while !self.state.stop.load(Ordering::Relaxed) {
            match self.stream.peek(&mut byte) {
                Ok(0) => break,
                Ok(_) => std::thread::sleep(Duration::from_millis(5)),
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                Err(_) => break,
            }
        }
        self.leave();
    }

    /// Whether the peer has gone, seen without waiting.
    pub fn peer_has_left(&self) -> bool {
        let _ = self.stream.set_nonblocking(true);
        let peeked = self.stream.peek(&mut [0]);
        let _ = self.stream.set_nonblocking(false);
        matches!(peeked, Ok(0))
    }

    pub fn json(&mut self, status: u16, body: &Value, headers: &[(&str, String)]) {
        self.whole(status, "application/json", body.to_string().as_bytes(), headers);
    }

    pub fn whole(&mut self, status: u16, content_type: &str, body: &[u8], headers: &[(&str, String)]) {
        if status == 200 {
            std::thread::sleep(self.pace.delay);
        }
        let mut head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = match self.fault {
            Some(Fault::GarbledAt(_)) if status == 200 => &body[..body.len() / 2],
            _ => body,
        };
        // What was promised and does not come is a cut; half of it with its own length is garbled.
        if matches!(self.fault, Some(Fault::GarbledAt(_))) {
            head =
                head.replace("content-length", "x-length") + &format!("content-length: {}\r\n", body.len());
        }
        self.write(format!("{head}\r\n").as_bytes());
        if matches!(self.fault, Some(Fault::CutAfter(_))) && status == 200 {
            self.write(&body[..body.len() / 2]);
            self.closed = true;
            return;
        }
        if matches!(self.fault, Some(Fault::HangAfter(_))) && status == 200 {
            self.write(&body[..body.len() / 2]);
            return self.hang();
        }
        self.write(body);
    }

    /// The head of an answer in pieces.
    pub fn head(&mut self, content_type: &str) {
        std::thread::sleep(self.pace.delay);
        self.write(
            format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n")
                .as_bytes(),
        );
    }

    /// One piece. `false`: nothing more is to be written.
    pub fn piece(&mut self, bytes: &[u8], garbled: &[u8]) -> bool {
        if self.pieces > 0 {
            std::thread::sleep(self.pace.gap);
        }
        let bytes = match self.fault {
            Some(Fault::CutAfter(pieces)) if self.pieces >= pieces => {
                self.closed = true;
                return false;
            }
            Some(Fault::HangAfter(pieces)) if self.pieces >= pieces => {
                self.hang();
                return false;
            }
            Some(Fault::GarbledAt(piece)) if self.pieces == piece => garbled,
            _ => bytes,
        };
        self.pieces += 1;
        if self.peer_has_left() {
            self.leave();
        }
        let size = if self.pace.bytes == 0 { bytes.len().max(1) } else { self.pace.bytes };
        for part in bytes.chunks(size) {
            self.write(format!("{:x}\r\n", part.len()).as_bytes());
            self.write(part);
            self.write(b"\r\n");
            if self.closed {
                return false;
            }
        }
        true
    }

    pub fn end(&mut self) {
        self.write(b"0\r\n\r\n");
    }

    /// Server-sent events: each with its name, if it has one, and its data; `last` is the mark of the end.
    pub fn events(&mut self, events: &[(&str, String)], last: Option<&str>) {
        self.head("text/event-stream");
        let last = last.filter(|_| self.fault != Some(Fault::NoEnd));
        let last = last.map(|data| ("", data.to_owned()));
        for (name, data) in events.iter().cloned().chain(last) {
            let name = if name.is_empty() { String::new() } else { format!("event: {name}\n") };
            let garbled = format!("{name}data: {}\n\n", &data[..data.len() / 2]);
            if !self.piece(format!("{name}data: {data}\n\n").as_bytes(), garbled.as_bytes()) {
                return;
            }
        }
        self.end();
    }
}
