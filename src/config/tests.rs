//! Tests of the layers as a whole.

mod docs;
mod tls;

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use proptest::prelude::*;

use super::*;

fn with(settings: &[&str]) -> Result<Config, ConfigError> {
    let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
    Config::load(None, &settings)
}

fn text(name: &str, text: &str) -> Text {
    Text {
        name: name.to_owned(),
        text: text.to_owned(),
    }
}

fn main_file(main: &str) -> Layers {
    Layers {
        main: Some(text("t.toml", main)),
        ..Layers::default()
    }
}

fn problems(result: Result<(Config, Provenance), ConfigError>) -> Vec<Problem> {
    match result {
        Err(ConfigError::Problems(Problems(problems))) => problems,
        other => panic!("expected problems: {other:?}"),
    }
}

/// Every problem in one line: where, and what.
fn told(layers: &Layers) -> Vec<String> {
    problems(layers.load())
        .into_iter()
        .map(|mut problem| {
            problem.excerpt = None;
            problem.to_string()
        })
        .collect()
}

fn contradictions(settings: &[&str]) -> Vec<String> {
    told(&Layers {
        settings: settings.iter().map(|s| (*s).to_owned()).collect(),
        ..Layers::default()
    })
}

#[test]
fn nothing_at_all_is_the_defaults_and_they_hold() {
    let config = with(&[]).unwrap();
    // Who has written nothing down gets to see something.
    let mut expected = Config::default();
    expected.server.demo = true;
    assert_eq!(config, expected);
    config.validate().unwrap();
    assert_eq!(config.server.listen.0[0].to_string(), "127.0.0.1:8080");
    assert_eq!(config.limits.message_bytes_max.0, 64 * 1024);
    assert_eq!(config.limits.ping_interval.0, Duration::from_secs(25));
}

#[test]
fn later_layers_win() {
    let layers = Layers {
        main: Some(text(
            "t.toml",
            "[limits]\nping_interval = \"5s\"\npong_timeout = \"2s\"\nheaders_max = 7\n\
             [server]\nbacklog = 1\n",
        )),
        environment: vec![
            ("TIDEGATE_LIMITS__PING_INTERVAL".to_owned(), "6s".to_owned()),
            ("TIDEGATE_SERVER__NODE".to_owned(), "7".to_owned()),
            ("TIDEGATE_SERVER__BACKLOG".to_owned(), "2".to_owned()),
            ("TIDEGATE_DRAIN__FINAL".to_owned(), "true".to_owned()),
            ("TIDEGATE_SIM_SEED".to_owned(), "9".to_owned()),
            ("OTHER__KEY".to_owned(), "9".to_owned()),
        ],
        settings: vec![
            "limits.ping_interval=7s".to_owned(),
            "limits.ping_interval = 300ms".to_owned(),
            "server.cores=0".to_owned(),
            "admin.listen=127.0.0.1:0".to_owned(),
            "server.demo=false".to_owned(),
        ],
        flags: Flags {
            listen: Some("[::1]:9".parse().unwrap()),
            cores: Some("1".to_owned()),
            demo: true,
        },
        ..Layers::default()
    };
    let (config, provenance) = layers.load().unwrap();
    assert_eq!(config.limits.ping_interval.0, Duration::from_millis(300));
    assert_eq!(config.limits.pong_timeout.0, Duration::from_secs(2));
    assert_eq!((config.limits.headers_max, config.server.backlog), (7, 2));
    assert_eq!(config.server.node, "7");
    assert_eq!(config.server.cores, "1");
    assert_eq!(config.server.listen.0, ["[::1]:9".parse().unwrap()]);
    assert!(config.server.demo && config.drain.is_final);
    for (key, origin) in [
        ("limits.ping_interval", "--set"),
        ("limits.pong_timeout", "t.toml:3"),
        ("server.backlog", "environment TIDEGATE_SERVER__BACKLOG"),
        ("drain.final", "environment TIDEGATE_DRAIN__FINAL"),
        ("server.cores", "--cores"),
        ("server.listen", "--listen"),
        ("server.demo", "--demo"),
        ("admin.listen", "--set"),
        ("log.level", "default"),
    ] {
        assert_eq!(provenance.origin(key).brief(), origin, "{key}");
    }
}

#[test]
fn a_cores_file_wins_over_the_main_one_and_loses_to_what_comes_later() {
    let mut layers = Layers {
        main: Some(text(
            "t.toml",
            "[engine]\nring_entries = 64\nrecv_buffers = 8\n[cores.1]\ncpu = 3\nbacklog = 5\n",
        )),
        cores: vec![
            (
                0,
                text(
                    "cores/0.toml",
                    "recv_buffers = 16\nlisten = \"10.0.0.1:1\"\n",
                ),
            ),
            (1, text("cores/1.toml", "backlog = 6\n")),
        ],
        ..Layers::default()
    };
    let (config, provenance) = layers.load().unwrap();
    assert_eq!(config.core(0).engine.recv_buffers, 16);
    assert_eq!(config.core(0).engine.ring_entries, 64);
    assert_eq!((config.core(1).cpu, config.core(1).backlog), (Some(3), 6));
    assert_eq!(config.core(2).engine.recv_buffers, 8);
    assert_eq!(
        provenance.origin("cores.1.backlog").brief(),
        "cores/1.toml:1"
    );

    layers.environment = vec![
        ("TIDEGATE_CORES__1__BACKLOG".to_owned(), "8".to_owned()),
        ("TIDEGATE_SERVER__BACKLOG".to_owned(), "7".to_owned()),
    ];
    layers.settings = vec![
        "engine.recv_buffers=32".to_owned(),
        "cores.1.cpu=0".to_owned(),
    ];
    layers.flags.listen = Some("127.0.0.1:0".parse().unwrap());
    let (config, provenance) = layers.load().unwrap();
    assert_eq!(config.core(0).engine.recv_buffers, 32);
    assert_eq!(config.core(0).listen, ["127.0.0.1:0".parse().unwrap()]);
    assert_eq!((config.core(0).backlog, config.core(1).backlog), (7, 8));
    assert_eq!(config.core(1).cpu, Some(0));
    assert_eq!(provenance.origin("cores.0.recv_buffers"), Origin::Default);
}

#[test]
fn every_key_that_replaces_another_can_be_forgotten() {
    for entry in catalogue() {
        let (Some(main), Some(name)) = (entry.key.replaces, entry.path.strip_prefix("cores.N."))
        else {
            continue;
        };
        let listen = "127.0.0.1:1".to_owned();
        let value = entry_value(&entry, main).unwrap_or(listen);
        let setting = format!("cores.0.{name}={value}");
        let mut config = with(&[&setting]).unwrap();
        let own = config.cores.get_mut(&0).unwrap();
        assert_ne!(*own, CoreFile::default(), "{setting}");
        assert_eq!(own.forget(main), Some(name));
        assert_eq!(*own, CoreFile::default(), "{main}");
    }
}

/// A value that a key takes: its default, or that of the key that it replaces, or the least.
fn entry_value(entry: &Entry, main: &str) -> Option<String> {
    let entries = catalogue();
    let main = entries.iter().find(|other| other.path == main)?;
    let least = entry.range.map(|(low, _)| (entry.kind.write)(low));
    main.default.clone().or(least)
}

#[test]
fn all_errors_are_told_at_once_with_their_places() {
    let layers = Layers {
        main: Some(text(
            "t.toml",
            "[limits]\nping_intervall = \"5s\"\npong_timeout = 7\nheaders_max = 5 apples\n\
             rooms_per_client = 5\nrooms_per_client = 6\nbuffered_bytes_low = \"2MiB\"\n\
             [engine]\nring_entries = -1\n",
        )),
        cores: vec![
            (0, text("cores/0.toml", "cpu = 1\nrecv_buffers = 63\n")),
            (
                1,
                text("cores/1.toml", "cpu = 1\nwat = 1\nroutes = [\"/x\"]"),
            ),
        ],
        unreadable: vec![("cores/2.toml".to_owned(), "gone".to_owned())],
        environment: vec![("TIDEGATE_LIMITS__PING_INTERVL".to_owned(), "5s".to_owned())],
        settings: vec![
            "nonsense".to_owned(),
            "limits.pong_timeout=1 day".to_owned(),
        ],
        ..Layers::default()
    };
    let expected = [
        "cores/2.toml: gone",
        "t.toml:2:1: limits.ping_intervall: there is no such key; did you mean \
         `limits.ping_interval`?",
        "t.toml:3:16: limits.pong_timeout: 7 does not fit; expected a duration",
        "t.toml:4:15: limits.headers_max: string values must be quoted",
        "t.toml:6:1: limits.rooms_per_client: duplicate key; it is set already at t.toml:5:20",
        "t.toml:9:16: engine.ring_entries: -1 does not fit; expected a whole number",
        "cores/0.toml:2:16: cores.0.recv_buffers = 63 must be a power of two",
        "cores/1.toml:1:7: cores.1.cpu = 1 is the same as cores.0.cpu; see cores/0.toml:1:7",
        "cores/1.toml:2:1: cores.1.wat: there is no such key",
        "environment TIDEGATE_LIMITS__PING_INTERVL: limits.ping_intervl: there is no such key; \
         did you mean `TIDEGATE_LIMITS__PING_INTERVAL`?",
        "--set nonsense: expected KEY=VALUE",
        "--set limits.pong_timeout=1 day: limits.pong_timeout: 1 day does not fit; expected a \
         duration",
    ];
    let told = told(&layers);
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}\n{expected}");
    }
}

#[test]
fn what_is_missing_because_of_another_error_is_not_told_as_an_error_of_its_own() {
    // With the high mark unknown, the low one can't be judged.
    let broken = "[limits]\nbuffered_bytes_high = 4MiB\nbuffered_bytes_low = \"2MiB\"\n";
    assert_eq!(told(&main_file(broken)).len(), 1);
    let lost = "[limits]\nbuffered_bytes_high \"4MiB\"\nbuffered_bytes_low = \"2MiB\"\n";
    let told = told(&main_file(lost));
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].starts_with("t.toml:2:21: "), "{told:?}");
}

#[test]
fn a_headers_missing_bracket_hides_nothing_below_it() {
    let told = told(&main_file(
        "[limits # all\nping_intervall = \"5s\"\n[[routes]\npath = \"/a\"\n[drain\r\nwindow = \"1m\"\n\
         [log x]\nlevels = 1\n[[rooms.match\nname = \"@\"",
    ));
    let expected = [
        "t.toml:1:8: unclosed table, expected `]`",
        "t.toml:2:1: limits.ping_intervall: there is no such key",
        "t.toml:3:1: routes[0].mode: this key is missing",
        "t.toml:3:10: unclosed array table",
        "t.toml:5:7: unclosed table",
        "t.toml:6:10: drain.deadline",
        "t.toml:7:5: unclosed table",
        "t.toml:8:1: log.levels: there is no such key; did you mean `log.level`?",
        "t.toml:9:14: unclosed array table",
        "t.toml:10:8: rooms.match[0].name = \"@\" must not begin",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}\n{expected}");
    }
}

#[test]
fn lists_of_tables_are_read_entry_by_entry() {
    let told = told(&main_file(
        "[[routes]]\npath = \"/a\"\n[[routes]]\nmode = \"echo\"\nlimits.pong = \"1s\"\n\
         [[routes]]\npath = \"/c\"\nmode = \"disco\"\n[rooms]\nmatch = 5\n",
    ));
    let expected = [
        "t.toml:1:1: routes[0].mode: this key is missing",
        "t.toml:3:1: routes[1].path: this key is missing",
        "t.toml:5:8: routes[1].limits.pong: there is no such key",
        "t.toml:8:8: routes[2].mode: \"disco\" does not fit; expected \"rooms\" or \"echo\"",
        "t.toml:10:1: rooms.match: expected a list of tables",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}");
    }
    let config = with(&[
        "routes=[{path = \"/x\", mode = \"echo\", drain_close_code = 1006}]",
        "rooms.match=[{name = \"a\"}, {name = \"b\", coalesce_ms = 5}]",
        "rooms={coalesce_ms = 7}",
    ])
    .unwrap();
    assert_eq!(config.routes[0].drain_close_code, Some(1006));
    assert_eq!(config.room_options("b").coalesce_ms, 5);
    assert_eq!(config.room_options("a").coalesce_ms, 7);
}

#[test]
fn contradictions_are_found_all_at_once() {
    let cases: [(&[&str], &[&str]); 16] = [
        (
            &["limits.buffered_bytes_low=2MiB"],
            &["limits.buffered_bytes_low = \"2MiB\" must not be more than"],
        ),
        (
            &["routes=[{path=\"/a\", mode=\"rooms\", limits={buffered_bytes_high=\"5KiB\"}}]"],
            &[
                "limits.buffered_bytes_low = \"256KiB\" must not be more than \
               routes[0].limits.buffered_bytes_high = \"5KiB\"",
            ],
        ),
        (
            &["drain.window=1m", "drain.notice=off"],
            &["drain.deadline = \"25s\" must not be less than drain.window = \"1m\""],
        ),
        (
            &[
                "rooms.delivery=acked",
                "rooms.slow_client=conflate",
                "rooms.coalesce_ms=9",
            ],
            &[
                "rooms.delivery = \"acked\" is not in this version",
                "rooms.slow_client = \"conflate\" drops messages",
                "rooms.coalesce_ms = 9 drops messages",
            ],
        ),
        (
            &[
                "rooms.match=[{name=\"\"}, {name=\"@x\"}, {name=\"a*\"}, {name=\"ab*c\"}, {name=\"a*\"}]",
            ],
            &[
                "rooms.match[0].name = \"\" must not be empty",
                "rooms.match[1].name = \"@x\" must not begin with `@`",
                "rooms.match[3].name = \"ab*c\" can never count: rooms.match[2].name",
                "rooms.match[4].name = \"a*\" can never count: rooms.match[2].name",
            ],
        ),
        (
            &[
                "rooms.match=[{name=\"a\", delivery=\"acked\"}]",
                "rooms.coalesce_ms=1",
            ],
            &[
                "rooms.match[0].delivery = \"acked\" is not in this version",
                "rooms.coalesce_ms = 1 drops messages, which contradicts rooms.match[0].delivery",
            ],
        ),
        (
            &[
                "routes=[{path=\"x\", mode=\"rooms\"}, {path=\"/a/\", mode=\"rooms\"}, \
               {path=\"/a//b\", mode=\"echo\"}, {path=\"/\", mode=\"echo\"}, {path=\"/a?b\", mode=\"echo\"}, \
               {path=\"/healthz\", mode=\"echo\"}, {path=\"/readyz\", mode=\"echo\"}]",
            ],
            &[
                "routes[0].path = \"x\" must begin with `/`",
                "routes[1].path = \"/a/\" must not end",
                "routes[2].path = \"/a//b\" must not end",
                "routes[3].path = \"/\" must not end",
                "routes[4].path = \"/a?b\" must be a path",
                "routes[5].path = \"/healthz\" is taken",
                "routes[6].path = \"/readyz\" is taken",
            ],
        ),
        (
            &["routes=[{path=\"/a\", mode=\"rooms\"}, {path=\"/a\", mode=\"echo\"}]"],
            &["routes[1].path = \"/a\" is the same as routes[0].path"],
        ),
        (
            &["engine.recv_buffers=63"],
            &["engine.recv_buffers = 63 must be a power of two"],
        ),
        (
            &["engine.cq_entries=512"],
            &["engine.cq_entries = 512 must not be less than engine.ring_entries = 1024"],
        ),
        (
            &["cores.2.ring_entries=16384"],
            &["engine.cq_entries = 8192 must not be less than cores.2.ring_entries = 16384"],
        ),
        (
            &["cores.0.routes=[\"/ws\", \"/other\"]", "cores.1.routes=[]"],
            &[
                "cores.0.routes names \"/other\", which no route has; there are: /ws, /echo, /demo/ws",
                "cores.1.routes must name at least one route",
            ],
        ),
        (
            &[
                "server.listen=[]",
                "cores.0.listen=[\"1.1.1.1:1\", \"1.1.1.1:1\"]",
            ],
            &[
                "server.listen must name at least one address",
                "cores.0.listen names 1.1.1.1:1 twice",
            ],
        ),
        (
            &["server.cores=0-3,2"],
            &["server.cores = \"0-3,2\" lists core 2 twice"],
        ),
        (
            &["server.cores=3-1", "server.node=\"a\\nb\""],
            &["server.cores = \"3-1\" does not fit", "server.node must be"],
        ),
        // A value out of its range is told once, not again in relation to others.
        (
            &["limits.buffered_bytes_high=1B", "limits.pong_timeout=off"],
            &[
                "limits.buffered_bytes_high = \"1B\" is out of range; expected \"4KiB\" or more",
                "limits.pong_timeout = \"off\" is out of range; expected \"1ms\" to \"30d\"",
            ],
        ),
    ];
    for (settings, expected) in cases {
        let told = contradictions(settings);
        assert_eq!(told.len(), expected.len(), "{settings:?}: {told:#?}");
        for expected in expected {
            let is_told = told.iter().any(|one| one.contains(expected));
            assert!(is_told, "{expected}\n{told:#?}");
        }
    }
}

#[test]
fn codes_that_no_close_frame_may_have_are_refused() {
    let is_fine = |code: u16| {
        let route = format!("routes=[{{path=\"/a\", mode=\"echo\", drain_close_code={code}}}]");
        with(&[&route]).is_ok()
    };
    let refused: Vec<u16> = (990..=5010).filter(|code| !is_fine(*code)).collect();
    let expected: Vec<u16> = (990..1000)
        .chain([1004, 1005])
        .chain(1015..3000)
        .chain(5000..=5010)
        .collect();
    assert_eq!(refused, expected);
}

/// The bounds themselves, and what lies right beyond them, in the main sections, in a route and
/// for a core.
#[test]
fn ranges_end_where_the_catalogue_says() {
    for entry in catalogue() {
        let Some((low, high)) = entry.range else {
            continue;
        };
        let setting = |amount: u64| {
            let value = (entry.kind.write)(amount);
            match entry.path.split_once("[]") {
                Some(("routes", name)) => {
                    format!(
                        "routes=[{{path=\"/a\", mode=\"rooms\"{}={value}}}]",
                        name.replacen('.', ", ", 1)
                    )
                }
                Some((_, name)) => {
                    format!(
                        "rooms.match=[{{name=\"a\"{}={value}}}]",
                        name.replacen('.', ", ", 1)
                    )
                }
                None => format!("{}={value}", entry.path.replace(".N.", ".0.")),
            }
        };
        let is_out = |amount: u64| {
            let layers = Layers {
                settings: vec![setting(amount)],
                ..Layers::default()
            };
            match layers.load() {
                Ok(_) => false,
                Err(error) => error.to_string().contains("is out of range"),
            }
        };
        assert!(!is_out(low), "{}", setting(low));
        if low > 0 {
            assert!(is_out(low - 1), "{}", setting(low - 1));
        }
        if high < u64::from(u32::MAX) {
            assert!(!is_out(high), "{}", setting(high));
            assert!(is_out(high + 1), "{}", setting(high + 1));
        }
    }
}

/// A configuration in which every key is set.
fn everything() -> String {
    let mut text = Config::default().show(&Provenance::default());
    text = text.replace("# connections_max is not set", "connections_max = 7");
    text = text.replace("# memory_budget is not set", "memory_budget = \"1GiB\"");
    text = text.replace("# listen is not set", "listen = \"[::1]:9\"");
    text = text.replace("# client_ca is not set", "client_ca = \"ca.pem\"");
    text.push_str("\n[[tls.certificates]]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n");
    for name in ["chat:*", "score:\\\"*"] {
        let _ = write!(
            text,
            "\n[[rooms.match]]\nname = \"{name}\"\ncoalesce_ms = 50\n"
        );
    }
    for path in ["/ws", "/b"] {
        let _ = write!(
            text,
            "\n[[routes]]\npath = \"{path}\"\nmode = \"echo\"\ndrain_close_code = 1006\n\
             [routes.limits]\nping_interval = \"9s\"\nbytes_burst = \"1MiB\"\n"
        );
    }
    text.push_str(
        "\n[cores.0]\ncpu = 4\nroutes = [\"/b\"]\nmemory_budget = \"2GiB\"\n[cores.12]\n",
    );
    text
}

#[test]
fn what_is_shown_loads_to_the_same() {
    let (config, provenance) = main_file(&everything()).load().unwrap();
    let shown = config.show(&provenance);
    let (again, _) = main_file(&shown).load().unwrap();
    assert_eq!(again, config);
    let bare: String = shown
        .lines()
        .map(|line| line.split(" # ").next().unwrap_or_default().to_owned() + "\n")
        .collect();
    assert_eq!(main_file(&bare).load().unwrap().0, config);
    assert!(shown.contains("# t.toml:"), "{shown}");
    assert_eq!(config.differences(&again), []);
    let defaults = Config::default();
    let again = Config::load(
        Some(("t.toml", &defaults.show(&Provenance::default()))),
        &[],
    );
    assert_eq!(again.unwrap(), defaults);
}

#[test]
fn differences_say_what_a_reload_does() {
    let changed = with(&[
        "limits.pong_timeout=11s",
        "engine.recv_buffers=8",
        "routes=[{path=\"/a\", mode=\"echo\"}]",
        "admin.listen=127.0.0.1:1",
        "cores.1.cpu=1",
        "server.demo=false",
    ])
    .unwrap();
    let expected = [
        ("admin.listen", Reload::Restart),
        ("cores.1.cpu", Reload::Restart),
        ("engine.recv_buffers", Reload::Restart),
        ("limits.pong_timeout", Reload::Open),
        ("routes[0].mode", Reload::New),
        ("routes[0].path", Reload::New),
    ];
    let expected: Vec<(String, Reload)> = expected
        .into_iter()
        .map(|(key, reload)| (key.to_owned(), reload))
        .collect();
    assert_eq!(Config::default().differences(&changed), expected);
    assert_eq!(changed.differences(&Config::default()), expected);
}

/// How one line can be spoilt.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Renamed,
    WrongType,
    Unquoted,
    Empty,
    Unclosed,
}

fn spoil(line: &str, fault: Fault) -> String {
    let (key, value) = line.split_once(" = ").unwrap();
    let value = value.split(" # ").next().unwrap().trim_end();
    match fault {
        Fault::Renamed => format!("zz_{key} = {value}"),
        Fault::WrongType => format!("{key} = [[1]]"),
        Fault::Unquoted => format!("{key} = 3 little pigs"),
        Fault::Empty => format!("{key} ="),
        Fault::Unclosed => format!("{key} = \"{}", value.replace('"', "")),
    }
}

proptest! {
    /// Whatever lines are spoilt, each is told of by its number, and no other line is.
    #[test]
    fn each_error_is_told_with_its_line_whatever_the_others(
        faults in prop::collection::btree_map(
            0_usize..1000,
            prop::sample::select(vec![
                Fault::Renamed, Fault::WrongType, Fault::Unquoted, Fault::Empty, Fault::Unclosed,
            ]),
            1..6,
        )
    ) {
        let text = everything();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let keys: Vec<usize> = (0..lines.len())
            .filter(|n| lines[*n].contains(" = ") && !lines[*n].starts_with('#'))
            .collect();
        let mut expected = BTreeSet::new();
        for (n, fault) in faults {
            let at = keys[n % keys.len()];
            if expected.insert(at + 1) {
                lines[at] = spoil(&lines[at], fault);
            }
        }
        let text = lines.join("\n");
        let told: BTreeSet<usize> = problems(main_file(&text).load())
            .into_iter()
            // A key renamed in a list's entry is missing there, which the entry's header says.
            .filter(|problem| !problem.message.starts_with("this key is missing"))
            .map(|problem| match problem.origin {
                Origin::File { line, .. } => line,
                other => panic!("{other:?}"),
            })
            .collect();
        prop_assert_eq!(told, expected, "{}", text);
    }

    #[test]
    fn no_text_is_too_strange(
        main in "(\\PC|\n|\\[|\\]|=|\"|limits|routes|cores\\.0){0,60}",
        setting in "(\\PC|=|\\.|limits|routes){0,20}",
    ) {
        let layers = Layers {
            environment: vec![("TIDEGATE___".to_owned(), setting.clone())],
            settings: vec![setting],
            cores: vec![(0, text("0", &main))],
            ..main_file(&main)
        };
        if let Err(error) = layers.load() {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn there_are_bounds_for_everything() {
    let routes: String = (0..70)
        .map(|n| format!("[[routes]]\npath = \"/{n}\"\nmode = \"echo\"\n"))
        .collect();
    assert_eq!(
        told(&main_file(&routes)),
        ["t.toml:193:1: routes: there are too many; expected 64 at most"]
    );
    assert_eq!(
        told(&main_file("[cores.1024]\n[cores.01]\n[cores.1023]\n")).len(),
        2
    );
    let strange: String = (0..1000).map(|n| format!("k{n} = 1\n")).collect();
    assert_eq!(told(&main_file(&strange)).len(), 200);
    // One line as long as a file may be.
    let strange: String = (0..30_000).map(|n| format!("k{n} = 1, ")).collect();
    let told = told(&main_file(&format!("limits = {{ {strange} }}")));
    assert_eq!(told.len(), 200);
}
