//! Publishing: who may, what number it gets, and when it goes out.

use std::sync::Arc;

use compact_str::CompactString;

use super::{
    Homes, Room, current,
    encode::{Deflating, MESSAGE_ENVELOPE_BYTES, Message, json_batch, raw_batch},
    gathering::{Gathering, Slot},
    not_joined,
};
use crate::{
    base::{
        ids::{ClientId, CoreId, Encoding},
        time::Now,
    },
    config::{AllPublishBy, PublishBy, RoomOptions, SlowClient},
    hub::{
        Output, Outputs, is_reserved,
        window::Windows,
        wire::{Delivery, Epoch, FrameKind, Frames, HomeRoomKey, PublishRef, Reply, RoomRef},
    },
    proto::envelope::{CommandError, ErrorCode},
};

impl Homes {
    pub(in crate::hub) fn publish(
        &mut self,
        now: Now,
        from: CoreId,
        publish: PublishRef<'_>,
        windows: &mut Windows,
        out: &mut Outputs,
    ) {
        let reply = match self.try_publish(now, publish, windows, out) {
            Ok((seq, epoch)) => Reply::Published { seq, epoch },
            Err(error) => Reply::Error(error),
        };
        out.push_back(Output::Deliver {
            to: from,
            delivery: Delivery::Reply {
                room: publish.local,
                client: publish.client,
                id: publish.id.map(CompactString::from),
                reply,
            },
        });
    }

    fn try_publish(
        &mut self,
        now: Now,
        publish: PublishRef<'_>,
        windows: &mut Windows,
        out: &mut Outputs,
    ) -> Result<(Option<u64>, Epoch), CommandError> {
        let Some(key) = self.find(publish.room) else {
            return self.publish_to_nobody(&publish);
        };
        let is_all = self.all_room == Some(key);
        if is_all && self.config.rooms.all_publish_by == AllPublishBy::Nobody {
            return Err(CommandError::new(
                ErrorCode::Forbidden,
                "publishing to `@all` needs a permission of its own",
            ));
        }
        let room = current(&mut self.rooms, key, &self.config, self.revision);
        let mut deflating = Deflating {
            compression: &mut self.compression,
            config: &self.config.deflate,
            is_on: self.deflates,
        };
        if !is_all && room.options.publish_by == PublishBy::Backend {
            return Err(backend_only());
        }
        let user: Option<Arc<str>> = match room.members.get(publish.client) {
            Some(member) => member.user.clone(),
            None if is_all || room.options.publish_by == PublishBy::Anyone => {
                publish.user.map(Arc::from)
            }
            None => return Err(not_joined()),
        };
        check_length(&room.options, &publish)?;
        if room.gathering.is_some() && room.options.coalesce_ms > 0 {
            let slot = Slot::of(&publish);
            let is_full = |g: &Gathering| !g.has_room_for(&slot, publish.data.len());
            if room.gathering.as_deref().is_some_and(is_full) {
                room.try_flush(&mut deflating, windows, out)?;
                self.flushed_early += 1;
            }
            let seq = room.next_seq(&publish);
            if let Some(gathering) = &mut room.gathering {
                let replaced = gathering.put(slot, seq, now.unix_ms, &publish, user);
                self.coalesced += u64::from(replaced);
            }
            self.published += 1;
            return Ok((seq, room.epoch.clone()));
        }
        // Only if the room coalesced until now.
        room.try_flush(&mut deflating, windows, out)?;
        let cost = Windows::cost(publish.data.len() + MESSAGE_ENVELOPE_BYTES);
        if !room.has_room_everywhere(cost, windows) {
            return Err(overloaded());
        }
        let seq = room.next_seq(&publish);
        let message = Message {
            seq,
            ts: now.unix_ms,
            client: publish.client,
            user: user.as_deref(),
            payload: publish.payload,
            data: publish.data,
            mid: publish.mid,
            key: publish.key,
        };
        // In a room that gathers there is no telling which messages share a frame.
        let leaves_out = !publish.echo && room.options.coalesce_ms == 0;
        let skip = leaves_out.then_some(publish.client);
        room.send(&message, skip, &mut deflating, windows, out);
        let sent = room.seq;
        if let Some(gathering) = &mut room.gathering {
            gathering.sent = sent;
        } else if room.options.coalesce_ms > 0 {
            room.gathering = Some(Box::new(Gathering::new(sent)));
            out.push_back(Output::WakeRoom {
                room: key,
                after_ms: room.options.coalesce_ms,
            });
        }
        self.published += 1;
        Ok((seq, room.epoch.clone()))
    }

    /// A room exists while it has members: what is published to it by others reaches nobody, and
    /// gets no number.
    fn publish_to_nobody(
        &self,
        publish: &PublishRef<'_>,
    ) -> Result<(Option<u64>, Epoch), CommandError> {
        let RoomRef::Name(name) = publish.room else {
            return Err(not_joined());
        };
        let options = self.config.room_options(name);
        match options.publish_by {
            PublishBy::Anyone if !is_reserved(name) => {
                check_length(&options, publish)?;
                Ok((None, Epoch::default()))
            }
            PublishBy::Backend => Err(backend_only()),
            PublishBy::Anyone | PublishBy::Members => Err(not_joined()),
        }
    }

    /// An interval of a coalescing room is over.
    pub(in crate::hub) fn on_timer(
        &mut self,
        key: HomeRoomKey,
        windows: &mut Windows,
        out: &mut Outputs,
    ) {
        if self.rooms.get(key).is_none() {
            return;
        }
        let room = current(&mut self.rooms, key, &self.config, self.revision);
        let mut deflating = Deflating {
            compression: &mut self.compression,
            config: &self.config.deflate,
            is_on: self.deflates,
        };
        if room.gathering.as_deref().is_none_or(Gathering::is_empty) {
            room.gathering = None;
            return;
        }
        // Behind a core that is behind, it goes on gathering: later means fewer.
        let _ = room.try_flush(&mut deflating, windows, out);
        out.push_back(Output::WakeRoom {
            room: key,
            after_ms: room.options.coalesce_ms.max(1),
        });
    }
}

impl Room {
    /// The last place handed out to members.
    pub(super) fn head(&self) -> u64 {
        self.gathering
            .as_deref()
            .map_or(self.seq, |gathering| gathering.sent)
    }

    fn next_seq(&mut self, publish: &PublishRef<'_>) -> Option<u64> {
        (!publish.ephemeral).then(|| {
            self.seq += 1;
            self.seq
        })
    }

    /// Sends one message by itself.
    fn send(
        &self,
        message: &Message<'_>,
        skip: Option<ClientId>,
        deflating: &mut Deflating<'_>,
        windows: &mut Windows,
        out: &mut Outputs,
    ) {
        let mut frames = Frames {
            kind: match message.seq {
                Some(last) => FrameKind::Message {
                    last,
                    count: 1,
                    key: self.conflation_key(message.key),
                },
                None => FrameKind::Ephemeral,
            },
            ..Frames::default()
        };
        if self.wants(Encoding::Json) {
            let frame = message.json_frame(&self.prefix);
            frames.by_encoding[Encoding::Json.index()] = Some(frame);
        }
        if self.wants(Encoding::Raw) {
            frames.by_encoding[Encoding::Raw.index()] = Some(message.raw_frame());
        }
        deflating.add(self, &mut frames);
        self.deliver(frames, skip, windows, out);
    }

    /// Sends all that has gathered, in one frame, if the windows have room for it.
    fn try_flush(
        &mut self,
        deflating: &mut Deflating<'_>,
        windows: &mut Windows,
        out: &mut Outputs,
    ) -> Result<(), CommandError> {
        let cost = match self.gathering.as_deref() {
            Some(gathering) if !gathering.is_empty() => {
                Windows::cost(gathering.payload_bytes_max())
            }
            _ => return Ok(()),
        };
        if !self.has_room_everywhere(cost, windows) {
            return Err(overloaded());
        }
        let last = self.seq;
        let Some((sent, waiting)) = self.gathering.as_mut().map(|g| g.take(last)) else {
            return Ok(());
        };
        let messages: Vec<Message<'_>> = waiting.iter().map(|waiting| waiting.message()).collect();
        let only_key = match messages.as_slice() {
            [only] => only.key,
            _ => None,
        };
        let mut frames = Frames {
            // Its newest message is never replaced, so the frame reaches to the last place.
            kind: match last - sent {
                0 => FrameKind::Ephemeral,
                count => FrameKind::Message {
                    last,
                    count,
                    key: self.conflation_key(only_key),
                },
            },
            ..Frames::default()
        };
        if self.wants(Encoding::Json) {
            let frame = json_batch(&self.name, &self.prefix, sent, &messages);
            frames.by_encoding[Encoding::Json.index()] = Some(frame);
        }
        if self.wants(Encoding::Raw) {
            frames.by_encoding[Encoding::Raw.index()] = Some(raw_batch(&messages));
            frames.more[Encoding::Raw.index()] = messages.len().saturating_sub(1) as u32;
        }
        deflating.add(self, &mut frames);
        self.deliver(frames, None, windows, out);
        Ok(())
    }

    /// The key, where it matters to the members' cores.
    fn conflation_key(&self, key: Option<&str>) -> Option<CompactString> {
        match self.options.slow_client {
            SlowClient::Conflate => key.map(CompactString::from),
            _ => None,
        }
    }
}

fn check_length(options: &RoomOptions, publish: &PublishRef<'_>) -> Result<(), CommandError> {
    if publish.data.len() <= options.message_bytes_max {
        return Ok(());
    }
    Err(CommandError::new(
        ErrorCode::TooLarge,
        format!(
            "`data` must not exceed {} bytes in this room",
            options.message_bytes_max
        ),
    ))
}

fn backend_only() -> CommandError {
    CommandError::new(
        ErrorCode::Forbidden,
        "only the backend publishes to this room",
    )
}

fn overloaded() -> CommandError {
    CommandError::new(
        ErrorCode::Overloaded,
        "the room is behind with its messages; try again",
    )
}
