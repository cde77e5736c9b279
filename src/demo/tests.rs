//! The table of files, and what requests for them get.

use std::collections::BTreeSet;

use super::*;
use crate::proto::http1::{HeadLimits, HeadReader};

fn ask(head: &str, segments: &[&str]) -> Option<String> {
    let limits = HeadLimits {
        head_bytes_max: 4096,
        headers_max: 16,
        target_bytes_max: 1024,
    };
    let bytes = head.as_bytes().to_vec();
    let mut reader = HeadReader::default();
    let (head, _) = reader.handle_input(&bytes, &limits).unwrap().unwrap();
    let mut out = Vec::new();
    answer(&head, segments)?.write_to(&mut out);
    Some(String::from_utf8(out).unwrap())
}

#[test]
fn the_page_and_its_files_are_there_and_nothing_else() {
    let get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let page = ask(get, &[]).unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("\r\nContent-Type: text/html; charset=utf-8\r\n"));
    for asset in &ASSETS {
        let segments: Vec<&str> = asset.path.split('/').filter(|s| !s.is_empty()).collect();
        let got = ask(get, &segments).unwrap();
        assert!(got.ends_with(asset.text), "{}", asset.path);
        assert!(asset.text.ends_with('\n'), "{}", asset.path);
    }
    for other in [
        &["", ""][..],
        &["demo"],
        &["demo", ""],
        &["demo", "index.html"],
        &["demo", "main.js", ""],
        &["main.js"],
        &["demo", "MAIN.js"],
    ] {
        assert!(ask(get, other).is_none(), "{other:?}");
    }
}

#[test]
fn what_a_browser_has_already_is_not_sent_again() {
    let page = ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n", &[]).unwrap();
    let tag = page
        .lines()
        .find_map(|line| line.strip_prefix("ETag: "))
        .unwrap();
    for known in [tag, &format!("W/{tag}"), &format!("\"other\", {tag}"), "*"] {
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nIf-None-Match: {known}\r\n\r\n");
        let answer = ask(&head, &[]).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 304 Not Modified\r\n"),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }
    let head = "GET / HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"other\"\r\n\r\n";
    assert!(ask(head, &[]).unwrap().starts_with("HTTP/1.1 200"));
    let tags: BTreeSet<&String> = TAGS.iter().collect();
    assert_eq!(tags.len(), ASSETS.len());
}

#[test]
fn other_methods_are_refused() {
    let answer = ask("POST / HTTP/1.1\r\nHost: x\r\n\r\n", &[]).unwrap();
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("\r\nAllow: GET, HEAD\r\n"), "{answer}");
}

/// Whatever a file of the page names is a file of the page, and nothing names another server.
#[test]
fn every_file_that_is_named_is_there() {
    let names: Vec<&str> = ASSETS
        .iter()
        .filter_map(|asset| asset.path.strip_prefix("demo/"))
        .collect();
    let mut named = 0;
    for asset in &ASSETS {
        for (at, _) in asset.text.match_indices("\"./") {
            let rest = &asset.text[at + 3..];
            let name = &rest[..rest.find('"').unwrap()];
            assert!(names.contains(&name), "{} names {name}", asset.path);
            named += 1;
        }
        for (at, _) in asset.text.match_indices("\"demo/") {
            let rest = &asset.text[at + 6..];
            let name = &rest[..rest.find('"').unwrap()];
            assert!(
                names.contains(&name) || name == "ws",
                "{} names {name}",
                asset.path
            );
            named += 1;
        }
        let outside = asset.text.replace("http://www.w3.org/2000/svg", "");
        for scheme in ["http://", "https://", "url(", "@import"] {
            assert!(!outside.contains(scheme), "{}: {scheme}", asset.path);
        }
    }
    assert!(named >= 12, "{named}");
}

/// The page says how much may wait for its slow client: what the route that it uses allows.
#[test]
fn the_page_tells_the_limits_that_hold() {
    let mut config = crate::config::Config::default();
    config.server.demo = true;
    let routes = config.effective_routes();
    let slow = ASSETS.iter().find(|a| a.path == "demo/slow.js").unwrap();
    let path = crate::config::DEMO_SLOW_PATH.trim_start_matches('/');
    assert!(slow.text.contains(&format!("const PATH = \"{path}\";")));
    let route = routes.iter().find(|r| r.path.ends_with(path)).unwrap();
    let kib = route.limits.buffered_bytes_high.unwrap().0 / 1024;
    let told = format!("export const QUEUE_KIB = {kib};");
    assert!(slow.text.contains(&told), "{told}");
}
