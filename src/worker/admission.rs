//! Who is let in: what a new connection is asked before a byte of it is read (protocol §7).

use std::net::SocketAddr;

use tracing::{debug, info};

use super::{
    Action, Core,
    conn::{Conn, Counting, StallCause, State},
    mesh::Item,
    origin::is_within,
};
use crate::{
    base::{counters::Counter, ids::CoreId, limits::REFUSALS_LINGERING_MAX},
    engine::{CloseMode, ConnKey, ListenerId},
    proto::{http1::Response, proxy_header::ProxyHeaderReader},
    session::addresses::{AddressKey, Admission},
    tls::stream::BareAlert,
};

/// Whether a connection is taken up, as far as can be said at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    LetIn,
    /// The core that counts its address is asked.
    Asked,
    /// It has been answered.
    Refused,
}

impl Core {
    /// A connection has arrived: whether it is taken up is decided here, or asked of the core
    /// that counts its address. Until then nothing of it is read, but for a balancer's PROXY header.
    pub(super) fn on_accepted(
        &mut self,
        conn: ConnKey,
        listener: ListenerId,
        peer: Option<SocketAddr>,
    ) {
        let is_tls = self.is_tls(listener);
        self.counters.accepted_total.inc();
        debug!(
            core = self.mesh.core(),
            conn = conn.index,
            ?peer,
            is_tls,
            "accepted"
        );
        let mut state = Conn::new(self.now.mono, peer);
        state.is_tls = is_tls;
        self.conns.insert(conn, state);
        self.heads += 1;
        if self.is_ending() {
            return self.drop_conn(conn, CloseMode::Orderly);
        }
        // It was reset while it waited for us. What it may have sent would be read, and be nobody's.
        let Some(peer) = peer else {
            self.counters.gone_at_accept_total.inc();
            return self.drop_conn(conn, CloseMode::Reset);
        };
        let counters = std::sync::Arc::clone(&self.counters);
        let limits = &self.core_limits;
        if self.conns.len() > limits.connections_max as usize {
            return self.refuse_busy(conn, &counters.refused_connections_total);
        }
        if self.heads > limits.handshakes_inflight_max {
            return self.refuse_busy(conn, &counters.refused_handshakes_total);
        }
        if self.memory.refuses() {
            return self.refuse_busy(conn, &counters.refused_memory_total);
        }
        self.set_timer(conn, self.config.limits.handshake_timeout.0);
        if self.sends_proxy_header(peer) {
            if let Some(state) = self.conns.get_mut(conn) {
                state.state = State::Preface(ProxyHeaderReader::new());
            }
            return self.take_up(conn);
        }
        if self.judge(conn, peer) == Verdict::LetIn {
            self.take_up(conn);
        }
    }

    /// Whether who comes to `listener` speaks TLS.
    fn is_tls(&self, listener: ListenerId) -> bool {
        let listener = usize::from(listener);
        self.tls_listeners.get(listener).copied().unwrap_or(false)
    }

    /// Judges a connection by who is at its other end, unless that is a proxy whose requests tell
    /// whose they are.
    pub(super) fn judge(&mut self, conn: ConnKey, peer: SocketAddr) -> Verdict {
        if !self.is_trusted_proxy(peer) {
            return self.ask_for(conn, peer);
        }
        if let Some(state) = self.conns.get_mut(conn) {
            state.counting = Counting::Awaited;
        }
        Verdict::LetIn
    }

    /// Asks the core that counts `client`'s address whether one more is let in.
    pub(super) fn ask_for(&mut self, conn: ConnKey, client: SocketAddr) -> Verdict {
        let Some(address) = self.counted(client) else {
            return Verdict::LetIn;
        };
        let home = self.hub.routes().core_of_key(address);
        if home != self.mesh.core() {
            self.mesh.push(home, Item::Admit { conn, address });
            return Verdict::Asked;
        }
        let admission = self
            .addresses
            .admit(self.now.mono, address, &self.config.limits);
        self.heed(conn, admission)
    }

    /// What an address counts as; nothing if it is exempt, a proxy's that stands for its clients, or
    /// nothing is counted.
    fn counted(&self, peer: SocketAddr) -> Option<AddressKey> {
        let limits = &self.config.limits;
        if limits.connections_per_ip == 0 && limits.handshakes_per_ip_per_second == 0 {
            return None;
        }
        let ip = peer.ip();
        let is_exempt = is_within(&limits.ip_exempt, ip) || self.is_trusted_proxy(peer);
        (!is_exempt).then(|| AddressKey::of(ip))
    }

    /// Another core asks whether a connection from `address` may be taken up.
    pub(super) fn on_admit(&mut self, from: CoreId, conn: ConnKey, address: AddressKey) {
        let verdict = self
            .addresses
            .admit(self.now.mono, address, &self.config.limits);
        let item = Item::Admitted {
            conn,
            address,
            verdict,
        };
        self.mesh.push(from, item);
    }

    /// The core that counts its address has decided about a connection.
    pub(super) fn on_admission(&mut self, conn: ConnKey, address: AddressKey, verdict: Admission) {
        if !self.conns.get(conn).is_some_and(Conn::is_head) {
            // It has gone meanwhile: what was granted goes back.
            if verdict == Admission::Granted {
                self.depart(address);
            }
            return;
        }
        if self.heed(conn, verdict) != Verdict::LetIn {
            return;
        }
        let stall = self.conns.get_mut(conn).and_then(Conn::stalled);
        if stall.is_some_and(|stall| stall.cause == StallCause::Admission) {
            self.caught_up.push_back(conn);
        } else {
            self.take_up(conn);
        }
    }

    /// Does what was decided about the address of a connection that still waits for it.
    fn heed(&mut self, conn: ConnKey, verdict: Admission) -> Verdict {
        let counters = std::sync::Arc::clone(&self.counters);
        match verdict {
            Admission::Granted => {
                if let Some(state) = self.conns.get_mut(conn) {
                    state.counting = Counting::Counted;
                }
                return Verdict::LetIn;
            }
            Admission::TooMany => {
                self.refuse_address(conn, 1, &counters.refused_ip_connections_total);
            }
            Admission::TooFast(wait) => {
                let seconds = wait.as_secs() + 1;
                self.refuse_address(conn, seconds, &counters.refused_ip_handshakes_total);
            }
        }
        Verdict::Refused
    }

    /// A connection that counted has gone.
    pub(super) fn depart(&mut self, address: AddressKey) {
        let home = self.hub.routes().core_of_key(address);
        if home == self.mesh.core() {
            self.addresses.depart(self.now.mono, address);
        } else {
            self.mesh.push(home, Item::Departed { address });
        }
    }

    fn take_up(&mut self, conn: ConnKey) {
        if let Some(state) = self.conns.get_mut(conn) {
            state.receive = super::conn::Receive::On;
            // A PROXY header comes before the handshake.
            let begins_tls = state.is_tls && !matches!(state.state, State::Preface(_));
            self.actions.push_back(Action::ResumeReceive(conn));
            if begins_tls {
                self.begin_tls(conn);
            }
        }
    }

    fn refuse_busy(&mut self, conn: ConnKey, counter: &Counter) {
        counter.inc();
        let response = self.busy_response("the gateway has as much to do as it can; try again");
        self.refuse(conn, &response);
    }

    fn refuse_address(&mut self, conn: ConnKey, seconds: u64, counter: &Counter) {
        counter.inc();
        let response = Response::new(429)
            .header("Retry-After", seconds.to_string())
            .body("too many connections from this address");
        self.refuse(conn, &response);
    }

    fn refuse(&mut self, conn: ConnKey, response: &Response) {
        if let Some(suppressed) = self.refusal_log.admit(self.now.mono) {
            let peer = self.conns.get(conn).and_then(|state| state.peer.address());
            let status = response.status();
            info!(
                core = self.mesh.core(),
                ?peer,
                status,
                suppressed,
                "connection refused"
            );
        }
        if self.refusals >= REFUSALS_LINGERING_MAX {
            self.counters.refused_total.inc();
            return self.drop_conn(conn, CloseMode::Reset);
        }
        let mut is_tls = false;
        if let Some(state) = self.conns.get_mut(conn) {
            state.is_refused = true;
            // Before its handshake: behind that, a response can be encrypted.
            is_tls = state.is_tls && state.tls().is_none();
            self.refusals += 1;
        }
        if !is_tls {
            return self.respond(conn, response);
        }
        let alert = match response.status() {
            429 => BareAlert::AccessDenied,
            _ => BareAlert::InternalError,
        };
        self.refuse_tls(conn, alert);
    }

    /// 503, with a time to come back that differs from client to client.
    pub(super) fn busy_response(&mut self, text: &'static str) -> Response {
        let seconds = self.retry_after();
        Response::new(503)
            .header("Retry-After", seconds.to_string())
            .body(text)
    }

    /// Seconds after which a client may come back, spread so that they do not come all at once.
    pub(super) fn retry_after(&mut self) -> u64 {
        let max = self.config.drain.retry_after_max.0.as_secs().max(1);
        1 + self.rng.below(max)
    }
}
