//! Driver. What was written: TOML files, `EYELINE__…` variables and `--set`, merged into one tree whose every
//! value knows its place. What the keys mean is not known here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::Given;
use super::problem::{Place, Problem};

/// Where a configuration is looked for when no `-c` names one; the first that exists is the only one read.
pub const SEARCH: [&str; 2] = ["./eyeline.toml", "/etc/eyeline/eyeline.toml"];

/// The prefix of environment overrides: `EYELINE__SIP__LISTEN` is `sip.listen`.
pub const VARIABLE_PREFIX: &str = "EYELINE__";

pub type Table = BTreeMap<String, Node>;

/// One value and where it and its key stand.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub key: Place,
    pub place: Place,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Whole(i64),
    Number(f64),
    Flag(bool),
    Items(Vec<Node>),
    Table(Table),
    /// A date or a number beyond 64 bits: no key takes one.
    Other(&'static str),
}

impl Value {
    /// What was found, for a message.
    pub fn describe(&self) -> String {
        match self {
            Value::Text(text) => format!("the text {text:?}"),
            Value::Whole(n) => format!("the number {n}"),
            Value::Number(n) => format!("the number {n}"),
            Value::Flag(flag) => format!("{flag}"),
            Value::Items(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
            Value::Other(what) => (*what).to_owned(),
        }
    }
}

/// Everything that was written.
pub struct Gathered {
    pub tree: Table,
    pub files: Vec<PathBuf>,
    pub problems: Vec<Problem>,
}

/// Reads every source and lays the later over the earlier: files, environment, `--set`.
pub fn gather(given: &Given) -> Gathered {
    let mut gathered = Gathered { tree: Table::new(), files: Vec::new(), problems: Vec::new() };
    let searched = || SEARCH.iter().map(PathBuf::from).find(|path| path.exists()).into_iter().collect();
    let files = if given.files.is_empty() { searched() } else { given.files.clone() };
    for path in files {
        gathered.read(&path);
        gathered.files.push(path);
    }
    for (name, value) in &given.environment {
        if let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) {
            let keys = rest.split("__").map(str::to_lowercase).collect();
            gathered.set(Place::whole(name.as_str()), keys, value);
        }
    }
    for set in &given.sets {
        gathered.set_option(set);
    }
    gathered
}

impl Gathered {
    fn problem(&mut self, place: Place, message: impl Into<String>) {
        self.problems.push(Problem { place, key: String::new(), message: message.into() });
    }

    fn read(&mut self, path: &Path) {
        let source: Arc<str> = path.display().to_string().into();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return self.problem(Place::whole(source), format!("cannot be read: {error}")),
        };
        let (readable, mistakes) = without_mistakes(&text);
        for (offset, message) in mistakes {
            self.problem(Place::in_text(&source, &text, offset), format!("not TOML: {message}"));
        }
        let Ok(table) = DeTable::parse(&readable) else { return };
        let place_of = |offset| Place::in_text(&source, &text, offset);
        lay_over(&mut self.tree, table_of(table.into_inner(), &place_of));
    }

    fn set_option(&mut self, set: &str) {
        let (path, value) = set.split_once('=').map_or((set, None), |(path, value)| (path, Some(value)));
        // Without the value: it may be a secret.
        let place = Place::whole(format!("--set {path}"));
        let Some(value) = value else {
            return self.problem(place, "write --set key.path=VALUE, for example --set sip.max_calls=4");
        };
        match toml_edit::Key::parse(path) {
            Ok(keys) => self.set(place, keys.iter().map(|key| key.get().to_owned()).collect(), value),
            Err(_) => self.problem(place, format!("{path:?} is not a key path such as sip.listen")),
        }
    }

    /// Lays one value over the tree at a path of keys.
    fn set(&mut self, place: Place, keys: Vec<String>, written: &str) {
        if keys.iter().any(String::is_empty) {
            return self.problem(place, "an empty key");
        }
        let value = match value_of_text(written, &place) {
            Ok(value) => value,
            Err(message) => return self.problem(place, message),
        };
        let leaf = Node { key: place.clone(), place: place.clone(), value };
        let Some(node) = keys.into_iter().rev().fold(None, |inner: Option<(String, Node)>, key| {
            let node = match inner {
                None => leaf.clone(),
                Some((key, node)) => Node {
                    key: place.clone(),
                    place: place.clone(),
                    value: Value::Table(Table::from([(key, node)])),
                },
            };
            Some((key, node))
        }) else {
            return;
        };
        lay_over(&mut self.tree, Table::from([node]));
    }
}

/// A TOML value, or a word that can be nothing else than a text.
fn value_of_text(written: &str, place: &Place) -> Result<Value, String> {
    let trimmed = written.trim();
    match DeValue::parse(trimmed) {
        Ok(value) => Ok(value_of(value.into_inner(), &|_| place.clone())),
        Err(_) if !trimmed.starts_with(['[', '{', '"', '\'']) && !trimmed.contains('\n') => {
            Ok(Value::Text(trimmed.to_owned()))
        }
        Err(error) => Err(format!(
            "not a TOML value: {}; quote it for the shell with '…'",
            error.message().replace('\n', ", ")
        )),
    }
}

/// At most so many mistakes of one file are told.
const MISTAKES_MAX: usize = 20;

/// A text of the same length without its broken lines, and each mistake at its byte offset. One missing bracket
/// breaks the lines after it, so for each mistake the line is blanked that lets the parser come furthest.
fn without_mistakes(text: &str) -> (String, Vec<(usize, String)>) {
    let (mut text, mut mistakes) = (text.to_owned(), Vec::new());
    while let Some((offset, message)) = first_mistake(&text) {
        let line = text[..offset].rfind('\n').map_or(0, |end| end + 1);
        let before = text[..line].trim_end().rfind('\n').map_or(0, |end| end + 1);
        let here = blanked(&text, line);
        let reach = |text: &str| first_mistake(text).map_or(usize::MAX, |(offset, _)| offset);
        let earlier =
            (before < line).then(|| blanked(&text, before)).filter(|text| reach(text) > reach(&here));
        match earlier {
            Some(earlier) => {
                let end = text[..line].trim_end().len();
                mistakes.push((end, format!("the line does not end as it should ({message})")));
                text = earlier;
            }
            None => {
                mistakes.push((offset, message));
                text = here;
            }
        }
        if mistakes.len() == MISTAKES_MAX {
            break;
        }
    }
    (text, mistakes)
}

fn first_mistake(text: &str) -> Option<(usize, String)> {
    let error = DeTable::parse(text).err()?;
    let offset = error.span().map_or(0, |span| span.start).min(text.len());
    let offset = (0..=offset).rev().find(|offset| text.is_char_boundary(*offset)).unwrap_or(0);
    Some((offset, error.message().replace('\n', ", ")))
}

/// The text with the line that starts at `start` made of spaces.
fn blanked(text: &str, start: usize) -> String {
    let (before, rest) = text.split_at(start);
    let end = rest.find('\n').unwrap_or(rest.len());
    format!("{before}{}{}", " ".repeat(end), &rest[end..])
}

fn table_of(table: DeTable<'_>, place_of: &dyn Fn(usize) -> Place) -> Table {
    let entry = |(key, value): (Spanned<DeString<'_>>, Spanned<DeValue<'_>>)| {
        let (key_at, at) = (place_of(key.span().start), place_of(value.span().start));
        let value = value_of(value.into_inner(), place_of);
        // A table's own place is its header.
        let place = if matches!(value, Value::Table(_)) { key_at.clone() } else { at };
        (key.into_inner().into_owned(), Node { key: key_at, place, value })
    };
    table.into_iter().map(entry).collect()
}

fn value_of(value: DeValue<'_>, place_of: &dyn Fn(usize) -> Place) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Whole(number),
            Err(_) => Value::Other("a number beyond 64 bits"),
        },
        DeValue::Float(number) => match number.as_str().parse::<f64>() {
            Ok(number) if number.is_finite() => Value::Number(number),
            _ => Value::Other("a number without an end"),
        },
        DeValue::Boolean(flag) => Value::Flag(flag),
        DeValue::Datetime(_) => Value::Other("a date or a time"),
        DeValue::Array(items) => Value::Items(
            items
                .into_iter()
                .map(|item| {
                    let place = place_of(item.span().start);
                    Node { key: place.clone(), place, value: value_of(item.into_inner(), place_of) }
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(table_of(table, place_of)),
    }
}

/// Tables are merged key by key; everything else is replaced.
fn lay_over(under: &mut Table, over: Table) {
    for (key, node) in over {
        match (under.get_mut(&key), node) {
            (Some(Node { value: Value::Table(below), .. }), Node { value: Value::Table(above), .. }) => {
                lay_over(below, above);
            }
            (_, node) => {
                under.insert(key, node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(option: &str) -> Gathered {
        gather(&Given { files: vec!["/dev/null".into()], sets: vec![option.to_owned()], ..Given::default() })
    }

    fn value<'a>(tree: &'a Table, path: &[&str]) -> Option<&'a Value> {
        let (first, rest) = path.split_first()?;
        let value = &tree.get(*first)?.value;
        match (rest.is_empty(), value) {
            (true, value) => Some(value),
            (false, Value::Table(table)) => value_in(table, rest),
            (false, _) => None,
        }
    }

    fn value_in<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
        value(table, path)
    }

    #[test]
    fn set_takes_toml_values_and_bare_words() {
        let check = |option: &str, path: &[&str], expected: Value| {
            let gathered = set(option);
            assert_eq!(gathered.problems, [], "{option}");
            assert_eq!(value(&gathered.tree, path), Some(&expected), "{option}");
        };
        let text = |text: &str| Value::Text(text.to_owned());
        check("sip.max_calls=4", &["sip", "max_calls"], Value::Whole(4));
        check("overlay.boxes=false", &["overlay", "boxes"], Value::Flag(false));
        check("overlay.watermark_size=0.1", &["overlay", "watermark_size"], Value::Number(0.1));
        check("appliance.name=\"a b\"", &["appliance", "name"], text("a b"));
        check("appliance.name=front door", &["appliance", "name"], text("front door"));
        check("appliance.data_dir=/tmp/x", &["appliance", "data_dir"], text("/tmp/x"));
        check("overlay.watermark_color=#ffffff", &["overlay", "watermark_color"], text("#ffffff"));
        check("sip.advertise=192.0.2.1", &["sip", "advertise"], text("192.0.2.1"));
        check("overlay.watermark=", &["overlay", "watermark"], text(""));
        check("agent.\"a.b\".kind=mirror", &["agent", "a.b", "kind"], text("mirror"));
    }

    #[test]
    fn a_list_that_lost_its_quotes_to_the_shell_is_not_taken_for_a_text() {
        for option in ["sip.listen=[udp:0.0.0.0:5060]", "appliance.name=\"open", "sip.listen", "=4", "a..b=1"]
        {
            assert_eq!(set(option).problems.len(), 1, "{option}");
        }
    }

    #[test]
    fn set_creates_tables_and_replaces_arrays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        std::fs::write(&path, "[[route]]\nto = \"1\"\n[[route]]\nto = \"2\"\n").unwrap();
        let sets =
            vec!["route=[{to=\"*\", censor=false}]".to_owned(), "detector.plates.model=x.onnx".to_owned()];
        let gathered = gather(&Given { files: vec![path], sets, ..Given::default() });
        let Some(Value::Items(routes)) = value(&gathered.tree, &["route"]) else { panic!("a list") };
        assert_eq!(routes.len(), 1);
        assert_eq!(
            value(&gathered.tree, &["detector", "plates", "model"]),
            Some(&Value::Text("x.onnx".into()))
        );
    }
}
