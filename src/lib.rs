//! Tidegate: a WebSocket edge gateway for Linux.

pub mod base;
pub mod config;
pub mod engine;
pub mod proto;
pub mod session;
