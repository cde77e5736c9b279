//! `tidegate dev-cert`: a self-signed certificate with its key, for trying TLS out.
//!
//! What it prints is a configuration, the advice in it as comments: it may be kept as it is.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls_pki_types::DnsName;

/// What is asked for.
#[derive(Debug, clap::Args)]
pub(super) struct DevCertArgs {
    /// Hosts and addresses that it is for, beside localhost, 127.0.0.1 and ::1.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The directory for dev-cert.pem and dev-key.pem.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// For how many days it is good.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Replace what is there.
    #[arg(long)]
    force: bool,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum DevCertError {
    /// The operator's name for the host.
    #[error(
        "{0:?} is neither an address nor a host's name; expected one such as \"dev.example.com\" \
         or \"192.0.2.7\" (other than ASCII as `xn--…`)"
    )]
    Name(String),
    /// The operator's files.
    #[error("{} is there already; --force replaces it", .0.display())]
    Exists(PathBuf),
    /// The environment's.
    #[error("{}: this can't be written: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system has no randomness, or the like.
    #[error("making the certificate: {0}")]
    Make(#[from] rcgen::Error),
}

impl DevCertError {
    /// Whether the operator's input is to blame, and not the environment.
    pub(super) const fn is_usage(&self) -> bool {
        matches!(self, Self::Name(_) | Self::Exists(_))
    }
}

/// Writes both files; gives the configuration that names them.
///
/// # Errors
/// If a name is none, a file is there already, or it can't be written.
pub(super) fn run(args: &DevCertArgs) -> Result<String, DevCertError> {
    let names = names(&args.names)?;
    let certificate = args.out.join(CERTIFICATE);
    let key = args.out.join(KEY);
    if !args.force {
        for path in [&certificate, &key] {
            if path.symlink_metadata().is_ok() {
                return Err(DevCertError::Exists(path.clone()));
            }
        }
    }
    let (certificate_pem, key_pem) = make(&names, args.days)?;
    // A gateway that watches them sees a pair that fits only once both are there.
    put(&key, &key_pem, 0o600, args.force)?;
    put(&certificate, &certificate_pem, 0o644, args.force)?;
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Ok(advice(
        &names,
        args.days,
        &absolute(&certificate),
        &absolute(&key),
    ))
}

const CERTIFICATE: &str = "dev-cert.pem";
const KEY: &str = "dev-key.pem";

/// The usual names and those given, each once.
fn names(given: &[String]) -> Result<Vec<String>, DevCertError> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"]
        .map(str::to_owned)
        .to_vec();
    for name in given {
        let host = name.strip_prefix("*.").unwrap_or(name);
        let is_name = name.parse::<IpAddr>().is_ok() || DnsName::try_from(host).is_ok();
        if !is_name {
            return Err(DevCertError::Name(name.clone()));
        }
        let name = name.to_ascii_lowercase();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// A certificate for `names` that is good for `days` days from now, and its key, both in PEM.
fn make(names: &[String], days: u32) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "tidegate dev-cert");
    // An end and not an authority: whoever trusts it trusts nothing that its key might sign.
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = rcgen::date_time_ymd(1970, 1, 1) + since.unwrap_or_default();
    // Clocks differ.
    params.not_before = now - Duration::from_secs(3600);
    params.not_after = now + DAY * days;
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Puts a file in its place in one step, so that nobody ever reads half of it.
fn put(path: &Path, text: &str, mode: u32, replace: bool) -> Result<(), DevCertError> {
    let wrong = |source| DevCertError::Write {
        path: path.to_owned(),
        source,
    };
    let mut draft = path.to_owned().into_os_string();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    let placed = written.and_then(|()| {
        if replace {
            fs::rename(&draft, path)
        } else {
            // Unlike a rename it replaces nothing that has come meanwhile.
            fs::hard_link(&draft, path)
        }
    });
    let _ = fs::remove_file(&draft);
    placed.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => DevCertError::Exists(path.to_owned()),
        _ => wrong(source),
    })
}

fn advice(names: &[String], days: u32, certificate: &Path, key: &Path) -> String {
    let quoted = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
    let (quoted_cert, key) = (quoted(certificate), quoted(key));
    let cert = certificate.display();
    let names = names.join(", ");
    format!(
        "# A certificate for trying TLS out: nobody has vouched for it. It is good for {days} days, for
# {names}.
# Its key is readable by you alone. As a configuration:

[tls]
listen = \"127.0.0.1:8443\"

[[tls.certificates]]
certificate = {quoted_cert}
key = {key}

# Or without a file:
#
#   tidegate --demo --set tls.listen=127.0.0.1:8443 \\
#     --set 'tls.certificates=[{{certificate={quoted_cert}, key={key}}}]'
#
# Clients have to be told to trust it:
#
#   curl --cacert {cert} https://localhost:8443/healthz
#   NODE_EXTRA_CA_CERTS={cert} npx wscat -c wss://localhost:8443/ws
#   SSL_CERT_FILE={cert} python3 -m websockets wss://localhost:8443/ws
#
# A browser asks once, at https://localhost:8443/, whether to go on; or import the certificate
# among those of servers that it trusts.
"
    )
}
