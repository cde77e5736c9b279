//! `[[routes]]`: what is served where, and with which limits.

use serde::Deserialize;

use super::{
    ByteSize, Config, Limits, Span,
    schema::{list, table},
};
use crate::base::limits::ROUTES_MAX;

table! {
    /// `[[routes]]`
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct Route {
        /// The path at which it is served, `/ws`; a rooms route serves `/ws/ROOM` to raw clients too.
        pub path: String = New;
        /// What is served there.
        pub mode: Mode = New;
        /// The close code of a drain; 1006 ends the connection without a close frame.
        pub drain_close_code: Option<u16> = Open;
        /// Whether compression is agreed on there.
        pub deflate: Option<bool> = New replaces "deflate.enabled";
        /// What differs from `[limits]` there.
        pub limits: RouteLimits = Open;
    }
}

list!(Route, ROUTES_MAX, "path", "mode");

/// What a route serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Rooms.
    #[default]
    Rooms,
    /// Every message goes back.
    Echo,
}

macro_rules! route_limits {
    ($($name:ident: $type:ty = $reload:ident, $main:literal;)+) => {
        table! {
            /// What a route may set apart from `[limits]`; each as there.
            #[derive(Clone, Debug, Default, PartialEq)]
            pub struct RouteLimits {
                $(
                    #[doc = concat!("See [`Limits::", stringify!($name), "`].")]
                    pub $name: Option<$type> = $reload replaces $main;
                )+
            }
        }

        impl RouteLimits {
            /// `limits` with what this route sets apart.
            pub fn over(&self, limits: &Limits) -> Limits {
                let mut limits = limits.clone();
                $(if let Some(own) = &self.$name { limits.$name = *own; })+
                limits
            }
        }
    };
}

route_limits! {
    message_bytes_max: ByteSize = New, "limits.message_bytes_max";
    message_timeout: Span = Open, "limits.message_timeout";
    messages_per_second: u32 = Open, "limits.messages_per_second";
    messages_burst: u32 = Open, "limits.messages_burst";
    rate_breaches_max: u32 = Open, "limits.rate_breaches_max";
    bytes_per_second: ByteSize = Open, "limits.bytes_per_second";
    bytes_burst: ByteSize = Open, "limits.bytes_burst";
    control_frames_per_second: u32 = Open, "limits.control_frames_per_second";
    buffered_bytes_high: ByteSize = Open, "limits.buffered_bytes_high";
    buffered_bytes_low: ByteSize = Open, "limits.buffered_bytes_low";
    buffered_time_max: Span = Open, "limits.buffered_time_max";
    rooms_per_client: u32 = Open, "limits.rooms_per_client";
    ping_interval: Span = Open, "limits.ping_interval";
    pong_timeout: Span = Open, "limits.pong_timeout";
    connection_lifetime: Span = New, "limits.connection_lifetime";
}

/// Where the demo page's slow client and its feeder connect.
pub const DEMO_SLOW_PATH: &str = "/demo/ws";

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

impl Config {
    /// Whether the demo page is served, with what it connects to. Who configures routes has an
    /// application.
    pub fn has_demo(&self) -> bool {
        self.server.demo && self.routes.is_empty()
    }

    /// Whether compression may be agreed on at some route.
    pub fn deflates_somewhere(&self) -> bool {
        let mut own = self.routes.iter().map(|route| route.deflate);
        match self.deflate.enabled {
            true => self.routes.is_empty() || own.any(|own| own != Some(false)),
            false => own.any(|own| own == Some(true)),
        }
    }

    /// What is served where: as configured, or `/ws` and, for a demo, `/echo` and what the page
    /// shows a slow client with.
    pub fn effective_routes(&self) -> Vec<Route> {
        if !self.routes.is_empty() {
            return self.routes.clone();
        }
        let route = |path: &str, mode| Route {
            path: path.to_owned(),
            mode,
            drain_close_code: None,
            deflate: None,
            limits: RouteLimits::default(),
        };
        let mut routes = vec![route("/ws", Mode::Rooms)];
        if self.has_demo() {
            routes.push(route("/echo", Mode::Echo));
            routes.push(Route {
                // What it publishes to be slow at would be next to nothing, compressed.
                deflate: Some(false),
                limits: demo_limits(),
                ..route(DEMO_SLOW_PATH, Mode::Rooms)
            });
        }
        routes
    }
}

/// A client there is slow within seconds: little may wait for it, and whoever publishes to it may
/// fill the kernel's buffers, some MiB, in that time.
fn demo_limits() -> RouteLimits {
    RouteLimits {
        bytes_per_second: Some(ByteSize(4 * MIB)),
        bytes_burst: Some(ByteSize(4 * MIB)),
        buffered_bytes_high: Some(ByteSize(256 * KIB)),
        buffered_bytes_low: Some(ByteSize(64 * KIB)),
        ..RouteLimits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_sets_apart_only_what_it_names() {
        let own = RouteLimits {
            messages_per_second: Some(7),
            ..RouteLimits::default()
        };
        let limits = own.over(&Limits::default());
        assert_eq!(limits.messages_per_second, 7);
        assert_eq!(limits.messages_burst, Limits::default().messages_burst);
    }

    #[test]
    fn a_route_decides_on_its_compression() {
        let mut config = Config::default();
        assert!(config.deflates_somewhere());
        config.routes = config.effective_routes();
        assert!(config.deflates_somewhere());
        config.routes[0].deflate = Some(false);
        assert!(!config.deflates_somewhere());
        config.deflate.enabled = false;
        config.routes[0].deflate = None;
        assert!(!config.deflates_somewhere());
        config.routes[0].deflate = Some(true);
        assert!(config.deflates_somewhere());
    }

    #[test]
    fn without_routes_there_are_the_usual_ones() {
        let mut config = Config::default();
        assert_eq!(config.effective_routes().len(), 1);
        config.server.demo = true;
        let routes = config.effective_routes();
        assert_eq!(routes[1].mode, Mode::Echo);
        assert_eq!(routes[2].path, DEMO_SLOW_PATH);
        let limits = routes[2].limits.over(&Limits::default());
        assert!(limits.buffered_bytes_low.0 < limits.buffered_bytes_high.0);
        config.routes = vec![config.effective_routes().remove(1)];
        assert_eq!(config.effective_routes().len(), 1);
    }
}
