//! Which listeners have an accept in flight, and whether they should.
//!
//! ```text
//!            pause                 last completion
//!   Armed ───────────▶ Cancelled ───────────────────▶ Idle
//!     ▲                    │ resumed meanwhile          │ resume
//!     └────────────────────┴────────────────────────────┘
//! ```
//!
//! A listener is never armed twice: who wants to arm it asks [`Accepting::arm`].

use super::super::ListenerId;

/// The accepting side of an engine.
#[derive(Debug)]
pub(super) struct Accepting {
    /// By listener: an accept whose last completion was not seen.
    in_flight: Vec<bool>,
    is_paused: bool,
    is_stopped: bool,
}

impl Accepting {
    /// Every one of `listeners` has been armed by its kernel.
    pub(super) fn new(listeners: ListenerId) -> Self {
        Self {
            in_flight: vec![true; usize::from(listeners)],
            is_paused: false,
            is_stopped: false,
        }
    }

    /// Notes that the accept of `listener` has ended.
    pub(super) fn ended(&mut self, listener: ListenerId) {
        if let Some(in_flight) = self.in_flight.get_mut(usize::from(listener)) {
            *in_flight = false;
        }
    }

    /// Whether the accept of `listener` is to be armed now; it then counts as in flight.
    pub(super) fn arm(&mut self, listener: ListenerId) -> bool {
        if self.is_paused || self.is_stopped {
            return false;
        }
        let in_flight = self.in_flight.get_mut(usize::from(listener));
        in_flight.is_some_and(|in_flight| !std::mem::replace(in_flight, true))
    }

    /// Begins a pause; yields the listeners whose accept is to be cancelled.
    pub(super) fn pause(&mut self) -> impl Iterator<Item = ListenerId> {
        let begins = !std::mem::replace(&mut self.is_paused, true) && !self.is_stopped;
        let listeners = 0..self.in_flight.len();
        listeners
            .filter(move |at| begins && self.in_flight[*at])
            .map(|at| at as ListenerId)
    }

    /// Ends the pause.
    pub(super) const fn resume(&mut self) {
        self.is_paused = false;
    }

    /// Ends accepting for good; says whether it had not ended before.
    pub(super) const fn stop(&mut self) -> bool {
        !std::mem::replace(&mut self.is_stopped, true)
    }
}
