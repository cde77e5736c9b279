//! Fan-out with members that do not read: what becomes of them, and what the others notice.

use crate::engine::slots::SystemKernel;

use super::{
    args::Settings,
    crowd::Crowd,
    fanout::Fanout,
    report::{Report, Slow, Span},
};

/// Stops reading the slow members.
pub(crate) fn stop_reading<K: SystemKernel>(settings: &Settings, crowd: &mut Crowd<K>) {
    for conn in slow_ones(settings) {
        crowd.pause(conn);
    }
}

/// Reads what the slow members were sent after all, until nothing more comes, and tells what
/// became of each. `stopped_at` is when they were read last.
pub(crate) fn conclude<K: SystemKernel>(
    settings: &Settings,
    crowd: &mut Crowd<K>,
    load: &mut Fanout,
    stopped_at: u64,
    report: &mut Report,
) {
    for conn in slow_ones(settings) {
        crowd.resume(conn);
    }
    let last = crowd.now() + settings.timeout.as_nanos() as u64;
    let mut before = u64::MAX;
    // Once all are ended, or none has got anything for a while.
    while crowd.now() < last && load.slow_members().any(|(slow, _)| slow.end.is_none()) {
        let step = (crowd.now() + SILENCE_NS).min(last);
        crowd.run_while(load, step, |load, _| {
            load.slow_members().any(|(slow, _)| slow.end.is_none())
        });
        let received = load.slow_members().map(|(slow, _)| slow.received).sum();
        if std::mem::replace(&mut before, received) == received {
            break;
        }
    }
    let mut figures = Slow {
        members: settings.slow,
        ..Slow::default()
    };
    let ms = |at: u64| at.saturating_sub(stopped_at) as f64 / 1e6;
    for (slow, missed) in load.slow_members() {
        figures.received += slow.received;
        figures.missed += missed;
        figures.gaps += slow.gaps;
        if slow.cut_at.is_none() && slow.end.is_none() {
            figures.still_connected += 1;
            continue;
        }
        figures.evicted += 1;
        match slow.end.and_then(|end| end.code) {
            Some(code) => *figures.close_codes.entry(code).or_default() += 1,
            None => figures.reset += 1,
        }
        if let Some(at) = slow.cut_at.map(ms) {
            let span = figures.evicted_after_ms.get_or_insert(Span {
                first: at,
                last: at,
            });
            span.first = span.first.min(at);
            span.last = span.last.max(at);
        }
    }
    report.slow = Some(figures);
}

fn slow_ones(settings: &Settings) -> impl Iterator<Item = u32> {
    (0..settings.connections).filter(|conn| settings.is_slow(*conn))
}

/// A server that says nothing for so long has said all.
const SILENCE_NS: u64 = 1_000_000_000;
