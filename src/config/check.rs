//! What no single value shows: ranges, and values that do not go together.

mod tls;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ClientAddress, Config, ConfigError, Delivery, Limits, RouteLimits, SlowClient,
    catalogue::{Entry, ROOT, catalogue},
    rooms::fits,
    schema::{Leaf, Node},
    values::quoted,
};
use crate::base::limits::ROOM_NAME_BYTES_MAX;

/// Values that do not go together, or one out of its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contradiction {
    /// The keys concerned; the first is the one to blame, if somebody set it.
    pub(super) keys: Vec<String>,
    /// What is wrong, with the keys' names.
    pub(super) message: String,
}

/// Gathers contradictions.
#[derive(Debug, Default)]
struct Checks {
    found: Vec<Contradiction>,
    out_of_range: BTreeSet<String>,
}

impl Checks {
    fn check(&mut self, holds: bool, keys: &[&str], message: impl FnOnce() -> String) {
        // A value out of its range contradicts others as a matter of course.
        if holds || keys.iter().any(|key| self.out_of_range.contains(*key)) {
            return;
        }
        let one = Contradiction {
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            message: message(),
        };
        // A route or a core that sets neither of two keys repeats what the main sections say.
        if !self.found.contains(&one) {
            self.found.push(one);
        }
    }
}

impl Config {
    /// Checks what no single value shows.
    ///
    /// # Errors
    /// All contradictions at once.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let found = self.contradictions();
        if found.is_empty() {
            return Ok(());
        }
        let messages = found.into_iter().map(|one| one.message).collect();
        Err(ConfigError::Contradictory(messages))
    }

    /// Everything that contradicts itself.
    pub(super) fn contradictions(&self) -> Vec<Contradiction> {
        let mut checks = Checks::default();
        self.check_ranges(&mut checks);
        self.check_server(&mut checks);
        self.check_tls(&mut checks);
        check_limits(&self.limits, None, &mut checks);
        self.check_drain(&mut checks);
        self.check_rooms(&mut checks);
        self.check_routes(&mut checks);
        self.check_engines(&mut checks);
        self.check_cores(&mut checks);
        checks.found
    }

    fn check_ranges(&self, checks: &mut Checks) {
        let entries = catalogue();
        let ranges: BTreeMap<&str, &Entry> = entries
            .iter()
            .map(|entry| (entry.path.as_str(), entry))
            .collect();
        self.visit(&mut String::new(), ROOT, &mut |visit| {
            let known = ranges.get(general(visit.path).as_str());
            let range = known.and_then(|entry| entry.range);
            let (Some(amount), Some(value), Some((low, high))) =
                (visit.amount, &visit.value, range)
            else {
                return;
            };
            if (low..=high).contains(&amount) {
                return;
            }
            let (path, text) = (visit.path, visit.range_text((low, high)));
            checks.check(false, &[path], || {
                format!("{path} = {value} is out of range; expected {text}")
            });
            checks.out_of_range.insert(path.to_owned());
        });
    }

    fn check_server(&self, checks: &mut Checks) {
        let server = &self.server;
        check_listen("server.listen", &server.listen.0, checks);
        let is_anywhere = !server.listen.0.is_empty() || !self.tls.listen.0.is_empty();
        checks.check(is_anywhere, &["server.listen", "tls.listen"], || {
            "server.listen must name at least one address, such as \"0.0.0.0:8080\", unless \
             tls.listen does"
                .to_owned()
        });
        checks.check(is_list_of_cores(&server.cores), &["server.cores"], || {
            format!(
                "server.cores = {} does not fit; expected \"all\", \"physical\" or a list such as \
                 \"0-3,6\"",
                quoted(&server.cores)
            )
        });
        let twice = listed_twice(&server.cores);
        checks.check(twice.is_none(), &["server.cores"], || {
            format!(
                "server.cores = {} lists core {} twice",
                quoted(&server.cores),
                twice.unwrap_or_default()
            )
        });
        let is_name = server.node.len() <= 255 && !server.node.contains(char::is_control);
        checks.check(is_name, &["server.node"], || {
            "server.node must be at most 255 bytes without control characters".to_owned()
        });
        let (named_by, proxies) = (server.client_address, &server.trusted_proxies);
        let keys = ["server.client_address", "server.trusted_proxies"];
        let is_believed = named_by == ClientAddress::Peer || !proxies.is_empty();
        checks.check(is_believed, &keys, || {
            format!(
                "server.client_address = {} believes nobody while server.trusted_proxies is empty; \
                 expected the networks of your proxies there",
                named_by.to_toml()
            )
        });
        let is_asked = named_by != ClientAddress::Peer || proxies.is_empty();
        checks.check(is_asked, &[keys[1], keys[0]], || {
            format!(
                "server.trusted_proxies = {} does nothing while server.client_address is \"peer\"; \
                 expected \"forwarded\" or \"x-forwarded-for\" there",
                proxies.to_toml()
            )
        });
    }

    fn check_drain(&self, checks: &mut Checks) {
        let drain = &self.drain;
        let (window, notice) = (drain.window.0, drain.notice.0);
        checks.check(
            window
                .checked_add(notice)
                .is_some_and(|both| drain.deadline.0 >= both),
            &["drain.deadline", "drain.window", "drain.notice"],
            || {
                format!(
                    "drain.deadline = {} must not be less than drain.window = {} and \
                     drain.notice = {} together",
                    drain.deadline.to_toml(),
                    drain.window.to_toml(),
                    drain.notice.to_toml()
                )
            },
        );
    }

    fn check_rooms(&self, checks: &mut Checks) {
        let rooms = &self.rooms;
        check_delivery(
            "rooms",
            (rooms.delivery, true),
            (rooms.slow_client, true),
            (rooms.coalesce_ms, true),
            checks,
        );
        for (n, own) in rooms.matches.iter().enumerate() {
            let path = format!("rooms.match[{n}]");
            let key = format!("{path}.name");
            let name = quoted(&own.name);
            let mut refuse = |holds, what: &str| {
                checks.check(holds, &[&key], || format!("{key} = {name} {what}"));
            };
            refuse(!own.name.is_empty(), "must not be empty");
            refuse(
                own.name.len() <= ROOM_NAME_BYTES_MAX,
                &format!("must not be longer than {ROOM_NAME_BYTES_MAX} bytes"),
            );
            refuse(
                !own.name.starts_with('@'),
                "must not begin with `@`: such rooms are the gateway's own",
            );
            refuse(
                !own.name.contains(char::is_control),
                "must not contain control characters: no room's name does",
            );
            // No text but a star can take another pattern's star, so what an earlier pattern takes
            // as it stands, it takes with anything in the place of the stars.
            let earlier = rooms.matches[..n]
                .iter()
                .position(|earlier| fits(&earlier.name, &own.name));
            if let Some(earlier) = earlier {
                let other = format!("rooms.match[{earlier}].name");
                let taker = quoted(&rooms.matches[earlier].name);
                checks.check(false, &[&key, &other], || {
                    format!(
                        "{key} = {name} can never count: {other} = {taker} before it takes \
                         every such room"
                    )
                });
            }
            check_delivery(
                &path,
                or(own.delivery, rooms.delivery),
                or(own.slow_client, rooms.slow_client),
                or(own.coalesce_ms, rooms.coalesce_ms),
                checks,
            );
        }
    }

    fn check_routes(&self, checks: &mut Checks) {
        for (n, route) in self.routes.iter().enumerate() {
            let key = format!("routes[{n}].path");
            let path = quoted(&route.path);
            let mut refuse = |holds, what: &str| {
                checks.check(holds, &[&key], || format!("{key} = {path} {what}"));
            };
            refuse(
                route.path.starts_with('/'),
                "must begin with `/`, as \"/ws\" does",
            );
            refuse(
                route.path.split('/').skip(1).all(|part| !part.is_empty()),
                "must not end with `/` or have an empty part; expected a path such as \"/ws\"",
            );
            let is_plain = |c: char| c.is_ascii_graphic() && !"?#%\"<>\\^`{|}".contains(c);
            refuse(
                route.path.chars().all(is_plain),
                "must be a path as it stands in a request, without a query; \
                 expected one such as \"/ws\"",
            );
            refuse(
                !PROBES.contains(&route.path.as_str()),
                "is taken: probes are answered there",
            );
            let earlier = self.routes[..n].iter().position(|r| r.path == route.path);
            if let Some(earlier) = earlier {
                let other = format!("routes[{earlier}].path");
                checks.check(false, &[&key, &other], || {
                    format!("{key} = {path} is the same as {other}")
                });
            }
            if let Some(code) = route.drain_close_code {
                let key = format!("routes[{n}].drain_close_code");
                let may_be_sent = matches!(code, 1000..=1003 | 1006..=1014 | 3000..=4999);
                checks.check(may_be_sent, &[&key], || {
                    format!(
                        "{key} = {code} is no close code to send; expected 1000 to 1014 without \
                         1004 and 1005, 3000 to 4999, or 1006 for none at all"
                    )
                });
            }
            let own = (format!("routes[{n}].limits"), &route.limits);
            check_limits(&route.limits.over(&self.limits), Some(own), checks);
        }
    }

    fn check_engines(&self, checks: &mut Checks) {
        let main = &self.engine;
        let engines = std::iter::once((None, main.clone())).chain(
            self.cores
                .keys()
                .map(|core| (Some(*core), self.core(*core).engine)),
        );
        for (core, engine) in engines {
            let own = core.and_then(|core| self.cores.get(&core));
            // Where a core's value is not its own, the main one is to blame.
            let key = |name: &str, is_own: bool| match core {
                Some(core) if is_own => format!("cores.{core}.{name}"),
                _ => format!("engine.{name}"),
            };
            let buffers = key(
                "recv_buffers",
                own.is_some_and(|o| o.recv_buffers.is_some()),
            );
            let count = engine.recv_buffers;
            checks.check(count.is_power_of_two(), &[&buffers], || {
                format!("{buffers} = {count} must be a power of two, such as 64")
            });
            let entries = key(
                "ring_entries",
                own.is_some_and(|o| o.ring_entries.is_some()),
            );
            let completions = key("cq_entries", own.is_some_and(|o| o.cq_entries.is_some()));
            checks.check(
                engine.cq_entries >= engine.ring_entries,
                &[&completions, &entries],
                || {
                    let (few, many) = (engine.cq_entries, engine.ring_entries);
                    format!("{completions} = {few} must not be less than {entries} = {many}")
                },
            );
        }
    }

    fn check_cores(&self, checks: &mut Checks) {
        let paths: Vec<String> = self
            .effective_routes()
            .into_iter()
            .map(|route| route.path)
            .collect();
        let route_keys: Vec<String> = (0..self.routes.len())
            .map(|n| format!("routes[{n}].path"))
            .collect();
        let mut by_cpu: BTreeMap<u32, u16> = BTreeMap::new();
        for (core, own) in &self.cores {
            if let Some(cpu) = own.cpu {
                let first = *by_cpu.entry(cpu).or_insert(*core);
                let (key, other) = (format!("cores.{core}.cpu"), format!("cores.{first}.cpu"));
                checks.check(first == *core, &[&key, &other], || {
                    format!("{key} = {cpu} is the same as {other}")
                });
            }
            let key = format!("cores.{core}.routes");
            if let Some(routes) = &own.routes {
                checks.check(!routes.is_empty(), &[&key], || {
                    format!("{key} must name at least one route; leave it out for all")
                });
                // If a route could not be understood, it may be this one.
                let mut keys = vec![key.as_str(), "routes"];
                keys.extend(route_keys.iter().map(String::as_str));
                for route in routes {
                    checks.check(paths.contains(route), &keys, || {
                        let (route, paths) = (quoted(route), paths.join(", "));
                        format!("{key} names {route}, which no route has; there are: {paths}")
                    });
                }
            }
        }
    }
}

/// What counts, and whether it is `own`.
fn or<T>(own: Option<T>, inherited: T) -> (T, bool) {
    let is_own = own.is_some();
    (own.unwrap_or(inherited), is_own)
}

/// Where the gateway itself answers.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// A path as the catalogue has it: `routes[3].path` as `routes[].path`, `cores.7.cpu` as
/// `cores.N.cpu`.
fn general(path: &str) -> String {
    if let Some((_, name)) = path
        .strip_prefix("cores.")
        .and_then(|rest| rest.split_once('.'))
    {
        return format!("cores.N.{name}");
    }
    match (path.find('['), path.find(']')) {
        (Some(open), Some(close)) => format!("{}{}", &path[..=open], &path[close..]),
        _ => path.to_owned(),
    }
}

fn check_listen(key: &str, listen: &[std::net::SocketAddr], checks: &mut Checks) {
    for (n, address) in listen.iter().enumerate() {
        // Port 0 is another free one each time.
        let is_new = address.port() == 0 || !listen[..n].contains(address);
        checks.check(is_new, &[key], || format!("{key} names {address} twice"));
    }
}

/// `all`, or numbers and ranges of them. Which processors there are, only the machine knows.
fn is_list_of_cores(text: &str) -> bool {
    let number = |text: &str| text.trim().parse::<usize>().ok();
    matches!(text.trim(), "all" | "physical")
        || text.split(',').all(|part| match part.split_once('-') {
            Some((first, last)) => number(first)
                .zip(number(last))
                .is_some_and(|(first, last)| first <= last),
            None => number(part).is_some(),
        })
}

/// A core that a list names more than once. Ranges are compared by their ends, so that a huge one
/// costs nothing.
fn listed_twice(text: &str) -> Option<usize> {
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let ranges: Vec<(usize, usize)> = text
        .split(',')
        .filter_map(|part| match part.split_once('-') {
            Some((first, last)) => number(first).zip(number(last)),
            None => number(part).map(|core| (core, core)),
        })
        .collect();
    ranges.iter().enumerate().find_map(|(n, a)| {
        let overlap = |b: &&(usize, usize)| a.0 <= b.1 && b.0 <= a.1;
        ranges[..n].iter().find(overlap).map(|b| a.0.max(b.0))
    })
}

/// The limits of all routes, or of one with the path and the keys that are its own.
fn check_limits(limits: &Limits, route: Option<(String, &RouteLimits)>, checks: &mut Checks) {
    let key = |name: &str, is_own: fn(&RouteLimits) -> bool| match &route {
        Some((path, own)) if is_own(own) => format!("{path}.{name}"),
        _ => format!("limits.{name}"),
    };
    let low = key("buffered_bytes_low", |own| own.buffered_bytes_low.is_some());
    let high = key("buffered_bytes_high", |own| {
        own.buffered_bytes_high.is_some()
    });
    checks.check(
        limits.buffered_bytes_low <= limits.buffered_bytes_high,
        &[&low, &high],
        || {
            format!(
                "{low} = {} must not be more than {high} = {}",
                limits.buffered_bytes_low.to_toml(),
                limits.buffered_bytes_high.to_toml()
            )
        },
    );
}

/// What a promise of delivery goes together with: delivery, policy for the slow, coalescing; each
/// with whether it stands at `path` itself and not only in `[rooms]`.
fn check_delivery(
    path: &str,
    delivery: (Delivery, bool),
    slow_client: (SlowClient, bool),
    coalesce_ms: (u32, bool),
    checks: &mut Checks,
) {
    if delivery.0 != Delivery::Acked {
        return;
    }
    let key = |name: &str, is_own| {
        let path = if is_own { path } else { "rooms" };
        format!("{path}.{name}")
    };
    let own = key("delivery", delivery.1);
    let later = "is not in this version; expected \"at_most_once\"";
    checks.check(false, &[&own], || format!("{own} = \"acked\" {later}"));
    let policy = key("slow_client", slow_client.1);
    checks.check(slow_client.0 == SlowClient::Evict, &[&policy, &own], || {
        let value = slow_client.0.to_toml();
        format!("{policy} = {value} drops messages, which contradicts {own} = \"acked\"")
    });
    let coalesce = key("coalesce_ms", coalesce_ms.1);
    checks.check(coalesce_ms.0 == 0, &[&coalesce, &own], || {
        let value = coalesce_ms.0;
        format!("{coalesce} = {value} drops messages, which contradicts {own} = \"acked\"")
    });
}
