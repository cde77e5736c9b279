//! Per-core counters: written by one worker, read by anyone.
//!
//! A counter is an atomic that only its own worker writes, so an increment is a plain load and
//! store, no locked instruction; readers on other threads see a recent value.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number with a single writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    /// Adds one. Only the owning worker may call this.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Stores `n`. Only the owning worker may call this.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// A recent value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Everything one worker counts. Names ending in `_total` only grow; the others are
        /// gauges that go back to zero when the last client has left.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: Counter,)+
        }

        impl Counters {
            /// Every counter's name and meaning, in order of declaration.
            pub const NAMES: &'static [(&'static str, &'static str)] =
                &[$((stringify!($name), concat!($($doc),+)),)+];

            /// Every counter's name and value, in order of declaration.
            pub fn snapshot(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.get()),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Connections that the worker serves.
    connections_open,
    /// Sessions: clients past the handshake of a rooms route.
    sessions_open,
    /// Rooms that have this core as their home, without the reserved ones.
    rooms_open,
    /// Memberships of this core's sessions in rooms, without the reserved ones.
    memberships_open,
    /// Timers armed on the wheel.
    timers_open,
    /// Sends that the kernel has not completed.
    sends_in_flight,
    /// Receive buffers that the worker holds and has not given back to the ring.
    buffers_out,
    /// Engine slots in use: connections, and those being closed.
    slots_open,
    /// Bytes of deliveries on their way to cores that have not handed them out yet.
    mesh_window_bytes,
    /// Connections whose request is not complete.
    handshakes_inflight,
    /// Connections that speak TLS.
    tls_open,
    /// Addresses whose connections and handshakes this core counts.
    addresses_known,
    /// Bytes of memory that this core's clients take, as reckoned for `limits.memory_budget`.
    memory_used_bytes,
    /// Bytes that context takeover may take for this core's connections.
    deflate_takeover_bytes,
    /// Connections accepted.
    accepted_total,
    /// Failed accepts, by any error.
    accept_errors_total,
    /// Connections that their peer had reset before they were taken up.
    gone_at_accept_total,
    /// Handshakes that ended in a WebSocket.
    upgraded_total,
    /// Requests refused with a 4xx or 5xx status.
    refused_total,
    /// Connections refused with 503 because the core had `limits.connections_max`.
    refused_connections_total,
    /// Connections refused with 503 because of `limits.handshakes_inflight_max`.
    refused_handshakes_total,
    /// Connections refused with 503 because 90 % of `limits.memory_budget` were used.
    refused_memory_total,
    /// Connections refused with 429 because of `limits.connections_per_ip`.
    refused_ip_connections_total,
    /// Connections refused with 429 because of `limits.handshakes_per_ip_per_second`.
    refused_ip_handshakes_total,
    /// PROXY headers read.
    proxy_headers_total,
    /// Connections from `server.proxy_protocol` closed because they began with no PROXY header, or a
    /// malformed one.
    proxy_headers_refused_total,
    /// Requests from `server.trusted_proxies` whose client a header named.
    forwarded_total,
    /// Requests from `server.trusted_proxies` refused with 400 because that header was malformed.
    forwarded_refused_total,
    /// Heads that were not complete in time.
    handshake_timeouts_total,
    /// TLS handshakes completed.
    tls_handshakes_total,
    /// Of these, taken up from an earlier session.
    tls_handshakes_resumed_total,
    /// TLS handshakes that failed because the client did not keep to TLS.
    tls_failed_protocol_total,
    /// TLS handshakes that failed because nothing suited both sides: version, cipher suite, key
    /// exchange, application protocol, certificate.
    tls_failed_negotiation_total,
    /// TLS handshakes that failed because the client's certificate was missing or not accepted.
    tls_failed_certificate_total,
    /// TLS handshakes that the client ended with an alert, as it does if it does not trust us.
    tls_failed_by_peer_total,
    /// TLS handshakes whose client went away.
    tls_failed_aborted_total,
    /// TLS handshakes that failed here.
    tls_failed_internal_total,
    /// TLS handshakes that were not complete within `tls.handshake_timeout`.
    tls_handshake_timeouts_total,
    /// Steps of TLS handshakes that stood in line behind others, for a later turn.
    tls_steps_deferred_total,
    /// Fatal TLS alerts sent.
    tls_alerts_sent_total,
    /// Fatal TLS alerts received.
    tls_alerts_received_total,
    /// TLS connections closed because of a fault after their handshake.
    tls_broken_total,
    /// TLS connections whose client ended its stream without saying so in TLS.
    tls_truncated_total,
    /// Requests in plain text to a port that speaks TLS.
    plain_on_tls_total,
    /// TLS handshakes begun at a port that does not speak it.
    tls_on_plain_total,
    /// Connections closed, for any reason.
    closed_total,
    /// WebSocket messages received.
    messages_in_total,
    /// Frames queued for clients.
    messages_out_total,
    /// Bytes received.
    bytes_in_total,
    /// Bytes that the kernel took for sending.
    bytes_out_total,
    /// Messages published to rooms that have this core as their home.
    published_total,
    /// Deliveries of room messages to this core's members.
    delivered_total,
    /// Room messages not delivered because the member was being closed.
    delivery_skipped_total,
    /// Joins and leaves not announced because the room was over `rooms.announce_members_max`.
    announcements_suppressed_total,
    /// Commands answered with `OVERLOADED`.
    overloaded_total,
    /// Commands answered with an `error`.
    command_errors_total,
    /// Joins refused because the client was in `limits.rooms_per_client` rooms.
    too_many_rooms_total,
    /// Joins refused because the room had its most members.
    rooms_full_total,
    /// Publishes refused because of the room's `message_bytes_max`.
    data_too_large_total,
    /// Clients closed with 1009 because of `limits.message_bytes_max`.
    messages_too_big_total,
    /// Clients closed with 1008 because of `limits.message_timeout`.
    message_timeouts_total,
    /// Requests refused because of `limits.head_bytes_max`, `headers_max` or `target_bytes_max`.
    heads_too_large_total,
    /// Handshakes that agreed on compression.
    deflate_agreed_total,
    /// Of these, those without a context takeover that was offered and is configured, for its memory.
    deflate_takeover_refused_total,
    /// Compressed messages received.
    deflate_in_messages_total,
    /// Their bytes on the wire.
    deflate_in_wire_bytes_total,
    /// What came out of them, in bytes.
    deflate_in_message_bytes_total,
    /// Clients closed with 1009 because more would have come out of a message than it may be long.
    deflate_bombs_total,
    /// Clients closed with 1007 because a compressed message was not DEFLATE data.
    deflate_invalid_total,
    /// Messages compressed for clients; one for a room counts once.
    deflate_out_messages_total,
    /// Their bytes before.
    deflate_out_message_bytes_total,
    /// Their bytes after.
    deflate_out_wire_bytes_total,
    /// Messages that compressing did not make smaller; they went as they are.
    deflate_not_smaller_total,
    /// Messages sent as they are because the core had compressed enough in that turn.
    deflate_gave_way_total,
    /// Room messages dropped from a slow client's queue to make room for newer ones.
    dropped_oldest_total,
    /// Room messages dropped as they came, a slow client's queue being full.
    dropped_newest_total,
    /// Room messages replaced in a slow client's queue by a newer one of the same key.
    conflated_total,
    /// Ephemeral messages dropped because the client was behind.
    dropped_ephemeral_total,
    /// `gap` messages queued for clients.
    gaps_total,
    /// Messages replaced by a newer one within a coalescing room's interval.
    coalesced_total,
    /// Times that a coalescing room handed out before its interval's end, being full.
    coalesce_flushes_early_total,
    /// Clients closed because their outbound queue reached `limits.buffered_bytes_high`.
    evicted_slow_total,
    /// Messages refused for being more than `limits.messages_per_second` allows.
    rate_limited_total,
    /// Clients closed with 4029 for `limits.rate_breaches_max` refused messages.
    rate_closed_total,
    /// Times that reading a client paused because of `limits.bytes_per_second`.
    throttled_total,
    /// Clients closed with 1008 because of `limits.control_frames_per_second`.
    control_floods_total,
    /// Connections reset because they went on sending after their end.
    sent_after_end_total,
    /// Clients closed with 4006 at the end of `limits.connection_lifetime`.
    lifetimes_total,
    /// Clients closed because the core's memory budget was nearly used up.
    evicted_memory_total,
    /// Times that memory not in use was given back because the budget was nearly used up.
    memory_trims_total,
    /// Times that accepting paused because the memory budget was used up.
    accept_pauses_total,
    /// Clients closed in a drain, or because a reload took their route away.
    drained_total,
    /// Clients whose close was not answered when the drain's deadline came.
    drain_cut_total,
    /// Configurations taken up while running.
    reloads_total,
    /// Pings sent to clients that were silent.
    pings_total,
    /// Clients closed because a ping went unanswered.
    heartbeat_timeouts_total,
    /// Clients closed for breaking RFC 6455.
    protocol_errors_total,
    /// Messages from raw clients dropped because the room could not take them.
    raw_dropped_total,
    /// Sessions of one user beyond the number that direct messages reach.
    user_sessions_refused_total,
    /// Panics caught while handling one connection's input.
    panics_total,
    /// Receives that found no buffer.
    enobufs_total,
    /// Large payloads received straight into their message's buffer.
    direct_receives_total,
    /// Parts of messages sent from the receive buffer that they arrived in.
    lent_parts_total,
    /// Times that completions were found although nothing had woken the worker. Must stay 0.
    missed_wakes_total,
    /// Times that the completion queue overflowed.
    cq_overflows_total,
    /// Times that the kernel refused to be entered for the time being.
    enter_failures_total,
    /// Connections whose reading paused until a credit or their own backlog allowed more.
    stalls_total,
    /// Batches that waited because another core's inbox was full.
    mesh_waits_total,
    /// Turns of the worker's loop.
    turns_total,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_snapshot_follows_the_names() {
        let counters = Counters::default();
        counters.accepted_total.inc();
        counters.accepted_total.add(2);
        let names: Vec<_> = Counters::NAMES.iter().map(|(name, _)| *name).collect();
        let snapshot: Vec<_> = counters.snapshot().collect();
        assert_eq!(
            names,
            snapshot.iter().map(|(name, _)| *name).collect::<Vec<_>>()
        );
        assert!(snapshot.contains(&("accepted_total", 3)));
    }
}
