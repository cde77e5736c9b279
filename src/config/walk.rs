//! Takes what one layer gives apart, key by key, so that no error hides another.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    CoreFile,
    nearest::suggest,
    problems::{Origin, Place, Problem, Provenance, Source},
    schema::{Key, Leaf, Node, Visit, lengthen, within},
};

use crate::base::limits::{CONFIG_PROBLEMS_MAX, CORES_MAX};

/// A value of a layer, with the key that it is given for.
#[derive(Clone, Debug)]
pub(super) struct Given<'a> {
    pub(super) key_span: Range<usize>,
    pub(super) value: Spanned<DeValue<'a>>,
}

/// What has been found out over all layers.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<Problem>,
    pub(super) provenance: Provenance,
    /// Keys whose value could not be taken, so that nothing more need be said of them.
    pub(super) broken: BTreeSet<String>,
    /// Whether keys may be missing because a text could not be understood.
    pub(super) incomplete: bool,
}

impl Findings {
    /// Whether no more problems are gathered.
    pub(super) fn is_full(&self) -> bool {
        self.problems.len() >= CONFIG_PROBLEMS_MAX
    }
}

/// A walk over one layer.
#[derive(Debug)]
pub(super) struct Walk<'w> {
    /// The number of the layer, and its text.
    pub(super) layer: usize,
    pub(super) source: &'w Source<'w>,
    /// Where the walk is.
    pub(super) path: String,
    /// A value that stands outside of TOML, and how many tables lie around it.
    pub(super) bare: Option<(usize, &'w str)>,
    /// Faults of the text itself; told with their key as soon as that is known.
    pub(super) syntax: Vec<Syntax>,
    /// Keys that got a value.
    pub(super) taken: Vec<String>,
    pub(super) findings: &'w mut Findings,
}

/// A fault of a TOML text.
#[derive(Clone, Debug)]
pub(super) struct Syntax {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

impl Syntax {
    pub(super) fn all(errors: &[toml::de::Error]) -> Vec<Self> {
        let read = |error: &toml::de::Error| Self {
            span: error.span().unwrap_or(0..0),
            message: error.message().to_owned(),
        };
        errors.iter().map(read).collect()
    }
}

impl<'w> Walk<'w> {
    pub(super) fn new(layer: usize, source: &'w Source<'w>, findings: &'w mut Findings) -> Self {
        Self {
            layer,
            source,
            path: String::new(),
            bare: None,
            syntax: Vec::new(),
            taken: Vec::new(),
            findings,
        }
    }

    /// Walks on below `part`.
    pub(super) fn within(&mut self, part: &str, f: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        lengthen(&mut self.path, part);
        f(self);
        self.path.truncate(length);
    }

    /// The entries of a table; none and a problem if it is something else.
    pub(super) fn entries<'a>(&mut self, given: Given<'a>) -> Vec<(String, Given<'a>)> {
        let span = given.value.span();
        let DeValue::Table(table) = given.value.into_inner() else {
            let message = "this is a table of keys, not a single value".to_owned();
            self.fault(&given.key_span, message);
            return Vec::new();
        };
        self.bare = self
            .bare
            .and_then(|(depth, text)| Some((depth.checked_sub(1)?, text)));
        // The tables around a bare value have no place of their own.
        let outer = span;
        table
            .into_iter()
            .map(|(key, value)| {
                let key_span = if key.span().is_empty() {
                    outer.clone()
                } else {
                    key.span()
                };
                (key.into_inner().into_owned(), Given { key_span, value })
            })
            .collect()
    }

    /// A list of at most `max` tables, each of which must have the keys `required`.
    pub(super) fn list<T: Node + Default>(
        &mut self,
        given: Given<'_>,
        required: &[&str],
        max: usize,
    ) -> Option<Vec<T>> {
        let DeValue::Array(array) = given.value.into_inner() else {
            let path = &self.path;
            let message = format!(
                "expected a list of tables: [[{path}]] before each in a file, \
                 or all of them as {path}=[{{ … }}, {{ … }}]"
            );
            self.fault(&given.key_span, message);
            return None;
        };
        let prefix = format!("{}[", self.path);
        let places = &mut self.findings.provenance.places;
        places.retain(|path, _| !path.starts_with(&prefix));
        let name = self.path.clone();
        let mut list = Vec::new();
        for (n, value) in array.into_iter().enumerate() {
            let span = value.span();
            if n == max {
                self.fault(&span, format!("there are too many; expected {max} at most"));
                break;
            }
            let has = |name: &str| {
                let table = value.get_ref().as_table();
                table.is_none_or(|table| table.contains_key(name))
            };
            let missing: Vec<&str> = required.iter().copied().filter(|name| !has(name)).collect();
            let mut item = T::default();
            self.within(&format!("[{n}]"), |walk| {
                for key in missing {
                    walk.within(key, |walk| {
                        let message = format!("this key is missing; each [[{name}]] needs it");
                        walk.fault(&span, message);
                    });
                }
                let given = Given {
                    key_span: span.clone(),
                    value,
                };
                item.read(given, walk);
            });
            list.push(item);
        }
        self.taken.push(self.path.clone());
        Some(list)
    }

    /// One value; none and a problem if it is not what its key takes.
    pub(super) fn leaf<T: Leaf + DeserializeOwned>(&mut self, given: Given<'_>) -> Option<T> {
        let span = given.value.span();
        let expected = T::KIND.expected;
        let touches = |at: usize| given.key_span.start <= at && at <= span.end;
        if let Some(n) = self.syntax.iter().position(|s| touches(s.span.start)) {
            let Syntax { span, message } = self.syntax.remove(n);
            self.fault(&span, format!("{message}; expected {expected}"));
            return None;
        }
        let table = matches!(given.value.get_ref(), DeValue::Table(_));
        let bare = self.bare.filter(|(depth, _)| *depth == 0 && !table);
        let result = T::deserialize(ValueDeserializer::from(given.value)).or_else(|error| {
            // A bare 7 is as good as "7" where text is expected.
            let Some((_, text)) = bare else {
                return Err(error);
            };
            let text = DeValue::String(text.into());
            let text = ValueDeserializer::from(Spanned::new(span.clone(), text));
            T::deserialize(text).map_err(|_| error)
        });
        match result {
            Ok(value) => {
                self.take(span);
                Some(value)
            }
            Err(error) => {
                // In a list the entry at fault has its own place.
                let inner = error.span().filter(|inner| !inner.is_empty());
                let span = inner.unwrap_or(span);
                let message = if table {
                    format!("this key has no keys of its own; expected {expected}")
                } else {
                    format!("{} does not fit; expected {expected}", self.quote(&span))
                };
                self.fault(&span, message);
                None
            }
        }
    }

    /// Says that there is no such key.
    pub(super) fn unknown(&mut self, name: &str, span: Range<usize>, siblings: &[&str]) {
        if self.findings.is_full() {
            return;
        }
        let nearest = suggest(&self.path, name, siblings);
        let hint = nearest.map_or_else(String::new, |near| {
            let near = match self.source {
                Source::Variable(_) => super::layers::variable_name(&near),
                _ => near,
            };
            format!("; did you mean `{near}`?")
        });
        let message = format!("there is no such key{hint}");
        self.within(name, |walk| walk.fault(&span, message));
    }

    /// Notes a problem of the key at which the walk is.
    pub(super) fn fault(&mut self, span: &Range<usize>, message: String) {
        let key = Some(self.path.clone()).filter(|path| !path.is_empty());
        self.findings.broken.extend(key.clone());
        self.problem(span, key, message);
    }

    /// Tells of what is wrong with the text and belongs to no key.
    pub(super) fn finish(mut self) -> Vec<String> {
        // What is given twice is at least given.
        self.findings.incomplete |= self.syntax.iter().any(|s| s.message != DUPLICATE);
        for Syntax { span, message } in std::mem::take(&mut self.syntax) {
            match self.known_twice(&span).filter(|_| message == DUPLICATE) {
                Some((key, place)) => {
                    let message = format!("{message}; it is set already at {place}");
                    self.problem(&span, Some(key), message);
                }
                None => self.problem(&span, None, message),
            }
        }
        self.taken
    }

    /// The key whose name stands at `span` for the second time, and where its value stands.
    fn known_twice(&self, span: &Range<usize>) -> Option<(String, Origin)> {
        let Source::File { text, .. } = self.source else {
            return None;
        };
        let header = text.get(..span.start)?.lines().rev().find_map(|line| {
            let line = line.trim().strip_prefix('[')?;
            Some(line.split(']').next().unwrap_or_default().trim())
        });
        let mut key = self.path.clone();
        for part in header.into_iter().chain(text.get(span.clone())) {
            lengthen(&mut key, part.trim());
        }
        let place = self.findings.provenance.places.get(&key)?;
        (place.source == self.layer).then(|| (key, place.origin.clone()))
    }

    fn problem(&mut self, span: &Range<usize>, key: Option<String>, message: String) {
        if self.findings.is_full() {
            return;
        }
        let (origin, excerpt) = self.source.locate(span);
        self.findings.problems.push(Problem {
            origin,
            key,
            message,
            excerpt,
            rank: (self.layer, span.start),
        });
    }

    /// Notes where the value of the key comes from.
    fn take(&mut self, span: Range<usize>) {
        self.findings.broken.remove(&self.path);
        let place = Place {
            origin: self.source.locate(&span).0,
            source: self.layer,
            span,
        };
        let places = &mut self.findings.provenance.places;
        places.insert(self.path.clone(), place);
        self.taken.push(self.path.clone());
    }

    /// A value as it was written, cut short.
    fn quote(&self, span: &Range<usize>) -> String {
        let text = match (self.bare, self.source) {
            (Some((_, bare)), _) => bare,
            (None, Source::File { text, .. }) => text.get(span.clone()).unwrap_or_default(),
            (None, _) => "this",
        };
        let cut = text.lines().next().unwrap_or_default();
        match cut.char_indices().nth(QUOTED_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &cut[..end]),
            None if cut.len() < text.len() => format!("{cut}…"),
            None if cut.is_empty() => "nothing".to_owned(),
            None => cut.to_owned(),
        }
    }
}

/// How the parser calls a key that is given twice.
const DUPLICATE: &str = "duplicate key";
/// Characters of a value that a message repeats.
const QUOTED_CHARS_MAX: usize = 60;

impl Node for BTreeMap<u16, CoreFile> {
    fn read(&mut self, given: Given<'_>, walk: &mut Walk<'_>) {
        for (name, given) in walk.entries(given) {
            // Only one spelling of each number, so that no worker is told of twice.
            let is_worker = |n: &u16| *n < CORES_MAX && n.to_string() == name;
            let number = name.parse().ok().filter(is_worker);
            walk.within(&name, |walk| match number {
                Some(core) => self.entry(core).or_default().read(given, walk),
                None => walk.fault(
                    &given.key_span,
                    format!("expected a worker's number, from 0 to {}", CORES_MAX - 1),
                ),
            });
        }
    }

    fn visit(&self, path: &mut String, key: Key, visit: &mut dyn FnMut(Visit<'_>)) {
        for (core, own) in self {
            within(path, &core.to_string(), |path| own.visit(path, key, visit));
        }
    }
}

/// `value` as it would be given for `path`, with the tables around it. They have empty places.
pub(super) fn nest<'a>(path: &'a str, value: Spanned<DeValue<'a>>) -> (usize, Given<'a>) {
    let span = value.span();
    let (mut depth, mut value) = (0, value);
    for name in path.rsplit('.') {
        let mut table = DeTable::new();
        table.insert(Spanned::new(0..0, name.trim().into()), value);
        value = Spanned::new(span.clone(), DeValue::Table(table));
        depth += 1;
    }
    let key_span = span;
    (depth, Given { key_span, value })
}
