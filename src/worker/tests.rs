//! A worker over the simulated network.

/// A message that ends so makes the handler panic, in tests alone.
pub(super) const PANIC: &[u8] = b"\"panic, please\"}";
