//! A client of the simulated network: it opens, speaks and hears WebSocket.

use rustls::AlertDescription;
use serde_json::{Value, json};

use super::tls::TlsClient;
use crate::{
    base::rng::Rng,
    engine::sim::{PeerId, PeerRead, SimKernel},
    proto::{
        handshake::{ClientHandshake, HandshakeError},
        ws::{
            CloseCode, Connection, Event, Input, MessageKind, OpCode, Role, close,
            deflate::{Agreed, Deflater, Inflater, Offer},
            header::{self, HEADER_BYTES_MAX, RSV1, push_masked_frame},
            mask::apply_mask,
        },
    },
};

pub(super) struct Client {
    pub(super) core: usize,
    pub(super) peer: PeerId,
    handshake: ClientHandshake,
    opening: Vec<u8>,
    ws: Option<Connection>,
    /// What it compresses and decompresses with, where that was agreed on.
    pub(super) codec: Option<Codec>,
    out: Vec<u8>,
    /// Text messages as they came.
    pub(super) texts: Vec<String>,
    pub(super) binaries: Vec<Vec<u8>>,
    pub(super) pings: usize,
    pub(super) close: Option<u16>,
    pub(super) close_reason: String,
    /// The status that refused it.
    pub(super) status: Option<u16>,
    pub(super) end: Option<PeerRead>,
    pub(super) is_gone: bool,
    pub(super) reads: bool,
    pub(super) answers: bool,
    next_id: u64,
    pub(super) tls: Option<TlsClient>,
}

/// A client's compression: of one window in each direction, kept or forgotten as was agreed on.
pub(super) struct Codec {
    pub(super) agreed: Agreed,
    deflater: Deflater,
    inflater: Inflater,
    /// Compressed messages that it got.
    pub(super) received: usize,
}

impl Codec {
    fn new(agreed: Agreed) -> Self {
        Self {
            agreed,
            deflater: Deflater::new(6, agreed.client_window_bits().max(9), 8).unwrap(),
            inflater: Inflater::new(agreed.server_window_bits()).unwrap(),
            received: 0,
        }
    }

    fn compress(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        if self.agreed.client_no_context_takeover {
            self.deflater.reset();
        }
        assert!(self.deflater.compress(payload, &mut wire, usize::MAX >> 1));
        wire
    }

    fn decompress(&mut self, wire: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        if self.agreed.server_no_context_takeover {
            self.inflater.reset();
        }
        let inflated = self.inflater.inflate(wire, &mut payload, 64 << 20);
        inflated.expect("the gateway keeps to RFC 7692");
        self.received += 1;
        payload
    }
}

impl Client {
    pub(super) fn new(
        core: usize,
        peer: PeerId,
        path: &str,
        subprotocol: &str,
        tls: Option<TlsClient>,
    ) -> Self {
        let handshake = ClientHandshake {
            host: "sim".to_owned(),
            path: path.to_owned(),
            key: *b"sixteen bytes ok",
            subprotocols: vec![subprotocol.to_owned()],
            deflate: None,
        };
        let mut out = Vec::new();
        handshake.write_request(&mut out);
        Self {
            core,
            peer,
            handshake,
            opening: Vec::new(),
            ws: None,
            codec: None,
            out,
            texts: Vec::new(),
            binaries: Vec::new(),
            pings: 0,
            close: None,
            close_reason: String::new(),
            status: None,
            end: None,
            is_gone: false,
            reads: true,
            answers: true,
            next_id: 0,
            tls,
        }
    }

    /// Asks for compression; before anything is said.
    pub(super) fn offer(&mut self, offer: Offer) {
        self.handshake.deflate = Some(offer);
        self.out.clear();
        self.handshake.write_request(&mut self.out);
    }

    /// Sends a message compressed, in fragments of at most `bytes_max` bytes.
    pub(super) fn send_compressed(&mut self, opcode: OpCode, payload: &[u8], bytes_max: usize) {
        let codec = self.codec.as_mut().expect("compression was agreed on");
        let wire = codec.compress(payload);
        self.send_wire(opcode, &wire, bytes_max);
    }

    /// Sends what is said to be compressed.
    pub(super) fn send_wire(&mut self, opcode: OpCode, wire: &[u8], bytes_max: usize) {
        let count = wire.len().div_ceil(bytes_max).max(1);
        for n in 0..count {
            let part = &wire[n * bytes_max..wire.len().min((n + 1) * bytes_max)];
            let opcode = if n == 0 { opcode } else { OpCode::Continuation };
            let mask = [n as u8, 0x92, 0x7f, self.out.len() as u8];
            let mut head = [0; HEADER_BYTES_MAX];
            let is_last = n + 1 == count;
            let len = header::encode(is_last, opcode, part.len() as u64, Some(mask), &mut head);
            head[0] |= if n == 0 { RSV1 } else { 0 };
            self.out.extend_from_slice(&head[..len]);
            let start = self.out.len();
            self.out.extend_from_slice(part);
            apply_mask(&mut self.out[start..], mask, 0);
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.ws.is_some() && self.close.is_none() && self.end.is_none() && !self.is_gone
    }

    /// Forgets what was to be written, its request too.
    pub(super) fn say_nothing(&mut self) {
        self.out.clear();
    }

    /// Has these bytes stand in front of everything that it writes, which it has not begun.
    pub(super) fn say_first(&mut self, bytes: &[u8]) {
        if let Some(tls) = &mut self.tls {
            return tls.say_first(bytes);
        }
        self.out.splice(0..0, bytes.iter().copied());
    }

    /// Adds a line to its request, behind which nothing has been queued yet.
    pub(super) fn add_field(&mut self, line: &str) {
        let end = self.out.len() - 2;
        assert_eq!(&self.out[end..], b"\r\n");
        let line = format!("{line}\r\n");
        self.out.splice(end..end, line.into_bytes());
    }

    pub(super) fn send(&mut self, opcode: OpCode, payload: &[u8]) {
        let mask = [0x11, 0x92, 0x7f, self.out.len() as u8];
        push_masked_frame(&mut self.out, opcode, payload, mask);
    }

    /// Whether it was told that its address has too many: in words, or by an alert before its handshake.
    pub(super) fn is_refused(&self) -> bool {
        let denied = Some(AlertDescription::AccessDenied);
        self.status == Some(429) || self.tls.as_ref().is_some_and(|tls| tls.alert == denied)
    }

    pub(super) fn has_more_to_say(&self) -> bool {
        !self.out.is_empty() || self.tls.as_ref().is_some_and(TlsClient::has_more_to_say)
    }

    /// Forgets the last byte of what was to be written.
    pub(super) fn cut_off_the_end(&mut self) {
        self.out.pop();
    }

    /// Takes the last byte back of what was to be written.
    pub(super) fn keep_back_the_end(&mut self) -> Vec<u8> {
        self.out.pop().into_iter().collect()
    }

    /// Adds bytes to what is to be written.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(super) fn text(&mut self, payload: &str) {
        self.send(OpCode::Text, payload.as_bytes());
    }

    /// Sends a command under a new id, and says which.
    pub(super) fn command(&mut self, command: Value) -> String {
        let command = self.numbered(command);
        self.text(&command.to_string());
        command["id"].as_str().unwrap().to_owned()
    }

    /// Gives a command an id.
    pub(super) fn numbered(&mut self, mut command: Value) -> Value {
        self.next_id += 1;
        command["id"] = json!(format!("{}", self.next_id));
        command
    }

    pub(super) fn begin_close(&mut self) {
        let payload = close::payload(CloseCode::NORMAL, "");
        self.send(OpCode::Close, &payload);
    }

    /// The messages, read.
    pub(super) fn messages(&self) -> Vec<Value> {
        let read = |text: &String| serde_json::from_str(text).unwrap();
        self.texts.iter().map(read).collect()
    }

    pub(super) fn is_raw(&self) -> bool {
        self.handshake.subprotocols == ["tidegate.v1.raw"]
    }

    /// Its public name, once it knows that; raw clients never do.
    pub(super) fn id(&self) -> Option<String> {
        if self.is_raw() {
            return None;
        }
        let first: Value = serde_json::from_str(self.texts.first()?).unwrap();
        assert_eq!(first["type"], "connected");
        Some(first["client"].as_str().unwrap().to_owned())
    }

    /// The answer to a command.
    pub(super) fn answer(&self, id: &str) -> Option<Value> {
        let needle = format!("\"id\":\"{id}\"");
        let of_id = |text: &&String| {
            let is_answer =
                text.starts_with("{\"type\":\"ok\"") || text.starts_with("{\"type\":\"error\"");
            is_answer && text.contains(&needle)
        };
        let mut found = self.texts.iter().filter(of_id);
        let answer = found.next()?;
        assert!(found.next().is_none(), "answered twice: {id}");
        Some(serde_json::from_str(answer).unwrap())
    }

    /// Writes and reads what it can; whether anything happened.
    pub(super) fn pump(&mut self, kernel: &mut SimKernel, rng: &mut Rng) -> bool {
        if self.is_gone {
            return false;
        }
        let mut busy = false;
        if !self.out.is_empty() && (self.ws.is_some() || self.opening.is_empty()) {
            if let Some(tls) = &mut self.tls {
                tls.say(&mut self.out);
            } else {
                match kernel.peer_write(self.peer, &self.out) {
                    Ok(n) => {
                        busy |= n > 0;
                        self.out.drain(..n);
                    }
                    Err(_) => self.out.clear(),
                }
            }
        }
        if let Some(tls) = &mut self.tls {
            busy |= tls.write(kernel, self.peer);
        }
        if !self.reads || self.end.is_some() {
            return busy;
        }
        let mut bytes = Vec::new();
        let max = if rng.one_in(3) {
            1 + rng.below(2000) as usize
        } else {
            usize::MAX
        };
        match kernel.peer_read(self.peer, &mut bytes, max) {
            PeerRead::Data(_) => {
                if let Some(tls) = &mut self.tls {
                    bytes = tls.read(&bytes);
                }
                self.on_bytes(bytes);
                busy = true;
            }
            PeerRead::Empty => {}
            end => {
                self.end = Some(end);
                kernel.peer_close(self.peer);
                busy = true;
            }
        }
        busy
    }

    fn on_bytes(&mut self, bytes: Vec<u8>) {
        let mut bytes = bytes;
        if self.status.is_some() || bytes.is_empty() {
            return;
        }
        if self.ws.is_none() {
            self.opening.extend_from_slice(&bytes);
            match self.handshake.validate_response(&self.opening) {
                Ok(None) => return,
                Ok(Some(accepted)) => {
                    bytes = self.opening.split_off(accepted.head_len);
                    let mut ws = Connection::new(Role::Client, 16 << 20);
                    ws.set_deflate(accepted.deflate.is_some());
                    self.codec = accepted.deflate.map(Codec::new);
                    self.ws = Some(ws);
                }
                Err(HandshakeError::Refused(status)) => {
                    self.status = Some(status);
                    return;
                }
                Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&self.opening)),
            }
        }
        let mut ws = self.ws.take().unwrap();
        let mut input = Input::new(&mut bytes);
        while let Some(event) = ws
            .poll_event(&mut input)
            .expect("the gateway keeps to RFC 6455")
        {
            match event {
                Event::Message(message) => {
                    self.on_message(message.kind(), message.payload().to_vec());
                }
                Event::Compressed(message) => {
                    let codec = self.codec.as_mut().expect("compression was agreed on");
                    let payload = codec.decompress(message.payload());
                    self.on_message(message.kind(), payload);
                }
                Event::Part(part) => panic!("{part:?}: this client does not relay"),
                Event::Ping(payload) => {
                    self.pings += 1;
                    if self.answers {
                        let payload = payload.to_vec();
                        self.send(OpCode::Pong, &payload);
                    }
                }
                Event::Pong(_) => {}
                Event::Close(frame) => {
                    self.close = Some(frame.code.map_or(1005, |code| code.0));
                    self.close_reason = frame.reason.to_owned();
                    if self.answers {
                        self.begin_close();
                    }
                }
            }
        }
        self.ws = Some(ws);
    }

    fn on_message(&mut self, kind: MessageKind, payload: Vec<u8>) {
        match kind {
            MessageKind::Text => self.texts.push(String::from_utf8(payload).unwrap()),
            MessageKind::Binary => self.binaries.push(payload),
        }
    }
}
