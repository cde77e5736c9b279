//! `[tls]`, and addresses that are plain or encrypted.

use super::*;

#[test]
fn what_of_tls_does_not_go_together_is_told() {
    let pair = "tls.certificates=[{certificate=\"c\", key=\"k\"}]";
    let listen = "tls.listen=127.0.0.1:8443";
    let cases: [(&[&str], &[&str]); 9] = [
        (
            &[listen],
            &["tls.listen needs a certificate: at least one entry of [[tls.certificates]]"],
        ),
        (
            &["cores.1.tls_listen=127.0.0.1:8443"],
            &["cores.1.tls_listen needs a certificate"],
        ),
        (
            &[pair, "tls.listen=[\"[::]:1\", \"[::]:1\"]"],
            &["tls.listen names [::]:1 twice"],
        ),
        (
            &[pair, "tls.listen=127.0.0.1:8080"],
            &["tls.listen names 127.0.0.1:8080, which server.listen has for plain connections"],
        ),
        (
            &[pair, listen, "cores.2.listen=127.0.0.1:8443"],
            &["tls.listen names 127.0.0.1:8443, which cores.2.listen has for plain connections"],
        ),
        (
            &["server.listen=[]"],
            &["server.listen must name at least one address"],
        ),
        (
            &[pair, listen, "server.listen=[]", "cores.0.tls_listen=[]"],
            &[
                "server.listen must name at least one address, such as \"0.0.0.0:8080\", unless \
               cores.0.tls_listen does",
            ],
        ),
        (
            &[
                "tls.client_auth=required",
                "tls.certificates=[{certificate=\"\", key=\"k\"}]",
            ],
            &[
                "tls.client_auth needs tls.client_ca",
                "tls.certificates[0].certificate must name a file in PEM",
            ],
        ),
        (
            &["tls.client_user=dns"],
            &["tls.client_user needs tls.client_auth = \"optional\" or \"required\""],
        ),
    ];
    for (settings, wanted) in cases {
        let told = contradictions(settings);
        for wanted in wanted {
            let told_of = told.iter().any(|one| one.contains(wanted));
            assert!(told_of, "{settings:?}: {wanted:?} not in {told:#?}");
        }
        assert_eq!(told.len(), wanted.len(), "{settings:?}: {told:#?}");
    }
}

#[test]
fn a_gateway_may_be_encrypted_alone_and_a_core_may_differ() {
    let config = with(&[
        "tls.certificates=[{certificate=\"c\", key=\"k\"}]",
        "tls.listen=127.0.0.1:8443",
        "server.listen=[]",
        "cores.1.tls_listen=[\"127.0.0.1:9\", \"127.0.0.1:0\"]",
        "tls.client_auth=optional",
        "tls.client_ca=ca.pem",
        "tls.client_user=common_name",
        "tls.min_version=1.3",
    ])
    .unwrap();
    assert_eq!(config.core(0).listen, []);
    assert_eq!(config.core(0).tls_listen, config.tls.listen.0);
    assert_eq!(config.core(1).tls_listen.len(), 2);
    assert_eq!(config.tls.min_version, TlsVersion::V13);
    assert_eq!(config.tls.client_user, ClientUser::CommonName);
}
