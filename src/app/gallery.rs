//! Driver. The operator's pictures, read once at the start: those declared, and those of agents' contexts.
//!
//! Each is opened in a process of its own, so that what is sent to models later can be read. They are configuration, and
//! pass no censor. One that cannot be had is told and left out; the appliance takes calls all the same.

use std::collections::HashMap;
use std::sync::Arc;

use crate::app::config::settings::{Agent, Config};
use crate::app::config::talk::picture::Place;
use crate::engine::pictures::{STOCK_IDS, Stock, Studio, own_picture};
use crate::talk::message::Image;

/// Everything read.
#[derive(Default)]
pub struct Gallery {
    pub studio: Studio,
    /// By agent and number among the tables of its context.
    context: HashMap<(String, usize), Arc<Image>>,
    /// What could not be had, with its key.
    pub problems: Vec<String>,
}

impl Gallery {
    /// Reads, fetches and opens. It needs the runtime's I/O.
    pub async fn load(config: &Config) -> Gallery {
        let mut gallery = Gallery::default();
        let mut stock = Vec::new();
        let mut id = STOCK_IDS;
        for (name, place) in &config.pictures {
            id += 1;
            if let Some(image) = gallery.open(&format!("picture.{name}.file"), place, id, name).await {
                stock.push(Stock { name: name.to_owned(), image });
            }
        }
        for (name, agent) in &config.agents {
            let (Agent::Pipeline(agent) | Agent::Realtime(agent)) = agent else { continue };
            for (n, context) in agent.context.iter().enumerate() {
                let Some(place) = &context.image else { continue };
                id += 1;
                let key = format!("agent.{name}.context[{n}].image");
                if let Some(image) = gallery.open(&key, place, id, "a picture of the context").await {
                    gallery.context.insert((name.clone(), n), image);
                }
            }
        }
        gallery.studio.stock = stock.into();
        gallery
    }

    async fn open(&mut self, key: &str, place: &Place, id: u64, note: &str) -> Option<Arc<Image>> {
        match own_picture(&self.studio, &place.place, id, note).await {
            Ok(image) => Some(image),
            Err(why) => {
                self.problems.push(format!("{key}: {why}"));
                None
            }
        }
    }

    /// The picture of one table of an agent's context.
    pub fn context(&self, agent: &str, table: usize) -> Option<&Arc<Image>> {
        self.context.get(&(agent.to_owned(), table))
    }

    /// What an agent can name besides the caller's picture and those of the call.
    pub fn names(&self, agent: &str) -> Vec<String> {
        let own = self.context.keys().filter(|(name, _)| name == agent).count();
        let stock = self.studio.stock.iter().map(|stock| stock.name.clone());
        stock.chain((1..=own).map(|number| format!("context-{number}"))).collect()
    }
}

/// What is wrong with the pictures of a configuration, for `eyeline check`: all are read, URLs too.
pub fn problems(config: &Config) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(Gallery::load(config)).problems,
        Err(error) => vec![format!("pictures cannot be read: {error}")],
    }
}
