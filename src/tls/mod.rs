//! L4: TLS, as bytes in and bytes out, and what it is served with.
//!
//! rustls does the work; what is here drives it without a socket. It must not know sockets, the
//! worker's connections or rooms. It is not pure in the strict sense: rustls reads a clock of its own
//! (tickets, certificates) and the system's randomness.
//!
//! The files with certificates and keys are read here, when the control side asks for it, never by a
//! worker.

pub mod identity;
pub mod peer;
pub mod pem;
pub mod resolver;
pub mod server_config;
pub mod stream;
mod tickets;

#[cfg(test)]
pub(crate) mod fixtures;
