//! `tidegate bench` over TLS and with permessage-deflate: against servers that share no code with it,
//! and against the gateway.

mod common;
mod load;

use common::{Server, TempFile, certs::Tls};
use load::{
    ECHO, FANOUT, FAULTS, bench, check_fault,
    compressing::{Quirk, compressing_server},
    faults,
    faulty::{Fault, Secure, secure_server, server},
    figures,
};
use serde_json::Value;

#[test]
fn every_fault_over_tls_is_counted_once() {
    let secure = Secure::new("localhost");
    let file = TempFile::new("faults-ca.pem", &secure.pem);
    let modes = [ECHO, FANOUT].map(|mode| format!("{mode} --ca {}", file.path()));
    // The checks are those of a plain connection: every other fault in either mode.
    for (n, (fault, expected)) in FAULTS.into_iter().enumerate() {
        check_fault(&modes[n % 2], fault, expected, |fault| {
            let (addr, pongs) = secure_server(&secure, fault);
            (format!("wss://localhost:{}/", addr.port()), pongs)
        });
    }
}

#[test]
fn loads_over_tls_are_measured() {
    let secure = Secure::new("localhost");
    let file = TempFile::new("loads-ca.pem", &secure.pem);
    let (addr, _) = secure_server(&secure, Fault::None);
    let url = format!("wss://localhost:{}/", addr.port());
    let trust = format!("--ca {}", file.path());
    for load in [
        "--connections 8 --depth 16",
        "--connections 2 --depth 4 --payload 16KiB",
        "--connections 2 --payload 200KiB",
        "--connections 4 --rate 500",
        "--connections 2 --insecure",
    ] {
        let trust = if load.contains("--insecure") {
            ""
        } else {
            &trust
        };
        let line = format!("{load} --duration 300ms --warm-up 100ms {trust}");
        let report = figures(&url, &line, 0);
        assert_eq!(faults(&report), [0; 5]);
        assert!(
            report["messages"]["received"].as_u64() > Some(0),
            "{report}"
        );
        let tls = &report["tls"];
        assert_eq!(tls["version"], "1.3", "{report}");
        assert_eq!(tls["suite"], "TLS13_AES_128_GCM_SHA256", "{report}");
        assert_eq!(tls["full"], report["connections"]["opened"], "{report}");
        assert_eq!(tls["resumed"], 0, "{report}");
    }
    let line = format!("--mode idle --connections 50 --hold 100ms {trust}");
    let report = figures(&url, &line, 0);
    assert_eq!(
        (faults(&report), &report["tls"]["full"]),
        ([0; 5], &50.into())
    );
}

#[test]
fn tls_handshakes_are_counted_and_resumed_on_demand() {
    let secure = Secure::new("localhost");
    let (addr, _) = secure_server(&secure, Fault::None);
    let url = format!("wss://localhost:{}/", addr.port());
    let count = |load: &str| {
        let times = "--duration 500ms --warm-up 200ms";
        let line = format!("--mode connect --insecure --in-flight 8 {times} {load}");
        let report = figures(&url, &line, 0);
        assert_eq!(faults(&report), [0; 5]);
        let opened = report["connections"]["opened"].as_u64();
        assert!(opened > Some(0), "{report}");
        let of = |name| report["tls"][name].as_u64().expect("a count");
        (of("full"), of("resumed"))
    };
    for closing in ["--closing reset", "--closing handshake"] {
        let (full, resumed) = count(closing);
        assert!(full > 0 && resumed == 0, "{full} {resumed}");
        // Every connection leaves two tickets; at first, up to eight on their way have none.
        let (full, resumed) = count(&format!("--resume {closing}"));
        assert!(full <= 8 && resumed > 0, "{full} {resumed}");
    }
}

#[test]
fn a_server_that_is_not_trusted_is_refused() {
    let secure = Secure::new("localhost");
    let other = Secure::new("elsewhere");
    let file = TempFile::new("ca.pem", &secure.pem);
    let wrong = TempFile::new("other.pem", &other.pem);
    let none = TempFile::new("none.pem", "nothing");
    let (addr, _) = secure_server(&secure, Fault::None);
    let (plain, _) = server(Fault::None);
    let url = format!("wss://localhost:{}/", addr.port());
    let by_address = format!("wss://127.0.0.1:{}/", addr.port());
    let no_tls = format!("wss://{plain}/");
    let secure_as_plain = format!("ws://{addr}/");
    let trust = format!("--ca {}", file.path());
    let distrust = format!("--ca {}", wrong.path());
    let nothing = format!("--ca {}", none.path());
    for (url, line, why) in [
        (&url, &distrust, "UnknownIssuer; --ca"),
        (&by_address, &trust, "certificate not valid for name"),
        (&no_tls, &trust, "TLS handshake"),
        (&url, &nothing, "no certificate"),
        (&url, &"--ca /nowhere/ca.pem".to_owned(), "/nowhere/ca.pem"),
        (&secure_as_plain, &String::new(), ""),
    ] {
        for mode in ["echo", "connect"] {
            let finished = bench(url, &format!("{line} --mode {mode}"));
            assert_eq!(finished.code, Some(1), "{url} {line}: {finished:?}");
            assert!(finished.stderr.contains(why), "{url} {line}: {finished:?}");
        }
    }
    let finished = bench(&url, "");
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("--insecure"), "{finished:?}");
}

#[test]
fn compressed_messages_are_checked() {
    let own = "--deflate --timeout 2s --duration 300ms --warm-up 0 --content json --payload 1KiB";
    for (quirk, expected) in [
        (Quirk::None, [0, 0, 0, 0, 0]),
        (Quirk::Mixed, [0, 0, 0, 0, 0]),
        (Quirk::Fragments, [0, 0, 0, 0, 0]),
        (Quirk::Changed, [1, 0, 0, 0, 0]),
        (Quirk::TooLong, [1, 0, 0, 0, 0]),
        (Quirk::Corrupt, [0, 1, 0, 0, 1]),
        (Quirk::Cut, [0, 1, 0, 0, 1]),
        (Quirk::CompressedPing, [0, 1, 0, 0, 1]),
        (Quirk::CompressedFragment, [0, 1, 0, 0, 1]),
    ] {
        for mode in [ECHO, FANOUT] {
            let mut expected = expected;
            if (mode, quirk) == (FANOUT, Quirk::TooLong) {
                // It may have been anything, so what was due did not come.
                expected[1] = 1;
            }
            let addr = compressing_server(quirk);
            let code = if expected == [0; 5] { 0 } else { 3 };
            let report = figures(&format!("ws://{addr}/"), &format!("{mode} {own}"), code);
            assert_eq!(faults(&report), expected, "{mode} {quirk:?}: {report}");
            let count = |path| {
                report
                    .pointer(path)
                    .and_then(Value::as_u64)
                    .expect("a count")
            };
            let (compressed, received) = (count("/deflate/messages"), count("/messages/received"));
            let bytes = count("/deflate/message_bytes");
            match quirk {
                Quirk::Mixed => assert!((received / 2 - 9..received).contains(&compressed)),
                Quirk::None | Quirk::Fragments => {
                    assert_eq!(compressed, received, "{report}");
                    assert_eq!(bytes, received * 1024, "{report}");
                    // A stored block and what is left of an empty one.
                    assert_eq!(count("/deflate/wire_bytes"), bytes + received * 6);
                }
                _ => assert!(compressed > 0, "{report}"),
            }
        }
    }
}

#[test]
fn compression_that_was_not_asked_for_is_refused() {
    for (answer, why) in [
        ("", "does not accept permessage-deflate"),
        ("permessage-deflate", "not requested"),
        (
            "permessage-deflate; server_no_context_takeover; client_max_window_bits=9",
            "not requested",
        ),
        ("permessage-bzip2", "not requested"),
        ("permessage-deflate;", "malformed"),
    ] {
        let addr = compressing_server(Quirk::Answers(answer));
        for mode in ["echo", "connect", "idle"] {
            let line = format!("--mode {mode} --deflate --connections 2");
            let finished = bench(&format!("ws://{addr}/"), &line);
            assert_eq!(finished.code, Some(1), "{answer}: {finished:?}");
            assert!(finished.stderr.contains(why), "{answer}: {finished:?}");
        }
    }
}

#[test]
fn the_gateway_is_measured_over_tls() {
    let tls = Tls::start(&["--demo", "--cores", &common::cores(2)]);
    let trust = format!("--ca {}", tls.trusted().display());
    let echo = format!("{}/echo", tls.url());
    let rooms = format!("{}/ws", tls.url());
    let fan_out = "--mode fanout --preset tidegate --connections 24 --rooms 3";
    for (url, load) in [
        (&echo, "--connections 20 --depth 16"),
        (&echo, "--connections 4 --depth 4 --payload 16KiB"),
        (&echo, "--connections 4 --rate 1000"),
        (&rooms, fan_out),
        (&rooms, "--mode idle --preset tidegate --connections 100"),
    ] {
        let line = format!("{load} --duration 300ms --warm-up 100ms {trust}");
        let report = figures(url, &line, 0);
        assert_eq!(faults(&report), [0; 5]);
        assert_eq!(
            report["tls"]["full"], report["connections"]["opened"],
            "{report}"
        );
    }
    // Whichever core gave a ticket, every core takes it.
    for load in ["", "--closing handshake"] {
        let line = format!("--mode connect --resume --in-flight 8 --duration 500ms {load} {trust}");
        let report = figures(&echo, &line, 0);
        assert_eq!(faults(&report), [0; 5]);
        let of = |name| report["tls"][name].as_u64().expect("a count");
        assert!(of("full") <= 8 && of("resumed") > 0, "{report}");
    }
    assert!(tls.server.counters().total("tls_handshakes_resumed_total") > 0);
}

#[test]
fn slow_members_over_tls_are_seen_to_be_evicted() {
    let tls = Tls::start(&[
        "--set",
        "limits.buffered_bytes_high=256KiB",
        "--set",
        "limits.buffered_bytes_low=64KiB",
        "--set",
        "rooms.announce_members_max=0",
    ]);
    let url = format!("{}/ws", tls.url());
    let line = format!(
        "--mode slow --preset tidegate --connections 6 --slow 2 --payload 48KiB --duration 2s \
         --warm-up 0 --ca {}",
        tls.trusted().display()
    );
    let report = figures(&url, &line, 0);
    assert_eq!(faults(&report), [0; 5]);
    assert_eq!(report["slow"]["evicted"], 2, "{report}");
    assert_eq!(tls.server.counters().total("evicted_slow_total"), 2);
}

/// What the gateway compresses is inflated to what was sent, in echoes and in rooms.
#[test]
fn the_gateway_is_measured_with_compression() {
    let server = Server::quiet(&["--demo"]);
    let common = "--deflate --content json --payload 4KiB --duration 300ms --warm-up 100ms";
    for (path, load) in [
        ("echo", "--connections 4 --depth 4"),
        (
            "ws",
            "--mode fanout --preset tidegate --connections 24 --rooms 3 --depth 4",
        ),
    ] {
        let line = format!("{load} {common}");
        let report = figures(&format!("{}/{path}", server.url()), &line, 0);
        assert_eq!(faults(&report), [0; 5]);
        let of = |name| report["deflate"][name].as_u64().expect("a count");
        assert!(of("messages") > 0, "{report}");
        assert!(of("wire_bytes") * 2 < of("message_bytes"), "{report}");
    }
    let url = format!("{}/ws", server.url());
    for mode in ["idle", "connect"] {
        let line = format!("--mode {mode} --connections 50 {common}");
        let report = figures(&url, &line, 0);
        assert_eq!(faults(&report), [0; 5]);
    }
}
