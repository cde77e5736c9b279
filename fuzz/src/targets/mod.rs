//! What is fuzzed: each target is a function that takes any bytes and panics where the gateway is wrong.
//!
//! Three drivers call it: libFuzzer (`fuzz/run`), the test that replays the corpus and every crash ever
//! found (`tests/fuzz_corpus.rs`), and a person with one file. A target knows none of them. It is
//! deterministic: what it draws, it draws from its input; only `tls` has keys that it does not choose.

mod command;
mod config;
mod deflate;
mod forwarded;
mod frames;
mod handshake;
mod head;
mod proxy_header;
mod rooms;
mod script;
mod target_uri;
mod tls;
mod utf8;

/// One function to be fuzzed.
pub(crate) struct Target {
    /// Names it, and its folders in `fuzz/corpus` and `fuzz/crashes`.
    pub(crate) name: &'static str,
    /// Takes any input; panics where something is wrong.
    pub(crate) run: fn(&[u8]),
    /// Inputs to begin with: what is usual, and what each check is there for.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "command",
        run: command::run,
        seeds: command::seeds,
    },
    Target {
        name: "config",
        run: config::run,
        seeds: config::seeds,
    },
    Target {
        name: "deflate",
        run: deflate::run,
        seeds: deflate::seeds,
    },
    Target {
        name: "forwarded",
        run: forwarded::run,
        seeds: forwarded::seeds,
    },
    Target {
        name: "frames",
        run: frames::run,
        seeds: frames::seeds,
    },
    Target {
        name: "handshake",
        run: handshake::run,
        seeds: handshake::seeds,
    },
    Target {
        name: "head",
        run: head::run,
        seeds: head::seeds,
    },
    Target {
        name: "proxy_header",
        run: proxy_header::run,
        seeds: proxy_header::seeds,
    },
    Target {
        name: "rooms",
        run: rooms::run,
        seeds: rooms::seeds,
    },
    Target {
        name: "target_uri",
        run: target_uri::run,
        seeds: target_uri::seeds,
    },
    Target {
        name: "tls",
        run: tls::run,
        seeds: tls::seeds,
    },
    Target {
        name: "utf8",
        run: utf8::run,
        seeds: utf8::seeds,
    },
];

/// The target of this name.
pub(crate) fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
