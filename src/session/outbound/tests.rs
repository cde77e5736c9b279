//! The queue by itself.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const COALESCE: usize = 1024;

fn no_gaps(_: &mut Vec<u8>, gap: Gap<'_>) {
    panic!("{gap:?}");
}

#[test]
fn short_frames_make_one_run_and_long_ones_go_by_reference() {
    let mut spare = SpareBuffers::new(COALESCE);
    let mut out = Outbound::default();
    let short = SharedFrame::new(Bytes::from_static(b"short"));
    let long = SharedFrame::new(Bytes::from(vec![7; COALESCE + 1]));
    out.push_shared(&mut spare, &short);
    out.push_shared(&mut spare, &short);
    out.write(&mut spare, |run| run.extend_from_slice(b"own"));
    out.push_shared(&mut spare, &long);
    let batch = out.take_batch(&mut spare, no_gaps).unwrap();
    // The first was shared as long as it was alone.
    assert_eq!(batch.segments(), 2);
    assert_eq!(batch.remaining(), 5 + 5 + 3 + long.len());
    assert!(out.is_empty() && !out.is_drained());
    out.on_sent(batch.remaining());
    assert!(out.is_drained());
    assert!(out.take_batch(&mut spare, no_gaps).is_none());
}

#[test]
fn clearing_keeps_what_is_on_its_way() {
    let mut spare = SpareBuffers::new(COALESCE);
    let mut out = Outbound::default();
    out.write(&mut spare, |run| run.extend_from_slice(b"gone"));
    let batch = out.take_batch(&mut spare, no_gaps).unwrap();
    out.write(&mut spare, |run| run.extend_from_slice(b"dropped"));
    assert_eq!(out.clear_queued(), 7);
    assert_eq!(out.buffered_bytes(), 4);
    spare.reclaim(batch);
    assert_eq!((spare.empty.len(), spare.batches.len()), (1, 1));
}

proptest! {
    #[test]
    fn whatever_the_mix_every_byte_leaves_once_and_in_order(
        pieces in proptest::collection::vec((0u8..3, 1usize..40_000), 1..60)
    ) {
        let mut spare = SpareBuffers::new(COALESCE);
        let mut out = Outbound::default();
        let (mut want, mut got) = (Vec::new(), Vec::new());
        for (n, (kind, len)) in pieces.into_iter().enumerate() {
            let bytes = vec![n as u8; len];
            want.extend_from_slice(&bytes);
            match kind {
                0 => out.write(&mut spare, |run| run.extend_from_slice(&bytes)),
                1 => out.push_owned(&mut spare, bytes, 0),
                _ => out.push_shared(&mut spare, &SharedFrame::new(bytes.into())),
            }
            prop_assert_eq!(out.buffered_bytes(), want.len());
        }
        while let Some(batch) = out.take_batch(&mut spare, no_gaps) {
            prop_assert!(batch.segments() <= SEND_SEGMENTS_MAX);
            prop_assert!(batch.segments() == 1 || batch.remaining() <= SEND_BATCH_BYTES_MAX);
            for run in batch.pending() {
                got.extend_from_slice(run);
            }
            out.on_sent(batch.remaining());
            spare.reclaim(batch);
        }
        prop_assert_eq!(got, want);
        prop_assert!(out.is_drained());
    }
}

#[test]
fn what_the_kernel_holds_counts_until_messages_may_be_dropped() {
    let mut spare = SpareBuffers::new(COALESCE);
    let mut out = Outbound::default();
    let frame = SharedFrame::new(Bytes::from(vec![7; 600]));
    let name: Arc<str> = "r".into();
    let terms = Terms {
        high: 10_000,
        low: 1000,
        tells_gaps: true,
    };
    let mut offer = |out: &mut Outbound, last| {
        let message = Droppable {
            room: LocalRoomKey {
                index: 1,
                generation: 0,
            },
            name: &name,
            policy: SlowClient::DropOldest,
            last,
            count: 1,
            key: None,
        };
        assert!(out.offer(&mut spare, &frame, &message, terms));
    };
    offer(&mut out, 1);
    assert_eq!(out.evicting_bytes(50_000), 50_600);
    // The second goes beyond the low mark: from here on messages wait where they can be dropped,
    // and a full kernel is no reason to evict.
    offer(&mut out, 2);
    assert_eq!(out.evicting_bytes(50_000), out.firm_bytes());
    assert!(out.firm_bytes() < terms.high);
}
