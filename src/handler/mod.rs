//! L3: what the gateway does with a client's messages, mode by mode.
//!
//! A handler is synchronous: it is given a message and what it may use, and pushes what follows
//! to an [`Outputs`](crate::hub::Outputs). It knows sessions and the hub; it must not know
//! connections, frames or cores' mailboxes.

pub mod reply;
pub mod rooms;
