//! Workers over the simulated network: the real turn, hub and mesh, under faults drawn from seeds.
//!
//! A failing seed is printed with the command that replays it.

mod client;
mod connections;
mod deflate;
mod limits;
mod members;
mod net;
mod origins;
mod policies;
mod rooms;
mod tls;

/// A message that ends so makes the handler panic, in tests alone.
pub(super) const PANIC: &[u8] = b"\"panic, please\"}";
