//! Whether numbered messages came once each and in order.

/// What a receiver has of one sender's messages.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// Every number below has come, or was given up.
    next: u64,
    /// Numbers from there on that have come, in order. Bounded by what may be in flight, or for a
    /// member that is not read by what the run sends.
    ahead: Vec<u64>,
}

/// What a number's arrival means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It was due.
    InOrder,
    /// It came before one that was sent earlier.
    Ahead,
    /// It came after one that was sent later.
    Late,
    /// It has come before.
    Doubled,
    /// Nobody has sent it.
    Unknown,
}

impl Order {
    /// The oldest number that has not come.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Takes note of `number`; numbers below `sent` have been sent.
    #[inline]
    pub(crate) fn take(&mut self, number: u64, sent: u64) -> Arrival {
        if number == self.next && number < sent && self.ahead.is_empty() {
            self.next += 1;
            return Arrival::InOrder;
        }
        self.take_out_of_order(number, sent)
    }

    fn take_out_of_order(&mut self, number: u64, sent: u64) -> Arrival {
        if number >= sent {
            return Arrival::Unknown;
        }
        if number < self.next {
            return Arrival::Doubled;
        }
        let Err(at) = self.ahead.binary_search(&number) else {
            return Arrival::Doubled;
        };
        let is_late = at < self.ahead.len();
        self.ahead.insert(at, number);
        let run = (self.next..).zip(&self.ahead);
        let run = run.take_while(|(next, number)| next == *number).count();
        self.ahead.drain(..run);
        self.next += run as u64;
        if is_late {
            Arrival::Late
        } else {
            Arrival::Ahead
        }
    }

    /// The oldest number that is due, taken as come: for a message that came in its place and
    /// does not tell its number.
    pub(crate) fn take_next(&mut self, sent: u64) -> Option<u64> {
        let number = self.next;
        (number < sent).then(|| {
            self.take(number, sent);
            number
        })
    }

    /// Numbers below `sent` that have not come.
    pub(crate) fn missing(&self, sent: u64) -> impl Iterator<Item = u64> {
        (self.next..sent).filter(|number| self.ahead.binary_search(number).is_err())
    }

    /// How many these are.
    pub(crate) fn missing_count(&self, sent: u64) -> u64 {
        sent.saturating_sub(self.next)
            .saturating_sub(self.ahead.len() as u64)
    }

    /// Waits no longer for numbers below `sent`.
    pub(crate) fn give_up(&mut self, sent: u64) {
        self.next = self.next.max(sent);
        self.ahead.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Arrival::{Ahead, Doubled, InOrder, Late, Unknown};

    fn arrivals(numbers: &[u64], sent: u64) -> (Vec<Arrival>, Order) {
        let mut order = Order::default();
        let arrivals = numbers.iter().map(|n| order.take(*n, sent)).collect();
        (arrivals, order)
    }

    #[test]
    fn every_fault_is_told() {
        let cases: [(&[u64], &[Arrival]); 6] = [
            (&[0, 1, 2], &[InOrder, InOrder, InOrder]),
            (&[0, 2, 1, 3], &[InOrder, Ahead, Late, InOrder]),
            (&[0, 0, 1], &[InOrder, Doubled, InOrder]),
            (&[1, 1, 0, 0], &[Ahead, Doubled, Late, Doubled]),
            (&[3, 1, 2, 0], &[Ahead, Late, Late, Late]),
            (&[9, 0], &[Unknown, InOrder]),
        ];
        for (numbers, expected) in cases {
            assert_eq!(arrivals(numbers, 9).0, expected, "{numbers:?}");
        }
    }

    #[test]
    fn what_never_came_is_missing() {
        let (_, mut order) = arrivals(&[0, 2, 3, 6], 8);
        assert_eq!(order.next(), 1);
        assert_eq!(order.missing(8).collect::<Vec<_>>(), [1, 4, 5, 7]);
        assert_eq!(order.missing_count(8), 4);
        order.give_up(8);
        assert_eq!(order.missing_count(8), 0);
        assert_eq!(order.missing(8).count(), 0);
        assert_eq!(order.take(8, 9), InOrder);
        assert_eq!(order.take(4, 9), Doubled);
    }

    #[test]
    fn one_without_a_number_takes_the_place_that_is_due() {
        let (_, mut order) = arrivals(&[0, 2], 3);
        assert_eq!(order.take_next(3), Some(1));
        assert_eq!(order.next(), 3);
        assert_eq!(order.take_next(3), None);
    }
}
