//! What cores say to each other about rooms: requests to a home, deliveries to the members' cores.
//!
//! Plain data that may change threads. Between two cores the order is kept, and every rule about
//! order in a room rests on that.

use std::sync::Arc;

use bytes::Bytes;
use compact_str::CompactString;

use crate::{
    base::{
        ids::{ClientId, Encoding},
        slab::Key,
    },
    proto::envelope::{CommandError, json},
    session::LocalRoomKey,
};

/// A room at its home.
pub type HomeRoomKey = Key;

/// How a request names a room: by key once the home has told it, by name before.
#[derive(Clone, Debug)]
pub enum RoomRef {
    /// The home's own key.
    Key(HomeRoomKey),
    /// The room's name.
    Name(Arc<str>),
}

/// What a core asks of another.
#[derive(Debug)]
pub enum Request {
    /// To the home: make a client a member.
    Join(Box<Join>),
    /// To the home: end a membership.
    Leave(Leave),
    /// To the home: number a message and pass it on.
    Publish(Box<Publish>),
    /// To the home: tell who is there.
    Inspect(Box<Inspect>),
    /// To the user's directory core: this client is the user's.
    UserOnline {
        /// The user.
        user: Arc<str>,
        /// The client.
        client: ClientId,
    },
    /// To the user's directory core: this client is gone.
    UserOffline {
        /// The user.
        user: Arc<str>,
        /// The client.
        client: ClientId,
    },
    /// To the user's directory core: pass on to each of the user's clients.
    SendToUser(Box<SendToUser>),
    /// To the client's own core.
    SendToClient(Box<SendToClient>),
}

impl Request {
    /// Whether exactly one [`Delivery::Reply`] answers it: such a request holds a credit.
    pub const fn is_answered(&self) -> bool {
        match self {
            Self::Join(_)
            | Self::Publish(_)
            | Self::Inspect(_)
            | Self::SendToUser(_)
            | Self::SendToClient(_) => true,
            Self::Leave(leave) => leave.command,
            Self::UserOnline { .. } | Self::UserOffline { .. } => false,
        }
    }
}

/// See [`Request::Join`].
#[derive(Debug)]
pub struct Join {
    /// The room's name.
    pub room: Arc<str>,
    /// The room on the member's core.
    pub local: LocalRoomKey,
    /// Who joins.
    pub client: ClientId,
    /// Its user.
    pub user: Option<Arc<str>>,
    /// How its messages are written.
    pub encoding: Encoding,
    /// Whether it takes compressed frames.
    pub takes_deflated: bool,
    /// Its presence state, as JSON.
    pub state: Option<Bytes>,
    /// Whether the answer lists the members.
    pub presence: bool,
    /// Where it left off.
    pub since: Option<JoinSince>,
    /// The command's correlation id.
    pub id: Option<CompactString>,
}

/// Where a rejoining client left off.
#[derive(Debug)]
pub struct JoinSince {
    /// The numbering and the last message seen; none if only a time was given.
    pub position: Option<(CompactString, u64)>,
}

/// See [`Request::Leave`].
#[derive(Debug)]
pub struct Leave {
    /// The room.
    pub room: RoomRef,
    /// The room on the member's core.
    pub local: LocalRoomKey,
    /// Who leaves.
    pub client: ClientId,
    /// Why, for those who stay.
    pub reason: LeaveReason,
    /// Whether the client asked for it and is answered.
    pub command: bool,
    /// The command's correlation id.
    pub id: Option<CompactString>,
}

/// Why a member left (protocol §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveReason {
    /// It asked to.
    Left,
    /// Its connection ended.
    Disconnected,
    /// It did not answer a ping.
    TimedOut,
    /// It was too slow.
    Evicted,
}

impl LeaveReason {
    /// As it stands in `user_left`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Disconnected => "disconnected",
            Self::TimedOut => "timed_out",
            Self::Evicted => "evicted",
        }
    }
}

/// What a publisher's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A JSON value.
    Json,
    /// A raw client's text message.
    RawText,
    /// A raw client's binary message.
    RawBinary,
}

/// See [`Request::Publish`].
#[derive(Debug)]
pub struct Publish {
    /// The room.
    pub room: RoomRef,
    /// The room on the publisher's core, if it is a member there: the answer then stands at its
    /// place in the room's stream.
    pub local: Option<LocalRoomKey>,
    /// Who publishes.
    pub client: ClientId,
    /// Its user, for rooms that need not know it as a member.
    pub user: Option<Arc<str>>,
    /// What the bytes are.
    pub payload: Payload,
    /// The bytes.
    pub data: Bytes,
    /// The publisher's message id.
    pub mid: Option<CompactString>,
    /// The conflation key.
    pub key: Option<CompactString>,
    /// Whether it goes without a `seq`.
    pub ephemeral: bool,
    /// Whether the publisher gets it too.
    pub echo: bool,
    /// The command's correlation id.
    pub id: Option<CompactString>,
}

impl Publish {
    /// The same, borrowed.
    pub fn borrow(&self) -> PublishRef<'_> {
        PublishRef {
            room: &self.room,
            local: self.local,
            client: self.client,
            user: self.user.as_deref(),
            payload: self.payload,
            data: &self.data,
            mid: self.mid.as_deref(),
            key: self.key.as_deref(),
            ephemeral: self.ephemeral,
            echo: self.echo,
            id: self.id.as_deref(),
        }
    }
}

/// A [`Publish`] whose payload still stands where it was received.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "field by field the same as Publish")]
pub struct PublishRef<'a> {
    pub room: &'a RoomRef,
    pub local: Option<LocalRoomKey>,
    pub client: ClientId,
    pub user: Option<&'a str>,
    pub payload: Payload,
    pub data: &'a [u8],
    pub mid: Option<&'a str>,
    pub key: Option<&'a str>,
    pub ephemeral: bool,
    pub echo: bool,
    pub id: Option<&'a str>,
}

impl PublishRef<'_> {
    /// The same, owned, to be sent to another core.
    pub fn to_owned(&self) -> Publish {
        Publish {
            room: self.room.clone(),
            local: self.local,
            client: self.client,
            user: self.user.map(Arc::from),
            payload: self.payload,
            data: Bytes::copy_from_slice(self.data),
            mid: self.mid.map(CompactString::from),
            key: self.key.map(CompactString::from),
            ephemeral: self.ephemeral,
            echo: self.echo,
            id: self.id.map(CompactString::from),
        }
    }
}

/// See [`Request::Inspect`].
#[derive(Debug)]
pub struct Inspect {
    /// The room's name.
    pub room: Arc<str>,
    /// The room on the asking core, if the asker is a member: the answer then stands at its
    /// place in the room's stream.
    pub local: Option<LocalRoomKey>,
    /// Who asks.
    pub client: ClientId,
    /// Whether the members are listed or only counted.
    pub list: bool,
    /// The command's correlation id.
    pub id: Option<CompactString>,
}

/// A message for one client.
#[derive(Debug)]
pub struct DirectMessage {
    /// Who sent it.
    pub from: ClientId,
    /// The sender's user.
    pub user: Option<Arc<str>>,
    /// The payload, as JSON.
    pub data: Bytes,
    /// The sender's message id.
    pub mid: Option<CompactString>,
    /// When it was sent, in Unix milliseconds.
    pub ts: u64,
}

/// See [`Request::SendToUser`].
#[derive(Debug)]
pub struct SendToUser {
    /// For whom.
    pub to: Arc<str>,
    /// What.
    pub message: Arc<DirectMessage>,
    /// The command's correlation id.
    pub id: Option<CompactString>,
}

/// See [`Request::SendToClient`].
#[derive(Debug)]
pub struct SendToClient {
    /// For whom.
    pub to: ClientId,
    /// What.
    pub message: Arc<DirectMessage>,
    /// The command's correlation id.
    pub id: Option<CompactString>,
}

/// What a core hands to another's clients.
#[derive(Debug)]
pub enum Delivery {
    /// To a room's members on that core.
    Frames {
        /// The room there.
        room: LocalRoomKey,
        /// The message, in each encoding that the core asked for.
        frames: Frames,
        /// A member that does not get it.
        skip: Option<ClientId>,
        /// What to give back to the home's window once it is handed out.
        window: u64,
    },
    /// To one client, at its place in the room's stream if a room is named.
    Reply {
        /// The room there.
        room: Option<LocalRoomKey>,
        /// The client.
        client: ClientId,
        /// The command's correlation id.
        id: Option<CompactString>,
        /// The answer.
        reply: Reply,
    },
    /// A direct message to one client.
    Direct {
        /// The client.
        client: ClientId,
        /// The message.
        message: Arc<DirectMessage>,
        /// What to give back to the sender's window.
        window: u64,
    },
}

impl Delivery {
    /// An answer that stands in no room's stream.
    pub const fn reply(client: ClientId, id: Option<CompactString>, reply: Reply) -> Self {
        Self::Reply {
            room: None,
            client,
            id,
            reply,
        }
    }
}

/// One message, encoded as WebSocket frames for those who want it so.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    /// By [`Encoding::index`].
    pub by_encoding: [Option<Bytes>; Encoding::COUNT],
    /// The same, compressed, where that makes it smaller and someone takes it so. In a box, as few
    /// messages have it and all are moved about.
    pub deflated: Option<Box<[Option<Bytes>; Encoding::COUNT]>>,
    /// How many messages stand behind the first of each: where several went out as one, raw members get
    /// them all, the others a batch.
    pub more: [u32; Encoding::COUNT],
    /// What it is worth to a member that does not keep up.
    pub kind: FrameKind,
}

/// See [`Frames::kind`].
#[derive(Clone, Debug, Default)]
pub enum FrameKind {
    /// What members need to know: never dropped.
    #[default]
    Announcement,
    /// A message without a place: dropped first, and nobody is told.
    Ephemeral,
    /// A message with a place, or several in one frame: what is dropped is told.
    Message {
        /// Its place, or the last one.
        last: u64,
        /// How many places it stands for.
        count: u64,
        /// Its conflation key, where the room conflates.
        key: Option<CompactString>,
    },
}

/// The answer to a command.
#[derive(Clone, Debug)]
pub enum Reply {
    /// `ok` of `join`.
    Joined(Box<Joined>),
    /// `ok` of `leave`.
    Left,
    /// `ok` of `publish`.
    Published {
        /// Its place, unless it is ephemeral or nobody is there.
        seq: Option<u64>,
        /// The room's numbering.
        epoch: Epoch,
    },
    /// `ok` of `room_info`.
    Info(RoomInfo),
    /// `ok` of `presence`.
    Presence(Box<PresenceList>),
    /// `ok` of `send`: how many sessions it went to.
    Queued(u32),
    /// `error`.
    Error(CommandError),
    /// `error` of a `join`: the membership that was asked for does not come about.
    JoinRefused(CommandError),
}

/// The state of a room that someone joined.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The room's key at its home, for requests to come.
    pub home: HomeRoomKey,
    /// The room's numbering.
    pub epoch: Epoch,
    /// The last message's place.
    pub seq: u64,
    /// How many members there are, the new one included.
    pub members: u32,
    /// Whether nothing was missed since the place that the client gave.
    pub recovered: bool,
    /// Whether every `seq` will come, if the member keeps up.
    pub gap_free: bool,
    /// Who they are, if that was asked for.
    pub users: Option<MemberList>,
}

/// What `room_info` tells.
#[derive(Clone, Debug)]
pub struct RoomInfo {
    /// How many members there are.
    pub members: u32,
    /// How many users they are.
    pub users: u32,
    /// The last message's place.
    pub seq: u64,
    /// The room's numbering; empty for a room that does not exist.
    pub epoch: Epoch,
}

/// What `presence` tells.
#[derive(Clone, Debug)]
pub struct PresenceList {
    /// Who is there.
    pub members: MemberList,
    /// How many they are; exact even where the list is cut.
    pub count: u32,
    /// How many users they are.
    pub users: u32,
}

/// A list of members as JSON, encoded at the home.
#[derive(Clone, Debug)]
pub struct MemberList {
    /// `[{"client":…,"user":…,"state":…,"since":…}, …]`
    pub json: Bytes,
    /// Whether it was cut at the hard limit.
    pub truncated: bool,
}

/// A room's numbering: a short random text.
pub type Epoch = CompactString;

/// Appends one member of a [`MemberList`].
pub(super) fn push_member(
    out: &mut Vec<u8>,
    client: ClientId,
    user: Option<&str>,
    state: Option<&[u8]>,
    since: u64,
) {
    out.push(b'{');
    json::push_identity(out, client, user);
    if let Some(state) = state {
        out.extend_from_slice(b",\"state\":");
        out.extend_from_slice(state);
    }
    out.extend_from_slice(b",\"since\":");
    json::push_number(out, since);
    out.push(b'}');
}
