//! Every message of a room's publisher reaches every member: whole, unchanged, once and in order.

mod member;

use std::rc::Rc;

use memchr::memmem;

use crate::base::segments::Segment;

use super::{
    BenchError,
    args::Settings,
    crowd::{End, Load, Wake},
    frames::Frames,
    order::{Arrival, Order},
    publisher::Publisher,
    reader::Part,
    run::Loaded,
    schedule::Schedule,
    shape::{Found, Shape},
    tally::Tally,
};
pub(crate) use member::SlowMember;
use member::{Member, Role};

/// Rooms with their members.
#[derive(Debug)]
pub(crate) struct Fanout {
    rooms: Vec<Room>,
    members: Vec<Member>,
    tally: Tally,
    schedule: Option<Schedule>,
    /// Publishes of all rooms that are due.
    due: u64,
    ends: Vec<(u32, End)>,
    refusal: Option<memmem::Finder<'static>>,
    message_bytes_max: usize,
    /// Publishes sent in the measured time.
    pub(crate) publishes: u64,
    /// Messages that are no deliveries.
    pub(crate) others: u64,
    /// The first message that refuses something.
    pub(crate) refused: Option<String>,
}

#[derive(Debug)]
struct Room {
    publisher: Publisher,
    shape: Shape,
    /// Members that still lack each message of the window.
    lacking: Box<[u32]>,
    /// Members whose deliveries count.
    receivers: u32,
}

impl Room {
    /// One more member has message `number`; true if that ends it.
    #[inline]
    fn deliver(&mut self, number: u64, now: u64) -> bool {
        let window = self.lacking.len() as u64;
        self.lacking[(number % window) as usize] -= 1;
        let sent = self.publisher.sent();
        let before = self.publisher.over();
        let mut over = before;
        while over < sent && self.lacking[(over % window) as usize] == 0 {
            over += 1;
        }
        self.publisher.set_over(over, now);
        over > before
    }
}

impl Fanout {
    /// All rooms.
    pub(crate) fn new(settings: &Settings) -> Result<Self, BenchError> {
        let schedule = settings.schedule(settings.rooms);
        let kind = settings.kind();
        let filler: Rc<[u8]> = kind.filler.as_slice().into();
        let is_bare = settings.message.is_payload_alone() && settings.join.is_none();
        let mut rooms: Vec<Room> = (0..settings.rooms)
            .map(|room| {
                let message = kind.render(room, room, room);
                let window = settings.window(message.bytes.len());
                let frames = Frames::new(&message, kind.opcode, settings.run_of(&message));
                Room {
                    publisher: match schedule {
                        Some(schedule) => Publisher::open(frames, window, schedule, room),
                        None => Publisher::closed(frames, window),
                    },
                    shape: Shape::new(kind.lead, &filler, is_bare),
                    lacking: vec![0; window as usize].into_boxed_slice(),
                    receivers: 0,
                }
            })
            .collect();
        let members = (0..settings.connections).map(|conn| {
            let room = settings.room_of(conn);
            let role = if settings.is_slow(conn) {
                Role::Slow(SlowMember::default())
            } else if conn < settings.rooms && !settings.to_self {
                Role::Mute
            } else {
                rooms[room as usize].receivers += 1;
                Role::Receiver
            };
            Member::new(room, role)
        });
        let members = members.collect();
        let refusal = settings.refusal.as_deref();
        Ok(Self {
            members,
            rooms,
            tally: Tally::new(schedule.is_some())?,
            schedule,
            due: 0,
            ends: Vec::new(),
            refusal: refusal.map(|text| memmem::Finder::new(text).into_owned()),
            message_bytes_max: settings.message_bytes_max(),
            publishes: 0,
            others: 0,
            refused: None,
        })
    }

    /// The members that do not read, with how many deliveries each lacks.
    pub(crate) fn slow_members(&self) -> impl Iterator<Item = (&SlowMember, u64)> {
        self.members.iter().filter_map(|member| {
            let sent = self.rooms[member.room as usize].publisher.sent();
            match &member.role {
                Role::Slow(slow) => Some((slow, member.order.missing_count(sent))),
                _ => None,
            }
        })
    }

    #[inline]
    fn on_message(&mut self, conn: u32, message: &[u8], now: u64, wake: &mut Wake) {
        let member = &mut self.members[conn as usize];
        let room = &mut self.rooms[member.room as usize];
        let sent = room.publisher.sent();
        let found = room.shape.find(message, member.room);
        let faults = &mut self.tally.faults;
        let number = match found {
            Found::Other => return self.on_other(conn, message),
            Found::Payload(tag) | Found::Broken(Some(tag)) => {
                faults.wrong += u64::from(matches!(found, Found::Broken(_)));
                match member.order.take(tag.number, sent) {
                    Arrival::InOrder | Arrival::Ahead => Some(tag.number),
                    Arrival::Late => {
                        faults.reordered += 1;
                        Some(tag.number)
                    }
                    Arrival::Doubled => {
                        faults.doubled += 1;
                        None
                    }
                    Arrival::Unknown => {
                        // What was counted as broken is not counted again.
                        faults.wrong += u64::from(matches!(found, Found::Payload(_)));
                        member.order.take_next(sent)
                    }
                }
            }
            Found::Broken(None) => {
                faults.wrong += 1;
                member.order.take_next(sent)
            }
        };
        let Some(number) = number else {
            return;
        };
        match &mut member.role {
            Role::Receiver => {
                self.tally.on_received(room.publisher.time_of(number), now);
                if room.deliver(number, now) {
                    wake.wake(member.room);
                }
            }
            Role::Slow(slow) => slow.received += 1,
            Role::Mute => self.others += 1,
        }
    }

    fn on_other(&mut self, conn: u32, message: &[u8]) {
        self.others += 1;
        if let Role::Slow(slow) = &mut self.members[conn as usize].role {
            slow.on_other(message);
        }
        let is_refusal = |finder: &memmem::Finder<'_>| finder.find(message).is_some();
        if self.refused.is_none() && self.refusal.as_ref().is_some_and(is_refusal) {
            self.refused = Some(String::from_utf8_lossy(message).into_owned());
        }
    }

    /// Waits no longer for what the members of a room lack.
    fn give_up(&mut self, room: u32, now: u64) {
        let state = &mut self.rooms[room as usize];
        let sent = state.publisher.sent();
        let rooms = self.rooms.len();
        let members = self.members.iter_mut().skip(room as usize).step_by(rooms);
        for member in members.filter(|member| matches!(member.role, Role::Receiver)) {
            self.tally.faults.lost += member.order.missing_count(sent);
            member.order.give_up(sent);
        }
        let state = &mut self.rooms[room as usize];
        state.lacking.fill(0);
        state.publisher.set_over(sent, now);
    }
}

impl Load for Fanout {
    #[inline]
    fn on_part(&mut self, conn: u32, part: &Part<'_>, now: u64, wake: &mut Wake) {
        if part.is_first && part.is_last {
            return self.on_message(conn, part.bytes, now, wake);
        }
        let member = &mut self.members[conn as usize];
        if member.carry.len() + part.bytes.len() > self.message_bytes_max {
            // Longer than anything that was sent: told once, at its end.
            member.is_too_long = true;
        } else {
            member.carry.extend_from_slice(part.bytes);
        }
        if part.is_last {
            let mut message = std::mem::take(&mut member.carry);
            if std::mem::take(&mut member.is_too_long) {
                self.tally.faults.wrong += 1;
            } else {
                self.on_message(conn, &message, now, wake);
            }
            message.clear();
            self.members[conn as usize].carry = message;
        }
    }

    fn take(&mut self, conn: u32, now: u64) -> Option<Segment> {
        let room = self.rooms.get_mut(conn as usize)?;
        let (segment, first, count) = room.publisher.take(now)?;
        let window = room.lacking.len() as u64;
        for number in first..first + count {
            room.lacking[(number % window) as usize] = room.receivers;
            self.tally.on_late(room.publisher.time_of(number), now);
        }
        if self.tally.is_measuring() {
            self.publishes += count;
        }
        self.tally.on_sent(count * u64::from(room.receivers));
        Some(segment)
    }

    fn give_back(&mut self, conn: u32, buf: Vec<u8>) {
        if let Some(room) = self.rooms.get_mut(conn as usize) {
            room.publisher.give_back(buf);
        }
    }

    fn on_ended(&mut self, conn: u32, end: End, now: u64, wake: &mut Wake) {
        let member = &mut self.members[conn as usize];
        if let Role::Slow(slow) = &mut member.role {
            slow.end = Some(end);
            return;
        }
        self.tally.faults.ended += 1;
        self.ends.push((conn, end));
        let room = &mut self.rooms[member.room as usize];
        let sent = room.publisher.sent();
        if matches!(member.role, Role::Receiver) {
            room.receivers -= 1;
            for number in member.order.missing(sent).collect::<Vec<_>>() {
                self.tally.faults.lost += 1;
                room.deliver(number, now);
            }
            member.order.give_up(u64::MAX);
            if room.receivers == 0 {
                room.publisher.end();
            }
            wake.wake(member.room);
        }
        if conn < self.rooms.len() as u32 {
            self.give_up(conn, now);
            self.rooms[conn as usize].publisher.end();
        }
    }

    fn on_turn(&mut self, now: u64, wake: &mut Wake) {
        let Some(schedule) = self.schedule else {
            return;
        };
        let due = schedule.due_of_all(now);
        for room in schedule.sources_between(self.due, due) {
            self.rooms[room as usize].publisher.set_due(due);
            wake.wake(room);
        }
        self.due = due;
    }

    fn next_at(&self) -> Option<u64> {
        self.schedule
            .and_then(|schedule| schedule.next_at(self.due))
    }

    fn progress(&self) -> u64 {
        self.tally.received_in_all
    }
}

impl Loaded for Fanout {
    fn tally(&self) -> &Tally {
        &self.tally
    }

    fn tally_mut(&mut self) -> &mut Tally {
        &mut self.tally
    }

    fn ends(&self) -> &[(u32, End)] {
        &self.ends
    }

    fn start_at(&mut self, begin: u64) {
        self.schedule = self.schedule.map(|schedule| schedule.starting_at(begin));
        for room in &mut self.rooms {
            room.publisher.start_at(begin);
        }
    }

    fn turn_on(&mut self, on: bool) {
        for room in &mut self.rooms {
            room.publisher.turn(on);
        }
    }

    fn is_idle(&self) -> bool {
        self.rooms.iter().all(|room| room.publisher.is_idle())
    }

    fn give_up_stalled(&mut self, now: u64, timeout_ns: u64, wake: &mut Vec<u32>) {
        for room in 0..self.rooms.len() as u32 {
            if self.rooms[room as usize]
                .publisher
                .is_stalled(now, timeout_ns)
            {
                self.give_up(room, now);
                wake.push(room);
            }
        }
    }

    fn watch(&mut self, now: u64, is_cut: &dyn Fn(u32) -> bool) {
        for (conn, member) in (0..).zip(&mut self.members) {
            if let Role::Slow(slow) = &mut member.role
                && slow.cut_at.is_none()
                && is_cut(conn)
            {
                slow.cut_at = Some(now);
            }
        }
    }

    fn count_overdue(&mut self, now: u64) -> u64 {
        let mut count = 0;
        for room in &self.rooms {
            for number in room.publisher.overdue() {
                self.tally.on_overdue(room.publisher.time_of(number), now);
                count += 1;
            }
        }
        count
    }
}
