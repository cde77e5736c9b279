//! The server's end of the negotiation: offers in, an answer out (RFC 7692 §5.1, §7.1).

use std::fmt::Write as _;

use super::{DEFLATE_WINDOW_BITS_MIN, EXTENSION, WINDOW_BITS_MAX, WINDOW_BITS_MIN};
use crate::proto::handshake::{Extension, Param};

/// What a server is willing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The largest window that it compresses with, 9 to 15.
    pub window_bits: u8,
    /// Whether it may compress a message with those before it.
    pub server_context_takeover: bool,
    /// Whether it lets the client do that.
    pub client_context_takeover: bool,
}

/// What both ends have agreed on: the parameters of the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Agreed {
    /// Each message of the server's is compressed by itself (§7.1.1.1).
    pub server_no_context_takeover: bool,
    /// Each message of the client's is compressed by itself (§7.1.1.2).
    pub client_no_context_takeover: bool,
    /// The server's window, where it was named (§7.1.2.1).
    pub server_max_window_bits: Option<u8>,
    /// The client's window, where it was named (§7.1.2.2).
    pub client_max_window_bits: Option<u8>,
}

impl Agreed {
    /// The largest window that the server may compress with.
    #[must_use]
    pub fn server_window_bits(&self) -> u8 {
        self.server_max_window_bits.unwrap_or(WINDOW_BITS_MAX)
    }

    /// The largest window that the client may compress with.
    #[must_use]
    pub fn client_window_bits(&self) -> u8 {
        self.client_max_window_bits.unwrap_or(WINDOW_BITS_MAX)
    }

    /// The value of `Sec-WebSocket-Extensions` that says so.
    #[must_use]
    pub fn to_value(&self) -> String {
        let mut value = EXTENSION.to_owned();
        if self.server_no_context_takeover {
            value.push_str("; server_no_context_takeover");
        }
        if self.client_no_context_takeover {
            value.push_str("; client_no_context_takeover");
        }
        push_bits(&mut value, SERVER_BITS, self.server_max_window_bits);
        push_bits(&mut value, CLIENT_BITS, self.client_max_window_bits);
        value
    }
}

/// Accepts the first offer of `extensions` that `policy` can meet (§5.1: in the client's order of
/// preference). `None`: no offer, or none that can be met; the connection goes without.
///
/// An offer is declined for a parameter that is unknown, stands there twice or has a value that it
/// must not have (§7), and for a server's window of 8 bits, which zlib can't compress with.
#[must_use]
pub fn negotiate(extensions: &[Extension<'_>], policy: &Policy) -> Option<Agreed> {
    extensions
        .iter()
        .filter(|extension| extension.name == EXTENSION)
        .find_map(|extension| {
            let offer = Params::read(&extension.params, true)?;
            answer(&offer, policy)
        })
}

fn answer(offer: &Params, policy: &Policy) -> Option<Agreed> {
    let server_max_window_bits = match offer.server_max_window_bits {
        Some(bits) if bits < DEFLATE_WINDOW_BITS_MIN => return None,
        // §7.1.2.1: an offer with this parameter is accepted by an answer with the same or less.
        Some(bits) => Some(bits.min(policy.window_bits)),
        None => None,
    };
    let client_no_context_takeover =
        offer.client_no_context_takeover || !policy.client_context_takeover;
    // §7.1.2.2: only a client that has named it may be told. Any window can be read; a smaller one
    // is worth asking for where it is kept from message to message.
    let client_max_window_bits = match offer.client_max_window_bits {
        Some(bits) if !client_no_context_takeover => {
            let bits = bits.unwrap_or(WINDOW_BITS_MAX).min(policy.window_bits);
            (DEFLATE_WINDOW_BITS_MIN..WINDOW_BITS_MAX)
                .contains(&bits)
                .then_some(bits)
        }
        _ => None,
    };
    Some(Agreed {
        server_no_context_takeover: offer.server_no_context_takeover
            || !policy.server_context_takeover,
        client_no_context_takeover,
        server_max_window_bits,
        client_max_window_bits,
    })
}

/// The parameters of one offer or answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Params {
    pub(super) server_no_context_takeover: bool,
    pub(super) client_no_context_takeover: bool,
    pub(super) server_max_window_bits: Option<u8>,
    /// In an offer it may stand there without a value.
    pub(super) client_max_window_bits: Option<Option<u8>>,
}

impl Params {
    /// Reads them; `None` if one is not as §7.1 has it.
    pub(super) fn read(params: &[Param<'_>], is_offer: bool) -> Option<Self> {
        let mut read = Self::default();
        for param in params {
            let value = param.value.as_deref();
            let is_first = match param.name {
                SERVER_NO_TAKEOVER if value.is_none() => {
                    !std::mem::replace(&mut read.server_no_context_takeover, true)
                }
                CLIENT_NO_TAKEOVER if value.is_none() => {
                    !std::mem::replace(&mut read.client_no_context_takeover, true)
                }
                SERVER_BITS => {
                    let bits = window_bits(value?)?;
                    read.server_max_window_bits.replace(bits).is_none()
                }
                CLIENT_BITS => {
                    let bits = match value {
                        Some(value) => Some(window_bits(value)?),
                        None if is_offer => None,
                        None => return None,
                    };
                    read.client_max_window_bits.replace(bits).is_none()
                }
                _ => return None,
            };
            if !is_first {
                return None;
            }
        }
        Some(read)
    }
}

/// §7.1.2: a decimal number from 8 to 15 without leading zeros.
fn window_bits(value: &str) -> Option<u8> {
    let is_plain = !value.starts_with('0') && value.bytes().all(|byte| byte.is_ascii_digit());
    let bits = value.parse().ok().filter(|_| is_plain)?;
    (WINDOW_BITS_MIN..=WINDOW_BITS_MAX)
        .contains(&bits)
        .then_some(bits)
}

pub(super) fn push_bits(value: &mut String, name: &str, bits: Option<u8>) {
    if let Some(bits) = bits {
        // Writing to a string does not fail.
        let _ = write!(value, "; {name}={bits}");
    }
}

const SERVER_NO_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_TAKEOVER: &str = "client_no_context_takeover";
pub(super) const SERVER_BITS: &str = "server_max_window_bits";
pub(super) const CLIENT_BITS: &str = "client_max_window_bits";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::handshake::read_extensions;

    const DEFAULT: Policy = Policy {
        window_bits: 15,
        server_context_takeover: false,
        client_context_takeover: false,
    };
    const TAKEOVER: Policy = Policy {
        window_bits: 12,
        server_context_takeover: true,
        client_context_takeover: true,
    };

    fn answers(value: &str, policy: &Policy) -> Option<String> {
        let extensions = read_extensions([value.as_bytes()].into_iter()).unwrap();
        negotiate(&extensions, policy).map(|agreed| {
            let text = agreed.to_value();
            let params = text.strip_prefix(EXTENSION).unwrap();
            params.replace("; ", ";").replace("_context_takeover", "")
        })
    }

    #[test]
    fn every_offer_has_its_answer() {
        let both = ";server_no;client_no";
        let table: &[(&str, Option<&str>, Option<&str>)] = &[
            ("permessage-deflate", Some(both), Some("")),
            (
                "permessage-deflate; client_max_window_bits",
                Some(both),
                Some(";client_max_window_bits=12"),
            ),
            (
                "permessage-deflate; client_max_window_bits=15",
                Some(both),
                Some(";client_max_window_bits=12"),
            ),
            (
                "permessage-deflate; client_max_window_bits=10",
                Some(both),
                Some(";client_max_window_bits=10"),
            ),
            // Can be read, and can't be asked of others' zlib.
            (
                "permessage-deflate; client_max_window_bits=8",
                Some(both),
                Some(""),
            ),
            (
                "permessage-deflate; server_max_window_bits=10",
                Some(";server_no;client_no;server_max_window_bits=10"),
                Some(";server_max_window_bits=10"),
            ),
            (
                "permessage-deflate; server_max_window_bits=\"15\"",
                Some(";server_no;client_no;server_max_window_bits=15"),
                Some(";server_max_window_bits=12"),
            ),
            (
                "permessage-deflate; server_no_context_takeover",
                Some(both),
                Some(";server_no"),
            ),
            (
                "permessage-deflate; client_no_context_takeover; client_max_window_bits",
                Some(both),
                Some(";client_no"),
            ),
            // The second offer is as good as the first can't be met.
            (
                "permessage-deflate; server_max_window_bits=8, permessage-deflate",
                Some(both),
                Some(""),
            ),
            (
                "x-webkit-deflate-frame, permessage-deflate; nonsense, \
                 permessage-deflate; server_max_window_bits=9",
                Some(";server_no;client_no;server_max_window_bits=9"),
                Some(";server_max_window_bits=9"),
            ),
            ("", None, None),
            ("x-webkit-deflate-frame", None, None),
            ("Permessage-Deflate", None, None),
        ];
        for (offer, default, takeover) in table {
            assert_eq!(answers(offer, &DEFAULT).as_deref(), *default, "{offer}");
            assert_eq!(answers(offer, &TAKEOVER).as_deref(), *takeover, "{offer}");
        }
    }

    #[test]
    fn offers_that_are_not_as_the_rfc_has_them_are_declined() {
        let params = [
            "server_no_context_takeover=1",
            "client_no_context_takeover=true",
            "server_no_context_takeover; server_no_context_takeover",
            "client_no_context_takeover; client_no_context_takeover",
            "server_max_window_bits",
            "server_max_window_bits=7",
            "server_max_window_bits=8",
            "server_max_window_bits=16",
            "server_max_window_bits=010",
            "server_max_window_bits=1e1",
            "server_max_window_bits=+9",
            "server_max_window_bits=9; server_max_window_bits=9",
            "client_max_window_bits=7",
            "client_max_window_bits=16",
            "client_max_window_bits=08",
            "client_max_window_bits=256",
            "client_max_window_bits; client_max_window_bits=10",
            "Server_No_Context_Takeover",
            "unknown",
            "unknown=9",
        ];
        for params in params {
            let offer = format!("permessage-deflate; {params}");
            assert_eq!(answers(&offer, &DEFAULT), None, "{params}");
        }
    }
}
