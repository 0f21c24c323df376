//! The vendors' own SDKs, fetched by `scripts/sdks.sh`, run against the emulators: those for Python as scripts, those for
//! browsers in a Chromium without a window. The scripts of ours are in `tests/data/sdks`.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::emulators::server::{Api, Exchange, Seen, Server};
use super::process::Process;
use super::{root, wait_for};

/// What one run may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Where SDKs are; `kind` as `scripts/sdks.sh` has it.
pub fn packages(kind: Option<&str>) -> PathBuf {
    let fetched = Command::new(root().join("scripts/sdks.sh")).args(kind).output().expect("a shell");
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    PathBuf::from(String::from_utf8_lossy(&fetched.stdout).trim())
}

/// A script for Python, to be started.
pub fn python(kind: Option<&str>, script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command
        .args([&LIMIT.as_secs().to_string(), "python3"])
        .arg(root().join("tests/data/sdks").join(script))
        .args(arguments)
        .env("PYTHONPATH", packages(kind))
        .env_remove("HTTP_PROXY");
    command
}

/// Runs a script to its end; what it says on stderr where it is not content.
pub fn content(script: &str, arguments: &[&str]) -> Result<(), String> {
    let Output { status, stderr, .. } = python(None, script, arguments).output().expect("python3");
    if status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&stderr).into_owned()) }
}

/// The one page of a browser: SDKs, what its parameters are, and the script that tries them.
struct Page {
    folder: PathBuf,
    sdks: Vec<&'static str>,
    script: &'static str,
    parameters: Value,
    verdict: Mutex<Option<Value>>,
}

impl Api for Page {
    fn name(&self, _seen: &Seen) -> &'static str {
        "page"
    }

    fn answer(&self, seen: &Seen, exchange: &mut Exchange<'_>) {
        let file = seen.path.rsplit('/').next().unwrap_or_default();
        match (seen.method.as_str(), file) {
            ("POST", "verdict") => {
                *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen.json());
                exchange.json(200, &json!({}), &[]);
            }
            (_, "") => {
                let mut page =
                    format!("<!doctype html><script>const PARAMETERS = {}</script>", self.parameters);
                for script in ["page.js"].iter().chain(&self.sdks).chain([&self.script]) {
                    page.push_str(&format!("<script src=\"{script}\"></script>"));
                }
                exchange.whole(200, "text/html", page.as_bytes(), &[]);
            }
            _ => {
                let own = root().join("tests/data/sdks").join(file);
                let script = std::fs::read(&own).or_else(|_| std::fs::read(self.folder.join(file)));
                let status = if script.is_ok() { 200 } else { 404 };
                exchange.whole(status, "text/javascript", &script.unwrap_or_default(), &[]);
            }
        }
    }
}

/// Loads `sdks`, then `script`, in a browser that reaches nothing but loopback, and waits for the script's word: what it
/// saw, or why it was not content.
pub fn browser(sdks: &[&'static str], script: &'static str, parameters: Value) -> Result<Value, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let page = Arc::new(Page {
        folder: packages(Some("browser")),
        sdks: sdks.to_vec(),
        script,
        parameters,
        verdict: Mutex::default(),
    });
    let server = Server::start(page.clone());
    let mut command = Command::new("chromium");
    command
        // Peers and pages are on loopback and have names of their own each; sound plays without anybody's click.
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-web-security", "--mute-audio"])
        .args(["--allow-loopback-in-peer-connection", "--autoplay-policy=no-user-gesture-required"])
        .args(["--disable-features=WebRtcHideLocalIpsWithMdns", "--disable-background-networking"])
        .args([
            "--disable-component-update",
            "--no-first-run",
            "--disable-dev-shm-usage",
            "--no-proxy-server",
        ])
        .args(["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("http://{}/", server.address))
        .env("HOME", folder.path())
        .stdin(Stdio::null());
    let mut browser = Process::start("chromium", &mut command, folder.path());
    let told = wait_for(LIMIT, || page.verdict.lock().unwrap_or_else(PoisonError::into_inner).take());
    browser.stop();
    let told = told.ok_or_else(|| format!("no word within {LIMIT:?}; {}", browser.last_words()))?;
    match told["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(told),
    }
}
