//! Runs this program under callgrind, one case to a process, and reads what it counted.
//!
//! A process of its own, so that no case depends on what others did to the allocator. Counting is
//! on only inside [`counted`], so that neither the set-up nor the first few calls count.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::cases::{Call, Case};

/// What one process counted.
pub(crate) struct Count {
    /// Instructions of one operation.
    pub(crate) instructions: f64,
    /// What the code found of the processor.
    pub(crate) found_at_run_time: String,
}

/// Counts a case, in a process of its own. `job` is a number that no other count has at the same
/// time. `slowed`: as if the case did a tenth more.
///
/// # Errors
/// Where valgrind is missing or fails, or counted nothing.
pub(crate) fn count(case: &Case, job: usize, slowed: bool) -> anyhow::Result<Count> {
    let file = OutFile::new(job);
    let mut command = Command::new("valgrind");
    command
        .arg("--tool=callgrind")
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg("--dump-line=no")
        .arg(option("--callgrind-out-file=", file.0.as_os_str()))
        .arg(env::current_exe().context("where this program is")?)
        .arg(format!("--count={}", case.name));
    if slowed {
        command.arg("--slowed");
    }
    let output = run(command).with_context(|| format!("counting {}", case.name))?;
    let text = fs::read_to_string(&file.0)
        .with_context(|| format!("callgrind's file on {}", case.name))?;
    let total = totals(&text).with_context(|| format!("counting {}", case.name))?;
    let per_call = total as f64 / f64::from(CALLS);
    if per_call < PER_CALL_MIN {
        bail!(
            "{}: a call of {per_call:.0} instructions is too short to be told from the loop around \
             it; give the case more operations",
            case.name
        );
    }
    Ok(Count {
        instructions: per_call / f64::from(case.operations),
        found_at_run_time: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    })
}

/// The counted process: what `count` runs.
pub(crate) fn run_case(case: &Case, slowed: bool) {
    let mut call = case.prepare();
    for _ in 0..WARM_UP_CALLS {
        call();
    }
    if slowed {
        let mut calls = 0u32;
        let mut slowed: Call = Box::new(move || {
            calls += 1;
            call();
            if calls.is_multiple_of(10) {
                call();
            }
        });
        counted(&mut slowed);
    } else {
        counted(&mut call);
    }
}

/// Callgrind knows this function by its name, and counts what happens in it.
#[inline(never)]
fn counted(call: &mut Call) {
    for _ in 0..CALLS {
        call();
    }
}

/// The name as callgrind prints it, with whatever the compiler added to it.
const COUNTED: &str = "counts::callgrind::counted*";

/// In these, queues and tables grow to what they stay at.
const WARM_UP_CALLS: u32 = 16;

/// Enough that what happens now and then, such as a hash table put in order, is in the count at
/// its rate.
const CALLS: u32 = 100;

/// Making a call takes about ten instructions.
const PER_CALL_MIN: f64 = 500.0;

/// The sum in a file of callgrind's (its manual, "Callgrind Format Specification").
fn totals(text: &str) -> anyhow::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = line.context("callgrind wrote no total")?;
    match total.trim().parse() {
        Ok(0) => bail!("callgrind counted nothing: it does not know a function like {COUNTED}"),
        Ok(total) => Ok(total),
        Err(_) => bail!("callgrind's total is no number: {total:?}"),
    }
}

/// Runs to the end, but not for ever.
fn run(mut command: Command) -> anyhow::Result<Output> {
    // The same everywhere, since it lies on the stack above everything: where a buffer starts
    // within a cache line decides how it is copied. And no options of the user's.
    command
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap_or_default())
        // Memory is given back after some time, and time is not the same twice.
        .env("MIMALLOC_PURGE_DELAY", "-1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command
        .spawn()
        .context("valgrind can't be run (`tests/run --setup` installs it)")?;
    let output = wait(child)?;
    if !output.status.success() {
        bail!(
            "valgrind ended with {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output)
}

fn wait(mut child: Child) -> anyhow::Result<Output> {
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > TIME_MAX {
            child.kill()?;
            child.wait()?;
            bail!("not done after {TIME_MAX:?}");
        }
        thread::sleep(POLL_EVERY);
    }
    Ok(child.wait_with_output()?)
}

/// A case takes a second or two.
const TIME_MAX: Duration = Duration::from_secs(120);
const POLL_EVERY: Duration = Duration::from_millis(5);

/// A file that is gone when it is no longer needed.
struct OutFile(PathBuf);

impl OutFile {
    fn new(job: usize) -> Self {
        let name = format!("callgrind.{}.{job}", std::process::id());
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }
}

impl Drop for OutFile {
    fn drop(&mut self) {
        // Where it was not written there is nothing to remove.
        let _ = fs::remove_file(&self.0);
    }
}

fn option(name: &str, value: &OsStr) -> OsString {
    let mut option = OsString::from(name);
    option.push(value);
    option
}
