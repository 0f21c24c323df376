//! The configuration: TOML files, environment and `--set`, read once, checked whole, turned into plain settings.
//!
//! ```text
//! files, EYELINE__…, --set ──file.rs──▶ one tree with places ──read.rs──▶ Config ──check.rs──▶ Config or Problems
//!                                                                          └──print.rs──▶ TOML again
//! ```
//! Every problem is reported at once with file, line, column and key. Nothing below `app` reads any of this:
//! each part gets its own settings, filled from [`settings::Config`] in `app`.

pub mod avatar;
pub mod check;
pub mod decisions;
pub mod file;
pub mod later;
pub mod print;
pub mod problem;
pub mod read;
pub mod secret;
pub mod section;
pub mod settings;
pub mod sip;
pub mod source;
pub mod talk;
pub mod tools;

use std::path::PathBuf;

use problem::{Problem, Problems};
use section::Reading;
use settings::Config;

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// `-c` in the order given: a later file wins. Empty: the first of [`file::SEARCH`] that exists, if any.
    pub files: Vec<PathBuf>,
    /// `--set key.path=VALUE` in the order given.
    pub sets: Vec<String>,
    /// The process's environment.
    pub environment: Vec<(String, String)>,
    /// Whether a systemd credential may be missing because nothing is going to be run (`check`, `config print`).
    pub only_looking: bool,
}

impl Given {
    /// With the environment of this process.
    pub fn of_process(files: Vec<PathBuf>, sets: Vec<String>) -> Self {
        let readable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let environment = std::env::vars_os().filter_map(readable).collect();
        Given { files, sets, environment, only_looking: false }
    }

    /// One variable of the environment.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A configuration that may be run.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// The files it was read from; empty: built-in defaults.
    pub files: Vec<PathBuf>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Problem>,
}

/// Reads, merges and checks everything.
///
/// # Errors
/// Every problem there is, in the order of files and lines.
pub fn load(given: &Given) -> Result<Loaded, Problems> {
    let gathered = file::gather(given);
    let reading = Reading::new(given);
    let config = read::config(&reading, &gathered.tree);
    check::check(&config, &reading);
    let (found, mut warnings) = reading.into_problems();
    let broken_lines: Vec<_> = gathered.problems.iter().map(|problem| problem.place.clone()).collect();
    let mut problems = gathered.problems;
    // What could be recovered from a broken line says nothing about what was meant.
    let on_broken_line = |problem: &Problem| broken_lines.iter().any(|place| place.same_line(&problem.place));
    problems.extend(found.into_iter().filter(|problem| !on_broken_line(problem)));
    if problems.is_empty() {
        warnings.sort();
        Ok(Loaded { config, files: gathered.files, warnings })
    } else {
        problems.sort();
        problems.dedup();
        Err(Problems(problems))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(toml: &str) -> (tempfile::TempDir, Given) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("eyeline.toml");
        std::fs::write(&path, toml).unwrap();
        (folder, Given { files: vec![path], ..Given::default() })
    }

    #[test]
    fn every_problem_is_reported_at_once_with_file_line_column_and_key() {
        let (_folder, given) = given(
            "[sip]\nlistn = [\"udp:0.0.0.0:5060\"]\nmax_calls = \"many\"\n\n[censor]\nstyle = \"pixelte\"\n\n\
             [[route]]\nagent = \"miror\"\n",
        );
        let text = load(&given).unwrap_err().to_string();
        let file = given.files[0].display().to_string();
        let expected = [
            format!("{file}:2:1: sip.listn: unknown key; did you mean \"listen\"?"),
            format!("{file}:3:13: sip.max_calls: expected a whole number, found the text \"many\""),
            format!(
                "{file}:6:9: censor.style: \"pixelte\" is none of pixelate, blur, black; did you mean \"pixelate\"?"
            ),
            format!("{file}:9:9: route[0].agent: there is no [agent.miror]; did you mean \"mirror\"?"),
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_mistake_is_told_once_and_the_rest_is_still_checked() {
        let (_folder, given) = given(
            "[sip]\nlisten = [\"udp:0.0.0.0:5060\"\n\n[media]\nrtp_ports = [20001, 20999]\nx = = 3\n\n\
             [video]\nencoder = \"libx264\nfps = 90\n",
        );
        let text = load(&given).unwrap_err().to_string();
        let file = given.files[0].display().to_string();
        let starts = [
            ":2:29: not TOML: ",
            ":5:13: media.rtp_ports: ",
            ":6:5: not TOML: ",
            ":9:",
            ":10:7: video.fps: ",
        ];
        assert_eq!(text.lines().count(), starts.len(), "{text}");
        for (line, start) in text.lines().zip(starts) {
            assert!(line.starts_with(&format!("{file}{start}")), "{line}");
        }
    }

    #[test]
    fn later_files_win_per_key_and_arrays_are_replaced() {
        let (_a, mut first) = given("[sip]\nlisten = [\"udp:0.0.0.0:5070\"]\nring_timeout_s = 12\n");
        let (_b, second) = given("[sip]\nlisten = [\"tcp:127.0.0.1:5080\"]\n");
        first.files.extend(second.files);
        first.environment = vec![("EYELINE__SIP__MAX_CALLS".into(), "7".into())];
        first.sets = vec!["sip.busy=486".into(), "appliance.name=door".into()];
        let config = load(&first).unwrap().config;
        assert_eq!(config.sip.listen.len(), 1);
        assert_eq!(config.sip.listen[0].to_string(), "tcp:127.0.0.1:5080");
        assert_eq!(config.sip.ring_timeout.as_secs(), 12);
        assert_eq!(config.sip.max_calls, 7);
        assert_eq!(config.sip.busy, settings::Busy::Busy486);
        assert_eq!(config.appliance.name, "door");
    }

    #[test]
    fn a_missing_file_is_a_problem_and_no_file_is_not() {
        let missing = Given { files: vec!["/nonexistent/eyeline.toml".into()], ..Given::default() };
        let text = load(&missing).unwrap_err().to_string();
        assert!(text.starts_with("/nonexistent/eyeline.toml: cannot be read"), "{text}");
        assert_eq!(load(&Given::default()).unwrap().config, Config::default());
    }

    #[test]
    fn under_systemd_data_goes_to_the_state_directory_unless_told_otherwise() {
        let environment = vec![("STATE_DIRECTORY".to_owned(), "/var/lib/eyeline:/var/lib/other".to_owned())];
        let given = Given { environment, ..Given::default() };
        let data_dir = |given: &Given| load(given).unwrap().config.appliance.data_dir;
        assert_eq!(data_dir(&given), PathBuf::from("/var/lib/eyeline"));
        let told = Given { sets: vec!["appliance.data_dir=/mnt/x".into()], ..given };
        assert_eq!(data_dir(&told), PathBuf::from("/mnt/x"));
    }
}
