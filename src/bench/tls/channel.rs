//! One connection's records, without I/O: what came goes in, and plain bytes and what is to be sent
//! come out.
//!
//! Records are decrypted where they were received; only one that has not come whole is kept.

use std::fmt;

use rustls::{
    CommonState, Error,
    client::UnbufferedClientConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

/// A TLS connection of a client.
pub(crate) struct Channel {
    connection: UnbufferedClientConnection,
    /// A record, or a message of the handshake, that has not come whole.
    carry: Vec<u8>,
    /// Handshake messages and alerts that are to be sent.
    out: Vec<u8>,
    is_open: bool,
    is_over: bool,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("is_open", &self.is_open)
            .field("is_over", &self.is_over)
            .finish_non_exhaustive()
    }
}

impl Channel {
    /// Begins the handshake.
    pub(super) fn new(connection: UnbufferedClientConnection) -> Result<Self, Error> {
        let mut channel = Self {
            connection,
            carry: Vec::new(),
            out: Vec::new(),
            is_open: false,
            is_over: false,
        };
        channel.process(&mut [], &mut |_| {})?;
        Ok(channel)
    }

    /// Whether what is said can be sent: the handshake is over.
    #[inline]
    pub(crate) const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether the server has said that nothing more comes.
    #[inline]
    pub(crate) const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether there are bytes of the connection's own to be sent.
    #[inline]
    pub(crate) const fn has_out(&self) -> bool {
        !self.out.is_empty()
    }

    /// Moves them to the end of `out`. They come before anything that is encrypted later.
    #[inline]
    pub(crate) fn take_out(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.out);
    }

    /// What was agreed on, once it is open.
    pub(super) fn agreed(&self) -> &CommonState {
        &self.connection
    }

    /// Reads what came, and gives what it says record by record.
    ///
    /// # Errors
    /// Whatever makes the connection useless: a certificate that is not trusted, a breach of the
    /// protocol, an alert of the server.
    #[inline]
    pub(crate) fn read(
        &mut self,
        bytes: &mut [u8],
        on_plain: &mut impl FnMut(&[u8]),
    ) -> Result<(), Error> {
        let mut rest = bytes;
        loop {
            if self.carry.is_empty() {
                let used = self.process(rest, on_plain)?;
                self.carry.extend_from_slice(&rest[used..]);
                return Ok(());
            }
            // Only what completes the record is copied, unless the library wants to see several.
            let wanted = match lacking(&self.carry) {
                0 => rest.len(),
                lacking => lacking.min(rest.len()),
            };
            let (front, back) = rest.split_at_mut(wanted);
            self.carry.extend_from_slice(front);
            rest = back;
            if lacking(&self.carry) == 0 {
                let mut carry = std::mem::take(&mut self.carry);
                let used = self.process(&mut carry, on_plain)?;
                carry.drain(..used);
                self.carry = carry;
            }
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Encrypts `plain` to the end of `out`.
    ///
    /// # Errors
    /// If the connection is not open, or its keys are used up.
    #[inline]
    pub(crate) fn write(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let mut nothing = [];
        let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut nothing);
        let ConnectionState::WriteTraffic(mut traffic) = state? else {
            return Err(Error::HandshakeNotComplete);
        };
        let start = out.len();
        let mut room = plain.len() + (plain.len() / RECORD_BYTES_MAX + 1) * RECORD_OVERHEAD_BYTES;
        loop {
            out.resize(start + room, 0);
            match traffic.encrypt(plain, &mut out[start..]) {
                Ok(len) => {
                    out.truncate(start + len);
                    return Ok(());
                }
                // A message of the library's own goes along.
                Err(EncryptError::InsufficientSize(size)) if size.required_size > room => {
                    room = size.required_size;
                }
                Err(error) => {
                    out.truncate(start);
                    return Err(Error::General(error.to_string()));
                }
            }
        }
    }

    /// Lets the library go on until it wants more than `bytes`; gives how many of them it is done
    /// with.
    fn process(
        &mut self,
        bytes: &mut [u8],
        on_plain: &mut impl FnMut(&[u8]),
    ) -> Result<usize, Error> {
        let mut used = 0;
        loop {
            let status = self.connection.process_tls_records(&mut bytes[used..]);
            let UnbufferedStatus { mut discard, state } = status;
            let mut goes_on = true;
            match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        on_plain(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    encode(&mut self.out, |out| data.encode(out))?;
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.is_over = true,
                ConnectionState::WriteTraffic(_) => {
                    self.is_open = true;
                    goes_on = false;
                }
                _ => goes_on = false,
            }
            used += discard;
            if !goes_on {
                return Ok(used);
            }
        }
    }
}

/// Appends what `write` writes, with as much room as it asks for.
fn encode(
    out: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Error> {
    let start = out.len();
    let mut room = HANDSHAKE_BYTES;
    loop {
        out.resize(start + room, 0);
        match write(&mut out[start..]) {
            Ok(len) => {
                out.truncate(start + len);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) if size.required_size > room => {
                room = size.required_size;
            }
            Err(error) => return Err(Error::General(error.to_string())),
        }
    }
}

/// Bytes that the first record in `bytes` lacks, as far as is known; 0 if it is whole, or no record
/// at all: then the library says so without waiting for more.
fn lacking(bytes: &[u8]) -> usize {
    let Some(header) = bytes.first_chunk::<RECORD_HEADER_BYTES>() else {
        return RECORD_HEADER_BYTES - bytes.len();
    };
    let payload = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if header[1] != VERSION_MAJOR || payload > RECORD_PAYLOAD_BYTES_MAX {
        return 0;
    }
    (RECORD_HEADER_BYTES + payload).saturating_sub(bytes.len())
}

/// RFC 8446 §5.1.
const RECORD_HEADER_BYTES: usize = 5;
const RECORD_BYTES_MAX: usize = 16 * 1024;
const VERSION_MAJOR: u8 = 3;
/// RFC 5246 §6.2.3: of TLS 1.2, as TLS 1.3 allows less.
const RECORD_PAYLOAD_BYTES_MAX: usize = RECORD_BYTES_MAX + 2048;
/// What a record has around its plain bytes, at most: header, TLS 1.2's nonce, kind, tag.
const RECORD_OVERHEAD_BYTES: usize = RECORD_HEADER_BYTES + 8 + 1 + 16;
/// What most messages of the handshake fit in.
const HANDSHAKE_BYTES: usize = 512;

#[cfg(test)]
mod tests;
