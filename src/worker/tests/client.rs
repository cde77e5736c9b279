//! A client of the simulated network: it opens, speaks and hears WebSocket.

use serde_json::{Value, json};

use super::tls::TlsClient;
use crate::{
    base::rng::Rng,
    engine::sim::{PeerId, PeerRead, SimKernel},
    proto::{
        handshake::{ClientHandshake, HandshakeError},
        ws::{
            CloseCode, Connection, Event, Input, MessageKind, OpCode, Role, close,
            header::push_masked_frame,
        },
    },
};

pub(super) struct Client {
    pub(super) core: usize,
    pub(super) peer: PeerId,
    handshake: ClientHandshake,
    opening: Vec<u8>,
    ws: Option<Connection>,
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

    pub(super) const fn is_open(&self) -> bool {
        self.ws.is_some() && self.close.is_none() && self.end.is_none() && !self.is_gone
    }

    /// Forgets what was to be written, its request too.
    pub(super) fn say_nothing(&mut self) {
        self.out.clear();
    }

    pub(super) fn send(&mut self, opcode: OpCode, payload: &[u8]) {
        let mask = [0x11, 0x92, 0x7f, self.out.len() as u8];
        push_masked_frame(&mut self.out, opcode, payload, mask);
    }

    pub(super) fn has_more_to_say(&self) -> bool {
        !self.out.is_empty() || self.tls.as_ref().is_some_and(TlsClient::has_more_to_say)
    }

    /// Forgets the last byte of what was to be written.
    pub(super) fn cut_off_the_end(&mut self) {
        self.out.pop();
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
                    self.ws = Some(Connection::new(Role::Client, 16 << 20));
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
                Event::Message(message) => match message.kind() {
                    MessageKind::Text => {
                        let text = std::str::from_utf8(message.payload()).unwrap();
                        self.texts.push(text.to_owned());
                    }
                    MessageKind::Binary => self.binaries.push(message.payload().to_vec()),
                },
                Event::Compressed(message) => panic!("{message:?}: nothing was agreed on"),
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
}
