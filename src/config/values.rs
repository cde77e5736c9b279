//! What each type of value takes and how it is written.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::{
    AllPublishBy, ByteSize, ClientAddress, ClientAuth, ClientUser, Delivery, EngineKind, Listen,
    LogFormat, Mode, PublishBy, SlowClient, Span, TlsVersion,
    schema::{Kind, Leaf},
};

/// Text as a TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.map(|item| quoted(&item)).collect();
    format!("[{}]", items.join(", "))
}

/// For types that have no amounts.
const fn plain(expected: &'static str) -> Kind {
    Kind {
        expected,
        write: |amount| amount.to_string(),
    }
}

macro_rules! numbers {
    ($($type:ty: $expected:literal;)+) => {$(
        impl Leaf for $type {
            const KIND: Kind = plain($expected);

            fn to_toml(&self) -> String {
                self.to_string()
            }

            fn amount(&self) -> Option<u64> {
                Some(u64::from(*self))
            }
        }
    )+};
}

numbers! {
    u16: "a whole number up to 65535, such as 64";
    u32: "a whole number up to 4294967295, such as 100";
}

impl Leaf for bool {
    const KIND: Kind = plain("true or false");

    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl Leaf for String {
    const KIND: Kind = plain("text in quotes, such as \"all\"");

    fn to_toml(&self) -> String {
        quoted(self)
    }
}

impl Leaf for Vec<String> {
    const KIND: Kind = plain("a list such as [\"/ws\"]");

    fn to_toml(&self) -> String {
        list(self.iter().cloned())
    }
}

impl Leaf for Vec<IpNet> {
    const KIND: Kind = plain("a list of networks such as [\"10.0.0.0/8\", \"::1/128\"]");

    fn to_toml(&self) -> String {
        list(self.iter().map(IpNet::to_string))
    }
}

impl Leaf for SocketAddr {
    const KIND: Kind = plain("an address and port such as \"127.0.0.1:9090\"");

    fn to_toml(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Leaf for Listen {
    const KIND: Kind =
        plain("an address and port such as \"0.0.0.0:8080\", or a list of them in brackets");

    fn to_toml(&self) -> String {
        match self.0.as_slice() {
            [one] => one.to_toml(),
            many => list(many.iter().map(SocketAddr::to_string)),
        }
    }
}

impl Leaf for ByteSize {
    const KIND: Kind = Kind {
        expected: "a size such as 65536 or \"64KiB\" (B, KiB, MiB, GiB, kB, MB, GB)",
        write: |bytes| ByteSize(usize::try_from(bytes).unwrap_or(usize::MAX)).to_toml(),
    };

    fn to_toml(&self) -> String {
        quoted(&self.to_string())
    }

    fn amount(&self) -> Option<u64> {
        Some(self.0 as u64)
    }
}

impl Leaf for Span {
    const KIND: Kind = Kind {
        expected: "a duration such as \"300ms\", \"30s\" or \"5m\" (us, ms, s, m, h, d)",
        write: |micros| Span(std::time::Duration::from_micros(micros)).to_toml(),
    };

    fn to_toml(&self) -> String {
        quoted(&self.to_string())
    }

    fn amount(&self) -> Option<u64> {
        u64::try_from(self.0.as_micros()).ok()
    }
}

macro_rules! words {
    ($($type:ident: $expected:literal { $($variant:ident = $word:literal),+ })+) => {$(
        impl Leaf for $type {
            const KIND: Kind = plain($expected);

            fn to_toml(&self) -> String {
                match self {
                    $(Self::$variant => quoted($word),)+
                }
            }
        }
    )+};
}

words! {
    AllPublishBy: "\"nobody\" or \"anyone\"" { Nobody = "nobody", Anyone = "anyone" }
    ClientAddress: "\"peer\", \"forwarded\" or \"x-forwarded-for\"" {
        Peer = "peer", Forwarded = "forwarded", XForwardedFor = "x-forwarded-for"
    }
    PublishBy: "\"members\", \"anyone\" or \"backend\"" {
        Members = "members", Anyone = "anyone", Backend = "backend"
    }
    SlowClient: "\"evict\", \"drop_oldest\", \"drop_newest\" or \"conflate\"" {
        Evict = "evict", DropOldest = "drop_oldest", DropNewest = "drop_newest",
        Conflate = "conflate"
    }
    Delivery: "\"at_most_once\"" { AtMostOnce = "at_most_once", Acked = "acked" }
    EngineKind: "\"auto\", \"uring\" or \"epoll\"" { Auto = "auto", Uring = "uring", Epoll = "epoll" }
    LogFormat: "\"text\" or \"json\"" { Text = "text", Json = "json" }
    TlsVersion: "\"1.2\" or \"1.3\"" { V12 = "1.2", V13 = "1.3" }
    ClientAuth: "\"none\", \"optional\" or \"required\"" {
        None = "none", Optional = "optional", Required = "required"
    }
    ClientUser: "\"none\", \"common_name\", \"dns\", \"email\" or \"uri\"" {
        None = "none", CommonName = "common_name", Dns = "dns", Email = "email", Uri = "uri"
    }
    Mode: "\"rooms\" or \"echo\"" { Rooms = "rooms", Echo = "echo" }
}
