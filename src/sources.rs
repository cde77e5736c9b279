//! L6: where the configuration comes from: files, the environment and the command line.
//!
//! Remembers what was asked for at the start, so that a reload reads the same again. What the
//! texts mean is the matter of `config`.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::{
    base::limits::CONFIG_FILE_BYTES_MAX,
    config::{Config, ConfigError, Flags, Layers, Provenance, Text},
};

/// Everything that a configuration is made of, as the program was started.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The main file, if one was named.
    pub file: Option<PathBuf>,
    /// Variables of the environment whose name begins with `TIDEGATE_`.
    pub environment: Vec<(String, String)>,
    /// `KEY=VALUE` settings of the command line, in order.
    pub settings: Vec<String>,
    /// The command line's own flags.
    pub flags: Flags,
}

impl Sources {
    /// What a command line names, with the environment as it is now.
    pub fn new(file: Option<PathBuf>, settings: Vec<String>, flags: Flags) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| {
                let name = name.into_string().ok()?;
                let is_ours = name.starts_with("TIDEGATE_");
                is_ours.then(|| (name, value.to_string_lossy().into_owned()))
            })
            .collect();
        Self {
            file,
            environment,
            settings,
            flags,
        }
    }

    /// Reads every file as it is now, puts all layers together and checks the result.
    ///
    /// # Errors
    /// Everything that is wrong, in one [`ConfigError`] whose text is for the operator.
    pub fn load(&self) -> Result<(Config, Provenance), ConfigError> {
        let mut layers = Layers {
            environment: self.environment.clone(),
            settings: self.settings.clone(),
            flags: self.flags.clone(),
            ..Layers::default()
        };
        if let Some(path) = &self.file {
            let name = path.display().to_string();
            match read(path) {
                Ok(text) => layers.main = Some(Text { name, text }),
                Err(error) => layers.unreadable.push((name, error.to_string())),
            }
        }
        for (core, path) in self.core_files() {
            let name = path.display().to_string();
            match read(&path) {
                Ok(text) => layers.cores.push((core, Text { name, text })),
                Err(error) => layers.unreadable.push((name, error.to_string())),
            }
        }
        layers.load()
    }

    /// The files that were named or found: the main one and each core's, as they are now.
    pub fn files(&self) -> Vec<PathBuf> {
        let cores = self.core_files().into_iter().map(|(_, path)| path);
        self.file.iter().cloned().chain(cores).collect()
    }

    /// The directories in which a change may concern the configuration: the main file's, and
    /// `cores` in it if it is there. None without a main file.
    pub fn directories(&self) -> Vec<PathBuf> {
        let Some(parent) = self.parent() else {
            return Vec::new();
        };
        let cores = parent.join(CORES_DIRECTORY);
        let mut directories = vec![parent];
        if cores.is_dir() {
            directories.push(cores);
        }
        directories
    }

    /// The directory in which the main file lies.
    fn parent(&self) -> Option<PathBuf> {
        let parent = self.file.as_ref()?.parent()?;
        Some(if parent.as_os_str().is_empty() {
            PathBuf::from(".")
        } else {
            parent.to_owned()
        })
    }

    /// The cores' files beside the main one, by worker.
    fn core_files(&self) -> Vec<(u16, PathBuf)> {
        let Some(parent) = self.parent() else {
            return Vec::new();
        };
        let Ok(entries) = std::fs::read_dir(parent.join(CORES_DIRECTORY)) else {
            return Vec::new();
        };
        let mut found: Vec<(u16, PathBuf)> = entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let core = path.file_stem()?.to_str()?.parse().ok()?;
                let is_toml = path.extension().is_some_and(|end| end == "toml");
                is_toml.then_some((core, path))
            })
            .collect();
        found.sort();
        found
    }
}

/// The directory beside the main file in which the cores' files lie.
const CORES_DIRECTORY: &str = "cores";

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    let mut bounded = file.take(CONFIG_FILE_BYTES_MAX + 1);
    bounded.read_to_string(&mut text)?;
    if text.len() as u64 > CONFIG_FILE_BYTES_MAX {
        let message = format!("longer than {CONFIG_FILE_BYTES_MAX} bytes");
        return Err(io::Error::other(message));
    }
    Ok(text)
}
