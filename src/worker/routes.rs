//! What a worker serves where, and with which limits. A reload replaces what changed; routes that
//! did not change keep their connections as they are.

use std::{ops::Index, rc::Rc};

use crate::{
    config::{self, Config, CoreConfig, Limits, Mode},
    handler::reply::Hello,
    session::rates::RateLimits,
};

/// Names a route of one worker; `u16::MAX` names none.
pub(super) type RouteId = u16;

/// What no route is called.
pub(super) const NO_ROUTE: RouteId = RouteId::MAX;

/// A route as a worker serves it.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) path: String,
    pub(super) mode: Mode,
    /// Whether compression may be agreed on.
    pub(super) deflates: bool,
    /// What holds for one of its clients.
    pub(super) limits: Limits,
    pub(super) rates: RateLimits,
    pub(super) hello: Hello,
    pub(super) drain_close_code: Option<u16>,
    /// Whether it is in the present configuration.
    pub(super) is_served: bool,
}

/// A worker's routes, those that still have connections included.
#[derive(Debug)]
pub(super) struct Routes {
    slots: Vec<Option<Slot>>,
    has_demo: bool,
    node: String,
}

#[derive(Debug)]
struct Slot {
    route: Rc<Route>,
    connections: u32,
}

impl Routes {
    pub(super) fn new(config: &Config, own: &CoreConfig, node: String) -> Self {
        let mut routes = Self {
            slots: Vec::new(),
            has_demo: false,
            node,
        };
        routes.reload(config, own);
        routes
    }

    /// Takes up another configuration. Says whether a route with connections is no longer served.
    pub(super) fn reload(&mut self, config: &Config, own: &CoreConfig) -> bool {
        self.has_demo = config.has_demo();
        let mut wanted: Vec<_> = config
            .effective_routes()
            .into_iter()
            .filter(|route| {
                let all = own.routes.as_ref();
                all.is_none_or(|paths| paths.contains(&route.path))
            })
            .collect();
        let mut orphans = false;
        for slot in &mut self.slots {
            let Some(held) = slot else { continue };
            let is_same =
                |r: &config::Route| r.path == held.route.path && r.mode == held.route.mode;
            if let Some(at) = wanted.iter().position(is_same)
                && held.route.is_served
            {
                held.route = Rc::new(route(&wanted.remove(at), config, &self.node));
            } else if held.connections == 0 {
                *slot = None;
            } else {
                orphans = true;
                if held.route.is_served {
                    held.route = Rc::new(Route {
                        is_served: false,
                        path: held.route.path.clone(),
                        limits: held.route.limits.clone(),
                        hello: held.route.hello.clone(),
                        ..*held.route
                    });
                }
            }
        }
        for wanted in wanted {
            let slot = Some(Slot {
                route: Rc::new(route(&wanted, config, &self.node)),
                connections: 0,
            });
            match self.slots.iter_mut().find(|slot| slot.is_none()) {
                Some(free) => *free = slot,
                None => self.slots.push(slot),
            }
        }
        orphans
    }

    /// The route at a path, and what follows it: a raw client's room.
    pub(super) fn find<'a>(&self, segments: &[&'a str]) -> Option<(RouteId, Option<&'a str>)> {
        let mut found = None;
        for (id, slot) in self.slots.iter().enumerate() {
            let Some(slot) = slot.as_ref().filter(|slot| slot.route.is_served) else {
                continue;
            };
            let own = slot.route.path.split('/').skip(1);
            let count = own.clone().count();
            if segments.len() < count || !own.zip(segments).all(|(a, b)| a == *b) {
                continue;
            }
            match &segments[count..] {
                // The path itself wins over the room of a shorter one.
                [] => return Some((id as RouteId, None)),
                [room] if slot.route.mode == Mode::Rooms && !room.is_empty() => {
                    found = Some((id as RouteId, Some(*room)));
                }
                _ => {}
            }
        }
        found
    }

    /// Whether the demo page is served beside them.
    pub(super) fn has_demo(&self) -> bool {
        self.has_demo
    }

    pub(super) fn get(&self, id: RouteId) -> Option<&Rc<Route>> {
        let slot = self.slots.get(usize::from(id))?.as_ref()?;
        Some(&slot.route)
    }

    /// A connection of this route has opened.
    pub(super) fn enter(&mut self, id: RouteId) {
        if let Some(Some(slot)) = self.slots.get_mut(usize::from(id)) {
            slot.connections += 1;
        }
    }

    /// One has closed.
    pub(super) fn leave(&mut self, id: RouteId) {
        if let Some(Some(slot)) = self.slots.get_mut(usize::from(id)) {
            slot.connections -= 1;
            if slot.connections == 0 && !slot.route.is_served {
                self.slots[usize::from(id)] = None;
            }
        }
    }

    /// Connections of all of them.
    pub(super) fn connections(&self) -> u32 {
        self.slots.iter().flatten().map(|s| s.connections).sum()
    }
}

impl Index<RouteId> for Routes {
    type Output = Rc<Route>;

    fn index(&self, id: RouteId) -> &Rc<Route> {
        self.get(id)
            .expect("invariant: a route lives as long as its connections")
    }
}

fn route(route: &config::Route, config: &Config, node: &str) -> Route {
    let limits = route.limits.over(&config.limits);
    Route {
        path: route.path.clone(),
        mode: route.mode,
        deflates: route.deflate.unwrap_or(config.deflate.enabled),
        rates: RateLimits::new(&limits),
        hello: Hello {
            node: node.to_owned(),
            ping_interval_ms: limits.ping_interval.0.as_millis() as u64,
            pong_timeout_ms: limits.pong_timeout.0.as_millis() as u64,
            message_bytes_max: limits.message_bytes_max.0 as u64,
            rooms_max: limits.rooms_per_client.into(),
            messages_per_second: limits.messages_per_second.into(),
        },
        limits,
        drain_close_code: route.drain_close_code,
        is_served: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RouteLimits;

    fn config(paths: &[(&str, Mode)]) -> Config {
        let mut config = Config::default();
        config.routes = paths
            .iter()
            .map(|(path, mode)| config::Route {
                path: (*path).to_owned(),
                mode: *mode,
                drain_close_code: None,
                deflate: None,
                limits: RouteLimits::default(),
            })
            .collect();
        config
    }

    fn routes(config: &Config) -> Routes {
        Routes::new(config, &config.core(0), "n".to_owned())
    }

    #[test]
    fn paths_find_their_routes_and_rooms() {
        let config = config(&[
            ("/ws", Mode::Rooms),
            ("/ws/echo", Mode::Echo),
            ("/a/b", Mode::Rooms),
        ]);
        let routes = routes(&config);
        let find = |path: &str| {
            let segments: Vec<&str> = path.split('/').skip(1).collect();
            routes
                .find(&segments)
                .map(|(id, room)| (routes[id].path.clone(), room.map(str::to_owned)))
        };
        let some =
            |path: &str, room: Option<&str>| Some((path.to_owned(), room.map(str::to_owned)));
        assert_eq!(find("/ws"), some("/ws", None));
        assert_eq!(find("/ws/room"), some("/ws", Some("room")));
        assert_eq!(find("/ws/echo"), some("/ws/echo", None));
        assert_eq!(find("/a/b/c"), some("/a/b", Some("c")));
        for path in ["/", "/w", "/ws/", "/ws/x/y", "/a", "/ws/echo/x", "/b/a"] {
            assert_eq!(find(path), None, "{path}");
        }
    }

    #[test]
    fn a_core_serves_the_routes_it_was_given() {
        let mut config = config(&[("/ws", Mode::Rooms), ("/echo", Mode::Echo)]);
        let own = config::CoreFile {
            routes: Some(vec!["/echo".to_owned()]),
            ..config::CoreFile::default()
        };
        config.cores.insert(0, own);
        let routes = routes(&config);
        assert!(routes.find(&["echo"]).is_some());
        assert!(routes.find(&["ws"]).is_none());
    }

    #[test]
    fn a_reload_keeps_the_ids_of_what_stays_and_ends_what_goes() {
        let mut before = config(&[("/ws", Mode::Rooms), ("/echo", Mode::Echo)]);
        let mut routes = routes(&before);
        let (ws, _) = routes.find(&["ws"]).unwrap();
        let (echo, _) = routes.find(&["echo"]).unwrap();
        routes.enter(ws);
        routes.enter(echo);
        before.limits.rooms_per_client = 7;
        assert!(!routes.reload(&before, &before.core(0)));
        assert_eq!(routes[ws].limits.rooms_per_client, 7);
        // One goes, one comes: the connection of the one that went keeps its own.
        let after = config(&[("/ws", Mode::Rooms), ("/new", Mode::Rooms)]);
        assert!(routes.reload(&after, &after.core(0)));
        assert_eq!(routes.find(&["ws"]).unwrap().0, ws);
        assert!(routes.find(&["echo"]).is_none());
        assert!(!routes[echo].is_served);
        assert_ne!(routes.find(&["new"]).unwrap().0, echo);
        assert_eq!(routes.connections(), 2);
        routes.leave(echo);
        assert!(routes.get(echo).is_none());
        // The same path again is another route for whoever was there before.
        assert!(!routes.reload(&after, &after.core(0)));
    }
}
