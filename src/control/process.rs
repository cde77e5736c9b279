//! What the process as a whole counts, beside its workers.

use crate::base::counters::Counter;

/// Numbers of the process. Each has one writer.
#[derive(Debug, Default)]
pub struct ProcessCounters {
    /// Configurations taken up while running. Written by the reload's thread.
    pub reloads_total: Counter,
    /// Configurations refused while running. Written by the reload's thread.
    pub reload_failures_total: Counter,
}

impl ProcessCounters {
    /// Every counter's name and value.
    pub fn snapshot(&self) -> [(&'static str, u64); 2] {
        [
            ("reloads_total", self.reloads_total.get()),
            ("reload_failures_total", self.reload_failures_total.get()),
        ]
    }
}
