//! A server's certificate with its key: two files, read, held against each other, and kept as what
//! handshakes need, so that none of them reads or parses anything.
//!
//! It reads the files that it is given, once, and knows no configuration.

use std::{fmt, path::Path, sync::Arc};

use rustls::{
    Error, InconsistentKeys,
    crypto::CryptoProvider,
    sign::{CertifiedKey, SigningKey},
};
use rustls_pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, parse_x509_certificate, time::ASN1Time,
};

use super::pem::{self, PemError};

/// A certificate chain with its key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The DNS names that it is for, in lower case, wildcards among them.
    pub names: Vec<String>,
    /// From when it is good, and until when, in seconds of Unix time.
    pub validity: (i64, i64),
    /// The day on which it ends, for people.
    pub until: String,
    /// What handshakes sign with.
    pub certified: Arc<CertifiedKey>,
    /// What clients may take offence at.
    pub warnings: Vec<String>,
}

/// Which of the two files is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// That of the certificates.
    Certificate,
    /// That of the key.
    Key,
}

/// Why a certificate can't be served. The operator is to blame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file is not what it should be.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// A certificate that is none.
    #[error("certificate {number} in it can't be understood: {reason}")]
    Certificate {
        /// Which, from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A key of a kind or size that is not served with.
    #[error("this key can't be used: {0}; expected RSA of at least 2048 bits, ECDSA or Ed25519")]
    Key(Error),
    /// The files do not belong together.
    #[error("this key does not belong to the certificate{}", owner(.belongs_to))]
    Mismatch {
        /// The number of the certificate in the chain to which it does, from 1.
        belongs_to: Option<usize>,
    },
}

fn owner(belongs_to: &Option<usize>) -> String {
    match belongs_to {
        Some(n) => {
            format!(", which must come first in its file: the key is that of certificate {n} there")
        }
        None => String::new(),
    }
}

impl Identity {
    /// Reads both files, as of `now` in seconds of Unix time.
    ///
    /// # Errors
    /// Everything that is wrong with either, and of which.
    pub fn load(
        certificate: &Path,
        key: &Path,
        provider: &CryptoProvider,
        now: i64,
    ) -> Result<Self, Vec<(Part, IdentityError)>> {
        let chain = read_chain(certificate).map_err(|error| (Part::Certificate, error));
        let key = read_key(key, provider).map_err(|error| (Part::Key, error));
        match (chain, key) {
            (Ok(chain), Ok(key)) => {
                Self::new(chain, key, now).map_err(|(part, error)| vec![(part, error)])
            }
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(vec![error]),
            (Err(one), Err(other)) => Err(vec![one, other]),
        }
    }

    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Arc<dyn SigningKey>,
        now: i64,
    ) -> Result<Self, (Part, IdentityError)> {
        let facts = Facts::of(&chain, now).map_err(|error| (Part::Certificate, error))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) => {}
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                let belongs_to = owner_of(&certified);
                return Err((Part::Key, IdentityError::Mismatch { belongs_to }));
            }
            Err(error) => {
                let reason = error.to_string();
                let error = IdentityError::Certificate { number: 1, reason };
                return Err((Part::Certificate, error));
            }
        }
        Ok(Self {
            names: facts.names,
            validity: facts.validity,
            until: facts.until,
            certified: Arc::new(certified),
            warnings: facts.warnings,
        })
    }

    /// Whether both are the same certificates. Their keys are then the same, too.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert
    }
}

/// For people: the names, the kind of key and until when it is good.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = match self.names.as_slice() {
            [] => "no DNS name".to_owned(),
            some => some.join(", "),
        };
        let kind = self.certified.key.algorithm();
        write!(f, "{names}; {kind:?}; good until {}", self.until)
    }
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    Ok(pem::chain(&pem::read(path)?)?)
}

fn read_key(path: &Path, provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, IdentityError> {
    let key = pem::private_key(&pem::read(path)?)?;
    provider
        .key_provider
        .load_private_key(key)
        .map_err(IdentityError::Key)
}

/// Which certificate behind the first has the key that the first does not have.
fn owner_of(certified: &CertifiedKey) -> Option<usize> {
    let later = certified.cert.iter().skip(1);
    let fits = |certificate: &CertificateDer<'static>| {
        let alone = CertifiedKey::new(vec![certificate.clone()], Arc::clone(&certified.key));
        alone.keys_match().is_ok()
    };
    (2..).zip(later).find(|(_, one)| fits(one)).map(|(n, _)| n)
}

/// What a chain says of itself.
struct Facts {
    names: Vec<String>,
    validity: (i64, i64),
    until: String,
    warnings: Vec<String>,
}

impl Facts {
    fn of(chain: &[CertificateDer<'static>], now: i64) -> Result<Self, IdentityError> {
        let mut parsed = Vec::with_capacity(chain.len());
        for (number, der) in (1..).zip(chain) {
            let certificate =
                parse(der).map_err(|reason| IdentityError::Certificate { number, reason })?;
            parsed.push(certificate);
        }
        let own = &parsed[0];
        let names =
            dns_names(own).map_err(|reason| IdentityError::Certificate { number: 1, reason })?;
        let mut warnings = Vec::new();
        for (number, certificate) in (1..).zip(&parsed) {
            warnings.extend(untimely(number, certificate, now));
        }
        for (number, pair) in (2..).zip(parsed.windows(2)) {
            if pair[0].issuer() != pair[1].subject() {
                warnings.push(format!(
                    "certificate {number} of the chain did not issue the one before it: clients \
                     may find no way to their root"
                ));
            }
        }
        if names.is_empty() && !has_addresses(own) {
            let none = "the certificate names no host: clients will refuse it";
            warnings.push(none.to_owned());
        }
        let validity = own.validity();
        Ok(Self {
            names,
            until: day(validity.not_after),
            validity: (
                validity.not_before.timestamp(),
                validity.not_after.timestamp(),
            ),
            warnings,
        })
    }
}

/// A certificate, taken apart.
///
/// # Errors
/// With the reason, if it is none.
pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    match parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err("bytes follow its end".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// What is to be said of a certificate that is not good at this time.
pub(super) fn untimely(
    number: usize,
    certificate: &X509Certificate<'_>,
    now: i64,
) -> Option<String> {
    let validity = certificate.validity();
    let which = match number {
        1 => "the certificate".to_owned(),
        n => format!("certificate {n} of the file"),
    };
    if now > validity.not_after.timestamp() {
        let day = day(validity.not_after);
        return Some(format!("{which} expired on {day}"));
    }
    if now < validity.not_before.timestamp() {
        let day = day(validity.not_before);
        return Some(format!("{which} is good only from {day} on"));
    }
    None
}

fn day(time: ASN1Time) -> String {
    let time = time.to_datetime();
    let (year, month, day) = time.to_calendar_date();
    format!("{year:04}-{:02}-{day:02}", u8::from(month))
}

fn dns_names(certificate: &X509Certificate<'_>) -> Result<Vec<String>, String> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| error.to_string())?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Ok(names.collect())
}

fn has_addresses(certificate: &X509Certificate<'_>) -> bool {
    let names = certificate.subject_alternative_name().ok().flatten();
    names.is_some_and(|names| {
        let mut names = names.value.general_names.iter();
        names.any(|name| matches!(name, GeneralName::IPAddress(_)))
    })
}

#[cfg(test)]
mod tests;
