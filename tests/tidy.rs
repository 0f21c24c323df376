//! The rules of ARCHITECTURE.md that a compiler does not know: floors, sizes, names, drivers, documents in step.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which floor each top-level module stands on. A module imports strictly lower floors.
const FLOORS: [(&str, u8); 22] = [
    ("base", 0),
    ("media", 1),
    ("sip", 2),
    ("sdp", 2),
    ("rtp", 2),
    ("codec", 2),
    ("secure", 2),
    ("webrtc", 2),
    ("remote", 2),
    ("inference", 2),
    ("vision", 3),
    ("talk", 3),
    ("record", 3),
    ("avatar", 3),
    ("source", 3),
    ("worker", 3),
    ("engine", 4),
    ("call", 5),
    ("useragent", 6),
    ("app", 7),
    ("lib", 8),
    ("main", 8),
];

const FILE_LINES_MAX: usize = 600;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 9] =
    ["util", "utils", "common", "manager", "managers", "helper", "helpers", "types", "defs"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// One source file: its path from `src/`, its text, and the same without comments and tests.
struct Source {
    path: String,
    text: String,
    code: String,
}

impl Source {
    fn read(path: &Path, base: &Path) -> Source {
        let text = fs::read_to_string(path).expect("a readable source file");
        let code = code_of(&text);
        let path = path.strip_prefix(base).expect("a file below it").to_string_lossy().into_owned();
        Source { path, text, code }
    }

    /// `sip` for `sip/endpoint.rs`, `sip/mod.rs` and `sip.rs`.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    fn is_driver(&self) -> bool {
        self.text.starts_with("//! Driver")
    }

    /// Line numbers of the code that hold `pattern`.
    fn lines_with<'a>(&'a self, pattern: &'a str) -> impl Iterator<Item = String> + 'a {
        let hits = self.code.lines().enumerate().filter(move |(_, line)| line.contains(pattern));
        hits.map(move |(number, _)| format!("src/{}:{}: {pattern}", self.path, number + 1))
    }
}

/// The text up to the tests at its foot, comment lines blanked so that line numbers stay.
fn code_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let is_tests = |at: &usize| {
        lines[*at] == "#[cfg(test)]" && lines.get(at + 1).is_some_and(|next| next.starts_with("mod "))
            || lines[*at] == "mod tests;"
    };
    let end = (0..lines.len()).find(is_tests).unwrap_or(lines.len());
    let without_comment = |line: &&str| {
        let comment = line.trim_start().starts_with("//");
        if comment { String::new() } else { line.split(" // ").next().unwrap_or_default().to_owned() }
    };
    lines[..end].iter().map(without_comment).collect::<Vec<_>>().join("\n")
}

fn files_below(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let made = [".git", "data", "demo", "dl", "shared"].contains(&name.as_str()) && folder == root();
            if path.is_dir() && !made && name != "target" {
                open.push(path);
            } else if path.extension().is_some_and(|own| extensions.iter().any(|extension| own == *extension))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let base = root().join("src");
    let is_test = |path: &PathBuf| path.file_name().is_some_and(|name| name == "tests.rs");
    let files = files_below(&base, &["rs"]).into_iter().filter(|path| !is_test(path));
    files.map(|path| Source::read(&path, &base)).collect()
}

fn assert_none(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

/// Top-level modules that `code` names: `crate::NAME`, and the members of `use crate::{…}`.
fn modules_named(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => names.extend(identifier(rest)),
            Some(group) => {
                let mut depth = 0;
                let mut starts = true;
                for (at, letter) in group.char_indices() {
                    match letter {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => starts = true,
                        _ if starts && letter.is_alphabetic() => {
                            names.extend(identifier(&group[at..]));
                            starts = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names
}

fn identifier(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
    (!name.is_empty()).then_some(name)
}

fn floor_of(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// Imports of one file that its floor does not allow.
fn forbidden_imports(module: &str, code: &str) -> Vec<String> {
    let own = floor_of(module);
    let allowed = |other: &String| other == module || floor_of(other).is_none_or(|floor| Some(floor) < own);
    modules_named(code).into_iter().filter(|other| !allowed(other)).collect()
}

/// Lines whose `super::super::…` climbs to the crate's root: from there other modules are reached past the check of
/// `crate::`, which says the same in the open.
fn escapes(source: &Source) -> Vec<String> {
    let folders = source.path.split('/').count();
    let depth = if source.path.ends_with("/mod.rs") { folders - 1 } else { folders };
    let climb = "super::".repeat(depth);
    if matches!(source.path.as_str(), "lib.rs" | "main.rs") {
        vec![]
    } else {
        source.lines_with(&climb).collect()
    }
}

#[test]
fn modules_import_strictly_lower_floors() {
    let mut found = Vec::new();
    for source in sources() {
        let module = source.module();
        assert!(floor_of(module).is_some(), "src/{}: give `{module}` a floor in FLOORS", source.path);
        found.extend(escapes(&source));
        let text = code_of(&source.text.replace("#[cfg(test)]", ""));
        found.extend(
            forbidden_imports(module, &text)
                .into_iter()
                .map(|other| format!("src/{}: crate::{other}", source.path)),
        );
    }
    assert_none(found, "a module imports lower floors only, never a neighbour");
}

#[test]
fn the_floor_check_sees_every_way_to_import() {
    for (module, code, expected) in [
        ("sip", "use crate::base::time::Pts;", &[][..]),
        ("sip", "use crate::sdp::print;", &["sdp"]),
        ("rtp", "fn f(plan: crate::engine::plan::Plan) {}", &["engine"]),
        ("engine", "use crate::{base::stop, call::{end, negotiate}, vision};", &["call"]),
        (
            "call",
            "use crate::{\n    engine::plan,\n    useragent::{admission},\n    app,\n};",
            &["app", "useragent"],
        ),
        ("main", "use crate::app;", &[]),
    ] {
        assert_eq!(forbidden_imports(module, code), expected, "{module}: {code}");
    }
}

#[test]
fn files_stay_short() {
    let long = sources().into_iter().filter_map(|source| {
        let lines = source.code.lines().filter(|line| !line.trim().is_empty()).count();
        (lines > FILE_LINES_MAX).then(|| format!("src/{}: {lines} lines of code", source.path))
    });
    assert_none(long.collect(), "at most 600 lines of code in a file, tests apart");
}

#[test]
fn names_say_what_is_inside() {
    let mut found = Vec::new();
    for source in sources() {
        let named = source.path.split('/').map(|part| part.strip_suffix(".rs").unwrap_or(part));
        found.extend(
            named
                .filter(|name| {
                    EMPTY_NAMES.iter().any(|empty| name == empty || name.ends_with(&format!("_{empty}")))
                })
                .map(|name| format!("src/{}: {name}", source.path)),
        );
        found.extend(EMPTY_NAMES.iter().flat_map(|name| source.lines_with_word(&format!("mod {name}"))));
        found.extend(source.lines_with("fn get_"));
    }
    assert_none(found, "no empty names, no get_");
}

impl Source {
    fn lines_with_word(&self, words: &str) -> Vec<String> {
        let ends = [";", " {"].map(|end| format!("{words}{end}"));
        ends.iter().flat_map(|words| self.lines_with(words).collect::<Vec<_>>()).collect()
    }
}

#[test]
fn every_file_says_what_it_is() {
    let folders = ["src", "tests", "bench"].map(|folder| root().join(folder));
    let silent = folders.iter().flat_map(|folder| files_below(folder, &["rs"])).filter(|path| {
        !fs::read_to_string(path).expect("a readable source file").trim_start().starts_with("//!")
    });
    assert_none(silent.map(|path| path.display().to_string()).collect(), "every file opens with //!");
}

#[test]
fn only_drivers_touch_the_world() {
    const CLOCK_SOCKET_THREAD: [&str; 10] = [
        "clippy::disallowed_methods",
        "Instant::now(",
        "SystemTime::now(",
        "thread::spawn",
        "tokio::spawn",
        "spawn_blocking",
        "UdpSocket",
        "TcpListener",
        "TcpStream",
        "UnixStream",
    ];
    const DISK_AND_PROCESS: [&str; 4] = ["std::fs", "File::open", "File::create", "Command::new("];
    const PURE: [&str; 8] = ["sip", "sdp", "rtp", "secure", "webrtc", "vision", "call", "useragent"];
    let mut found = Vec::new();
    for source in sources() {
        // The crate's own root switches the ban off for tests only.
        if source.is_driver() || source.path == "lib.rs" {
            continue;
        }
        found.extend(CLOCK_SOCKET_THREAD.iter().flat_map(|pattern| source.lines_with(pattern)));
        if PURE.contains(&source.module()) {
            found.extend(DISK_AND_PROCESS.iter().flat_map(|pattern| source.lines_with(pattern)));
        }
    }
    assert_none(found, "a file that touches clock, socket, thread, process or disk opens with `//! Driver`");
}

#[test]
fn nothing_is_left_unfinished_unbounded_or_asleep() {
    const NOWHERE: [&str; 7] =
        ["todo!(", "unimplemented!(", "dbg!(", "unbounded_channel", "mpsc::unbounded", "FIXME", "XXX"];
    const IN_DRIVERS: [&str; 2] = ["thread::sleep", "time::sleep("];
    let mut found = Vec::new();
    for source in sources() {
        found.extend(NOWHERE.iter().flat_map(|pattern| source.lines_with(pattern)));
        if !source.is_driver() {
            found.extend(IN_DRIVERS.iter().flat_map(|pattern| source.lines_with(pattern)));
        }
    }
    assert_none(found, "finish it, bound it, wait for what you wait for");
}

#[test]
fn the_map_names_every_module() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let modules: BTreeSet<String> = sources()
        .iter()
        .map(|source| source.module().to_owned())
        .filter(|name| name != "lib" && name != "main")
        .collect();
    let missing = modules.into_iter().filter(|name| !map.contains(&format!("{name}/")));
    assert_none(missing.collect(), "ARCHITECTURE.md maps every folder of src");
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    assert!(readme.contains("](ARCHITECTURE.md)"), "the README leads to the map");
    let examples: Vec<PathBuf> = files_below(&root().join("examples"), &["toml"]);
    let unnamed = examples.iter().filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !readme.contains(&format!("examples/{name}"))
    });
    assert_none(unnamed.map(|path| path.display().to_string()).collect(), "the README names every example");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for path in files_below(&root(), &["md"]) {
        let text = fs::read_to_string(&path).expect("a readable document");
        let folder = path.parent().expect("a folder");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split(['#', ' ']).next().unwrap_or_default();
            let is_file = !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:");
            if is_file && !folder.join(target).exists() {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert_none(broken, "links that lead nowhere");
}

#[test]
fn nothing_speaks_of_the_machine_it_was_written_on() {
    // Put together here, so that this file does not find itself.
    let marks =
        [("/wo", "rk/"), ("/ro", "ot/"), ("/home", "/us"), ("work", "tree"), ("cla", "ude"), ("chat", "gpt")];
    let marks = marks.map(|(start, end)| format!("{start}{end}"));
    let mut found = Vec::new();
    for path in files_below(&root(), &["rs", "md", "toml", "sh", "service", "yml"]) {
        let text = fs::read_to_string(&path).unwrap_or_default().to_lowercase();
        let hits = marks.iter().filter(|mark| text.contains(*mark));
        found.extend(hits.map(|mark| format!("{}: {mark}", path.display())));
    }
    assert_none(found, "paths and words of one machine");
}
