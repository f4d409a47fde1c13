//! TLS to a private server, with certificates made here.
#![cfg(all(unix, feature = "tls"))]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use taskloom_store::conformance::PrivateServer;
use taskloom_store::postgres::{PostgresOptions, PostgresStore};
use taskloom_store::{NewJob, Store, StoreError};

/// A server that does TLS, and a folder with certificates: `ca.pem` has signed the server's and
/// `client.pem`, `other.pem` has signed nothing.
struct Place {
    server: PrivateServer,
    folder: tempfile::TempDir,
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Issuer {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes a certificate for `name` and its key.
fn write_signed(folder: &Path, (file, name): (&str, &str), by: &Issuer) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.signed_by(&key, by).unwrap();
    std::fs::write(folder.join(format!("{file}.pem")), certificate.pem()).unwrap();
    std::fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
}

impl Place {
    /// A server whose certificate is for `host`.
    fn new(host: &str) -> Place {
        let server = PrivateServer::start_on_tcp(&std::env::temp_dir(), &[]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let authority_of_server = authority();
        std::fs::write(folder.path().join("ca.pem"), authority_of_server.pem()).unwrap();
        std::fs::write(folder.path().join("other.pem"), authority().pem()).unwrap();
        write_signed(folder.path(), ("server", host), &authority_of_server);
        write_signed(folder.path(), ("client", "app"), &authority_of_server);
        let place = Place { server, folder };
        for (file, setting) in [
            ("server.pem", "ssl_cert_file"),
            ("server.key", "ssl_key_file"),
            ("ca.pem", "ssl_ca_file"),
        ] {
            let kept = place.server.folder().join("data").join(file);
            // The server accepts a key that only its user may read, and its user is the folder's.
            std::fs::copy(place.folder.path().join(file), &kept).unwrap();
            let owner = std::fs::metadata(place.server.folder()).unwrap();
            let owner = std::os::unix::fs::MetadataExt::uid(&owner);
            std::os::unix::fs::chown(&kept, Some(owner), None).unwrap();
            std::fs::set_permissions(&kept, PermissionsExt::from_mode(0o600)).unwrap();
            place.server.set(setting, Some(file)).unwrap();
        }
        place.server.set("ssl", Some("on")).unwrap();
        place.server.database().unwrap();
        place
    }

    fn open(&self, host: &str, settings: &str) -> Result<PostgresStore, StoreError> {
        let settings = settings.replace("DIR", &self.folder.path().display().to_string());
        let port = self.server.port();
        let url = format!("postgres://postgres@{host}:{port}/db0?{settings}");
        PostgresStore::open(&url, PostgresOptions::default())
    }

    #[track_caller]
    fn check_refused(&self, settings: &str, words: &str) {
        let error = self.open("localhost", settings).expect_err(settings);
        assert_eq!(error.code(), "store.denied", "{settings}: {error}");
        assert!(error.to_string().contains(words), "{settings}: {error}");
    }

    /// How many connections of the store are encrypted, and how many are not.
    fn encrypted(&self) -> String {
        let sql = "SELECT count(*) FILTER (WHERE ssl) > 0, count(*) FILTER (WHERE NOT ssl) \
             FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
             WHERE application_name = 'taskloom'";
        self.server.psql("db0", sql).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_encrypted_and_the_server_is_checked_as_asked() {
    let place = Place::new("localhost");
    for settings in [
        "sslmode=require",
        "sslmode=prefer",
        "sslmode=require&sslrootcert=DIR/ca.pem",
        "sslmode=verify-ca&sslrootcert=DIR/ca.pem",
        "sslmode=verify-full&sslrootcert=DIR/ca.pem",
    ] {
        let store = place.open("localhost", settings).expect(settings);
        store.submit(vec![NewJob::new("echo", "{}")]).await.unwrap();
        assert_eq!(place.encrypted(), "t|0", "{settings}");
    }
    let plain = place.open("localhost", "sslmode=disable").unwrap();
    plain.submit(vec![NewJob::new("echo", "{}")]).await.unwrap();
    assert!(place.encrypted().starts_with("f|"), "{}", place.encrypted());
}

#[test]
fn a_server_that_an_unknown_authority_signed_is_refused() {
    let place = Place::new("localhost");
    for mode in ["require", "verify-ca", "verify-full"] {
        let settings = format!("sslmode={mode}&sslrootcert=DIR/other.pem");
        place.check_refused(&settings, "no authority of sslrootcert=");
    }
    place.check_refused("sslmode=verify-full", "need sslrootcert=FILE");
    place.check_refused("sslmode=verify-ca&sslrootcert=DIR/none.pem", "none.pem");
}

#[test]
fn a_certificate_for_another_host_is_refused_only_when_the_host_is_checked() {
    let place = Place::new("db.example.com");
    place.check_refused(
        "sslmode=verify-full&sslrootcert=DIR/ca.pem",
        "name the host as its certificate does",
    );
    place.open("localhost", "sslmode=verify-ca&sslrootcert=DIR/ca.pem").unwrap();
}

#[test]
fn a_server_without_tls_is_refused_when_it_is_required() {
    let place = Place::new("localhost");
    place.server.set("ssl", Some("off")).unwrap();
    // The setting is read a moment after it is made.
    while place.server.psql("db0", "SHOW ssl").unwrap() != "off" {}
    place.check_refused("sslmode=require", "turn `ssl` on");
    place.open("localhost", "sslmode=prefer").unwrap();
}

#[test]
fn a_client_shows_its_certificate() {
    let place = Place::new("localhost");
    place.server.psql("db0", "CREATE ROLE app LOGIN SUPERUSER").unwrap();
    let rules = "local all all trust\nhostssl all app all cert\n";
    std::fs::write(place.server.folder().join("data/pg_hba.conf"), rules).unwrap();
    place.server.psql("db0", "SELECT pg_reload_conf()").unwrap();
    let address = |settings: &str| {
        let folder = place.folder.path().display();
        let settings = settings.replace("DIR", &folder.to_string());
        format!("postgres://app@localhost:{}/db0?sslmode=require&{settings}", place.server.port())
    };
    let open = |settings| PostgresStore::open(&address(settings), PostgresOptions::default());
    let refused = open("").expect_err("no certificate was shown");
    assert_eq!(refused.code(), "store.denied", "{refused}");
    open("sslcert=DIR/client.pem&sslkey=DIR/client.key").unwrap();
    let refused = open("sslcert=DIR/client.pem").err().unwrap();
    assert!(refused.to_string().contains("belong together"), "{refused}");
}
