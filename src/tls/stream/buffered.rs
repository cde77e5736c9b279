//! A stream over rustls' buffered interface: the fallback, should the unbuffered one prove wrong.

use std::io::{Read, Write};

use rustls::{Error, ServerConnection};

use super::TlsError;

pub(super) struct Buffered {
    pub(super) connection: ServerConnection,
    /// Received, and not yet looked at.
    pub(super) carry: Vec<u8>,
    pub(super) peer_has_closed: bool,
}

impl Buffered {
    pub(super) fn new(connection: ServerConnection) -> Self {
        let mut connection = connection;
        // What is written is taken out at once.
        connection.set_buffer_limit(None);
        Self {
            connection,
            carry: Vec::new(),
            peer_has_closed: false,
        }
    }

    pub(super) fn handle_input(
        &mut self,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<(), TlsError> {
        let carry = std::mem::take(&mut self.carry);
        let result = self
            .work(&carry, plain)
            .and_then(|()| self.work(bytes, plain));
        self.take_records(output);
        result
    }

    fn work(&mut self, bytes: &[u8], plain: &mut Vec<u8>) -> Result<(), TlsError> {
        let mut bytes = bytes;
        while !bytes.is_empty() && !self.peer_has_closed {
            match self.connection.read_tls(&mut bytes) {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => return Err(TlsError::TooLong),
            }
            let io = self.connection.process_new_packets();
            let before = plain.len();
            // An end is told by `io`; short of that it would block once it is empty.
            let _ = self.connection.reader().read_to_end(plain);
            debug_assert!(plain.len() >= before);
            self.peer_has_closed = io?.peer_has_closed();
        }
        Ok(())
    }

    fn take_records(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() {
            // A vector takes all it is given.
            if self.connection.write_tls(out).is_err() {
                break;
            }
        }
    }

    /// Appends `plain` to `out` in records.
    pub(super) fn encrypt(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        let written = self.connection.writer().write_all(plain);
        self.take_records(out);
        written.map_err(|_| Error::EncryptError.into())
    }

    pub(super) fn close(&mut self, output: &mut Vec<u8>) {
        self.connection.send_close_notify();
        self.take_records(output);
    }
}
