//! A private PostgreSQL server of a test.

use taskloom::torture::{Durability, PrivateServer};

/// The server, and the address of a new database on it.
pub(crate) fn server() -> (PrivateServer, String) {
    let started = PrivateServer::start(&std::env::temp_dir(), Durability::None);
    let server = started.unwrap_or_else(|why| panic!("{why}"));
    let url = server.database().unwrap_or_else(|why| panic!("{why}"));
    (server, url)
}
