//! Puts the layers together: files, the environment, settings and flags, later ones winning.

use std::net::SocketAddr;

use super::{Config, ConfigError, Listen};

/// A file that has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// What to call it in messages.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// The command line's own flags. Each wins over everything else that sets its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--listen`
    pub listen: Option<SocketAddr>,
    /// `--cores`
    pub cores: Option<String>,
    /// `--demo`
    pub demo: bool,
}

/// Where each value of a configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Provenance {}

/// What a configuration is made of, later fields winning over earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The main file.
    pub main: Option<Text>,
    /// The cores' files, by worker.
    pub cores: Vec<(u16, Text)>,
    /// Files that could not be read, with the reason.
    pub unreadable: Vec<(String, String)>,
    /// Variables of the environment whose name begins with `TIDEGATE_`.
    pub environment: Vec<(String, String)>,
    /// `KEY=VALUE` settings, in order.
    pub settings: Vec<String>,
    /// Flags.
    pub flags: Flags,
}

impl Layers {
    /// Puts all together and checks the result.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load(&self) -> Result<(Config, Provenance), ConfigError> {
        if let Some((name, message)) = self.unreadable.first() {
            return Err(ConfigError::Invalid {
                origin: name.clone(),
                message: message.clone(),
            });
        }
        let file = self
            .main
            .as_ref()
            .map(|file| (file.name.as_str(), file.text.as_str()));
        let mut config = Config::load(file, &self.settings)?;
        for (core, file) in &self.cores {
            let own = toml::from_str(&file.text).map_err(|e| ConfigError::Invalid {
                origin: file.name.clone(),
                message: e.to_string().trim_end().to_owned(),
            })?;
            config.cores.insert(*core, own);
        }
        if let Some(listen) = self.flags.listen {
            config.server.listen = Listen(vec![listen]);
        }
        if let Some(cores) = &self.flags.cores {
            config.server.cores.clone_from(cores);
        }
        config.server.demo |= self.flags.demo;
        config.validate()?;
        Ok((config, Provenance::default()))
    }
}
