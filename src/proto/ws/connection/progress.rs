//! Whether an unfinished message gets on. RFC 6455 sets no time for a message, nor a number of fragments;
//! who serves strangers needs one.
//!
//! When is too long is for the caller to decide.

use super::Connection;
use crate::base::time::Instant;

/// How far what is in progress had come, and when.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Mark {
    since: Instant,
    bytes: usize,
}

impl Connection {
    /// Since when the frame or message in progress has not been finished, nor grown by
    /// `PROGRESS_BYTES_MIN`; as far as is known from calls of this method. `None` where nothing is in
    /// progress.
    ///
    /// Fragments alone are no progress: a message may have any number of empty ones.
    pub fn unfinished_since(&mut self, now: Instant) -> Option<Instant> {
        let partial = self.partial.as_mut().filter(|p| !p.is_idle())?;
        let bytes = partial.received_bytes();
        let has_grown = |mark: &Mark| bytes >= mark.bytes.saturating_add(PROGRESS_BYTES_MIN);
        let mark = match partial.mark {
            Some(mark) if !has_grown(&mark) => mark,
            _ => Mark { since: now, bytes },
        };
        partial.mark = Some(mark);
        Some(mark.since)
    }

    /// What is in progress was not read on for a while: its time begins anew.
    pub fn forgive_pause(&mut self) {
        if let Some(partial) = &mut self.partial {
            partial.mark = None;
        }
    }
}

/// Bytes of a message that count as progress: a slow upload goes on as long as they keep coming.
const PROGRESS_BYTES_MIN: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::super::{Connection, Event, Input, Role};
    use super::*;
    use crate::proto::ws::header::{OpCode, encode};

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn header(fin: bool, opcode: OpCode, len: u64) -> Vec<u8> {
        let mut bytes = [0; 14];
        let len = encode(fin, opcode, len, Some([0; 4]), &mut bytes);
        bytes[..len].to_vec()
    }

    fn feed(connection: &mut Connection, bytes: &[u8]) -> usize {
        let mut bytes = bytes.to_vec();
        let mut input = Input::new(&mut bytes);
        let mut messages = 0;
        while let Some(event) = connection.poll_event(&mut input).expect("it is valid") {
            let is_last = match &event {
                Event::Part(part) => part.is_last(),
                event => matches!(event, Event::Message(_)),
            };
            messages += usize::from(is_last);
        }
        messages
    }

    #[test]
    fn what_is_finished_has_no_age() {
        let mut connection = Connection::new(Role::Server, 1 << 20);
        assert_eq!(connection.unfinished_since(at(1)), None);
        let mut message = header(true, OpCode::Binary, 3);
        message.extend(*b"abc");
        for cut in 1..message.len() {
            assert_eq!(feed(&mut connection, &message[..cut]), 0);
            assert_eq!(connection.unfinished_since(at(2)), Some(at(2)));
            assert_eq!(connection.unfinished_since(at(3)), Some(at(2)));
            assert_eq!(feed(&mut connection, &message[cut..]), 1);
            assert_eq!(connection.unfinished_since(at(4)), None, "cut at {cut}");
        }
    }

    #[test]
    fn fragments_are_no_progress_and_bytes_are() {
        for relays in [false, true] {
            let mut connection = Connection::new(Role::Server, 1 << 20);
            connection.set_relaying(relays);
            feed(&mut connection, &header(false, OpCode::Binary, 8192));
            feed(&mut connection, &[0; 8192]);
            assert_eq!(connection.unfinished_since(at(1)), Some(at(1)));
            for second in 2..9 {
                feed(
                    &mut connection,
                    &header(false, OpCode::Continuation, 0).repeat(99),
                );
                assert_eq!(connection.unfinished_since(at(second)), Some(at(1)));
            }
            // A ping within the message is none of it.
            feed(&mut connection, &header(true, OpCode::Ping, 0));
            assert_eq!(connection.unfinished_since(at(9)), Some(at(1)));
            let growth = PROGRESS_BYTES_MIN;
            feed(
                &mut connection,
                &header(false, OpCode::Continuation, growth as u64),
            );
            feed(&mut connection, &vec![0; growth - 1]);
            assert_eq!(connection.unfinished_since(at(10)), Some(at(1)));
            feed(&mut connection, &[0]);
            assert_eq!(connection.unfinished_since(at(11)), Some(at(11)));
            connection.forgive_pause();
            assert_eq!(connection.unfinished_since(at(12)), Some(at(12)));
            feed(&mut connection, &header(true, OpCode::Continuation, 0));
            assert_eq!(connection.unfinished_since(at(13)), None);
        }
    }

    #[test]
    fn a_buffer_that_is_lent_out_counts_as_it_was() {
        let mut connection = Connection::new(Role::Server, 1 << 20);
        feed(&mut connection, &header(true, OpCode::Binary, 1 << 19));
        feed(&mut connection, &[0; 100]);
        assert_eq!(connection.unfinished_since(at(1)), Some(at(1)));
        let mut direct = connection.take_direct().expect("much is to come");
        assert_eq!(connection.unfinished_since(at(2)), Some(at(1)));
        direct.buf.extend_from_slice(&[0; PROGRESS_BYTES_MIN]);
        assert!(
            connection
                .handle_direct(direct)
                .expect("it is valid")
                .is_none()
        );
        assert_eq!(connection.unfinished_since(at(3)), Some(at(3)));
    }

    /// Empty ones, and ones of a byte: a poll ends after so many of them, and the next goes on there.
    #[test]
    fn a_poll_may_pause_after_fragments() {
        for (relays, len) in [(false, 0), (false, 1), (true, 0)] {
            let mut connection = Connection::new(Role::Server, 1 << 20);
            connection.set_relaying(relays);
            let start = if relays { 5000 } else { len };
            let mut bytes = header(false, OpCode::Binary, start);
            bytes.resize(bytes.len() + start as usize, 0);
            for n in 1..=1000 {
                bytes.extend(header(n == 1000, OpCode::Continuation, len));
                bytes.resize(bytes.len() + len as usize, 0);
            }
            let (mut pauses, mut ends) = (0, 0);
            let mut input = Input::pausing(&mut bytes, 100);
            loop {
                match connection.poll_event(&mut input).expect("it is valid") {
                    Some(Event::Message(message)) => {
                        ends += 1;
                        assert_eq!(message.payload().len(), 1001 * len as usize);
                    }
                    Some(Event::Part(part)) => ends += usize::from(part.is_last()),
                    Some(other) => panic!("{other:?}"),
                    None => {
                        if input.is_empty() {
                            break;
                        }
                        pauses += 1;
                    }
                }
            }
            assert_eq!((ends, input.fragments()), (1, 1001));
            assert!((9..=10).contains(&pauses), "{pauses}");
        }
    }
}
