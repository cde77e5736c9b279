//! HTTP/1.1 request heads and responses (RFC 9112).
