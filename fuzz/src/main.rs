//! libFuzzer's `main` over one of the targets, named by `TIDEGATE_FUZZ_TARGET`.

#![no_main]

// The seeds are for the test that replays the corpus.
#[allow(dead_code)]
mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use targets::Target;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    (TARGET.get_or_init(chosen).run)(data);
});

fn chosen() -> &'static Target {
    let name = std::env::var("TIDEGATE_FUZZ_TARGET").unwrap_or_default();
    match targets::find(&name) {
        Some(target) => target,
        None => panic!("TIDEGATE_FUZZ_TARGET={name:?} names no target: fuzz/run knows them"),
    }
}
