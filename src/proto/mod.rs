//! L1: bytes to meaning and back, without a clock, a socket or a thread.

pub mod envelope;
pub mod forwarded;
pub mod handshake;
pub mod http1;
pub mod proxy_header;
pub mod ws;
