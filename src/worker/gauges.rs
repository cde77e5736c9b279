//! What a worker tells of itself once a turn, beside what is counted as it happens.

use super::Worker;
use crate::engine::Engine;

impl<E: Engine> Worker<E> {
    /// Stores what is read off rather than counted.
    pub(super) fn publish_gauges(&self) {
        let (core, counters) = (&self.core, &self.core.counters);
        counters.connections_open.set(core.conns.len() as u64);
        counters.sessions_open.set(core.sessions.len() as u64);
        counters.rooms_open.set(core.hub.rooms_open() as u64);
        counters
            .memberships_open
            .set(core.hub.edge().memberships() as u64);
        counters.timers_open.set(core.wheel.len() as u64);
        counters
            .sends_in_flight
            .set(self.engine.sends_in_flight() as u64);
        counters.buffers_out.set(self.engine.buffers_out() as u64);
        counters.slots_open.set(self.engine.slots_open() as u64);
        counters.mesh_window_bytes.set(core.hub.window_bytes());
        counters.tls_open.set(core.tls_open as u64);
        counters.handshakes_inflight.set(core.heads.into());
        counters.addresses_known.set(core.addresses.len() as u64);
        counters.memory_used_bytes.set(core.memory.used() as u64);
        counters.enobufs_total.set(self.engine.enobufs());
        counters.cq_overflows_total.set(self.engine.overflows());
        counters
            .enter_failures_total
            .set(self.engine.enter_failures());
        counters.mesh_waits_total.set(core.mesh.waits());
        counters.published_total.set(core.hub.published());
        counters.messages_out_total.set(core.messages_out);
        counters
            .announcements_suppressed_total
            .set(core.hub.announcements_suppressed());
        counters.coalesced_total.set(core.hub.coalesced());
        counters
            .coalesce_flushes_early_total
            .set(core.hub.flushed_early());
        core.deflate.publish(counters, core.hub.compressed());
        let tally = core.spare.tally();
        counters.dropped_oldest_total.set(tally.dropped_oldest);
        counters.dropped_newest_total.set(tally.dropped_newest);
        counters.conflated_total.set(tally.conflated);
        counters.gaps_total.set(tally.gaps);
        counters
            .user_sessions_refused_total
            .set(core.hub.user_sessions_refused());
    }
}
