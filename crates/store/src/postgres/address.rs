//! Addresses: which hosts, and how they are reached.

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
#[cfg(feature = "tls")]
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Result;
use crate::StoreError;

/// How long the operating system may take to reach one host, unless the address says otherwise.
const REACH_MAX: Duration = Duration::from_secs(3);

/// Where the server is, and how it is reached.
pub(super) struct Target {
    /// One for each host of the address, in its order: each gets its own time to answer.
    pub(super) hosts: Vec<Config>,
    /// What TLS is asked for, when it is.
    #[cfg(feature = "tls")]
    pub(super) tls: Option<(TlsWish, MakeRustlsConnect)>,
    /// Whether a pooler gives each transaction another connection to the server.
    pub(super) is_pooled: bool,
    /// A setting that connections are made with, which PgBouncer does not let through.
    pub(super) mark: Option<(&'static str, &'static str)>,
}

/// Of no consequence while the store is opened, and set by every session that does more.
const MARK: (&str, &str) = ("plan_cache_mode", "force_generic_plan");

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("address", &self.address()).finish_non_exhaustive()
    }
}

/// What is looked at in the certificate of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Nothing, unless an authority is named.
    Nothing,
    /// Who signed it.
    Authority,
    /// That, and which host it is for.
    Host,
}

/// What an address asks of TLS.
#[derive(Debug, Clone)]
pub(super) struct TlsWish {
    pub(super) check: Check,
    pub(super) root: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

/// The settings of an address that the client library does not know, or knows less of.
#[derive(Debug)]
struct Settings {
    mode: SslMode,
    tls: TlsWish,
    pooler: Pooler,
}

/// Whether PgBouncer stands between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pooler {
    /// Nobody said so.
    Unknown,
    /// In session mode: all is as without it.
    Session,
    /// In transaction mode.
    Transaction,
}

impl Settings {
    /// Takes our settings out of an address, and returns what is left of it.
    fn take(url: &str) -> Option<(String, Settings)> {
        let tls = TlsWish { check: Check::Nothing, root: None, certificate: None, key: None };
        let mut found = Settings { mode: SslMode::Prefer, tls, pooler: Pooler::Unknown };
        let Some((place, query)) = url.split_once('?') else {
            return Some((url.to_owned(), found));
        };
        let mut left = Vec::new();
        for setting in query.split('&').filter(|it| !it.is_empty()) {
            let (name, value) = setting.split_once('=')?;
            let value = percent_decode_str(value).decode_utf8().ok()?;
            let path = || Some(PathBuf::from(&*value));
            match name {
                "sslmode" => (found.mode, found.tls.check) = mode(&value)?,
                "sslrootcert" => found.tls.root = path(),
                "sslcert" => found.tls.certificate = path(),
                "sslkey" => found.tls.key = path(),
                "pgbouncer" => {
                    found.pooler = match &*value {
                        "true" => Pooler::Transaction,
                        "session" => Pooler::Session,
                        _ => return None,
                    }
                }
                _ => left.push(setting),
            }
        }
        let left = left.join("&");
        let url = if left.is_empty() { place.to_owned() } else { format!("{place}?{left}") };
        Some((url, found))
    }
}

fn mode(name: &str) -> Option<(SslMode, Check)> {
    Some(match name {
        "disable" => (SslMode::Disable, Check::Nothing),
        "allow" | "prefer" => (SslMode::Prefer, Check::Nothing),
        "require" => (SslMode::Require, Check::Nothing),
        "verify-ca" => (SslMode::Require, Check::Authority),
        "verify-full" => (SslMode::Require, Check::Host),
        _ => return None,
    })
}

impl Target {
    /// Reads an address of the kind `postgres://USER@HOST,HOST/DATABASE?name=value`.
    pub(super) fn parse(url: &str) -> Result<Target> {
        let not_understood = || StoreError::Url { url: without_password(url) };
        let (rest, settings) = Settings::take(url).ok_or_else(not_understood)?;
        let mut config: Config = rest.parse().map_err(|_| not_understood())?;
        config.ssl_mode(settings.mode);
        if config.get_application_name().is_none() {
            config.application_name("taskloom");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(REACH_MAX);
        }
        config.keepalives_idle(Duration::from_secs(30));
        config.tcp_user_timeout(Duration::from_secs(30));
        let is_pooled = settings.pooler == Pooler::Transaction;
        let mark = (settings.pooler == Pooler::Unknown).then_some(MARK);
        if let Some((name, value)) = mark {
            let options = config.get_options().map_or_else(String::new, |it| format!("{it} "));
            config.options(format!("{options}-c {name}={value}"));
        }
        let hosts = each_host(&config);
        #[cfg(feature = "tls")]
        {
            let has_tls = settings.mode != SslMode::Disable;
            let tls = match has_tls {
                true => Some((settings.tls.clone(), super::tls::connector(&settings.tls)?)),
                false => None,
            };
            Ok(Target { hosts, tls, is_pooled, mark })
        }
        #[cfg(not(feature = "tls"))]
        {
            if settings.mode == SslMode::Require {
                let why = "this build has no TLS, which sslmode asks for; build with the feature \
                           `tls`, or use a Unix socket or a tunnel";
                return Err(StoreError::Denied { why: why.into() });
            }
            Ok(Target { hosts, is_pooled, mark })
        }
    }

    /// The first host and the database, for people, without what is secret.
    pub(super) fn address(&self) -> String {
        let Some(config) = self.hosts.first() else { return String::new() };
        let host = match config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            #[cfg(unix)]
            Some(Host::Unix(folder)) => folder.display().to_string(),
            None => config.get_hostaddrs().first().map_or_else(String::new, ToString::to_string),
        };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let database = config.get_dbname().or(config.get_user()).unwrap_or("");
        format!("postgres://{host}:{port}/{database}")
    }
}

/// `config` for each of its hosts alone.
fn each_host(config: &Config) -> Vec<Config> {
    let n = config.get_hosts().len().max(config.get_hostaddrs().len());
    let ports = config.get_ports();
    let alone = |place: usize| {
        let mut alone = without_hosts(config);
        match config.get_hosts().get(place) {
            Some(Host::Tcp(name)) => drop(alone.host(name)),
            // As libpq: what passes through a Unix socket needs no TLS.
            #[cfg(unix)]
            Some(Host::Unix(folder)) => drop(alone.host_path(folder).ssl_mode(SslMode::Disable)),
            None => {}
        }
        if let Some(at) = config.get_hostaddrs().get(place) {
            alone.hostaddr(*at);
        }
        if let Some(port) = ports.get(place).or(ports.first()) {
            alone.port(*port);
        }
        alone
    };
    (0..n).map(alone).collect()
}

fn without_hosts(config: &Config) -> Config {
    let mut other = Config::new();
    if let Some(user) = config.get_user() {
        other.user(user);
    }
    if let Some(password) = config.get_password() {
        other.password(password);
    }
    if let Some(database) = config.get_dbname() {
        other.dbname(database);
    }
    if let Some(options) = config.get_options() {
        other.options(options);
    }
    if let Some(name) = config.get_application_name() {
        other.application_name(name);
    }
    if let Some(max) = config.get_connect_timeout() {
        other.connect_timeout(*max);
    }
    if let Some(max) = config.get_tcp_user_timeout() {
        other.tcp_user_timeout(*max);
    }
    if let Some(every) = config.get_keepalives_interval() {
        other.keepalives_interval(every);
    }
    if let Some(n) = config.get_keepalives_retries() {
        other.keepalives_retries(n);
    }
    other.keepalives(config.get_keepalives());
    other.keepalives_idle(config.get_keepalives_idle());
    other.ssl_mode(config.get_ssl_mode());
    other.ssl_negotiation(config.get_ssl_negotiation());
    other.target_session_attrs(config.get_target_session_attrs());
    other.channel_binding(config.get_channel_binding());
    other
}

/// An address without what stands between `:` and `@`.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "(not a URL)".into() };
    let Some((user, place)) = rest.rsplit_once('@') else { return url.to_owned() };
    let user = user.split(':').next().unwrap_or("");
    format!("{scheme}://{user}@{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        let shown = without_password("postgres://me:p@ss@host/db");
        assert_eq!(shown, "postgres://me@host/db");
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn tls_that_is_required_is_refused_and_not_left_out() {
        let refused = Target::parse("postgres://host/db?sslmode=require").unwrap_err();
        assert_eq!(refused.code(), "store.denied");
    }

    #[test]
    fn what_an_address_does_not_mean_is_refused() {
        for wrong in ["sslmode=sometimes", "pgbouncer=maybe", "sslmode", "no_such=1"] {
            let refused = Target::parse(&format!("postgres://me:secret@host/db?{wrong}"));
            let error = refused.unwrap_err();
            assert_eq!(error.code(), "store.url", "{wrong}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn each_host_gets_its_port() {
        let target = Target::parse("postgres://me@one:7,two:8/db").unwrap();
        let ports: Vec<_> = target.hosts.iter().map(|it| it.get_ports().to_vec()).collect();
        assert_eq!(ports, [[7], [8]]);
        assert_eq!(target.address(), "postgres://one:7/db");
        let target = Target::parse("postgres://me@one,two/db").unwrap();
        assert_eq!(target.hosts.len(), 2);
    }
}
