//! Many seeds, and for the one that fails the command that replays it.

use std::{cell::RefCell, io::Write, sync::Once};

thread_local! {
    static RUNNING: RefCell<Option<(String, u64)>> = const { RefCell::new(None) };
}

/// Runs `run` with each seed below `seeds`, or only with the one that the environment names in
/// [`SEED_VARIABLE`]. When a run panics, the seed and the command that replays it are printed at
/// once, since a panic in shared state ends the process.
///
/// Says whether it ran them all, so that the caller may judge the sum of them.
///
/// # Panics
/// If the variable is no number.
pub fn for_each_seed(test: &str, seeds: u64, run: impl Fn(u64)) -> bool {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let otherwise = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info
                .payload_as_str()
                .is_some_and(|text| text.contains(EXPECTED_PANIC))
            {
                return;
            }
            RUNNING.with_borrow(|running| {
                if let Some((test, seed)) = running {
                    // Not captured by the test harness, whose output an abort would lose.
                    let _ = writeln!(
                        std::io::stderr(),
                        "seed {seed} fails: {info}\n\
                         replay: {SEED_VARIABLE}={seed} cargo test --lib {test}"
                    );
                }
            });
            otherwise(info);
        }));
    });
    let only = number(SEED_VARIABLE);
    let times = number(TIMES_VARIABLE).unwrap_or(1);
    let range = only.map_or(0..seeds * times, |seed| seed..seed + 1);
    for seed in range {
        RUNNING.set(Some((test.to_owned(), seed)));
        run(seed);
        RUNNING.set(None);
    }
    only.is_none()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

/// Says how many times more seeds are run than otherwise.
pub const TIMES_VARIABLE: &str = "TIDEGATE_SIM_TIMES";
/// Names the only seed to run.
pub const SEED_VARIABLE: &str = "TIDEGATE_SIM_SEED";
/// A panic whose message holds this text belongs to its test.
pub const EXPECTED_PANIC: &str = "asked to panic by a test";
