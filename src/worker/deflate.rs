//! Compression as one worker does it: what it agrees on, what its connections share, and what they
//! keep.
//!
//! By default every message stands by itself, so nothing belongs to a connection: one inflater, one
//! deflater for each window in use and two buffers serve the whole core. A compressed message is kept
//! as it came until it is whole, which is bounded by its length on the wire, and then decompressed in
//! one go. So who sends a message slowly, or never ends it, holds no inflater.
//!
//! Where context takeover is configured, a connection gets what it keeps with its handshake, as far as
//! `deflate.takeover_bytes_per_connection` and `…_per_core` allow; else it is answered that each
//! message stands by itself.

use super::conn::{Conn, Rare};
use crate::{
    base::{counters::Counters, limits::TURN_DEFLATE_BYTES_MAX},
    config,
    proto::{
        handshake::Extension,
        ws::{
            Compressed, Message, OpCode, WsError,
            deflate::{Agreed, Compression, Inflation, Policy, Takeover, negotiate},
            header::push_frame,
        },
    },
    session::{
        deflate::{is_worthwhile, settings},
        outbound::{Outbound, SpareBuffers},
    },
};

/// See the module.
#[derive(Debug)]
pub(super) struct Deflate {
    pub(super) inflation: Inflation,
    pub(super) compression: Compression,
    pub(super) config: config::Deflate,
    /// What context takeover may take for all connections together.
    takeover_bytes: usize,
    takeovers_refused: u64,
}

impl Deflate {
    pub(super) fn new(config: &config::Deflate) -> Self {
        Self {
            inflation: Inflation::new(),
            compression: Compression::new(settings(config)),
            config: config.clone(),
            takeover_bytes: 0,
            takeovers_refused: 0,
        }
    }

    /// Takes up another configuration. How messages are compressed stays as it was at the start.
    pub(super) fn reload(&mut self, config: &config::Deflate) {
        self.config = config.clone();
    }

    /// A turn begins.
    pub(super) fn begin_turn(&mut self) {
        self.compression.allow(TURN_DEFLATE_BYTES_MAX);
        self.inflation.shrink();
    }

    /// What to answer to a client's offers.
    pub(super) fn agree(&mut self, offers: &[Extension<'_>]) -> Option<Agreed> {
        // Both directions, or only what the client sends, which takes less; or neither.
        let wanted = (
            self.config.server_context_takeover,
            self.config.client_context_takeover,
        );
        let window_bits = self.compression.settings().window_bits;
        let mut refused = false;
        for (server_context_takeover, client_context_takeover) in
            [wanted, (false, wanted.1), (false, false)]
        {
            let policy = Policy {
                window_bits,
                server_context_takeover,
                client_context_takeover,
            };
            let agreed = negotiate(offers, &policy)?;
            let keeps = Takeover::new(&agreed, self.compression.settings());
            let bytes = keeps.map_or(0, |keeps| keeps.memory_bytes());
            if self.has_room_for(bytes) {
                self.takeovers_refused += u64::from(refused);
                return Some(agreed);
            }
            refused = true;
        }
        None
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        let free = self.config.takeover_bytes_per_core.0;
        bytes == 0
            || bytes <= self.config.takeover_bytes_per_connection.0
                && bytes <= free.saturating_sub(self.takeover_bytes)
    }

    /// A connection has agreed on compression.
    pub(super) fn open(&mut self, conn: &mut Conn, agreed: &Agreed) {
        conn.deflate_bits = agreed.server_window_bits();
        if let Some(keeps) = Takeover::new(agreed, self.compression.settings()) {
            self.takeover_bytes += keeps.memory_bytes();
            conn.rare_mut().takeover = Some(Box::new(keeps));
        }
    }

    /// A connection has gone.
    pub(super) fn close(&mut self, conn: &mut Conn) {
        if let Some(keeps) = takeover(&mut conn.rare) {
            self.takeover_bytes -= keeps.memory_bytes();
        }
    }

    /// Whether a client that has agreed on a window of `bits` can read what is compressed for rooms.
    pub(super) const fn reads_shared(&self, bits: u8) -> bool {
        bits >= self.compression.settings().window_bits
    }

    /// What context takeover may take for all connections together.
    #[cfg(test)]
    pub(super) const fn takeover_bytes(&self) -> usize {
        self.takeover_bytes
    }

    /// Bytes of memory that compression takes, but for what rooms take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.takeover_bytes + self.inflation.memory_bytes() + self.compression.memory_bytes()
    }

    /// Gives back what belongs to no connection.
    pub(super) fn trim(&mut self) {
        self.inflation.trim();
        self.compression.trim();
    }

    /// `for_rooms` is what the hub has compressed.
    pub(super) fn publish(&self, counters: &Counters, for_rooms: crate::proto::ws::deflate::Tally) {
        counters
            .deflate_takeover_bytes
            .set(self.takeover_bytes as u64);
        counters
            .deflate_takeover_refused_total
            .set(self.takeovers_refused);
        let (messages, wire, payload) = self.inflation.tally();
        counters.deflate_in_messages_total.set(messages);
        counters.deflate_in_wire_bytes_total.set(wire);
        counters.deflate_in_message_bytes_total.set(payload);
        let own = self.compression.tally();
        counters
            .deflate_out_messages_total
            .set(own.messages + for_rooms.messages);
        counters
            .deflate_out_message_bytes_total
            .set(own.message_bytes + for_rooms.message_bytes);
        counters
            .deflate_out_wire_bytes_total
            .set(own.wire_bytes + for_rooms.wire_bytes);
        counters
            .deflate_not_smaller_total
            .set(own.not_smaller + for_rooms.not_smaller);
        counters
            .deflate_gave_way_total
            .set(own.gave_way + for_rooms.gave_way);
    }
}

/// Decompresses a client's message. `rare` is the client's.
pub(super) fn inflate<'s>(
    inflation: &'s mut Inflation,
    compressed: &Compressed<'_>,
    rare: &mut Option<Box<Rare>>,
    message_bytes_max: usize,
    counters: &Counters,
) -> Result<Message<'s>, WsError> {
    let inflated = inflation.inflate(compressed, takeover(rare), message_bytes_max);
    match &inflated {
        Err(WsError::MessageTooBig { .. }) => counters.deflate_bombs_total.inc(),
        Err(WsError::InvalidDeflate) => counters.deflate_invalid_total.inc(),
        _ => {}
    }
    inflated
}

/// Whom a message is for, and how it may be compressed for it.
pub(super) struct Recipient<'a> {
    pub(super) outbound: &'a mut Outbound,
    pub(super) rare: &'a mut Option<Box<Rare>>,
    /// [`Conn::deflate_bits`].
    pub(super) deflate_bits: u8,
}

impl Recipient<'_> {
    /// Queues a message for it as one frame.
    #[inline]
    pub(super) fn send(
        self,
        spare: &mut SpareBuffers,
        compression: &mut Compression,
        config: &config::Deflate,
        (opcode, payload): (OpCode, &[u8]),
    ) {
        let Self {
            outbound,
            rare,
            deflate_bits,
        } = self;
        if deflate_bits == 0 || !is_worthwhile(config, opcode, payload.len()) {
            return outbound.write(spare, |run| push_frame(run, opcode, payload));
        }
        outbound.write(spare, |run| {
            let own = takeover(rare);
            compression.push_message(run, (opcode, payload), None, deflate_bits, own);
        });
    }
}

/// What a connection keeps between its messages.
pub(super) fn takeover(rare: &mut Option<Box<Rare>>) -> Option<&mut Takeover> {
    rare.as_mut()?.takeover.as_deref_mut()
}
