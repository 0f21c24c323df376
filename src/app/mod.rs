//! Floor 7: the program around the library. Subcommands, configuration, sockets, the outside formats.

pub mod models;
