//! How many connections an address may have and open (protocol §7), counted exactly.
//!
//! Each address has one core that counts it, as each room has its home: every worker asks that
//! core before it takes a connection up, so there is one number and no lock. IPv6 addresses count
//! by their /64, which is what one subscriber is given.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use hashbrown::HashMap;

use crate::{
    base::{
        bucket::{Bucket, Rate},
        limits::IDLE_ADDRESSES_MAX,
        time::Instant,
    },
    config::Limits,
};

/// What is counted together: an IPv4 address, or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressKey {
    /// One address.
    V4(u32),
    /// The first 64 bits of the addresses.
    V6(u64),
}

impl AddressKey {
    /// What `address` counts as. An IPv4 address written as IPv6 is the IPv4 address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// Whether a connection is taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is, and counts until it is given back with [`Addresses::depart`].
    Granted,
    /// Its address has as many as it may.
    TooMany,
    /// Its address opens them too fast; one may pass after so long.
    TooFast(Duration),
}

/// The addresses that this core counts.
#[derive(Debug, Default)]
pub struct Addresses {
    known: HashMap<AddressKey, Address, ahash::RandomState>,
    /// Addresses without connections whose bucket is not full yet, oldest first.
    idle: VecDeque<(AddressKey, Instant)>,
}

#[derive(Debug, Default)]
struct Address {
    connections: u32,
    handshakes: Bucket,
}

impl Addresses {
    /// A connection has come from `address`.
    pub fn admit(&mut self, now: Instant, address: AddressKey, limits: &Limits) -> Admission {
        self.forget_idle(now);
        let max = limits.connections_per_ip;
        let rate = Rate::new(
            limits.handshakes_per_ip_per_second.into(),
            limits.handshakes_per_ip_per_second.into(),
        );
        let known = self.known.entry(address).or_default();
        // Asked first: who has too many connections does not use up its handshakes.
        if max > 0 && known.connections >= max {
            return Admission::TooMany;
        }
        let taken = rate.map_or(Ok(()), |rate| known.handshakes.try_take(now, rate, 1));
        match taken {
            Ok(()) => {
                known.connections += 1;
                Admission::Granted
            }
            Err(wait) => {
                if known.connections == 0 {
                    self.idle.push_back((address, now));
                }
                Admission::TooFast(wait)
            }
        }
    }

    /// A connection from `address` that was granted has ended.
    pub fn depart(&mut self, now: Instant, address: AddressKey) {
        if let Some(known) = self.known.get_mut(&address) {
            debug_assert!(known.connections > 0, "more went than came");
            known.connections = known.connections.saturating_sub(1);
            if known.connections == 0 {
                self.idle.push_back((address, now));
            }
        }
        self.forget_idle(now);
    }

    /// How many addresses are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// How many connections are counted.
    #[cfg(test)]
    pub fn connections(&self) -> usize {
        let counted = self.known.values();
        counted.map(|address| address.connections as usize).sum()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Forgets addresses that have no connections and whose handshakes have been made up for: a
    /// few each time, so that it never takes long. More than [`IDLE_ADDRESSES_MAX`] are not kept.
    fn forget_idle(&mut self, now: Instant) {
        for _ in 0..2 {
            let Some((address, since)) = self.idle.front().copied() else {
                return;
            };
            let crowded = self.idle.len() > IDLE_ADDRESSES_MAX;
            // A bucket holds a second's worth: a second later it is full.
            if now.since(since) < Duration::from_secs(1) && !crowded {
                return;
            }
            self.idle.pop_front();
            if let Some(known) = self.known.get(&address)
                && known.connections == 0
                && (known.handshakes.is_full(now) || crowded)
            {
                self.known.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: AddressKey = AddressKey::V4(1);

    fn limits(connections: u32, handshakes: u32) -> Limits {
        Limits {
            connections_per_ip: connections,
            handshakes_per_ip_per_second: handshakes,
            ..Limits::default()
        }
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn an_address_is_itself_however_it_is_written() {
        let key = |text: &str| AddressKey::of(text.parse().unwrap());
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("2001:db8:0:1::1"), key("2001:db8:0:1:ffff::2"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
    }

    #[test]
    fn the_last_one_allowed_is_let_in_and_the_next_is_not() {
        let limits = limits(2, 0);
        let mut addresses = Addresses::default();
        let verdicts: Vec<_> = (0..3).map(|_| addresses.admit(at(0), A, &limits)).collect();
        assert_eq!(
            verdicts,
            [Admission::Granted, Admission::Granted, Admission::TooMany]
        );
        addresses.depart(at(0), A);
        assert_eq!(addresses.admit(at(0), A, &limits), Admission::Granted);
        assert_eq!(
            addresses.admit(at(0), AddressKey::V6(1), &limits),
            Admission::Granted
        );
    }

    #[test]
    fn handshakes_come_back_with_time() {
        let limits = limits(0, 2);
        let mut addresses = Addresses::default();
        assert_eq!(addresses.admit(at(0), A, &limits), Admission::Granted);
        assert_eq!(addresses.admit(at(0), A, &limits), Admission::Granted);
        let refused = Admission::TooFast(Duration::from_millis(500));
        assert_eq!(addresses.admit(at(0), A, &limits), refused);
        assert_eq!(addresses.admit(at(500), A, &limits), Admission::Granted);
    }

    #[test]
    fn who_has_gone_is_forgotten_once_that_changes_nothing() {
        let limits = limits(1, 10);
        let mut addresses = Addresses::default();
        addresses.admit(at(0), A, &limits);
        addresses.depart(at(0), A);
        assert_eq!(addresses.len(), 1);
        let other = AddressKey::V4(2);
        addresses.admit(at(1000), other, &limits);
        assert_eq!(addresses.len(), 1);
        addresses.depart(at(1000), other);
        addresses.admit(at(3000), A, &limits);
        addresses.depart(at(3000), A);
        assert_eq!(addresses.len(), 1);
    }

    #[test]
    fn idle_addresses_are_bounded() {
        let limits = limits(1, 1);
        let mut addresses = Addresses::default();
        for n in 0..IDLE_ADDRESSES_MAX as u32 + 100 {
            addresses.admit(at(0), AddressKey::V4(n), &limits);
            addresses.depart(at(0), AddressKey::V4(n));
        }
        assert!(addresses.len() <= IDLE_ADDRESSES_MAX + 2);
    }

    proptest! {
        #[test]
        fn the_count_is_exact_whatever_comes_and_goes(
            max in 1u32..5,
            steps in proptest::collection::vec((any::<bool>(), 0u32..3), 1..200),
        ) {
            let limits = limits(max, 0);
            let mut addresses = Addresses::default();
            let mut open = [0u32; 3];
            for (n, (comes, address)) in steps.into_iter().enumerate() {
                let now = at(n as u64 * 300);
                let count = &mut open[address as usize];
                if comes {
                    let granted = addresses.admit(now, AddressKey::V4(address), &limits)
                        == Admission::Granted;
                    prop_assert_eq!(granted, *count < max);
                    *count += u32::from(granted);
                } else if *count > 0 {
                    addresses.depart(now, AddressKey::V4(address));
                    *count -= 1;
                }
            }
        }
    }
}
