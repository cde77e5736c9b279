//! What the parts that never import each other say to each other: plain data on bounded channels.

use std::sync::Arc;

use crate::{base::ids::CoreId, config::Config};

/// What a worker is told from outside.
#[derive(Clone, Debug)]
pub enum Control {
    /// Take up this configuration; it has been validated.
    Reload(Arc<Config>),
    /// New connections of TLS listeners are served with this; what is open is not touched.
    Tls(Arc<rustls::ServerConfig>),
    /// Close everything, spread over the drain's window, and finish.
    Drain,
}

/// What the one who waits for the gateway's end is told.
#[derive(Debug)]
pub enum Report {
    /// A worker accepts connections.
    Ready(CoreId),
    /// A worker could not start; the text says why.
    Failed(CoreId, String),
    /// A worker stands still.
    Finished {
        /// Which.
        core: CoreId,
        /// Clients that were cut at the drain's deadline, their close not answered.
        cut: u64,
    },
    /// The process got this signal to end.
    Signal(i32),
    /// This configuration is being taken up.
    Reloaded(Arc<Config>),
}
