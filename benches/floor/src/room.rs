//! Rooms: one log of frames that all members read, each from where it is.
//!
//! Nothing is copied for a member. One that is behind sends one run of the log, from its place to the
//! end. Once all have caught up, the log's memory goes to whichever room needs some next, so what is
//! written and sent is nearly always the same few cache lines.

use std::collections::{HashMap, VecDeque};

/// Rooms by number and by name, and memory for their logs.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    rooms: Vec<Room>,
    names: HashMap<Box<[u8]>, u32>,
    empty: Vec<u32>,
    spare: Vec<Vec<u8>>,
}

/// One room.
#[derive(Debug, Default)]
pub(crate) struct Room {
    name: Box<[u8]>,
    pub(crate) members: Vec<Member>,
    vacant: Vec<u32>,
    /// Pieces of the log, each right behind the one before.
    log: VecDeque<Segment>,
    /// Where the log ends, counted from the room's first byte.
    end: u64,
    /// Members that are sending a run of the log.
    pub(crate) delivering: u32,
    /// Members that are sending something of their own.
    pub(crate) held_up: u32,
    /// Noted for the end of the turn.
    pub(crate) is_dirty: bool,
}

/// A member's place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    /// [`VACANT`] if nobody has this place.
    pub(crate) connection: u32,
    /// Its connection has a send in flight.
    pub(crate) is_busy: bool,
    at: u64,
}

#[derive(Debug)]
struct Segment {
    begin: u64,
    /// Never grows beyond its first capacity, because sends are reading it.
    bytes: Vec<u8>,
    /// Sends in flight from it.
    readers: u32,
}

impl Segment {
    fn end(&self) -> u64 {
        self.begin + self.bytes.len() as u64
    }
}

impl Rooms {
    pub(crate) fn room(&mut self, room: u32) -> &mut Room {
        &mut self.rooms[room as usize]
    }

    /// Enters `connection` into the room of that name, at the end of its log; answers the room and
    /// the place.
    pub(crate) fn join(&mut self, name: &[u8], connection: u32) -> (u32, u32) {
        let number = match self.names.get(name) {
            Some(number) => *number,
            None => {
                let number = self.empty.pop().unwrap_or_else(|| {
                    self.rooms.push(Room::default());
                    u32::try_from(self.rooms.len() - 1).expect("invariant: fewer than connections")
                });
                self.names.insert(name.into(), number);
                self.rooms[number as usize].name = name.into();
                number
            }
        };
        let room = &mut self.rooms[number as usize];
        let member = Member {
            connection,
            is_busy: false,
            at: room.end,
        };
        let place = match room.vacant.pop() {
            Some(place) => {
                room.members[place as usize] = member;
                place
            }
            None => {
                room.members.push(member);
                room.members.len() as u32 - 1
            }
        };
        (number, place)
    }

    /// Takes out a member that has nothing in flight. The last one takes the room along.
    pub(crate) fn leave(&mut self, number: u32, place: u32) {
        let room = &mut self.rooms[number as usize];
        room.members[place as usize].connection = VACANT;
        room.members[place as usize].at = room.end;
        room.vacant.push(place);
        if room.vacant.len() == room.members.len() && !room.is_dirty {
            self.names.remove(&room.name);
            room.recycle_all(&mut self.spare);
            *room = Room::default();
            self.empty.push(number);
        }
    }

    /// Room for `len` more bytes of the log, to be filled by the caller at once.
    pub(crate) fn append(&mut self, number: u32, len: usize) -> *mut u8 {
        let room = &mut self.rooms[number as usize];
        let fits = room
            .log
            .back()
            .is_some_and(|last| last.bytes.capacity() - last.bytes.len() >= len);
        if !fits {
            let bytes = match self.spare.pop() {
                Some(bytes) if bytes.capacity() >= len => bytes,
                _ => Vec::with_capacity(len.max(SEGMENT_BYTES)),
            };
            room.log.push_back(Segment {
                begin: room.end,
                bytes,
                readers: 0,
            });
        }
        let last = room.log.back_mut().expect("invariant: there is one now");
        let begin = last.bytes.len();
        // SAFETY: `begin + len` is within the capacity, and the caller fills it before it is read.
        unsafe {
            last.bytes.set_len(begin + len);
            room.end += len as u64;
            last.bytes.as_mut_ptr().add(begin)
        }
    }

    /// Gives memory back that nobody will read any more. To be called when every member that is
    /// behind is sending.
    pub(crate) fn trim(&mut self, number: u32) {
        let room = &mut self.rooms[number as usize];
        if room.held_up > 0 {
            return;
        }
        if room.delivering == 0 {
            room.recycle_all(&mut self.spare);
        }
        while room.log.len() > 1 && room.log[0].readers == 0 {
            if let Some(segment) = room.log.pop_front() {
                recycle(segment, &mut self.spare);
            }
        }
    }
}

impl Room {
    /// What a member has to send now; it counts as sending from here on.
    #[inline]
    pub(crate) fn next_run(&mut self, place: u32) -> Option<(u32, *const [u8])> {
        let member = self.members.get_mut(place as usize)?;
        if member.is_busy || member.at == self.end || member.connection == VACANT {
            return None;
        }
        let segment = segment_at(&mut self.log, member.at);
        segment.readers += 1;
        member.is_busy = true;
        self.delivering += 1;
        let run = &segment.bytes[(member.at - segment.begin) as usize..];
        Some((member.connection, run))
    }

    /// A member has sent `len` bytes of its run. Answers whether it is behind.
    #[inline]
    pub(crate) fn on_sent(&mut self, place: u32, len: Option<usize>) -> bool {
        let member = &mut self.members[place as usize];
        segment_at(&mut self.log, member.at).readers -= 1;
        member.is_busy = false;
        self.delivering -= 1;
        match len {
            Some(len) => member.at += len as u64,
            // Its connection is broken: it needs no more.
            None => member.at = self.end,
        }
        member.at < self.end
    }

    fn recycle_all(&mut self, spare: &mut Vec<Vec<u8>>) {
        while let Some(segment) = self.log.pop_back() {
            recycle(segment, spare);
        }
    }
}

#[inline]
fn segment_at(log: &mut VecDeque<Segment>, at: u64) -> &mut Segment {
    log.iter_mut()
        .rev()
        .find(|segment| segment.begin <= at && at < segment.end())
        .expect("invariant: the log is kept from the last member's place on")
}

fn recycle(segment: Segment, spare: &mut Vec<Vec<u8>>) {
    let mut bytes = segment.bytes;
    if spare.len() < SPARE_MAX && bytes.capacity() <= 2 * SEGMENT_BYTES {
        bytes.clear();
        spare.push(bytes);
    }
}

/// Nobody's place.
pub(crate) const VACANT: u32 = u32::MAX;
/// Memory of one piece of a log, a few cache lines more than a power of two.
const SEGMENT_BYTES: usize = 64 * 1024 + 320;
const SPARE_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn append(rooms: &mut Rooms, room: u32, bytes: &[u8]) {
        let to = rooms.append(room, bytes.len());
        // SAFETY: `append` made room for so many.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    fn run(rooms: &mut Rooms, room: u32, place: u32) -> Option<Vec<u8>> {
        let (_, run) = rooms.room(room).next_run(place)?;
        // SAFETY: the log keeps what is being sent.
        Some(unsafe { (*run).to_vec() })
    }

    #[test]
    fn a_member_that_is_behind_sends_one_run() {
        let mut rooms = Rooms::default();
        let (room, fast) = rooms.join(b"a", 1);
        let (same, slow) = rooms.join(b"a", 2);
        assert_eq!(room, same);
        append(&mut rooms, room, b"one");
        assert_eq!(run(&mut rooms, room, fast).expect("a run"), b"one");
        assert_eq!(run(&mut rooms, room, slow).expect("a run"), b"one");
        append(&mut rooms, room, b"two");
        append(&mut rooms, room, b"three");
        assert!(run(&mut rooms, room, fast).is_none(), "one at a time");
        assert!(rooms.room(room).on_sent(fast, Some(3)));
        assert_eq!(run(&mut rooms, room, fast).expect("a run"), b"twothree");
        assert!(!rooms.room(room).on_sent(fast, Some(8)));
        assert!(rooms.room(room).on_sent(slow, Some(1)));
        assert_eq!(run(&mut rooms, room, slow).expect("a run"), b"netwothree");
        assert!(!rooms.room(room).on_sent(slow, Some(10)));
        rooms.trim(room);
        assert!(rooms.room(room).log.is_empty());
        assert_eq!(rooms.spare.len(), 1);
        // Who joins now hears what comes now.
        let (_, late) = rooms.join(b"a", 3);
        append(&mut rooms, room, b"four");
        assert_eq!(run(&mut rooms, room, late).expect("a run"), b"four");
    }

    #[test]
    fn pieces_that_all_have_read_are_given_back() {
        let mut rooms = Rooms::default();
        let (room, fast) = rooms.join(b"a", 1);
        let (_, slow) = rooms.join(b"a", 2);
        let big = vec![7; SEGMENT_BYTES - 10];
        append(&mut rooms, room, &big);
        assert_eq!(run(&mut rooms, room, slow).expect("a run").len(), big.len());
        for _ in 0..3 {
            append(&mut rooms, room, &big);
            while run(&mut rooms, room, fast).is_some() {
                rooms.room(room).on_sent(fast, Some(big.len()));
            }
            rooms.trim(room);
        }
        assert_eq!(rooms.room(room).log.len(), 4, "one is still reading");
        assert!(rooms.room(room).on_sent(slow, Some(big.len())));
        assert!(run(&mut rooms, room, slow).is_some());
        rooms.trim(room);
        assert_eq!(rooms.room(room).log.len(), 3);
    }

    #[test]
    fn the_last_member_takes_the_room_along() {
        let mut rooms = Rooms::default();
        let (room, one) = rooms.join(b"a", 1);
        let (_, two) = rooms.join(b"a", 2);
        append(&mut rooms, room, b"bytes");
        assert!(run(&mut rooms, room, two).is_some());
        rooms.leave(room, one);
        rooms.room(room).on_sent(two, None);
        rooms.leave(room, two);
        assert!(rooms.names.is_empty());
        let (other, place) = rooms.join(b"b", 3);
        assert_eq!((other, place), (room, 0));
    }
}
