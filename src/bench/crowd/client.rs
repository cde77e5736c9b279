//! One connection of the crowd, from its request to its end, and all of them by number.

use std::{fmt, net::TcpStream, os::fd::AsFd};

use memchr::memmem;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Load, wake::Wake};
use crate::{
    base::segments::{Segment, SendBatch},
    bench::{
        BenchError,
        args::Settings,
        frames::MASK,
        inflated::Inflated,
        reader::{Part, Piece, Reader},
        target::Target,
        template::Template,
        tls::{Channel, Tls},
    },
    engine::{ConnKey, Engine},
    proto::{
        handshake::ClientHandshake,
        ws::{OpCode, close, header::push_masked_frame},
    },
};

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// The code of the server's close frame, if one came.
    pub(crate) code: Option<u16>,
    /// The system's error number, if it was an error.
    pub(crate) errno: Option<i32>,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.errno) {
            (Some(NO_CODE), _) => f.write_str("the server closed it without a code"),
            (Some(code), _) => write!(f, "the server closed it with code {code}"),
            (None, Some(BREACH)) => f.write_str("the server broke the protocol"),
            (None, Some(errno)) => write!(f, "{}", std::io::Error::from_raw_os_error(errno)),
            (None, None) => f.write_str("the server ended it without a close frame"),
        }
    }
}

/// RFC 6455 §7.1.5: no code was given.
const NO_CODE: u16 = 1005;
/// Stands for a breach of the protocol.
pub(super) const BREACH: i32 = libc::EPROTO;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Upgrading,
    Joining,
    Ready,
    Ended,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) key: ConnKey,
    pub(super) stage: Stage,
    /// What is said goes through it, if the connection is TLS.
    pub(super) channel: Option<Box<Channel>>,
    reader: Reader,
    /// A response, an answer or a compressed message that has not come whole.
    pub(super) carry: Vec<u8>,
    /// To be sent before the next message.
    pub(super) control: Vec<u8>,
    pub(super) is_sending: bool,
    /// The last segment of the send in flight is the load's.
    is_lent: bool,
    is_pinged: bool,
    /// A second handle, to look how a connection is that is not read.
    watch: Option<TcpStream>,
}

/// All connections of a crowd.
pub(super) struct Clients {
    pub(super) list: Vec<Client>,
    /// The connection in each of the engine's slots.
    by_slot: Vec<u32>,
    pub(super) wake: Wake,
    pub(super) ready: u32,
    /// Connections that answered the last ping.
    pub(super) alive: u32,
    ended: u32,
    pub(super) pings: u64,
    /// Why a connection could not be made ready.
    pub(super) failure: Option<BenchError>,
    /// All are ready; who ends now is a fault of the load's.
    pub(super) is_loaded: bool,
    /// Ended, and to be closed.
    pub(super) gone: Vec<ConnKey>,
    /// Batches whose send is over, for the next: one a connection at most.
    #[allow(
        clippy::vec_box,
        reason = "the engine takes the box as it is: making one is what this saves"
    )]
    pub(super) spare_batches: Vec<Box<SendBatch>>,
    /// Buffers for what is encrypted: one a connection at most.
    pub(super) spare_bufs: Vec<Vec<u8>>,
    pub(super) tls: Option<Tls>,
    handshake: ClientHandshake,
    target: Target,
    /// A response that was found to be right.
    accepted: Vec<u8>,
    pub(super) deflate: bool,
    /// Inflates what comes compressed.
    pub(super) inflated: Option<Box<Inflated>>,
    pub(super) message_bytes_max: usize,
    join: Option<Template>,
    joined: Option<String>,
    refusal: Option<String>,
    join_opcode: OpCode,
    rooms: u32,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients")
            .field("ready", &self.ready)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Clients {
    pub(super) fn new(settings: &Settings, tls: Option<Tls>) -> Self {
        let subprotocol = settings.subprotocol.as_deref();
        Self {
            list: Vec::with_capacity(settings.connections as usize),
            by_slot: Vec::with_capacity(settings.connections as usize),
            wake: Wake::default(),
            ready: 0,
            alive: 0,
            ended: 0,
            pings: 0,
            failure: None,
            is_loaded: false,
            spare_batches: Vec::new(),
            spare_bufs: Vec::new(),
            tls,
            gone: Vec::new(),
            handshake: settings
                .target
                .handshake(KEY, subprotocol, settings.deflate, 0, 0),
            target: settings.target.clone(),
            accepted: Vec::new(),
            deflate: settings.deflate,
            inflated: None,
            message_bytes_max: settings.message_bytes_max(),
            join: settings.join.clone(),
            joined: settings.joined.clone(),
            refusal: settings.refusal.clone(),
            join_opcode: if settings.join_is_text {
                OpCode::Text
            } else {
                OpCode::Binary
            },
            rooms: settings.rooms,
        }
    }

    /// Connections that were begun.
    pub(super) fn len(&self) -> u32 {
        self.list.len() as u32
    }

    /// Those that have not ended.
    pub(super) fn living(&self) -> u32 {
        self.len() - self.ended
    }

    pub(super) fn key(&self, conn: u32) -> ConnKey {
        self.list[conn as usize].key
    }

    /// The connection with this key, unless it is gone.
    #[inline]
    pub(super) fn at(&self, key: ConnKey) -> Option<u32> {
        let conn = *self.by_slot.get(key.index as usize)?;
        let client = self.list.get(conn as usize)?;
        (client.key == key && client.stage != Stage::Ended).then_some(conn)
    }

    /// Takes up a connection and writes its request.
    pub(super) fn add(
        &mut self,
        key: ConnKey,
        watch: Option<TcpStream>,
        channel: Option<Box<Channel>>,
        settings: &Settings,
    ) {
        let conn = self.len();
        let mut control = Vec::new();
        if self.target.is_constant() {
            self.handshake.write_request(&mut control);
        } else {
            let subprotocol = settings.subprotocol.as_deref();
            let room = settings.room_of(conn);
            let deflate = settings.deflate;
            let handshake = self.target.handshake(KEY, subprotocol, deflate, conn, room);
            handshake.write_request(&mut control);
        }
        let index = key.index as usize;
        if self.by_slot.len() <= index {
            self.by_slot.resize(index + 1, u32::MAX);
        }
        self.by_slot[index] = conn;
        self.wake.grow();
        self.list.push(Client {
            key,
            stage: Stage::Upgrading,
            channel,
            reader: Reader::default(),
            carry: Vec::new(),
            control,
            is_sending: false,
            is_lent: false,
            is_pinged: false,
            watch,
        });
    }

    /// Handles what the server said.
    #[inline]
    pub(super) fn on_bytes<L: Load>(&mut self, conn: u32, bytes: &[u8], load: &mut L, now: u64) {
        let mut rest = bytes;
        if self.list[conn as usize].stage == Stage::Upgrading {
            match self.on_response(conn, bytes) {
                Some(length) => rest = &bytes[length..],
                None => return,
            }
        }
        loop {
            let client = &mut self.list[conn as usize];
            match client.reader.next(&mut rest) {
                Ok(Some(Piece::Part(part))) if part.is_compressed => {
                    if !self.on_compressed(conn, &part, load, now) {
                        return;
                    }
                }
                Ok(Some(Piece::Part(part))) => self.on_part(conn, &part, load, now),
                Ok(Some(Piece::Control(opcode, payload))) => {
                    if !self.on_control(conn, opcode, &payload, load, now) {
                        return;
                    }
                }
                Ok(None) => return,
                Err(breach) => return self.on_breach(conn, &breach, load, now),
            }
        }
    }

    #[inline]
    pub(super) fn on_part<L: Load>(&mut self, conn: u32, part: &Part<'_>, load: &mut L, now: u64) {
        if self.list[conn as usize].stage == Stage::Ready {
            load.on_part(conn, part, now, &mut self.wake);
        } else {
            self.on_answer(conn, part);
        }
    }

    /// Ends a connection whose server broke the protocol.
    pub(super) fn on_breach<L: Load>(
        &mut self,
        conn: u32,
        breach: &dyn fmt::Display,
        load: &mut L,
        now: u64,
    ) {
        if !self.is_loaded {
            self.fail(conn, breach.to_string());
        }
        let errno = Some(BREACH);
        self.end(conn, End { code: None, errno }, load, now);
    }

    /// Reads the server's response; gives how many of `bytes` it took once it is complete.
    fn on_response(&mut self, conn: u32, bytes: &[u8]) -> Option<usize> {
        let client = &mut self.list[conn as usize];
        let before = client.carry.len();
        let is_known =
            before == 0 && !self.accepted.is_empty() && bytes.starts_with(&self.accepted);
        let length = if is_known {
            self.accepted.len()
        } else {
            client.carry.extend_from_slice(bytes);
            match self.handshake.validate_response(&client.carry) {
                Ok(Some(accepted)) => {
                    if self.deflate && accepted.deflate.is_none() {
                        self.failure = Some(BenchError::NoDeflate { conn });
                        return None;
                    }
                    self.accepted = client.carry[..accepted.head_len].to_vec();
                    accepted.head_len
                }
                Ok(None) => return None,
                Err(error) => {
                    self.failure = Some(BenchError::Upgrade { conn, error });
                    return None;
                }
            }
        };
        client.carry = Vec::new();
        if self.deflate {
            client.reader.set_compressible();
        }
        match &self.join {
            Some(join) => {
                let text = join.render_text(conn, conn % self.rooms);
                push_masked_frame(&mut client.control, self.join_opcode, text.as_bytes(), MASK);
                client.stage = Stage::Joining;
                self.wake.wake(conn);
            }
            None => {
                client.stage = Stage::Ready;
                self.ready += 1;
            }
        }
        Some(length - before)
    }

    /// Reads what comes after the join.
    fn on_answer(&mut self, conn: u32, part: &Part<'_>) {
        let client = &mut self.list[conn as usize];
        client.carry.extend_from_slice(part.bytes);
        if client.carry.len() > ANSWER_BYTES_MAX {
            return self.fail(conn, "the answer to --join does not end".to_owned());
        }
        if !part.is_last {
            return;
        }
        let answer = std::mem::take(&mut client.carry);
        let contains = |text: &String| memmem::find(&answer, text.as_bytes()).is_some();
        if self.refusal.as_ref().is_some_and(contains) {
            let answer = String::from_utf8_lossy(&answer).into_owned();
            return self.fail(conn, format!("the server answered {answer}"));
        }
        if self.joined.as_ref().is_none_or(contains) {
            client.stage = Stage::Ready;
            self.ready += 1;
        }
    }

    /// Handles a control frame; false if the connection has ended by it.
    fn on_control<L: Load>(
        &mut self,
        conn: u32,
        opcode: OpCode,
        payload: &[u8],
        load: &mut L,
        now: u64,
    ) -> bool {
        let client = &mut self.list[conn as usize];
        match opcode {
            OpCode::Ping => {
                self.pings += 1;
                if client.control.len() < CONTROL_BYTES_MAX {
                    push_masked_frame(&mut client.control, OpCode::Pong, payload, MASK);
                    self.wake.wake(conn);
                }
            }
            OpCode::Pong if client.is_pinged && payload == conn.to_be_bytes() => {
                client.is_pinged = false;
                self.alive += 1;
            }
            OpCode::Close => {
                let code = close::parse(payload).ok().and_then(|frame| frame.code);
                let code = Some(code.map_or(NO_CODE, |code| code.0));
                self.end(conn, End { code, errno: None }, load, now);
                return false;
            }
            _ => {}
        }
        true
    }

    /// Asks whether the connection lives.
    pub(super) fn ping(&mut self, conn: u32) {
        let client = &mut self.list[conn as usize];
        if client.stage == Stage::Ready {
            let payload = conn.to_be_bytes();
            push_masked_frame(&mut client.control, OpCode::Ping, &payload, MASK);
            client.is_pinged = true;
            self.wake.wake(conn);
        }
    }

    fn fail(&mut self, conn: u32, why: String) {
        self.failure.get_or_insert(BenchError::Early { conn, why });
    }

    /// Takes note of a connection's end.
    pub(super) fn end<L: Load>(&mut self, conn: u32, end: End, load: &mut L, now: u64) {
        let client = &mut self.list[conn as usize];
        let stage = std::mem::replace(&mut client.stage, Stage::Ended);
        self.gone.push(client.key);
        self.ended += 1;
        if self.is_loaded {
            load.on_ended(conn, end, now, &mut self.wake);
        } else if stage != Stage::Ended {
            let is_opening = client.channel.as_ref().is_some_and(|tls| !tls.is_open());
            let when = if is_opening {
                " in the TLS handshake"
            } else {
                ""
            };
            self.fail(conn, format!("{end}{when}"));
        }
    }

    /// Sends what there is to send.
    pub(super) fn flush<E: Engine, L: Load>(&mut self, engine: &mut E, load: &mut L, now: u64) {
        while let Some(conn) = self.wake.pop() {
            self.flush_one(engine, conn, load, now);
        }
    }

    /// Sends what a connection has to say, unless it is sending or has ended.
    #[inline]
    pub(super) fn flush_one<E: Engine, L: Load>(
        &mut self,
        engine: &mut E,
        conn: u32,
        load: &mut L,
        now: u64,
    ) {
        let client = &mut self.list[conn as usize];
        if client.is_sending || client.stage == Stage::Ended {
            return;
        }
        if client.channel.is_some() {
            return self.flush_sealed(engine, conn, load, now);
        }
        let mut batch = self.spare_batches.pop().unwrap_or_default();
        if !client.control.is_empty() {
            let buf = std::mem::take(&mut client.control);
            batch.push(Segment::Owned { buf, start: 0 });
        }
        if client.stage == Stage::Ready
            && self.is_loaded
            && let Some(frames) = load.take(conn, now)
        {
            batch.push(frames);
            client.is_lent = true;
        }
        if batch.remaining() > 0 {
            client.is_sending = true;
            engine.send(client.key, batch);
        } else {
            self.spare_batches.push(batch);
        }
    }

    /// A send is over.
    #[inline]
    pub(super) fn on_sent<L: Load>(&mut self, conn: u32, mut batch: Box<SendBatch>, load: &mut L) {
        let client = &mut self.list[conn as usize];
        client.is_sending = false;
        let is_lent = std::mem::take(&mut client.is_lent);
        let is_sealed = client.channel.is_some();
        match batch.drain().last() {
            Some(Segment::Owned { buf, .. }) if is_lent => load.give_back(conn, buf),
            Some(Segment::Owned { buf, .. }) if is_sealed => self.keep_buf(buf),
            _ => {}
        }
        self.spare_batches.push(batch);
        self.wake.wake(conn);
    }

    /// Whether the server's end of a connection that is not read is over.
    pub(super) fn is_cut(&self, conn: u32) -> bool {
        let Some(watch) = &self.list[conn as usize].watch else {
            return false;
        };
        let ended = PollFlags::from_bits_retain(libc::POLLRDHUP);
        let over = ended | PollFlags::POLLHUP | PollFlags::POLLERR;
        let mut fds = [PollFd::new(watch.as_fd(), over)];
        let found = poll(&mut fds, PollTimeout::ZERO);
        found.is_ok_and(|count| count > 0)
            && fds[0]
                .revents()
                .is_some_and(|events| events.intersects(over))
    }
}

/// The same for all: a server can't tell, and one response is as good as another.
pub(crate) const KEY: [u8; 16] = *b"tidegate bench  ";
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Bytes of answers to pings that wait for a send.
const CONTROL_BYTES_MAX: usize = 4096;
