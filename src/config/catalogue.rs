//! Every key that there is, with what is known of it.

use super::{
    Config, CoreFile, RoomMatch, Route, TlsCertificate,
    schema::{Key, Kind, Node, Reload},
};

/// One key.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its path; in a list of tables `routes[].path`, of a core's file `cores.N.cpu`.
    pub path: String,
    /// What is known of it.
    pub key: Key,
    /// What it takes.
    pub kind: Kind,
    /// Its default as TOML; none if it is not set by default.
    pub default: Option<String>,
    /// Whether an entry of its list must have it.
    pub is_required: bool,
    /// Its least and greatest amount, its own or that of the key in whose place it stands.
    pub range: Option<(u64, u64)>,
    /// The range in words.
    pub range_text: Option<String>,
}

/// Stands for a section where a key is asked for.
pub(super) const ROOT: Key = Key {
    name: "",
    reload: Reload::Open,
    range: None,
    replaces: None,
};

/// Every key, in the order of the documentation.
pub fn catalogue() -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut add = |path: &str, node: &dyn Node, is_list: bool| {
        let mut found = Vec::new();
        node.visit(&mut path.to_owned(), ROOT, &mut |visit| {
            let replaced = entries
                .iter()
                .find(|entry| Some(entry.path.as_str()) == visit.key.replaces);
            let range = visit
                .key
                .range
                .or_else(|| replaced.and_then(|entry| entry.range));
            found.push(Entry {
                path: visit.path.to_owned(),
                key: visit.key,
                kind: visit.kind,
                range,
                range_text: range.map(|range| visit.range_text(range)),
                is_required: is_list && visit.value.is_some(),
                default: visit.value.clone().filter(|_| !is_list),
            });
        });
        entries.append(&mut found);
    };
    add("", &Config::default(), false);
    add("tls.certificates[]", &TlsCertificate::default(), true);
    add("rooms.match[]", &RoomMatch::default(), true);
    add("routes[]", &Route::default(), true);
    add("cores.N", &CoreFile::default(), false);
    entries
}
