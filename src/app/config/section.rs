//! Typed access to one table of the tree. Every wrong value and every key nobody asked for becomes a problem, and
//! the default stays, so that reading never stops at the first mistake.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::Given;
use super::file::{Node, Table, Value};
use super::later;
use super::problem::{Place, Problem, suggest};
use super::secret::{Missing, Secret};
use super::settings::Word;

/// What one reading of a configuration has found.
pub struct Reading<'a> {
    given: &'a Given,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    /// Where each key that was written stands.
    places: RefCell<BTreeMap<String, Place>>,
    /// Every key that was asked for, written or not.
    asked: RefCell<Vec<String>>,
}

impl<'a> Reading<'a> {
    pub fn new(given: &'a Given) -> Self {
        Reading {
            given,
            problems: RefCell::default(),
            warnings: RefCell::default(),
            places: RefCell::default(),
            asked: RefCell::default(),
        }
    }

    /// Where a key, or the nearest table around it, was written.
    fn place(&self, key: &str) -> Place {
        let places = self.places.borrow();
        let mut key = key;
        loop {
            if let Some(place) = places.get(key) {
                return place.clone();
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                None => return Place::default(),
            }
        }
    }

    /// Adds a problem at a key.
    pub fn problem(&self, key: &str, message: impl Into<String>) {
        self.problem_at(self.place(key), key, message);
    }

    fn problem_at(&self, place: Place, key: &str, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { place, key: key.to_owned(), message: message.into() });
    }

    /// Adds a warning at a key.
    pub fn warning(&self, key: &str, message: impl Into<String>) {
        let warning = Problem { place: self.place(key), key: key.to_owned(), message: message.into() };
        self.warnings.borrow_mut().push(warning);
    }

    /// Whether nothing is going to be run with it.
    pub fn only_looking(&self) -> bool {
        self.given.only_looking
    }

    /// Every key that was asked for, in the order of asking.
    pub fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }

    pub fn into_problems(self) -> (Vec<Problem>, Vec<Problem>) {
        (self.problems.into_inner(), self.warnings.into_inner())
    }
}

/// The help that follows a wrong word.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    suggest(word, candidates).map(|best| format!("; did you mean {best:?}?")).unwrap_or_default()
}

/// One table, or nothing where none was written. Keys that were not asked for are reported when it is dropped.
pub struct Section<'a> {
    reading: &'a Reading<'a>,
    path: String,
    table: Option<&'a Table>,
    known: RefCell<Vec<String>>,
}

impl<'a> Section<'a> {
    pub fn root(reading: &'a Reading<'a>, tree: &'a Table) -> Self {
        Section { reading, path: String::new(), table: Some(tree), known: RefCell::default() }
    }

    /// The full path of one of its keys.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub fn problem(&self, key: &str, message: impl Into<String>) {
        self.reading.problem(&self.path_of(key), message);
    }

    /// One variable of the environment.
    pub fn variable(&self, name: &str) -> Option<&'a str> {
        self.reading.given.variable(name)
    }

    /// A problem at a full path, for example of an item in a list.
    pub fn problem_of(&self, path: &str, message: impl Into<String>) {
        self.reading.problem(path, message);
    }

    /// What was written at a key; marks it as known.
    fn ask(&self, key: &str) -> Option<(&'a Node, String)> {
        let path = self.path_of(key);
        self.known.borrow_mut().push(key.to_owned());
        self.reading.asked.borrow_mut().push(path.clone());
        let node = self.table?.get(key)?;
        self.reading.places.borrow_mut().insert(path.clone(), node.place.clone());
        Some((node, path))
    }

    fn wrong(&self, node: &Node, path: &str, expected: impl Display) {
        let message = format!("expected {expected}, found {}", node.value.describe());
        self.reading.problem_at(node.place.clone(), path, message);
    }

    /// Whether something was written at a key.
    pub fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Whether a text was written at a key.
    pub fn is_text(&self, key: &str) -> bool {
        let node = self.table.and_then(|table| table.get(key));
        node.is_some_and(|node| matches!(node.value, Value::Text(_)))
    }

    pub fn flag(&self, key: &str, into: &mut bool) {
        match self.ask(key) {
            Some((Node { value: Value::Flag(flag), .. }, _)) => *into = *flag,
            Some((node, path)) => self.wrong(node, &path, "true or false"),
            None => {}
        }
    }

    pub fn text(&self, key: &str, into: &mut String) {
        self.parsed(key, into, |text| Ok(text.to_owned()));
    }

    /// A text that means something else.
    pub fn parsed<T>(&self, key: &str, into: &mut T, parse: impl FnOnce(&str) -> Result<T, String>) {
        let Some((node, path)) = self.ask(key) else { return };
        let Some(text) = self.text_of(node, &path) else { return };
        match parse(text) {
            Ok(value) => *into = value,
            Err(message) => self.reading.problem_at(node.place.clone(), &path, message),
        }
    }

    fn text_of(&self, node: &'a Node, path: &str) -> Option<&'a str> {
        match &node.value {
            Value::Text(text)
                if ["${env:", "${credential:", "${file:"].iter().any(|start| text.starts_with(start)) =>
            {
                let help = if path.contains('[') {
                    "references are for secrets".to_owned()
                } else {
                    format!("references are for secrets; use the environment variable {}", variable(path))
                };
                self.reading.problem_at(node.place.clone(), path, help);
                None
            }
            Value::Text(text) => Some(text),
            _ => {
                self.wrong(node, path, "a text in quotes");
                None
            }
        }
    }

    pub fn whole(&self, key: &str, into: &mut u32, range: RangeInclusive<u32>) {
        let Some((node, path)) = self.ask(key) else { return };
        match &node.value {
            Value::Whole(number) => match u32::try_from(*number).ok().filter(|number| range.contains(number))
            {
                Some(number) => *into = number,
                None => self.wrong(node, &path, format!("{} to {}", range.start(), range.end())),
            },
            _ => self.wrong(node, &path, "a whole number"),
        }
    }

    pub fn number(&self, key: &str, into: &mut f64, range: RangeInclusive<f64>) {
        let Some((node, path)) = self.ask(key) else { return };
        let number = match &node.value {
            Value::Whole(number) => *number as f64,
            Value::Number(number) => *number,
            _ => return self.wrong(node, &path, "a number"),
        };
        if range.contains(&number) {
            *into = number;
        } else {
            self.wrong(node, &path, format!("{} to {}", range.start(), range.end()));
        }
    }

    pub fn share(&self, key: &str, into: &mut f32, range: RangeInclusive<f64>) {
        let mut wide = f64::from(*into);
        let before = wide;
        self.number(key, &mut wide, range);
        if wide != before {
            *into = wide as f32;
        }
    }

    /// A time in units of `unit`.
    pub fn duration(&self, key: &str, into: &mut Duration, unit: Duration, range: RangeInclusive<f64>) {
        let mut number = f64::NAN;
        self.number(key, &mut number, range);
        if !number.is_nan() {
            *into = unit.mul_f64(number);
        }
    }

    pub fn word<T: Word>(&self, key: &str, into: &mut T) {
        let path = self.path_of(key);
        self.parsed(key, into, |text| word(text, &path));
    }

    /// A list of texts, each meaning something.
    pub fn list<T>(&self, key: &str, into: &mut Vec<T>, parse: impl Fn(&str) -> Result<T, String>) {
        let Some(items) = self.items(key) else { return };
        let (wanted, mut list) = (items.len(), Vec::with_capacity(items.len()));
        for (node, path) in items {
            let Some(text) = self.text_of(node, &path) else { continue };
            match parse(text) {
                Ok(value) => list.push(value),
                Err(message) => self.reading.problem_at(node.place.clone(), &path, message),
            }
        }
        if list.len() == wanted {
            *into = list;
        }
    }

    /// A list of words, none twice.
    pub fn words<T: Word>(&self, key: &str, into: &mut Vec<T>) {
        let path = self.path_of(key);
        self.list(key, into, |text| word(text, &path));
        if let Some(twice) = into.iter().enumerate().find(|(n, word)| into[..*n].contains(word)) {
            self.problem(key, format!("{:?} stands twice", twice.1.word()));
        }
    }

    /// The items of a list with their paths.
    pub fn items(&self, key: &str) -> Option<Vec<(&'a Node, String)>> {
        let (node, path) = self.ask(key)?;
        self.items_of(node, &path)
    }

    /// The items of a list inside a list.
    pub fn items_of(&self, node: &'a Node, path: &str) -> Option<Vec<(&'a Node, String)>> {
        let Value::Items(items) = &node.value else {
            self.wrong(node, path, "a list in [ ]");
            return None;
        };
        let with_path = |(n, node): (usize, &'a Node)| {
            let path = format!("{path}[{n}]");
            self.reading.places.borrow_mut().insert(path.clone(), node.place.clone());
            (node, path)
        };
        Some(items.iter().enumerate().map(with_path).collect())
    }

    /// A list of numbers inside or outside a list.
    pub fn numbers_of(&self, node: &'a Node, path: &str, range: RangeInclusive<f64>) -> Option<Vec<f64>> {
        let items = self.items_of(node, path)?;
        let mut numbers = Vec::with_capacity(items.len());
        for (node, path) in &items {
            let number = match &node.value {
                Value::Whole(number) => *number as f64,
                Value::Number(number) => *number,
                _ => f64::NAN,
            };
            if range.contains(&number) {
                numbers.push(number);
            } else {
                self.wrong(node, path, format!("a number from {} to {}", range.start(), range.end()));
            }
        }
        (numbers.len() == items.len()).then_some(numbers)
    }

    /// A list of numbers at a key.
    pub fn numbers(&self, key: &str, range: RangeInclusive<f64>) -> Option<Vec<f64>> {
        let (node, path) = self.ask(key)?;
        self.numbers_of(node, &path, range)
    }

    pub fn secret(&self, key: &str, into: &mut Secret) {
        let Some((node, path)) = self.ask(key) else { return };
        let Value::Text(written) = &node.value else {
            // Not what was found: it may be the secret.
            return self.reading.problem_at(node.place.clone(), &path, "expected a text in quotes");
        };
        match Secret::resolve(written, self.reading.given) {
            Ok(secret) => *into = secret,
            Err(Missing::Wrong(message)) => self.reading.problem_at(node.place.clone(), &path, message),
            Err(Missing::NotHere(message)) => {
                self.reading.warning(&path, message);
                *into = Secret::unresolved(written);
            }
        }
    }

    /// What was written at a key, whatever it is.
    pub fn raw(&self, key: &str) -> Option<&'a Node> {
        self.ask(key).map(|(node, _)| node)
    }

    /// A problem with the type of what was written at a key.
    pub fn wrong_at(&self, key: &str, expected: &str) {
        if let Some(node) = self.table.and_then(|table| table.get(key)) {
            self.wrong(node, &self.path_of(key), expected);
        }
    }

    /// A table at a key.
    pub fn table(&self, key: &str) -> Section<'a> {
        let path = self.path_of(key);
        let table = match self.ask_silently(key, &path) {
            Some(node) => self.table_in(node, &path),
            None => None,
        };
        Section { reading: self.reading, path, table, known: RefCell::default() }
    }

    fn ask_silently(&self, key: &str, path: &str) -> Option<&'a Node> {
        self.known.borrow_mut().push(key.to_owned());
        let node = self.table?.get(key)?;
        self.reading.places.borrow_mut().insert(path.to_owned(), node.place.clone());
        Some(node)
    }

    fn table_in(&self, node: &'a Node, path: &str) -> Option<&'a Table> {
        match &node.value {
            Value::Table(table) => Some(table),
            _ => {
                self.wrong(node, path, "a table");
                None
            }
        }
    }

    /// The tables in it by name, those that are not keys of its own.
    pub fn tables(&self) -> Vec<(String, Section<'a>)> {
        let known = self.known.borrow().clone();
        let names = self.table.into_iter().flat_map(|table| table.iter());
        let is_table = |value: &Value| matches!(value, Value::Table(_)) || known.is_empty();
        let names = names.filter(|(name, node)| !known.contains(name) && is_table(&node.value));
        names.map(|(name, _)| (name.clone(), self.table(name))).collect()
    }

    /// The tables of a list of tables; `None` where none was written.
    pub fn table_list(&self, key: &str) -> Option<Vec<Section<'a>>> {
        let path = self.path_of(key);
        let node = self.ask_silently(key, &path)?;
        // Neither says what was found instead: such tables hold passwords.
        let wrong = |node: &Node, path: &str| {
            let expected = format!("expected tables: [[{}]], or [{{ … }}]", self.path_of(key));
            self.reading.problem_at(node.place.clone(), path, expected);
        };
        let Value::Items(_) = &node.value else {
            wrong(node, &path);
            return None;
        };
        let sections = self.items_of(node, &path)?.into_iter().filter_map(|(node, path)| {
            let Value::Table(table) = &node.value else {
                wrong(node, &path);
                return None;
            };
            Some(Section { reading: self.reading, path, table: Some(table), known: RefCell::default() })
        });
        Some(sections.collect())
    }

    /// All texts of a free table.
    pub fn texts(&self) -> BTreeMap<String, String> {
        let names: Vec<String> = self.table.into_iter().flat_map(|table| table.keys().cloned()).collect();
        let mut texts = BTreeMap::new();
        for name in names {
            let mut text = String::new();
            self.text(&name, &mut text);
            texts.insert(name, text);
        }
        texts
    }

    /// All secrets of a free table.
    pub fn secrets(&self) -> BTreeMap<String, Secret> {
        let names: Vec<String> = self.table.into_iter().flat_map(|table| table.keys().cloned()).collect();
        let mut secrets = BTreeMap::new();
        for name in names {
            let mut secret = Secret::default();
            self.secret(&name, &mut secret);
            secrets.insert(name, secret);
        }
        secrets
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let known = self.known.borrow();
        for (key, node) in self.table.into_iter().flatten() {
            if known.contains(key) {
                continue;
            }
            let path = self.path_of(key);
            let message = if later::is_later_key(&path) {
                "not in this version of Eyeline".to_owned()
            } else {
                format!("unknown key{}", did_you_mean(key, known.iter().map(String::as_str)))
            };
            self.reading.problem_at(node.key.clone(), &path, message);
        }
    }
}

/// One word of an enum.
pub fn word<T: Word>(text: &str, path: &str) -> Result<T, String> {
    if let Some((_, value)) = T::ALL.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    if later::is_later_word(path, text) {
        return Err(format!("{text:?} is not in this version of Eyeline"));
    }
    let all: Vec<&str> = T::ALL.iter().map(|(word, _)| *word).collect();
    Err(format!("{text:?} is none of {}{}", all.join(", "), did_you_mean(text, all.iter().copied())))
}

/// The environment variable of a key.
fn variable(path: &str) -> String {
    format!("{}{}", super::file::VARIABLE_PREFIX, path.to_uppercase().replace('.', "__"))
}
