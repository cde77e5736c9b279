//! What counts depend on beside the source: the compiler, the processor's features, the C library,
//! valgrind.

use std::process::Command;

use anyhow::{Context, bail};

use crate::compare::Environment;

/// This machine's; `found_at_run_time` is what a counted process printed.
///
/// # Errors
/// Where a program that would tell can't be run.
pub(crate) fn environment(found_at_run_time: &str) -> anyhow::Result<Environment> {
    Ok(Environment {
        architecture: std::env::consts::ARCH.to_owned(),
        compiled_for: compiled_for(),
        found_at_run_time: found_at_run_time.to_owned(),
        rustc: first_line("rustc", &["--version"])?,
        libc: first_line("getconf", &["GNU_LIBC_VERSION"])?,
        valgrind: first_line("valgrind", &["--version"])?,
    })
}

fn first_line(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("{program} can't be run"))?;
    if !output.status.success() {
        bail!("{program} ended with {}", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Names those features that change which code runs.
macro_rules! features {
    ($detected:ident: $($feature:tt)*) => {
        /// What the code finds where it runs.
        pub(crate) fn found_at_run_time() -> String {
            let features = [$(($feature, std::arch::$detected!($feature))),*];
            names(&features)
        }

        fn compiled_for() -> String {
            let features = [$(($feature, cfg!(target_feature = $feature))),*];
            names(&features)
        }
    };
}

#[cfg(target_arch = "x86_64")]
features!(is_x86_feature_detected:
    "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "pclmulqdq" "aes" "sha" "avx" "f16c" "fma" "avx2"
    "bmi1" "bmi2" "lzcnt" "avx512f" "avx512bw" "avx512vl"
);

#[cfg(target_arch = "aarch64")]
features!(is_aarch64_feature_detected: "neon" "aes" "pmull" "sha2" "crc" "lse" "sve");

fn names(features: &[(&'static str, bool)]) -> String {
    let found = features.iter().filter(|(_, is_there)| *is_there);
    let names: Vec<&str> = found.map(|(name, _)| *name).collect();
    match names.as_slice() {
        [] => "nothing".to_owned(),
        names => names.join(" "),
    }
}
