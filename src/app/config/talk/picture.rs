//! Driver (reads files). Pictures of the operator: `[picture.NAME]`, and those of an agent's context.
//!
//! Where one is, is read here; whether it can be opened is asked when everything is read. URLs are asked at the start and
//! by `eyeline check`.

use std::fmt;

use super::settings::Sight;
use crate::app::config::section::{Reading, Section};
use crate::app::config::settings::{Agent, Config};
use crate::codec::still::decode::admit;
use crate::engine::pictures::LIMITS;
use crate::talk::sight::given;

/// Where a picture is, as it was written and as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    written: String,
    pub place: given::Place,
}

/// As it was written.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// Pictures that can be declared.
const DECLARED_MAX: usize = 64;

pub fn place(text: &str) -> Result<Place, String> {
    let place = given::Place::parse(text, LIMITS.bytes).map_err(|why| why.to_string())?;
    Ok(Place { written: text.trim().to_owned(), place })
}

/// `[picture.NAME]`
pub fn read(section: &Section, config: &mut Config) {
    for (name, table) in section.tables() {
        let mut file = None;
        table.parsed("file", &mut file, |text| place(text).map(Some));
        let good = !name.is_empty() && name.len() <= 64 && name.parse::<u32>().is_err();
        if name == "snapshot" || name.starts_with("context-") || !good {
            section.problem(&name, "choose another name: not a number, snapshot or context-…");
        }
        match file {
            Some(place) if config.pictures.len() < DECLARED_MAX => {
                config.pictures.insert(name, place);
            }
            Some(_) => section.problem(&name, format!("at most {DECLARED_MAX} pictures")),
            None if table.has("file") => {}
            None => table.problem("file", "say which: a path, a data URL or a URL"),
        }
    }
}

/// Whether what is named is there and a picture.
pub fn check(config: &Config, reading: &Reading) {
    for (name, place) in &config.pictures {
        opens(reading, &format!("picture.{name}.file"), place);
    }
    for (name, agent) in &config.agents {
        let (Agent::Pipeline(agent) | Agent::Realtime(agent)) = agent else { continue };
        for (n, context) in agent.context.iter().enumerate() {
            let Some(place) = &context.image else { continue };
            let key = format!("agent.{name}.context[{n}].image");
            opens(reading, &key, place);
            if agent.sight == Sight::Off {
                reading.problem(&key, "sight = \"off\": its model gets no pictures");
            }
        }
    }
}

fn opens(reading: &Reading, key: &str, place: &Place) {
    let found = match &place.place {
        given::Place::File(path) => match std::fs::read(path) {
            Ok(bytes) => admit(&bytes, &LIMITS).map(drop).map_err(|why| format!("{}: {why}", path.display())),
            Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
        },
        given::Place::Here(bytes) => admit(bytes, &LIMITS).map(drop).map_err(|why| why.to_string()),
        given::Place::Url(_) => Ok(()),
    };
    if let Err(why) = found {
        reading.problem(key, why);
    }
}
