//! Child processes that end with their owner, by their own PID.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::wait_for;

/// A running program whose output goes to a file. Dropping it ends it.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; stdout and stderr go to `folder/name.log`.
    pub fn start(name: &str, command: &mut Command, folder: &Path) -> Process {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).expect("a writable folder for logs");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}; run `make setup`"));
        Process { child, name: name.to_owned(), log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of its output, for the message of a failed check.
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        format!("last lines of {}:\n{}", self.name, lines[lines.len().saturating_sub(25)..].join("\n"))
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Keeps it, and every thread it has and will have, on one core. Without such a core it runs where it likes.
    pub fn pin(&self, core: usize) {
        let mut command = Command::new("taskset");
        command.args(["-a", "-p", "-c", &core.to_string(), &self.id().to_string()]);
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }

    /// How it ended, if it does within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait_for(limit, || self.child.try_wait().expect("a child of ours"))
    }

    /// TERM; TERM again after a second, because baresip lingers with calls open; KILL after three.
    pub fn stop(&mut self) {
        for patience in [1000, 2000] {
            if !self.is_running() {
                return;
            }
            self.signal(Signal::TERM);
            if self.wait(Duration::from_millis(patience)).is_some() {
                return;
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a program to its end and returns its stdout; panics with its stderr when it fails or takes over a minute.
pub fn output_of(command: &mut Command) -> Vec<u8> {
    let line = format!("{command:?}");
    let output =
        command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("cannot run {line}: {error}"));
    assert!(output.status.success(), "{line} failed: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What a process and everything it started have used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time in seconds, ended children included.
    pub cpu_s: f64,
    /// Resident memory in MiB; pages shared by n processes count 1/n in each.
    pub memory_mib: f64,
}

/// `USER_HZ`, the unit of times in `/proc`: 100 on every Linux this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

fn proportional_mib(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// Adds up `/proc/PID/stat` over the tree below `pid`.
pub fn usage_of_tree(pid: u32) -> Usage {
    let mut stats = HashMap::new();
    for entry in fs::read_dir("/proc").expect("procfs").flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(text) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The second field is a name in parentheses and may hold spaces; everything after it is numbers.
        let Some((_, rest)) = text.rsplit_once(") ") else { continue };
        let fields: Vec<i64> = rest.split(' ').map(|field| field.trim().parse().unwrap_or(0)).collect();
        if fields.len() > 15 {
            stats.insert(id, fields);
        }
    }
    let mut total = Usage::default();
    let mut open = vec![pid];
    while let Some(id) = open.pop() {
        let Some(fields) = stats.get(&id) else { continue };
        // proc(5): utime, stime, cutime, cstime are fields 14 to 17; the slice starts at field 3.
        total.cpu_s += fields[11..15].iter().sum::<i64>() as f64 / TICKS_PER_SECOND;
        total.memory_mib += proportional_mib(id);
        open.extend(stats.iter().filter(|(_, of)| of[1] == i64::from(id)).map(|(child, _)| *child));
    }
    total
}

/// What a process holds of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    pub files: usize,
    pub threads: usize,
    /// UDP sockets among the files.
    pub udp_ports: usize,
}

impl Footprint {
    pub fn of(pid: u32) -> Footprint {
        let count = |folder: &str| fs::read_dir(format!("/proc/{pid}/{folder}")).map_or(0, Iterator::count);
        let table = |name: &str| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
        // The tenth column of these tables is the inode, which is what links in `fd` name.
        let inodes: Vec<String> = [table("udp"), table("udp6")]
            .iter()
            .flat_map(|text| text.lines().skip(1))
            .filter_map(|line| Some(format!("socket:[{}]", line.split_whitespace().nth(9)?)))
            .collect();
        let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
        let udp_ports =
            links.filter(|link| inodes.iter().any(|inode| link.as_os_str() == inode.as_str())).count();
        Footprint { files: count("fd"), threads: count("task"), udp_ports }
    }
}
