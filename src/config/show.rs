//! The configuration that holds, as TOML that loads to the same, each value with its origin.

use std::fmt::Write as _;

use super::{
    Config, Provenance,
    catalogue::ROOT,
    schema::{Node, Reload, Visit},
};

/// Where trailing comments stand.
const COMMENT_COLUMN: usize = 44;

impl Config {
    /// The effective configuration as TOML, with the source of each value behind it as a comment.
    ///
    /// What is not set stands there as a comment, but not where it means "as for all others": in
    /// the limits of a route, in an entry of `[[rooms.match]]`, for a core.
    pub fn show(&self, provenance: &Provenance) -> String {
        let mut text = String::new();
        let mut table = String::new();
        self.visit(&mut String::new(), ROOT, &mut |visit| {
            let at = visit.path.len() - visit.key.name.len();
            let own = visit.path[..at].trim_end_matches('.');
            // A table within an entry of a list is nothing unless something is set in it.
            let is_empty = visit.value.is_none() && own.contains("].");
            if own != table && !is_empty {
                table.replace_range(.., own);
                header(own, &mut text);
            }
            let name = visit.key.name;
            match &visit.value {
                Some(value) => {
                    let line = format!("{name} = {value}");
                    let origin = provenance.origin(visit.path).brief();
                    let _ = writeln!(text, "{line:<COMMENT_COLUMN$} # {origin}");
                }
                None if inherits(&visit) => {}
                None => {
                    let line = format!("# {name} is not set");
                    let _ = writeln!(text, "{line:<COMMENT_COLUMN$} # default");
                }
            }
        });
        if self.routes.is_empty() {
            text.push_str("\n# [[routes]]: the default set\n");
            for route in self.effective_routes() {
                let _ = writeln!(text, "#   {}", route.path);
            }
        }
        text
    }

    /// The keys whose values differ in `other`, with what a reload does with each. Lists of tables
    /// that have grown or shrunk are told by the keys that one of the two lacks.
    pub fn differences(&self, other: &Self) -> Vec<(String, Reload)> {
        let (ours, theirs) = (self.flat(), other.flat());
        let mut found: Vec<(String, Reload)> = ours
            .iter()
            .filter(|one| !theirs.contains(one))
            .chain(theirs.iter().filter(|one| !ours.contains(one)))
            .map(|(path, _, reload)| (path.clone(), *reload))
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found.dedup_by(|a, b| a.0 == b.0);
        found
    }

    /// Every key that is set, with its value and what a reload does with it.
    fn flat(&self) -> Vec<(String, String, Reload)> {
        let mut flat = Vec::new();
        self.visit(&mut String::new(), ROOT, &mut |visit| {
            if let Some(value) = visit.value {
                flat.push((visit.path.to_owned(), value, visit.key.reload));
            }
        });
        flat
    }
}

/// Whether a key that is not set means the value of another.
fn inherits(visit: &Visit<'_>) -> bool {
    visit.path.contains('[') || visit.path.starts_with("cores.")
}

/// The header of the table at `path`: `[limits]`, `[[routes]]`, `[routes.limits]`, `[cores.1]`.
fn header(path: &str, text: &mut String) {
    if !text.is_empty() {
        text.push('\n');
    }
    let _ = match (path.find('['), path.find(']')) {
        (Some(open), Some(close)) if close + 1 == path.len() => {
            writeln!(text, "[[{}]]", &path[..open])
        }
        (Some(open), Some(close)) => writeln!(text, "[{}{}]", &path[..open], &path[close + 1..]),
        _ => writeln!(text, "[{path}]"),
    };
}
