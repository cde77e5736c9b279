//! The micro-benchmarks by the stopwatch: `cargo bench --bench micro [-- FILTER]`.
//!
//! How long an operation takes here and now. What must not get slower is watched by the counter of
//! instructions (`benches/counts`), which is right on a busy machine too. See docs/MICROBENCH.md.

#[path = "../cases/mod.rs"]
mod cases;

use criterion::{Criterion, Throughput};

// As in the gateway.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for case in cases::by_the_clock() {
        let (group, name) = case.name.split_once('/').unwrap_or((case.name, "call"));
        let mut group = criterion.benchmark_group(group);
        group.throughput(Throughput::Elements(case.operations.into()));
        group.bench_function(name, |bencher| {
            let mut call = case.prepare();
            bencher.iter(&mut call);
        });
        group.finish();
    }
    criterion.final_summary();
}
