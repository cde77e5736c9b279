//! The micro-benchmarks by instructions: `cargo bench --bench counts`.
//!
//! Counts under callgrind are the same on a busy machine and on a quiet one, so a change that
//! costs something fails here, in the commit that makes it: `.ci/run` compares with
//! `benches/baseline.json`. See docs/MICROBENCH.md.

mod callgrind;
#[path = "../cases/mod.rs"]
mod cases;
mod compare;
mod machine;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context, bail};
use clap::Parser;

use cases::Case;
use compare::Counts;

// As in the gateway.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Counts the instructions of the pure layers and compares them with the checked-in baseline.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench counts --")]
struct Options {
    /// Only cases whose name contains this
    #[arg(long, value_name = "SUBSTRING", default_value = "")]
    case: String,
    /// Write what was counted to the baseline
    #[arg(long)]
    update: bool,
    /// Count so many times, show how far apart the counts are, and go by the median
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// See that the check would find a case that does a tenth more
    #[arg(long)]
    self_check: bool,
    /// Cargo says so where it is asked for a benchmark, and not for a test
    #[arg(long, hide = true)]
    bench: bool,
    /// The counted process: which case
    #[arg(long, hide = true, value_name = "CASE")]
    count: Option<String>,
    /// The counted process: do a tenth more
    #[arg(long, hide = true)]
    slowed: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("counts: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Does what is asked for; whether that is as it should be.
fn run(options: &Options) -> anyhow::Result<bool> {
    if let Some(name) = &options.count {
        let all = cases::all();
        let case = all.iter().find(|case| case.name == name);
        callgrind::run_case(case.context("there is no such case")?, options.slowed);
        writeln!(io::stdout(), "{}", machine::found_at_run_time())?;
        return Ok(true);
    }
    if !options.bench {
        writeln!(
            io::stdout(),
            "nothing to test; to count: cargo bench --bench counts"
        )?;
        return Ok(true);
    }
    if cfg!(debug_assertions) {
        bail!("what is counted must be optimised as the gateway is");
    }
    let asked_for = |name: &str| name.contains(&options.case);
    let cases: Vec<Case> = cases::all()
        .into_iter()
        .filter(|case| asked_for(case.name))
        .collect();
    if cases.is_empty() {
        bail!("no case's name contains {:?}", options.case);
    }
    if options.self_check {
        return self_check(&cases[0]);
    }
    let counts = count(&cases, options.repeat)?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(BASELINE);
    if options.update {
        return update(&path, counts, &options.case).map(|()| true);
    }
    let comparison = compare::compare(&read(&path)?, &counts, asked_for);
    writeln!(io::stdout(), "{comparison}")?;
    Ok(!comparison.fails())
}

/// Counts cases, as many at a time as there are processors: they do not disturb each other.
fn count(cases: &[Case], repeat: u16) -> anyhow::Result<Counts> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let jobs = cases.len() * usize::from(repeat);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers.min(jobs) {
            scope.spawn(|| {
                loop {
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    if job >= jobs {
                        return;
                    }
                    let case = &cases[job % cases.len()];
                    let count = callgrind::count(case, job, false);
                    let failed = count.is_err();
                    done.lock()
                        .expect("invariant: no worker panics")
                        .push((case.name, count));
                    if failed {
                        next.store(jobs, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let done = done.into_inner().expect("invariant: no worker panics");
    let mut found_at_run_time = String::new();
    let mut by_case: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, count) in done {
        let count = count?;
        by_case.entry(name).or_default().push(count.instructions);
        found_at_run_time = count.found_at_run_time;
    }
    let mut instructions = BTreeMap::new();
    for (name, mut counts) in by_case {
        counts.sort_by(f64::total_cmp);
        let (least, most) = (counts[0], counts[counts.len() - 1]);
        if repeat > 1 {
            let apart = (most - least) / least * 100.0;
            writeln!(
                io::stdout(),
                "{name:<34} {least:>12.2} to {most:>12.2}, {apart:.3} % apart"
            )?;
        }
        let median = counts[counts.len() / 2];
        instructions.insert(name.to_owned(), (median * 100.0).round() / 100.0);
    }
    Ok(Counts {
        environment: machine::environment(&found_at_run_time)?,
        instructions,
    })
}

fn read(path: &Path) -> anyhow::Result<Counts> {
    let text =
        fs::read_to_string(path).with_context(|| format!("the baseline {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("the baseline {}", path.display()))
}

/// Writes the baseline: all of it, or, of one that was counted with the same, some of its cases.
fn update(path: &Path, counts: Counts, case: &str) -> anyhow::Result<()> {
    let counts = if case.is_empty() {
        counts
    } else {
        let mut kept = read(path)?;
        if !kept.environment.differences(&counts.environment).is_empty() {
            bail!("the baseline was counted with something else: update all of it");
        }
        kept.instructions.retain(|name, _| !name.contains(case));
        kept.instructions.extend(counts.instructions);
        kept
    };
    let mut text = serde_json::to_string_pretty(&counts)?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("the baseline {}", path.display()))?;
    let cases = counts.instructions.len();
    writeln!(io::stdout(), "{cases} cases written to {BASELINE}")?;
    Ok(())
}

/// Counts a case as it is, and again when it does a tenth more: the check passes the first and
/// fails the second, or it is of no use.
fn self_check(case: &Case) -> anyhow::Result<bool> {
    let counts = |slowed| -> anyhow::Result<Counts> {
        let count = callgrind::count(case, usize::from(slowed), slowed)?;
        Ok(Counts {
            environment: machine::environment(&count.found_at_run_time)?,
            instructions: BTreeMap::from([(case.name.to_owned(), count.instructions)]),
        })
    };
    let baseline = counts(false)?;
    let again = compare::compare(&baseline, &counts(false)?, |_| true);
    let slowed = compare::compare(&baseline, &counts(true)?, |_| true);
    let mut out = io::stdout().lock();
    writeln!(out, "twice the same:\n{again}\na tenth more:\n{slowed}")?;
    let works = !again.fails() && slowed.fails();
    let verdict = match works {
        true => "The check passes the same and fails a tenth more.",
        false => "FAILED: the check does not tell the same from a tenth more.",
    };
    writeln!(out, "{verdict}")?;
    Ok(works)
}

/// Below the repository's root.
const BASELINE: &str = "benches/baseline.json";
