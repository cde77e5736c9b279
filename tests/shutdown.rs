//! How the program starts, refuses to start, and ends.

mod common;

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
};

use common::{
    Finished, Server,
    client::Client,
    raw::{CLOSE, FIN, Raw, TEXT, close_payload, frame},
    run, tidegate,
};
use serde_json::Value;

/// `tidegate` with these arguments, run to its end.
fn tidegate_ends(args: &[&str]) -> Finished {
    run(tidegate().args(args))
}

/// The `N` of `restart;retry-after=N`.
fn retry_after(reason: &str) -> u64 {
    reason
        .strip_prefix("restart;retry-after=")
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or_else(|| panic!("not a restart: {reason:?}"))
}

#[tokio::test]
async fn signals_close_every_client_with_1012_and_exit_0() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(&["--demo"]);
        let mut clients = Vec::new();
        for n in 0..30 {
            let mut client = Client::connect(&server, &format!("user-{n}")).await;
            client.join("leaving").await;
            clients.push(client);
        }
        server.signal(signal);
        for client in &mut clients {
            let (code, reason) = client.closed().await;
            assert_eq!(code, 1012, "{reason}");
            retry_after(&reason);
        }
        drop(clients);
        let status = tokio::task::spawn_blocking(move || server.wait_exit())
            .await
            .expect("it ends");
        assert_eq!(status.code(), Some(0), "after SIG{signal}");
    }
}

#[test]
fn echo_raw_and_unfinished_connections_end_too() {
    let mut server = Server::start(&["--demo"]);
    let mut echo = Raw::upgraded(server.addr, "/echo");
    let mut waiting = Raw::connect(server.addr);
    waiting.send(b"GET /ws HTTP/1.1\r\n");
    echo.send(&frame(FIN | TEXT, b"here"));
    assert_eq!(echo.expect_text(), "here");
    server.signal("TERM");
    // Neither answers the close, and both are ended all the same.
    retry_after(&echo.expect_close(1012));
    assert_eq!(server.wait_exit().code(), Some(0));
}

#[test]
fn a_server_without_clients_ends_at_once() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(&[]);
        server.signal(signal);
        assert_eq!(server.wait_exit().code(), Some(0));
    }
}

/// The reason of the 1012 that the client got, which it has not answered.
fn told_to_go(client: &mut Raw) -> String {
    let close = client.expect_frame().close();
    let (code, reason) = close.expect("a close");
    assert_eq!(code, 1012, "{reason}");
    reason
}

/// A client that never answers its close is cut at the deadline, and the exit code says so.
#[test]
fn a_drain_that_the_deadline_ends_exits_with_3() {
    let drain = [
        "--demo",
        "--set",
        "drain.window=100ms",
        "--set",
        "drain.deadline=500ms",
        "--set",
        "drain.notice=0s",
    ];
    let mut server = Server::start(&drain);
    let mut held = Raw::upgraded(server.addr, "/echo");
    server.signal("TERM");
    retry_after(&told_to_go(&mut held));
    assert_eq!(server.wait_exit().code(), Some(3));
    let log = server.stderr();
    assert!(log.contains("clients=1 workers=0"), "{log}");

    // One that does answer is not cut, however short the deadline.
    let mut server = Server::start(&drain);
    let mut polite = Raw::upgraded(server.addr, "/echo");
    server.signal("TERM");
    told_to_go(&mut polite);
    polite.send(&frame(FIN | CLOSE, &close_payload(1012, b"")));
    assert_eq!(server.wait_exit().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once_with_4() {
    for signals in [["TERM", "TERM"], ["TERM", "INT"], ["INT", "TERM"]] {
        let mut server = Server::start(&["--demo", "--set", "drain.notice=0s"]);
        let mut held = Raw::upgraded(server.addr, "/echo");
        server.signal(signals[0]);
        // The drain is under way, and waits for an answer that does not come.
        told_to_go(&mut held);
        assert!(server.is_running());
        server.signal(signals[1]);
        assert_eq!(server.wait_exit().code(), Some(4), "{signals:?}");
    }
}

#[test]
fn a_hangup_ends_nothing() {
    let mut server = Server::start(&["--demo"]);
    let mut echo = Raw::upgraded(server.addr, "/echo");
    server.signal("HUP");
    echo.send(&frame(FIN | TEXT, b"here"));
    assert_eq!(echo.expect_text(), "here");
    server.signal("HUP");
    echo.send(&frame(FIN | CLOSE, &close_payload(1000, b"")));
    echo.expect_close(1000);
    assert_eq!(server.terminate().code(), Some(0));
}

#[tokio::test]
async fn the_same_port_can_be_used_again_directly() {
    let mut server = Server::start(&[]);
    let listen = server.addr.to_string();
    for _ in 0..3 {
        // Connected clients leave the port in TIME_WAIT on the server's side.
        let mut clients = Vec::new();
        for n in 0..10 {
            clients.push(Client::connect(&server, &format!("user-{n}")).await);
        }
        server.signal("TERM");
        for client in &mut clients {
            assert_eq!(client.closed().await.0, 1012);
        }
        drop(clients);
        assert_eq!(server.wait_exit().code(), Some(0));
        server = Server::start_at(&listen, &[]);
        assert_eq!(server.addr.to_string(), listen);
    }
}

#[test]
fn a_busy_port_is_named() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("it is bound").to_string();
    busy(&address);
}

/// The listeners of one gateway share their port among its cores; a second gateway must not.
#[test]
fn a_second_gateway_on_the_same_port_is_refused() {
    let first = Server::start(&[]);
    busy(&first.addr.to_string());
    Raw::upgraded(first.addr, "/ws").expect_text();
}

fn busy(address: &str) {
    let finished = run(&mut Server::command(address, &[]));
    assert!(
        finished.code.is_some_and(|code| code != 0),
        "{address} is taken: {finished:?}"
    );
    assert!(finished.stderr.contains(address), "{finished:?}");
    assert!(finished.stderr.contains("in use"), "{finished:?}");
    assert!(!finished.stdout.contains("ready"), "{finished:?}");
}

#[test]
fn help_and_version_go_to_stdout_with_0() {
    let help = tidegate_ends(&["--help"]);
    assert_eq!(help.code, Some(0), "{help:?}");
    assert!(help.stdout.contains("serve"), "{help:?}");
    let help = tidegate_ends(&["serve", "--help"]);
    assert_eq!(help.code, Some(0), "{help:?}");
    for flag in ["--listen", "--cores", "--demo", "--config", "--set"] {
        assert!(help.stdout.contains(flag), "{flag} not in {help:?}");
    }
    let version = tidegate_ends(&["--version"]);
    assert_eq!(version.code, Some(0), "{version:?}");
    assert!(
        version.stdout.contains(env!("CARGO_PKG_VERSION")),
        "{version:?}"
    );
}

#[test]
fn bad_flags_exit_with_2() {
    let cases: [&[&str]; 5] = [
        &["serve", "--nonsense"],
        &["nonsense"],
        &["serve", "--listen", "not an address"],
        &["serve", "--listen", "127.0.0.1:0", "--cores", "x"],
        &[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--set",
            "no-equals-sign",
        ],
    ];
    for args in cases {
        let finished = tidegate_ends(args);
        assert_eq!(finished.code, Some(2), "{args:?}: {finished:?}");
        assert!(!finished.stderr.is_empty(), "{args:?} says why");
    }
}

#[test]
fn bad_settings_exit_with_2_and_say_which() {
    let cases = [
        ("limits.message_bytes_mx=1KiB", "message_bytes_max"),
        ("limits.message_bytes_max=lots", "message_bytes_max"),
        ("limits.ping_interval=3 parsecs", "ping_interval"),
        ("nonsense.key=1", "nonsense"),
        ("rooms.all_publish_by=everybody", "all_publish_by"),
    ];
    for (setting, named) in cases {
        let finished = run(&mut Server::command("127.0.0.1:0", &["--set", setting]));
        assert_eq!(finished.code, Some(2), "{setting}: {finished:?}");
        assert!(finished.stderr.contains(named), "{setting}: {finished:?}");
    }
}

#[test]
fn bad_files_exit_with_2_and_say_where() {
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let cases = [
        (
            "unknown-key",
            "[limits]\nmessage_bytes_mx = \"1KiB\"\n",
            "message_bytes_max",
        ),
        (
            "wrong-type",
            "[limits]\nheaders_max = \"many\"\n",
            "headers_max",
        ),
        ("not-toml", "[limits\n", "not-toml"),
    ];
    for (name, text, named) in cases {
        let path = directory.join(format!("bad-{name}.toml"));
        std::fs::write(&path, text).expect("the target directory can be written");
        let path = path.to_str().expect("the target directory is UTF-8");
        let finished = run(&mut Server::command("127.0.0.1:0", &["--config", path]));
        assert_eq!(finished.code, Some(2), "{name}: {finished:?}");
        assert!(finished.stderr.contains(named), "{name}: {finished:?}");
        assert!(finished.stderr.contains(path), "{name}: {finished:?}");
    }
    let missing = directory.join("no-such-file.toml");
    let missing = missing.to_str().expect("the target directory is UTF-8");
    let finished = run(&mut Server::command("127.0.0.1:0", &["--config", missing]));
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(
        finished.stderr.contains("no-such-file.toml"),
        "{finished:?}"
    );
}

#[test]
fn a_file_is_read_and_the_command_line_wins() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("good.toml");
    let text = "[limits]\nmessage_bytes_max = \"2KiB\"\nping_interval = \"9s\"\n";
    std::fs::write(&path, text).expect("the target directory can be written");
    let path = path.to_str().expect("the target directory is UTF-8");
    let server = Server::start(&["--config", path, "--set", "limits.ping_interval=8s"]);
    let connected = Raw::upgraded(server.addr, "/ws").expect_text();
    assert!(
        connected.contains("\"message_bytes_max\":2048"),
        "{connected}"
    );
    assert!(connected.contains("\"interval_ms\":8000"), "{connected}");
}

/// For machines, every line of the log is a JSON object, the address is in the first, and there
/// is no banner.
#[test]
fn json_logs_tell_the_address() {
    let mut gateway = Server::command("127.0.0.1:0", &["--set", "log.format=json"])
        .spawn()
        .expect("the gateway starts");
    let log = BufReader::new(gateway.stderr.take().expect("stderr is piped"));
    // Where io_uring is forbidden, a line before it says so.
    let event: Option<Value> = log
        .lines()
        .map_while(Result::ok)
        .map(|line| serde_json::from_str(&line).expect("every line is JSON"))
        .find(|event: &Value| event["fields"]["message"] == "listening");
    let address = event
        .as_ref()
        .and_then(|event| event["fields"]["address"].as_str()?.parse().ok());
    let health = address.map(|address| common::get(address, "/healthz").0);
    gateway.kill().expect("it runs");
    let output = gateway.wait_with_output().expect("it ends");
    assert_eq!(health, Some(200), "{event:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[test]
fn a_log_that_nobody_reads_is_no_reason_to_end() {
    let mut command = Server::command("127.0.0.1:0", &["--set", "log.level=debug"]);
    let (reader, writer) = std::io::pipe().expect("a pipe can be made");
    command.stderr(writer);
    drop(reader);
    let mut server = Server::start_by(command);
    for _ in 0..10 {
        Raw::upgraded(server.addr, "/ws").expect_text();
    }
    assert!(server.is_running());
    assert_eq!(server.terminate().code(), Some(0));
}
