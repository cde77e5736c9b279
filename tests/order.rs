//! One room, one order: forty members on two cores publish at once, and every one of them sees
//! the same messages in the same order, each exactly once.

mod common;

use std::collections::HashSet;

use common::{
    DEADLINE, Server,
    client::{Client, Incoming},
};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

const MEMBERS: usize = 40;
const EACH: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_sees_one_order_without_gaps() {
    let server = Server::quiet(&["--set", "limits.ping_interval=600s"]);
    // Several rooms, so that both cores are homes: publishers are local to some, remote to others.
    for room in ["order-a", "order-b", "order-c"] {
        let mut members = Vec::new();
        for n in 0..MEMBERS {
            let mut member = Client::connect(&server, &format!("user-{n}")).await;
            member.join(room).await;
            members.push(member);
        }
        let held = server.counters().per_core("connections_open");
        assert!(
            held.len() == 2 && held.iter().all(|connections| *connections > 0),
            "both cores hold connections: {held:?}"
        );

        let tasks: Vec<_> = members
            .into_iter()
            .enumerate()
            .map(|(n, member)| tokio::spawn(talk_and_listen(member, room, n)))
            .collect();
        let mut streams = Vec::new();
        for task in tasks {
            streams.push(task.await.expect("no member failed"));
        }

        let first = &streams[0];
        let seqs = first.iter().map(Incoming::seq);
        assert!(
            seqs.eq(1..=(MEMBERS * EACH) as u64),
            "{room}: every seq, each once, in order"
        );
        let payloads: HashSet<&str> = first.iter().map(Incoming::data).collect();
        assert_eq!(payloads.len(), MEMBERS * EACH, "{room}: each message once");
        for n in 0..MEMBERS {
            // What one publisher sent stays in the order in which it sent it.
            let user = json!(format!("user-{n}"));
            let own = first
                .iter()
                .filter(|message| message["from"]["user"] == user);
            let wanted: Vec<_> = (0..EACH).map(|m| json!([n, m])).collect();
            assert!(own.map(|message| &message["data"]).eq(wanted.iter()));
        }
        for (n, stream) in streams.iter().enumerate() {
            let same = stream
                .iter()
                .map(|m| &m.text)
                .eq(first.iter().map(|m| &m.text));
            assert!(same, "{room}: member {n} saw something else than member 0");
        }
    }
    server
        .wait("every gauge at zero", common::Counters::is_idle)
        .await;
    let counters = server.counters();
    for name in ["evicted_slow_total", "panics_total", "missed_wakes_total"] {
        assert_eq!(counters.total(name), 0, "{name}");
    }
}

/// Publishes while it reads; every message of the room that it saw, its own included.
async fn talk_and_listen(member: Client, room: &str, n: usize) -> Vec<Incoming> {
    let (mut sink, mut stream) = member.ws.split();
    let talk = async {
        for m in 0..EACH {
            let command = json!({"type": "publish", "room": room, "data": [n, m]});
            sink.send(Message::text(command.to_string()))
                .await
                .expect("the connection takes a message");
        }
    };
    let listen = async {
        let mut seen = Vec::new();
        while seen.len() < MEMBERS * EACH {
            match stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    let message = Incoming::new(&text);
                    assert_eq!(message.kind(), "message", "{text}");
                    seen.push(message);
                }
                Some(Ok(Message::Ping(_))) => {}
                other => panic!("member {n} after {} messages: {other:?}", seen.len()),
            }
        }
        seen
    };
    let both = async { tokio::join!(talk, listen).1 };
    tokio::time::timeout(DEADLINE, both)
        .await
        .unwrap_or_else(|_| panic!("member {n} did not see everything within {DEADLINE:?}"))
}

/// The room's numbering keeps its epoch while anyone is in it, however its members change.
#[tokio::test]
async fn one_epoch_while_the_room_lives() {
    let server = Server::quiet(&[]);
    let mut keeper = Client::connect(&server, "keeper").await;
    let first = keeper.join("epoch").await;
    for n in 1..=30 {
        let mut guest = Client::connect(&server, &format!("guest-{n}")).await;
        let joined = guest.join("epoch").await;
        assert_eq!(joined["epoch"], first["epoch"]);
        assert_eq!(joined.seq(), n - 1);
        let published = guest.publish("epoch", json!(n)).await;
        assert_eq!(published["epoch"], first["epoch"]);
        assert_eq!(published.seq(), n);
        assert_eq!(keeper.expect("message").await.seq(), n);
        if n % 2 == 0 {
            guest.reset();
        }
    }
}
