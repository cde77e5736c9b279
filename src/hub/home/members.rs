//! A room's members, and how many users they are.
//!
//! They lie side by side in one list. A small room is searched from end to end; one of more than
//! [`SCANNED_MAX`] members has a table of positions beside the list, so that finding one costs the
//! same whatever the number of members. What this buys is memory: a member takes 48 bytes, and a
//! position a few more, where a hash table of members takes about twice that.

use std::{hash::BuildHasher as _, sync::Arc};

use bytes::Bytes;
use hashbrown::{HashMap, HashTable};

use crate::base::{
    bag::Bag,
    ids::{ClientId, Encoding},
};

/// The members of one room.
#[derive(Debug, Default)]
pub(super) struct Members {
    list: Bag<Member>,
    /// Positions in the list; none while the list is short.
    positions: Option<Box<HashTable<u32>>>,
    /// Members by user; none while no member has named one.
    users: Option<Box<HashMap<Arc<str>, u32, ahash::RandomState>>>,
}

/// A member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) client: ClientId,
    pub(super) encoding: Encoding,
    pub(super) takes_deflated: bool,
    pub(super) user: Option<Arc<str>>,
    #[allow(
        clippy::redundant_allocation,
        reason = "few members have a state, and it takes 32 bytes"
    )]
    pub(super) state: Option<Box<Bytes>>,
    /// When it joined, in Unix milliseconds.
    pub(super) since: u64,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many users they are; members without one count for none.
    pub(super) fn users(&self) -> usize {
        self.users.as_ref().map_or(0, |users| users.len())
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.list.iter()
    }

    pub(super) fn get(&self, client: ClientId) -> Option<&Member> {
        self.list.get(self.position(client)?)
    }

    pub(super) fn get_mut(&mut self, client: ClientId) -> Option<&mut Member> {
        let at = self.position(client)?;
        self.list.get_mut(at)
    }

    /// Adds one that is not there yet.
    pub(super) fn insert(&mut self, member: Member) {
        debug_assert!(self.position(member.client).is_none(), "a member twice");
        if let Some(user) = &member.user {
            let users = self.users.get_or_insert_default();
            *users.entry(Arc::clone(user)).or_insert(0) += 1;
        }
        let at = self.list.len();
        let hash = hash(member.client);
        self.list.push(member);
        let list = &self.list;
        if let Some(positions) = &mut self.positions {
            positions.insert_unique(hash, at as u32, |at| hash_at(list, *at));
        } else if at >= SCANNED_MAX {
            let mut positions = HashTable::with_capacity(list.len());
            for at in 0..list.len() as u32 {
                positions.insert_unique(hash_at(list, at), at, |at| hash_at(list, *at));
            }
            self.positions = Some(Box::new(positions));
        }
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, client: ClientId) -> Option<Member> {
        let at = self.position(client)?;
        let last = self.list.len() - 1;
        if let Some(positions) = &mut self.positions {
            if let Ok(entry) = positions.find_entry(hash(client), |p| *p as usize == at) {
                entry.remove();
            }
            if at != last {
                let moved = hash_at(&self.list, last as u32);
                if let Some(position) = positions.find_mut(moved, |p| *p as usize == last) {
                    *position = at as u32;
                }
            }
        }
        let member = self.list.swap_remove(at)?;
        if self.list.len() <= SCANNED_MAX / 2 {
            self.positions = None;
        }
        let list = &self.list;
        if let Some(positions) = &mut self.positions
            && list.len() < positions.capacity() / 4
        {
            positions.shrink_to(list.len() * 2, |at| hash_at(list, *at));
        }
        self.forget_user(member.user.as_ref());
        Some(member)
    }

    fn forget_user(&mut self, user: Option<&Arc<str>>) {
        let (Some(user), Some(users)) = (user, &mut self.users) else {
            return;
        };
        if let Some(count) = users.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                users.remove(user);
            }
        }
        if users.is_empty() {
            self.users = None;
        }
    }

    fn position(&self, client: ClientId) -> Option<usize> {
        match &self.positions {
            None => self.list.iter().position(|member| member.client == client),
            Some(positions) => positions
                .find(hash(client), |at| {
                    self.list
                        .get(*at as usize)
                        .is_some_and(|member| member.client == client)
                })
                .map(|at| *at as usize),
        }
    }
}

/// Ids are made by the gateway: nobody can choose them to collide.
fn hash(client: ClientId) -> u64 {
    foldhash::fast::FixedState::default().hash_one(client)
}

fn hash_at(list: &Bag<Member>, at: u32) -> u64 {
    let member = list.get(at as usize);
    hash(member.expect("invariant: a position of the list").client)
}

/// Up to so many members are searched one by one.
const SCANNED_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::base::slab::Key;

    fn client(index: u32) -> ClientId {
        ClientId {
            core: (index % 3) as u16,
            session: Key {
                index,
                generation: index / 5,
            },
        }
    }

    #[test]
    fn a_member_takes_48_bytes() {
        assert_eq!(size_of::<Member>(), 48);
    }

    proptest! {
        /// Whatever comes and goes, around and far beyond the length at which the table comes and
        /// goes, it is the map that it stands for.
        #[test]
        fn equals_a_map(
            steps in proptest::collection::vec((any::<bool>(), 0u32..60, 0u32..4), 1..400),
        ) {
            let mut members = Members::default();
            let mut map = BTreeMap::new();
            for (since, (comes, index, user)) in steps.into_iter().enumerate() {
                let id = client(index);
                let user: Option<Arc<str>> = (user > 0).then(|| format!("u{user}").into());
                if comes && !map.contains_key(&id) {
                    members.insert(Member {
                        client: id,
                        encoding: Encoding::Json,
                        takes_deflated: false,
                        user: user.clone(),
                        state: None,
                        since: since as u64,
                    });
                    map.insert(id, (user, since as u64));
                } else if !comes {
                    let removed = members.remove(id).map(|m| (m.user, m.since));
                    prop_assert_eq!(removed, map.remove(&id));
                }
                prop_assert_eq!(members.len(), map.len());
                for (id, (user, since)) in &map {
                    let member = members.get(*id).expect("it is there");
                    prop_assert_eq!((&member.user, member.since), (user, *since));
                }
                prop_assert!(members.get(client(1000)).is_none());
                let mut users: Vec<_> = map.values().filter_map(|(user, _)| user.clone()).collect();
                users.sort();
                users.dedup();
                prop_assert_eq!(members.users(), users.len());
            }
        }
    }
}
