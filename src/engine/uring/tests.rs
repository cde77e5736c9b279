//! The ring under the tests of every real kernel.

use std::os::fd::OwnedFd;

use super::*;
use crate::engine::tests::{Real, over};

impl Real for UringKernel {
    fn make(listener: OwnedFd, recv_buffers: u16, recv_buffer_bytes: u32) -> Self {
        let mut kernel = Self::new(UringConfig {
            ring_entries: 8,
            cq_entries: 32,
            recv_buffers,
            recv_buffer_bytes,
        })
        .unwrap();
        kernel.listen(listener);
        kernel
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

over!(UringKernel);

#[test]
fn this_machine_has_what_the_ring_needs() {
    probe().unwrap();
}
