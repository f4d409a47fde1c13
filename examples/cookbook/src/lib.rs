//! What the programs of the cookbook share: a local server to talk to and a client for it, and
//! databases of their own.

mod postgres;
mod process;
mod redis;
mod server;

pub use self::postgres::Postgres;
pub use self::redis::Redis;
pub use self::server::Server;

/// An HTTP client with a pool of connections; make one a program and share it.
///
/// # Panics
/// When the system has no room for one more client.
#[must_use]
pub fn client() -> reqwest::Client {
    client_builder().build().expect("the system has room for a client")
}

/// The same, to be given timeouts and limits of its own.
pub fn client_builder() -> reqwest::ClientBuilder {
    // Fails only when it was installed before, which is as good.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    reqwest::Client::builder()
}
