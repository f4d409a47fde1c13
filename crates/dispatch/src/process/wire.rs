//! What a node and its child say to each other: JSON behind its length, four bytes, big end first.

use std::io::{self, Read, Write};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use taskloom_flow::Panicked;
use taskloom_model::JobId;
use taskloom_store::PAYLOAD_MAX;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{CancelReason, LogLevel, Progress, TaskError, TaskErrorKind};

/// The longest message to a child, in bytes: arguments, whose limit the user sets.
pub(super) const TO_CHILD_MAX: usize = 256 * 1024 * 1024;
/// The longest message from a child, in bytes: a result, or an error with its backtrace.
pub(super) const FROM_CHILD_MAX: usize = PAYLOAD_MAX + 256 * 1024;

/// What a node says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToChild {
    Begin(Box<Begin>),
    Cancel(CancelReason),
}

/// An attempt.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Begin {
    pub(super) job: JobId,
    pub(super) queue: String,
    pub(super) attempt: u32,
    pub(super) max_attempts: u32,
    pub(super) time_left: Option<Duration>,
    /// The cap on the child's memory, in bytes.
    pub(super) memory: Option<u64>,
    pub(super) args: Box<RawValue>,
}

/// What a child says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromChild {
    /// It came to the task; the body begins.
    Begun,
    Log(LogLevel, String),
    Progress(Progress),
    End(End),
}

/// How the body ended.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) said: Said,
    /// The most memory the child held at a time, in bytes.
    pub(super) peak: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    Result(Box<RawValue>),
    Error { kind: Kind, message: String, code: Option<String>, retry_after: Option<Duration> },
    Panic { message: String, location: String, backtrace: String },
}

/// A [`TaskErrorKind`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Kind {
    Transient,
    Permanent,
    Snooze(Duration),
    Cancelled,
}

impl Said {
    pub(super) fn error(error: &TaskError) -> Said {
        Said::Error {
            kind: match error.kind() {
                TaskErrorKind::Transient => Kind::Transient,
                TaskErrorKind::Permanent => Kind::Permanent,
                TaskErrorKind::Snooze(delay) => Kind::Snooze(delay),
                TaskErrorKind::Cancelled => Kind::Cancelled,
            },
            message: error.message().to_owned(),
            code: error.code_str().map(str::to_owned),
            retry_after: error.retry_after_hint(),
        }
    }

    pub(super) fn into_said(self) -> crate::attempt::Said {
        match self {
            Said::Result(json) => Ok(Ok(json.get().to_owned())),
            Said::Panic { message, location, backtrace } => {
                Err(Panicked { message, location, backtrace })
            }
            Said::Error { kind, message, code, retry_after } => {
                let mut error = match kind {
                    Kind::Transient => TaskError::new(message),
                    Kind::Permanent => TaskError::permanent(message),
                    Kind::Snooze(delay) => TaskError::snooze(delay),
                    Kind::Cancelled => TaskError::cancelled(),
                };
                if let Some(code) = code {
                    error = error.code(code);
                }
                if let Some(delay) = retry_after {
                    error = error.retry_after(delay);
                }
                Ok(Err(error))
            }
        }
    }
}

/// Why a message could not be written or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("a message of {0} bytes is over the limit of {1}")]
    TooLong(usize, usize),
    #[error("a message breaks off")]
    Truncated,
    #[error("a message is not understood: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// A message as it goes over the wire.
pub(super) fn encode<T: Serialize>(message: &T, bytes_max: usize) -> Result<Vec<u8>, WireError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    match u32::try_from(length) {
        Ok(n) if length <= bytes_max => frame[..4].copy_from_slice(&n.to_be_bytes()),
        _ => return Err(WireError::TooLong(length, bytes_max)),
    }
    Ok(frame)
}

fn length_of(head: [u8; 4], bytes_max: usize) -> Result<usize, WireError> {
    let length = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
    if bytes_max < length { Err(WireError::TooLong(length, bytes_max)) } else { Ok(length) }
}

fn cut_off(error: io::Error) -> WireError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => WireError::Truncated,
        _ => WireError::Io(error),
    }
}

/// Reads one message of at most `bytes_max` bytes; `None` when the other side has gone between two.
pub(super) async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> Result<Option<T>, WireError> {
    let mut head = [0; 4];
    // A side that is killed with unread messages resets the connection: it is gone all the same.
    match from.read(&mut head).await {
        Ok(0) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        Ok(n) => from.read_exact(&mut head[n..]).await.map_err(cut_off)?,
        Err(error) => return Err(error.into()),
    };
    let mut body = vec![0; length_of(head, bytes_max)?];
    from.read_exact(&mut body).await.map_err(cut_off)?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// The same, on a thread.
pub(super) fn read_blocking<T: DeserializeOwned>(
    from: &mut impl Read,
    bytes_max: usize,
) -> Result<T, WireError> {
    let mut head = [0; 4];
    from.read_exact(&mut head).map_err(cut_off)?;
    let mut body = vec![0; length_of(head, bytes_max)?];
    from.read_exact(&mut body).map_err(cut_off)?;
    Ok(serde_json::from_slice(&body)?)
}

/// Writes one message to a node.
pub(super) fn write_blocking(to: &mut impl Write, message: &FromChild) -> Result<(), WireError> {
    to.write_all(&encode(message, FROM_CHILD_MAX)?)?;
    Ok(())
}
