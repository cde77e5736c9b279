//! A JSON client on tokio-tungstenite: commands with their answers, messages in their order.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    ops::Deref,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json, value::RawValue};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest, http::HeaderValue},
};

use super::{Server, within};

/// A WebSocket over plain TCP.
pub(crate) type WebSocket = WebSocketStream<TcpStream>;

/// One connection that speaks JSON.
pub(crate) struct Client {
    pub(crate) ws: WebSocket,
    /// The gateway's name for this connection.
    pub(crate) id: String,
    /// The `connected` message.
    pub(crate) connected: Incoming,
    /// What came while an answer was awaited, in order.
    inbox: VecDeque<Incoming>,
}

/// A message of the gateway: its bytes and what they mean.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl Incoming {
    /// From the text of a message.
    pub(crate) fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            json: serde_json::from_str(text)
                .unwrap_or_else(|error| panic!("not JSON ({error}): {text}")),
        }
    }

    /// The `type` field.
    pub(crate) fn kind(&self) -> &str {
        self.json["type"].as_str().unwrap_or_default()
    }

    /// The bytes of the `data` field as they stand in the message.
    pub(crate) fn data(&self) -> &str {
        let fields: RawData<'_> = serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("no data ({error}) in {}", self.text));
        fields.data.get()
    }

    /// The `seq` field.
    pub(crate) fn seq(&self) -> u64 {
        self.json["seq"]
            .as_u64()
            .unwrap_or_else(|| panic!("no seq in {}", self.text))
    }
}

#[derive(serde::Deserialize)]
struct RawData<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Deref for Incoming {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.json
    }
}

impl Client {
    /// Connects as `user` and awaits `connected`.
    pub(crate) async fn connect(server: &Server, user: &str) -> Self {
        Self::connect_to(server, &format!("/ws?user={user}")).await
    }

    /// Connects to `target` and awaits `connected`.
    pub(crate) async fn connect_to(server: &Server, target: &str) -> Self {
        let (ws, _) = open(server.addr, target, None, None)
            .await
            .unwrap_or_else(|error| panic!("{target} refused: {error}"));
        let mut client = Self {
            ws,
            id: String::new(),
            connected: Incoming::new("{}"),
            inbox: VecDeque::new(),
        };
        client.connected = client.next().await;
        assert_eq!(client.connected.kind(), "connected", "it is always first");
        client.id = client.connected["client"]
            .as_str()
            .expect("`connected` names the client")
            .to_owned();
        client
    }

    /// Sends one JSON value as a text message.
    pub(crate) async fn send(&mut self, command: Value) {
        self.send_text(&command.to_string()).await;
    }

    /// Sends these bytes as a text message.
    pub(crate) async fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    /// Sends any message.
    pub(crate) async fn send_message(&mut self, message: Message) {
        within("sending", self.ws.send(message))
            .await
            .expect("the connection takes a message");
    }

    /// The next message of the gateway.
    pub(crate) async fn next(&mut self) -> Incoming {
        match self.inbox.pop_front() {
            Some(message) => message,
            None => self.read().await,
        }
    }

    /// The next message, which must have this type.
    pub(crate) async fn expect(&mut self, kind: &str) -> Incoming {
        let message = self.next().await;
        assert_eq!(message.kind(), kind, "{}", message.text);
        message
    }

    /// Sends a command under a fresh `id` and awaits its answer, `ok` or `error` (or `pong`). What
    /// comes before it stays readable.
    pub(crate) async fn call(&mut self, mut command: Value) -> Incoming {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = format!("c{}", NEXT.fetch_add(1, Ordering::Relaxed));
        command["id"] = json!(id);
        self.send(command).await;
        self.answer(&id).await
    }

    /// Awaits the answer to the command with this `id`.
    pub(crate) async fn answer(&mut self, id: &str) -> Incoming {
        loop {
            let message = self.read().await;
            if message["id"] == id {
                return message;
            }
            self.inbox.push_back(message);
        }
    }

    /// A command that must succeed.
    pub(crate) async fn ok(&mut self, command: Value) -> Incoming {
        let answer = self.call(command.clone()).await;
        assert_eq!(answer.kind(), "ok", "{command} got {}", answer.text);
        answer
    }

    /// A command that must fail with this code.
    pub(crate) async fn fails(&mut self, command: Value, code: &str) -> Incoming {
        let answer = self.call(command.clone()).await;
        assert_eq!(answer.kind(), "error", "{command} got {}", answer.text);
        assert_eq!(answer["code"], code, "{command} got {}", answer.text);
        answer
    }

    pub(crate) async fn join(&mut self, room: &str) -> Incoming {
        self.ok(json!({"type": "join", "room": room})).await
    }

    pub(crate) async fn publish(&mut self, room: &str, data: Value) -> Incoming {
        self.ok(json!({"type": "publish", "room": room, "data": data}))
            .await
    }

    /// Nothing unread is left, and the connection still answers.
    pub(crate) async fn assert_quiet(&mut self) {
        self.send(json!({"type": "ping", "id": "quiet"})).await;
        let message = self.next().await;
        assert_eq!(message.kind(), "pong", "unexpected: {}", message.text);
        assert_eq!(message["id"], "quiet", "{}", message.text);
    }

    /// Reads to the close frame; its code and reason.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        self.inbox.clear();
        loop {
            match within("a close frame", self.ws.next()).await {
                Some(Ok(Message::Close(Some(frame)))) => {
                    return (frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(_)) => {}
                other => panic!("ended without a close frame: {other:?}"),
            }
        }
    }

    /// Closes with code 1000 and waits for the gateway's answer.
    pub(crate) async fn close(mut self) {
        within("closing", self.ws.close(None))
            .await
            .expect("an open connection can be closed");
        while let Some(Ok(_)) = within("the end", self.ws.next()).await {}
    }

    /// Ends by a TCP reset.
    pub(crate) fn reset(self) {
        reset_on_drop(self.ws.get_ref());
    }

    async fn read(&mut self) -> Incoming {
        Incoming::new(&self.next_text().await)
    }

    /// The next message on the connection, unparsed.
    pub(crate) async fn next_text(&mut self) -> String {
        loop {
            match within("a message", self.ws.next()).await {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("instead of a message: {other:?}"),
            }
        }
    }
}

/// Makes the end of `stream` a reset instead of an orderly close.
pub(crate) fn reset_on_drop(stream: &TcpStream) {
    SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .expect("SO_LINGER can be set");
}

/// Opens a WebSocket at `target`: the stream and the subprotocol that the gateway chose.
pub(crate) async fn open(
    addr: SocketAddr,
    target: &str,
    offer: Option<&str>,
    recv_buffer_bytes: Option<usize>,
) -> Result<(WebSocket, Option<String>), tungstenite::Error> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    if let Some(bytes) = recv_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    // Loopback accepts at once, so this blocks for no longer than the listener's backlog is full.
    socket.connect_timeout(&addr.into(), super::DEADLINE)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    let stream = TcpStream::from_std(socket.into())?;
    let mut request = format!("ws://{addr}{target}").into_client_request()?;
    if let Some(offer) = offer {
        request.headers_mut().insert(
            "Sec-WebSocket-Protocol",
            HeaderValue::from_str(offer).expect("an offer is ASCII"),
        );
    }
    let (ws, response) = within("the handshake", client_async(request, stream)).await?;
    let chosen = response
        .headers()
        .get("Sec-WebSocket-Protocol")
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    Ok((ws, chosen))
}
