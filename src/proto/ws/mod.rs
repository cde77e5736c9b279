//! RFC 6455: the WebSocket protocol after its opening handshake; with RFC 7692, its messages compressed.
//!
//! Bytes go in and events come out; nothing here reads a clock, owns a socket or draws a random
//! number. [`Connection`] is the state machine. The other modules are the pieces it is made of,
//! and they also serve to write frames.

pub mod close;
pub mod connection;
pub mod deflate;
pub mod error;
mod event;
pub mod header;
#[allow(
    unsafe_code,
    reason = "calls what is compiled for vectors that the processor was asked for"
)]
pub mod mask;
pub mod message;
mod part;
mod partial;
pub mod utf8;

pub use close::{CloseCode, CloseFrame};
pub use connection::{Connection, Role};
pub use error::{Blame, WsError};
pub use event::{Compressed, Direct, Event, Input, Message, MessageKind};
pub use header::{FrameHeader, OpCode};
pub use message::MessageBuf;
pub use part::Part;
