//! docs/CONFIG.md against the code.

use crate::config::{Entry, catalogue};

/// Every key stands in docs/CONFIG.md with its default, its range and what a reload does, and no
/// other key does.
#[test]
fn the_documentation_tells_of_every_key_and_of_no_other() {
    let mut documented: Vec<String> = Vec::new();
    let mut table = None;
    for line in include_str!("../../../docs/CONFIG.md").lines() {
        if line.starts_with('#') {
            table = line.split('`').nth(1).and_then(table_path);
            continue;
        }
        let (Some(table), Some(cells)) = (&table, line.strip_prefix("| `")) else {
            continue;
        };
        let cells: Vec<&str> = cells.split(" | ").map(str::trim).collect();
        assert!(cells.len() >= 5, "{line}");
        let name = cells[0].trim_end_matches('`');
        documented.push(format!("{table}.{name} | {}", cells[1..4].join(" | ")));
    }
    let known: Vec<String> = catalogue().iter().map(documentation).collect();
    let missing: Vec<&String> = known
        .iter()
        .filter(|one| !documented.contains(one))
        .collect();
    let unknown: Vec<&String> = documented
        .iter()
        .filter(|one| !known.contains(one))
        .collect();
    assert!(
        missing.is_empty() && unknown.is_empty() && known.len() == documented.len(),
        "missing or different: {missing:#?}\nunknown or different: {unknown:#?}"
    );
}

/// What the first cells of a key's line must say.
fn documentation(entry: &Entry) -> String {
    let default = match (&entry.default, entry.key.replaces) {
        (Some(default), _) => format!("`{default}`"),
        (None, Some(main)) => format!("as `{main}`"),
        (None, None) if entry.is_required => "required".to_owned(),
        (None, None) => "not set".to_owned(),
    };
    let range = entry.range_text.clone().unwrap_or_default();
    let reload = entry.key.reload.word();
    format!("{} | {default} | {range} | {reload}", entry.path)
}

/// The path of the table that a heading names.
fn table_path(heading: &str) -> Option<String> {
    match heading {
        "cores/<n>.toml" => Some("cores.N".to_owned()),
        "[routes.limits]" => Some("routes[].limits".to_owned()),
        _ => match heading.strip_prefix("[[") {
            Some(list) => Some(format!("{}[]", list.strip_suffix("]]")?)),
            None => Some(heading.strip_prefix('[')?.strip_suffix(']')?.to_owned()),
        },
    }
}
