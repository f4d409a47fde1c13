//! A conversation with an SMTP server, and what its errors mean.

use std::error::Error as _;

use lettre::address::Envelope;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters,
};
use lettre::transport::smtp::extension::ClientId;
use taskloom_dispatch::TaskError;

use super::args::{Server, Tls, refused};

/// A connection on which a message can be sent.
pub(super) struct Session {
    connection: AsyncSmtpConnection,
    name: String,
}

impl Session {
    /// Connects, protects the connection, and logs in.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection; nothing was sent.
    pub(super) async fn open(server: &Server) -> Result<Session, TaskError> {
        let name = format!("{}:{}", server.host, server.port);
        let hello = ClientId::default();
        let tls = match server.tls {
            Tls::None => None,
            Tls::Starttls | Tls::RequiredStarttls | Tls::Implicit => {
                Some(tls_parameters(server).await?)
            }
        };
        let (implicit, starttls) = match server.tls {
            Tls::Implicit => (tls, None),
            Tls::None | Tls::Starttls | Tls::RequiredStarttls => (None, tls),
        };
        let address = (server.host.as_str(), server.port);
        let timeout = Some(server.timeout);
        // The timeout of the connection holds for each read, and not for the whole of a greeting
        // that never comes.
        let connecting =
            AsyncSmtpConnection::connect_tokio1(address, timeout, &hello, implicit, None);
        let connected = tokio::time::timeout(server.timeout, connecting).await;
        let connected = connected.map_err(|_| timed_out(&name, "connect"))?;
        let connection = connected.map_err(|it| of_smtp(&name, &it, "email.connect"))?;
        let mut session = Session { connection, name };
        if let Some(tls) = starttls {
            session.protect(server, tls, &hello).await?;
        }
        if let Some((username, password)) = &server.login {
            session.log_in(server, username, password).await?;
        }
        Ok(session)
    }

    async fn protect(
        &mut self,
        server: &Server,
        tls: TlsParameters,
        hello: &ClientId,
    ) -> Result<(), TaskError> {
        if self.connection.can_starttls() {
            let protected = self.connection.starttls(tls, hello).await;
            return protected.map_err(|it| of_smtp(&self.name, &it, "email.tls"));
        }
        if server.tls == Tls::RequiredStarttls || server.login.is_some() {
            let message = format!("{}: the server offers no STARTTLS", self.name);
            return Err(TaskError::permanent(message).code("email.starttls"));
        }
        Ok(())
    }

    async fn log_in(
        &mut self,
        server: &Server,
        username: &str,
        password: &str,
    ) -> Result<(), TaskError> {
        let credentials = Credentials::new(username.to_owned(), password.to_owned());
        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        let answered =
            tokio::time::timeout(server.timeout, self.connection.auth(&mechanisms, &credentials));
        let answered = answered.await.map_err(|_| timed_out(&self.name, "log in"))?;
        answered.map(drop).map_err(|error| {
            let task_error = of_smtp(&self.name, &error, "email.auth");
            // What is permanent here is that the server refuses the login, however it says so.
            if error.is_permanent() || error.is_client() {
                return task_error.into_permanent().code("email.auth");
            }
            task_error
        })
    }

    /// Hands a message over; the server has taken it once this returns `Ok`.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection; the server may have taken the message.
    pub(super) async fn send(
        mut self,
        envelope: &Envelope,
        message: &[u8],
    ) -> Result<String, TaskError> {
        let sent = self.connection.send(envelope, message).await;
        let response = sent.map_err(|error| of_smtp(&self.name, &error, "email.transport"))?;
        // The message is taken, so what becomes of the connection changes nothing.
        self.connection.quit().await.ok();
        let lines: Vec<&str> = response.message().collect();
        Ok(format!("{} {}", response.code(), lines.join(" ")))
    }
}

async fn tls_parameters(server: &Server) -> Result<TlsParameters, TaskError> {
    crate::install_tls_provider();
    let mut builder = TlsParameters::builder(server.host.clone());
    if let Some(path) = &server.ca_file {
        let pem = tokio::fs::read(path).await;
        let pem = pem.map_err(|error| refused(format!("`ca_file` {}: {error}", path.display())))?;
        let certificate = Certificate::from_pem(&pem)
            .map_err(|error| refused(format!("`ca_file` {}: {error}", path.display())))?;
        builder = builder.certificate_store(CertificateStore::Default);
        builder = builder.add_root_certificate(certificate);
    }
    builder.build().map_err(|error| TaskError::from(error).into_permanent().code("email.tls"))
}

fn timed_out(name: &str, doing: &str) -> TaskError {
    TaskError::new(format!("{name}: the server took too long to {doing}")).code("email.timeout")
}

/// The error of a step; `code` names the step, for what the server has not answered.
fn of_smtp(name: &str, error: &Error, code: &'static str) -> TaskError {
    let mut message = format!("{name}: {error}");
    if let Some(source) = error.source().map(ToString::to_string)
        && !message.contains(&source)
    {
        message = format!("{message}: {source}");
    }
    let task_error = TaskError::new(message);
    if let Some(status) = error.status() {
        let task_error = task_error.code(format!("email.smtp.{status}"));
        return if error.is_permanent() { task_error.into_permanent() } else { task_error };
    }
    if error.is_timeout() {
        return task_error.code("email.timeout");
    }
    if error.is_tls() {
        return task_error.code("email.tls");
    }
    if error.is_client() {
        return task_error.into_permanent().code("email.args");
    }
    task_error.code(code)
}
