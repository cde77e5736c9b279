//! One who sends numbered messages: a connection that awaits echoes, or a room's publisher.

use crate::base::segments::Segment;

use super::{frames::Frames, schedule::Schedule};

/// What decides when the next message goes.
#[derive(Debug)]
enum Pace {
    /// As soon as an earlier one is over.
    Closed {
        /// When each message of the window was sent.
        sent_at: Box<[u64]>,
        is_on: bool,
    },
    /// When it is due.
    Open {
        schedule: Schedule,
        source: u32,
        /// Messages that are due.
        due: u64,
    },
}

/// A sender's numbers and frames.
#[derive(Debug)]
pub(crate) struct Publisher {
    frames: Frames,
    /// Messages that are on their way at most.
    window: u64,
    /// Messages sent so far.
    sent: u64,
    /// Messages that are over, all of them up to the first that is not.
    over: u64,
    pace: Pace,
    /// When one of its messages was last sent after none was awaited, or over.
    progress_at: u64,
    has_ended: bool,
}

impl Publisher {
    /// One that keeps `window` messages on their way, once it is turned on.
    pub(crate) fn closed(frames: Frames, window: u32) -> Self {
        let pace = Pace::Closed {
            sent_at: vec![0; window as usize].into_boxed_slice(),
            is_on: false,
        };
        Self::new(frames, window, pace)
    }

    /// One that sends by `schedule`, as `source`.
    pub(crate) fn open(frames: Frames, window: u32, schedule: Schedule, source: u32) -> Self {
        let pace = Pace::Open {
            schedule,
            source,
            due: 0,
        };
        Self::new(frames, window, pace)
    }

    fn new(frames: Frames, window: u32, pace: Pace) -> Self {
        Self {
            frames,
            window: u64::from(window),
            sent: 0,
            over: 0,
            pace,
            progress_at: 0,
            has_ended: false,
        }
    }

    /// Messages sent so far.
    #[inline]
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Messages that are over, all of them up to the first that is not.
    pub(crate) fn over(&self) -> u64 {
        self.over
    }

    /// The first `over` messages are over.
    #[inline]
    pub(crate) fn set_over(&mut self, over: u64, now: u64) {
        self.over = over;
        self.progress_at = now;
    }

    /// Whether something is on its way, and nothing has been over for `timeout_ns`.
    pub(crate) fn is_stalled(&self, now: u64, timeout_ns: u64) -> bool {
        self.over < self.sent && now.saturating_sub(self.progress_at) > timeout_ns
    }

    /// Sends nothing any more, and waits for nothing.
    pub(crate) fn end(&mut self) {
        self.over = self.sent;
        self.has_ended = true;
    }

    /// Whether nothing is on its way and nothing that is due waits to be sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.over == self.sent && self.overdue().is_empty()
    }

    /// Turns a closed loop on or off.
    pub(crate) fn turn(&mut self, on: bool) {
        if let Pace::Closed { is_on, .. } = &mut self.pace {
            *is_on = on;
        }
    }

    /// An open loop's first message is due at `begin`.
    pub(crate) fn start_at(&mut self, begin: u64) {
        if let Pace::Open { schedule, .. } = &mut self.pace {
            *schedule = schedule.starting_at(begin);
        }
    }

    /// Tells an open loop how many messages of all sources are due.
    pub(crate) fn set_due(&mut self, due_of_all: u64) {
        if let Pace::Open {
            schedule,
            source,
            due,
        } = &mut self.pace
        {
            *due = schedule.due_of(*source, due_of_all);
        }
    }

    /// When message `number` was sent, or was due in an open loop.
    #[inline]
    pub(crate) fn time_of(&self, number: u64) -> u64 {
        match &self.pace {
            Pace::Closed { sent_at, .. } => sent_at[(number % self.window) as usize],
            Pace::Open {
                schedule, source, ..
            } => schedule.due_at(*source, number),
        }
    }

    /// The numbers of messages that are due and not sent.
    pub(crate) fn overdue(&self) -> std::ops::Range<u64> {
        match &self.pace {
            Pace::Open { due, .. } if !self.has_ended => self.sent..(*due).max(self.sent),
            _ => self.sent..self.sent,
        }
    }

    /// Whether there is something to send, were the frames here.
    fn may_send(&self) -> u64 {
        if self.has_ended {
            return 0;
        }
        let free = self.window - (self.sent - self.over);
        match &self.pace {
            Pace::Closed { is_on: true, .. } => free,
            Pace::Closed { is_on: false, .. } => 0,
            Pace::Open { due, .. } => free.min(due.saturating_sub(self.sent)),
        }
    }

    /// The frames of all that may be sent now, with the number of the first and how many.
    pub(crate) fn take(&mut self, now: u64) -> Option<(Segment, u64, u64)> {
        let count = self.may_send().min(self.frames.count() as u64);
        if count == 0 || !self.frames.is_here() {
            return None;
        }
        let first = self.sent;
        let segment = self.frames.take(first, count as usize)?;
        if self.over == self.sent {
            self.progress_at = now;
        }
        self.sent += count;
        if let Pace::Closed { sent_at, .. } = &mut self.pace {
            for number in first..self.sent {
                sent_at[(number % self.window) as usize] = now;
            }
        }
        Some((segment, first, count))
    }

    /// Takes the frames back once the kernel has taken them.
    pub(crate) fn give_back(&mut self, buf: Vec<u8>) {
        self.frames.give_back(buf);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::{content::Content, frames::Kind, template::Template};

    fn frames(count: usize) -> Frames {
        let kind = Kind::new(Template::parse("{payload}"), Content::Noise, false, 20);
        Frames::new(&kind.render(0, 0, 0), kind.opcode, count)
    }

    /// Takes what may be sent, and gives the frames back: the first number and how many.
    fn send(publisher: &mut Publisher, now: u64) -> Option<(u64, u64)> {
        let (segment, first, count) = publisher.take(now)?;
        let Segment::Owned { buf, .. } = segment else {
            panic!("frames are owned");
        };
        publisher.give_back(buf);
        Some((first, count))
    }

    #[test]
    fn a_closed_loop_keeps_its_window_full() {
        let mut publisher = Publisher::closed(frames(4), 4);
        assert_eq!(send(&mut publisher, 1), None);
        publisher.turn(true);
        assert_eq!(send(&mut publisher, 10), Some((0, 4)));
        assert_eq!(send(&mut publisher, 11), None);
        publisher.set_over(2, 20);
        assert_eq!(send(&mut publisher, 21), Some((4, 2)));
        let times: Vec<u64> = (2..6).map(|n| publisher.time_of(n)).collect();
        assert_eq!(times, [10, 10, 21, 21]);
        assert!(!publisher.is_stalled(120, 100));
        assert!(publisher.is_stalled(121, 100));
        publisher.turn(false);
        publisher.set_over(6, 30);
        assert_eq!(send(&mut publisher, 31), None);
        assert!(publisher.is_idle());
    }

    #[test]
    fn frames_on_their_way_are_not_taken_again() {
        let mut publisher = Publisher::closed(frames(2), 2);
        publisher.turn(true);
        assert!(publisher.take(0).is_some());
        publisher.set_over(1, 1);
        assert!(publisher.take(2).is_none());
    }

    #[test]
    fn an_open_loop_sends_what_is_due_and_remembers_when_it_was() {
        let schedule = Schedule::new(Duration::from_secs(1), 10.0, 2);
        let mut publisher = Publisher::open(frames(2), 3, schedule, 1);
        publisher.start_at(1_000);
        let at = |nth: u64| 1_000 + nth * 100_000_000;
        assert_eq!(send(&mut publisher, at(0)), None);
        // Messages 1, 3, 5 and 7 of all are its own.
        publisher.set_due(9);
        assert_eq!(send(&mut publisher, at(8)), Some((0, 2)));
        assert_eq!(send(&mut publisher, at(8)), Some((2, 1)));
        assert_eq!(publisher.overdue(), 3..4);
        assert!(!publisher.is_idle());
        for number in 0..4 {
            assert_eq!(publisher.time_of(number), at(2 * number + 1));
        }
        publisher.set_over(3, at(9));
        assert_eq!(send(&mut publisher, at(9)), Some((3, 1)));
        publisher.end();
        assert!(publisher.is_idle() && publisher.overdue().is_empty());
        publisher.set_due(10);
        assert_eq!(send(&mut publisher, at(9)), None);
    }
}
