//! The task `email`: hands one message to an SMTP server.
//!
//! A message carries a `Message-ID` that is the same for every attempt of its job, so that a
//! second copy, sent because the answer to the first was lost, is recognised as one.
//!
//! # Errors
//! Transient: `email.connect`, `email.timeout`, `email.tls` (a handshake that failed),
//! `email.transport` and the server's 4xx (`email.smtp.NNN`). Permanent: its 5xx, `email.auth`
//! (a refused login), `email.starttls` (required, and not offered), `email.args`,
//! `email.address`, `email.attachment` and `email.too_large`.

mod args;
mod message;
mod session;

use std::time::Instant;

use serde::{Deserialize, Serialize};
use taskloom_dispatch::{Ctx, Task, TaskError};

pub use args::{Attachment, EmailArgs, Tls};

use session::Session;

/// The task `email`.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Email {}

/// The result of the task `email`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EmailOutput {
    /// The `Message-ID`.
    pub message_id: String,
    /// How many recipients the server accepted, copies included.
    pub recipients: u64,
    /// The length of the message in bytes.
    pub bytes: u64,
    /// What the server said at last.
    pub response: String,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

impl Task for Email {
    const NAME: &'static str = "email";
    type Args = EmailArgs;
    type Output = EmailOutput;

    /// # Cancel safety
    /// Dropping it closes the connection; the server may have taken the message. A cancellation
    /// is honoured until the message itself is handed over.
    async fn run(&self, ctx: &Ctx, args: EmailArgs) -> Result<EmailOutput, TaskError> {
        let begun = Instant::now();
        let sender = args.check()?;
        let (message, message_id) = message::build(args, ctx.idempotency_key()).await?;
        let bytes = message.formatted();
        let opened = tokio::select! {
            biased;
            () = ctx.cancelled() => return Err(TaskError::cancelled()),
            opened = Session::open(&sender) => opened,
        };
        let response = opened?.send(message.envelope(), &bytes).await?;
        Ok(EmailOutput {
            message_id,
            recipients: message.envelope().to().len() as u64,
            bytes: bytes.len() as u64,
            response,
            ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }
}
