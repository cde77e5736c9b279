//! L0: what an operator can set: a typed tree whose every default stands in one file.
//!
//! Layers, later wins: defaults, the main file, the cores' files, the environment, `--set`, the
//! command line's own flags. A key that does not exist is an error, and all errors are told at
//! once. This module reads text it is given; it opens no file.
//!
//! A key is written down in one place: its struct in `sections`, `tls`, `rooms`, `routes` or `cores`,
//! with its range and what a reload does with it. Its default stands in `defaults`, what operators read
//! of it in docs/CONFIG.md, which a test compares with the code.

mod catalogue;
mod check;
mod cores;
mod defaults;
mod layers;
mod nearest;
mod problems;
mod rooms;
mod routes;
mod schema;
mod sections;
mod show;
mod tls;
mod units;
mod values;
mod walk;

use std::collections::BTreeMap;

pub use catalogue::{Entry, catalogue};
pub use cores::{CoreConfig, CoreFile, CoreLimits, MachineShare};
pub use layers::{Flags, Layers, Text, VARIABLE_PREFIX, variable_name};
pub use problems::{ConfigError, Excerpt, Origin, Problem, Problems, Provenance};
pub use rooms::{Delivery, PublishBy, RoomMatch, RoomOptions, Rooms, SlowClient};
pub use routes::{DEMO_SLOW_PATH, Mode, Route, RouteLimits};
pub use schema::{Key, Kind, Reload};
pub use sections::{
    Admin, AllPublishBy, ClientAddress, Deflate, Drain, Engine, EngineKind, Limits, Listen, Log,
    LogFormat, Server,
};
pub use tls::{ClientAuth, ClientUser, Tls, TlsCertificate, TlsVersion};
pub use units::{ByteSize, Span};

use schema::table;

table! {
    /// Everything that can be configured.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct Config {
        /// Where and on what the gateway runs.
        pub server: Server = Open;
        /// Where and with which certificates connections are encrypted.
        pub tls: Tls = Open;
        /// What one client may use, and what one core may.
        pub limits: Limits = Open;
        /// What holds for every room, and what differs for some.
        pub rooms: Rooms = Open;
        /// What is served where; none is the default set.
        pub routes: Vec<Route> = Open;
        /// What is compressed, and how.
        pub deflate: Deflate = Open;
        /// Which engine, and its sizes on each core.
        pub engine: Engine = Open;
        /// How the gateway ends.
        pub drain: Drain = Open;
        /// What is logged, and how.
        pub log: Log = Open;
        /// The operator's interface.
        pub admin: Admin = Open;
        /// What `cores/<n>.toml` say, by worker.
        pub cores: BTreeMap<u16, CoreFile> = Open;
    }
}

impl Config {
    /// Builds a configuration from a file's name and text, if there is one, and `KEY=VALUE`
    /// settings, and checks it.
    ///
    /// # Errors
    /// [`ConfigError::Problems`] tells of everything that is wrong, and where.
    pub fn load(file: Option<(&str, &str)>, settings: &[String]) -> Result<Self, ConfigError> {
        let layers = Layers {
            main: file.map(|(name, text)| Text {
                name: name.to_owned(),
                text: text.to_owned(),
            }),
            settings: settings.to_vec(),
            ..Layers::default()
        };
        Ok(layers.load()?.0)
    }
}

#[cfg(test)]
mod tests;
