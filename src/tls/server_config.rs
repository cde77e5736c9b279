//! From `[tls]` and the files it names to what rustls serves connections with.
//!
//! [`Material`] is what the files hold, read and checked; [`Serving`] is what workers get of it, and
//! what must outlive a reload: the keys of session tickets. Both are made by the control side; a worker
//! is handed a finished [`ServerConfig`] and opens no file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rustls::{
    Error, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{
        NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    version::{TLS12, TLS13},
};
use rustls_pki_types::CertificateDer;

use super::{
    identity::{Identity, Part, parse, untimely},
    pem,
    resolver::Resolver,
    tickets,
};
use crate::{
    base::limits::ISSUER_HINTS_BYTES_MAX,
    config::{ClientAuth, Tls, TlsVersion},
};

/// What a key of the configuration is to blame for. The text follows the key's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Such as `tls.certificates[0].key`.
    pub key: String,
    /// The value, and what is wrong with what it leads to.
    pub message: String,
}

/// Everything that TLS is served with, read and checked.
#[derive(Clone, Debug)]
pub struct Material {
    settings: Tls,
    identities: Vec<Identity>,
    client_ca: Vec<CertificateDer<'static>>,
    verifier: Arc<dyn ClientCertVerifier>,
    warnings: Vec<String>,
}

impl Material {
    /// Reads the files that `settings` name; `base` is where relative paths begin. None if no
    /// certificate is named.
    ///
    /// # Errors
    /// Everything that is wrong, each with the key that leads to it.
    pub fn load(settings: &Tls, base: &Path) -> Result<Option<Self>, Vec<Fault>> {
        Self::load_as_of(settings, base, unix_time())
    }

    fn load_as_of(settings: &Tls, base: &Path, now: i64) -> Result<Option<Self>, Vec<Fault>> {
        if settings.certificates.is_empty() {
            return Ok(None);
        }
        let provider = provider();
        let (mut identities, mut faults, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
        for (n, pair) in settings.certificates.iter().enumerate() {
            let files = (base.join(&pair.certificate), base.join(&pair.key));
            match Identity::load(&files.0, &files.1, &provider, now) {
                Ok(identity) => {
                    let told = identity.warnings.iter();
                    let name = &pair.certificate;
                    warnings
                        .extend(told.map(|one| format!("tls.certificates[{n}] ({name}): {one}")));
                    identities.push(identity);
                }
                Err(errors) => faults.extend(errors.into_iter().map(|(part, error)| {
                    let (name, given, path) = match part {
                        Part::Certificate => ("certificate", &pair.certificate, &files.0),
                        Part::Key => ("key", &pair.key, &files.1),
                    };
                    let key = format!("tls.certificates[{n}].{name}");
                    Fault::new(key, given, path, &error.to_string())
                })),
            }
        }
        let asked = settings.client_ca.as_ref();
        let asked = asked.filter(|_| settings.client_auth != ClientAuth::None);
        let mut client_ca = Vec::new();
        let mut verifier = WebPkiClientVerifier::no_client_auth();
        if let Some(given) = asked {
            let path = base.join(given);
            let read = read_issuers(&path, now).and_then(|(issuers, told)| {
                warnings.extend(
                    told.iter()
                        .map(|one| format!("tls.client_ca ({given}): {one}")),
                );
                verifier = make_verifier(&issuers, settings.client_auth, &provider)?;
                Ok(issuers)
            });
            match read {
                Ok(issuers) => client_ca = issuers,
                Err(reason) => {
                    faults.push(Fault::new(
                        "tls.client_ca".to_owned(),
                        given,
                        &path,
                        &reason,
                    ));
                }
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Some(Self {
            settings: settings.clone(),
            identities,
            client_ca,
            verifier,
            warnings,
        }))
    }

    /// What clients may take offence at, each with its key and file.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The certificates, in order.
    pub fn identities(&self) -> &[Identity] {
        &self.identities
    }

    /// When the first of the servers' certificates expires, in seconds of Unix time.
    pub fn expires_at(&self) -> i64 {
        let ends = self.identities.iter().map(|one| one.validity.1);
        ends.min().unwrap_or_default()
    }

    /// Whether connections would be served just alike.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.identities, &other.identities);
        self.settings == other.settings
            && self.client_ca == other.client_ca
            && ours.len() == theirs.len()
            && ours.iter().zip(theirs).all(|(a, b)| a.is_same_as(b))
    }

    /// Whether a client that `other` let in would be let in by this one, too, and a ticket of it may
    /// be good here.
    fn trusts_as(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.settings, &other.settings);
        ours.client_auth == theirs.client_auth
            && ours.ticket_lifetime == theirs.ticket_lifetime
            && self.client_ca == other.client_ca
    }
}

impl Fault {
    fn new(key: String, given: &str, path: &Path, reason: &str) -> Self {
        let shown = path.display().to_string();
        let place = if shown.trim_start_matches("./") == given.trim_start_matches("./") {
            String::new()
        } else {
            format!(" ({shown})")
        };
        Self {
            key,
            message: format!("= {given:?}{place}: {reason}"),
        }
    }
}

/// The directories in which a change may concern what `settings` name: those of the paths, and those
/// of the files that links lead to.
pub fn directories(settings: &Tls, base: &Path) -> Vec<PathBuf> {
    let pairs = settings.certificates.iter();
    let files = pairs.flat_map(|pair| [&pair.certificate, &pair.key]);
    let mut directories = Vec::new();
    for file in files.chain(&settings.client_ca) {
        let path = base.join(file);
        let real = path.canonicalize().ok();
        for path in [Some(path), real].into_iter().flatten() {
            let Some(parent) = path.parent() else {
                continue;
            };
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            if !directories.iter().any(|known| known == parent) {
                directories.push(parent.to_owned());
            }
        }
    }
    directories
}

/// What is served with now.
#[derive(Clone, Debug)]
pub struct Serving {
    material: Material,
    tickets: Option<Arc<dyn ProducesTickets>>,
    config: Arc<ServerConfig>,
}

impl Serving {
    /// Serves with `material`, and with keys of tickets that nobody has seen.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn new(material: Material) -> Result<Self, Error> {
        let lifetime = material.settings.ticket_lifetime.0.as_secs();
        let tickets = tickets::keys(lifetime)?;
        Self::with(material, tickets)
    }

    /// Serves with `material` from now on. Clients' tickets stay good, unless others are trusted now
    /// than when they were made.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn replaced_by(&self, material: Material) -> Result<Self, Error> {
        if material.trusts_as(&self.material) {
            Self::with(material, self.tickets.clone())
        } else {
            Self::new(material)
        }
    }

    fn with(material: Material, tickets: Option<Arc<dyn ProducesTickets>>) -> Result<Self, Error> {
        let config = build(&material, tickets.clone())?;
        Ok(Self {
            material,
            tickets,
            config: Arc::new(config),
        })
    }

    /// What new connections are served with.
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// What it was made of.
    pub fn material(&self) -> &Material {
        &self.material
    }
}

fn build(
    material: &Material,
    tickets: Option<Arc<dyn ProducesTickets>>,
) -> Result<ServerConfig, Error> {
    let versions: &[&SupportedProtocolVersion] = match material.settings.min_version {
        TlsVersion::V12 => &[&TLS13, &TLS12],
        TlsVersion::V13 => &[&TLS13],
    };
    let resolver = Resolver::new(&material.identities);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(Arc::clone(&material.verifier))
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Tickets alone: a cache of sessions would be shared by the cores, and fill with every scan.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    if let Some(tickets) = tickets {
        config.ticketer = tickets;
        // Each connection brings the one for the next.
        config.send_tls13_tickets = 1;
    }
    // No early data (RFC 8446 §8): it can be replayed by who recorded it, and a request that opens a
    // WebSocket, joins a room and is seen by others must not be carried out twice.
    config.max_early_data_size = 0;
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Certificates of who may issue clients' ones, and what is to be said of them.
fn read_issuers(
    path: &Path,
    now: i64,
) -> Result<(Vec<CertificateDer<'static>>, Vec<String>), String> {
    let text = pem::read(path).map_err(|error| error.to_string())?;
    let issuers = pem::certificates(&text).map_err(|error| error.to_string())?;
    let mut warnings = Vec::new();
    for (number, der) in (1..).zip(&issuers) {
        let issuer = parse(der).map_err(|reason| {
            format!("certificate {number} in it can't be understood: {reason}")
        })?;
        if !issuer.is_ca() {
            // A client's certificate put there by mistake would let in that client alone.
            warnings.push(format!("certificate {number} is not one of an authority"));
        }
        warnings.extend(untimely(number, &issuer, now));
    }
    Ok((issuers, warnings))
}

fn make_verifier(
    issuers: &[CertificateDer<'static>],
    auth: ClientAuth,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for (number, issuer) in (1..).zip(issuers) {
        let added = roots.add(issuer.clone());
        added.map_err(|error| format!("certificate {number} in it can't be trusted: {error}"))?;
    }
    let hints: usize = roots
        .subjects()
        .iter()
        .map(|name| name.as_ref().len() + 2)
        .sum();
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if hints > ISSUER_HINTS_BYTES_MAX {
        builder = builder.clear_root_hint_subjects();
    }
    if auth == ClientAuth::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| error.to_string())
}

fn unix_time() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests;
