//! The client's end of the negotiation: an offer out, the server's answer checked (RFC 7692 §5,
//! §7.1).

use super::negotiate::{CLIENT_BITS, Params, SERVER_BITS, push_bits};
use super::{Agreed, EXTENSION};
use crate::proto::handshake::Extension;

/// What a client asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offer {
    /// The server is to compress each message by itself (§7.1.1.1).
    pub server_no_context_takeover: bool,
    /// The client does so anyway (§7.1.1.2).
    pub client_no_context_takeover: bool,
    /// The largest window that the server may use, 8 to 15 (§7.1.2.1).
    pub server_max_window_bits: Option<u8>,
    /// That the client can be told a window, and the largest that it uses, 8 to 15 (§7.1.2.2).
    pub client_max_window_bits: Option<Option<u8>>,
}

impl Offer {
    /// The value of `Sec-WebSocket-Extensions`.
    #[must_use]
    pub fn to_value(&self) -> String {
        let told = Agreed {
            server_no_context_takeover: self.server_no_context_takeover,
            client_no_context_takeover: self.client_no_context_takeover,
            server_max_window_bits: None,
            client_max_window_bits: None,
        };
        let mut value = told.to_value();
        push_bits(&mut value, SERVER_BITS, self.server_max_window_bits);
        match self.client_max_window_bits {
            None => {}
            Some(None) => {
                value.push_str("; ");
                value.push_str(CLIENT_BITS);
            }
            Some(bits) => push_bits(&mut value, CLIENT_BITS, bits),
        }
        value
    }

    /// Holds the server's answer against the offer. `Some(None)`: the server goes without. `None`:
    /// the answer does not belong to this offer, and the connection must fail (§5.1).
    #[must_use]
    pub fn check(&self, answer: &[Extension<'_>]) -> Option<Option<Agreed>> {
        let answer = match answer {
            [] => return Some(None),
            [one] if one.name == EXTENSION => Params::read(&one.params, false)?,
            _ => return None,
        };
        if self.server_no_context_takeover && !answer.server_no_context_takeover {
            return None;
        }
        match (self.server_max_window_bits, answer.server_max_window_bits) {
            (Some(_), None) => return None,
            (Some(most), Some(bits)) if bits > most => return None,
            _ => {}
        }
        let client_max_window_bits = answer.client_max_window_bits.flatten();
        match (self.client_max_window_bits, client_max_window_bits) {
            (None, Some(_)) => return None,
            (Some(Some(most)), Some(bits)) if bits > most => return None,
            _ => {}
        }
        Some(Some(Agreed {
            server_no_context_takeover: answer.server_no_context_takeover,
            client_no_context_takeover: answer.client_no_context_takeover,
            server_max_window_bits: answer.server_max_window_bits,
            client_max_window_bits,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Policy, negotiate};
    use super::*;
    use crate::proto::handshake::read_extensions;
    use proptest::prelude::*;

    fn check(offer: &Offer, answer: &str) -> Option<Option<Agreed>> {
        offer.check(&read_extensions([answer.as_bytes()].into_iter()).unwrap())
    }

    #[test]
    fn answers_that_belong_to_no_offer_are_refused() {
        let plain = Offer::default();
        let full = Offer {
            server_no_context_takeover: true,
            client_no_context_takeover: false,
            server_max_window_bits: Some(12),
            client_max_window_bits: Some(Some(12)),
        };
        assert_eq!(check(&plain, ""), Some(None));
        let all = "permessage-deflate; server_no_context_takeover; server_max_window_bits=12";
        assert!(matches!(check(&full, all), Some(Some(_))));
        assert!(matches!(
            check(&plain, "permessage-deflate; server_max_window_bits=8"),
            Some(Some(_))
        ));
        let refused = [
            (&plain, "permessage-deflate; client_max_window_bits=9"),
            (&plain, "permessage-deflate; unknown"),
            (&plain, "permessage-deflate, permessage-deflate"),
            (&plain, "permessage-bzip2"),
            (&full, "permessage-deflate; server_max_window_bits=12"),
            (&full, "permessage-deflate; server_no_context_takeover"),
            (
                &full,
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=13",
            ),
        ];
        for (offer, answer) in refused {
            assert_eq!(check(offer, answer), None, "{answer}");
        }
        let bits = format!("{all}; client_max_window_bits");
        assert_eq!(check(&full, &bits), None);
        assert_eq!(check(&full, &format!("{bits}=13")), None);
        assert!(check(&full, &format!("{bits}=11")).is_some());
    }

    fn bits() -> impl Strategy<Value = Option<u8>> {
        prop::option::of(8u8..=15)
    }

    proptest! {
        /// What the server answers, the client that asked for it accepts, and both have agreed on
        /// the same.
        #[test]
        fn both_ends_agree(
            server_no_context_takeover: bool,
            client_no_context_takeover: bool,
            server_max_window_bits in bits(),
            client_max_window_bits in prop::option::of(bits()),
            window_bits in 9u8..=15,
            server_context_takeover: bool,
            client_context_takeover: bool,
        ) {
            let offer = Offer {
                server_no_context_takeover,
                client_no_context_takeover,
                server_max_window_bits,
                client_max_window_bits,
            };
            let policy = Policy { window_bits, server_context_takeover, client_context_takeover };
            let value = offer.to_value();
            let offers = read_extensions([value.as_bytes()].into_iter()).unwrap();
            let agreed = negotiate(&offers, &policy);
            prop_assert_eq!(agreed.is_none(), server_max_window_bits == Some(8));
            let answer = agreed.map(|agreed| agreed.to_value()).unwrap_or_default();
            prop_assert_eq!(check(&offer, &answer), Some(agreed));
        }
    }
}
