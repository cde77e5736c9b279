//! Who a connection is from, where balancers and proxies stand between: a PROXY header in front of
//! everything else, or a field of the request. Only those whom the configuration names are asked.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tracing::{debug, info};

use super::{
    Core,
    admission::Verdict,
    conn::{Counting, Peer, StallCause, State},
};
use crate::{
    config::{self, ClientAddress},
    engine::{CloseMode, ConnKey},
    proto::{
        forwarded::{self, Field, ForwardedError},
        http1::{Head, HeadReader, Response},
        proxy_header::Source,
    },
};

/// What a request says of its client.
pub(super) type Named = Result<Option<SocketAddr>, ForwardedError>;

/// Reads from a request of a trusted proxy who the client is.
pub(super) fn named_client(head: &Head<'_>, server: &config::Server) -> Named {
    let field = match server.client_address {
        // It has changed meanwhile: nobody is believed any more.
        ClientAddress::Peer => return Ok(None),
        ClientAddress::Forwarded => Field::Forwarded,
        ClientAddress::XForwardedFor => Field::XForwardedFor,
    };
    forwarded::client(head, field, |ip| is_within(&server.trusted_proxies, ip))
}

/// Whether one of `networks` has this address, however it is written.
pub(super) fn is_within(networks: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip))
}

impl Core {
    /// Whether connections from this address begin with a PROXY header.
    pub(super) fn sends_proxy_header(&self, peer: SocketAddr) -> bool {
        is_within(&self.config.server.proxy_protocol, peer.ip())
    }

    /// Whether requests from this address tell whose they are.
    pub(super) fn is_trusted_proxy(&self, peer: SocketAddr) -> bool {
        let server = &self.config.server;
        server.client_address != ClientAddress::Peer
            && is_within(&server.trusted_proxies, peer.ip())
    }

    /// Bytes of a PROXY header, and perhaps what comes after it.
    pub(super) fn on_preface_bytes(&mut self, conn: ConnKey, bytes: &mut [u8]) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        let State::Preface(reader) = &mut state.state else {
            return;
        };
        let (source, used) = match reader.handle_input(bytes) {
            Ok(None) => return,
            Ok(Some(read)) => read,
            Err(error) => {
                self.counters.proxy_headers_refused_total.inc();
                if let Some(suppressed) = self.refusal_log.admit(self.now.mono) {
                    let core = self.mesh.core();
                    let peer = state.peer.address();
                    info!(core, ?peer, %error, suppressed, "connection closed");
                }
                // Whoever it is need not speak HTTP: there is no language to answer in.
                return self.drop_conn(conn, CloseMode::Orderly);
            }
        };
        self.counters.proxy_headers_total.inc();
        state.state = State::Head(HeadReader::new());
        let rest = &mut bytes[used..];
        let verdict = match source {
            // It counts for nobody, and nobody vouches for what the request says.
            Source::Unnamed => Verdict::LetIn,
            Source::Client(client) => {
                let via = state.peer.address();
                state.peer = Peer::new(Some(client));
                debug!(conn = conn.index, peer = ?client, ?via, "named by a PROXY header");
                self.judge(conn, client)
            }
        };
        match verdict {
            Verdict::LetIn => self.begin_behind_header(conn, rest),
            Verdict::Asked => self.hold(conn, rest.to_vec(), StallCause::Admission),
            Verdict::Refused => {}
        }
    }

    /// Whom the PROXY header names is let in: the connection begins, with what came behind the header.
    pub(super) fn begin_behind_header(&mut self, conn: ConnKey, rest: &mut [u8]) {
        if self.conns.get(conn).is_some_and(|state| state.is_tls) {
            self.begin_tls(conn);
        }
        if !rest.is_empty() {
            self.on_bytes(conn, rest, None);
        }
    }

    /// A whole request has come from a trusted proxy, the end of it in `input`. Says whether it may be
    /// answered now; if not, it has been refused, or waits until the client is let in.
    pub(super) fn on_named(&mut self, conn: ConnKey, named: Named, input: &[u8]) -> bool {
        let client = match named {
            Ok(client) => client,
            Err(error) => {
                self.counters.forwarded_refused_total.inc();
                let response = Response::new(error.status()).body(error.to_string());
                self.respond(conn, &response);
                return false;
            }
        };
        let Some(state) = self.conns.get_mut(conn) else {
            return false;
        };
        state.counting = Counting::Not;
        // The request is the proxy's own, or it does not tell: then nobody is counted.
        let Some(client) = client else {
            return true;
        };
        self.counters.forwarded_total.inc();
        let via = state.peer.address();
        state.peer = Peer::new(Some(client));
        debug!(conn = conn.index, peer = ?client, ?via, "named by a trusted proxy");
        match self.ask_for(conn, client) {
            Verdict::LetIn => true,
            Verdict::Refused => false,
            Verdict::Asked => {
                // It is read again when the answer has come: what it asks for may be gone by then.
                if let Some(state) = self.conns.get_mut(conn)
                    && let State::Head(reader) = &mut state.state
                {
                    let mut bytes = reader.take_earlier();
                    bytes.extend_from_slice(input);
                    self.hold(conn, bytes, StallCause::Admission);
                }
                false
            }
        }
    }
}
