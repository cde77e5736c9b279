//! How much may be on its way to each core: the bound behind every outbox and every lane.
//!
//! A home takes from the window of each interested core before it numbers a message, and the
//! core gives back once it has handed the message to its members. So neither an outbox nor a
//! lane can hold more than the window, whoever is slow.

use crate::base::{
    ids::CoreId,
    limits::{MESH_DELIVERY_OVERHEAD_BYTES, MESH_WINDOW_BYTES},
};

/// One home's windows to all cores.
#[derive(Debug)]
pub struct Windows {
    outstanding: Vec<u64>,
}

impl Windows {
    /// Open windows to `cores` cores.
    pub fn new(cores: u16) -> Self {
        Self {
            outstanding: vec![0; usize::from(cores)],
        }
    }

    /// What a delivery of `bytes` takes.
    pub const fn cost(bytes: usize) -> u64 {
        bytes as u64 + MESH_DELIVERY_OVERHEAD_BYTES
    }

    /// Whether something of `cost` fits now. One that is larger than the window fits when the
    /// window is untouched.
    pub fn has_room(&self, core: CoreId, cost: u64) -> bool {
        let outstanding = self.outstanding[usize::from(core)];
        outstanding == 0 || outstanding + cost <= MESH_WINDOW_BYTES
    }

    /// Takes `cost`, whether it fits or not.
    pub fn take(&mut self, core: CoreId, cost: u64) {
        self.outstanding[usize::from(core)] += cost;
    }

    /// Gives `bytes` back.
    pub fn give_back(&mut self, core: CoreId, bytes: u64) {
        let outstanding = &mut self.outstanding[usize::from(core)];
        debug_assert!(*outstanding >= bytes, "more came back than went out");
        *outstanding = outstanding.saturating_sub(bytes);
    }

    /// What is on its way to all cores.
    pub fn total(&self) -> u64 {
        self.outstanding.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fills_to_its_edge_and_opens_again() {
        let mut windows = Windows::new(2);
        assert!(windows.has_room(0, MESH_WINDOW_BYTES + 1));
        windows.take(0, 100);
        assert!(windows.has_room(0, MESH_WINDOW_BYTES - 100));
        assert!(!windows.has_room(0, MESH_WINDOW_BYTES - 99));
        assert!(windows.has_room(1, MESH_WINDOW_BYTES));
        windows.give_back(0, 100);
        assert_eq!(windows.total(), 0);
    }
}
