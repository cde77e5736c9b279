//! What the parts that never import each other say to each other: plain data on bounded channels.

use crate::base::ids::CoreId;

/// What a worker is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Close everything and finish.
    Shutdown,
}

/// What a worker tells.
#[derive(Debug)]
pub enum Report {
    /// It accepts connections.
    Ready(CoreId),
    /// It could not start; the text says why.
    Failed(CoreId, String),
    /// It has closed everything and stands still.
    Finished(CoreId),
}
