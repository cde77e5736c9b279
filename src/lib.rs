//! Tidegate: a WebSocket edge gateway for Linux.

pub mod proto;
