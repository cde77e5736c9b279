//! L4: TLS, as bytes in and bytes out.
//!
//! rustls does the work; what is here drives it without a socket. It must not know sockets, the
//! worker's connections or rooms. It is not pure in the strict sense: rustls reads a clock of its own
//! (tickets, certificates) and the system's randomness.
pub mod stream;
