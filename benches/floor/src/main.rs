//! What the kernel itself asks for: a WebSocket echo and fan-out on a bare io_uring, with no checks.
//!
//! It is no server to use: it believes its clients, knows no limits and no timers, and one that does
//! not read can hold what all others need. It is the line that servers with checks are measured
//! against.
//!
//!     floor [--listen 127.0.0.1:PORT]
//!
//! `/echo` sends every message back; in `/room/NAME` every message goes to every member, its sender
//! included.

mod connection;
mod frame;
mod http;
mod mask;
mod out;
mod ring;
mod room;
mod server;

use std::{
    io::{self, Write},
    net::{SocketAddr, TcpListener},
    os::fd::AsRawFd,
    process::ExitCode,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let address = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => Ok(SocketAddr::from(([127, 0, 0, 1], 0))),
        [flag, address] if flag == "--listen" => address
            .parse()
            .map_err(|_| other(format!("not an address: {address}"))),
        _ => Err(other("usage: floor [--listen ADDRESS:PORT]".to_owned())),
    }?;
    let listener = TcpListener::bind(address)?;
    // What is accepted inherits it. A second `listen` widens the queue of the first.
    set_nodelay(listener.as_raw_fd())?;
    let mut server = server::Server::new(listener.as_raw_fd(), descriptors().min(CONNECTIONS_MAX))?;
    let mut out = io::stdout().lock();
    writeln!(out, "floor")?;
    writeln!(
        out,
        "  listening   ws://{}/echo and /room/NAME",
        listener.local_addr()?
    )?;
    writeln!(out, "  ready")?;
    out.flush()?;
    drop(out);
    server.run()
}

fn set_nodelay(listener: i32) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int that lives across the call.
    let set = unsafe {
        libc::setsockopt(
            listener,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    // SAFETY: takes a descriptor and a number.
    if set != 0 || unsafe { libc::listen(listener, BACKLOG) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// How many descriptors this process may have.
fn descriptors() -> u32 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: writes the structure that it is given.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    u32::try_from(limit.rlim_cur).unwrap_or(u32::MAX)
}

fn other(text: String) -> io::Error {
    io::Error::other(text)
}

const BACKLOG: i32 = 4096;
const CONNECTIONS_MAX: u32 = 20_000;
