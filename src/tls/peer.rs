//! Who a client is by its certificate.
//!
//! The certificate has been verified when it is asked here: this only reads it, and trusts its text as
//! little as that of any request.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use super::identity::parse;
use crate::{base::limits::USER_NAME_BYTES_MAX, config::ClientUser};

/// Why a certificate names no user. The client, or who issued its certificate, is to blame; the text
/// is fit for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// It has been verified, and yet can't be read.
    #[error("the client's certificate can't be read")]
    Unreadable,
    /// There is no such name in it.
    #[error("the client's certificate has no {0} to take the user's name from")]
    Missing(&'static str),
    /// What is there can't be a user's name.
    #[error(
        "the {0} of the client's certificate is no user's name: expected 1 to 128 bytes without \
         control characters"
    )]
    Unusable(&'static str),
    /// It says that it is somebody else.
    #[error("`user` is not the name in the client's certificate")]
    Contradicted,
    /// It says who it is, where only a certificate can.
    #[error("`user` counts only with a certificate that proves it")]
    Unproven,
}

/// Who a client is that shows `certificate`, if any, and says that it is `claimed`.
///
/// Where users come from certificates, nothing else names one: what a client says of itself may only
/// repeat it, and a client without a certificate has no name. Else whoever shows none could take the
/// name of who does.
///
/// # Errors
/// If the certificate names no user, or something else is claimed than it proves.
pub fn user_of(
    certificate: Option<&CertificateDer<'_>>,
    from: ClientUser,
    claimed: Option<Arc<str>>,
) -> Result<Option<Arc<str>>, PeerError> {
    if from == ClientUser::None {
        return Ok(claimed);
    }
    let Some(certificate) = certificate else {
        return match claimed {
            None => Ok(None),
            Some(_) => Err(PeerError::Unproven),
        };
    };
    let proven = user(certificate, from)?;
    match (proven, claimed) {
        (Some(proven), Some(claimed)) if *proven == *claimed => Ok(Some(claimed)),
        (_, Some(_)) => Err(PeerError::Contradicted),
        (proven, None) => Ok(proven.map(Arc::from)),
    }
}

/// The user's name in a verified certificate; none if certificates only let in.
///
/// # Errors
/// If the part that is asked for is not there, or is no user's name.
pub fn user(
    certificate: &CertificateDer<'_>,
    from: ClientUser,
) -> Result<Option<String>, PeerError> {
    let part = match from {
        ClientUser::None => return Ok(None),
        ClientUser::CommonName => "common name",
        ClientUser::Dns => "DNS name",
        ClientUser::Email => "email address",
        ClientUser::Uri => "URI",
    };
    let certificate = parse(certificate).map_err(|_| PeerError::Unreadable)?;
    let name = if from == ClientUser::CommonName {
        // The most specific comes last (RFC 4514 §2.1). One in an encoding that is not text has no
        // name to give, and an earlier one must not step in its place.
        let name = certificate.subject().iter_common_name().last();
        name.map(|name| name.as_str().map_err(|_| PeerError::Unusable(part)))
            .transpose()?
    } else {
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| PeerError::Unreadable)?;
        let names = names.iter().flat_map(|names| &names.value.general_names);
        names
            .filter_map(|name| match (from, name) {
                (ClientUser::Dns, GeneralName::DNSName(name))
                | (ClientUser::Email, GeneralName::RFC822Name(name))
                | (ClientUser::Uri, GeneralName::URI(name)) => Some(*name),
                _ => None,
            })
            .next()
    };
    let name = name.ok_or(PeerError::Missing(part))?;
    let is_name = (1..=USER_NAME_BYTES_MAX).contains(&name.len());
    if !is_name || name.chars().any(char::is_control) {
        return Err(PeerError::Unusable(part));
    }
    Ok(Some(name.to_owned()))
}

#[cfg(test)]
mod tests;
