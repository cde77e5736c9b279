//! A client that reads when it likes puts together what it got: every place of every room came
//! once, or a gap told of it where it would have stood.

use std::{collections::HashMap as Map, sync::Arc};

use proptest::prelude::*;

use crate::{
    base::{limits::PENDING_ENTRY_BYTES, segments::SharedFrame, slab::Key},
    config::SlowClient,
    session::outbound::{Droppable, Gap, Outbound, SpareBuffers, Terms},
};

const TERMS: Terms = Terms {
    high: 8 * 1024,
    low: 2 * 1024,
    tells_gaps: true,
};

/// As long as the shortest envelope, so that a gap is never longer than a message.
const FRAME_BYTES_MIN: usize = 110;

/// A queue, and a client that keeps every byte of it.
struct Line {
    out: Outbound,
    spare: SpareBuffers,
    terms: Terms,
    names: Vec<Arc<str>>,
    policies: Vec<SlowClient>,
    /// Places assigned so far, by room.
    seqs: Vec<u64>,
    fixed: usize,
    /// At each fixed entry: the places assigned before it.
    before_fixed: Vec<Vec<u64>>,
    got: Vec<u8>,
}

impl Line {
    fn new(terms: Terms, policies: &[SlowClient]) -> Self {
        Self {
            out: Outbound::default(),
            spare: SpareBuffers::new(1024),
            terms,
            names: (0..policies.len())
                .map(|n| format!("r{n}").into())
                .collect(),
            policies: policies.to_vec(),
            seqs: vec![0; policies.len()],
            fixed: 0,
            before_fixed: Vec::new(),
            got: Vec::new(),
        }
    }

    /// A room's next message, or its next `count` ones in one frame.
    fn offer(&mut self, room: usize, count: u64, key: Option<&str>, bytes: usize) -> bool {
        self.seqs[room] += count;
        let last = self.seqs[room];
        let mut frame = format!("M{room}:{last}:{count}:{}:", key.unwrap_or("-"));
        while frame.len() + 1 < bytes {
            frame.push('.');
        }
        frame.push('\n');
        let message = Droppable {
            room: Key {
                index: room as u32,
                generation: 3,
            },
            name: &self.names[room],
            policy: self.policies[room],
            last,
            count,
            key,
        };
        let frame = SharedFrame::new(frame.into_bytes().into());
        self.out
            .offer(&mut self.spare, &frame, &message, self.terms)
    }

    fn fixed(&mut self, kind: u8, bytes: usize) {
        self.before_fixed.push(self.seqs.clone());
        let mut text = format!("F{}:", self.fixed);
        while text.len() + 1 < bytes {
            text.push('.');
        }
        text.push('\n');
        self.fixed += 1;
        match kind {
            0 => self.out.write(&mut self.spare, |run| {
                run.extend_from_slice(text.as_bytes())
            }),
            1 => self.out.push_owned(&mut self.spare, text.into_bytes(), 0),
            _ => {
                let frame = SharedFrame::new(text.into_bytes().into());
                self.out.push_shared(&mut self.spare, &frame);
            }
        }
    }

    /// The client reads what is sent next. Whether there was anything.
    fn drain(&mut self) -> bool {
        let Some(batch) = self.out.take_batch(&mut self.spare, write_gap) else {
            return false;
        };
        for run in batch.pending() {
            self.got.extend_from_slice(run);
        }
        self.out.on_sent(batch.remaining());
        self.spare.reclaim(batch);
        true
    }

    /// Reads to the end, and gives the lines.
    fn finish(&mut self) -> Vec<String> {
        while self.drain() {}
        assert!(self.out.is_drained() && self.out.is_empty());
        assert_eq!((self.out.buffered_bytes(), self.out.firm_bytes()), (0, 0));
        let text = String::from_utf8(std::mem::take(&mut self.got)).unwrap();
        text.lines()
            .map(|line| line.trim_end_matches(['.', ':']).to_owned())
            .collect()
    }

    /// Checks everything that was ever sent against what the client has read.
    fn check(&mut self) {
        let mut next: Vec<u64> = vec![1; self.seqs.len()];
        let mut fixed = 0;
        for line in self.finish() {
            let mut parts = line[1..].split(':');
            let mut number = || parts.next().unwrap().parse::<u64>().unwrap();
            match line.as_bytes()[0] {
                b'M' => {
                    let (room, last, count) = (number() as usize, number(), number());
                    assert_eq!(last + 1 - count, next[room], "{line}: lost or doubled");
                    next[room] = last + 1;
                }
                b'G' => {
                    let (room, dropped, next_seq) = (number() as usize, number(), number());
                    assert!(dropped > 0);
                    assert_eq!(next[room] + dropped, next_seq, "{line}: a wrong gap");
                    next[room] = next_seq;
                }
                _ => {
                    assert_eq!(number(), fixed, "{line}: out of order");
                    let before: Vec<u64> = next.iter().map(|next| next - 1).collect();
                    assert_eq!(before, self.before_fixed[fixed as usize], "{line}");
                    fixed += 1;
                }
            }
        }
        assert_eq!(fixed as usize, self.fixed);
        let reached: Vec<u64> = next.iter().map(|next| next - 1).collect();
        assert_eq!(reached, self.seqs, "the end is missing");
    }
}

fn write_gap(run: &mut Vec<u8>, gap: Gap<'_>) {
    let room = &gap.room[1..];
    run.extend_from_slice(format!("G{room}:{}:{}\n", gap.dropped, gap.next_seq).as_bytes());
}

/// Fills the queue proper, so that what follows waits.
fn fall_behind(line: &mut Line) {
    line.fixed(0, TERMS.low);
}

fn kept(lines: &[String]) -> Vec<&str> {
    let rest = lines.iter().filter(|line| !line.starts_with('F'));
    rest.map(String::as_str).collect()
}

#[test]
fn who_keeps_up_loses_nothing_and_has_no_list() {
    for policy in [
        SlowClient::DropOldest,
        SlowClient::DropNewest,
        SlowClient::Conflate,
    ] {
        let mut line = Line::new(TERMS, &[policy]);
        for _ in 0..100 {
            assert!(line.offer(0, 1, Some("k"), 500));
            assert!(line.out.pending.is_none());
            line.drain();
        }
        // One larger than the bound passes when nothing else waits.
        assert!(line.offer(0, 1, Some("k"), 3 * TERMS.high));
        line.check();
        assert_eq!(line.spare.tally(), Default::default());
    }
}

#[test]
fn drop_oldest_keeps_the_end_and_drop_newest_the_beginning() {
    for (policy, first_is_kept) in [
        (SlowClient::DropOldest, false),
        (SlowClient::DropNewest, true),
    ] {
        let mut line = Line::new(TERMS, &[policy]);
        fall_behind(&mut line);
        for _ in 0..20 {
            line.offer(0, 1, None, 850);
        }
        let lines = line.finish();
        let lines = kept(&lines);
        // 6 KiB of room: six messages with what each takes beside its bytes, and one gap.
        assert_eq!(lines.len(), 7, "{lines:?}");
        if first_is_kept {
            assert_eq!((lines[0], lines[6]), ("M0:1:1:-", "G0:14:21"));
        } else {
            assert_eq!((lines[0], lines[6]), ("G0:14:15", "M0:20:1:-"));
        }
        let tally = line.spare.tally();
        let dropped = (tally.dropped_oldest, tally.dropped_newest);
        assert_eq!(dropped, if first_is_kept { (0, 14) } else { (14, 0) });
        assert_eq!(tally.gaps, 1);
    }
}

#[test]
fn conflation_keeps_the_newest_of_each_key_at_its_place() {
    let mut line = Line::new(TERMS, &[SlowClient::Conflate, SlowClient::Conflate]);
    fall_behind(&mut line);
    for key in ["a", "b", "a", "a", "c", "b"] {
        line.offer(0, 1, Some(key), 200);
    }
    line.offer(0, 1, None, 200);
    line.offer(0, 1, None, 200);
    line.offer(1, 1, Some("a"), 200);
    let lines = line.finish();
    assert_eq!(
        kept(&lines),
        [
            "G0:3:4", "M0:4:1:a", "M0:5:1:c", "M0:6:1:b", "M0:7:1:-", "M0:8:1:-", "M1:1:1:a"
        ]
    );
    assert_eq!(line.spare.tally().conflated, 3);
}

#[test]
fn what_is_conflated_has_no_end_and_takes_no_more_room() {
    let mut line = Line::new(TERMS, &[SlowClient::Conflate]);
    fall_behind(&mut line);
    let mut most = 0;
    for n in 0..10_000 {
        let key = format!("k{}", n % 5);
        assert!(line.offer(0, 1, Some(&key), 300));
        most = most.max(line.out.buffered_bytes());
    }
    let pending = line.out.pending.as_ref().unwrap();
    assert!(pending.nodes.len() <= 12, "{} entries", pending.nodes.len());
    assert!(most < TERMS.low + 6 * (300 + 2 * PENDING_ENTRY_BYTES));
    assert_eq!(line.spare.tally().conflated, 9_995);
    line.check();
}

#[test]
fn one_too_large_is_dropped_without_dropping_the_rest_in_vain() {
    for policy in [SlowClient::DropOldest, SlowClient::Conflate] {
        let mut line = Line::new(TERMS, &[policy]);
        fall_behind(&mut line);
        line.offer(0, 1, Some("k"), 500);
        assert!(!line.offer(0, 1, Some("k"), 7000));
        assert!(!line.offer(0, 1, Some("k"), 7000));
        let lines = line.finish();
        assert_eq!(kept(&lines), ["M0:1:1:k", "G0:2:4"]);
    }
}

#[test]
fn what_cannot_be_dropped_pushes_out_what_can_and_keeps_gaps_apart() {
    let mut line = Line::new(TERMS, &[SlowClient::DropNewest]);
    fall_behind(&mut line);
    for _ in 0..3 {
        line.offer(0, 1, None, 1500);
    }
    line.fixed(0, 40);
    line.offer(0, 1, None, 1500);
    line.fixed(2, 3000);
    let lines = line.finish();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(
        lines,
        ["F0", "G0:2:3", "M0:3:1:-", "F1", "G0:1:5", "F2"],
        "the gaps on both sides of the answer stay apart"
    );
}

#[test]
fn fixed_entries_alone_beyond_the_bound_leave_room_for_one_gap() {
    for policy in [SlowClient::DropOldest, SlowClient::DropNewest] {
        let mut line = Line::new(TERMS, &[policy]);
        fall_behind(&mut line);
        assert!(line.offer(0, 1, None, 200));
        while line.out.firm_bytes() < TERMS.high + TERMS.low {
            line.fixed(0, 500);
        }
        let firm = line.out.firm_bytes();
        for _ in 0..1000 {
            assert!(!line.offer(0, 1, None, 200));
        }
        assert!(line.out.firm_bytes() < firm + 300);
        let lines = line.finish();
        assert_eq!(kept(&lines), ["G0:1:2", "G0:1000:1002"]);
    }
}

#[test]
fn a_raw_client_is_told_nothing() {
    let terms = Terms {
        tells_gaps: false,
        ..TERMS
    };
    for policy in [
        SlowClient::DropOldest,
        SlowClient::DropNewest,
        SlowClient::Conflate,
    ] {
        let mut line = Line::new(terms, &[policy]);
        fall_behind(&mut line);
        for _ in 0..40 {
            line.offer(0, 1, Some("k"), 900);
        }
        // Only too large ones: nothing waits, and no list stays behind.
        line.offer(0, 1, Some("k"), 9000);
        let lines = line.finish();
        assert!(lines.iter().all(|line| !line.starts_with('G')), "{lines:?}");
        assert_eq!(line.spare.tally().gaps, 0);
        fall_behind(&mut line);
        assert!(!line.offer(0, 1, None, 9000));
        assert!(line.out.pending.is_none());
    }
}

#[test]
fn a_gap_is_told_even_if_nothing_follows() {
    let mut line = Line::new(TERMS, &[SlowClient::DropNewest]);
    fall_behind(&mut line);
    assert!(!line.offer(0, 3, None, 9000));
    let lines = line.finish();
    assert_eq!(kept(&lines), ["G0:3:4"]);
    assert_eq!(line.spare.tally().dropped_newest, 3);
}

#[test]
fn clearing_forgets_what_waits() {
    let mut line = Line::new(TERMS, &[SlowClient::DropOldest]);
    fall_behind(&mut line);
    line.offer(0, 1, None, 900);
    let buffered = line.out.buffered_bytes();
    assert_eq!(line.out.clear_queued(), buffered);
    assert!(line.out.is_empty() && !line.drain());
}

#[test]
fn the_books_are_kept_in_little_memory() {
    assert!(size_of::<super::Node>() <= PENDING_ENTRY_BYTES);
    assert!(size_of::<Outbound>() <= 72);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Offer(usize, u64, u8, usize),
    Fixed(u8, usize),
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![
        8 => FRAME_BYTES_MIN..400usize,
        3 => 400..3000usize,
        1 => 3000..12_000usize,
    ];
    prop_oneof![
        12 => (0..4usize, 1..3u64, 0..6u8, bytes).prop_map(|(r, c, k, b)| Step::Offer(r, c, k, b)),
        3 => (0..3u8, 8..300usize).prop_map(|(kind, bytes)| Step::Fixed(kind, bytes)),
        1 => Just(Step::Drain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_comes_and_however_it_is_read_nothing_vanishes_untold(
        policies in proptest::collection::vec(0..3usize, 4),
        steps in proptest::collection::vec(step(), 1..250),
    ) {
        let all = [SlowClient::DropOldest, SlowClient::DropNewest, SlowClient::Conflate];
        let policies: Vec<SlowClient> = policies.into_iter().map(|n| all[n]).collect();
        let mut line = Line::new(TERMS, &policies);
        for step in steps {
            let mut largest = 0;
            match step {
                Step::Offer(room, count, key, bytes) => {
                    let key = ["a", "b", "c", "d"].get(usize::from(key)).copied();
                    line.offer(room, count, key, bytes);
                    largest = bytes + PENDING_ENTRY_BYTES;
                }
                Step::Fixed(kind, bytes) => line.fixed(kind, bytes),
                Step::Drain => { line.drain(); }
            }
            let buffered = line.out.buffered_bytes();
            let gap_of_each_room = 4 * (100 + PENDING_ENTRY_BYTES);
            prop_assert!(
                buffered <= TERMS.high + largest + gap_of_each_room
                    || buffered == line.out.firm_bytes(),
                "{} bytes, {} of them firm", buffered, line.out.firm_bytes()
            );
            if let Some(pending) = &line.out.pending {
                check_books(pending);
            }
        }
        line.check();
    }
}

/// The lists and sums are what a look at every entry says.
fn check_books(pending: &super::Pending) {
    use super::{Entry, NONE};
    let (mut firm, mut droppable) = (0, 0);
    let mut rooms: Map<Key, (usize, Vec<u32>)> = Map::new();
    let (mut at, mut before) = (pending.all.head, NONE);
    let mut passed_oldest = pending.oldest == NONE;
    while at != NONE {
        let node = pending.node(at);
        assert_eq!(node.all.prev, before);
        passed_oldest |= at == pending.oldest;
        match &node.entry {
            Entry::Unused => panic!("an unused entry in the list"),
            Entry::Fixed(segment) => firm += segment.len() + PENDING_ENTRY_BYTES,
            Entry::Message { room, frame, .. } => {
                assert!(passed_oldest, "a message before the oldest");
                droppable += super::message_cost(frame);
                let room = rooms.entry(*room).or_default();
                room.0 += super::message_cost(frame);
                room.1.push(at);
            }
            Entry::Gap { room, .. } => {
                firm += pending.room(*room).gap_cost;
                rooms.entry(*room).or_default().1.push(at);
            }
        }
        before = at;
        at = node.all.next;
    }
    assert_eq!(pending.all.tail, before);
    assert_eq!((pending.firm, pending.droppable), (firm, droppable));
    assert_eq!(pending.rooms.len(), rooms.len());
    for (key, (cost, entries)) in rooms {
        let room = pending.room(key);
        assert_eq!(room.droppable, cost);
        let (mut at, mut walked) = (room.ends.head, Vec::new());
        while at != NONE {
            walked.push(at);
            at = pending.node(at).room.next;
        }
        assert_eq!(walked, entries);
        for pair in entries.windows(2) {
            let (a, b) = (pending.node(pair[0]), pending.node(pair[1]));
            let gaps = matches!((&a.entry, &b.entry), (Entry::Gap { .. }, Entry::Gap { .. }));
            assert!(!gaps || a.fixed_count != b.fixed_count, "two gaps for one");
        }
        for (key, at) in &room.by_key {
            let entry = &pending.node(*at).entry;
            assert!(matches!(entry, Entry::Message { key: Some(k), .. } if k == key));
        }
    }
}
