//! What of `[tls]` and of the addresses does not go together.

use std::net::SocketAddr;

use super::{Checks, check_listen};
use crate::config::{ClientAuth, ClientUser, Config};

impl Config {
    pub(super) fn check_tls(&self, checks: &mut Checks) {
        let tls = &self.tls;
        check_listen("tls.listen", &tls.listen.0, checks);
        check_apart(
            ("server.listen", &self.server.listen.0),
            ("tls.listen", &tls.listen.0),
            checks,
        );
        self.check_own_addresses(checks);
        let certificates = tls.certificates.len();
        let asks = self.tls_addresses().map(|(key, _)| key).next();
        let key = asks.clone().unwrap_or_default();
        checks.check(
            asks.is_none() || certificates > 0,
            &[&key, "tls.certificates"],
            || format!("{key} needs a certificate: at least one entry of [[tls.certificates]]"),
        );
        let files = tls.certificates.iter().enumerate().flat_map(|(n, pair)| {
            [
                (
                    format!("tls.certificates[{n}].certificate"),
                    &pair.certificate,
                ),
                (format!("tls.certificates[{n}].key"), &pair.key),
            ]
        });
        let client_ca = tls
            .client_ca
            .iter()
            .map(|ca| ("tls.client_ca".to_owned(), ca));
        for (key, file) in files.chain(client_ca) {
            checks.check(!file.is_empty(), &[&key], || {
                format!("{key} must name a file in PEM, such as \"certificate.pem\"")
            });
        }
        let asks = tls.client_auth != ClientAuth::None;
        checks.check(
            !asks || tls.client_ca.is_some(),
            &["tls.client_auth", "tls.client_ca"],
            || {
                "tls.client_auth needs tls.client_ca: the file with the certificates of who may \
                 issue clients' certificates"
                    .to_owned()
            },
        );
        checks.check(
            asks || tls.client_user == ClientUser::None,
            &["tls.client_user", "tls.client_auth"],
            || {
                "tls.client_user needs tls.client_auth = \"optional\" or \"required\": nobody is \
                 asked for a certificate otherwise"
                    .to_owned()
            },
        );
    }

    /// Every address of encrypted connections, with the key that names it.
    fn tls_addresses(&self) -> impl Iterator<Item = (String, SocketAddr)> {
        let own = self.cores.iter().flat_map(|(core, own)| {
            let listen = own.tls_listen.iter().flat_map(|listen| &listen.0);
            listen.map(move |address| (format!("cores.{core}.tls_listen"), *address))
        });
        let main = self.tls.listen.0.iter();
        main.map(|address| ("tls.listen".to_owned(), *address))
            .chain(own)
    }

    fn check_own_addresses(&self, checks: &mut Checks) {
        for (core, own) in &self.cores {
            let key = |name: &str, is_own: bool| match (name, is_own) {
                (_, true) => format!("cores.{core}.{name}"),
                ("listen", false) => "server.listen".to_owned(),
                _ => "tls.listen".to_owned(),
            };
            let plain = key("listen", own.listen.is_some());
            let tls = key("tls_listen", own.tls_listen.is_some());
            let config = self.core(*core);
            if own.listen.is_some() {
                check_listen(&plain, &config.listen, checks);
            }
            if own.tls_listen.is_some() {
                check_listen(&tls, &config.tls_listen, checks);
            }
            let is_anywhere = !config.listen.is_empty() || !config.tls_listen.is_empty();
            checks.check(is_anywhere, &[&plain, &tls], || {
                format!(
                    "{plain} must name at least one address, such as \"0.0.0.0:8080\", unless \
                     {tls} does"
                )
            });
            check_apart((&plain, &config.listen), (&tls, &config.tls_listen), checks);
        }
    }
}

/// An address can't be both plain and encrypted.
fn check_apart(plain: (&str, &[SocketAddr]), tls: (&str, &[SocketAddr]), checks: &mut Checks) {
    for address in tls.1 {
        // Port 0 is another free one each time.
        let is_both = address.port() != 0 && plain.1.contains(address);
        checks.check(!is_both, &[tls.0, plain.0], || {
            format!(
                "{} names {address}, which {} has for plain connections",
                tls.0, plain.0
            )
        });
    }
}
