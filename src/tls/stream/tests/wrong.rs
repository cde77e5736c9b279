//! Peers that do wrong, and what it costs.

use rustls::{ContentType, version};

use super::{raw::RawClient, *};

/// What the last record says if it is an alert that is not encrypted.
fn bare_alert(server: &mut Stream) -> Option<(u8, u8)> {
    let mut output = Vec::new();
    server.take_output(&mut output);
    match output.as_slice() {
        [.., 21, 3, _, 0, 2, level, description] => Some((*level, *description)),
        _ => None,
    }
}

#[test]
fn garbage_is_answered_with_an_alert() {
    let configs = configs(rustls::ALL_VERSIONS);
    let cases: [(&str, Vec<u8>, Failure, u8); 5] = [
        (
            "text",
            b"\nhello, who is there?".to_vec(),
            Failure::Protocol,
            50,
        ),
        ("binary", vec![0xff; 300], Failure::Protocol, 50),
        // RFC 8446 §5.1: a record beyond 2^14 + 256 bytes. record_overflow (22) would be the alert for
        // it; rustls takes the header for broken.
        (
            "an oversized record",
            vec![22, 3, 1, 0x50, 0],
            Failure::Protocol,
            50,
        ),
        ("data", vec![23, 3, 3, 0, 2, 1, 2], Failure::Protocol, 10),
        (
            "an empty handshake record",
            vec![22, 3, 1, 0, 0],
            Failure::Protocol,
            50,
        ),
    ];
    for interface in BOTH {
        for (what, bytes, failure, alert) in &cases {
            for split in [&[1usize][..], &[]] {
                let mut pair = Pair::new(&configs, interface);
                let error = pair.deliver(bytes, split).unwrap_err();
                assert_eq!(error.failure(), *failure, "{what}: {error}");
                assert_eq!(
                    bare_alert(&mut pair.server),
                    Some((2, *alert)),
                    "{what}: {error}"
                );
                assert!(pair.server.has_failed() && !pair.server.may_send());
                // Whatever comes now is nothing any more.
                pair.deliver(&[22; 400], &[]).unwrap();
                pair.server.close();
                assert!(!pair.server.has_output());
            }
        }
    }
}

#[test]
fn a_handshake_that_goes_on_and_on_is_cut_off() {
    let configs = configs(rustls::ALL_VERSIONS);
    for interface in BOTH {
        // A ClientHello of 64 KiB, of which two bytes come in each record.
        let mut pair = Pair::new(&configs, interface);
        let mut hello = vec![22, 3, 1, 0, 4, 1, 0, 0xff, 0xff];
        let part = [22, 3, 1, 0, 2, 0, 0];
        hello.extend(part.repeat(60_000 / 2));
        let error = pair.deliver(&hello, &[4096]).unwrap_err();
        assert_eq!(error.failure(), Failure::Protocol);
        assert!(pair.server.buffered_bytes() <= 64, "nothing is kept");
        // One whose bytes wait in line.
        let mut pair = Pair::new(&configs, interface);
        let mut kept = 0;
        while pair.server.keep_input(&hello[..4096]).is_ok() {
            kept += 4096;
        }
        assert_eq!(kept, CARRIED_BYTES_MAX);
        assert!(pair.server.has_failed());
    }
}

#[test]
fn who_agrees_on_nothing_is_told_so() {
    let (server, _) = configs(&[&version::TLS13]);
    let (_, old) = configs(&[&version::TLS12]);
    let (_, client) = configs(&[&version::TLS13]);
    let mut h2 = (*client).clone();
    h2.alpn_protocols = vec![b"h2".to_vec()];
    for interface in BOTH {
        let h2 = Arc::new(h2.clone());
        for (client, alert) in [(&old, "ProtocolVersion"), (&h2, "NoApplicationProtocol")] {
            let mut pair = Pair::new(&(Arc::clone(&server), Arc::clone(client)), interface);
            let hello = pair.client_records();
            let error = pair.deliver(&hello, &[]).unwrap_err();
            assert_eq!(error.failure(), Failure::Negotiation, "{error}");
            let mut output = Vec::new();
            pair.server.take_output(&mut output);
            pair.client.read_tls(&mut output.as_slice()).unwrap();
            let told = pair.client.process_new_packets().unwrap_err();
            assert!(told.to_string().contains(alert), "{told}");
        }
        // A client that trusts somebody else says so.
        let mut pair = Pair::new(&(Arc::clone(&server), Arc::clone(&client)), interface);
        let hello = pair.client_records();
        pair.deliver(&hello, &[]).unwrap();
        let mut flight = Vec::new();
        pair.server.take_output(&mut flight);
        pair.client.read_tls(&mut flight.as_slice()).unwrap();
        pair.client.process_new_packets().unwrap_err();
        let alert = pair.client_records();
        let error = pair.deliver(&alert, &[]).unwrap_err();
        assert_eq!(error.failure(), Failure::PeerAlert, "{error}");
    }
}

#[test]
fn an_altered_record_ends_the_connection_and_nothing_of_it_is_heard() {
    let configs = configs(rustls::ALL_VERSIONS);
    for interface in BOTH {
        let mut pair = Pair::open(&configs, interface, &[]);
        pair.client_says(b"good");
        let mut records = pair.client_records();
        pair.client_says(b"evil");
        let mut altered = pair.client_records();
        *altered.last_mut().unwrap() ^= 1;
        records.extend(altered);
        let error = pair.deliver(&records, &[]).unwrap_err();
        assert_eq!(error.failure(), Failure::Protocol);
        assert_eq!(pair.heard, b"good");
        // bad_record_mac, encrypted as everything is by now.
        let mut output = Vec::new();
        pair.server.take_output(&mut output);
        pair.client.read_tls(&mut output.as_slice()).unwrap();
        let told = pair.client.process_new_packets().unwrap_err();
        assert!(told.to_string().contains("BadRecordMac"), "{told}");
    }
}

#[test]
fn empty_records_say_nothing_and_a_flood_of_them_ends_the_connection() {
    for interface in BOTH {
        let mut client = RawClient::open(interface);
        for _ in 0..100 {
            for _ in 0..10 {
                client.says(ContentType::ApplicationData, b"").unwrap();
            }
            client.says(ContentType::ApplicationData, b".").unwrap();
        }
        assert_eq!(client.heard, [b'.'; 100]);
        assert_eq!(client.server.buffered_bytes(), 0);
        let flood = (0..1_000).find_map(|n| {
            let said = client.says(ContentType::ApplicationData, b"");
            said.err().map(|error| (n, error.failure()))
        });
        assert!(flood.is_some_and(|(n, failure)| n < 100 && failure == Failure::Protocol));
    }
}

#[test]
fn a_key_update_in_pieces_is_put_together() {
    for interface in BOTH {
        for gap in [1, 2, 3, 4] {
            let mut client = RawClient::open(interface);
            // KeyUpdate, update_not_requested.
            let update = [24, 0, 0, 1, 0];
            let mut records = client.record(ContentType::Handshake, &update[..gap]);
            client
                .server
                .handle_input(&mut records, &mut client.heard)
                .unwrap();
            // Between its pieces the other direction goes on.
            let (mut out, mut staging) = (Vec::new(), Vec::new());
            let answer = [b"answer".as_slice()];
            client
                .server
                .encrypt(answer.into_iter(), &mut staging, &mut out)
                .unwrap();
            assert_eq!(record_lengths(&out), [6 + 22]);
            let mut records = client.record(ContentType::Handshake, &update[gap..]);
            client
                .server
                .handle_input(&mut records, &mut client.heard)
                .unwrap();
            assert_eq!(client.server.buffered_bytes(), 0, "gap {gap}");
            // It holds: what the old keys encrypt is nothing any more.
            let error = client
                .says(ContentType::ApplicationData, b"old")
                .unwrap_err();
            assert_eq!(error.failure(), Failure::Protocol);
        }
    }
}

#[test]
fn floods_of_alerts_and_of_key_updates_end_the_connection() {
    for interface in BOTH {
        let mut client = RawClient::open(interface);
        // user_canceled is the one warning that TLS 1.3 knows.
        let flood = (0..100).find_map(|n| {
            let said = client.says(ContentType::Alert, &[1, 90]);
            said.err().map(|_| n)
        });
        assert!(flood.is_some_and(|n| n < 50), "{flood:?}");
        let mut client = RawClient::open(interface);
        let two = [24, 0, 0, 1, 1].repeat(2);
        // RFC 8446 §5.1: keys change at a record's end.
        let error = client.says(ContentType::Handshake, &two).unwrap_err();
        assert_eq!(error.failure(), Failure::Protocol);
    }
}
