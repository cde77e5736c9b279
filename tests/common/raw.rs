//! A client that sends whatever bytes it is told to, and reads heads and frames itself.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use socket2::{Domain, Socket, Type};

use super::DEADLINE;

/// A TCP connection and what has been read of it but not consumed.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
}

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The value of a header, by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A frame as the gateway sent it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The first byte: FIN, the reserved bits and the opcode.
    pub(crate) first: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    /// Code and reason of a close frame.
    pub(crate) fn close(&self) -> Option<(u16, String)> {
        if self.opcode() != CLOSE {
            return None;
        }
        let code = self.payload.first_chunk().copied().map(u16::from_be_bytes);
        let reason = self.payload.get(2..).unwrap_or_default();
        Some((
            code.unwrap_or(NO_CODE),
            String::from_utf8_lossy(reason).into_owned(),
        ))
    }
}

impl Raw {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&addr, DEADLINE).expect("the listener accepts");
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        Self::from_stream(stream)
    }

    /// A connection whose peer is 127.0.0.`host`.
    pub(crate) fn connect_from(host: u8, addr: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let from = SocketAddr::from(([127, 0, 0, host], 0));
        socket.bind(&from.into()).expect("loopback is all ours");
        socket
            .connect_timeout(&addr.into(), DEADLINE)
            .expect("the listener accepts");
        socket
            .set_tcp_nodelay(true)
            .expect("TCP_NODELAY can be set");
        Self::from_stream(socket.into())
    }

    pub(crate) fn from_stream(stream: TcpStream) -> Self {
        stream
            .set_read_timeout(Some(DEADLINE))
            .expect("a timeout can be set");
        stream
            .set_write_timeout(Some(DEADLINE))
            .expect("a timeout can be set");
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    /// A connection that has been upgraded at `target`.
    pub(crate) fn upgraded(addr: SocketAddr, target: &str) -> Self {
        let mut raw = Self::connect(addr);
        raw.upgrade(target);
        raw
    }

    /// Upgrades at `target` and reads the 101.
    pub(crate) fn upgrade(&mut self, target: &str) {
        self.send(upgrade_request(target).as_bytes());
        let response = self.response();
        assert_eq!(response.status, 101, "{target}: {response:?}");
    }

    /// Asks for an upgrade of a gateway that may have answered and closed already.
    pub(crate) fn upgrade_or_refusal(&mut self, target: &str) {
        self.try_send(upgrade_request(target).as_bytes());
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the gateway reads");
    }

    /// Sends as much as the gateway takes: it may answer and close before it has read everything.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Reads a response with the body that its `Content-Length` announces.
    pub(crate) fn response(&mut self) -> Response {
        let end = loop {
            if let Some(at) = find(&self.unread, b"\r\n\r\n") {
                break at + 4;
            }
            assert!(
                self.fill(),
                "ended within a head: {:?}",
                String::from_utf8_lossy(&self.unread)
            );
        };
        let head: Vec<u8> = self.unread.drain(..end).collect();
        let head = String::from_utf8(head).expect("a head is ASCII");
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1.1 "))
            .and_then(|rest| rest.get(..3))
            .and_then(|status| status.parse().ok())
            .unwrap_or_else(|| panic!("not a status line: {head:?}"));
        let headers: Vec<(String, String)> = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (name, value) = line
                    .split_once(':')
                    .unwrap_or_else(|| panic!("not a header: {line:?}"));
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
        };
        if let Some(length) = response.header("content-length") {
            let length = length.parse().expect("a length is a number");
            while self.unread.len() < length && self.fill() {}
            let length = length.min(self.unread.len());
            response.body = self.unread.drain(..length).collect();
        }
        response
    }

    /// Everything up to the end of a head, or of the connection.
    pub(crate) fn head(&mut self) -> Vec<u8> {
        while find(&self.unread, b"\r\n\r\n").is_none() && self.fill() {}
        std::mem::take(&mut self.unread)
    }

    /// The next frame; `None` where the connection ended instead.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, used)) = parse_frame(&self.unread) {
                self.unread.drain(..used);
                return Some(frame);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// The next frame, which must be there.
    pub(crate) fn expect_frame(&mut self) -> Frame {
        self.frame()
            .expect("a frame, not the end of the connection")
    }

    /// The next message, put together from its fragments: its opcode and its payload.
    pub(crate) fn expect_message(&mut self) -> (u8, Vec<u8>) {
        let start = self.expect_frame();
        assert!(
            matches!(start.first & !FIN, TEXT | BINARY),
            "not the start of a message: {start:?}"
        );
        let (mut last, mut payload) = (start.first, start.payload);
        while last & FIN == 0 {
            let next = self.expect_frame();
            assert_eq!(next.first & !FIN, CONTINUATION, "{next:?}");
            last = next.first;
            payload.extend(next.payload);
        }
        (start.first & 0x0f, payload)
    }

    /// The next text message in one frame.
    pub(crate) fn expect_text(&mut self) -> String {
        let frame = self.expect_frame();
        assert_eq!(frame.first, FIN | TEXT, "{frame:?}");
        String::from_utf8(frame.payload).expect("text is UTF-8")
    }

    /// The next frame is a close with this code, and the gateway ends the connection after it.
    pub(crate) fn expect_close(&mut self, code: u16) -> String {
        let frame = self.expect_frame();
        let (got, reason) = frame
            .close()
            .unwrap_or_else(|| panic!("not a close: {frame:?}"));
        assert_eq!(got, code, "close with reason {reason:?}");
        self.expect_end();
        reason
    }

    /// As [`Raw::expect_close`], where the beginning of a message may have come back before; its payload.
    pub(crate) fn expect_close_after_parts(&mut self, code: u16) -> Vec<u8> {
        let mut payload = Vec::new();
        loop {
            let frame = self.expect_frame();
            if let Some((got, reason)) = frame.close() {
                assert_eq!(got, code, "close with reason {reason:?}");
                self.expect_end();
                return payload;
            }
            assert_eq!(frame.first & FIN, 0, "a whole message: {frame:?}");
            payload.extend(frame.payload);
        }
    }

    /// The connection ends with nothing more to read.
    pub(crate) fn expect_end(&mut self) {
        while self.fill() {}
        assert!(
            self.unread.is_empty(),
            "left over: {:?}",
            String::from_utf8_lossy(&self.unread)
        );
    }

    /// Everything up to the end of the connection.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.unread)
    }

    /// Reads some bytes; false at the end of the connection.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(n) => {
                self.unread.extend_from_slice(&chunk[..n]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing to read: {error}"),
        }
    }
}

/// A member that has read the answer to its join, and reads no more. Its small receive buffer
/// makes the kernel stop taking bytes for it early.
pub(crate) fn stopped_reader(addr: SocketAddr, room: &str) -> Raw {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket
        .set_recv_buffer_size(4 * 1024)
        .expect("a receive buffer can be small");
    socket
        .connect_timeout(&addr.into(), DEADLINE)
        .expect("the listener accepts");
    let mut raw = Raw::from_stream(socket.into());
    raw.upgrade("/ws?user=stopped");
    assert!(raw.expect_text().contains("\"connected\""));
    let join = format!(r#"{{"type":"join","room":"{room}","id":"j"}}"#);
    raw.send(&frame(FIN | TEXT, join.as_bytes()));
    assert!(raw.expect_text().contains("\"ok\""));
    raw
}

/// The upgrade request for `target`, as RFC 6455 §1.3 writes it.
pub(crate) fn upgrade_request(target: &str) -> String {
    upgrade_request_with(target, "")
}

/// The same with more header lines, each with its line end.
pub(crate) fn upgrade_request_with(target: &str, lines: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Version: 13\r\n{lines}\r\n"
    )
}

/// A masked frame: `first` is FIN, reserved bits and opcode.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64);
    bytes.extend(masked(payload));
    bytes
}

/// A frame header that announces `len` masked bytes in the shortest form.
pub(crate) fn header(first: u8, len: u64) -> Vec<u8> {
    match len {
        0..=125 => header_7(first, len as u8),
        126..=0xffff => header_16(first, len as u16),
        _ => header_64(first, len),
    }
}

/// A header with a 7-bit length, which may also be one of the two markers.
pub(crate) fn header_7(first: u8, len: u8) -> Vec<u8> {
    let mut bytes = vec![first, MASKED | len];
    bytes.extend(MASK);
    bytes
}

/// A header with a 16-bit length, whether that is the shortest form or not.
pub(crate) fn header_16(first: u8, len: u16) -> Vec<u8> {
    let mut bytes = vec![first, MASKED | 126];
    bytes.extend(len.to_be_bytes());
    bytes.extend(MASK);
    bytes
}

/// A header with a 64-bit length, whether that is the shortest form or not.
pub(crate) fn header_64(first: u8, len: u64) -> Vec<u8> {
    let mut bytes = vec![first, MASKED | 127];
    bytes.extend(len.to_be_bytes());
    bytes.extend(MASK);
    bytes
}

/// `payload` under [`MASK`], from the mask's first byte.
pub(crate) fn masked(payload: &[u8]) -> Vec<u8> {
    let mask = MASK.iter().cycle();
    payload
        .iter()
        .zip(mask)
        .map(|(byte, key)| byte ^ key)
        .collect()
}

/// A close frame's payload.
pub(crate) fn close_payload(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}

fn parse_frame(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(second & MASKED, 0, "a server doesn't mask (RFC 6455 §5.1)");
    let (len, start) = match second {
        126 => {
            let len = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
            assert!(len > 125, "the shortest length form is the only one");
            (len as usize, 4)
        }
        127 => {
            let len = u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
            assert!(len > 0xffff, "the shortest length form is the only one");
            (usize::try_from(len).expect("a frame fits in memory"), 10)
        }
        len => (len as usize, 2),
    };
    let payload = bytes.get(start..start + len)?.to_vec();
    Some((Frame { first, payload }, start + len))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

pub(crate) const FIN: u8 = 0x80;
pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xa;
pub(crate) const MASKED: u8 = 0x80;
/// Stands for the code that an empty close frame doesn't have (RFC 6455 §7.1.5).
pub(crate) const NO_CODE: u16 = 1005;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
