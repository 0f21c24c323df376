//! What ships beside the binary is kept in step with it: the example configuration, the examples, the TOML in the
//! pages, the systemd unit, the cross-build.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use eyeline::app::config::file::{self, Table, Value};
use eyeline::app::config::section::Reading;
use eyeline::app::config::settings::Config;
use eyeline::app::config::{Given, Loaded, load, print, read};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn given(path: PathBuf) -> Given {
    // What pages show may refer to secrets.
    let environment =
        ["EYELINE_TOKEN", "EYELINE_PASSWORD", "NAME"].map(|name| (name.to_owned(), "x".to_owned()));
    Given { files: vec![path], environment: environment.to_vec(), only_looking: true, ..Given::default() }
}

fn accepted(path: PathBuf) -> Loaded {
    let shown = path.display().to_string();
    load(&given(path)).unwrap_or_else(|problems| panic!("{shown}:\n{problems}"))
}

/// Files with an extension directly in a folder.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    found
}

/// Whether a path such as `route[0].to` was written.
fn is_written(table: &Table, path: &str) -> bool {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let (key, index) = match first.split_once('[') {
        Some((key, index)) => (key, index.trim_end_matches(']').parse::<usize>().ok()),
        None => (first, None),
    };
    let node = match (table.get(key).map(|node| &node.value), index) {
        (Some(Value::Items(items)), Some(index)) => items.get(index).map(|node| &node.value),
        (value, None) => value,
        (_, Some(_)) => None,
    };
    match (node, rest) {
        (Some(_), None) => true,
        (Some(Value::Table(table)), Some(rest)) => is_written(table, rest),
        _ => false,
    }
}

#[test]
fn the_example_holds_every_key_with_its_default_and_a_comment() {
    let path = root().join("systemd/eyeline.example.toml");
    assert_eq!(accepted(path.clone()).config, Config::default());
    let given = given(path);
    let tree = file::gather(&given).tree;
    let reading = Reading::new(&given);
    read::config(&reading, &tree);
    let asked = reading.asked();
    assert!(asked.len() > 70, "only {} keys", asked.len());
    for key in asked {
        assert!(is_written(&tree, &key), "systemd/eyeline.example.toml lacks {key}");
    }
    let mut before = "";
    for line in text("systemd/eyeline.example.toml").lines() {
        let is_key = line
            .split_once(" = ")
            .is_some_and(|(key, _)| key.chars().all(|c| c.is_alphanumeric() || c == '_'));
        assert!(
            !is_key || line.contains("  #") || line.contains(" # ") || before.starts_with('#'),
            "no comment: {line}"
        );
        before = if line.starts_with('#') { "#" } else { "" };
    }
}

/// The example with its commented-out `[[…]]` tables made real.
fn example_with_tables() -> String {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text("systemd/eyeline.example.toml").lines() {
        inside = line.starts_with("# [[") || inside && line.starts_with("# ");
        lines.push(if inside { line.trim_start_matches("# ").to_owned() } else { line.to_owned() });
    }
    lines.join("\n")
}

#[test]
fn the_commented_tables_of_the_example_hold_every_key_with_a_comment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tables.toml");
    std::fs::write(&path, example_with_tables()).unwrap();
    let config = accepted(path.clone()).config;
    assert_eq!((config.sip.users.len(), config.sip.peers.len(), config.sip.accounts.len()), (1, 1, 1));
    let given = given(path);
    let tree = file::gather(&given).tree;
    let reading = Reading::new(&given);
    read::config(&reading, &tree);
    for key in reading.asked() {
        assert!(is_written(&tree, &key), "systemd/eyeline.example.toml lacks {key}");
    }
    for line in example_with_tables().lines().filter(|line| line.contains(" = ")) {
        assert!(
            line.contains(" # ") || line.starts_with('#') || line.starts_with("trusted"),
            "no comment: {line}"
        );
    }
}

#[test]
fn the_printed_defaults_hold_every_key_of_the_example() {
    fn keys(prefix: &str, table: &Table, into: &mut Vec<String>) {
        for (name, node) in table {
            match &node.value {
                Value::Table(inner) => keys(&format!("{prefix}{name}."), inner, into),
                _ => into.push(format!("{prefix}{name}")),
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let printed = folder.path().join("printed.toml");
    std::fs::write(&printed, print::print(&Config::default())).unwrap();
    let all = |path: PathBuf| {
        let (mut found, tree) = (Vec::new(), file::gather(&given(path)).tree);
        keys("", &tree, &mut found);
        found
    };
    assert_eq!(all(printed), all(root().join("systemd/eyeline.example.toml")));
}

#[test]
fn every_example_passes_the_check_of_the_binary() {
    let examples = files("examples", "toml");
    assert!(examples.len() >= 8, "{examples:?}");
    for path in examples {
        let loaded = accepted(path.clone());
        assert_eq!(loaded.warnings, [], "{}", path.display());
        let checked = Command::new(env!("CARGO_BIN_EXE_eyeline"))
            .args(["check", "-c"])
            .arg(&path)
            .env_clear()
            .output()
            .expect("the binary runs");
        assert!(checked.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&checked.stderr));
        let words = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            words.starts_with("# ") && words.contains(&format!("-c examples/{name} serve")),
            "{name} says how to run it"
        );
    }
}

#[test]
fn every_toml_block_of_the_pages_is_a_good_configuration() {
    let folder = tempfile::tempdir().unwrap();
    for page in files(".", "md") {
        let words = std::fs::read_to_string(&page).unwrap();
        for (n, block) in words.split("```toml\n").skip(1).enumerate() {
            let block = block.split("```").next().unwrap_or(block);
            let name = format!("{}-{}.toml", page.file_name().unwrap().to_string_lossy(), n + 1);
            let path = folder.path().join(name);
            std::fs::write(&path, block).unwrap();
            accepted(path);
        }
    }
}

#[test]
fn a_bad_configuration_exits_with_78_and_a_bad_command_line_with_2() {
    let run = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_eyeline")).args(arguments).env_clear().output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, told) = run(&["check", "-c", "/dev/null", "--set", "sip.listn=4", "--set", "video.fps=0"]);
    assert_eq!(code, Some(78), "{told}");
    assert!(
        told.contains("did you mean \"listen\"?")
            && told.contains("video.fps")
            && told.contains("2 problems"),
        "{told}"
    );
    assert_eq!(run(&["serve", "-c", "/nonexistent.toml"]).0, Some(78));
    assert_eq!(run(&["serf"]).0, Some(2));
    assert_eq!(run(&["check", "-c", "/dev/null"]).0, Some(0));
}

#[test]
fn the_printed_configuration_of_the_binary_hides_secrets() {
    let output = Command::new(env!("CARGO_BIN_EXE_eyeline"))
        .args(["config", "print", "-c", "/dev/null", "--set", "console.password=hunter2"])
        .env_clear()
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("[console]") && !printed.contains("hunter2"),
        "{printed}"
    );
}

/// The settings of one unit file, the last of each key that is set once, joined where a key is set again.
fn unit(path: &str) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::<String, String>::new();
    for line in text(path).lines().filter(|line| !line.starts_with(['#', '['])) {
        if let Some((key, value)) = line.split_once('=') {
            let all = settings.entry(key.to_owned()).or_default();
            *all = format!("{all} {value}").trim().to_owned();
        }
    }
    settings
}

#[test]
fn the_unit_grants_what_the_program_needs_and_nothing_more() {
    let unit = unit("systemd/eyeline.service");
    let check =
        |key: &str, expected: &str| assert_eq!(unit.get(key).map(String::as_str), Some(expected), "{key}");
    check("Type", "notify");
    check("DynamicUser", "yes");
    check("LimitRTPRIO", "1");
    check("ProcSubset", "all");
    check("ProtectSystem", "strict");
    check("NoNewPrivileges", "yes");
    check("MemoryDenyWriteExecute", "yes");
    check("CapabilityBoundingSet", "");
    check("StateDirectory", "eyeline");
    check("RestartPreventExitStatus", "78");
    assert!(unit["ExecStart"].ends_with("serve"), "{}", unit["ExecStart"]);
    assert!(unit["SystemCallFilter"].contains("sched_setscheduler"));
    assert!(!unit.contains_key("RestrictRealtime"), "the media thread asks for SCHED_RR");
    let seconds = |key: &str| unit[key].parse::<u64>().unwrap_or_else(|_| panic!("{key}"));
    assert!(seconds("WatchdogSec") > eyeline::app::service::STUCK_AFTER.as_secs());
    assert!(seconds("TimeoutStopSec") > Config::default().appliance.drain.as_secs() + 10);
    assert!(seconds("LimitRTTIME") <= 1_000_000, "in microseconds");
}

#[test]
fn the_cross_build_is_for_aarch64_and_the_distribution_it_runs_on() {
    let cross: toml::Table = text("cross.toml").parse().unwrap();
    let target = &cross["target"]["aarch64-unknown-linux-gnu"];
    assert_eq!(target["image"].as_str(), Some("debian:bookworm"));
    let steps = target["pre-build"].as_array().unwrap();
    assert!(steps.iter().any(|step| step.as_str().is_some_and(|step| step.contains("libavcodec-dev:arm64"))));
}
