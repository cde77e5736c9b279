//! What is served where, and with which limits.

mod common;

use common::{
    Server, TempFile,
    client::Client,
    raw::{FIN, Raw, TEXT, frame, upgrade_request},
};
use serde_json::json;

const ROUTES: &str = r#"
[server]
reload_on_change = false

[[routes]]
path = "/app/live"
mode = "rooms"
limits = { rooms_per_client = 2, message_bytes_max = "1KiB" }

[[routes]]
path = "/app"
mode = "rooms"

[[routes]]
path = "/mirror"
mode = "echo"
limits = { message_bytes_max = "2KiB" }

[[rooms.match]]
name = "small:*"
room_members_max = 1
message_bytes_max = "10B"
"#;

#[tokio::test]
async fn each_route_has_its_own_limits() {
    let file = TempFile::new("routes.toml", ROUTES);
    let server = Server::quiet(&["--config", file.path()]);
    let mut live = Client::connect_to(&server, "/app/live?user=a").await;
    assert_eq!(live.connected.json["limits"]["rooms_max"], 2);
    assert_eq!(live.connected.json["limits"]["message_bytes_max"], 1024);
    live.join("one").await;
    live.join("two").await;
    live.fails(json!({"type": "join", "room": "three"}), "TOO_MANY_ROOMS")
        .await;
    assert_eq!(server.counters().total("too_many_rooms_total"), 1);
    // Another route, the same rooms.
    let mut app = Client::connect_to(&server, "/app?user=b").await;
    for room in ["one", "two", "three"] {
        app.join(room).await;
    }
    app.publish("one", json!("across")).await;
    assert_eq!(live.expect("message").await.data(), "\"across\"");
    // At its length and one above.
    let spare = r#"{"type":"echo","id":"i","data":""}"#.len();
    for (length, passes) in [(1024, true), (1025, false)] {
        let command = json!({"type": "echo", "id": "i", "data": "x".repeat(length - spare)});
        live.send_text(&command.to_string()).await;
        if passes {
            live.expect("ok").await;
        } else {
            assert_eq!(live.closed().await.0, 1009);
        }
    }
    assert_eq!(server.counters().total("messages_too_big_total"), 1);
}

#[tokio::test]
async fn rooms_have_limits_by_their_name() {
    for on in [1, 2] {
        let file = TempFile::new(&format!("rooms-{on}.toml"), ROUTES);
        let cores = common::cores(on);
        let server = Server::quiet(&["--config", file.path(), "--cores", &cores]);
        let mut first = Client::connect_to(&server, "/app?user=a").await;
        let mut second = Client::connect_to(&server, "/app?user=b").await;
        for n in 0..4 {
            let room = format!("small:{n}");
            first.join(&room).await;
            second
                .fails(json!({"type": "join", "room": room}), "ROOM_FULL")
                .await;
            // Ten bytes with their quotes, and eleven.
            first.publish(&room, json!("12345678")).await;
            let long = json!({"type": "publish", "room": room, "data": "123456789"});
            first.fails(long, "TOO_LARGE").await;
        }
        first.join("large").await;
        second.join("large").await;
        second.publish("large", json!("123456789")).await;
        let counters = server.counters();
        assert_eq!(counters.total("rooms_full_total"), 4);
        assert_eq!(counters.total("data_too_large_total"), 4);
    }
}

#[test]
fn paths_that_are_not_routes_are_404() {
    let file = TempFile::new("paths.toml", ROUTES);
    let server = Server::start(&["--config", file.path()]);
    for (path, status) in [
        ("/app", 101),
        ("/app/live", 101),
        ("/mirror", 101),
        ("/ws", 404),
        ("/echo", 404),
        ("/app/live/x/y", 404),
        ("/mirror/x", 404),
        ("/ap", 404),
    ] {
        let mut raw = Raw::connect(server.addr);
        raw.send(upgrade_request(path).as_bytes());
        assert_eq!(raw.response().status, status, "{path}");
    }
    let mut mirror = Raw::upgraded(server.addr, "/mirror");
    mirror.send(&frame(FIN | TEXT, b"as it is"));
    assert_eq!(mirror.expect_text(), "as it is");
}
