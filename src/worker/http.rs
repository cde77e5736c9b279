//! What a request head asks for: routes, and the upgrade's own questions.

use std::{borrow::Cow, sync::Arc};

use super::{
    deflate::Deflate,
    routes::{RouteId, Routes},
};
use crate::{
    base::{ids::Encoding, limits::USER_NAME_BYTES_MAX},
    config::Mode,
    demo,
    handler::rooms::raw_room,
    proto::{
        handshake::{Subprotocol, Upgrade, write_switching_protocols},
        http1::{Head, Response, path_segments, query_pairs},
        ws::deflate::Agreed,
    },
};

/// What to do with a request.
#[derive(Debug)]
pub(super) enum Decision {
    /// Answer it and close.
    Respond(Box<Response>),
    /// Switch to WebSocket.
    Upgrade {
        /// The 101.
        response: Vec<u8>,
        /// By which route.
        route: RouteId,
        /// With what.
        target: Target,
        /// What was agreed on about compression.
        deflate: Option<Agreed>,
    },
}

/// What an upgraded connection is served with.
#[derive(Debug)]
pub(super) enum Target {
    Echo,
    Rooms {
        encoding: Encoding,
        user: Option<Arc<str>>,
        /// A raw client's room.
        room: Option<String>,
        /// Whether it wants to be pinged by messages.
        app_heartbeat: bool,
    },
}

const JSON: &str = "tidegate.v1.json";
const RAW: &str = "tidegate.v1.raw";
const SUBPROTOCOLS: [&str; 2] = [JSON, RAW];

/// Decides on a request. A gateway that is `stopping` names the seconds after which the next one
/// may be asked. `deflate` answers offers of compression.
pub(super) fn decide(
    head: &Head<'_>,
    routes: &Routes,
    deflate: &mut Deflate,
    stopping: Option<u64>,
) -> Decision {
    match try_decide(head, routes, deflate, stopping) {
        Ok(decision) => decision,
        Err(response) => Decision::Respond(if head.method == "HEAD" {
            Box::new(response.without_body())
        } else {
            response
        }),
    }
}

fn try_decide(
    head: &Head<'_>,
    routes: &Routes,
    deflate: &mut Deflate,
    stopping: Option<u64>,
) -> Result<Decision, Box<Response>> {
    let segments = path_segments(head.path).map_err(|e| bad_request(e.to_string()))?;
    let segments: Vec<&str> = segments.iter().map(Cow::as_ref).collect();
    match segments.as_slice() {
        ["healthz"] => return Err(Box::new(probe(head, true))),
        ["readyz"] => return Err(Box::new(probe(head, stopping.is_none()))),
        _ => {}
    }
    if routes.has_demo()
        && let Some(response) = demo::answer(head, &segments)
    {
        return Err(Box::new(response));
    }
    let Some((route, room)) = routes.find(&segments) else {
        let response = Response::new(404).body("there is nothing at this path");
        return Err(Box::new(response));
    };
    let upgrade = accept(head, stopping)?;
    let (target, subprotocol) = match routes[route].mode {
        Mode::Rooms => open_rooms(head, &upgrade, room)?,
        Mode::Echo => (Target::Echo, None),
    };
    let deflate = match routes[route].deflates && !upgrade.extensions().is_empty() {
        true => deflate.agree(upgrade.extensions()),
        false => None,
    };
    let extensions = deflate.map(|agreed| agreed.to_value());
    let mut response = Vec::new();
    write_switching_protocols(
        &mut response,
        upgrade.key(),
        subprotocol,
        extensions.as_deref(),
    );
    Ok(Decision::Upgrade {
        response,
        route,
        target,
        deflate,
    })
}

fn probe(head: &Head<'_>, is_well: bool) -> Response {
    match head.method {
        "GET" | "HEAD" if is_well => Response::new(200).body("ok"),
        "GET" | "HEAD" => Response::new(503).body("stopping"),
        _ => Response::new(405)
            .header("Allow", "GET, HEAD")
            .body("only GET and HEAD are allowed here"),
    }
}

fn accept<'a>(head: &Head<'a>, stopping: Option<u64>) -> Result<Upgrade<'a>, Box<Response>> {
    let upgrade = Upgrade::from_head(head).map_err(|e| Box::new(e.response()))?;
    if let Some(seconds) = stopping {
        let response = Response::new(503)
            .header("Retry-After", seconds.to_string())
            .body("the gateway is stopping");
        return Err(Box::new(response));
    }
    Ok(upgrade)
}

fn open_rooms(
    head: &Head<'_>,
    upgrade: &Upgrade<'_>,
    room_in_path: Option<&str>,
) -> Result<(Target, Option<&'static str>), Box<Response>> {
    let (encoding, subprotocol) = match upgrade.choose(&SUBPROTOCOLS) {
        Subprotocol::NoneOffered => (Encoding::Json, None),
        Subprotocol::Chosen(RAW) => (Encoding::Raw, Some(RAW)),
        Subprotocol::Chosen(name) => (Encoding::Json, Some(name)),
        Subprotocol::NoneKnown => {
            return Err(bad_request(format!(
                "none of the offered subprotocols is known; known are {}",
                SUBPROTOCOLS.join(", ")
            )));
        }
    };
    let mut user = None;
    let mut app_heartbeat = false;
    let mut room = room_in_path.map(str::to_owned);
    for pair in query_pairs(head.query.unwrap_or_default()) {
        let (name, value) = pair.map_err(|e| bad_request(e.to_string()))?;
        match name.as_ref() {
            "user" => {
                if !is_user_name(&value) {
                    return Err(bad_request(
                        "`user` must be 1 to 128 bytes without control characters",
                    ));
                }
                user = Some(Arc::from(value.as_ref()));
            }
            "heartbeat" => app_heartbeat = wants_messages(&value, encoding)?,
            "room" if room.is_none() => room = Some(value.into_owned()),
            _ => {}
        }
    }
    let room = match (encoding, room) {
        (Encoding::Json, _) if room_in_path.is_some() => {
            return Err(bad_request(
                "only clients of tidegate.v1.raw name their room in the path",
            ));
        }
        (Encoding::Json, _) => None,
        (Encoding::Raw, Some(room)) if raw_room(&room).is_some() => Some(room),
        (Encoding::Raw, _) => {
            return Err(bad_request(
                "tidegate.v1.raw needs a room: /ws/NAME or ?room=NAME, 1 to 128 bytes without \
                 control characters",
            ));
        }
    };
    let target = Target::Rooms {
        encoding,
        user,
        room,
        app_heartbeat,
    };
    Ok((target, subprotocol))
}

/// What `?heartbeat=` asks for: `app` is a ping as a message, for clients that never see frames.
fn wants_messages(value: &str, encoding: Encoding) -> Result<bool, Box<Response>> {
    match value {
        "app" if encoding.has_envelope() => Ok(true),
        "app" => Err(bad_request(
            "clients of tidegate.v1.raw get no messages of the gateway's own: `heartbeat` must be \
             `ws`",
        )),
        "ws" => Ok(false),
        _ => Err(bad_request("`heartbeat` must be `ws` or `app`")),
    }
}

fn bad_request(text: impl Into<Cow<'static, str>>) -> Box<Response> {
    Box::new(Response::new(400).body(text))
}

fn is_user_name(name: &str) -> bool {
    (1..=USER_NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}
