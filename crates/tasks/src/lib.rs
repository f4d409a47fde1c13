//! The built-in tasks of Taskloom: `http`, `data` and `email`.
//!
//! They are tasks like any other, and need no code: their arguments are one JSON object, and
//! every field but the few that say *what* to do has a default. From Rust, the same arguments are
//! types with builders: [`HttpArgs`], [`DataArgs`], [`EmailArgs`].
//!
//! # Trust
//! Whoever may submit these jobs makes the node fetch addresses, read and write files and send
//! mail with the rights of its process. Leave the entries out where that is not wanted.

pub mod data;
pub mod email;
pub mod http;
mod span;

use taskloom_dispatch::Entry;

pub use data::{Data, DataArgs, DataOutput};
pub use email::{Email, EmailArgs, EmailOutput};
pub use http::{Http, HttpArgs, HttpOutput};
pub use span::Span;

/// Every built-in task, in its default configuration.
#[must_use]
pub fn entries() -> Vec<Entry> {
    vec![
        Entry::of(Http::default()),
        Entry::of_blocking(Data::default()),
        Entry::of(Email::default()),
    ]
}

/// Installs the TLS provider of the process, unless the program has chosen one already.
fn install_tls_provider() {
    // An error says that a provider is installed, which is all that is wanted.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_built_in_tasks_have_the_names_of_their_modules() {
        let names: Vec<_> = super::entries().iter().map(|it| it.name.to_string()).collect();
        assert_eq!(names, ["http", "data", "email"]);
    }
}
