//! What the process as a whole counts, beside its workers.

use crate::{base::counters::Counter, tls::server_config::Material};

/// Numbers of the process. Each has one writer.
#[derive(Debug, Default)]
pub struct ProcessCounters {
    /// Configurations taken up while running. Written by the reload's thread.
    pub reloads_total: Counter,
    /// Configurations refused while running. Written by the reload's thread.
    pub reload_failures_total: Counter,
    /// Certificates, keys and issuers of clients' certificates taken up while running. Written by
    /// the reload's thread.
    pub tls_reloads_total: Counter,
    /// When the first of the certificates that are served expires, in seconds of Unix time; 0 without
    /// TLS. Written at the start, then by the reload's thread.
    pub tls_certificate_expires_at: Counter,
}

impl ProcessCounters {
    /// Notes when the first certificate of `material` expires.
    pub fn set_expiry(&self, material: &Material) {
        let at = u64::try_from(material.expires_at()).unwrap_or(0);
        self.tls_certificate_expires_at.set(at);
    }

    /// Every counter's name and value.
    pub fn snapshot(&self) -> [(&'static str, u64); 4] {
        [
            ("reloads_total", self.reloads_total.get()),
            ("reload_failures_total", self.reload_failures_total.get()),
            ("tls_reloads_total", self.tls_reloads_total.get()),
            (
                "tls_certificate_expires_at",
                self.tls_certificate_expires_at.get(),
            ),
        ]
    }
}
