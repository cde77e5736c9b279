//! Tidegate: a WebSocket edge gateway for Linux.
//!
//! The layers, each using only those above it in this list; `docs/ARCHITECTURE.md` tells where a
//! change belongs:
//!
//! - [`base`], [`config`]: limits, time, timers, slabs; what can be set
//! - [`proto`]: bytes to meaning and back
//! - [`session`], [`hub`]: what a client may do; who receives
//! - [`handler`], [`demo`]: the modes; the demo page
//! - [`tls`]: TLS, without sockets
//! - [`engine`], [`worker`]: system calls; one turn after the other on each core
//! - [`control`]: the operator's interface
//! - [`bench`]: the load generator, a program of its own
//! - [`machine`], [`sources`], [`server`], [`cli`]: what there is to run on, what the configuration
//!   is read from; start and end

pub mod base;
pub mod bench;
pub mod bridge;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod engine;
pub mod handler;
pub mod hub;
pub mod machine;
pub mod proto;
pub mod server;
pub mod session;
pub mod sources;
pub mod tls;
pub mod worker;
