//! Certificates for tests: authorities, and what they issue, as files.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::Server;

/// An authority that tests trust.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

/// A certificate with its key.
pub(crate) struct Issued {
    pub(crate) certificate: Certificate,
    pub(crate) key: KeyPair,
}

/// From when and until when, in seconds from now.
pub(crate) type Validity = (i64, i64);

/// A day before and after.
pub(crate) const NOW: Validity = (-86_400, 86_400);
/// It ended yesterday.
pub(crate) const EXPIRED: Validity = (-10 * 86_400, -86_400);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, NOW);
        let key = KeyPair::generate().expect("there is randomness");
        let certificate = params.self_signed(&key).expect("the parameters are valid");
        let issuer = Issuer::new(params, key);
        Self {
            issuer,
            certificate,
        }
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// For servers of these names.
    pub(crate) fn server(&self, names: &[&str], validity: Validity) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("they are names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params, validity)
    }

    /// For a client of this common name, with these alternative names.
    pub(crate) fn client(&self, name: &str, others: Vec<SanType>, validity: Validity) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = others;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, validity)
    }

    fn issue(&self, mut params: CertificateParams, validity: Validity) -> Issued {
        set_validity(&mut params, validity);
        let key = KeyPair::generate().expect("there is randomness");
        let certificate = params.signed_by(&key, &self.issuer);
        let certificate = certificate.expect("the parameters are valid");
        Issued { certificate, key }
    }
}

impl Issued {
    /// Writes `NAME.pem` and `NAME.key` into `directory`; each in one step, as renewers do.
    pub(crate) fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let certificate = directory.join(format!("{name}.pem"));
        let key = directory.join(format!("{name}.key"));
        replace(&key, &self.key.serialize_pem());
        replace(&certificate, &self.certificate.pem());
        (certificate, key)
    }
}

/// A gateway with an encrypted port, its certificate from an authority of its own.
pub(crate) struct Tls {
    pub(crate) server: Server,
    directory: PathBuf,
    /// Where encrypted clients connect.
    pub(crate) addr: SocketAddr,
}

impl Tls {
    /// Starts one, with `args` added to the command line.
    pub(crate) fn start(args: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tidegate-{}-tls-{n}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).expect("a temporary directory can be made");
        let authority = Authority::new("tests");
        replace(&directory.join("ca.pem"), &authority.pem());
        let names = ["localhost", "127.0.0.1"];
        let (certificate, key) = authority.server(&names, NOW).write(&directory, "server");
        let pair = format!("tls.certificates=[{{certificate={certificate:?}, key={key:?}}}]");
        let mut all = vec!["--set", "tls.listen=127.0.0.1:0", "--set", &pair];
        all.extend_from_slice(args);
        let server = Server::start(&all);
        let addr = server.banner.iter().find_map(|line| {
            let url = line.trim_start().strip_prefix("listening")?.trim();
            let host = url.strip_prefix("wss://")?.strip_suffix("/ws")?;
            host.parse().ok()
        });
        Self {
            addr: addr.expect("the banner tells the encrypted address"),
            server,
            directory,
        }
    }

    /// The base address that client programs take.
    pub(crate) fn url(&self) -> String {
        format!("wss://{}", self.addr)
    }

    /// The file with the certificate that clients are to trust.
    pub(crate) fn trusted(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// A path for a file of a test's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Replaces a file in one step.
pub(crate) fn replace(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, text).expect("the directory can be written");
    fs::rename(&draft, path).expect("a file can be renamed");
}

fn set_validity(params: &mut CertificateParams, (from, until): Validity) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = rcgen::date_time_ymd(1970, 1, 1) + now.expect("it is after 1970");
    let at = |seconds: i64| {
        let amount = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 {
            now - amount
        } else {
            now + amount
        }
    };
    params.not_before = at(from);
    params.not_after = at(until);
}
