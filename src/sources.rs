//! L6: where the configuration comes from: files, the environment and the command line.
//!
//! Remembers what was asked for at the start, so that a reload reads the same again. What the
//! texts mean is the matter of `config`.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use tracing_subscriber::EnvFilter;

use crate::{
    base::limits::{CONFIG_FILE_BYTES_MAX, CORES_MAX},
    config::{Config, ConfigError, Flags, Layers, Text, VARIABLE_PREFIX},
    control::reload::{Attempt, Loaded},
    tls::server_config::{self, Material},
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
    /// What a command line names, with the environment as it is now. A variable whose name is not
    /// UTF-8 is none of ours.
    pub fn new(file: Option<PathBuf>, settings: Vec<String>, flags: Flags) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| {
                let name = name.into_string().ok()?;
                let is_ours = name.starts_with(VARIABLE_PREFIX);
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

    /// Reads every file as it is now, puts all layers together and checks the result, the files that
    /// it names included.
    ///
    /// # Errors
    /// Everything that is wrong, in one [`ConfigError`] whose text is for the operator.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        self.attempt().result
    }

    /// Like [`Sources::load`], and says whatever comes of it in which directories a change may lead
    /// to another result.
    pub fn attempt(&self) -> Attempt {
        let mut directories = self.directories();
        let result = self.load_with(&mut directories);
        Attempt {
            result,
            directories,
        }
    }

    fn load_with(&self, directories: &mut Vec<PathBuf>) -> Result<Loaded, ConfigError> {
        let mut layers = Layers {
            environment: self.environment.clone(),
            settings: self.settings.clone(),
            flags: self.flags.clone(),
            ..Layers::default()
        };
        if let Some(path) = &self.file {
            match read(path) {
                Ok(text) => layers.main = Some(text),
                Err(unreadable) => layers.unreadable.push(unreadable),
            }
        }
        let (core_files, strange) = self.core_files();
        layers.unreadable.extend(strange);
        for (core, path) in core_files {
            match read(&path) {
                Ok(text) => layers.cores.push((core, text)),
                Err(unreadable) => layers.unreadable.push(unreadable),
            }
        }
        let mut tls = None;
        let (config, provenance) = layers.load_and(|config| {
            // Only the logger knows its filters.
            let wrong = EnvFilter::try_new(&config.log.level).err();
            let told = |e| {
                (
                    "log.level".to_owned(),
                    format!("= {:?}: {e}", config.log.level),
                )
            };
            let mut faults: Vec<_> = wrong.map(told).into_iter().collect();
            match self.read_tls(config, directories) {
                Ok(material) => tls = material,
                Err(wrong) => faults.extend(wrong),
            }
            faults
        })?;
        Ok(Loaded {
            config,
            provenance,
            tls,
        })
    }

    /// The files that `[tls]` names; adds their directories.
    fn read_tls(
        &self,
        config: &Config,
        directories: &mut Vec<PathBuf>,
    ) -> Result<Option<Material>, Vec<(String, String)>> {
        let base = self.parent().unwrap_or_default();
        for directory in server_config::directories(&config.tls, &base) {
            if !directories.contains(&directory) {
                directories.push(directory);
            }
        }
        Material::load(&config.tls, &base).map_err(|faults| {
            let faults = faults.into_iter();
            faults.map(|fault| (fault.key, fault.message)).collect()
        })
    }

    /// The files that were named or found: the main one and each core's, as they are now.
    pub fn files(&self) -> Vec<PathBuf> {
        let cores = self.core_files().0.into_iter().map(|(_, path)| path);
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

    /// The cores' files beside the main one, by worker, and what else ends in `.toml` there or
    /// keeps the directory from being read.
    fn core_files(&self) -> (Vec<(u16, PathBuf)>, Vec<Unreadable>) {
        let (mut found, mut strange) = (Vec::new(), Vec::new());
        let Some(directory) = self.parent().map(|parent| parent.join(CORES_DIRECTORY)) else {
            return (found, strange);
        };
        let paths: io::Result<Vec<PathBuf>> = std::fs::read_dir(&directory)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
        let mut paths = match paths {
            Ok(paths) => paths,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                strange.push((directory.display().to_string(), cannot_read(&error)));
                Vec::new()
            }
        };
        paths.retain(|path| path.extension().is_some_and(|end| end == "toml"));
        for path in paths {
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            // Only one spelling of each number, so that no worker has two files.
            let core = stem.and_then(|stem| {
                let core: u16 = stem.parse().ok()?;
                (core < CORES_MAX && core.to_string() == stem).then_some(core)
            });
            match core {
                Some(core) => found.push((core, path)),
                None => strange.push((
                    path.display().to_string(),
                    format!(
                        "this file is for no worker; expected its number as the name, from \
                         0.toml to {}.toml",
                        CORES_MAX - 1
                    ),
                )),
            }
        }
        found.sort();
        strange.sort();
        (found, strange)
    }
}

/// The directory beside the main file in which the cores' files lie.
const CORES_DIRECTORY: &str = "cores";

/// A file's name, and why it could not be read.
type Unreadable = (String, String);

fn cannot_read(error: &io::Error) -> String {
    format!("this can't be read: {error}")
}

fn read(path: &Path) -> Result<Text, Unreadable> {
    let name = path.display().to_string();
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| {
        // One more than allowed, to know of it.
        file.take(CONFIG_FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
    });
    match read {
        Err(error) => Err((name, cannot_read(&error))),
        Ok(length) if length as u64 > CONFIG_FILE_BYTES_MAX => {
            let reason = format!("this file is longer than {CONFIG_FILE_BYTES_MAX} bytes");
            Err((name, reason))
        }
        Ok(_) => Ok(Text { name, text }),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    /// A directory of this test's own, empty.
    fn directory(name: &str) -> PathBuf {
        let name = format!("tidegate-sources-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn files_are_read_again_at_each_load() {
        let directory = directory("again");
        let main = directory.join("t.toml");
        fs::write(&main, "[limits]\nping_interval = \"5s\"\n").unwrap();
        let sources = Sources {
            file: Some(main.clone()),
            settings: vec!["limits.headers_max=7".to_owned()],
            ..Sources::default()
        };
        let config = sources.load().unwrap().config;
        assert_eq!(config.limits.ping_interval.0, Duration::from_secs(5));
        assert_eq!(sources.files(), std::slice::from_ref(&main));
        assert_eq!(sources.directories(), std::slice::from_ref(&directory));

        let cores = directory.join("cores");
        fs::create_dir(&cores).unwrap();
        for core in ["10", "2"] {
            fs::write(cores.join(format!("{core}.toml")), "backlog = 9\n").unwrap();
        }
        fs::write(&main, "[limits]\nping_interval = \"6s\"\n").unwrap();
        let Loaded {
            config, provenance, ..
        } = sources.load().unwrap();
        assert_eq!(config.limits.ping_interval.0, Duration::from_secs(6));
        assert_eq!(config.limits.headers_max, 7);
        assert_eq!(config.core(10).backlog, 9);
        let origin = provenance.origin("cores.2.backlog");
        assert_eq!(origin.brief(), "cores/2.toml:1");
        let files = [main.clone(), cores.join("2.toml"), cores.join("10.toml")];
        assert_eq!(sources.files(), files);
        assert_eq!(sources.directories(), [directory.clone(), cores]);

        fs::write(&main, "[limits\n").unwrap();
        assert!(sources.load().is_err());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn without_a_main_file_there_is_nothing_to_watch() {
        let sources = Sources::default();
        assert_eq!(sources.files(), Vec::<PathBuf>::new());
        assert_eq!(sources.directories(), Vec::<PathBuf>::new());
        sources.load().unwrap();
        let here = Sources {
            file: Some("t.toml".into()),
            ..Sources::default()
        };
        assert_eq!(here.directories()[0], Path::new("."));
    }

    #[test]
    fn a_filter_that_the_logger_does_not_know_is_an_error_with_its_place() {
        let sources = Sources {
            settings: vec!["log.level=a=b=c".to_owned(), "x=1".to_owned()],
            ..Sources::default()
        };
        let told = sources.load().unwrap_err().to_string();
        assert!(
            told.contains("--set log.level=a=b=c: log.level = \"a=b=c\""),
            "{told}"
        );
        assert!(
            told.contains("--set x=1: x: there is no such key"),
            "{told}"
        );
    }
}
