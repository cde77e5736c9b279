//! `[tls]`: where encrypted connections are accepted, with which certificates, and whether clients
//! need one too.
//!
//! Files are named here and read by `tls`: what is in them is no matter of this layer.

use serde::Deserialize;

use super::{
    Listen, Span,
    schema::{list, table},
};
use crate::base::limits::CERTIFICATES_MAX;

const MILLISECOND: u64 = 1_000;
const SECOND: u64 = 1_000 * MILLISECOND;
const HOUR: u64 = 3_600 * SECOND;
const YEAR: u64 = 365 * 24 * HOUR;

table! {
    /// `[tls]`
    #[derive(Clone, Debug, PartialEq)]
    pub struct Tls {
        /// Where encrypted connections are accepted, beside `server.listen`; nowhere if empty.
        pub listen: Listen = Restart;
        /// The oldest version of TLS that is spoken.
        pub min_version: TlsVersion = New;
        /// How long a handshake may take, from accept.
        pub handshake_timeout: Span = New in MILLISECOND => YEAR;
        /// For how long a client may come back without a full handshake; 0 is never.
        ///
        /// Not beyond twelve hours, for half of which a key serves: rustls would replace it itself then.
        pub ticket_lifetime: Span = New in 0 => 12 * HOUR;
        /// Whether records go through buffers of the TLS library instead of being worked on where they
        /// were received.
        pub buffered: bool = New;
        /// Whether clients are asked for a certificate.
        pub client_auth: ClientAuth = New;
        /// The file with the certificates of who may issue clients' certificates.
        pub client_ca: Option<String> = New;
        /// Which part of a client's certificate is its user's name.
        pub client_user: ClientUser = New;
        /// Certificates with their keys. The first one serves who asks for a host that none names.
        pub certificates: Vec<TlsCertificate> = New;
    }
}

table! {
    /// `[[tls.certificates]]`
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct TlsCertificate {
        /// The file with the certificate and those between it and the root, in PEM.
        pub certificate: String = New;
        /// The file with its private key, in PEM.
        pub key: String = New;
    }
}

list!(TlsCertificate, CERTIFICATES_MAX, "certificate", "key");

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    V13,
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// No.
    None,
    /// They are, and may have none; one that they show must be good.
    Optional,
    /// Who has none that is good is not served.
    Required,
}

/// Which part of a client's certificate is its user's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientUser {
    /// None: certificates only let in.
    None,
    /// The subject's common name.
    CommonName,
    /// The first DNS name among the alternative names.
    Dns,
    /// The first address of mail there.
    Email,
    /// The first URI there, as SPIFFE has it.
    Uri,
}
