//! Session tickets (RFC 8446 §4.6.1, RFC 5077): one set of keys for all cores, so that a client is
//! known again wherever it lands, and nothing is kept for it on this side.
//!
//! The keys live in this process alone: after a restart every client makes a full handshake once.

use std::sync::Arc;

use rustls::{
    Error,
    crypto::{GetRandomFailed, aws_lc_rs::Ticketer},
    server::ProducesTickets,
    ticketer::TicketRotator,
};

/// The keys of tickets that are good for `lifetime` seconds at most; none are made for 0.
///
/// A key serves for half of that, and is known for as long again, then it is gone: who gets hold of
/// this process's memory can't read what was said before. Every core asks them under a lock of
/// rustls, for reading; it is held for writing only while a key is replaced by one made before.
///
/// # Errors
/// If the system has no randomness.
pub(super) fn keys(lifetime: u64) -> Result<Option<Arc<dyn ProducesTickets>>, Error> {
    if lifetime == 0 {
        return Ok(None);
    }
    let half = u32::try_from(lifetime / 2).unwrap_or(u32::MAX).max(1);
    Ok(Some(Arc::new(TicketRotator::new(half, key)?)))
}

/// What is needed of rustls' own keys, which would be replaced every six hours: one is dropped before
/// its second replacement.
#[derive(Debug)]
struct Key(Arc<dyn ProducesTickets>);

fn key() -> Result<Box<dyn ProducesTickets>, GetRandomFailed> {
    let key = Ticketer::new().map_err(|_| GetRandomFailed)?;
    Ok(Box::new(Key(key)))
}

impl ProducesTickets for Key {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(cipher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_who_share_the_keys_know_each_others_tickets_and_nobody_else_does() {
        let ours = keys(7200).unwrap().unwrap();
        let other_core = Arc::clone(&ours);
        let ticket = ours.encrypt(b"a session").unwrap();
        assert_ne!(ticket, b"a session");
        assert_eq!(
            other_core.decrypt(&ticket).as_deref(),
            Some(&b"a session"[..])
        );
        let other_process = keys(7200).unwrap().unwrap();
        assert_eq!(other_process.decrypt(&ticket), None);
        let mut forged = ticket.clone();
        forged[20] ^= 1;
        assert_eq!(ours.decrypt(&forged), None);
        assert_eq!(ours.decrypt(&[]), None);
    }

    #[test]
    fn clients_are_told_the_lifetime_and_no_lifetime_is_no_tickets() {
        assert_eq!(keys(7200).unwrap().unwrap().lifetime(), 7200);
        assert_eq!(keys(1).unwrap().unwrap().lifetime(), 2);
        assert!(keys(0).unwrap().is_none());
    }
}
