//! What tungstenite makes of the same stream. Where the two differ on purpose, [`may_differ`] says so;
//! `tests/proto_oracle.rs` shows that each of these differences is real.

use std::io::{self, Read, Write};

use tidegate::proto::ws::header::HEADER_BYTES_MAX;
use tidegate::proto::ws::{MessageKind, Role, WsError};
use tungstenite::protocol::{self, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

use super::{Said, Seen};

/// The two agree on the stream, or differ in a known way.
pub(super) fn compare(stream: &[u8], role: Role, limit: usize, ours: &Seen) {
    let (mut theirs, refusal) = read(stream, role, limit);
    match (&ours.error, refusal) {
        (None, None) => {
            // 1014 was registered after tungstenite's list was made, which hands out 1002 in its place.
            if let Some(close @ Said::Close(Some(1014), _)) = ours.events.last()
                && let Some(theirs @ Said::Close(Some(1002), _)) = theirs.last_mut()
            {
                theirs.clone_from(close);
            }
            assert_eq!(ours.events, theirs);
        }
        (None, Some(why)) => panic!("tungstenite refuses what is accepted here: {why}"),
        (Some(error), refusal) => {
            assert!(
                refusal.is_some() || may_differ(error, stream, role, limit),
                "tungstenite accepts what is refused here: {error}"
            );
            // Up to the error the two saw the same.
            let common = ours.events.len().min(theirs.len());
            assert_eq!(ours.events[..common], theirs[..common]);
        }
    }
}

/// Whether our error is one that tungstenite does not raise on the same stream.
fn may_differ(error: &WsError, stream: &[u8], role: Role, limit: usize) -> bool {
    match error {
        // tungstenite takes longer lengths than needed, of control frames too, and turns such codes
        // into 1002.
        WsError::NonMinimalLength | WsError::ControlTooLong | WsError::InvalidCloseCode { .. } => {
            true
        }
        // Both refuse these, unless the stream ends before tungstenite looks: then more bytes,
        // whatever they are, make it refuse as well.
        _ => {
            let mut longer = stream.to_vec();
            longer.resize(stream.len() + limit + HEADER_BYTES_MAX + 125, 0);
            read(&longer, role, limit).1.is_some()
        }
    }
}

fn read(stream: &[u8], role: Role, limit: usize) -> (Vec<Said>, Option<String>) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit));
    let role = match role {
        Role::Server => protocol::Role::Server,
        Role::Client => protocol::Role::Client,
    };
    let mut socket = WebSocket::from_raw_socket(Silent { input: stream }, role, Some(config));
    let mut out = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                out.push(Said::Message(MessageKind::Text, text.as_bytes().to_vec()));
            }
            Ok(Message::Binary(bytes)) => {
                out.push(Said::Message(MessageKind::Binary, bytes.to_vec()));
            }
            Ok(Message::Ping(bytes)) => out.push(Said::Ping(bytes.to_vec())),
            Ok(Message::Pong(bytes)) => out.push(Said::Pong(bytes.to_vec())),
            Ok(Message::Close(frame)) => {
                let code = frame.as_ref().map(|frame| frame.code.into());
                let reason = frame.map_or(String::new(), |frame| frame.reason.to_string());
                out.push(Said::Close(code, reason));
                return (out, None);
            }
            Ok(Message::Frame(_)) => unreachable!("reading never gives a raw frame"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return (out, None);
            }
            Err(error) => return (out, Some(error.to_string())),
        }
    }
}

/// A socket whose peer sent `input` and then keeps silent; what is written to it is lost.
struct Silent<'a> {
    input: &'a [u8],
}

impl Read for Silent<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buf)
    }
}

impl Write for Silent<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
