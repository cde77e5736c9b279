//! What a table of the configuration is made of: its keys, what each takes, and two ways to go
//! over them: reading what a layer gives, and visiting what holds.
//!
//! [`table!`] writes a struct down once, with its keys' names, ranges and what a reload does.

use super::walk::{Given, Walk};

/// What a reload does with a changed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// It holds at once, for open connections too.
    Open,
    /// It holds for new connections.
    New,
    /// It holds after a restart.
    Restart,
}

impl Reload {
    /// The word for it in docs/CONFIG.md.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::New => "new",
            Self::Restart => "restart",
        }
    }
}

/// What is known of a key whatever its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name within its table.
    pub name: &'static str,
    /// What a reload does with it.
    pub reload: Reload,
    /// The least and the greatest amount, in numbers, bytes or microseconds.
    pub range: Option<(u64, u64)>,
    /// The key of the main sections in whose place it stands, and whose range it has.
    pub replaces: Option<&'static str>,
}

/// What is known of a type of values.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// What is expected, with an example, to follow the word "expected".
    pub expected: &'static str,
    /// An amount as it is written.
    pub write: fn(u64) -> String,
}

/// A value that one key has.
pub(super) trait Leaf {
    /// What is known of all of its type.
    const KIND: Kind;

    /// As TOML.
    fn to_toml(&self) -> String;

    /// What a range can bound: a number, bytes, or microseconds.
    fn amount(&self) -> Option<u64> {
        None
    }
}

/// A key that was visited, with what it has.
#[derive(Clone, Debug)]
pub(super) struct Visit<'p> {
    /// Its path, such as `limits.ping_interval`, `routes[0].path` or `cores.1.cpu`.
    pub(super) path: &'p str,
    /// What is known of it.
    pub(super) key: Key,
    /// What it takes.
    pub(super) kind: Kind,
    /// Its value as TOML; none if it is not set.
    pub(super) value: Option<String>,
    /// What a range can bound.
    pub(super) amount: Option<u64>,
}

impl Visit<'_> {
    /// The range, as in docs/CONFIG.md, if there is one: `"1ms" to "365d"`, or `1 or more`.
    pub(super) fn range_text(&self, range: (u64, u64)) -> String {
        let write = self.kind.write;
        match range {
            (low, u64::MAX) => format!("{} or more", write(low)),
            (low, high) => format!("{} to {}", write(low), write(high)),
        }
    }
}

/// A part of the configuration: a table, a list of tables, or one value.
pub(super) trait Node {
    /// Takes up what a layer gives for it. Says what is wrong through `walk`.
    fn read(&mut self, given: Given<'_>, walk: &mut Walk<'_>);

    /// Goes over all its keys. `path` is its own.
    fn visit(&self, path: &mut String, key: Key, visit: &mut dyn FnMut(Visit<'_>));
}

/// A table whose entries have names.
pub(super) trait Table: Node {
    /// Its keys' names.
    const NAMES: &'static [&'static str];
}

impl<T: Leaf + serde::de::DeserializeOwned> Node for T {
    fn read(&mut self, given: Given<'_>, walk: &mut Walk<'_>) {
        if let Some(value) = walk.leaf(given) {
            *self = value;
        }
    }

    fn visit(&self, path: &mut String, key: Key, visit: &mut dyn FnMut(Visit<'_>)) {
        visit(Visit {
            path,
            key,
            kind: T::KIND,
            value: Some(self.to_toml()),
            amount: self.amount(),
        });
    }
}

impl<T: Leaf + serde::de::DeserializeOwned> Node for Option<T> {
    fn read(&mut self, given: Given<'_>, walk: &mut Walk<'_>) {
        if let Some(value) = walk.leaf(given) {
            *self = Some(value);
        }
    }

    fn visit(&self, path: &mut String, key: Key, visit: &mut dyn FnMut(Visit<'_>)) {
        visit(Visit {
            path,
            key,
            kind: T::KIND,
            value: self.as_ref().map(Leaf::to_toml),
            amount: self.as_ref().and_then(Leaf::amount),
        });
    }
}

/// Lengthens `path` by `part` while `f` runs.
pub(super) fn within<R>(path: &mut String, part: &str, f: impl FnOnce(&mut String) -> R) -> R {
    let length = path.len();
    lengthen(path, part);
    let result = f(path);
    path.truncate(length);
    result
}

/// Adds a key's name, or an index in brackets, to a path.
pub(super) fn lengthen(path: &mut String, part: &str) {
    if !path.is_empty() && !part.starts_with('[') {
        path.push('.');
    }
    path.push_str(part);
}

/// A struct whose fields are keys. Each field says after `=` what a reload does, then where it
/// applies `replaces "KEY OF A MAIN SECTION"` and `in LOW => HIGH`.
macro_rules! table {
    (
        $(#[$attribute:meta])*
        pub struct $table:ident {
            $(
                $(#[$doc:meta])*
                pub $field:ident $(as $name:literal)?: $type:ty = $reload:ident
                    $(replaces $main:literal)? $(in $low:expr => $high:expr)?;
            )+
        }
    ) => {
        $(#[$attribute])*
        pub struct $table {
            $($(#[$doc])* pub $field: $type,)+
        }

        impl $crate::config::schema::Table for $table {
            const NAMES: &'static [&'static str] = &[
                $($crate::config::schema::first!($($name,)? stringify!($field),),)+
            ];
        }

        impl $crate::config::schema::Node for $table {
            fn read(
                &mut self,
                given: $crate::config::walk::Given<'_>,
                walk: &mut $crate::config::walk::Walk<'_>,
            ) {
                use $crate::config::schema::{Node, Table, first};
                for (name, given) in walk.entries(given) {
                    match name.as_str() {
                        $(x if x == first!($($name,)? stringify!($field),) => {
                            walk.within(&name, |walk| Node::read(&mut self.$field, given, walk));
                        })+
                        _ => walk.unknown(&name, given.key_span, Self::NAMES),
                    }
                }
            }

            fn visit(
                &self,
                path: &mut String,
                _: $crate::config::schema::Key,
                visit: &mut dyn FnMut($crate::config::schema::Visit<'_>),
            ) {
                use $crate::config::schema::{Key, Node, Reload, first, within};
                $({
                    let key = Key {
                        name: first!($($name,)? stringify!($field),),
                        reload: Reload::$reload,
                        range: first!($(Some(($low, $high)),)? None,),
                        replaces: first!($(Some($main),)? None,),
                    };
                    within(path, key.name, |path| Node::visit(&self.$field, path, key, visit));
                })+
            }
        }
    };
}

/// The first of several, whatever else there is.
macro_rules! first {
    ($first:expr, $($rest:expr,)*) => {
        $first
    };
}

pub(super) use {first, table};

/// Makes `Vec<$table>` a list of at most `$max` tables, `[[…]]`, whose entries must have the keys
/// `$required`.
macro_rules! list {
    ($table:ty, $max:expr, $($required:literal),+) => {
        impl $crate::config::schema::Node for Vec<$table> {
            fn read(
                &mut self,
                given: $crate::config::walk::Given<'_>,
                walk: &mut $crate::config::walk::Walk<'_>,
            ) {
                if let Some(list) = walk.list(given, &[$($required),+], $max) {
                    *self = list;
                }
            }

            fn visit(
                &self,
                path: &mut String,
                key: $crate::config::schema::Key,
                visit: &mut dyn FnMut($crate::config::schema::Visit<'_>),
            ) {
                use $crate::config::schema::within;
                for (n, entry) in self.iter().enumerate() {
                    within(path, &format!("[{n}]"), |path| {
                        $crate::config::schema::Node::visit(entry, path, key, visit);
                    });
                }
            }
        }
    };
}

pub(super) use list;
