//! The server that is loaded: its address, and the request that opens a connection to it.

use std::{
    io,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::template::{Place, Template};
use crate::proto::{handshake::ClientHandshake, ws::deflate::Offer};

/// A server, as its URL names it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    url: String,
    is_secure: bool,
    /// HOST:PORT.
    authority: String,
    host: String,
    port: u16,
    /// Path and query.
    path: Template,
}

impl Target {
    /// Takes `ws://HOST:PORT/PATH` or `wss://…` apart.
    ///
    /// # Errors
    /// Says what is wrong.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let (is_secure, rest) = match (url.strip_prefix("ws://"), url.strip_prefix("wss://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(format!("the URL must begin with ws:// or wss://: {url:?}")),
        };
        let default_port = if is_secure { PORT_OF_WSS } else { PORT_OF_WS };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (authority, Some(default_port)),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let Some(port) = port.filter(|_| !host.is_empty()) else {
            return Err(format!("the URL must name a host and a port: {url:?}"));
        };
        let is_path = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
        if !url.bytes().all(is_path) {
            return Err(format!(
                "the URL has characters that must be encoded: {url:?}"
            ));
        }
        let path = Template::parse(&if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        });
        if path.count(Place::Payload) + path.count(Place::Seq) > 0 {
            return Err("the URL knows {room} and {conn} only".to_owned());
        }
        Ok(Self {
            url: url.to_owned(),
            is_secure,
            authority: authority.to_owned(),
            host: host.to_owned(),
            port,
            path,
        })
    }

    /// As it was given.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Whether connections are TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// The host's name or address.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The host's name, and the port.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Looks the host up.
    ///
    /// # Errors
    /// If it has no address.
    pub(crate) fn resolve(&self) -> io::Result<SocketAddr> {
        let mut addresses = (self.host.as_str(), self.port).to_socket_addrs()?;
        let none = || io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        addresses.next().ok_or_else(none)
    }

    /// What a connection says first.
    pub(crate) fn handshake(
        &self,
        key: [u8; 16],
        subprotocol: Option<&str>,
        deflate: bool,
        conn: u32,
        room: u32,
    ) -> ClientHandshake {
        ClientHandshake {
            host: self.authority.clone(),
            path: self.path.render_text(conn, room),
            key,
            subprotocols: subprotocol.map(str::to_owned).into_iter().collect(),
            deflate: deflate.then_some(OFFER),
        }
    }

    /// Whether all connections say the same.
    pub(crate) fn is_constant(&self) -> bool {
        self.path.count(Place::Room) + self.path.count(Place::Conn) == 0
    }
}

/// What is set for a connection before it is begun.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tuning {
    /// Short messages do not wait for one another's acknowledgement.
    pub(crate) nodelay: bool,
    /// Bytes that the kernel keeps for a reader, if not as many as it likes.
    pub(crate) receive_bytes: Option<usize>,
}

/// Begins to connect; what is sent meanwhile waits for the connection.
///
/// # Errors
/// If the system refuses.
pub(crate) fn connect(addr: SocketAddr, tuning: Tuning) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new_raw(Domain::for_address(addr), kind, Some(Protocol::TCP))?;
    if tuning.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(bytes) = tuning.receive_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    match socket.connect(&addr.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Messages that stand by themselves, so that one inflater does for all connections.
const OFFER: Offer = Offer {
    server_no_context_takeover: true,
    client_no_context_takeover: true,
    server_max_window_bits: None,
    client_max_window_bits: None,
};
/// RFC 6455 §3.
const PORT_OF_WS: u16 = 80;
const PORT_OF_WSS: u16 = 443;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let cases = [
            (
                "ws://127.0.0.1:80/a?b=c",
                "127.0.0.1:80",
                "127.0.0.1",
                80,
                "/a?b=c",
            ),
            ("ws://localhost:9", "localhost:9", "localhost", 9, "/"),
            ("ws://localhost?x=1", "localhost", "localhost", 80, "/?x=1"),
            ("ws://[::1]:7/", "[::1]:7", "::1", 7, "/"),
            ("ws://[::1]/", "[::1]", "::1", 80, "/"),
            ("wss://h", "h", "h", 443, "/"),
            ("wss://h:8443/a", "h:8443", "h", 8443, "/a"),
            (
                "ws://h:1/ws/r{room}?user={conn}",
                "h:1",
                "h",
                1,
                "/ws/r4?user=9",
            ),
        ];
        for (url, authority, host, port, path) in cases {
            let target = Target::parse(url).unwrap();
            let handshake = target.handshake([0; 16], None, false, 9, 4);
            assert_eq!(target.authority(), authority, "{url}");
            assert_eq!((target.host.as_str(), target.port), (host, port), "{url}");
            assert_eq!(
                (handshake.path.as_str(), handshake.host.as_str()),
                (path, authority)
            );
            assert_eq!(target.url(), url);
            assert_eq!(target.is_secure(), url.starts_with("wss:"));
        }
        assert!(Target::parse("ws://h:1/a").unwrap().is_constant());
        assert!(!Target::parse("ws://h:1/{conn}").unwrap().is_constant());
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for url in [
            "http://h:1/",
            "ws://",
            "ws://:1/",
            "ws://h:x/",
            "ws://h:99999/",
            "ws://h:1/a b",
            "ws://h:1/{seq}",
        ] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }
}
