//! Files in PEM (RFC 7468): read with a bound, taken apart, and what is wrong in them told by line.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};

use crate::base::limits::{CERTIFICATE_CHAIN_MAX, PEM_FILE_BYTES_MAX};

/// What is wrong with a file. The operator is to blame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// It can't be opened or read.
    #[error("this can't be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is no such file, by its length.
    #[error("this file is longer than {PEM_FILE_BYTES_MAX} bytes")]
    TooLong,
    /// A section that can't be taken apart.
    #[error("line {line}: {what}")]
    Syntax {
        /// Where it begins, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// No certificate in it.
    #[error("there is no certificate in it{}; expected `-----BEGIN CERTIFICATE-----`", hint(.found))]
    NoCertificate {
        /// What there is instead.
        found: Found,
    },
    /// No key in it.
    #[error("there is no private key in it{}; expected `-----BEGIN PRIVATE KEY-----`", hint(.found))]
    NoKey {
        /// What there is instead.
        found: Found,
    },
    /// A key that only its passphrase opens.
    #[error(
        "line {line}: the key is encrypted, and nobody is there to type its passphrase; write it \
         without one, as by `openssl pkey -in FILE -out KEY.pem`"
    )]
    EncryptedKey {
        /// Where it begins, from 1.
        line: usize,
    },
    /// It is not clear which is meant.
    #[error("there are {0} private keys in it; expected one")]
    SeveralKeys(usize),
    /// More than are sent.
    #[error("there are {0} certificates in it; expected {CERTIFICATE_CHAIN_MAX} at most")]
    ChainTooLong(usize),
}

/// What a file holds that does not hold what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing in PEM.
    Nothing,
    /// Nothing in PEM, but bytes that may be DER.
    Der,
    /// Sections of these names.
    Sections(Vec<String>),
}

fn hint(found: &Found) -> String {
    match found {
        Found::Nothing => String::new(),
        Found::Der => ", and it looks like DER, not PEM".to_owned(),
        Found::Sections(names) => format!(", only {}", names.join(", ")),
    }
}

/// A part of a file between its two marks.
#[derive(Debug)]
struct Section<'a> {
    /// Where its first mark stands, from 1.
    line: usize,
    name: String,
    /// With both marks.
    text: &'a [u8],
}

/// A file's bytes, at most [`PEM_FILE_BYTES_MAX`] of them.
///
/// # Errors
/// If it can't be read, or is longer.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, PemError> {
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    // One more than allowed, to know of it.
    file.take(PEM_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > PEM_FILE_BYTES_MAX {
        return Err(PemError::TooLong);
    }
    Ok(bytes)
}

/// All certificates of a file, in order; at least one.
///
/// # Errors
/// If there is none, or one can't be taken apart.
pub(super) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let sections = sections(text)?;
    let mut certificates = Vec::new();
    for section in &sections {
        if section.name == "CERTIFICATE" {
            certificates.push(decode(section)?);
        }
    }
    if certificates.is_empty() {
        let found = found(text, &sections);
        return Err(PemError::NoCertificate { found });
    }
    Ok(certificates)
}

/// A chain as it is sent: all certificates of a file, not too many of them.
///
/// # Errors
/// As [`certificates`], or if there are too many.
pub(super) fn chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates = certificates(text)?;
    match certificates.len() {
        0..=CERTIFICATE_CHAIN_MAX => Ok(certificates),
        n => Err(PemError::ChainTooLong(n)),
    }
}

/// The one private key of a file, whatever else there is.
///
/// # Errors
/// If there is none or more than one, it is encrypted, or can't be taken apart.
pub(super) fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    let sections = sections(text)?;
    let mut keys = Vec::new();
    for section in &sections {
        if section.name.ends_with("PRIVATE KEY") {
            // RFC 1421 §4.6.1.1, as OpenSSL wrote it before PKCS #8.
            let is_old = section.text.windows(OLD_MARK.len()).any(|w| w == OLD_MARK);
            if section.name.starts_with("ENCRYPTED") || is_old {
                return Err(PemError::EncryptedKey { line: section.line });
            }
            if KEYS.contains(&section.name.as_str()) {
                keys.push(section);
            }
        }
    }
    match keys.as_slice() {
        [one] => decode(one),
        [] => Err(PemError::NoKey {
            found: found(text, &sections),
        }),
        several => Err(PemError::SeveralKeys(several.len())),
    }
}

const OLD_MARK: &[u8] = b"Proc-Type: 4,ENCRYPTED";
/// PKCS #8, PKCS #1 and SEC 1.
const KEYS: [&str; 3] = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];
const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// Takes a text apart. What stands between the sections is left out.
fn sections(text: &[u8]) -> Result<Vec<Section<'_>>, PemError> {
    let mut sections = Vec::new();
    let mut open: Option<(usize, String, usize)> = None;
    let mut at = 0;
    for (n, line) in (1..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
        let start = at;
        at += line.len();
        let line = line.trim_ascii();
        if let Some(name) = mark(line, BEGIN) {
            if let Some((line, name, _)) = open {
                return Err(unclosed(line, &name));
            }
            open = Some((n, name, start));
        } else if let Some(ended) = mark(line, END)
            && let Some((line, name, start)) = open.take()
        {
            if ended != name {
                return Err(unclosed(line, &name));
            }
            let text = &text[start..at];
            sections.push(Section { line, name, text });
        }
    }
    match open {
        Some((line, name, _)) => Err(unclosed(line, &name)),
        None => Ok(sections),
    }
}

fn mark(line: &[u8], kind: &[u8]) -> Option<String> {
    let name = line.strip_prefix(kind)?.strip_suffix(DASHES)?;
    Some(String::from_utf8_lossy(name).into_owned())
}

fn unclosed(line: usize, name: &str) -> PemError {
    PemError::Syntax {
        line,
        what: format!("`-----BEGIN {name}-----` is not followed by `-----END {name}-----`"),
    }
}

fn decode<T: PemObject>(section: &Section<'_>) -> Result<T, PemError> {
    T::from_pem_slice(section.text).map_err(|error| PemError::Syntax {
        line: section.line,
        what: match error {
            pem::Error::Base64Decode(_) => {
                format!(
                    "what `-----BEGIN {}-----` opens is not base64",
                    section.name
                )
            }
            other => other.to_string(),
        },
    })
}

fn found(text: &[u8], sections: &[Section<'_>]) -> Found {
    // DER of all of them begins with a sequence.
    match (sections, text.first()) {
        ([], Some(0x30)) => Found::Der,
        ([], _) => Found::Nothing,
        (some, _) => {
            let mut names: Vec<String> = some.iter().map(|one| one.name.clone()).collect();
            names.dedup();
            names.truncate(NAMES_TOLD_MAX);
            Found::Sections(names)
        }
    }
}

const NAMES_TOLD_MAX: usize = 4;
