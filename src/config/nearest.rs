//! The known key nearest to one that is not known.

use super::catalogue::catalogue;

/// What was perhaps meant by `name` in the table at `path`, whose keys are `siblings`: a whole
/// path. None if nothing is near.
pub(super) fn suggest(path: &str, name: &str, siblings: &[&str]) -> Option<String> {
    let whole = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    let near = |distance: usize| distance <= (name.chars().count() / 3).clamp(1, 4);
    let sibling = siblings
        .iter()
        .map(|sibling| (distance(name, sibling), *sibling))
        .filter(|(distance, _)| near(*distance))
        .min();
    if let Some((_, sibling)) = sibling {
        return Some(whole(sibling));
    }
    // The right key in the wrong table, or the wrong table altogether.
    let given = whole(name);
    catalogue()
        .into_iter()
        .map(|entry| {
            let last = entry.path.rsplit('.').next().unwrap_or_default();
            let by_name = distance(name, last) + 1;
            (distance(&given, &entry.path).min(by_name), entry.path)
        })
        .filter(|(distance, _)| near(*distance))
        .min()
        .map(|(_, path)| path)
}

/// How many characters must be put in, left out, replaced or swapped with their neighbour.
///
/// Takes `a.len() × b.len()` steps; a key longer than any known one is cut.
fn distance(a: &str, b: &str) -> usize {
    const LENGTH_MAX: usize = 64;
    let a: Vec<char> = a.chars().take(LENGTH_MAX).collect();
    let b: Vec<char> = b.chars().take(LENGTH_MAX).collect();
    // The rows of the table of distances between beginnings: before last, last, this.
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = a[i - 1] == b[j - 1];
            let mut least = (last[j - 1] + usize::from(!same))
                .min(last[j] + 1)
                .min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
            ("abc", "abd", 1),
            ("abc", "ab", 1),
            ("abc", "xabc", 1),
            ("abc", "acb", 1),
            ("kitten", "sitting", 3),
            ("für", "fur", 1),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_key_is_found_here_or_elsewhere() {
        let here = ["ping_interval", "pong_timeout", "headers_max"];
        for (path, name, expected) in [
            ("limits", "ping_intervall", Some("limits.ping_interval")),
            ("limits", "ping-interval", Some("limits.ping_interval")),
            ("limits", "header_max", Some("limits.headers_max")),
            ("", "ping_interval", Some("limits.ping_interval")),
            ("server", "pong_timeout", Some("limits.pong_timeout")),
            ("limit", "headers_max", Some("limits.headers_max")),
            ("limits", "colour", None),
            ("limits", "x", None),
        ] {
            let siblings = if path == "limits" { &here[..] } else { &[] };
            let found = suggest(path, name, siblings);
            assert_eq!(found.as_deref(), expected, "{path} {name}");
        }
    }
}
