//! The arguments of `email`, and what they say of the server.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use taskloom_dispatch::TaskError;

use crate::Span;

/// How the connection to the server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    /// Not at all. A password is then refused unless the host is this machine.
    None,
    /// By STARTTLS when the server offers it. A password is never sent without.
    Starttls,
    /// By STARTTLS, or not sent at all.
    #[default]
    RequiredStarttls,
    /// By TLS from the first byte.
    Implicit,
}

/// A file that travels with a message: give `path` or `text`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Attachment {
    /// The file on the node that is attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The text that is attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What it is called. Default: the name of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// What it is. Default: `text/plain` for a text, `application/octet-stream` for a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
}

impl Attachment {
    /// Attaches a file of the node.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Attachment { path: Some(path.into()), ..Attachment::default() }
    }

    /// Attaches a text.
    pub fn text(filename: impl Into<String>, text: impl Into<String>) -> Self {
        let (filename, text) = (Some(filename.into()), Some(text.into()));
        Attachment { text, filename, ..Attachment::default() }
    }
}

/// The arguments of the task `email`. Addresses are `ann@example.com` or `Ann <ann@example.com>`.
///
/// ```
/// use taskloom_tasks::EmailArgs;
///
/// let args = EmailArgs::new("smtp.example.com", "Shop <shop@example.com>", "ann@example.com")
///     .subject("Your order")
///     .text("It is on its way.")
///     .login_env("shop", "SMTP_PASSWORD");
/// assert_eq!(args.to, ["ann@example.com"]);
/// ```
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmailArgs {
    /// The SMTP server.
    pub host: String,
    /// Its port. Default: 465 with implicit TLS, 25 without any, else 587.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How the connection is protected: `none`, `starttls`, `required-starttls` or `implicit`.
    /// Default: `required-starttls`.
    pub tls: Tls,
    /// A file on the node with certificates (PEM) that are trusted besides those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The name to log in with. Default: no login.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password. It is stored with the job, as all arguments are: prefer `password_env`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The environment variable of the node that holds the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_env: Option<String>,
    /// Whom it is from.
    pub from: String,
    /// Whom it is to. `to`, `cc` and `bcc` together name from 1 to 1,000 recipients.
    pub to: Vec<String>,
    /// Who gets a copy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cc: Vec<String>,
    /// Who gets a copy that the others don't see.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bcc: Vec<String>,
    /// Where answers go. Default: to `from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The subject.
    pub subject: String,
    /// The text. `text`, `html`, or both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The same as HTML.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// What travels with it: at most 10 MiB together.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// How long the server may take for each of its answers. Default: 60 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
}

impl std::fmt::Debug for EmailArgs {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmailArgs")
            .field("host", &self.host)
            .field("from", &self.from)
            .field("to", &self.to)
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

impl EmailArgs {
    /// How many recipients a message has at most.
    pub const RECIPIENTS_MAX: usize = 1_000;
    /// How long attachments are together at most, in bytes.
    pub const ATTACHED_BYTES_MAX: u64 = 10 << 20;

    /// A message from one to another by that server.
    pub fn new(host: impl Into<String>, from: impl Into<String>, to: impl Into<String>) -> Self {
        let (host, from, to) = (host.into(), from.into(), vec![to.into()]);
        EmailArgs { host, from, to, ..EmailArgs::default() }
    }

    /// Says which port the server has.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Says how the connection is protected.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Logs in with the password that the environment variable `password_env` holds.
    #[must_use]
    pub fn login_env(
        mut self,
        username: impl Into<String>,
        password_env: impl Into<String>,
    ) -> Self {
        self.username = Some(username.into());
        self.password_env = Some(password_env.into());
        self
    }

    /// Adds somebody who gets a copy.
    #[must_use]
    pub fn cc(mut self, address: impl Into<String>) -> Self {
        self.cc.push(address.into());
        self
    }

    /// Adds somebody who gets a copy that the others don't see.
    #[must_use]
    pub fn bcc(mut self, address: impl Into<String>) -> Self {
        self.bcc.push(address.into());
        self
    }

    /// Says where answers go.
    #[must_use]
    pub fn reply_to(mut self, address: impl Into<String>) -> Self {
        self.reply_to = Some(address.into());
        self
    }

    /// Gives the subject.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    /// Gives the text.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// Gives the HTML.
    #[must_use]
    pub fn html(mut self, html: impl Into<String>) -> Self {
        self.html = Some(html.into());
        self
    }

    /// Attaches something.
    #[must_use]
    pub fn attach(mut self, attachment: Attachment) -> Self {
        self.attachments.push(attachment);
        self
    }
}

/// How the server is reached.
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Tls,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) login: Option<(String, String)>,
    pub(super) timeout: Duration,
}

impl EmailArgs {
    /// Checks what they say of the server; every error is permanent.
    pub(super) fn check(&self) -> Result<Server, TaskError> {
        if self.host.is_empty() {
            return Err(refused("`host` names no server"));
        }
        let password = match (&self.password, &self.password_env) {
            (Some(_), Some(_)) => {
                return Err(refused("give `password` or `password_env`, not both"));
            }
            (Some(password), None) => Some(password.clone()),
            (None, Some(variable)) => Some(std::env::var(variable).map_err(|_| {
                refused(format!("the environment variable `{variable}` is not set"))
            })?),
            (None, None) => None,
        };
        let login = match (&self.username, password) {
            (Some(username), Some(password)) => Some((username.clone(), password)),
            (None, None) => None,
            (Some(_), None) => return Err(refused("`username` needs a password")),
            (None, Some(_)) => return Err(refused("a password needs a `username`")),
        };
        let is_here = matches!(self.host.as_str(), "localhost" | "127.0.0.1" | "::1");
        if login.is_some() && self.tls == Tls::None && !is_here {
            return Err(refused("a password is not sent over the net without TLS"));
        }
        let port = self.port.unwrap_or(match self.tls {
            Tls::None => 25,
            Tls::Starttls | Tls::RequiredStarttls => 587,
            Tls::Implicit => 465,
        });
        let timeout = self.timeout.map_or(Duration::from_secs(60), |it| it.0);
        let (host, ca_file) = (self.host.clone(), self.ca_file.clone());
        Ok(Server { host, port, tls: self.tls, ca_file, login, timeout })
    }
}

/// The error of arguments that can't be.
pub(super) fn refused(why: impl Into<String>) -> TaskError {
    TaskError::permanent(why).code("email.args")
}
