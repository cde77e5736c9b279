//! What keeps the source tree as docs/ARCHITECTURE.md draws it: layers, module docs, where unsafe
//! code may stand, and the length of files.
//!
//! A plain reader of lines: it knows `use crate::…`, groups of them, and `crate::…` in paths.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Which modules of the crate each of them may name.
const LAYERS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("config", &["base"]),
    ("bridge", &["base", "config"]),
    ("proto", &["base"]),
    ("session", &["base", "config", "proto"]),
    ("hub", &["base", "config", "proto", "session"]),
    ("handler", &["base", "config", "proto", "session", "hub"]),
    ("demo", &["config", "proto"]),
    ("engine", &["base"]),
    ("tls", &["base", "config"]),
    (
        "worker",
        &[
            "base", "config", "proto", "session", "hub", "handler", "demo", "engine", "tls",
            "bridge",
        ],
    ),
    ("control", &["base", "config", "tls", "bridge"]),
    ("bench", &["base", "proto", "engine", "tls"]),
];

/// Modules that stand above all layers.
const TOP: &[&str] = &["machine", "server", "sources", "cli", "main", "lib"];

/// Modules that the test files of any layer may name too.
const FOR_TESTS: &[&str] = &["base", "engine"];

/// Where unsafe code may stand.
const UNSAFE_FILES: &[&str] = &[
    "engine/buffers.rs",
    "engine/socket.rs",
    "engine/uring.rs",
    "engine/uring/recv_buffers.rs",
    "proto/ws/deflate/zlib.rs",
    "proto/ws/mask.rs",
];

const LINES_MAX: usize = 700;

/// Everything wrong with one file, given its path below `src`.
fn check(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    check_layers(path, text, &mut faults);
    let first = text.lines().find(|line| !line.trim().is_empty());
    if !first.is_some_and(|line| line.starts_with("//!")) {
        faults.push(format!("{path}: the file does not begin with `//!`"));
    }
    if !UNSAFE_FILES.contains(&path) {
        for (n, line) in code_lines(text) {
            if words(line).any(|word| word == "unsafe") {
                faults.push(format!("{path}:{n}: unsafe code"));
            }
        }
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        faults.push(format!("{path}: {lines} lines, more than {LINES_MAX}"));
    }
    faults
}

fn check_layers(path: &str, text: &str, faults: &mut Vec<String>) {
    let module = path.split(['/', '.']).next().unwrap_or_default();
    if TOP.contains(&module) {
        return;
    }
    let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == module) else {
        faults.push(format!("{path}: `{module}` is in no layer"));
        return;
    };
    let is_test = path.ends_with("/tests.rs") || path.contains("/tests/");
    for (n, named) in crate_modules(text) {
        let fits = named == module
            || allowed.contains(&named.as_str())
            || is_test && FOR_TESTS.contains(&named.as_str());
        if !fits {
            faults.push(format!("{path}:{n}: `{module}` must not know `{named}`"));
        }
    }
}

/// The modules that a file names right behind `crate::`, with the line of each.
fn crate_modules(text: &str) -> BTreeSet<(usize, String)> {
    let code: String = code_lines(text).fold(String::new(), |mut code, (_, line)| {
        code.push_str(line);
        code.push('\n');
        code
    });
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = code[at + "crate::".len()..].trim_start();
        match rest.strip_prefix('{') {
            None => found.extend(name(rest).map(|name| (line, name))),
            Some(group) => {
                let names = group_items(group);
                found.extend(names.filter_map(name).map(|name| (line, name)));
            }
        }
    }
    found
}

/// The items of a group right behind its brace, without those of groups within it.
fn group_items(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    let mut start = 0;
    let mut items = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&group[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items.into_iter()
}

/// The name at the front; none for a macro or where there is none.
fn name(text: &str) -> Option<String> {
    let text = text.trim_start();
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    let is_macro = text[end..].starts_with('!');
    (end > 0 && !is_macro).then(|| text[..end].to_owned())
}

/// Lines with their numbers, comments emptied and strings of one line left out.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines().map(|line| {
        let end = line.find("//").unwrap_or(line.len());
        &line[..end]
    }))
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    // Quoted text is no code; an odd number of quotes leaves the rest of the line to be read.
    line.split('"')
        .step_by(2)
        .flat_map(|code| code.split(|c: char| !c.is_alphanumeric() && c != '_'))
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("the folder is readable").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn the_tree_is_tidy() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    files.sort();
    assert!(!files.is_empty());
    let mut faults = Vec::new();
    for file in files {
        let path = file.strip_prefix(&src).expect("it lies there");
        let text = fs::read_to_string(&file).expect("source is text");
        faults.extend(check(&path.to_string_lossy(), &text));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn breaches_of_the_layers_are_found_however_they_are_written() {
    let breaches = [
        ("base/a.rs", "use crate::hub::Hub;"),
        (
            "proto/a.rs",
            "use crate::{\n    base::rng::Rng,\n    session::Session,\n};",
        ),
        ("engine/a.rs", "fn f() { crate::worker::f() }"),
        ("worker/mod.rs", "use crate::{base::{rng, slab}, control};"),
        ("control/a.rs", "pub(crate) use crate::worker::Worker;"),
        (
            "hub/a.rs",
            "#[cfg(test)]\nmod tests {\n    use crate::engine::sim;\n}",
        ),
        ("new/a.rs", "use crate::base::rng;"),
        ("bridge.rs", "use crate::worker::Worker;"),
    ];
    for (path, code) in breaches {
        let faults = check(path, &format!("//! Doc.\n{code}\n"));
        assert_eq!(faults.len(), 1, "{path}: {code}: {faults:?}");
    }
}

#[test]
fn what_the_layers_allow_is_let_be() {
    let fine = [
        (
            "worker/a.rs",
            "use crate::{\n    base::rng,\n    engine::{Engine, Event},\n    bridge,\n};",
        ),
        ("worker/a.rs", "use crate::worker::mesh;"),
        (
            "hub/a.rs",
            "// use crate::worker::Worker;\nuse mycrate::worker;",
        ),
        ("worker/tests.rs", "use crate::engine::sim::SimKernel;"),
        ("hub/edge/tests.rs", "use crate::engine::sim::replay;"),
        ("server.rs", "use crate::{control, worker};"),
    ];
    for (path, code) in fine {
        let faults = check(path, &format!("//! Doc.\n{code}\n"));
        assert!(faults.is_empty(), "{faults:?}");
    }
}

#[test]
fn the_other_breaches_are_found() {
    let faults = check("base/a.rs", "use std::fmt;\n//! Late.\n");
    assert_eq!(faults.len(), 1, "{faults:?}");
    let faults = check("base/a.rs", "//! Doc.\nfn f() { unsafe { g() } }\n");
    assert_eq!(faults, ["base/a.rs:2: unsafe code"]);
    let faults = check(
        "base/a.rs",
        "//! Doc.\nconst A: &str = \"unsafe\"; // unsafe\n",
    );
    assert!(faults.is_empty(), "{faults:?}");
    let faults = check("engine/uring.rs", "//! Doc.\nunsafe fn f() {}\n");
    assert!(faults.is_empty(), "{faults:?}");
    let long = format!("//! Doc.\n{}", "\n".repeat(LINES_MAX));
    assert_eq!(check("base/a.rs", &long).len(), 1);
}

/// docs/THREATS.md names every attack that is tested, and none that is not.
#[test]
fn the_threats_are_those_that_are_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let threats = fs::read_to_string(root.join("docs/THREATS.md")).expect("it is there");
    let mut tested = BTreeSet::new();
    for entry in fs::read_dir(root.join("tests"))
        .expect("it is there")
        .flatten()
    {
        let path = entry.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with("attack_") || !name.ends_with(".rs") {
            continue;
        }
        assert!(threats.contains(&format!("`tests/{name}`")), "{name}");
        let text = fs::read_to_string(&path).expect("it can be read");
        for test in text.split("#[test]\nfn ").skip(1) {
            tested.extend(test.split('(').next().map(str::to_owned));
        }
    }
    assert!(tested.len() > 15, "{tested:?}");
    let named: BTreeSet<String> = threats
        .lines()
        .filter(|line| line.starts_with("| "))
        .filter_map(|line| line.split(" | ").nth(3)?.split('`').nth(1))
        .map(str::to_owned)
        .collect();
    assert_eq!(named, tested);
}
