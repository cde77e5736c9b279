//! L0: what an operator can set: a typed tree whose every default stands in one file.
//!
//! Layers, later wins: defaults, the file, `--set`, the command line's own flags. A key that
//! does not exist is an error. This module reads text it is given; it opens no file.

mod cores;
mod defaults;
mod layers;
mod rooms;
mod routes;
mod sections;
mod units;

use serde::Deserialize;

pub use cores::{CoreConfig, CoreFile, CoreLimits, MachineShare};
pub use layers::{Flags, Layers, Provenance, Text};
pub use rooms::{Delivery, PublishBy, RoomMatch, RoomOptions, Rooms, SlowClient};
pub use routes::{Mode, Route, RouteLimits};
pub use sections::{
    Admin, AllPublishBy, Drain, Engine, EngineKind, Limits, Listen, Log, LogFormat, Server,
};
pub use units::{ByteSize, Span};

/// Everything that can be configured.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where and on what the gateway runs.
    pub server: Server,
    /// What one client may use, and what one core may.
    pub limits: Limits,
    /// What holds for every room, and what differs for some.
    pub rooms: Rooms,
    /// What is served where; none is the default set.
    pub routes: Vec<Route>,
    /// Which engine, and its sizes on each core.
    pub engine: Engine,
    /// How the gateway ends.
    pub drain: Drain,
    /// What is logged, and how.
    pub log: Log,
    /// The operator's interface.
    pub admin: Admin,
    /// What `cores/<n>.toml` say, by worker.
    #[serde(skip)]
    pub cores: std::collections::BTreeMap<u16, CoreFile>,
}

/// Why a configuration was refused. The operator is to blame; the text says where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is not TOML, or a key or value does not fit.
    #[error("{origin}: {message}")]
    Invalid {
        /// The file, or the option.
        origin: String,
        /// What is wrong.
        message: String,
    },
    /// Values that do not go together, all of them.
    #[error("{}", .0.join("\n"))]
    Contradictory(Vec<String>),
}

impl Config {
    /// Builds a configuration from a file's name and text, if there is one, and `KEY=VALUE`
    /// settings.
    ///
    /// # Errors
    /// [`ConfigError`] names the file or the setting.
    pub fn load(file: Option<(&str, &str)>, settings: &[String]) -> Result<Self, ConfigError> {
        let mut table = toml::Table::new();
        if let Some((name, text)) = file {
            let invalid = |e: toml::de::Error| ConfigError::Invalid {
                origin: name.to_owned(),
                message: e.to_string().trim_end().to_owned(),
            };
            // Read as the type first: this error knows the line.
            let _: Self = toml::from_str(text).map_err(invalid)?;
            table = toml::from_str(text).map_err(invalid)?;
        }
        for setting in settings {
            let invalid = |message: String| ConfigError::Invalid {
                origin: format!("--set {setting}"),
                message,
            };
            let (path, value) = setting
                .split_once('=')
                .ok_or_else(|| invalid("expected KEY=VALUE".to_owned()))?;
            set(&mut table, path.trim(), parse_value(value.trim())).map_err(invalid)?;
            // Read after each one, so that the error names the setting at fault.
            let _: Self = table
                .clone()
                .try_into()
                .map_err(|e: toml::de::Error| invalid(e.message().to_owned()))?;
        }
        table
            .try_into()
            .map_err(|e: toml::de::Error| ConfigError::Invalid {
                origin: "configuration".to_owned(),
                message: e.message().to_owned(),
            })
    }

    /// Checks what no single value shows.
    ///
    /// # Errors
    /// All contradictions at once.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let mut wrong = Vec::new();
        let mut check = |holds: bool, message: &str| {
            if !holds {
                wrong.push(message.to_owned());
            }
        };
        check(
            limits.buffered_bytes_low.0 <= limits.buffered_bytes_high.0,
            "limits.buffered_bytes_low must not exceed limits.buffered_bytes_high",
        );
        check(
            limits.buffered_bytes_high.0 >= 4096,
            "limits.buffered_bytes_high must be at least 4KiB",
        );
        check(
            limits.message_bytes_max.0 <= 1 << 30,
            "limits.message_bytes_max must not exceed 1GiB",
        );
        check(
            (256..=1 << 20).contains(&limits.head_bytes_max.0),
            "limits.head_bytes_max must lie between 256B and 1MiB",
        );
        check(
            limits.target_bytes_max.0 > 0,
            "limits.target_bytes_max must be more than 0",
        );
        check(
            limits.message_bytes_max.0 > 0,
            "limits.message_bytes_max must be more than 0",
        );
        check(
            limits.rooms_per_client > 0 && limits.room_members_max > 0,
            "limits.rooms_per_client and limits.room_members_max must be more than 0",
        );
        check(
            (1..=1024).contains(&limits.headers_max),
            "limits.headers_max must lie between 1 and 1024",
        );
        for (span, name) in [
            (limits.handshake_timeout, "limits.handshake_timeout"),
            (limits.ping_interval, "limits.ping_interval"),
            (limits.pong_timeout, "limits.pong_timeout"),
            (limits.buffered_time_max, "limits.buffered_time_max"),
        ] {
            check(!span.0.is_zero(), &format!("{name} must be more than 0"));
        }
        let engine = &self.engine;
        check(
            engine.recv_buffers.is_power_of_two() && engine.recv_buffers <= 1 << 15,
            "engine.recv_buffers must be a power of two, at most 32768",
        );
        check(
            (1024..=1 << 20).contains(&engine.recv_buffer_bytes.0),
            "engine.recv_buffer_bytes must lie between 1KiB and 1MiB",
        );
        check(
            (8..=1 << 15).contains(&engine.ring_entries),
            "engine.ring_entries must lie between 8 and 32768",
        );
        check(
            engine.cq_entries >= engine.ring_entries && engine.cq_entries <= 1 << 16,
            "engine.cq_entries must lie between engine.ring_entries and 65536",
        );
        check(
            !self.server.listen.0.is_empty(),
            "server.listen must name at least one address",
        );
        check(
            self.server.backlog > 0,
            "server.backlog must be more than 0",
        );
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::Contradictory(wrong))
        }
    }
}

/// A value on the command line is TOML where it reads as such, else a string, so that
/// `10s` and `127.0.0.1:0` need no quotes.
fn parse_value(text: &str) -> toml::Value {
    toml::from_str::<toml::Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

fn set(table: &mut toml::Table, path: &str, value: toml::Value) -> Result<(), String> {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
            Ok(())
        }
        Some((section, rest)) => {
            let inner = table
                .entry(section)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()));
            match inner {
                toml::Value::Table(inner) => set(inner, rest, value),
                _ => Err(format!("`{section}` is not a section")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn with(settings: &[&str]) -> Result<Config, ConfigError> {
        let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        Config::load(None, &settings)
    }

    #[test]
    fn nothing_at_all_is_the_defaults_and_they_hold() {
        let config = with(&[]).unwrap();
        assert_eq!(config, Config::default());
        config.validate().unwrap();
        assert_eq!(config.server.listen.0[0].to_string(), "127.0.0.1:8080");
        assert_eq!(config.limits.message_bytes_max.0, 64 * 1024);
        assert_eq!(config.limits.ping_interval.0, Duration::from_secs(25));
    }

    #[test]
    fn settings_win_over_the_file() {
        let file = "[limits]\nping_interval = \"5s\"\npong_timeout = \"2s\"\n";
        let settings = [
            "limits.ping_interval=300ms".to_owned(),
            "admin.listen=127.0.0.1:0".to_owned(),
            "rooms.all_publish_by=anyone".to_owned(),
            "rooms.announce_members_max=0".to_owned(),
            "server.demo=true".to_owned(),
        ];
        let config = Config::load(Some(("t.toml", file)), &settings).unwrap();
        assert_eq!(config.limits.ping_interval.0, Duration::from_millis(300));
        assert_eq!(config.limits.pong_timeout.0, Duration::from_secs(2));
        assert!(config.admin.listen.is_some());
        assert_eq!(config.rooms.all_publish_by, AllPublishBy::Anyone);
        assert!(config.server.demo);
    }

    #[test]
    fn errors_name_the_file_and_line_or_the_setting() {
        let file = "[limits]\nping_intervall = \"5s\"\n";
        let error = Config::load(Some(("t.toml", file)), &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("t.toml") && error.contains("line 2"),
            "{error}"
        );
        assert!(error.contains("ping_interval"), "{error}");
        for (setting, part) in [
            ("limits.nope=1", "nope"),
            ("limits.ping_interval=5 lightyears", "lightyears"),
            ("limits.message_bytes_max=-1", "message_bytes_max"),
            ("nonsense", "KEY=VALUE"),
            ("server.listen.port=1", "server.listen"),
        ] {
            let error = with(&["server.listen=\"127.0.0.1:1\"", setting])
                .unwrap_err()
                .to_string();
            assert!(error.contains(setting) && error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_shipped_examples_hold() {
        for (name, text) in [
            ("minimal.toml", include_str!("../../configs/minimal.toml")),
            (
                "production.toml",
                include_str!("../../configs/production.toml"),
            ),
            (
                "benchmark.toml",
                include_str!("../../configs/benchmark.toml"),
            ),
        ] {
            let config = Config::load(Some((name, text)), &[]).unwrap();
            config.validate().unwrap();
        }
    }

    #[test]
    fn contradictions_are_found_all_at_once() {
        let config = with(&[
            "limits.buffered_bytes_low=2MiB",
            "engine.recv_buffers=63",
            "limits.pong_timeout=0s",
            "limits.room_members_max=0",
        ])
        .unwrap();
        let Err(ConfigError::Contradictory(all)) = config.validate() else {
            panic!("accepted");
        };
        assert_eq!(all.len(), 4, "{all:?}");
    }
}
