//! One member of a room stops reading. It is evicted, and nobody else notices: the other fifty
//! receive every message, in order.

mod common;

use common::{Server, client::Client, raw::stopped_reader};
use futures_util::future::join_all;
use serde_json::json;

const OTHERS: usize = 50;
const PAYLOAD_BYTES: usize = 16 * 1024;
/// What the kernel may hold for one connection, on both sides, is a few MiB; this is far more.
const MESSAGES_MAX: u64 = 2000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_reader_is_evicted_and_slows_nobody() {
    let server = Server::quiet(&[
        "--set",
        "limits.buffered_bytes_high=256KiB",
        "--set",
        "limits.buffered_bytes_low=64KiB",
        "--set",
        "limits.ping_interval=600s",
    ]);
    let mut others = Vec::new();
    for n in 0..OTHERS {
        let mut other = Client::connect(&server, &format!("user-{n}")).await;
        other.join("stream").await;
        others.push(other);
    }
    let mut stopped = stopped_reader(server.addr, "stream");

    let mut talker = Client::connect(&server, "talker").await;
    talker.join("stream").await;
    let payload = "x".repeat(PAYLOAD_BYTES);
    let mut sent = 0;
    // Every other reader has each message before the next one goes out: so none of them can be
    // behind, and whoever is evicted is the one that doesn't read.
    while server.counters().total("evicted_slow_total") == 0 {
        assert!(
            sent < MESSAGES_MAX,
            "nobody was evicted after {sent} messages"
        );
        for _ in 0..4 {
            sent += 1;
            let ok = talker
                .ok(json!({"type": "publish", "room": "stream", "data": payload, "echo": false}))
                .await;
            assert_eq!(ok.seq(), sent);
        }
        all_receive(&mut others, sent - 3..=sent).await;
    }

    // The others go on as if nothing had happened.
    for _ in 0..20 {
        sent += 1;
        talker
            .ok(json!({"type": "publish", "room": "stream", "data": payload, "echo": false}))
            .await;
        all_receive(&mut others, sent..=sent).await;
    }
    server
        .wait_counter("sessions_open", OTHERS as u64 + 1)
        .await;
    let info = talker
        .ok(json!({"type": "room_info", "room": "stream"}))
        .await;
    assert_eq!(info["members"], OTHERS + 1);
    assert_eq!(server.counters().total("evicted_slow_total"), 1);

    // The evicted one finds whole messages and then either the reason or a reset.
    let reader = tokio::task::spawn_blocking(move || {
        while let Some(frame) = stopped.frame() {
            if let Some((code, reason)) = frame.close() {
                return Some((code, reason));
            }
        }
        None
    });
    if let Some(close) = reader.await.expect("reading to the end works") {
        assert_eq!(close, (4008, "slow client".to_owned()));
    }
    drop(others);
    drop(talker);
    server
        .wait("every gauge at zero", common::Counters::is_idle)
        .await;
}

/// Every client receives the messages with these numbers next, and nothing else.
async fn all_receive(clients: &mut [Client], seqs: std::ops::RangeInclusive<u64>) {
    let each = clients.iter_mut().map(|client| {
        let seqs = seqs.clone();
        async move {
            for seq in seqs {
                let message = client.expect("message").await;
                assert_eq!(message.seq(), seq);
                assert_eq!(message.data().len(), PAYLOAD_BYTES + 2);
            }
        }
    });
    join_all(each).await;
}
