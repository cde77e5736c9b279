//! What is wrong with a configuration, where it says so, and how an operator is told.

use std::{borrow::Cow, collections::BTreeMap, fmt, ops::Range, sync::Arc};

use crate::base::limits::CONFIG_PROBLEMS_MAX;

/// Characters of a source line that are shown.
const EXCERPT_CHARS_MAX: usize = 160;

/// Why a configuration was refused. The operator is to blame; the text says where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Everything that is wrong with the layers and with what they come to.
    #[error("{0}")]
    Problems(Problems),
    /// Something that shows outside of the layers, such as an option that this machine can't follow.
    #[error("{origin}: {message}")]
    Invalid {
        /// The file, or the option.
        origin: String,
        /// What is wrong.
        message: String,
    },
    /// Values that do not go together, all of them, where no layers are known.
    #[error("{}", .0.join("\n"))]
    Contradictory(Vec<String>),
}

/// All problems of one configuration, at most [`CONFIG_PROBLEMS_MAX`], in the order of the layers and
/// of the lines in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub origin: Origin,
    /// Which key, as `limits.ping_interval`, if it is one.
    pub key: Option<String>,
    /// What is wrong, and what was expected.
    pub message: String,
    /// The line in question.
    pub excerpt: Option<Excerpt>,
    /// Its place among the others: the layer, and the offset in it.
    pub(super) rank: (usize, usize),
}

/// A line of a file with the part of it that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// Its number, from 1.
    pub number: usize,
    /// Its text, cut where it is too long to show.
    pub line: String,
    /// The characters in question.
    pub marked: Range<usize>,
}

/// Where a value comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    #[default]
    Default,
    /// A file.
    File {
        /// As it was named.
        name: Arc<str>,
        /// From 1.
        line: usize,
        /// In characters, from 1. 0 stands for the whole file, like line 0.
        column: usize,
    },
    /// A variable of the environment.
    Variable(String),
    /// A `--set`, with its text.
    Setting(String),
    /// A flag such as `--listen`.
    Flag(&'static str),
}

impl Origin {
    /// In few words, for a list of values: `tidegate.toml:12`, `cores/0.toml:3`, `--set`.
    pub fn brief(&self) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::File { name, line, .. } => {
                let parts: Vec<&str> = name.rsplit('/').take(2).collect();
                match parts.as_slice() {
                    [file, "cores"] => format!("cores/{file}:{line}"),
                    [file, ..] => format!("{file}:{line}"),
                    [] => format!("{name}:{line}"),
                }
            }
            Self::Variable(name) => format!("environment {name}"),
            Self::Setting(_) => "--set".to_owned(),
            Self::Flag(name) => (*name).to_owned(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line: 0, .. } => f.write_str(name),
            Self::File { name, line, column } => write!(f, "{name}:{line}:{column}"),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Setting(text) => write!(f, "--set {text}"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Problem {
    /// One line, and below it the excerpt with what is in question underlined.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            // A default is no place that anybody could look at.
            Origin::Default => {}
            origin => write!(f, "{origin}: ")?,
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.excerpt {
            Some(excerpt) => write!(f, "\n{excerpt}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number.to_string();
        // Tabs stay, below the line too, so that the mark stands under what it means.
        let plain = |c: char| if c.is_control() && c != '\t' { ' ' } else { c };
        let shown = EXCERPT_CHARS_MAX;
        let line: String = self.line.chars().take(shown).map(plain).collect();
        let start = self.marked.start.min(shown);
        let indent: String = self
            .line
            .chars()
            .take(start)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        // What lies behind the line's end, such as a missing bracket, is marked right behind it.
        let beyond = start.saturating_sub(self.line.chars().count());
        let marks = self.marked.len().min(shown - start).max(1);
        let (gutter, beyond) = (" ".repeat(number.len()), " ".repeat(beyond));
        writeln!(f, "  {number} | {line}")?;
        write!(f, "  {gutter} | {indent}{beyond}{}", "^".repeat(marks))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the configuration has 1 error\n")?,
            CONFIG_PROBLEMS_MAX => writeln!(
                f,
                "the configuration has {CONFIG_PROBLEMS_MAX} errors or more"
            )?,
            n => writeln!(f, "the configuration has {n} errors")?,
        }
        for problem in &self.0 {
            write!(f, "\n{problem}\n")?;
        }
        Ok(())
    }
}

/// Where each value of a configuration comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    pub(super) places: BTreeMap<String, Place>,
}

/// Where one value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) origin: Origin,
    /// Which layer.
    pub(super) source: usize,
    /// Which part of it is the value.
    pub(super) span: Range<usize>,
}

impl Provenance {
    /// Where the value of `key` (as `limits.ping_interval`, `routes[0].path` or `cores.1.cpu`)
    /// comes from.
    pub fn origin(&self, key: &str) -> Origin {
        self.places
            .get(key)
            .map_or(Origin::Default, |place| place.origin.clone())
    }
}

/// One layer's text, in which places can be found.
#[derive(Clone, Debug)]
pub(super) enum Source<'a> {
    File { name: Arc<str>, text: Cow<'a, str> },
    Variable(&'a str),
    Setting(&'a str),
    Flag(&'static str),
}

impl Source<'_> {
    /// Where `span` is, and for a file its line.
    pub(super) fn locate(&self, span: &Range<usize>) -> (Origin, Option<Excerpt>) {
        let origin = match self {
            Self::File { name, text } => {
                let (number, line, marked) = mark(text, span);
                let origin = Origin::File {
                    name: Arc::clone(name),
                    line: number,
                    column: marked.start + 1,
                };
                let excerpt = Excerpt {
                    number,
                    line: line.chars().take(EXCERPT_CHARS_MAX).collect(),
                    marked,
                };
                return (origin, Some(excerpt));
            }
            Self::Variable(name) => Origin::Variable((*name).to_owned()),
            Self::Setting(text) => Origin::Setting((*text).to_owned()),
            Self::Flag(name) => Origin::Flag(name),
        };
        (origin, None)
    }
}

/// The number and the text of the line in which `span` begins, and its characters there.
fn mark<'t>(text: &'t str, span: &Range<usize>) -> (usize, &'t str, Range<usize>) {
    let mut at = span.start.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let begin = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |more| at + more);
    let number = text[..begin].matches('\n').count() + 1;
    let line = text[begin..end].trim_end_matches('\r');
    let start = text[begin..at].chars().count();
    let mut last = span.end.clamp(at, end);
    while !text.is_char_boundary(last) {
        last -= 1;
    }
    let width = text[at..last].chars().count();
    (number, line, start..start + width)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, span: Range<usize>) -> String {
        let source = Source::File {
            name: "t.toml".into(),
            text: text.into(),
        };
        let (origin, excerpt) = source.locate(&span);
        format!("{origin}\n{}", excerpt.unwrap())
    }

    #[test]
    fn what_is_wrong_is_underlined_in_its_line() {
        assert_eq!(
            shown("a = 1\nbb = \"ü\" # x\r\nc", 11..15),
            "t.toml:2:6\n  2 | bb = \"ü\" # x\n    |      ^^^"
        );
        assert_eq!(
            shown("\ta = 1", 1..2),
            "t.toml:1:2\n  1 | \ta = 1\n    | \t^"
        );
        assert_eq!(
            shown("[limits", 7..7),
            "t.toml:1:8\n  1 | [limits\n    |        ^"
        );
        assert_eq!(shown("", 0..0), "t.toml:1:1\n  1 | \n    | ^");
        assert_eq!(
            shown("a = [\n1,\n]", 4..10),
            "t.toml:1:5\n  1 | a = [\n    |     ^"
        );
    }

    #[test]
    fn places_are_found_whatever_the_text_and_the_span() {
        let text = "é\n\u{1b}[0m \u{feff}x = 1\n\n";
        for start in 0..text.len() + 3 {
            for end in start..text.len() + 3 {
                let shown = shown(text, start..end);
                assert!(!shown.contains('\u{1b}'), "{shown:?}");
            }
        }
    }

    #[test]
    fn origins_are_brief_in_a_list() {
        let file = |name: &str| Origin::File {
            name: name.into(),
            line: 3,
            column: 1,
        };
        assert_eq!(
            file("/etc/tidegate/tidegate.toml").brief(),
            "tidegate.toml:3"
        );
        assert_eq!(file("/etc/tidegate/cores/0.toml").brief(), "cores/0.toml:3");
        assert_eq!(file("x.toml").brief(), "x.toml:3");
    }
}
