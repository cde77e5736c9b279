//! Tidegate: a WebSocket edge gateway for Linux.

pub mod base;
pub mod engine;
pub mod proto;
