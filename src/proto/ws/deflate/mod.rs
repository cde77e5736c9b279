//! permessage-deflate: messages compressed one by one (RFC 7692).
//!
//! ```text
//!   offers ──▶ negotiate ──▶ Agreed            what both ends may do from then on
//!
//!   payload ──▶ Compression ──▶ frame          a core's own; a connection's history, if it has one,
//!   message ──▶ Inflation ──▶ payload          comes with each call (Takeover)
//!                  │
//!               Deflater, Inflater             safe, with a hard bound on what comes out
//!                  │
//!                zlib                          the only unsafe code
//! ```
//!
//! Which messages are worth compressing, and for whom, is for others to say: nothing here knows a
//! connection, a room or the configuration.

mod compression;
mod deflater;
mod inflater;
mod inflation;
mod negotiate;
mod offer;
mod takeover;
#[cfg(test)]
mod tests;
#[allow(unsafe_code, reason = "calls zlib")]
mod zlib;

pub use compression::{Compression, Settings, Tally};
pub use deflater::Deflater;
pub use inflater::{InflateError, Inflater};
pub use inflation::Inflation;
pub use negotiate::{Agreed, Policy, negotiate};
pub use offer::Offer;
pub use takeover::Takeover;

/// The name of the extension (§7).
pub const EXTENSION: &str = "permessage-deflate";

/// The largest LZ77 window, as a power of two: what holds where nothing was said (§7.1.2).
pub const WINDOW_BITS_MAX: u8 = 15;
/// The smallest window that there is (§7.1.2).
pub const WINDOW_BITS_MIN: u8 = 8;
/// The smallest window that zlib compresses with when there is no zlib header.
pub const DEFLATE_WINDOW_BITS_MIN: u8 = 9;

/// What every compressed message ends with, and what is left out on the wire (§7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];
