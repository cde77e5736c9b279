//! A stream over rustls' unbuffered interface: records are decrypted where they were received.
//!
//! rustls is always given all that is carried over, and only that or what follows it: it keeps
//! positions in what it has seen in part.

use rustls::{
    Error,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

use super::{
    CARRIED_BYTES_MAX, HEADER_BYTES, RECORD_OVERHEAD_BYTES, RECORD_PLAIN_BYTES_MAX, TlsError,
    record_bytes,
};

pub(super) struct Unbuffered {
    pub(super) connection: UnbufferedServerConnection,
    /// Received, and waiting for what follows.
    pub(super) carry: Vec<u8>,
    pub(super) peer_has_closed: bool,
}

impl Unbuffered {
    pub(super) const fn new(connection: UnbufferedServerConnection) -> Self {
        Self {
            connection,
            carry: Vec::new(),
            peer_has_closed: false,
        }
    }

    pub(super) fn handle_input(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<(), TlsError> {
        let mut bytes = bytes;
        if !self.carry.is_empty() {
            // No more than what completes the record: the rest is worked on where it is.
            let missing = match self.connection.is_handshaking() {
                true => bytes.len(),
                false => missing_of_record(&self.carry, bytes),
            };
            let (first, rest) = bytes.split_at_mut(missing);
            self.carry.extend_from_slice(first);
            self.work_on_carry(plain, output)?;
            bytes = rest;
            if !self.carry.is_empty() && !bytes.is_empty() {
                // Of a handshake message in several records: they must lie one behind the other.
                self.carry.extend_from_slice(bytes);
                self.work_on_carry(plain, output)?;
                bytes = &mut [];
            }
        }
        if self.peer_has_closed {
            // RFC 8446 §6.1: whatever follows is ignored.
            return Ok(());
        }
        if !bytes.is_empty() {
            let used = self.work(bytes, plain, output)?;
            if used < bytes.len() {
                self.carry.extend_from_slice(&bytes[used..]);
                self.check_carry()?;
            }
        }
        Ok(())
    }

    fn work_on_carry(&mut self, plain: &mut Vec<u8>, output: &mut Vec<u8>) -> Result<(), TlsError> {
        let mut carry = std::mem::take(&mut self.carry);
        let used = self.work(&mut carry, plain, output)?;
        if used < carry.len() {
            carry.drain(..used);
            self.carry = carry;
            self.check_carry()?;
        }
        Ok(())
    }

    fn check_carry(&mut self) -> Result<(), TlsError> {
        if self.carry.len() > CARRIED_BYTES_MAX {
            self.carry = Vec::new();
            return Err(TlsError::TooLong);
        }
        Ok(())
    }

    /// Has rustls work on received bytes until it wants more. Says how many it is done with.
    fn work(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<usize, TlsError> {
        let mut used = 0;
        let mut fault: Option<Error> = None;
        // After a fault it may only be asked for what it has to send about that.
        while fault.is_none() || self.connection.wants_write() {
            let UnbufferedStatus { discard, state, .. } =
                self.connection.process_tls_records(&mut bytes[used..]);
            let mut discard = discard;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(output, 0, |space| match data.encode(space) {
                        Err(EncodeError::InsufficientSize(size)) => Err(size.required_size),
                        Err(EncodeError::AlreadyEncoded) => Ok(0),
                        Ok(written) => Ok(written),
                    });
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.peer_has_closed = true,
                Ok(_) => {
                    used += discard;
                    break;
                }
                Err(error) => fault = Some(error),
            }
            used += discard;
        }
        if let Some(error) = fault {
            return Err(error.into());
        }
        if self.peer_has_closed {
            used = bytes.len();
        }
        Ok(used)
    }

    /// Appends `plain` to `out` in records.
    pub(super) fn encrypt(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        let records = plain.len().div_ceil(RECORD_PLAIN_BYTES_MAX);
        let space = plain.len() + records * RECORD_OVERHEAD_BYTES;
        self.write(out, |traffic, out| {
            let mut result = Ok(());
            append(out, space, |space| match traffic.encrypt(plain, space) {
                Ok(written) => Ok(written),
                Err(EncryptError::InsufficientSize(size)) => Err(size.required_size),
                Err(EncryptError::EncryptExhausted) => {
                    result = Err(Error::EncryptError.into());
                    Ok(0)
                }
            });
            result
        })
    }

    pub(super) fn close(&mut self, output: &mut Vec<u8>) {
        // Refused only where nothing can be sent any more.
        let _ = self.write(output, |traffic, out| {
            append(out, RECORD_OVERHEAD_BYTES, |space| {
                match traffic.queue_close_notify(space) {
                    Ok(written) => Ok(written),
                    Err(EncryptError::InsufficientSize(size)) => Err(size.required_size),
                    Err(EncryptError::EncryptExhausted) => Ok(0),
                }
            });
            Ok(())
        });
    }

    /// Has `write` write application data, behind what rustls has to send itself.
    fn write(
        &mut self,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Traffic<'_>, &mut Vec<u8>) -> Result<(), TlsError>,
    ) -> Result<(), TlsError> {
        loop {
            let UnbufferedStatus { discard, state, .. } =
                self.connection.process_tls_records(&mut self.carry);
            debug_assert_eq!(discard, 0, "what is carried was worked on");
            match state? {
                ConnectionState::EncodeTlsData(mut data) => {
                    append(out, 0, |space| match data.encode(space) {
                        Err(EncodeError::InsufficientSize(size)) => Err(size.required_size),
                        Err(EncodeError::AlreadyEncoded) => Ok(0),
                        Ok(written) => Ok(written),
                    });
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(mut traffic) => return write(&mut traffic, out),
                _ => return Err(TlsError::NotOpen),
            }
        }
    }
}

type Traffic<'c> = rustls::unbuffered::WriteTraffic<'c, rustls::server::ServerConnectionData>;

/// Has `write` write to the end of `out`, into `space` bytes or as many as it says that it needs.
fn append(
    out: &mut Vec<u8>,
    space: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, usize>,
) {
    let before = out.len();
    let mut space = space;
    for _ in 0..2 {
        out.resize(before + space, 0);
        match write(&mut out[before..]) {
            Ok(written) => return out.truncate(before + written),
            Err(needed) => space = needed,
        }
    }
    out.truncate(before);
}

/// How many of `bytes` complete the record that begins in `carry`, as far as that can be told; all if
/// it is none.
fn missing_of_record(carry: &[u8], bytes: &[u8]) -> usize {
    let mut header = [0; HEADER_BYTES];
    let known = carry.iter().chain(bytes).zip(&mut header);
    if known.map(|(b, at)| *at = *b).count() < HEADER_BYTES {
        return bytes.len();
    }
    match record_bytes(&header).checked_sub(carry.len()) {
        None | Some(0) => bytes.len(),
        Some(missing) => missing.min(bytes.len()),
    }
}
