//! Messages that come compressed: put together, inflated, and handed on as if they had come so.

use super::{Load, client::Clients};
use crate::bench::{
    inflated::{DeflateFigures, Inflated},
    reader::Part,
};

impl Clients {
    /// What has been inflated.
    pub(super) fn deflate_figures(&self) -> Option<DeflateFigures> {
        let figures = self.inflated.as_ref().map(|inflated| inflated.figures());
        figures.or(self.deflate.then(DeflateFigures::default))
    }

    /// Handles part of a compressed message; false if the connection has ended by it.
    pub(super) fn on_compressed<L: Load>(
        &mut self,
        conn: u32,
        part: &Part<'_>,
        load: &mut L,
        now: u64,
    ) -> bool {
        let client = &mut self.list[conn as usize];
        let is_alone = part.is_first && part.is_last;
        if !is_alone {
            if client.carry.len() + part.bytes.len() > 2 * self.message_bytes_max {
                self.on_breach(conn, &"a compressed message does not end", load, now);
                return false;
            }
            client.carry.extend_from_slice(part.bytes);
            if !part.is_last {
                return true;
            }
        }
        let mut carry = std::mem::take(&mut client.carry);
        let wire = if is_alone { part.bytes } else { &carry };
        let made = || Inflated::new(self.message_bytes_max).map(Box::new);
        let Some(mut inflated) = self.inflated.take().or_else(made) else {
            self.on_breach(conn, &"there is no memory to inflate with", load, now);
            return false;
        };
        let result = inflated.inflate(wire).map(|message| {
            // What is too long comes as if there were more of it.
            let is_whole = message.len() <= self.message_bytes_max;
            let mut part = Part {
                is_first: true,
                is_last: is_whole,
                is_compressed: false,
                bytes: message,
                ..*part
            };
            self.on_part(conn, &part, load, now);
            if !is_whole {
                part.is_first = false;
                part.is_last = true;
                part.bytes = &[];
                self.on_part(conn, &part, load, now);
            }
        });
        self.inflated = Some(inflated);
        carry.clear();
        self.list[conn as usize].carry = carry;
        if let Err(error) = &result {
            self.on_breach(conn, error, load, now);
        }
        result.is_ok()
    }
}
