//! Echo servers that do wrong on purpose, over TCP and over TLS.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned, crypto::aws_lc_rs, pki_types::PrivateKeyDer,
};
use tungstenite::{Message, WebSocket};

use crate::common::certs::{Authority, Issued, NOW};

/// What a server does wrong, once, with one message of its first connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Drop,
    Double,
    /// Answers it after its successor.
    Swap,
    CorruptFiller,
    CorruptTag,
    /// Answers a binary message with a text.
    WrongKind,
    Cut,
    CloseFrame,
    Silence,
    Stall,
    /// Nothing wrong: asks whether the client lives, and goes on once it has answered.
    Ping,
}

/// The message that the fault befalls.
const FAULTY: u64 = 20;
const STALL: Duration = Duration::from_millis(300);

/// A certificate, as a server uses it.
pub(crate) struct Secure {
    /// That of the authority, for clients that trust it.
    pub(crate) pem: String,
    config: Arc<ServerConfig>,
}

impl Secure {
    /// One for `name`, signed by an authority of its own.
    pub(crate) fn new(name: &str) -> Self {
        let authority = Authority::new(&format!("the authority of {name}"));
        let Issued { certificate, key } = authority.server(&[name], NOW);
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("they fit");
        Self {
            pem: authority.pem(),
            config: Arc::new(config),
        }
    }
}

/// Echoes over TLS, but for `fault`.
pub(crate) fn secure_server(secure: &Secure, fault: Fault) -> (SocketAddr, Arc<AtomicU64>) {
    let config = Arc::clone(&secure.config);
    serve_all(fault, move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config)).expect("a configuration");
        StreamOwned::new(connection, stream)
    })
}

/// Echoes, but for `fault`. Its threads end with their connections.
pub(crate) fn server(fault: Fault) -> (SocketAddr, Arc<AtomicU64>) {
    serve_all(fault, |stream| stream)
}

fn serve_all<S: Read + Write + Send + 'static>(
    fault: Fault,
    wrap: impl Fn(TcpStream) -> S + Send + 'static,
) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    let pongs = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&pongs);
    thread::spawn(move || {
        for (n, stream) in listener.incoming().flatten().enumerate() {
            let fault = if n == 0 { fault } else { Fault::None };
            let seen = Arc::clone(&seen);
            let _ = stream.set_nodelay(true);
            let stream = wrap(stream);
            thread::spawn(move || {
                if let Ok(socket) = tungstenite::accept(stream) {
                    // Whatever ends it: the client's figures are what counts.
                    let _ = serve(socket, fault, &seen);
                }
            });
        }
    });
    (addr, pongs)
}

fn serve<S: Read + Write>(
    mut socket: WebSocket<S>,
    fault: Fault,
    pongs: &AtomicU64,
) -> tungstenite::Result<()> {
    let mut number = 0;
    let mut held = None;
    loop {
        let message = match socket.read()? {
            message @ (Message::Text(_) | Message::Binary(_)) => message,
            Message::Pong(payload) => {
                assert_eq!(&payload[..], b"alive?");
                pongs.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            _ => continue,
        };
        let is_faulty = number == FAULTY;
        number += 1;
        if !is_faulty {
            socket.send(message)?;
            if let Some(held) = held.take() {
                socket.send(held)?;
            }
            continue;
        }
        match fault {
            Fault::None => socket.send(message)?,
            Fault::Drop => {}
            Fault::Double => {
                socket.send(message.clone())?;
                socket.send(message)?;
            }
            Fault::Swap => held = Some(message),
            Fault::CorruptFiller | Fault::CorruptTag => {
                let mut bytes = message.into_data().to_vec();
                let at = if fault == Fault::CorruptTag {
                    2
                } else {
                    bytes.len() - 1
                };
                bytes[at] ^= 1;
                socket.send(Message::binary(bytes))?;
            }
            Fault::WrongKind => {
                // Its filler need not be UTF-8.
                socket.send(Message::text("x".repeat(message.len())))?;
            }
            Fault::Cut => return Ok(()),
            Fault::CloseFrame => socket.close(None)?,
            Fault::Silence => thread::park(),
            Fault::Stall => {
                // The stall is what is tested.
                thread::sleep(STALL);
                socket.send(message)?;
            }
            Fault::Ping => {
                socket.send(Message::Ping(b"alive?".to_vec().into()))?;
                socket.send(message)?;
            }
        }
    }
}
