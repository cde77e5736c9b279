//! One simulated connection: bytes each way, and what is in flight on the gateway's side.

use std::collections::VecDeque;

use crate::{base::segments::SendBatch, engine::slots::Tag};

/// A connection between a peer and the gateway.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) socket: SocketState,
    /// What the peer wrote and the gateway has not received.
    pub(super) inbound: VecDeque<u8>,
    /// What the gateway sent and the peer has not read.
    pub(super) outbound: VecDeque<u8>,
    /// The peer has ended its side, in order.
    pub(super) peer_ended: bool,
    /// The peer has closed: what it is sent goes nowhere.
    pub(super) peer_closed: bool,
    /// The gateway has ended its side, in order.
    pub(super) gateway_ended: bool,
    /// The gateway finds the connection reset.
    pub(super) reset_by_peer: bool,
    /// The peer finds it reset, after what is left to read.
    pub(super) reset_by_gateway: bool,
    /// The close to come is a reset.
    pub(super) resets: bool,
    pub(super) receive: Option<Pending<ReceiveKind>>,
    pub(super) send: Option<Pending<Sending>>,
    pub(super) close: Option<Pending<()>>,
    /// A receive whose last completion the gateway has not seen.
    pub(super) owes_receive: bool,
    /// A send whose completion the gateway has not seen.
    pub(super) owes_send: bool,
}

/// The gateway's end of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketState {
    /// Waits to be accepted.
    Backlog,
    /// Accepted, and perhaps on its way there.
    Open,
    /// Its close is in flight.
    Closing,
    Closed,
}

/// An operation in flight.
#[derive(Debug)]
pub(super) struct Pending<T> {
    pub(super) tag: Tag,
    pub(super) what: T,
    /// Entries into the kernel before it gets on.
    pub(super) delay: u64,
    /// Entries before it is cancelled, if that was asked for.
    pub(super) cancel: Option<u64>,
}

#[derive(Debug)]
pub(super) enum ReceiveKind {
    Multishot,
    Into { buf: Vec<u8>, bytes_max: usize },
}

#[derive(Debug)]
pub(super) struct Sending {
    pub(super) batch: Box<SendBatch>,
    pub(super) taken: usize,
}

impl Stream {
    pub(super) const fn new() -> Self {
        Self {
            socket: SocketState::Backlog,
            inbound: VecDeque::new(),
            outbound: VecDeque::new(),
            peer_ended: false,
            peer_closed: false,
            gateway_ended: false,
            reset_by_peer: false,
            reset_by_gateway: false,
            resets: false,
            receive: None,
            send: None,
            close: None,
            owes_receive: false,
            owes_send: false,
        }
    }

    /// Whether the gateway can still do something with it.
    pub(super) const fn is_live(&self) -> bool {
        !matches!(self.socket, SocketState::Closed)
    }

    /// What a receive finds when no bytes are left: an end, an error, or nothing yet.
    pub(super) const fn end_of_input(&self) -> Option<Result<(), i32>> {
        if self.reset_by_peer {
            Some(Err(libc::ECONNRESET))
        } else if self.peer_ended {
            Some(Ok(()))
        } else {
            None
        }
    }

    /// What a send meets before it can take a byte.
    pub(super) const fn send_error(&self) -> Option<i32> {
        if self.reset_by_peer {
            Some(libc::ECONNRESET)
        } else if self.gateway_ended {
            Some(libc::EPIPE)
        } else {
            None
        }
    }
}

impl<T> Pending<T> {
    pub(super) const fn new(tag: Tag, what: T, delay: u64) -> Self {
        Self {
            tag,
            what,
            delay,
            cancel: None,
        }
    }

    /// One entry passes. Says what the operation may do now.
    pub(super) const fn step(&mut self, next_delay: u64) -> Step {
        if let Some(cancel) = &mut self.cancel {
            if *cancel == 0 {
                return Step::Cancel;
            }
            *cancel -= 1;
        }
        if self.delay > 0 {
            self.delay -= 1;
            return Step::Wait;
        }
        self.delay = next_delay;
        Step::Go
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    Go,
    Cancel,
}
