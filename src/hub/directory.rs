//! Which clients a user has: the part of the directory that this core keeps.

use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::{
    Output, Outputs,
    window::Windows,
    wire::{Delivery, Reply, SendToUser},
};
use crate::{
    base::{
        ids::{ClientId, CoreId},
        limits::USER_SESSIONS_MAX,
    },
    proto::envelope::{CommandError, ErrorCode},
};

/// Users whose name hashes to this core, with their clients in order of arrival.
#[derive(Debug, Default)]
pub struct Directory {
    users: HashMap<Arc<str>, SmallVec<[ClientId; 2]>, ahash::RandomState>,
    refused: u64,
}

impl Directory {
    /// How many users are online here.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Sessions not entered since the start.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Enters a client; one beyond [`USER_SESSIONS_MAX`] gets no messages sent to the user.
    pub fn online(&mut self, user: Arc<str>, client: ClientId) {
        let clients = self.users.entry(user).or_default();
        if clients.len() >= USER_SESSIONS_MAX {
            self.refused += 1;
        } else {
            clients.push(client);
        }
    }

    /// Strikes a client out.
    pub fn offline(&mut self, user: &str, client: ClientId) {
        if let Some(clients) = self.users.get_mut(user) {
            clients.retain(|c| *c != client);
            if clients.is_empty() {
                self.users.remove(user);
            }
        }
    }

    /// Passes a message on to each of the user's clients, or to none if one can't take it.
    pub(super) fn send(
        &self,
        from: CoreId,
        send: SendToUser,
        windows: &mut Windows,
        out: &mut Outputs,
    ) {
        let none = SmallVec::new();
        let clients = self.users.get(&send.to).unwrap_or(&none);
        let cost = Windows::cost(send.message.data.len());
        let fits = clients.iter().all(|c| windows.has_room(c.core, cost));
        let reply = if fits {
            for client in clients {
                windows.take(client.core, cost);
                out.push_back(Output::Deliver {
                    to: client.core,
                    delivery: Delivery::Direct {
                        client: *client,
                        message: Arc::clone(&send.message),
                        window: cost,
                    },
                });
            }
            Reply::Queued(clients.len() as u32)
        } else {
            Reply::Error(CommandError::new(
                ErrorCode::Overloaded,
                "a core that serves this user is behind; try again",
            ))
        };
        out.push_back(Output::Deliver {
            to: from,
            delivery: Delivery::reply(send.message.from, send.id, reply),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::slab::Key;

    fn client(index: u32) -> ClientId {
        ClientId {
            core: 0,
            session: Key {
                index,
                generation: 0,
            },
        }
    }

    #[test]
    fn a_user_is_gone_with_its_last_client() {
        let mut directory = Directory::default();
        directory.online("u".into(), client(1));
        directory.online("u".into(), client(2));
        directory.offline("u", client(1));
        directory.offline("nobody", client(1));
        assert_eq!(directory.len(), 1);
        directory.offline("u", client(2));
        assert!(directory.is_empty());
    }

    #[test]
    fn clients_beyond_the_bound_are_counted_and_left_out() {
        let mut directory = Directory::default();
        for index in 0..=USER_SESSIONS_MAX as u32 {
            directory.online("u".into(), client(index));
        }
        assert_eq!(directory.refused(), 1);
        directory.offline("u", client(USER_SESSIONS_MAX as u32));
        assert_eq!(directory.users["u"].len(), USER_SESSIONS_MAX);
    }
}
