//! An echo that compresses, by stored blocks alone (RFC 1951 §3.2.4), so that nothing of the
//! project's own is in it; and does wrong on purpose.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use tungstenite::handshake::derive_accept_key;

/// What it does, with one message of its first connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quirk {
    None,
    /// Every other message is not compressed.
    Mixed,
    /// Compressed messages come in fragments, with a ping between them.
    Fragments,
    /// Another answer to the offer.
    Answers(&'static str),
    /// A block of the kind that there is not.
    Corrupt,
    /// The message ends within a block.
    Cut,
    /// Changes the last byte.
    Changed,
    /// More than anything that was sent, by far.
    TooLong,
    /// A compressed ping.
    CompressedPing,
    /// The second fragment says that it is compressed, too.
    CompressedFragment,
}

/// The message that is not as it should be.
const ODD: u64 = 20;

/// Echoes, but for `quirk`. Its threads end with their connections.
pub(crate) fn compressing_server(quirk: Quirk) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for (n, stream) in listener.incoming().flatten().enumerate() {
            let is_for_all = matches!(quirk, Quirk::Mixed | Quirk::Fragments | Quirk::Answers(_));
            let quirk = if n == 0 || is_for_all {
                quirk
            } else {
                Quirk::None
            };
            thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                // Whatever ends it: the client's figures are what counts.
                let _ = serve(stream, quirk);
            });
        }
    });
    addr
}

fn serve(mut stream: TcpStream, quirk: Quirk) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let value = |name: &str| {
        let line = head.lines().find(|line| line.starts_with(name));
        line.map(|line| line[name.len()..].trim().to_owned())
    };
    let key = value("Sec-WebSocket-Key:").expect("a key");
    assert_eq!(
        value("Sec-WebSocket-Extensions:").as_deref(),
        Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover")
    );
    let answer = match quirk {
        Quirk::Answers(answer) => answer,
        _ => "permessage-deflate; server_no_context_takeover",
    };
    let accept = derive_accept_key(key.as_bytes());
    let extensions = match answer {
        "" => String::new(),
        _ => format!("Sec-WebSocket-Extensions: {answer}\r\n"),
    };
    write!(
        stream,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{extensions}\r\n"
    )?;
    for number in 0.. {
        let (kind, message) = receive(&mut stream)?;
        let mut wire = deflate(&message);
        match quirk {
            Quirk::Mixed if number % 2 == 1 => send(&mut stream, FIN | kind, &message)?,
            Quirk::Fragments => {
                let (front, back) = wire.split_at(wire.len() / 2);
                send(&mut stream, RSV1 | kind, front)?;
                send(&mut stream, FIN | PING, b"?")?;
                send(&mut stream, FIN, back)?;
            }
            _ if number != ODD => send(&mut stream, FIN | RSV1 | kind, &wire)?,
            Quirk::Corrupt => {
                wire[0] = 0b110;
                send(&mut stream, FIN | RSV1 | kind, &wire)?;
            }
            Quirk::Cut => send(&mut stream, FIN | RSV1 | kind, &wire[..wire.len() / 2])?,
            Quirk::Changed => {
                let at = wire.len() - 2;
                wire[at] ^= 1;
                send(&mut stream, FIN | RSV1 | kind, &wire)?;
            }
            Quirk::TooLong => {
                let wire = deflate(&vec![b'x'; 100_000]);
                send(&mut stream, FIN | RSV1 | kind, &wire)?;
            }
            Quirk::CompressedPing => send(&mut stream, FIN | RSV1 | PING, &deflate(b"?"))?,
            Quirk::CompressedFragment => {
                let (front, back) = wire.split_at(wire.len() / 2);
                send(&mut stream, RSV1 | kind, front)?;
                send(&mut stream, FIN | RSV1, back)?;
            }
            Quirk::None | Quirk::Mixed | Quirk::Answers(_) => {
                send(&mut stream, FIN | RSV1 | kind, &wire)?;
            }
        }
    }
    Ok(())
}

/// Stored blocks, and the first byte of the empty one whose rest is left out (RFC 7692 §7.2.1).
fn deflate(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for block in message.chunks(0xFFFF) {
        let len = block.len() as u16;
        wire.push(0);
        wire.extend_from_slice(&len.to_le_bytes());
        wire.extend_from_slice(&(!len).to_le_bytes());
        wire.extend_from_slice(block);
    }
    wire.push(0);
    wire
}

/// The next message of the client, which sends each in one frame.
fn receive(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head)?;
        assert_eq!(head[0] & 0x70, 0, "it sends nothing compressed");
        let mut len = u64::from(head[1] & 0x7F);
        if len >= 126 {
            let mut long = [0; 8];
            let bytes = if len == 126 { 2 } else { 8 };
            stream.read_exact(&mut long[8 - bytes..])?;
            len = u64::from_be_bytes(long);
        }
        let mut mask = [0; 4];
        stream.read_exact(&mut mask)?;
        let mut payload = vec![0; len as usize];
        stream.read_exact(&mut payload)?;
        for (n, byte) in payload.iter_mut().enumerate() {
            *byte ^= mask[n % 4];
        }
        if head[0] & 0x8 == 0 {
            return Ok((head[0] & 0xF, payload));
        }
    }
}

fn send(stream: &mut TcpStream, first: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(len as u8),
        len @ 126..0x1_0000 => {
            frame.push(126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    stream.write_all(&frame)
}

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const PING: u8 = 0x9;
