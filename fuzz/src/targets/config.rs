//! Configurations: whatever is in their layers, a load says what is wrong or gives one that, printed, loads
//! to the same.

use tidegate::config::{Config, ConfigError, Flags, Layers, Text};

pub(super) fn run(input: &[u8]) {
    let Some(layers) = layers(input) else {
        return;
    };
    match layers.load() {
        Ok((config, provenance)) => {
            config.validate().expect("it was checked");
            let printed = config.show(&provenance);
            let again = match Config::load(Some(("printed.toml", &printed)), &[]) {
                Ok(again) => again,
                Err(error) => panic!("{error}\nprinted as:\n{printed}"),
            };
            assert_eq!(again, config, "printed as:\n{printed}");
            assert!(config.differences(&again).is_empty());
            let _ = config.effective_routes();
            for core in [0, 1, u16::MAX] {
                let _ = config.core(core);
            }
            for room in ["lobby", "", "a*b"] {
                let _ = config.room_options(room);
            }
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty());
            let ConfigError::Problems(problems) = error else {
                return;
            };
            assert!(!problems.0.is_empty());
            for problem in &problems.0 {
                assert!(!problem.message.is_empty());
            }
        }
    }
}

/// Lines that begin with a mark are of other layers than the main file: `!` a core's file, `$` the
/// environment, `=` a setting.
fn layers(input: &[u8]) -> Option<Layers> {
    let text = std::str::from_utf8(input).ok()?;
    let mut main = String::new();
    let mut core = String::new();
    let mut layers = Layers {
        flags: Flags::default(),
        ..Layers::default()
    };
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end_matches('\n');
        if let Some(line) = line.strip_prefix('!') {
            core.push_str(line);
        } else if let Some(setting) = bare.strip_prefix('=') {
            layers.settings.push(setting.to_owned());
        } else if let Some((name, value)) = bare.strip_prefix('$').and_then(|v| v.split_once('=')) {
            layers.environment.push((name.to_owned(), value.to_owned()));
        } else {
            main.push_str(line);
        }
    }
    layers.main = Some(Text {
        name: "main.toml".to_owned(),
        text: main,
    });
    if !core.is_empty() {
        let text = Text {
            name: "cores/1.toml".to_owned(),
            text: core,
        };
        layers.cores.push((1, text));
    }
    Some(layers)
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let defaults = Config::load(None, &[]).expect("the defaults are sound");
    let mut seeds: Vec<Vec<u8>> = [
        "[server]\nlisten = \"127.0.0.1:8080\"\ncores = \"0-1\"\n",
        "[limits]\nmessage_bytes_max = \"1MiB\"\nping_interval = \"20s\"\npong_timeout = 5\n",
        "[limits]\nping_intervall = \"20s\"\n",
        "[limits]\nmessage_bytes_max = 1\nmessage_bytes_max = 2\n",
        "[[routes]]\npath = \"/ws\"\nmode = \"rooms\"\n[routes.limits]\nrooms_per_client = 5\n",
        "[[rooms.match]]\nname = \"chat:*\"\ncoalesce_ms = 50\nslow_client = \"drop_oldest\"\n",
        "[cores.0]\nlisten = \"127.0.0.1:9000\"\n[cores.0.limits]\nmessages_per_second = 9\n",
        "[log]\nformat = \"json\"\nlevel = \"tidegate=debug\"\n!cpu = 4\n!listen = \"[::1]:80\"\n",
        "=limits.message_bytes_max=1MiB\n=rooms.match=[{name=\"a*\", coalesce_ms=50}]\n",
        "$TIDEGATE_LIMITS__PING_INTERVAL=10s\n$TIDEGATE_CORES__0__CPU=4\n$TIDEGATE_LOG=debug\n",
        "[limits]\nbuffered_bytes_low = \"2MiB\"\nbuffered_bytes_high = \"1MiB\"\n",
        "[engine]\nkind = \"epoll\"\nbusy_poll = \"50us\"\n[admin]\nlisten = \"127.0.0.1:0\"\n",
        "[rooms]\nslow_client = \"evict\"\nmatch = 7\n",
        "a = [[1, {b = \"c\"}], 1979-05-27T07:32:00Z]\n",
        "[drain]\nwindow = \"10s\"\n\u{feff}",
        "=\n=a\n==\n=limits\n=limits.=1\n$TIDEGATE___=\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    let (_, provenance) = Layers::default().load().expect("the defaults are sound");
    seeds.push(defaults.show(&provenance).into_bytes());
    seeds
}
