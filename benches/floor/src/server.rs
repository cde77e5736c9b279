//! The loop: completions in, sends out, one enter a turn.

use std::{collections::HashMap, io};

use crate::{
    connection::{Connection, NONE, Pages, Stage},
    frame::{self, Header},
    http::{self, Path},
    mask::unmask,
    out::Out,
    ring::{Buffers, Completion, Operation, Ring},
    room::Rooms,
};

/// Everything there is.
pub(crate) struct Server {
    ring: Ring,
    buffers: Buffers,
    listener: i32,
    connections: Pages,
    rooms: Rooms,
    #[allow(
        clippy::vec_box,
        reason = "the kernel reads a queued header where it stands"
    )]
    outs: Vec<Box<Out>>,
    spare_outs: Vec<u32>,
    /// Heads, and messages to rooms, that have not come whole.
    carries: HashMap<u32, Vec<u8>>,
    dirty: Vec<u32>,
    dirty_rooms: Vec<u32>,
    /// Members that are behind though their room has had its turn: room and place.
    late: Vec<(u32, u32)>,
    /// Rooms in which the last send has ended.
    settled: Vec<u32>,
    /// Receives that found no buffer, in order.
    starved: std::collections::VecDeque<u32>,
}

impl Server {
    /// Serves `listener`, at most `connections_max` connections at a time.
    pub(crate) fn new(listener: i32, connections_max: u32) -> io::Result<Self> {
        let ring = Ring::new(connections_max)?;
        let buffers = Buffers::new(&ring)?;
        Ok(Self {
            ring,
            buffers,
            listener,
            connections: Pages::default(),
            rooms: Rooms::default(),
            outs: Vec::new(),
            spare_outs: Vec::new(),
            carries: HashMap::new(),
            dirty: Vec::new(),
            dirty_rooms: Vec::new(),
            late: Vec::new(),
            settled: Vec::new(),
            starved: std::collections::VecDeque::new(),
        })
    }

    /// Runs until the ring fails.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        self.ring.accept(self.listener);
        loop {
            self.ring.submit_and_wait()?;
            while let Some(completion) = self.ring.completion() {
                self.on_completion(completion);
            }
            self.flush();
        }
    }

    #[inline]
    fn on_completion(&mut self, completion: Completion) {
        match completion.operation {
            Operation::Receive => self.on_receive(completion),
            Operation::Send => self.on_sent(completion.index, completion.result),
            Operation::Deliver => self.on_delivered(completion),
            Operation::Accept => self.on_accept(completion),
            Operation::Cancel | Operation::Close => {}
        }
    }

    fn on_accept(&mut self, completion: Completion) {
        if let Ok(index) = u32::try_from(completion.result) {
            self.connections.grow_to(index);
            *self.connections.get(index) = Connection {
                stage: Stage::Head,
                is_receiving: true,
                ..Connection::FREE
            };
            self.ring.receive(index);
        }
        if !completion.more {
            self.ring.accept(self.listener);
        }
    }

    #[inline]
    fn on_receive(&mut self, completion: Completion) {
        let index = completion.index;
        match (usize::try_from(completion.result), completion.buffer) {
            (Ok(len @ 1..), Some(buffer)) => {
                let start = self.buffers.take(buffer, len, completion.buffer_more);
                self.on_bytes(index, buffer, start, len);
                self.buffers.release(buffer);
                if !completion.more {
                    self.receive_again(index);
                }
            }
            (result, buffer) => {
                if let Some(buffer) = buffer {
                    self.buffers.take(buffer, 0, completion.buffer_more);
                    self.buffers.release(buffer);
                }
                if completion.more {
                    return;
                }
                let connection = self.connections.get(index);
                connection.is_receiving = false;
                if result.is_err()
                    && completion.result == -libc::ENOBUFS
                    && connection.stage != Stage::Closing
                {
                    connection.is_receiving = true;
                    self.starved.push_back(index);
                    return;
                }
                // The peer has ended, or we have. Whoever only ended its sending side still reads.
                connection.stage = Stage::Closing;
                connection.is_ending |= result.is_err() && completion.result != -libc::ECANCELED;
                self.end_if_done(index);
            }
        }
    }

    fn receive_again(&mut self, index: u32) {
        let connection = self.connections.get(index);
        if connection.stage == Stage::Closing {
            connection.is_receiving = false;
            self.end_if_done(index);
        } else {
            self.ring.receive(index);
        }
    }

    #[inline]
    fn on_bytes(&mut self, index: u32, buffer: u16, start: *mut u8, len: usize) {
        match self.connections.get(index).stage {
            Stage::Echo => self.echo(index, buffer, start, len, None),
            Stage::Room => self.publish(index, start, len),
            Stage::Head => self.on_head(index, buffer, start, len),
            Stage::Closing | Stage::Free => {}
        }
    }

    /// Turns around what lies in a receive buffer, and notes it to be sent from there.
    #[inline]
    fn echo(&mut self, index: u32, buffer: u16, start: *mut u8, len: usize, out: Option<*mut u8>) {
        let connection = self.connections.get(index);
        // SAFETY: the kernel has filled `len` bytes there, and `out` is before them.
        let turned = unsafe { connection.echo.turn_around(start, len, out) };
        if let Some(head) = turned.head {
            self.out(index).push_own(head.bytes().into());
        }
        if turned.len > 0 {
            self.buffers.hold(buffer);
            self.out(index).push(turned.begin, turned.len, buffer);
        }
        if turned.is_closed {
            self.close(index);
        }
    }

    /// Puts whole frames into the room's log.
    fn publish(&mut self, index: u32, start: *const u8, len: usize) {
        // SAFETY: the kernel has filled `len` bytes there.
        let bytes = unsafe { std::slice::from_raw_parts(start, len) };
        let Some(mut carry) = self.carries.remove(&index) else {
            let used = self.publish_whole(index, bytes);
            self.carry(index, Vec::new(), &bytes[used..]);
            return;
        };
        carry.extend_from_slice(bytes);
        let used = self.publish_whole(index, &carry);
        if used > 0 {
            carry.drain(..used);
        }
        self.carry(index, carry, &[]);
    }

    fn carry(&mut self, index: u32, mut carry: Vec<u8>, rest: &[u8]) {
        carry.extend_from_slice(rest);
        if carry.len() > CARRY_BYTES_MAX {
            self.close(index);
        } else if !carry.is_empty() {
            self.carries.insert(index, carry);
        }
    }

    /// Answers how many bytes were whole frames.
    fn publish_whole(&mut self, index: u32, bytes: &[u8]) -> usize {
        let number = self.connections.get(index).room;
        let mut at = 0;
        while self.connections.get(index).stage == Stage::Room
            && let Some((header, used)) = Header::read(&bytes[at..])
        {
            let payload = &bytes[at + used..];
            let Ok(len) = usize::try_from(header.payload) else {
                break;
            };
            if payload.len() < len {
                break;
            }
            at += used + len;
            let head = header.unmasked_bytes();
            let reply = match header.opcode() {
                frame::PONG => continue,
                frame::PING => Some(header.first & 0xF0 | frame::PONG),
                frame::CLOSE => Some(header.first),
                _ => None,
            };
            if let Some(first) = reply {
                let mut own = vec![0; head + len].into_boxed_slice();
                // SAFETY: it has room for the header and the payload, which lies in `bytes`.
                unsafe {
                    header.write_unmasked(own.as_mut_ptr(), first);
                    unmask(
                        payload.as_ptr(),
                        own.as_mut_ptr().add(head),
                        len,
                        header.key,
                    );
                }
                self.out(index).push_own(own);
                if header.opcode() == frame::CLOSE {
                    self.close(index);
                }
                continue;
            }
            let to = self.rooms.append(number, head + len);
            // SAFETY: `append` made room for the header and the payload, which lies in `bytes`.
            unsafe {
                header.write_unmasked(to, header.first);
                unmask(payload.as_ptr(), to.add(head), len, header.key);
            }
            let room = self.rooms.room(number);
            if !room.is_dirty {
                room.is_dirty = true;
                self.dirty_rooms.push(number);
            }
        }
        at
    }

    /// The request's head; what follows it in the same buffer are frames.
    fn on_head(&mut self, index: u32, buffer: u16, start: *mut u8, len: usize) {
        // SAFETY: the kernel has filled `len` bytes there.
        let bytes = unsafe { std::slice::from_raw_parts(start, len) };
        let carried = self.carries.remove(&index);
        let before = carried.as_ref().map_or(0, Vec::len);
        let joined = carried.map(|mut carry| {
            carry.extend_from_slice(bytes);
            carry
        });
        let all = joined.as_deref().unwrap_or(bytes);
        let Some(head) = http::head_bytes(all) else {
            if all.len() > http::HEAD_BYTES_MAX {
                self.close(index);
            } else {
                let all = all.to_vec();
                self.carries.insert(index, all);
            }
            return;
        };
        let request = http::parse(&all[..head]);
        if request.key.is_empty() || request.path == Path::Unknown {
            self.out(index).push_own(http::NOT_FOUND.into());
            self.close(index);
            return;
        }
        let answer = http::accept(request.key);
        // The head ends in this buffer: before, it had no end.
        let used = head - before;
        let rest = len - used;
        let connection = self.connections.get(index);
        if let Path::Room(name) = request.path {
            let (room, place) = self.rooms.join(name, index);
            connection.stage = Stage::Room;
            connection.room = room;
            connection.place = place;
            self.out(index).push_own(Box::new(answer));
            if rest > 0 {
                // SAFETY: `rest` bytes lie behind the head.
                self.publish(index, unsafe { start.add(used) }, rest);
            }
        } else {
            connection.stage = Stage::Echo;
            // SAFETY: `used` bytes lie before the head's end, `rest` behind it.
            unsafe {
                let end = start.add(used);
                let out = if used >= answer.len() {
                    let begin = end.sub(answer.len());
                    begin.copy_from_nonoverlapping(answer.as_ptr(), answer.len());
                    Some(begin)
                } else {
                    self.out(index).push_own(Box::new(answer));
                    None
                };
                self.echo(index, buffer, end, rest, out);
            }
        }
    }

    /// What `index` has to say; it gets its send at the end of the turn.
    #[inline]
    fn out(&mut self, index: u32) -> &mut Out {
        let connection = self.connections.get(index);
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(index);
        }
        if connection.waiting == NONE {
            connection.waiting = self.spare_outs.pop().unwrap_or_else(|| {
                self.outs.push(Out::new());
                self.outs.len() as u32 - 1
            });
        }
        &mut self.outs[connection.waiting as usize]
    }

    #[inline]
    fn on_sent(&mut self, index: u32, result: i32) {
        let connection = self.connections.get(index);
        let number = connection.in_flight;
        let out = &mut self.outs[number as usize];
        if let Ok(len) = usize::try_from(result) {
            if out.on_sent(len, &mut self.buffers) {
                let tag = Operation::Send.tag(0, index);
                // SAFETY: it stays in `in_flight`, where nothing touches it before the completion.
                unsafe { out.send(&mut self.ring, index, tag) };
                return;
            }
        } else {
            out.abandon(&mut self.buffers);
            connection.is_ending = true;
        }
        self.spare_outs.push(number);
        connection.in_flight = NONE;
        if connection.waiting != NONE && !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(index);
        }
        if connection.room != NONE {
            let (number, place) = (connection.room, connection.place);
            let room = self.rooms.room(number);
            room.members[place as usize].is_busy = false;
            room.held_up -= 1;
            self.late.push((number, place));
            self.settled.push(number);
        }
        self.end_if_done(index);
    }

    #[inline]
    fn on_delivered(&mut self, completion: Completion) {
        let (number, place) = (completion.room, completion.index);
        let room = self.rooms.room(number);
        let len = usize::try_from(completion.result).ok();
        if room.on_sent(place, len) {
            self.late.push((number, place));
        }
        if room.delivering == 0 {
            self.settled.push(number);
        }
        let index = room.members[place as usize].connection;
        let connection = self.connections.get(index);
        if connection.waiting != NONE && !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(index);
        }
        if connection.stage == Stage::Closing {
            self.end_if_done(index);
        }
    }

    /// Reads no more; what is waiting is still sent.
    fn close(&mut self, index: u32) {
        let connection = self.connections.get(index);
        connection.stage = Stage::Closing;
        self.end_if_done(index);
    }

    /// Closes a connection on which nothing is to be sent any more, once nothing is in flight.
    fn end_if_done(&mut self, index: u32) {
        let connection = self.connections.get(index);
        if connection.stage != Stage::Closing || connection.in_flight != NONE {
            return;
        }
        if connection.room != NONE {
            let room = self.rooms.room(connection.room);
            if room.members[connection.place as usize].is_busy {
                return;
            }
        }
        if connection.waiting != NONE {
            if !connection.is_ending {
                return;
            }
            self.outs[connection.waiting as usize].abandon(&mut self.buffers);
            self.spare_outs.push(connection.waiting);
            connection.waiting = NONE;
        }
        if connection.is_receiving {
            // Its last completion leads here again.
            self.ring.cancel_receive(index);
            return;
        }
        if connection.room != NONE {
            let (number, place) = (connection.room, connection.place);
            connection.room = NONE;
            self.rooms.leave(number, place);
        }
        self.carries.remove(&index);
        connection.stage = Stage::Free;
        self.ring.close(index);
    }

    /// The end of a turn: one send for everybody who has something to say.
    #[inline]
    fn flush(&mut self) {
        while let Some(index) = self.dirty.pop() {
            self.flush_connection(index);
        }
        while let Some(number) = self.dirty_rooms.pop() {
            let room = self.rooms.room(number);
            room.is_dirty = false;
            for place in 0..room.members.len() as u32 {
                if let Some((connection, run)) = room.next_run(place) {
                    let tag = Operation::Deliver.tag(number, place);
                    // SAFETY: the log keeps the run until the completion.
                    unsafe { self.ring.send(connection, run, tag) };
                }
            }
            self.rooms.trim(number);
        }
        while let Some((number, place)) = self.late.pop() {
            if let Some((connection, run)) = self.rooms.room(number).next_run(place) {
                let tag = Operation::Deliver.tag(number, place);
                // SAFETY: the log keeps the run until the completion.
                unsafe { self.ring.send(connection, run, tag) };
            }
        }
        while let Some(number) = self.settled.pop() {
            self.rooms.trim(number);
        }
        self.buffers.publish();
        // A receive takes several buffers, so not all are asked to try at once.
        let mut again = usize::from(self.buffers.free()).div_ceil(BUFFERS_PER_RECEIVE);
        while again > 0
            && let Some(index) = self.starved.pop_front()
        {
            again -= 1;
            self.receive_again(index);
        }
    }

    #[inline]
    fn flush_connection(&mut self, index: u32) {
        let connection = self.connections.get(index);
        connection.is_dirty = false;
        if connection.in_flight != NONE || connection.waiting == NONE {
            return;
        }
        if connection.room != NONE {
            let room = self.rooms.room(connection.room);
            let member = &mut room.members[connection.place as usize];
            if member.is_busy {
                return;
            }
            member.is_busy = true;
            room.held_up += 1;
        }
        connection.in_flight = std::mem::replace(&mut connection.waiting, NONE);
        let out = &mut self.outs[connection.in_flight as usize];
        let tag = Operation::Send.tag(0, index);
        // SAFETY: it stays in `in_flight`, where nothing touches it before the completion.
        unsafe { out.send(&mut self.ring, index, tag) };
    }
}

/// What is kept of a message to a room that has not come whole.
const CARRY_BYTES_MAX: usize = 16 * 1024 * 1024;
const BUFFERS_PER_RECEIVE: usize = 4;
