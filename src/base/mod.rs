//! L0: what every layer may use and none may teach: limits, time, timers, slabs, counters.
//!
//! Nothing here reads a clock, opens a socket or starts a thread. Time comes in as
//! [`time::Now`], randomness as a seeded [`rng::Rng`].

pub mod abort;
pub mod bag;
pub mod bucket;
pub mod counters;
pub mod ids;
pub mod limits;
pub mod paged;
pub mod rng;
pub mod sampler;
pub mod segments;
pub mod slab;
pub mod time;
pub mod wheel;
