//! Random heads: cuts, a second reading, garbage.

use proptest::prelude::*;

use super::*;

/// Small bounds, so that random heads meet them.
fn small_limits() -> HeadLimits {
    HeadLimits {
        head_bytes_max: 96,
        headers_max: 3,
        target_bytes_max: 12,
    }
}

/// Pieces of heads in a random order: mostly wrong, often nearly right.
fn head_soup() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        &b"GET / HTTP/1.1\r\n"[..],
        b"GET ws://h/p?q HTTP/1.1\r\n",
        b"Host: a\r\n",
        b"Connection: Upgrade, x\r\n",
        b"Content-Length: 0\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b":",
        b"/",
        b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        b"HTTP/2.0",
        b"\0",
        b"\xff",
    ]);
    prop::collection::vec(pieces, 0..10).prop_map(|pieces| pieces.concat())
}

/// The same behind a good request line and host, so that the fields are reached.
fn begun_head() -> impl Strategy<Value = Vec<u8>> {
    head_soup().prop_map(|soup| [&b"GET / HTTP/1.1\r\nHost: a\r\n"[..], &soup].concat())
}

fn pieces<'b>(bytes: &'b [u8], cuts: &[prop::sample::Index]) -> Vec<&'b [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(bytes.len());
    let mut from = 0;
    let mut piece = |to| {
        let piece = &bytes[from..to];
        from = to;
        piece
    };
    cuts.into_iter().map(&mut piece).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_cuts_do_not_change_the_answer(
        mut bytes in prop_oneof![head_soup(), begun_head()],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        // While a line goes on, a reader may not have looked at the end of it yet.
        bytes.push(b'\n');
        let limits = small_limits();
        let whole = answer(&bytes, &limits);
        let cut = feed(pieces(&bytes, &cuts), &limits);
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn what_is_accepted_is_read_alike_line_by_line(bytes in prop_oneof![head_soup(), begun_head()]) {
        if let Some(Ok(seen)) = feed([&bytes[..]], &HeadLimits::default()) {
            let head = String::from_utf8_lossy(&bytes[..seen.length]);
            let head = head.strip_prefix("\r\n").unwrap_or(&head);
            let head = head.strip_suffix("\r\n\r\n").unwrap();
            let mut lines = head.split("\r\n");
            let request: Vec<_> = lines.next().unwrap().split(' ').collect();
            prop_assert!(seen.request.starts_with(&request[..2].join(" ")));
            let mut fields = Vec::new();
            for line in lines {
                let (name, value) = line.split_once(':').unwrap();
                fields.push((name, value.trim_matches(' ')));
            }
            let seen_fields: Vec<_> = seen
                .fields
                .iter()
                .map(|(name, value)| (&name[..], String::from_utf8_lossy(value)))
                .collect();
            prop_assert!(seen_fields.iter().map(|(name, value)| (*name, &value[..])).eq(fields));
        }
    }

    #[test]
    fn garbage_never_panics_nor_is_hoarded(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let _ = feed(pieces(&bytes, &cuts), &small_limits());
    }
}
