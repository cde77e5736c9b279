//! Which certificate a client gets, by the host that it asks for (RFC 6066 §3).
//!
//! Names are compared as they stand in certificates and in the client's hello: in ASCII, whatever the
//! case. An internationalised name is `xn--…` in both. Nothing is parsed or allocated for a name in
//! lower case.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use rustls::{
    SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::identity::Identity;

/// Certificates by name. The first of all serves who asks for no name, or for one that none has.
#[derive(Debug)]
pub struct Resolver {
    exact: Names,
    /// By what follows `*.`.
    wildcards: Names,
    all: Vec<Arc<CertifiedKey>>,
}

/// The hash is keyed: who asks chooses the name.
type Names = HashMap<Box<str>, Vec<Arc<CertifiedKey>>>;

impl Resolver {
    /// What serves `identities`, earlier ones first where several fit.
    pub fn new(identities: &[Identity]) -> Self {
        let (mut exact, mut wildcards) = (Names::new(), Names::new());
        for identity in identities {
            for name in &identity.names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut wildcards, rest),
                    None => (&mut exact, name.as_str()),
                };
                let known = names.entry(name.into()).or_default();
                if !known
                    .iter()
                    .any(|one| Arc::ptr_eq(one, &identity.certified))
                {
                    known.push(Arc::clone(&identity.certified));
                }
            }
        }
        let all = identities.iter().map(|one| Arc::clone(&one.certified));
        Self {
            exact,
            wildcards,
            all: all.collect(),
        }
    }

    /// The certificate for a client that asks for `name` and takes signatures of these kinds: of the
    /// name's own, then of its wildcard's, then of all the first that it can check. If there is none
    /// in the whole, the first: the handshake then says what is wrong.
    pub fn choose(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<&Arc<CertifiedKey>> {
        let (exact, wildcard) = match name.map(canonical) {
            Some(name) => (
                self.exact.get(name.as_ref()),
                // A star is one whole label (RFC 6125 §6.4.3).
                name.split_once('.')
                    .and_then(|(_, rest)| self.wildcards.get(rest)),
            ),
            None => (None, None),
        };
        let named = exact.into_iter().chain(wildcard).flatten();
        named
            .chain(&self.all)
            .find(|one| one.key.choose_scheme(schemes).is_some())
            .or_else(|| self.all.first())
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
            .cloned()
    }
}

/// A name in lower case and without the dot of the root.
fn canonical(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests;
