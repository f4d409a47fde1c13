//! What the programs of the cookbook share: a local server to talk to, and a client for it.

mod server;

pub use server::Server;

/// An HTTP client with a pool of connections; make one a program and share it.
///
/// # Panics
/// When the system has no room for one more client.
#[must_use]
pub fn client() -> reqwest::Client {
    // Fails only when it was installed before, which is as good.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    reqwest::Client::builder().build().expect("the system has room for a client")
}
