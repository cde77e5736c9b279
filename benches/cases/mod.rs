//! What the micro-benchmarks measure: every case once, for the stopwatch (`benches/micro`) and for
//! the counter of instructions (`benches/counts`).
//!
//! A case is made of pure layers alone: no clock, no socket, no thread, fixed sizes, seeded
//! generators. It does not know how it is measured.

mod base;
mod deflate;
mod engine;
mod envelope;
mod frames;
mod handshake;
mod hub;
mod session;
mod tls;

/// Something to measure.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// `what/how`, unique.
    pub(crate) name: &'static str,
    /// How many operations one call does: enough that the call itself does not count, and that what
    /// hash tables with a random key find evens out.
    pub(crate) operations: u32,
    prepare: fn(u32) -> Call,
}

/// Does a case's operations once more. All calls do the same work, but for the first few, in which
/// queues and tables get the memory that they keep.
pub(crate) type Call = Box<dyn FnMut()>;

impl Case {
    /// Sets the stage, which is not measured, and gives what is to be called again and again.
    pub(crate) fn prepare(&self) -> Call {
        (self.prepare)(self.operations)
    }
}

/// Every case that does the same work in each call, layer by layer.
pub(crate) fn all() -> Vec<Case> {
    [
        frames::CASES,
        deflate::CASES,
        handshake::CASES,
        envelope::CASES,
        session::CASES,
        hub::CASES,
        base::CASES,
        engine::CASES,
    ]
    .concat()
}

/// Those, and the ones for the stopwatch alone.
#[allow(dead_code, reason = "the counter of instructions leaves some out")]
pub(crate) fn by_the_clock() -> Vec<Case> {
    [all().as_slice(), tls::CASES].concat()
}

/// A case; `prepare` is told how many operations a call is to do.
const fn case(name: &'static str, operations: u32, prepare: fn(u32) -> Call) -> Case {
    Case {
        name,
        operations,
        prepare,
    }
}
