//! Every message comes back: whole, unchanged, once and in order.

use crate::{base::segments::Segment, proto::ws::OpCode};

use super::{
    BenchError,
    args::Settings,
    crowd::{End, Load, Wake},
    expect::{Comparison, Expect},
    frames::Frames,
    order::{Arrival, Order},
    publisher::Publisher,
    reader::Part,
    run::Loaded,
    schedule::Schedule,
    tally::Tally,
};

/// Connections that await echoes.
#[derive(Debug)]
pub(crate) struct Echo {
    list: Vec<Echoed>,
    opcode: OpCode,
    tally: Tally,
    schedule: Option<Schedule>,
    /// Messages of all connections that are due.
    due: u64,
    ends: Vec<(u32, End)>,
}

#[derive(Debug)]
struct Echoed {
    publisher: Publisher,
    order: Order,
    expect: Expect,
    comparison: Comparison,
}

impl Echo {
    /// One for each connection.
    pub(crate) fn new(settings: &Settings) -> Result<Self, BenchError> {
        let schedule = settings.schedule(settings.connections);
        let kind = settings.kind();
        let mut list = Vec::with_capacity(settings.connections as usize);
        // Often all connections expect the same but for the tag, and then share it.
        let mut shared: Option<(Vec<u8>, Expect)> = None;
        for conn in 0..settings.connections {
            let message = kind.render(conn, settings.room_of(conn), conn);
            let mut plain = message.bytes.clone();
            if let Some(at) = message.payload_at {
                plain[at..at + super::tag::TAG_BYTES].fill(b'0');
            }
            let expect = match &shared {
                Some((bytes, expect)) if *bytes == plain => expect.clone(),
                _ => {
                    let expect = Expect::new(&message);
                    shared = Some((plain, expect.clone()));
                    expect
                }
            };
            let window = settings.window(message.bytes.len());
            let frames = Frames::new(&message, kind.opcode, settings.run_of(&message));
            list.push(Echoed {
                publisher: match schedule {
                    Some(schedule) => Publisher::open(frames, window, schedule, conn),
                    None => Publisher::closed(frames, window),
                },
                order: Order::default(),
                expect,
                comparison: Comparison::new(),
            });
        }
        Ok(Self {
            list,
            opcode: kind.opcode,
            tally: Tally::new(schedule.is_some())?,
            schedule,
            due: 0,
            ends: Vec::new(),
        })
    }

    #[inline]
    fn on_echo(&mut self, conn: u32, now: u64) {
        let echoed = &mut self.list[conn as usize];
        let (tag, is_right) = echoed.expect.conclude(&echoed.comparison);
        let sent = echoed.publisher.sent();
        let number = tag.filter(|tag| tag.origin == conn).map(|tag| tag.number);
        let faults = &mut self.tally.faults;
        let taken = match number {
            Some(number) => match echoed.order.take(number, sent) {
                Arrival::InOrder | Arrival::Ahead => Some(number),
                Arrival::Late => {
                    faults.reordered += 1;
                    Some(number)
                }
                Arrival::Doubled => {
                    faults.doubled += 1;
                    return;
                }
                Arrival::Unknown => {
                    faults.wrong += 1;
                    echoed.order.take_next(sent)
                }
            },
            None => {
                faults.wrong += 1;
                echoed.order.take_next(sent)
            }
        };
        let Some(taken) = taken else {
            return;
        };
        if number == Some(taken) && !is_right {
            faults.wrong += 1;
        }
        let since = echoed.publisher.time_of(taken);
        echoed.publisher.set_over(echoed.order.next(), now);
        self.tally.on_received(since, now);
    }
}

impl Load for Echo {
    #[inline]
    fn on_part(&mut self, conn: u32, part: &Part<'_>, now: u64, wake: &mut Wake) {
        let echoed = &mut self.list[conn as usize];
        if part.is_first {
            echoed.comparison.restart();
            if part.kind != self.opcode {
                echoed.comparison.spoil();
            }
        }
        echoed.expect.compare(&mut echoed.comparison, part.bytes);
        if part.is_last {
            self.on_echo(conn, now);
            wake.wake(conn);
        }
    }

    #[inline]
    fn take(&mut self, conn: u32, now: u64) -> Option<Segment> {
        let publisher = &mut self.list[conn as usize].publisher;
        let (segment, first, count) = publisher.take(now)?;
        self.tally.on_sent(count);
        if self.schedule.is_some() {
            for number in first..first + count {
                self.tally.on_late(publisher.time_of(number), now);
            }
        }
        Some(segment)
    }

    fn give_back(&mut self, conn: u32, buf: Vec<u8>) {
        self.list[conn as usize].publisher.give_back(buf);
    }

    fn on_ended(&mut self, conn: u32, end: End, _: u64, _: &mut Wake) {
        let echoed = &mut self.list[conn as usize];
        let sent = echoed.publisher.sent();
        self.tally.faults.lost += echoed.order.missing_count(sent);
        self.tally.faults.ended += 1;
        echoed.order.give_up(sent);
        echoed.publisher.end();
        self.ends.push((conn, end));
    }

    fn on_turn(&mut self, now: u64, wake: &mut Wake) {
        let Some(schedule) = self.schedule else {
            return;
        };
        let due = schedule.due_of_all(now);
        for conn in schedule.sources_between(self.due, due) {
            self.list[conn as usize].publisher.set_due(due);
            wake.wake(conn);
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

impl Loaded for Echo {
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
        for echoed in &mut self.list {
            echoed.publisher.start_at(begin);
        }
    }

    fn turn_on(&mut self, on: bool) {
        for echoed in &mut self.list {
            echoed.publisher.turn(on);
        }
    }

    fn is_idle(&self) -> bool {
        self.list.iter().all(|echoed| echoed.publisher.is_idle())
    }

    fn give_up_stalled(&mut self, now: u64, timeout_ns: u64, wake: &mut Vec<u32>) {
        for (conn, echoed) in (0..).zip(&mut self.list) {
            if echoed.publisher.is_stalled(now, timeout_ns) {
                let sent = echoed.publisher.sent();
                self.tally.faults.lost += echoed.order.missing_count(sent);
                echoed.order.give_up(sent);
                echoed.publisher.set_over(sent, now);
                wake.push(conn);
            }
        }
    }

    fn count_overdue(&mut self, now: u64) -> u64 {
        let mut count = 0;
        for echoed in &self.list {
            for number in echoed.publisher.overdue() {
                self.tally.on_overdue(echoed.publisher.time_of(number), now);
                count += 1;
            }
        }
        count
    }
}
