//! The configuration as an operator meets it: files, the environment and options of the real
//! program, all errors at once, and the examples in configs/.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::{
    Finished, Server,
    certs::{self, Authority},
    cores, run, tidegate,
};

/// A directory of this test's own, empty.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("config-{name}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(path.join("cores")).expect("the target directory can be written");
    path
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("the target directory can be written");
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}

fn check(args: &[&str]) -> Finished {
    run(tidegate().arg("check").args(args))
}

/// The lines of stderr that tell of a problem: not empty, not a quoted line of a file.
fn told(finished: &Finished) -> Vec<&str> {
    finished
        .stderr
        .lines()
        .skip(1)
        .filter(|line| !line.is_empty() && !line.starts_with("  "))
        .collect()
}

#[test]
fn without_a_file_the_defaults_are_valid_and_shown() {
    let finished = check(&[]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stderr.is_empty(), "{finished:?}");
    assert!(
        finished.stdout.ends_with("# configuration is valid\n"),
        "{finished:?}"
    );
    for line in finished.stdout.lines().filter(|l| l.contains(" = ")) {
        assert!(line.ends_with("# default"), "{line}");
    }
}

#[test]
fn every_value_is_shown_with_its_source() {
    let directory = directory("sources");
    let main = directory.join("tidegate.toml");
    write(
        &main,
        "[limits]\nping_interval = \"20s\"\npong_timeout = \"6s\"\nheaders_max = 32\n\
         [[routes]]\npath = \"/a\"\nmode = \"rooms\"\n\
         [[rooms.match]]\nname = \"chat:*\"\nslow_client = \"conflate\"\n",
    );
    write(
        &directory.join("cores/0.toml"),
        "cpu = 0\n\nrecv_buffers = 128\nlisten = \"10.9.9.9:1\"\n",
    );
    write(&directory.join("cores/notes.txt"), "not a worker's file");
    let finished = run(tidegate()
        .env("TIDEGATE_LIMITS__PONG_TIMEOUT", "7s")
        .env("TIDEGATE_ROOMS__SLOW_CLIENT", "drop_oldest")
        .env("TIDEGATE_LIMITS__HEADERS_MAX", "33")
        .env("TIDEGATE_SIM_SEED", "x")
        .env("TIDEGATE_TEST_SEED", "1")
        .args(["check", "--config", shown(&main)])
        .args(["--set", "limits.headers_max=34"])
        .args(["--set", "limits.headers_max=35"])
        .args(["--set", "cores.0.cpu=1"])
        .args(["--set", "server.node=a"])
        .args(["--listen", "127.0.0.1:7"]));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let lines: Vec<(&str, &str)> = finished
        .stdout
        .lines()
        .filter_map(|line| line.split_once(" # "))
        .map(|(value, source)| (value.trim_end(), source))
        .collect();
    for expected in [
        ("ping_interval = \"20s\"", "tidegate.toml:2"),
        (
            "pong_timeout = \"7s\"",
            "environment TIDEGATE_LIMITS__PONG_TIMEOUT",
        ),
        (
            "slow_client = \"drop_oldest\"",
            "environment TIDEGATE_ROOMS__SLOW_CLIENT",
        ),
        ("headers_max = 35", "--set"),
        ("listen = \"127.0.0.1:7\"", "--listen"),
        ("path = \"/a\"", "tidegate.toml:6"),
        ("name = \"chat:*\"", "tidegate.toml:9"),
        ("slow_client = \"conflate\"", "tidegate.toml:10"),
        ("cpu = 1", "--set"),
        ("recv_buffers = 128", "cores/0.toml:3"),
        ("message_bytes_max = \"64KiB\"", "default"),
    ] {
        assert!(lines.contains(&expected), "{expected:?} in {lines:#?}");
    }
    // `--listen` wins over the core's file too.
    assert!(!finished.stdout.contains("10.9.9.9"), "{finished:?}");

    // What is shown is a configuration, and comes to the same.
    let again = directory.join("again");
    fs::create_dir_all(&again).expect("the target directory can be written");
    let again = again.join("again.toml");
    write(&again, &finished.stdout);
    let second = check(&["--config", shown(&again)]);
    assert_eq!(second.code, Some(0), "{second:?}");
    let values = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split(" # ").next().unwrap_or_default().trim_end())
            .filter(|line| !line.starts_with('#'))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(values(&second.stdout), values(&finished.stdout));
}

#[test]
fn all_errors_are_told_at_once_by_check_and_by_serve() {
    let directory = directory("errors");
    let main = directory.join("tidegate.toml");
    write(
        &main,
        "[limits]\n\
         ping_intervall = \"5s\"\n\
         pong_timeout = 5\n\
         headers_max = 2 many\n\
         message_bytes_max = \"64Kib\"\n\
         rooms_per_client = 0\n\
         buffered_bytes_low = \"2MiB\"\n\
         room_members_max = 5\n\
         room_members_max = 6\n\
         [rooms]\n\
         delivery = \"acked\"\n\
         [log]\n\
         level = \"tidegate=loud=1\"\n",
    );
    write(&directory.join("cores/0.toml"), "cpu = 1\nlisten = 7\n");
    write(
        &directory.join("cores/1.toml"),
        "cpu = 1\nroutes = [\"/x\"]\n",
    );
    let args = [
        "--config",
        shown(&main),
        "--set",
        "drain.window=1m",
        "--set",
        "server.demo=maybe",
        "--set",
        "nonsense",
    ];
    let with = |command: &str| {
        run(tidegate()
            .arg(command)
            .args(args)
            .env("TIDEGATE_LIMITS__PONG_TIMEOUTS", "5s")
            .env("TIDEGATE_ADMIN__LISTEN", "here"))
    };
    let finished = with("check");
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stdout.is_empty(), "{finished:?}");
    let main = shown(&main);
    let folder = shown(&directory);
    let expected = [
        format!(
            "{main}:2:1: limits.ping_intervall: there is no such key; did you mean \
             `limits.ping_interval`?"
        ),
        format!("{main}:3:16: limits.pong_timeout: 5 does not fit; expected a duration such as"),
        format!("{main}:4:15: limits.headers_max: string values must be quoted"),
        format!("{main}:5:21: limits.message_bytes_max: \"64Kib\" does not fit; expected a size"),
        format!("{main}:6:20: limits.rooms_per_client = 0 is out of range"),
        format!("{main}:7:22: limits.buffered_bytes_low = \"2MiB\" must not be more than"),
        format!("{main}:9:1: limits.room_members_max: duplicate key"),
        format!("{main}:11:12: rooms.delivery = \"acked\" is not in this version"),
        format!("{main}:13:9: log.level = \"tidegate=loud=1\""),
        format!("{folder}/cores/0.toml:2:10: cores.0.listen: 7 does not fit"),
        format!("{folder}/cores/1.toml:1:7: cores.1.cpu = 1 is the same as cores.0.cpu"),
        format!("{folder}/cores/1.toml:2:10: cores.1.routes names \"/x\""),
        "environment TIDEGATE_ADMIN__LISTEN: admin.listen: here does not fit".to_owned(),
        "environment TIDEGATE_LIMITS__PONG_TIMEOUTS: limits.pong_timeouts: there is no such key; \
         did you mean `TIDEGATE_LIMITS__PONG_TIMEOUT`?"
            .to_owned(),
        "--set drain.window=1m: drain.deadline".to_owned(),
        "--set server.demo=maybe: server.demo: maybe does not fit; expected true or false"
            .to_owned(),
        "--set nonsense: expected KEY=VALUE".to_owned(),
    ];
    let told = told(&finished);
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(&expected) {
        assert!(told.starts_with(expected.as_str()), "{told}\n{expected}");
    }
    let first = finished.stderr.lines().next().unwrap_or_default();
    assert_eq!(first, "tidegate: the configuration has 17 errors");
    let caret = "  2 | ping_intervall = \"5s\"\n    | ^^^^^^^^^^^^^^\n";
    assert!(finished.stderr.contains(caret), "{}", finished.stderr);
    assert!(!finished.stderr.contains('\u{1b}'), "{}", finished.stderr);

    let refused = with("serve");
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert_eq!(refused.stderr, finished.stderr);
}

#[test]
fn contradictions_name_their_keys_and_places() {
    let directory = directory("contradictions");
    let main = directory.join("tidegate.toml");
    write(
        &main,
        "[limits]\nbuffered_bytes_low = \"2MiB\"\n[drain]\nwindow = \"1m\"\n\
         [[rooms.match]]\nname = \"a*\"\n[[rooms.match]]\nname = \"ab\"\n\
         [[routes]]\npath = \"/a\"\nmode = \"rooms\"\n[[routes]]\npath = \"/a\"\nmode = \"echo\"\n\
         drain_close_code = 1005\n[routes.limits]\nbuffered_bytes_high = \"8KiB\"\n",
    );
    let finished = check(&["--config", shown(&main), "--set", "cores.0.routes=[\"/x\"]"]);
    assert_eq!(finished.code, Some(2), "{finished:?}");
    let told = told(&finished);
    let main = shown(&main);
    let expected = [
        format!(
            "{main}:2:22: limits.buffered_bytes_low = \"2MiB\" must not be more than \
             limits.buffered_bytes_high = \"1MiB\""
        ),
        format!(
            "{main}:2:22: limits.buffered_bytes_low = \"2MiB\" must not be more than \
             routes[1].limits.buffered_bytes_high = \"8KiB\"; see {main}:17:23"
        ),
        format!("{main}:4:10: drain.deadline = \"25s\" must not be less than"),
        format!("{main}:8:8: rooms.match[1].name = \"ab\" can never count"),
        format!("{main}:13:8: routes[1].path = \"/a\" is the same as routes[0].path"),
        format!("{main}:15:20: routes[1].drain_close_code = 1005 is no close code"),
        "--set cores.0.routes=[\"/x\"]: cores.0.routes names \"/x\"".to_owned(),
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(&expected) {
        assert!(told.starts_with(expected.as_str()), "{told}\n{expected}");
    }
}

#[test]
fn files_that_can_not_be_read_are_told_with_the_rest() {
    let directory = directory("unreadable");
    let missing = directory.join("missing.toml");
    write(&directory.join("cores/0.toml"), "cqu = 0\n");
    fs::create_dir(directory.join("cores/1.toml")).expect("the target directory can be written");
    write(
        &directory.join("cores/2.toml"),
        &"#".repeat(1024 * 1024 + 1),
    );
    write(&directory.join("cores/01.toml"), "cpu = 2\n");
    let finished = check(&["--config", shown(&missing), "--set", "x.y=1"]);
    assert_eq!(finished.code, Some(2), "{finished:?}");
    let told = told(&finished);
    let starts = [
        format!("{}: this can't be read: No such file", shown(&missing)),
        format!("{}/cores/01.toml: this file is for no", shown(&directory)),
        format!("{}/cores/1.toml: this can't be read", shown(&directory)),
        format!("{}/cores/2.toml: this file is longer", shown(&directory)),
        format!("{}/cores/0.toml:1:1: cores.0.cqu: there", shown(&directory)),
        "--set x.y=1: x: there is no such key".to_owned(),
    ];
    assert_eq!(told.len(), starts.len(), "{told:#?}");
    for (told, start) in told.iter().zip(&starts) {
        assert!(told.starts_with(start.as_str()), "{told}\n{start}");
    }
    write(&directory.join("binary.toml"), "");
    fs::write(directory.join("binary.toml"), b"[limits]\n\xff = 1\n").expect("it can be written");
    let finished = check(&["--config", shown(&directory.join("binary.toml"))]);
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("UTF-8"), "{finished:?}");
}

#[test]
fn a_served_value_may_come_from_the_environment() {
    let mut command = Server::command("127.0.0.1:0", &[]);
    command.env("TIDEGATE_LIMITS__HEADERS_MAX", "0");
    let finished = run(&mut command);
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(
        finished
            .stderr
            .contains("environment TIDEGATE_LIMITS__HEADERS_MAX: limits.headers_max = 0"),
        "{finished:?}"
    );
}

/// The main files in configs/, with the workers that have a file of their own.
fn examples() -> Vec<(PathBuf, Vec<u16>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut found = Vec::new();
    let list = |path: &Path| -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = fs::read_dir(path)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        paths.sort();
        paths
    };
    for path in list(&root) {
        if path.is_dir() {
            let mut own: Vec<u16> = list(&path.join("cores"))
                .iter()
                .filter_map(|file| file.file_stem()?.to_str()?.parse().ok())
                .collect();
            own.sort_unstable();
            assert!(own.starts_with(&[0, 1]), "{path:?}: {own:?}");
            found.push((path.join("tidegate.toml"), own));
        } else {
            found.push((path, Vec::new()));
        }
    }
    assert_eq!(found.len(), 7, "{found:?}");
    found
}

/// Where the example of a main file can be used: with the files that it names, if it does.
fn usable(path: &Path, name: &str) -> PathBuf {
    if !path.ends_with("production.toml") {
        return path.to_owned();
    }
    let directory = directory(name);
    let copy = directory.join("tidegate.toml");
    write(
        &copy,
        &fs::read_to_string(path).expect("the example is there"),
    );
    let tls = directory.join("tls");
    fs::create_dir_all(&tls).expect("the target directory can be written");
    let authority = Authority::new("clients");
    write(&tls.join("clients-ca.pem"), &authority.pem());
    let server = Authority::new("servers").server(&["edge.example.com"], certs::NOW);
    write(&tls.join("fullchain.pem"), &server.certificate.pem());
    write(&tls.join("privkey.pem"), &server.key.serialize_pem());
    copy
}

#[test]
fn every_example_is_valid() {
    for (path, own) in examples() {
        let path = usable(&path, "example-valid");
        let finished = check(&["--config", shown(&path)]);
        assert_eq!(finished.code, Some(0), "{path:?}: {finished:?}");
        for core in own {
            let header = format!("\n[cores.{core}]\n");
            assert!(finished.stdout.contains(&header), "{path:?}: {core}");
        }
    }
}

#[test]
fn the_production_example_has_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/production.toml");
    let finished = check(&["--config", shown(&usable(&path, "example-keys"))]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let left_out: Vec<&str> = finished
        .stdout
        .lines()
        .filter(|line| line.ends_with("# default"))
        .collect();
    assert!(left_out.is_empty(), "{left_out:#?}");
}

/// Starts with addresses and processors of this machine in place of the example's. An example for
/// more workers than there are processors here is started as a copy with the files of the first
/// two, as a worker's file needs its worker.
#[test]
fn every_example_starts() {
    for (path, own) in examples() {
        let name = path.parent().and_then(Path::file_name);
        let mut config = usable(&path, "example-valid");
        if own.len() > 2 {
            let name = name.and_then(|name| name.to_str()).unwrap_or_default();
            let copy = directory(&format!("start-{name}"));
            config = copy.join("tidegate.toml");
            let folder = path.parent().expect("it lies in a directory");
            for file in ["tidegate.toml", "cores/0.toml", "cores/1.toml"] {
                let text = fs::read_to_string(folder.join(file)).expect("the example is there");
                write(&copy.join(file), &text);
            }
        }
        let here = cores(2);
        let mut args: Vec<String> = vec!["--config".to_owned(), shown(&config).to_owned()];
        let mut set = |setting: String| args.extend(["--set".to_owned(), setting]);
        if path.ends_with("production.toml") {
            set("tls.listen=127.0.0.1:0".to_owned());
        }
        // The banner is for people.
        set("log.format=text".to_owned());
        if !own.is_empty() {
            for (core, cpu) in here.split(',').enumerate() {
                set(format!("cores.{core}.cpu={cpu}"));
            }
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut server = Server::start(&args);
        let (status, _) = common::get(server.addr, "/healthz");
        assert_eq!(status, 200, "{path:?}");
        assert!(server.terminate().success(), "{path:?}");
    }
}
