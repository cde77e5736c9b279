//! `[[routes]]`: what is served where, and with which limits.

use serde::Deserialize;

use super::{ByteSize, Config, Limits, Span};

/// `[[routes]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The path at which it is served, `/ws`; a rooms route serves `/ws/ROOM` to raw clients too.
    pub path: String,
    /// What is served there.
    pub mode: Mode,
    /// The close code of a drain; 1006 ends the connection without a close frame.
    #[serde(default)]
    pub drain_close_code: Option<u16>,
    /// What differs from `[limits]` there.
    #[serde(default)]
    pub limits: RouteLimits,
}

/// What a route serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Rooms.
    Rooms,
    /// Every message goes back.
    Echo,
}

macro_rules! route_limits {
    ($($name:ident: $type:ty,)+) => {
        /// What a route may set apart from `[limits]`; each as there.
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct RouteLimits {
            $(#[doc = concat!("See [`Limits::", stringify!($name), "`].")] pub $name: Option<$type>,)+
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
    message_bytes_max: ByteSize,
    messages_per_second: u32,
    messages_burst: u32,
    rate_breaches_max: u32,
    bytes_per_second: ByteSize,
    bytes_burst: ByteSize,
    control_frames_per_second: u32,
    buffered_bytes_high: ByteSize,
    buffered_bytes_low: ByteSize,
    buffered_time_max: Span,
    rooms_per_client: u32,
    ping_interval: Span,
    pong_timeout: Span,
    connection_lifetime: Span,
}

impl Config {
    /// What is served where: as configured, or `/ws` and, for a demo, `/echo`.
    pub fn effective_routes(&self) -> Vec<Route> {
        if !self.routes.is_empty() {
            return self.routes.clone();
        }
        let route = |path: &str, mode| Route {
            path: path.to_owned(),
            mode,
            drain_close_code: None,
            limits: RouteLimits::default(),
        };
        let mut routes = vec![route("/ws", Mode::Rooms)];
        if self.server.demo {
            routes.push(route("/echo", Mode::Echo));
        }
        routes
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
    fn without_routes_there_are_the_usual_ones() {
        let mut config = Config::default();
        assert_eq!(config.effective_routes().len(), 1);
        config.server.demo = true;
        assert_eq!(config.effective_routes()[1].mode, Mode::Echo);
        config.routes = vec![config.effective_routes().remove(1)];
        assert_eq!(config.effective_routes().len(), 1);
    }
}
