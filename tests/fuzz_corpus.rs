//! Every input of `fuzz/corpus` and `fuzz/crashes`, through its fuzz target: what was found once is found
//! again, without a fuzzer. See docs/FUZZING.md.

// The crate of the fuzzer compiles the targets too, and finds one by its name.
#[allow(dead_code)]
#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use targets::TARGETS;

fn folder(kind: &str, target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz")
        .join(kind)
        .join(target)
}

/// The files of a folder, in the order of their names.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder is readable").path())
        .collect();
    files.sort();
    files
}

fn replay(name: &str) {
    let target = targets::find(name).expect("the target is there");
    let corpus = files(&folder("corpus", name));
    assert!(!corpus.is_empty(), "fuzz/corpus/{name} is empty");
    for file in corpus.into_iter().chain(files(&folder("crashes", name))) {
        let input = fs::read(&file).expect("the file is readable");
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
        assert!(outcome.is_ok(), "{} fails", file.display());
    }
}

macro_rules! replays {
    ($($target:ident),+) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target));
            }
        )+

        #[test]
        fn every_target_is_replayed() {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($target)),+]);
        }
    };
}

replays!(
    command,
    config,
    deflate,
    forwarded,
    frames,
    handshake,
    head,
    proxy_header,
    rooms,
    target_uri,
    tls,
    utf8
);

/// The seeds are written by the targets themselves. `TIDEGATE_WRITE_SEEDS=1` puts them in their place.
#[test]
fn seeds_are_checked_in() {
    let writes = std::env::var_os("TIDEGATE_WRITE_SEEDS").is_some();
    for target in TARGETS {
        let folder = folder("corpus", target.name);
        for (n, seed) in (target.seeds)().into_iter().enumerate() {
            let file = folder.join(format!("seed-{n:02}"));
            if writes {
                fs::create_dir_all(&folder).expect("the folder can be made");
                fs::write(&file, &seed).expect("the seed can be written");
            }
            let found = fs::read(&file).unwrap_or_default();
            assert!(
                found == seed,
                "{} is not what its target says: TIDEGATE_WRITE_SEEDS=1 writes it",
                file.display()
            );
        }
    }
}
