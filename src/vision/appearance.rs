//! What comes into a picture and leaves it again, by class: made of what an observer finds at each look.
//!
//! Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A class not found for so long is gone; a look that misses it once is not the end.
const GONE: Duration = Duration::from_millis(1_500);
/// While it stays, it is said again this often.
const AGAIN: Duration = Duration::from_secs(1);
/// Classes followed at one time.
const CLASSES: usize = 64;

/// Something of a class is there, or is not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appearance {
    pub class: String,
    pub there: bool,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    last: Instant,
    said: Instant,
}

/// Follows the classes one observer finds.
#[derive(Debug, Default)]
pub struct Appearances {
    seen: BTreeMap<String, Seen>,
}

impl Appearances {
    /// What was found at a look; what of it is new, still there, or gone.
    pub fn handle_look<'a>(&mut self, now: Instant, found: impl Iterator<Item = &'a str>) -> Vec<Appearance> {
        let mut told = Vec::new();
        for class in found {
            let room = self.seen.len() < CLASSES;
            match self.seen.get_mut(class) {
                Some(seen) => {
                    seen.last = now;
                    if now >= seen.said + AGAIN {
                        seen.said = now;
                        told.push(Appearance { class: class.to_owned(), there: true });
                    }
                }
                None if room => {
                    self.seen.insert(class.to_owned(), Seen { last: now, said: now });
                    told.push(Appearance { class: class.to_owned(), there: true });
                }
                None => {}
            }
        }
        let gone = |(_, seen): &(&String, &Seen)| now >= seen.last + GONE;
        let gone: Vec<String> = self.seen.iter().filter(gone).map(|(class, _)| class.clone()).collect();
        for class in gone {
            self.seen.remove(&class);
            told.push(Appearance { class, there: false });
        }
        told
    }

    /// There are no pictures any more.
    pub fn end(&mut self) -> Vec<Appearance> {
        let seen = std::mem::take(&mut self.seen);
        seen.into_keys().map(|class| Appearance { class, there: false }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_come_are_said_again_and_go() {
        let start = Instant::now();
        let mut appearances = Appearances::default();
        let mut look = |ms: u64, found: &[&str]| {
            let told = appearances.handle_look(start + Duration::from_millis(ms), found.iter().copied());
            told.into_iter().map(|told| (told.class, told.there)).collect::<Vec<_>>()
        };
        assert_eq!(look(0, &["person", "person"]), [("person".to_owned(), true)]);
        assert_eq!(look(500, &["person"]), []);
        assert_eq!(look(1_000, &["person", "dog"]), [("person".to_owned(), true), ("dog".to_owned(), true)]);
        assert_eq!(look(1_200, &[]), [], "missed once");
        assert_eq!(look(1_400, &["dog"]), []);
        assert_eq!(look(2_600, &["dog"]), [("dog".to_owned(), true), ("person".to_owned(), false)]);
        assert_eq!(appearances.end(), [Appearance { class: "dog".into(), there: false }]);
    }

    #[test]
    fn it_is_bounded() {
        let names: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
        let mut appearances = Appearances::default();
        let told = appearances.handle_look(Instant::now(), names.iter().map(String::as_str));
        assert_eq!(told.len(), CLASSES);
    }
}
