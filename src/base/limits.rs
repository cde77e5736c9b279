//! Hard limits: bounds that no configuration raises. Tunable ones live in `config`.

use std::time::Duration;

/// Completions taken in one turn.
pub const TURN_COMPLETIONS_MAX: usize = 256;
/// Batches taken from other cores in one turn.
pub const TURN_MESH_BATCHES_MAX: usize = 64;
/// Timers fired in one turn.
pub const TURN_TIMERS_MAX: usize = 256;
/// Of these, what one end of a coalescing room's interval counts for: it may encode a whole table.
pub const ROOM_TIMER_WEIGHT: usize = 16;
/// Room deliveries made in one turn; a bigger fan-out goes on in the next.
pub const TURN_DELIVERIES_MAX: usize = 4096;
/// Of these, what one room may make before the next has its turn.
pub const TURN_ROOM_DELIVERIES_MAX: usize = 1024;
/// Connections told of the gateway's end in one turn.
pub const TURN_CLOSES_MAX: usize = 256;
/// Stalled connections whose input is taken up again in one turn.
pub const TURN_RESUMES_MAX: usize = 64;
/// Bytes of it that are looked at in one go.
pub const STALLED_SLICE_BYTES: usize = 16 * 1024;
/// Messages of one client handled in one turn; what it has sent beyond them waits for the next.
pub const TURN_CLIENT_MESSAGES_MAX: u32 = 512;
/// Messages handled in one turn after which a client's share shrinks to
/// [`TURN_CLIENT_MESSAGES_MIN`].
pub const TURN_MESSAGES_MAX: u32 = 4096;
/// See [`TURN_MESSAGES_MAX`].
pub const TURN_CLIENT_MESSAGES_MIN: u32 = 16;
/// Turns after which a busy worker yields to its runtime.
pub const TURNS_PER_YIELD_MAX: u32 = 8;
/// Time after which a busy worker yields to its runtime.
pub const YIELD_AFTER: Duration = Duration::from_micros(250);
/// How long an idle worker waits before it looks whether a wake was missed.
pub const WATCHDOG_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes handed to the kernel in one send.
pub const SEND_BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Segments handed to the kernel in one send.
pub const SEND_SEGMENTS_MAX: usize = 32;
/// A contiguous outbound buffer is closed once it has grown to this length.
pub const COALESCED_RUN_BYTES_MAX: usize = 64 * 1024;
/// Spare buffers that a worker keeps, and the capacity above which one is not kept.
pub const SPARE_BUFFERS_MAX: usize = 256;
/// See [`SPARE_BUFFERS_MAX`].
pub const SPARE_BUFFER_BYTES_MAX: usize = 16 * 1024;
/// Lanes of rooms that have nothing to hand out, whose memory is kept for rooms that have.
pub const SPARE_LANES_MAX: usize = 256;
/// The capacity above which a lane's memory is not kept.
pub const SPARE_LANE_ITEMS_MAX: usize = 64;
/// A client that has more than this to be sent gets no more by reference to receive buffers.
pub const BORROWED_BYTES_MAX: usize = 512 * 1024;
/// Messages of a room that are handed out in one go lie in one frame buffer of up to this length:
/// copied once, not once for each member.
pub const FAN_OUT_BYTES_MAX: usize = 16 * 1024;
/// Spare queues that a worker keeps, of less than 100 bytes each: about as many as have something
/// to say in one turn.
pub const SPARE_BATCHES_MAX: usize = 4096;

/// Entries of a slow client's list that are made ready for sending in one go.
pub const PENDING_MOVES_MAX: usize = 1024;
/// What an entry of that list costs of the client's bound beyond its bytes.
pub const PENDING_ENTRY_BYTES: usize = 96;

/// Messages that a coalescing room keeps for the end of its interval: one for each key.
pub const ROOM_COALESCE_KEYS_MAX: usize = 1024;
/// Bytes of their payloads; one larger message is kept by itself.
pub const ROOM_COALESCE_BYTES_MAX: usize = 256 * 1024;

/// Bytes of messages that a core compresses in one turn, for its rooms and for its clients apart; what
/// is more, and a longer message, goes as it is.
pub const TURN_DEFLATE_BYTES_MAX: usize = 256 * 1024;
/// A message that was decompressed counts as one more for each so many bytes in a client's share of a
/// turn.
pub const INFLATED_BYTES_PER_MESSAGE: usize = 1024;

/// Commands in one batch array.
pub const BATCH_COMMANDS_MAX: usize = 256;
/// Bytes of a room name.
pub const ROOM_NAME_BYTES_MAX: usize = 128;
/// Bytes of a user name.
pub const USER_NAME_BYTES_MAX: usize = 128;
/// Bytes of a correlation id.
pub const CORRELATION_ID_BYTES_MAX: usize = 64;
/// Bytes of a message id.
pub const MESSAGE_ID_BYTES_MAX: usize = 64;
/// Bytes of a conflation key.
pub const CONFLATION_KEY_BYTES_MAX: usize = 64;
/// Bytes of a member's presence state.
pub const PRESENCE_STATE_BYTES_MAX: usize = 4096;
/// Members listed by `presence` and by `join` with `presence: true`; `count` stays exact.
pub const PRESENCE_LIST_MAX: usize = 1000;
/// Bytes of such a list; it ends with the member that reaches them.
pub const PRESENCE_LIST_BYTES_MAX: usize = 256 * 1024;
/// Sessions of one user that a direct message reaches.
pub const USER_SESSIONS_MAX: usize = 256;

/// Batches that wait in one worker's inbox, for each core that may send to it.
pub const MESH_INBOX_BATCHES_PER_CORE: usize = 8;
/// Items in one batch.
pub const MESH_BATCH_ITEMS_MAX: usize = 1024;
/// Requests that one core may have unanswered at another.
pub const MESH_CREDITS: u32 = 1024;
/// Bytes of deliveries that one core may have unfinished at another.
pub const MESH_WINDOW_BYTES: u64 = 8 * 1024 * 1024;
/// What a delivery costs of the window beyond its bytes.
pub const MESH_DELIVERY_OVERHEAD_BYTES: u64 = 128;

/// Data frames with at least this much still to come are received into the message's buffer.
pub const DIRECT_RECEIVE_BYTES_MIN: usize = 32 * 1024;

/// What a fragment of a message costs of `limits.bytes_per_second` beyond its bytes: as many of one byte
/// as fit in a rate would cost more than as many messages.
pub const FRAGMENT_COST_BYTES: usize = 64;
/// Fragments that count for one message in a client's share of a turn.
pub const FRAGMENTS_PER_MESSAGE: u32 = 16;
/// Fragments after which it is seen whether a client has had that share.
pub const FRAGMENTS_PER_PAUSE: u32 = 256;

/// Steps of TLS handshakes taken in one turn: each may cost a signature.
pub const TURN_TLS_STEPS_MAX: u32 = 1;
/// Bytes of a TLS connection before its request is complete, as they arrive.
pub const TLS_HEAD_BYTES_MAX: usize = 256 * 1024;
/// Bytes encrypted for one send: what one connection may cost a turn.
pub const TLS_SEND_BYTES_MAX: usize = 128 * 1024;
/// Spare buffers for many records that a worker keeps, of up to two sends' bytes each.
pub const SPARE_RECORD_BUFFERS_MAX: usize = 8;
/// The capacity to which the room for decrypted bytes shrinks after use.
pub const TLS_PLAIN_BYTES_KEPT: usize = 128 * 1024;

/// Over how long refused messages are counted towards `limits.rate_breaches_max`.
pub const RATE_BREACH_WINDOW: Duration = Duration::from_secs(10);
/// Addresses without connections that a core remembers for their handshakes.
pub const IDLE_ADDRESSES_MAX: usize = 65_536;
/// Refused connections that a core lets read their refusal; more are reset.
pub const REFUSALS_LINGERING_MAX: u32 = 1024;
/// Least pace of a drain, in closes per second and core: few clients need not be spread.
pub const DRAIN_CLOSES_PER_SECOND_MIN: u64 = 50;
/// How long a close waits for the end of a message that the client has begun.
pub const MESSAGE_PATIENCE: Duration = Duration::from_secs(1);
/// Outbound bytes from which a connection is listed among those with a backlog.
pub const BACKLOG_BYTES_MIN: usize = 16 * 1024;
/// Connections with a backlog that are compared in one turn to find the largest.
pub const TURN_BACKLOGS_COMPARED_MAX: usize = 1024;
/// Clients evicted in one turn to free memory: as many as one turn can make take more.
pub const TURN_MEMORY_EVICTIONS_MAX: usize = TURN_COMPLETIONS_MAX;
/// How often memory is given back while it is short.
pub const TRIM_INTERVAL: Duration = Duration::from_secs(1);
/// How often the kernel is asked how much of a backlogged connection's output it still holds.
pub const UNSENT_INTERVAL: Duration = Duration::from_millis(100);

/// Into how many rounds an interval of pings is divided: silent clients are pinged in rounds.
pub const PING_ROUNDS: u32 = 64;

/// How long a connection lingers after its last byte for the peer to end it.
pub const LINGER: Duration = Duration::from_secs(2);
/// Bytes that a lingering connection discards before it is reset.
pub const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes that a client may send on after our close frame, before its own: as much as both kernels may hold
/// of what it had sent before it could know.
pub const CLOSING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a close frame waits for the peer's.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an evicted client may take to accept its close frame.
pub const EVICTION_LINGER: Duration = Duration::from_secs(1);
/// How long accepting pauses when the process is out of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the process waits for its workers beyond the drain's deadline.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// Descriptors that the process keeps for itself: standard streams, the log, the operator's
/// interface, watches of files, look-ups.
pub const DESCRIPTORS_RESERVED: u64 = 64;
/// Descriptors that each worker needs beside its connections: rings, events, listeners.
pub const DESCRIPTORS_PER_CORE_RESERVED: u64 = 16;

/// How long a changed file must be left alone before the configuration is read again.
pub const RELOAD_QUIET: Duration = Duration::from_millis(200);
/// How long it may go on changing before the configuration is read all the same.
pub const RELOAD_QUIET_MAX: Duration = Duration::from_secs(2);
/// How soon a reload is offered again to a worker that had no place for it.
pub const RELOAD_RETRY: Duration = Duration::from_millis(20);
/// How long a worker may have no place for it before that is said.
pub const RELOAD_PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of one configuration file.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Problems of a configuration that are told at once.
pub const CONFIG_PROBLEMS_MAX: usize = 200;
/// Routes of a configuration.
pub const ROUTES_MAX: usize = 64;
/// Entries of `[[rooms.match]]`: each new room's name is held against all of them.
pub const ROOM_MATCHES_MAX: usize = 256;
/// Certificates of `[[tls.certificates]]`.
pub const CERTIFICATES_MAX: usize = 256;
/// Bytes of a file with certificates or a key.
pub const PEM_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Certificates that are sent as one chain.
pub const CERTIFICATE_CHAIN_MAX: usize = 16;
/// Bytes of names of issuers that a client is told when it is asked for a certificate; beyond them it
/// is told none, which means any. All of them must fit into one handshake message.
pub const ISSUER_HINTS_BYTES_MAX: usize = 16 * 1024;
/// Workers that may have settings of their own.
pub const CORES_MAX: u16 = 1024;
