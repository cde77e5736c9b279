//! L6: where each worker listens, and the sockets for it.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::ServerError;
use crate::config::Config;

/// Where clients connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) socket: SocketAddr,
    /// Whether connections are encrypted there.
    pub(super) is_tls: bool,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}", self.socket)
    }
}

/// Which addresses there are, and who listens at them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Every distinct address that is served, in the order in which workers name them, each
    /// worker's plain ones first.
    pub(super) addresses: Vec<Address>,
    /// By worker, the positions in `addresses` of its own.
    pub(super) by_worker: Vec<Vec<usize>>,
}

impl Plan {
    /// What `config` asks for with `workers` workers. A worker with addresses of its own listens
    /// only there; an address that two workers name is one, also with port 0.
    pub(super) fn new(config: &Config, workers: u16) -> Self {
        let mut plan = Self::default();
        for worker in 0..workers {
            let mut own = Vec::new();
            let core = config.core(worker);
            let plain = core.listen.iter().map(|socket| (*socket, false));
            let tls = core.tls_listen.iter().map(|socket| (*socket, true));
            for (socket, is_tls) in plain.chain(tls) {
                let address = Address { socket, is_tls };
                let known = plan.addresses.iter().position(|known| *known == address);
                let at = known.unwrap_or_else(|| {
                    plan.addresses.push(address);
                    plan.addresses.len() - 1
                });
                if !own.contains(&at) {
                    own.push(at);
                }
            }
            plan.by_worker.push(own);
        }
        plan
    }
}

/// The sockets of a plan.
#[derive(Debug)]
pub(super) struct Listeners {
    /// The addresses with the ports that were given for 0.
    pub(super) addresses: Vec<Address>,
    /// Each worker's own.
    pub(super) by_worker: Vec<Own>,
}

/// One worker's sockets.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) sockets: Vec<OwnedFd>,
    /// Of each whether its connections are encrypted.
    pub(super) are_tls: Vec<bool>,
}

/// Listens as planned: for each address one socket for each worker that serves it. The kernel
/// spreads an address's connections over its sockets.
///
/// # Errors
/// If an address can't be had.
pub(super) fn open(plan: &Plan, config: &Config) -> Result<Listeners, ServerError> {
    // All before the first is taken: one may cover another, as 0.0.0.0 does.
    for Address { socket, .. } in &plan.addresses {
        refuse_a_busy_port(*socket).map_err(refused(*socket))?;
    }
    let mut addresses = plan.addresses.clone();
    let mut by_worker = Vec::with_capacity(plan.by_worker.len());
    for (worker, own) in plan.by_worker.iter().enumerate() {
        let backlog = config.core(worker as u16).backlog;
        let mut listeners = Own::default();
        for at in own {
            let address = &mut addresses[*at];
            let asked = address.socket;
            let socket = listen(asked, backlog).map_err(refused(asked))?;
            if asked.port() == 0 {
                let bound = socket.local_addr().map_err(refused(asked))?;
                address.socket = bound.as_socket().unwrap_or(asked);
            }
            listeners.sockets.push(socket.into());
            listeners.are_tls.push(address.is_tls);
        }
        by_worker.push(listeners);
    }
    Ok(Listeners {
        addresses,
        by_worker,
    })
}

/// The operator's interface has one socket and shares its port with nobody.
///
/// # Errors
/// If the address can't be had.
pub(super) fn open_admin(address: SocketAddr) -> Result<(SocketAddr, TcpListener), ServerError> {
    let listener = TcpListener::bind(address).map_err(refused(address))?;
    let actual = listener.local_addr().map_err(refused(address))?;
    Ok((actual, listener))
}

fn refused(address: SocketAddr) -> impl FnOnce(io::Error) -> ServerError {
    move |source| ServerError::Listen { address, source }
}

fn listen(address: SocketAddr, backlog: u32) -> io::Result<Socket> {
    let socket = socket(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    // Accepted connections inherit it: frames go out as soon as they are written.
    socket.set_tcp_nodelay(true)?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// SO_REUSEPORT would let a second gateway share the port in silence, each getting a part of the
/// clients. So the port is first asked for without it.
///
/// A ring's teardown outlives its process for a moment and holds the listening socket: an
/// address in use is asked for again for a while.
fn refuse_a_busy_port(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let deadline = Instant::now() + BUSY_PORT_PATIENCE;
    loop {
        match socket(address)?.bind(&address.into()) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
}

const BUSY_PORT_PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CoreFile, Listen};

    fn addresses(all: &[&str]) -> Vec<SocketAddr> {
        all.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn plain(all: &[&str]) -> Vec<Address> {
        let plain = |socket| Address {
            socket,
            is_tls: false,
        };
        addresses(all).into_iter().map(plain).collect()
    }

    fn config(main: &[&str], files: &[(u16, &[&str])]) -> Config {
        let mut config = Config::default();
        config.server.listen = Listen(addresses(main));
        for (core, own) in files {
            let file = CoreFile {
                listen: Some(Listen(addresses(own))),
                ..CoreFile::default()
            };
            config.cores.insert(*core, file);
        }
        config
    }

    #[test]
    fn all_workers_share_the_main_addresses() {
        let plan = Plan::new(&config(&["127.0.0.1:1", "[::1]:2"], &[]), 3);
        assert_eq!(plan.addresses, plain(&["127.0.0.1:1", "[::1]:2"]));
        assert_eq!(plan.by_worker, vec![vec![0, 1]; 3]);
    }

    #[test]
    fn a_worker_with_its_own_listens_only_there() {
        let files: [(u16, &[&str]); 2] = [
            (1, &["127.0.0.1:9"]),
            (2, &["127.0.0.1:9", "127.0.0.1:1", "127.0.0.1:9"]),
        ];
        let plan = Plan::new(&config(&["127.0.0.1:1"], &files), 3);
        assert_eq!(plan.addresses, plain(&["127.0.0.1:1", "127.0.0.1:9"]));
        assert_eq!(plan.by_worker, [vec![0], vec![1], vec![1, 0]]);
    }

    #[test]
    fn an_address_that_nobody_serves_is_not_taken() {
        let files: [(u16, &[&str]); 1] = [(0, &["127.0.0.1:9"])];
        let plan = Plan::new(&config(&["127.0.0.1:1"], &files), 1);
        assert_eq!(plan.addresses, plain(&["127.0.0.1:9"]));
    }

    #[test]
    fn a_free_port_is_the_same_for_all_who_ask_for_it() {
        let files: [(u16, &[&str]); 1] = [(2, &["127.0.0.2:0"])];
        let config = config(&["127.0.0.1:0"], &files);
        let plan = Plan::new(&config, 3);
        let listeners = open(&plan, &config).unwrap();
        let counts: Vec<usize> = listeners
            .by_worker
            .iter()
            .map(|own| own.sockets.len())
            .collect();
        assert_eq!(counts, [1, 1, 1]);
        assert_eq!(listeners.addresses.len(), 2);
        let bound = |fd: &OwnedFd| {
            let listener = TcpListener::from(fd.try_clone().unwrap());
            listener.local_addr().unwrap()
        };
        let sockets: Vec<SocketAddr> = listeners.addresses.iter().map(|a| a.socket).collect();
        assert_eq!(bound(&listeners.by_worker[0].sockets[0]), sockets[0]);
        assert_eq!(bound(&listeners.by_worker[1].sockets[0]), sockets[0]);
        assert_eq!(bound(&listeners.by_worker[2].sockets[0]), sockets[1]);
        assert!(sockets.iter().all(|address| address.port() > 0));
    }

    #[test]
    fn encrypted_addresses_stand_apart_and_each_worker_knows_its_own() {
        let mut config = config(&["127.0.0.1:0"], &[]);
        config.tls.listen = Listen(addresses(&["127.0.0.1:0", "127.0.0.2:0"]));
        let file = CoreFile {
            listen: Some(Listen(Vec::new())),
            tls_listen: Some(Listen(addresses(&["127.0.0.2:0"]))),
            ..CoreFile::default()
        };
        config.cores.insert(1, file);
        let plan = Plan::new(&config, 2);
        assert_eq!(plan.by_worker, [vec![0, 1, 2], vec![2]]);
        let listeners = open(&plan, &config).unwrap();
        let are_tls: Vec<_> = listeners.by_worker.iter().map(|own| &own.are_tls).collect();
        assert_eq!(are_tls, [&vec![false, true, true], &vec![true]]);
        let sockets: Vec<SocketAddr> = listeners.addresses.iter().map(|a| a.socket).collect();
        assert_ne!(sockets[0], sockets[1], "port 0 is a port for each");
        let shown = listeners.addresses[1].to_string();
        assert_eq!(shown, format!("wss://{}", sockets[1]));
    }

    #[test]
    fn the_busy_address_among_several_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let config = config(&["127.0.0.1:0", &address.to_string()], &[]);
        let error = open(&Plan::new(&config, 2), &config).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert!(error.to_string().contains("in use"), "{error}");
    }
}
