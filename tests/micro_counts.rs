//! The check of instruction counts against their baseline: what it fails, what it lets pass, and
//! what it says. What callgrind counts is seen by `cargo bench --bench counts -- --self-check`.

#[path = "../benches/counts/compare.rs"]
mod compare;

use std::{collections::BTreeMap, fs, path::Path};

use compare::{Comparison, Counts, Environment, Outcome};

fn counts(instructions: &[(&str, f64)]) -> Counts {
    Counts {
        environment: Environment {
            architecture: "x86_64".to_owned(),
            compiled_for: "sse3".to_owned(),
            found_at_run_time: "sse3 avx2".to_owned(),
            rustc: "rustc 1.95.0".to_owned(),
            libc: "glibc 2.36".to_owned(),
            valgrind: "valgrind-3.19.0".to_owned(),
        },
        instructions: instructions
            .iter()
            .map(|(case, n)| ((*case).to_owned(), *n))
            .collect(),
    }
}

fn compare(baseline: &Counts, now: &Counts) -> Comparison {
    compare::compare(baseline, now, |_| true)
}

fn outcomes(comparison: &Comparison) -> BTreeMap<&str, Outcome> {
    let lines = comparison.lines.iter();
    lines
        .map(|line| (line.case.as_str(), line.outcome))
        .collect()
}

#[test]
fn more_than_the_tolerance_fails() {
    let baseline = counts(&[("a", 100.0), ("b", 100.0)]);
    for (now, fails) in [
        (100.0, false),
        (105.0, false),
        (105.01, true),
        (110.0, true),
    ] {
        let comparison = compare(&baseline, &counts(&[("a", now), ("b", 100.0)]));
        assert_eq!(comparison.fails(), fails, "{now}");
        let text = comparison.to_string();
        assert_eq!(text.contains("FAILED: 1 above"), fails, "{text}");
        assert_eq!(text.contains("none worse"), !fails, "{text}");
    }
}

#[test]
fn less_passes_and_is_worth_an_update() {
    let baseline = counts(&[("a", 100.0)]);
    let a_little = compare(&baseline, &counts(&[("a", 95.0)]));
    assert_eq!(outcomes(&a_little)["a"], Outcome::Same(-5.0));
    assert!(!a_little.to_string().contains("--update"));
    let a_lot = compare(&baseline, &counts(&[("a", 90.0)]));
    assert_eq!(outcomes(&a_lot)["a"], Outcome::Better(-10.0));
    assert!(!a_lot.fails());
    assert!(a_lot.to_string().contains("--update"), "{a_lot}");
}

#[test]
fn a_case_that_one_side_lacks_fails() {
    let comparison = compare(
        &counts(&[("kept", 1.0), ("removed", 1.0)]),
        &counts(&[("kept", 1.0), ("added", 1.0)]),
    );
    assert_eq!(
        outcomes(&comparison),
        BTreeMap::from([
            ("added", Outcome::New),
            ("kept", Outcome::Same(0.0)),
            ("removed", Outcome::Gone),
        ])
    );
    assert!(comparison.fails());
    for (baseline, now) in [(&["a", "b"][..], &["a"][..]), (&["a"], &["a", "b"])] {
        let of = |names: &[&'static str]| {
            let pairs: Vec<(&str, f64)> = names.iter().map(|name| (*name, 1.0)).collect();
            counts(&pairs)
        };
        let comparison = compare(&of(baseline), &of(now));
        assert!(comparison.fails(), "{comparison}");
        assert!(comparison.to_string().contains("FAILED"), "{comparison}");
    }
}

#[test]
fn only_cases_that_are_asked_for_are_missed() {
    let baseline = counts(&[("mask/20", 10.0), ("utf8/20", 10.0)]);
    let now = counts(&[("mask/20", 10.0)]);
    let comparison = compare::compare(&baseline, &now, |name| name.contains("mask"));
    assert!(!comparison.fails(), "{comparison}");
    assert_eq!(comparison.lines.len(), 1);
    assert!(compare(&baseline, &now).fails());
}

#[test]
fn counts_made_with_something_else_are_not_compared_and_it_is_said() {
    let baseline = counts(&[("a", 100.0)]);
    let mut now = counts(&[("a", 200.0)]);
    assert!(compare(&baseline, &now).fails());
    now.environment.rustc = "rustc 1.99.0".to_owned();
    now.environment.found_at_run_time = "sse3".to_owned();
    let comparison = compare(&baseline, &now);
    assert!(!comparison.is_comparable());
    assert!(!comparison.fails());
    let text = comparison.to_string();
    for said in [
        "NOT COMPARED",
        "rustc: baseline rustc 1.95.0, here rustc 1.99.0",
        "found at run time: baseline sse3 avx2, here sse3",
        "+100.00 %",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(!text.contains("none worse"), "{text}");
    // The names of the cases do not depend on the machine.
    now.instructions.insert("b".to_owned(), 1.0);
    assert!(compare(&baseline, &now).fails());
}

#[test]
fn every_difference_between_environments_counts() {
    let baseline = counts(&[("a", 100.0)]);
    let changes: [fn(&mut Environment) -> &mut String; 6] = [
        |e| &mut e.architecture,
        |e| &mut e.compiled_for,
        |e| &mut e.found_at_run_time,
        |e| &mut e.rustc,
        |e| &mut e.libc,
        |e| &mut e.valgrind,
    ];
    for field in changes {
        let mut now = baseline.clone();
        assert!(compare(&baseline, &now).is_comparable());
        field(&mut now.environment).push('x');
        assert!(!compare(&baseline, &now).is_comparable());
    }
}

#[test]
fn a_baseline_of_nothing_hides_nothing() {
    for (baseline, now) in [(0.0, 10.0), (0.0, 0.0), (10.0, f64::NAN)] {
        let comparison = compare(&counts(&[("a", baseline)]), &counts(&[("a", now)]));
        assert!(comparison.fails(), "{baseline} {now}");
    }
}

#[test]
fn the_checked_in_baseline_is_read_back_as_it_is_written() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/baseline.json");
    let text = fs::read_to_string(path).expect("it is checked in");
    let baseline: Counts = serde_json::from_str(&text).expect("it is a baseline");
    assert!(baseline.instructions.len() > 50);
    for (case, count) in &baseline.instructions {
        assert!(count.is_finite() && *count > 0.0, "{case}: {count}");
    }
    let written = serde_json::to_string_pretty(&baseline).expect("it can be written");
    assert_eq!(written, text.trim_end());
    assert!(serde_json::from_str::<Counts>(r#"{"instructions":{}}"#).is_err());
}
