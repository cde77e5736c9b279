//! Rooms: clients publish to rooms that they are members of (protocol §2 to §5).

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use compact_str::CompactString;

use super::reply::{self, Hello};
use crate::{
    base::{
        ids::{CoreId, Encoding, SessionKey},
        time::Now,
    },
    config::PublishBy,
    hub::{
        ALL_ROOM, Hub, Output, Outputs,
        edge::Sessions,
        is_reserved,
        wire::{
            DirectMessage, Inspect, Join, JoinSince, Leave, LeaveReason, Payload, Publish,
            PublishRef, Reply, Request, RoomRef, SendToClient, SendToUser,
        },
    },
    proto::{
        envelope::{Command, CommandError, Envelope, ErrorCode, Recipient, Since, json},
        ws::{close::CloseCode, connection::MessageKind},
    },
    session::{LocalRoomKey, Membership, Session, rates::Meter},
};

/// What a message is handled with.
#[derive(Debug)]
pub struct Rooms<'a> {
    /// The turn's time.
    pub now: Now,
    /// This core's rooms.
    pub hub: &'a mut Hub,
    /// This core's sessions.
    pub sessions: &'a mut Sessions,
    /// What follows.
    pub out: &'a mut Outputs,
    /// What `connected` tells.
    pub hello: &'a Hello,
    /// Rooms that one client may be in.
    pub rooms_per_client: u32,
    /// Errors answered, to be counted by the caller.
    pub errors: u64,
    /// Of these, joins beyond `rooms_per_client`.
    pub too_many_rooms: u64,
}

impl Rooms<'_> {
    /// A client has come. `room` is a raw client's.
    pub fn on_open(&mut self, key: SessionKey, room: Option<&str>) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let (client, user) = (session.client, session.user.clone());
        let has_envelope = session.encoding.has_envelope();
        if has_envelope {
            let mut payload = Vec::new();
            let ts = self.now.unix_ms;
            reply::connected(&mut payload, self.hello, client, user.as_deref(), ts);
            self.out.push_back(Output::Message { to: key, payload });
        }
        // A raw client gets no direct messages: the directory need not know it.
        if let Some(user) = user.filter(|_| has_envelope) {
            let to = self.hub.routes().core_of(&user);
            self.request(to, Request::UserOnline { user, client });
        }
        if let Some(room) = room {
            self.join(key, None, room, false, None, None);
        }
    }

    /// A client has gone: it leaves its rooms.
    pub fn on_close(&mut self, session: Session, reason: LeaveReason) {
        for membership in session.rooms {
            let key = membership.room;
            if let Some(room) = self.hub.edge().get(key) {
                let to = room.home_core();
                let leave = Leave {
                    room: room.home_ref(&membership),
                    local: key,
                    client: session.client,
                    reason,
                    command: false,
                    id: None,
                };
                self.request(to, Request::Leave(leave));
            }
            self.hub
                .edge_mut()
                .end_membership(membership, session.encoding, self.sessions);
        }
        if let Some(user) = session.user.filter(|_| session.encoding.has_envelope()) {
            let to = self.hub.routes().core_of(&user);
            let client = session.client;
            self.request(to, Request::UserOffline { user, client });
        }
    }

    /// A JSON client's message.
    pub fn on_json(
        &mut self,
        key: SessionKey,
        kind: MessageKind,
        payload: &[u8],
        meter: &mut Meter<'_>,
    ) {
        if kind == MessageKind::Binary {
            if let Err(wait) = meter.on_message() {
                return self.error(key, None, &CommandError::rate_limited(wait));
            }
            return self.error(
                key,
                None,
                &CommandError::new(
                    ErrorCode::InvalidMessage,
                    "messages of this subprotocol are text",
                ),
            );
        }
        let Ok(text) = std::str::from_utf8(payload) else {
            unreachable!("invariant: text messages were checked as they arrived");
        };
        match json::split(text) {
            Ok(commands) => {
                for command in commands {
                    // Each command of a batch counts. A refused one is still answered by its id.
                    let metered = meter.on_message().map_err(CommandError::rate_limited);
                    match (json::decode(command), metered) {
                        (Ok(envelope), Ok(())) => self.on_command(key, envelope),
                        (Ok(Envelope { id, .. }), Err(error)) => {
                            self.error(key, id.as_deref(), &error);
                        }
                        (Err(json::Unreadable { id, error }), metered) => {
                            let error = metered.err().unwrap_or(error);
                            self.error(key, id.as_deref(), &error);
                        }
                    }
                    if meter.is_over {
                        return;
                    }
                }
            }
            Err(error) => {
                let metered = meter.on_message().map_err(CommandError::rate_limited);
                self.error(key, None, &metered.err().unwrap_or(error));
            }
        }
    }

    /// A raw client's message: relayed to its one room as it came.
    ///
    /// One too many is dropped without a word, since a raw client gets none (protocol §1).
    pub fn on_raw(
        &mut self,
        key: SessionKey,
        kind: MessageKind,
        payload: &[u8],
        meter: &mut Meter<'_>,
    ) {
        if meter.on_message().is_err() {
            return;
        }
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let Some(membership) = session.rooms.first().copied() else {
            return;
        };
        let (client, local) = (session.client, membership.room);
        self.publish_in(
            &membership,
            &PublishRef {
                // Replaced by how the home knows it.
                room: &RoomRef::Key(local),
                local: Some(local),
                client,
                user: None,
                payload: match kind {
                    MessageKind::Text => Payload::RawText,
                    MessageKind::Binary => Payload::RawBinary,
                },
                data: payload,
                mid: None,
                key: None,
                ephemeral: false,
                echo: false,
                id: None,
            },
        );
    }

    fn on_command(&mut self, key: SessionKey, envelope: Envelope<'_>) {
        let id = envelope.id;
        match envelope.command {
            Command::Publish {
                room,
                data,
                mid,
                key: conflation_key,
                ephemeral,
                echo,
            } => {
                let Some(session) = self.sessions.get(key) else {
                    return;
                };
                let found = self.hub.edge().find(&room);
                let membership = found.and_then(|local| self.hub.edge().membership(session, local));
                if membership.is_none()
                    && let Err(error) = self.check_outsider(&room)
                {
                    return self.error(key, id.as_deref(), &error);
                }
                let client = session.client;
                let user = session.user.clone();
                let reference = PublishRef {
                    room: &match membership {
                        // Replaced by how the home knows it.
                        Some(membership) => RoomRef::Key(membership.room),
                        None => RoomRef::Name(Arc::from(room.as_ref())),
                    },
                    local: membership.map(|membership| membership.room),
                    client,
                    user: user.as_deref(),
                    payload: Payload::Json,
                    data: data.as_bytes(),
                    mid: mid.as_deref(),
                    key: conflation_key.as_deref(),
                    ephemeral,
                    echo,
                    id: id.as_deref(),
                };
                match membership {
                    Some(membership) => self.publish_in(&membership, &reference),
                    None => self.publish_at(self.hub.routes().core_of(&room), reference),
                }
            }
            Command::Join {
                room,
                presence,
                state,
                since,
            } => {
                if is_reserved(&room) {
                    let error = CommandError::new(
                        ErrorCode::Forbidden,
                        "names that begin with `@` are the gateway's own",
                    );
                    return self.error(key, id.as_deref(), &error);
                }
                let state = state.map(|state| Bytes::copy_from_slice(state.as_bytes()));
                let since = since.map(|since| JoinSince {
                    position: match since {
                        Since::Position { epoch, seq } => Some((CompactString::from(epoch), seq)),
                        Since::Time(_) => None,
                    },
                });
                self.join(key, id, &room, presence, state, since);
            }
            Command::Leave { room } => self.leave(key, id, &room),
            Command::Send { to, data, mid } => self.send(key, id, to, data, mid),
            Command::Presence { room } => self.inspect(key, id, &room, true),
            Command::RoomInfo { room } => self.inspect(key, id, &room, false),
            Command::Echo { data } => {
                if id.is_some() {
                    let mut payload = Vec::new();
                    json::Object::new(&mut payload, "ok")
                        .optional("id", id.as_deref())
                        .raw("data", data.as_bytes())
                        .end();
                    self.out.push_back(Output::Message { to: key, payload });
                }
            }
            Command::Ping => {
                let mut payload = Vec::new();
                json::Object::new(&mut payload, "pong")
                    .optional("id", id.as_deref())
                    .number("ts", self.now.unix_ms)
                    .end();
                self.out.push_back(Output::Message { to: key, payload });
            }
            Command::Pong => {
                if id.is_some() {
                    let mut payload = Vec::new();
                    json::Object::new(&mut payload, "ok")
                        .optional("id", id.as_deref())
                        .end();
                    self.out.push_back(Output::Message { to: key, payload });
                }
            }
        }
    }

    fn join(
        &mut self,
        key: SessionKey,
        id: Option<Cow<'_, str>>,
        room: &str,
        presence: bool,
        state: Option<Bytes>,
        since: Option<JoinSince>,
    ) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let to = self.hub.routes().core_of(room);
        let known = self.hub.edge().find(room);
        let is_new = known.is_none_or(|local| session.membership(local).is_none());
        if is_new && session.rooms.len() >= self.rooms_per_client as usize {
            let error = CommandError::new(
                ErrorCode::TooManyRooms,
                "this client is in as many rooms as it may be",
            );
            return self.error(key, id.as_deref(), &error);
        }
        let local = self.hub.edge_mut().begin_join(room, to, session);
        let (client, user, encoding) = (session.client, session.user.clone(), session.encoding);
        let takes_deflated = session.takes_deflated;
        let Some(local_room) = self.hub.edge().get(local) else {
            return;
        };
        let join = Join {
            room: Arc::clone(local_room.name()),
            local,
            client,
            user,
            encoding,
            takes_deflated,
            state,
            presence,
            since,
            id: id.map(CompactString::from),
        };
        self.request(to, Request::Join(Box::new(join)));
    }

    fn leave(&mut self, key: SessionKey, id: Option<Cow<'_, str>>, room: &str) {
        if room == ALL_ROOM {
            let error = CommandError::new(ErrorCode::Forbidden, "every client is in this room");
            return self.error(key, id.as_deref(), &error);
        }
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let found = self.hub.edge().find(room);
        let membership = found.and_then(|local| session.membership(local));
        let Some((membership, local_room)) = membership
            .and_then(|membership| Some((membership, self.hub.edge().get(membership.room)?)))
        else {
            let error = CommandError::new(ErrorCode::NotJoined, "this client is not in the room");
            return self.error(key, id.as_deref(), &error);
        };
        let to = local_room.home_core();
        let leave = Leave {
            room: local_room.home_ref(membership),
            local: membership.room,
            client: session.client,
            reason: LeaveReason::Left,
            command: true,
            id: id.map(CompactString::from),
        };
        self.request(to, Request::Leave(leave));
    }

    fn publish_in(&mut self, membership: &Membership, publish: &PublishRef<'_>) {
        let Some(room) = self.hub.edge().get(membership.room) else {
            return;
        };
        let (to, room) = (room.home_core(), room.home_ref(membership));
        let publish = PublishRef {
            room: &room,
            ..*publish
        };
        self.publish_at(to, publish);
    }

    /// Whether a client that is no member may ask the home to publish. The home looks again.
    fn check_outsider(&self, room: &str) -> Result<(), CommandError> {
        match self.hub.room_options(room).publish_by {
            PublishBy::Anyone if !is_reserved(room) => Ok(()),
            PublishBy::Backend => Err(CommandError::new(
                ErrorCode::Forbidden,
                "only the backend publishes to this room",
            )),
            PublishBy::Anyone | PublishBy::Members => Err(CommandError::new(
                ErrorCode::NotJoined,
                "join the room first",
            )),
        }
    }

    fn publish_at(&mut self, to: CoreId, publish: PublishRef<'_>) {
        if to == self.hub.core() {
            self.hub.publish_at_home(self.now, publish, self.out);
        } else {
            let publish: Box<Publish> = Box::new(publish.to_owned());
            self.request(to, Request::Publish(publish));
        }
    }

    fn send(
        &mut self,
        key: SessionKey,
        id: Option<Cow<'_, str>>,
        to: Recipient<'_>,
        data: &str,
        mid: Option<Cow<'_, str>>,
    ) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let message = Arc::new(DirectMessage {
            from: session.client,
            user: session.user.clone(),
            data: Bytes::copy_from_slice(data.as_bytes()),
            mid: mid.map(CompactString::from),
            ts: self.now.unix_ms,
        });
        let id = id.map(CompactString::from);
        match to {
            Recipient::User(user) => {
                let core = self.hub.routes().core_of(&user);
                let to = Arc::from(user.as_ref());
                let send = SendToUser { to, message, id };
                self.request(core, Request::SendToUser(Box::new(send)));
            }
            Recipient::Client(Some(to)) if to.core < self.hub.routes().cores() => {
                let send = SendToClient { to, message, id };
                self.request(to.core, Request::SendToClient(Box::new(send)));
            }
            Recipient::Client(_) => self.out.push_back(Output::Reply {
                to: key,
                id,
                reply: Reply::Queued(0),
            }),
        }
    }

    fn inspect(&mut self, key: SessionKey, id: Option<Cow<'_, str>>, room: &str, list: bool) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        if is_reserved(room) {
            let error = CommandError::new(
                ErrorCode::Forbidden,
                "names that begin with `@` are the gateway's own",
            );
            return self.error(key, id.as_deref(), &error);
        }
        let edge = self.hub.edge();
        let member = |local: &LocalRoomKey| edge.membership(session, *local).is_some();
        let inspect = Inspect {
            room: Arc::from(room),
            local: self.hub.edge().find(room).filter(member),
            client: session.client,
            list,
            id: id.map(CompactString::from),
        };
        let to = self.hub.routes().core_of(room);
        self.request(to, Request::Inspect(Box::new(inspect)));
    }

    /// A request to this very core is carried out at once, so that the next command of a batch
    /// finds its effect.
    fn request(&mut self, to: CoreId, request: Request) {
        if to == self.hub.core() {
            self.hub
                .handle_request(self.now, to, request, self.sessions, self.out);
        } else {
            self.out.push_back(Output::Request { to, request });
        }
    }

    fn error(&mut self, key: SessionKey, id: Option<&str>, error: &CommandError) {
        self.errors += 1;
        self.too_many_rooms += u64::from(error.code == ErrorCode::TooManyRooms);
        let mut payload = Vec::new();
        reply::error(&mut payload, id, error);
        self.out.push_back(Output::Message { to: key, payload });
    }
}

/// What an answer means to a client: a message, or for a raw client whose room can't be had, the
/// end.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Send this text.
    Message,
    /// Send nothing.
    Nothing,
    /// A raw client's message was dropped.
    Dropped,
    /// Close the connection.
    Close(CloseCode, &'static str),
}

/// Writes the answer to one of this core's sessions to `payload`.
pub fn answer(session: &Session, id: Option<&str>, reply: &Reply, payload: &mut Vec<u8>) -> Answer {
    match (session.encoding, reply) {
        (Encoding::Json, reply) => {
            reply::reply(payload, id, reply);
            if payload.is_empty() {
                Answer::Nothing
            } else {
                Answer::Message
            }
        }
        (Encoding::Raw, Reply::JoinRefused(error)) => match error.code {
            ErrorCode::RoomFull | ErrorCode::Overloaded => {
                Answer::Close(CloseCode::TRY_AGAIN_LATER, "try again later")
            }
            _ => Answer::Close(CloseCode::POLICY_VIOLATION, "policy"),
        },
        (Encoding::Raw, Reply::Error(_)) => Answer::Dropped,
        (Encoding::Raw, _) => Answer::Nothing,
    }
}

/// The room that a raw client asked for, if it may be had by that name.
pub fn raw_room(name: &str) -> Option<&str> {
    (json::is_room_name(name) && !is_reserved(name)).then_some(name)
}
