//! The demo page, as a browser sees it and as HTTP. The browser is Debian's Chromium, driven by
//! `tests/clients/browser/demo.js`; `tests/run` installs what it needs.

mod common;

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use common::{
    Counters, Server,
    raw::{Raw, Response},
};

/// For the whole list of checks; every single step in it has a deadline of its own.
const LIMIT: Duration = Duration::from_secs(100);
/// The browser runs this many checks, so that one that ran none can't pass.
const CHECKS_MIN: usize = 18;

#[test]
fn chromium_drives_the_page() {
    let module = here("clients/browser/node_modules/playwright-core");
    needs(module.is_dir(), "the npm packages of tests/clients/browser");
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
    needs(Path::new(&chromium).exists(), "chromium");
    let options = [
        "--set",
        "limits.messages_per_second=60",
        "--set",
        "limits.messages_burst=80",
        "--set",
        "drain.window=off",
        "--set",
        "drain.notice=off",
        "--set",
        "drain.retry_after_max=1s",
    ];
    let mut server = Server::start(&options);
    let address = server.addr.to_string();
    let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    let mut browser = Browser::start(&format!("http://{address}/"), &profile);
    let mut checks = 0;
    let mut evicted = 0;
    loop {
        match browser.line().as_str() {
            "done" => break,
            "restart" => {
                evicted += server.counters().total("evicted_slow_total");
                assert!(server.terminate().success());
                server = Server::start_at(&address, &options);
                browser.answer("restarted");
            }
            line if line.starts_with("ok ") => checks += 1,
            line => panic!("after {checks} good checks: {line}"),
        }
    }
    assert!(browser.ends_well());
    assert!(checks >= CHECKS_MIN, "only {checks} checks");
    assert_eq!(evicted, 1, "nobody but the slow client was evicted");
    server.wait_blocking("every gauge at zero", Counters::is_idle);
    assert_eq!(server.counters().total("panics_total"), 0);
}

#[test]
fn the_page_is_there_without_a_configuration_file_and_by_its_flag() {
    let file = common::TempFile::new("demo.toml", "[limits]\nheaders_max = 60\n");
    for (args, is_there) in [
        (&[][..], true),
        (&["--set", "server.demo=false"][..], false),
        (&["--config", file.path()][..], false),
        (&["--config", file.path(), "--demo"][..], true),
        (
            &["--demo", "--set", "routes=[{path=\"/ws\",mode=\"rooms\"}]"][..],
            false,
        ),
    ] {
        let server = Server::start(args);
        let wanted = if is_there { 200 } else { 404 };
        for path in ["/", "/demo/main.js"] {
            assert_eq!(
                ask(&server, "GET", path, "").status,
                wanted,
                "{args:?} {path}"
            );
        }
        let line = format!("  demo        http://{}/", server.addr);
        assert_eq!(
            server.banner.contains(&line),
            is_there,
            "{:?}",
            server.banner
        );
        drop(Raw::upgraded(server.addr, "/ws"));
    }
}

#[test]
fn its_files_have_types_validators_and_a_policy() {
    let server = Server::start(&["--demo"]);
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/demo/base.css", "text/css; charset=utf-8"),
        ("/demo/client.js", "text/javascript; charset=utf-8"),
        ("/demo/icon.svg", "image/svg+xml"),
    ] {
        let got = ask(&server, "GET", path, "");
        assert_eq!(got.status, 200, "{path}");
        let header = |name| got.header(name).unwrap_or_default().to_owned();
        assert_eq!(header("content-type"), content_type, "{path}");
        assert_eq!(header("content-length"), got.body.len().to_string());
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("cache-control"), "no-cache");
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");

        // HEAD is the same without the content (RFC 9110 §9.3.2).
        let head = ask(&server, "HEAD", path, "");
        assert_eq!((head.status, head.text().as_str()), (200, ""));
        for name in ["content-type", "content-length", "etag"] {
            assert_eq!(head.header(name), got.header(name), "{path} {name}");
        }
        let known = format!("If-None-Match: {}\r\n", header("etag"));
        let unchanged = ask(&server, "GET", path, &known);
        assert_eq!((unchanged.status, unchanged.text().as_str()), (304, ""));
        assert_eq!(unchanged.header("etag"), got.header("etag"));

        let post = ask(&server, "POST", path, "");
        assert_eq!(post.status, 405, "{path}");
        assert_eq!(post.header("allow"), Some("GET, HEAD"), "{path}");
    }
    for path in [
        "/index.html",
        "/demo",
        "/demo/",
        "/demo/nothing.js",
        "/favicon.ico",
    ] {
        assert_eq!(ask(&server, "GET", path, "").status, 404, "{path}");
    }
    for path in ["/demo/../demo/main.js", "/demo%2fmain.js"] {
        assert_eq!(ask(&server, "GET", path, "").status, 400, "{path}");
    }
    // A query changes nothing, and the route beside the files is one for clients.
    assert_eq!(ask(&server, "GET", "/?x=1", "").status, 200);
    assert_eq!(ask(&server, "GET", "/demo/ws", "").status, 426);
    drop(Raw::upgraded(server.addr, "/demo/ws"));
    server.wait_blocking("every gauge at zero", Counters::is_idle);
}

fn ask(server: &Server, method: &str, path: &str, lines: &str) -> Response {
    let mut raw = Raw::connect(server.addr);
    raw.send(format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n").as_bytes());
    raw.response()
}

/// The program that drives the browser. Dropping it ends it, and the browser with it.
struct Browser {
    child: Child,
    lines: mpsc::Receiver<String>,
    end: Instant,
}

impl Browser {
    fn start(url: &str, profile: &Path) -> Self {
        let mut child = Command::new("node")
            .arg(here("clients/browser/demo.js"))
            .arg(url)
            .arg(profile)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is there");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                println!("{line}");
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            lines,
            end: Instant::now() + LIMIT,
        }
    }

    /// What it says next; its end, or none in time, fails.
    fn line(&self) -> String {
        let left = self.end.saturating_duration_since(Instant::now());
        self.lines
            .recv_timeout(left)
            .unwrap_or_else(|e| format!("no more lines: {e}"))
    }

    fn answer(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("stdin is piped");
        writeln!(stdin, "{text}").expect("the program listens");
    }

    fn ends_well(&mut self) -> bool {
        drop(self.child.stdin.take());
        let left = self.end.saturating_duration_since(Instant::now());
        assert_eq!(
            self.lines.recv_timeout(left),
            Err(mpsc::RecvTimeoutError::Disconnected),
            "it says nothing more, and ends"
        );
        self.child.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // Asked nicely, it takes its browser with it.
        let ask = format!("kill -s TERM {}", self.child.id());
        let _ = Command::new("sh").args(["-c", &ask]).status();
        let _ = self.child.wait();
    }
}

/// A missing browser is a failure, never a test that passes because it did nothing.
fn needs(is_there: bool, what: &str) {
    assert!(is_there, "{what} is missing: tests/run installs it");
}

/// A path under `tests`.
fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(path)
}
