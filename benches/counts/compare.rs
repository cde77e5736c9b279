//! Counted instructions against those of the checked-in baseline: what is worse, what is better,
//! what one side lacks, and whether the two can be compared at all.
//!
//! It knows no valgrind and no file.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// Instructions per operation, by case, and what they were counted with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Counts {
    /// What they were counted with.
    pub(crate) environment: Environment,
    /// By the cases' names.
    pub(crate) instructions: BTreeMap<String, f64>,
}

/// What the same source may owe other counts to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Environment {
    /// The processor's architecture.
    pub(crate) architecture: String,
    /// What the compiler was allowed to use of the processor beyond the least that there is.
    pub(crate) compiled_for: String,
    /// What code that looks for it at run time finds, under valgrind.
    pub(crate) found_at_run_time: String,
    /// The compiler.
    pub(crate) rustc: String,
    /// The C library, whose `memcpy` counts too.
    pub(crate) libc: String,
    /// Which valgrind: it decides what of the processor is found.
    pub(crate) valgrind: String,
}

impl Environment {
    /// Where they differ: what, in the baseline and now.
    pub(crate) fn differences<'a>(
        &'a self,
        now: &'a Self,
    ) -> Vec<(&'static str, &'a str, &'a str)> {
        let pairs = [
            ("architecture", &self.architecture, &now.architecture),
            ("compiled for", &self.compiled_for, &now.compiled_for),
            (
                "found at run time",
                &self.found_at_run_time,
                &now.found_at_run_time,
            ),
            ("rustc", &self.rustc, &now.rustc),
            ("libc", &self.libc, &now.libc),
            ("valgrind", &self.valgrind, &now.valgrind),
        ];
        let differing = pairs.into_iter().filter(|(_, then, now)| then != now);
        differing
            .map(|(what, then, now)| (what, then.as_str(), now.as_str()))
            .collect()
    }
}

/// What became of a case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Within the tolerance; the change in per cent.
    Same(f64),
    /// More instructions than tolerated.
    Worse(f64),
    /// Fewer by more than the tolerance: the baseline hides how much may be lost again.
    Better(f64),
    /// Not in the baseline.
    New,
    /// In the baseline only.
    Gone,
}

/// How a change of so many per cent is judged: it passes up to and including the tolerance.
pub(crate) const TOLERANCE_PERCENT: f64 = 5.0;

/// A case in both, in one, or in the other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) case: String,
    pub(crate) baseline: Option<f64>,
    pub(crate) now: Option<f64>,
    pub(crate) outcome: Outcome,
}

/// Everything that there is to say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Comparison {
    /// By case.
    pub(crate) lines: Vec<Line>,
    /// Where the environments differ: then more or fewer instructions mean nothing.
    pub(crate) differences: Vec<(&'static str, String, String)>,
}

/// Compares all that `is_asked_for`.
pub(crate) fn compare(
    baseline: &Counts,
    now: &Counts,
    is_asked_for: impl Fn(&str) -> bool,
) -> Comparison {
    let mut names: Vec<&String> = baseline
        .instructions
        .keys()
        .chain(now.instructions.keys())
        .filter(|name| is_asked_for(name))
        .collect();
    names.sort_unstable();
    names.dedup();
    let lines = names.into_iter().map(|name| {
        let then = baseline.instructions.get(name).copied();
        let now = now.instructions.get(name).copied();
        Line {
            case: name.clone(),
            baseline: then,
            now,
            outcome: judge(then, now),
        }
    });
    let differences = baseline.environment.differences(&now.environment);
    Comparison {
        lines: lines.collect(),
        differences: differences
            .into_iter()
            .map(|(what, then, now)| (what, then.to_owned(), now.to_owned()))
            .collect(),
    }
}

fn judge(baseline: Option<f64>, now: Option<f64>) -> Outcome {
    let (Some(baseline), Some(now)) = (baseline, now) else {
        return match now {
            Some(_) => Outcome::New,
            None => Outcome::Gone,
        };
    };
    let percent = (now - baseline) / baseline * 100.0;
    // A count that is no number, or a baseline of 0, is not "the same".
    if !percent.is_finite() || percent > TOLERANCE_PERCENT {
        Outcome::Worse(percent)
    } else if percent < -TOLERANCE_PERCENT {
        Outcome::Better(percent)
    } else {
        Outcome::Same(percent)
    }
}

impl Comparison {
    /// Whether more or fewer instructions mean anything.
    pub(crate) fn is_comparable(&self) -> bool {
        self.differences.is_empty()
    }

    /// Whether the check fails. Cases that one side lacks fail it anywhere, worse ones only where
    /// counts can be compared.
    pub(crate) fn fails(&self) -> bool {
        self.lines.iter().any(|line| match line.outcome {
            Outcome::New | Outcome::Gone => true,
            Outcome::Worse(_) => self.is_comparable(),
            Outcome::Same(_) | Outcome::Better(_) => false,
        })
    }

    fn count(&self, is: impl Fn(Outcome) -> bool) -> usize {
        self.lines.iter().filter(|line| is(line.outcome)).count()
    }
}

/// A table, then what is wrong and what to do.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<34} {:>12} {:>12} {:>9}",
            "instructions per operation", "now", "baseline", "change"
        )?;
        for line in &self.lines {
            let number = |n: Option<f64>| n.map_or("-".to_owned(), |n| format!("{n:.2}"));
            let (change, word) = match line.outcome {
                Outcome::Same(percent) => (Some(percent), ""),
                Outcome::Worse(percent) => (Some(percent), "  worse"),
                Outcome::Better(percent) => (Some(percent), "  better"),
                Outcome::New => (None, "  new"),
                Outcome::Gone => (None, "  gone"),
            };
            let change = change.map_or("-".to_owned(), |percent| format!("{percent:+.2} %"));
            let (now, then) = (number(line.now), number(line.baseline));
            writeln!(
                f,
                "{:<34} {now:>12} {then:>12} {change:>9}{word}",
                line.case
            )?;
        }
        writeln!(f)?;
        self.write_verdict(f)
    }
}

impl Comparison {
    fn write_verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_comparable() {
            writeln!(
                f,
                "NOT COMPARED: the baseline was counted with something else."
            )?;
            for (what, then, now) in &self.differences {
                writeln!(f, "  {what}: baseline {then}, here {now}")?;
            }
            writeln!(
                f,
                "The changes above may come from that. To see what a change of yours costs, run\n\
                 `cargo bench --bench counts -- --update` before it and this after it."
            )?;
        }
        let worse = self.count(|outcome| matches!(outcome, Outcome::Worse(_)));
        let better = self.count(|outcome| matches!(outcome, Outcome::Better(_)));
        let new = self.count(|outcome| outcome == Outcome::New);
        let gone = self.count(|outcome| outcome == Outcome::Gone);
        if worse > 0 && self.is_comparable() {
            writeln!(
                f,
                "FAILED: {worse} above the baseline by more than {TOLERANCE_PERCENT} %. If that is \
                 worth it, say why in the commit\nand update the baseline in it: \
                 `cargo bench --bench counts -- --update`"
            )?;
        }
        if new + gone > 0 {
            writeln!(
                f,
                "FAILED: {new} not in the baseline, {gone} only there: \
                 `cargo bench --bench counts -- --update`"
            )?;
        }
        if better > 0 && self.is_comparable() {
            writeln!(
                f,
                "{better} below the baseline by more than {TOLERANCE_PERCENT} %: keep that with \
                 `cargo bench --bench counts -- --update`"
            )?;
        }
        if !self.fails() && self.is_comparable() {
            writeln!(f, "{} cases, none worse.", self.lines.len())?;
        }
        Ok(())
    }
}
