//! What the parts that never import each other say to each other: plain data on bounded channels.

use crate::base::ids::CoreId;

/// What a worker is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Close everything and finish.
    Shutdown,
}

/// What the one who waits for the gateway's end is told.
#[derive(Debug)]
pub enum Report {
    /// A worker accepts connections.
    Ready(CoreId),
    /// A worker could not start; the text says why.
    Failed(CoreId, String),
    /// A worker has closed everything and stands still.
    Finished(CoreId),
    /// The process got this signal.
    Signal(i32),
}
