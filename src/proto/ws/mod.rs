//! RFC 6455: the WebSocket protocol.
