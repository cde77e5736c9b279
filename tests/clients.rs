//! Three client libraries that this project did not write, each in its own language, run the same
//! list of checks against a gateway: npm's `ws`, PyPI's `websockets` and Go's gorilla/websocket.
//! The programs are in `tests/clients`; `tests/run` installs what they need.

mod common;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use common::{Finished, Server, certs::Tls, run_for};

#[test]
fn node_ws() {
    let module = here("clients/node/node_modules/ws");
    needs(on_path("node"), "node");
    needs(module.is_dir(), "the npm packages of tests/clients/node");
    let mut node = program("node");
    node.arg(here("clients/node/client.js"));
    passes(node);
}

#[test]
fn node_ws_over_tls() {
    let module = here("clients/node/node_modules/ws");
    needs(on_path("node"), "node");
    needs(module.is_dir(), "the npm packages of tests/clients/node");
    let mut node = program("node");
    node.arg(here("clients/node/client.js"));
    passes_over_tls(node, "NODE_EXTRA_CA_CERTS");
}

#[test]
fn python_websockets() {
    let python = here(".tools/venv/bin/python");
    needs(
        python.exists(),
        "the Python environment in tests/.tools/venv",
    );
    let mut client = program(&python);
    client.arg(here("clients/python/client.py"));
    passes(client);
}

#[test]
fn python_websockets_over_tls() {
    let python = here(".tools/venv/bin/python");
    needs(
        python.exists(),
        "the Python environment in tests/.tools/venv",
    );
    let mut client = program(&python);
    client.arg(here("clients/python/client.py"));
    passes_over_tls(client, "SSL_CERT_FILE");
}

#[test]
fn go_gorilla() {
    needs(on_path("go"), "go");
    let library = Path::new(GOPATH).join("src/github.com/gorilla/websocket");
    needs(library.is_dir(), "gorilla/websocket");
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-client");
    let mut build = program("go");
    build
        .args(["build", "-o"])
        .arg(&binary)
        .arg("./clients/go")
        .current_dir(here(""))
        .env("GO111MODULE", "off")
        .env("GOPATH", GOPATH)
        .env("GOFLAGS", "");
    let built = run_for(&mut build, LIMIT);
    assert_eq!(built.code, Some(0), "{}", built.stderr);
    passes(program(&binary));
}

/// Every line that `client` prints about a gateway of its own says ok.
fn passes(mut client: Command) {
    let server = Server::start(&["--demo", "--set", "limits.message_bytes_max=2MiB"]);
    client.arg(server.url());
    passes_at(&server, client);
}

/// The same, encrypted; the client finds whom to trust in the file that the variable `trust` names.
fn passes_over_tls(mut client: Command, trust: &str) {
    let tls = Tls::start(&["--demo", "--set", "limits.message_bytes_max=2MiB"]);
    client.arg(tls.url()).env(trust, tls.trusted());
    passes_at(&tls.server, client);
    assert!(tls.server.counters().total("tls_handshakes_total") > 0);
}

fn passes_at(server: &Server, mut client: Command) {
    let Finished {
        code,
        stdout,
        stderr,
    } = run_for(&mut client, LIMIT);
    println!("{stdout}");
    let checks = stdout
        .lines()
        .filter(|line| line.starts_with("ok "))
        .count();
    assert!(
        code == Some(0) && checks >= CHECKS_MIN,
        "exit code {code:?} after {checks} good checks\n{stdout}{stderr}"
    );
    server.wait_blocking("every gauge at zero", common::Counters::is_idle);
    assert_eq!(server.counters().total("panics_total"), 0);
}

/// A missing client is a failure, never a test that passes because it did nothing.
fn needs(is_there: bool, what: &str) {
    assert!(is_there, "{what} is missing: tests/run installs it");
}

fn program(path: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(path);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

/// A path under `tests`.
fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(path)
}

/// Where Debian's packages of Go libraries put their sources.
const GOPATH: &str = "/usr/share/gocode";
/// For a whole program; every single step in it has a deadline of its own.
const LIMIT: Duration = Duration::from_secs(180);
/// Each program runs this many checks, so that one that ran none can't pass.
const CHECKS_MIN: usize = 18;
