//! `[rooms]`: what holds for every room, and what `[[rooms.match]]` changes for some.

use serde::Deserialize;

use super::{
    AllPublishBy, ByteSize, Config,
    schema::{list, table},
};
use crate::base::limits::ROOM_MATCHES_MAX;

table! {
    /// `[rooms]`
    #[derive(Clone, Debug, PartialEq)]
    pub struct Rooms {
        /// Who may publish to the reserved room `@all`.
        pub all_publish_by: AllPublishBy = Open;
        /// `user_joined` and `user_left` are sent while a room has at most this many members.
        pub announce_members_max: u32 = Open;
        /// Who may publish.
        pub publish_by: PublishBy = Open;
        /// What happens to a member that does not keep up.
        pub slow_client: SlowClient = Open;
        /// Messages are gathered for so many milliseconds, the newest of each key kept; 0 sends each.
        pub coalesce_ms: u32 = Open in 0 => 60_000;
        /// How surely a message arrives.
        pub delivery: Delivery = Open;
        /// What differs, by name; the first entry that fits counts.
        pub matches as "match": Vec<RoomMatch> = Open;
    }
}

table! {
    /// `[[rooms.match]]`: what is given here replaces what `[rooms]` and `[limits]` say.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct RoomMatch {
        /// Which rooms: a name in which `*` stands for any text, even none.
        pub name: String = Open;
        /// See [`Rooms::announce_members_max`].
        pub announce_members_max: Option<u32> = Open replaces "rooms.announce_members_max";
        /// See [`Rooms::publish_by`].
        pub publish_by: Option<PublishBy> = Open replaces "rooms.publish_by";
        /// See [`Rooms::slow_client`].
        pub slow_client: Option<SlowClient> = Open replaces "rooms.slow_client";
        /// See [`Rooms::coalesce_ms`].
        pub coalesce_ms: Option<u32> = Open replaces "rooms.coalesce_ms";
        /// See [`Rooms::delivery`].
        pub delivery: Option<Delivery> = Open replaces "rooms.delivery";
        /// Members that the room may have, in place of `limits.room_members_max`.
        pub room_members_max: Option<u32> = Open replaces "limits.room_members_max";
        /// Longest `data` of a publish there; beyond it `TOO_LARGE`.
        pub message_bytes_max: Option<ByteSize> = Open in 1 => 1 << 30;
    }
}

list!(RoomMatch, ROOM_MATCHES_MAX, "name");

/// Who may publish to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishBy {
    /// Its members.
    Members,
    /// Every client.
    Anyone,
    /// No client: only the backend.
    Backend,
}

/// What happens to a member whose queue has reached `limits.buffered_bytes_high` (protocol §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlowClient {
    /// It is closed with 4008.
    Evict,
    /// The oldest message that waits is dropped, and a `gap` tells.
    DropOldest,
    /// The new message is dropped, and a `gap` tells.
    DropNewest,
    /// Of each key the newest message is kept, and a `gap` tells.
    Conflate,
}

/// How surely a room's messages arrive (protocol §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Once or not at all, and what is missing is told.
    AtMostOnce,
    /// Until it is acknowledged. Not in this version.
    Acked,
}

/// What holds for one room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomOptions {
    /// Announcements are sent while there are at most this many members.
    pub announce_members_max: u32,
    /// Who may publish.
    pub publish_by: PublishBy,
    /// What happens to a member that does not keep up.
    pub slow_client: SlowClient,
    /// Milliseconds for which messages are gathered; 0 sends each.
    pub coalesce_ms: u32,
    /// Members that it may have.
    pub room_members_max: u32,
    /// Longest `data` of a publish, in bytes.
    pub message_bytes_max: usize,
}

impl RoomOptions {
    /// Whether a member may rely on seeing every `seq` (protocol §3, `gap_free`).
    pub fn is_gap_free(&self) -> bool {
        self.slow_client != SlowClient::Conflate && self.coalesce_ms == 0
    }
}

impl Config {
    /// What holds for the room called `name`.
    pub fn room_options(&self, name: &str) -> RoomOptions {
        let rooms = &self.rooms;
        let found = rooms.matches.iter().find(|m| fits(&m.name, name));
        let own = |get: fn(&RoomMatch) -> Option<u32>| found.and_then(get);
        RoomOptions {
            announce_members_max: own(|m| m.announce_members_max)
                .unwrap_or(rooms.announce_members_max),
            publish_by: found.and_then(|m| m.publish_by).unwrap_or(rooms.publish_by),
            slow_client: found
                .and_then(|m| m.slow_client)
                .unwrap_or(rooms.slow_client),
            coalesce_ms: own(|m| m.coalesce_ms).unwrap_or(rooms.coalesce_ms),
            room_members_max: own(|m| m.room_members_max).unwrap_or(self.limits.room_members_max),
            message_bytes_max: found
                .and_then(|m| m.message_bytes_max)
                .map_or(usize::MAX, |size| size.0),
        }
    }
}

/// Whether `name` is what `pattern` describes, `*` standing for any text.
///
/// Takes at most `pattern.len() × name.len()` steps, whatever the two are.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where the last star stands, and how much of the name it has taken.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            p += 1;
            n += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            p = at + 1;
            n = taken + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_from_end_to_end() {
        for (pattern, name, expected) in [
            ("chat", "chat", true),
            ("chat", "chats", false),
            ("chat:*", "chat:", true),
            ("chat:*", "chat:a:b", true),
            ("chat:*", "chat", false),
            ("*", "", true),
            ("*:live", "a:b:live", true),
            ("*:live", "a:live:b", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("**", "x", true),
            ("", "", true),
            ("", "x", false),
            ("ü*", "uber", false),
            ("ü*", "ühm", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_first_entry_that_fits_counts_and_changes_only_what_it_names() {
        let mut config = Config::default();
        let entry = |name: &str| RoomMatch {
            name: name.to_owned(),
            ..RoomMatch::default()
        };
        config.rooms.coalesce_ms = 7;
        config.rooms.matches = vec![
            RoomMatch {
                slow_client: Some(SlowClient::DropOldest),
                ..entry("chat:vip")
            },
            RoomMatch {
                slow_client: Some(SlowClient::Conflate),
                room_members_max: Some(3),
                ..entry("chat:*")
            },
        ];
        let vip = config.room_options("chat:vip");
        assert_eq!(vip.slow_client, SlowClient::DropOldest);
        assert_eq!(vip.room_members_max, config.limits.room_members_max);
        let other = config.room_options("chat:x");
        assert_eq!(other.slow_client, SlowClient::Conflate);
        assert_eq!((other.room_members_max, other.coalesce_ms), (3, 7));
        assert_eq!(config.room_options("x").slow_client, SlowClient::Evict);
    }
}
