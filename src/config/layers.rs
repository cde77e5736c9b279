//! Puts the layers together: files, the environment, settings and flags, later ones winning.

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Config, ConfigError,
    check::Contradiction,
    problems::{Origin, Problem, Problems, Provenance, Source},
    schema::Node,
    walk::{Findings, Given, Syntax, Walk, nest},
};

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

/// What a configuration is made of, later fields winning over earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The main file.
    pub main: Option<Text>,
    /// The cores' files, by worker.
    pub cores: Vec<(u16, Text)>,
    /// Files that could not be read, with the reason.
    pub unreadable: Vec<(String, String)>,
    /// Variables of the environment whose name begins with [`VARIABLE_PREFIX`]. Those without `__`
    /// are not for the configuration.
    pub environment: Vec<(String, String)>,
    /// `KEY=VALUE` settings, in order.
    pub settings: Vec<String>,
    /// Flags.
    pub flags: Flags,
}

/// With what the name of every variable begins.
pub const VARIABLE_PREFIX: &str = "TIDEGATE_";

/// The variable of the environment that sets `key`.
pub fn variable_name(key: &str) -> String {
    let name = key.to_uppercase().replace('.', "__");
    format!("{VARIABLE_PREFIX}{name}")
}

/// The key that a variable sets; none if it is not for the configuration.
fn variable_key(name: &str) -> Option<String> {
    let rest = name.strip_prefix(VARIABLE_PREFIX)?;
    rest.contains("__")
        .then(|| rest.to_lowercase().replace("__", "."))
}

impl Layers {
    /// Puts all together and checks the result.
    ///
    /// # Errors
    /// Everything that is wrong, as [`ConfigError::Problems`].
    pub fn load(&self) -> Result<(Config, Provenance), ConfigError> {
        self.load_and(|_| Vec::new())
    }

    /// Like [`Layers::load`], with further checks of the result: `more` gives for each fault the
    /// key and what is wrong with it. It is called whatever has been found before.
    ///
    /// # Errors
    /// Everything that is wrong, as [`ConfigError::Problems`].
    pub fn load_and(
        &self,
        more: impl FnOnce(&Config) -> Vec<(String, String)>,
    ) -> Result<(Config, Provenance), ConfigError> {
        let mut config = Config::default();
        // Who has written nothing down wants to see something.
        config.server.demo = self.main.is_none();
        let mut findings = Findings::default();
        let mut sources = Vec::new();
        self.unreadable(&mut findings);
        self.files(&mut sources, &mut config, &mut findings);
        self.overrides(&mut sources, &mut config, &mut findings);
        let mut contradictions = config.contradictions();
        contradictions.extend(
            more(&config)
                .into_iter()
                .map(|(key, message)| Contradiction {
                    message: format!("{key} {message}"),
                    keys: vec![key],
                }),
        );
        contradictions.retain(|one| findings.is_worth_telling(one));
        for one in contradictions {
            if findings.is_full() {
                break;
            }
            let problem = located(one, &findings.provenance, &sources);
            findings.problems.push(problem);
        }
        if findings.problems.is_empty() {
            return Ok((config, findings.provenance));
        }
        findings.problems.sort_by_key(|problem| problem.rank);
        Err(ConfigError::Problems(Problems(findings.problems)))
    }

    fn unreadable(&self, findings: &mut Findings) {
        for (name, reason) in &self.unreadable {
            findings.incomplete = true;
            findings.problems.push(Problem {
                origin: Origin::File {
                    name: name.as_str().into(),
                    line: 0,
                    column: 0,
                },
                key: None,
                message: reason.clone(),
                excerpt: None,
                rank: (0, 0),
            });
        }
    }

    fn files<'a>(
        &'a self,
        sources: &mut Vec<Source<'a>>,
        config: &mut Config,
        findings: &mut Findings,
    ) {
        if let Some(main) = &self.main {
            file(main, None, sources, config, findings);
        }
        for (core, own) in &self.cores {
            file(own, Some(*core), sources, config, findings);
        }
    }

    fn overrides<'a>(
        &'a self,
        sources: &mut Vec<Source<'a>>,
        config: &mut Config,
        findings: &mut Findings,
    ) {
        let mut variables: Vec<(String, &str, &str)> = self
            .environment
            .iter()
            .filter_map(|(name, value)| Some((variable_key(name)?, name.as_str(), value.as_str())))
            .collect();
        // What concerns one core comes after what concerns all, as in the files.
        variables.sort_by_key(|(key, ..)| (key.starts_with("cores."), key.clone()));
        for (key, name, value) in &variables {
            bare(
                key,
                value,
                Source::Variable(name),
                sources,
                config,
                findings,
            );
        }
        for setting in &self.settings {
            let source = Source::Setting(setting);
            match setting.split_once('=') {
                Some((key, value)) => {
                    bare(key.trim(), value.trim(), source, sources, config, findings);
                }
                None => {
                    let expected = "expected KEY=VALUE such as limits.ping_interval=10s";
                    Walk::new(sources.len(), &source, findings).fault(&(0..0), expected.to_owned());
                    sources.push(source);
                }
            }
        }
        let flags = &self.flags;
        let listen = flags.listen.map(|listen| format!("\"{listen}\""));
        for (flag, key, value) in [
            ("--listen", "server.listen", listen.as_deref()),
            ("--cores", "server.cores", flags.cores.as_deref()),
            ("--demo", "server.demo", flags.demo.then_some("true")),
        ] {
            if let Some(value) = value {
                bare(key, value, Source::Flag(flag), sources, config, findings);
            }
        }
    }
}

impl Findings {
    /// Not what follows from a fault that is told anyway.
    fn is_worth_telling(&self, one: &Contradiction) -> bool {
        let is_broken = |key: &String| self.broken.contains(key);
        let is_set = |key: &String| self.provenance.places.contains_key(key);
        !one.keys.iter().any(is_broken) && (!self.incomplete || one.keys.iter().all(is_set))
    }
}

/// Takes up a file: the main one, or that of `core`.
fn file<'a>(
    file: &'a Text,
    core: Option<u16>,
    sources: &mut Vec<Source<'a>>,
    config: &mut Config,
    findings: &mut Findings,
) {
    let name: Arc<str> = file.name.as_str().into();
    let given = Source::File {
        name: Arc::clone(&name),
        text: Cow::Borrowed(&file.text),
    };
    let layer = sources.len();
    let (text, unclosed) = close_headers(&file.text);
    for one in &unclosed {
        Walk::new(layer, &given, findings).fault(&one.span, one.message.clone());
    }
    let line = |text: &str, at: usize| text.bytes().take(at).filter(|b| *b == b'\n').count();
    let told: Vec<usize> = unclosed
        .iter()
        .map(|one| line(&file.text, one.span.start))
        .collect();
    let (root, errors) = DeTable::parse_recoverable(&text);
    let mut syntax = Syntax::all(&errors);
    syntax.retain(|error| !told.contains(&line(&text, error.span.start)));
    let source = Source::File {
        name,
        text: Cow::Borrowed(&text),
    };
    let mut walk = Walk::new(layer, &source, findings);
    walk.syntax = syntax;
    let given = Given {
        key_span: 0..0,
        value: Spanned::new(root.span(), DeValue::Table(root.into_inner())),
    };
    match core {
        None => config.read(given, &mut walk),
        Some(core) => walk.within("cores", |walk| {
            walk.within(&core.to_string(), |walk| {
                config.cores.entry(core).or_default().read(given, walk);
            });
        }),
    }
    walk.finish();
    sources.push(Source::File {
        name: file.name.as_str().into(),
        text,
    });
}

/// The text with every table's header closed, so that what stands below it is not lost, and the
/// faults that this mends. Lines and what stands in front of a fault stay where they are.
fn close_headers(text: &str) -> (Cow<'_, str>, Vec<Syntax>) {
    let (_, errors) = DeTable::parse_recoverable(text);
    let mut unclosed = Syntax::all(&errors);
    unclosed
        .retain(|error| error.message.starts_with("unclosed ") && error.message.contains("table"));
    unclosed.sort_by_key(|error| error.span.start);
    if unclosed.is_empty() {
        return (Cow::Borrowed(text), unclosed);
    }
    let mut closed = text.to_owned();
    for error in unclosed.iter().rev() {
        let bracket = if error.message.contains("`]]`") {
            "]]"
        } else {
            "]"
        };
        if closed.is_char_boundary(error.span.start) {
            closed.insert_str(error.span.start, bracket);
        }
    }
    (Cow::Owned(closed), unclosed)
}

/// Takes up a value from outside of TOML: it is TOML where it reads as such, else text, so that
/// `10s` and `127.0.0.1:0` need no quotes.
fn bare<'a>(
    key: &str,
    value: &str,
    source: Source<'a>,
    sources: &mut Vec<Source<'a>>,
    config: &mut Config,
    findings: &mut Findings,
) {
    let parsed = DeValue::parse(value)
        .unwrap_or_else(|_| Spanned::new(0..value.len(), DeValue::String(value.into())));
    let (depth, given) = nest(key, parsed);
    let mut walk = Walk::new(sources.len(), &source, findings);
    walk.bare = Some((depth, value));
    config.read(given, &mut walk);
    // What is set here holds on every core, whatever the cores' files say: a later layer wins.
    for key in walk.finish() {
        for (core, own) in &mut config.cores {
            if let Some(name) = own.forget(&key) {
                let places = &mut findings.provenance.places;
                places.remove(&format!("cores.{core}.{name}"));
            }
        }
    }
    sources.push(source);
}

/// A contradiction with its place: that of the first of its keys that somebody set.
fn located(one: Contradiction, provenance: &Provenance, sources: &[Source<'_>]) -> Problem {
    let places: Vec<_> = one
        .keys
        .iter()
        .filter(|key| one.message.contains(*key))
        .filter_map(|key| provenance.places.get(key))
        .collect();
    let Some(first) = places.first() else {
        return Problem {
            origin: Origin::Default,
            key: None,
            message: one.message,
            excerpt: None,
            rank: (usize::MAX, 0),
        };
    };
    let mut message = one.message;
    for other in &places[1..] {
        message.push_str(&format!("; see {}", other.origin));
    }
    let (origin, excerpt) = match sources.get(first.source) {
        Some(source) => source.locate(&first.span),
        None => (first.origin.clone(), None),
    };
    Problem {
        origin,
        key: None,
        message,
        excerpt,
        rank: (first.source, first.span.start),
    }
}
