//! Tidegate: a WebSocket edge gateway for Linux.

pub mod base;
pub mod bridge;
pub mod config;
pub mod engine;
pub mod handler;
pub mod hub;
pub mod proto;
pub mod session;
pub mod worker;
