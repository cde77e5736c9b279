//! Opening connections: TCP, then the opening handshake (RFC 6455 §4.1).

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use memchr::memmem;

/// Where the server listens.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// HOST:PORT.
    authority: String,
    /// Begins with a slash.
    path: String,
}

impl Target {
    /// Takes `ws://HOST:PORT/PATH` apart.
    pub(crate) fn parse(url: &str) -> anyhow::Result<Self> {
        let rest = url
            .strip_prefix("ws://")
            .context("the URL must begin with ws://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        ensure!(authority.contains(':'), "the URL must name a port");
        Ok(Self {
            authority: authority.to_owned(),
            path: format!("/{path}"),
        })
    }

    /// Connects and sends the request. The answer is for the caller's event loop; the socket no
    /// longer blocks.
    pub(crate) fn open(&self) -> anyhow::Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.authority).context("connecting")?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n",
            self.path, self.authority
        );
        stream
            .write_all(request.as_bytes())
            .context("sending the request")?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// Connects and waits for the answer; also what came behind it.
    pub(crate) fn open_and_wait(&self) -> anyhow::Result<(TcpStream, Vec<u8>)> {
        let mut stream = self.open()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
        let mut received = Vec::new();
        let mut part = [0; 1024];
        loop {
            let n = stream.read(&mut part).context("waiting for the response")?;
            ensure!(
                n > 0,
                "the server closed the connection before its response"
            );
            received.extend_from_slice(&part[..n]);
            if let Some(len) = check_response(&received)? {
                received.drain(..len);
                stream.set_nonblocking(true)?;
                return Ok((stream, received));
            }
        }
    }
}

/// Checks the server's answer: how many bytes it takes, or none if it is not complete yet.
pub(crate) fn check_response(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
        ensure!(
            bytes.len() <= HEAD_BYTES_MAX,
            "the response's head does not end"
        );
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end]).context("the response is not text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    ensure!(
        status.starts_with("HTTP/1.1 101 "),
        "the server answered {status:?}"
    );
    let accept = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-accept"));
    match accept {
        Some((_, value)) if value.trim() == ACCEPT => Ok(Some(end + 4)),
        _ => bail!("Sec-WebSocket-Accept is missing or wrong"),
    }
}

/// The RFC's example: every connection may use the same one, the server can't tell.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
const HEAD_BYTES_MAX: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_url_apart() {
        let target = Target::parse("ws://127.0.0.1:80/a/b").unwrap();
        assert_eq!(
            (target.authority.as_str(), target.path.as_str()),
            ("127.0.0.1:80", "/a/b")
        );
        assert_eq!(Target::parse("ws://h:1").unwrap().path, "/");
        assert!(Target::parse("http://h:1/").is_err());
    }

    #[test]
    fn believes_only_the_right_answer() {
        let good =
            format!("HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n");
        assert_eq!(check_response(good.as_bytes()).unwrap(), Some(good.len()));
        assert_eq!(
            check_response(&good.as_bytes()[..good.len() - 1]).unwrap(),
            None
        );
        assert!(check_response(good.replace("s3p", "s3q").as_bytes()).is_err());
        assert!(check_response(b"HTTP/1.1 404 Not Found\r\n\r\n").is_err());
    }
}
