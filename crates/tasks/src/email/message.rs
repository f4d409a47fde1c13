//! A message as it is sent: addresses, bodies, attachments.

use std::path::Path;

use lettre::Message;
use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::{Body, Mailbox, MultiPart, SinglePart};
use taskloom_dispatch::TaskError;
use tokio::io::AsyncReadExt;

use super::args::{Attachment, EmailArgs, refused};

/// The message, and its `Message-ID`.
///
/// # Cancel safety
/// Safe: it only reads files.
pub(super) async fn build(
    args: EmailArgs,
    idempotency_key: &str,
) -> Result<(Message, String), TaskError> {
    let from = mailbox("from", &args.from)?;
    let n_recipients = args.to.len() + args.cc.len() + args.bcc.len();
    if !(1..=EmailArgs::RECIPIENTS_MAX).contains(&n_recipients) {
        let max = EmailArgs::RECIPIENTS_MAX;
        return Err(refused(format!("a message has 1 to {max} recipients, not {n_recipients}")));
    }
    let message_id = message_id(idempotency_key, &from);
    let mut builder =
        Message::builder().message_id(Some(message_id.clone())).subject(args.subject).from(from);
    for to in &args.to {
        builder = builder.to(mailbox("to", to)?);
    }
    for cc in &args.cc {
        builder = builder.cc(mailbox("cc", cc)?);
    }
    for bcc in &args.bcc {
        builder = builder.bcc(mailbox("bcc", bcc)?);
    }
    if let Some(reply_to) = &args.reply_to {
        builder = builder.reply_to(mailbox("reply_to", reply_to)?);
    }
    let body = Text::of(args.text, args.html)?;
    let attached = read_attachments(args.attachments).await?;
    let message = match (body, attached.is_empty()) {
        (Text::Single(part), true) => builder.singlepart(part),
        (Text::Alternative(parts), true) => builder.multipart(parts),
        (body, false) => {
            let mixed = match body {
                Text::Single(part) => MultiPart::mixed().singlepart(part),
                Text::Alternative(parts) => MultiPart::mixed().multipart(parts),
            };
            builder.multipart(attached.into_iter().fold(mixed, MultiPart::singlepart))
        }
    };
    let message = message.map_err(|error| refused(format!("the message can't be: {error}")))?;
    Ok((message, message_id))
}

fn mailbox(field: &str, text: &str) -> Result<Mailbox, TaskError> {
    text.parse().map_err(|error| {
        TaskError::permanent(format!("`{field}`: `{text}` is no address: {error}"))
            .code("email.address")
    })
}

/// `<key@domain>`, where the key is the same for every attempt of a job.
fn message_id(idempotency_key: &str, from: &Mailbox) -> String {
    let is_atom = |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | '.');
    let key: String =
        idempotency_key.chars().map(|it| if is_atom(it) { it } else { '-' }).collect();
    format!("<{}@{}>", key.trim_matches('.'), from.email.domain())
}

enum Text {
    Single(SinglePart),
    Alternative(MultiPart),
}

impl Text {
    fn of(text: Option<String>, html: Option<String>) -> Result<Text, TaskError> {
        match (text, html) {
            (Some(text), None) => Ok(Text::Single(SinglePart::plain(text))),
            (None, Some(html)) => Ok(Text::Single(SinglePart::html(html))),
            (Some(text), Some(html)) => {
                Ok(Text::Alternative(MultiPart::alternative_plain_html(text, html)))
            }
            (None, None) => Err(refused("a message needs `text` or `html`")),
        }
    }
}

async fn read_attachments(attachments: Vec<Attachment>) -> Result<Vec<SinglePart>, TaskError> {
    let mut parts = Vec::new();
    let mut n_bytes = 0;
    for attachment in attachments {
        let named = attachment.path.as_deref().and_then(Path::file_name);
        let named = named.map(|it| it.to_string_lossy().into_owned());
        let filename = attachment
            .filename
            .or(named)
            .ok_or_else(|| refused("an attached text needs a `filename`"))?;
        let (content, default_type) = match (attachment.path, attachment.text) {
            (Some(path), None) => (read_file(&path).await?, "application/octet-stream"),
            (None, Some(text)) => (text.into_bytes(), "text/plain; charset=utf-8"),
            _ => return Err(refused("an attachment has a `path` or a `text`, and not both")),
        };
        n_bytes += content.len() as u64;
        if EmailArgs::ATTACHED_BYTES_MAX < n_bytes {
            let message = "the attachments are longer than 10 MiB together";
            return Err(TaskError::permanent(message).code("email.too_large"));
        }
        let content_type = attachment.content_type.as_deref().unwrap_or(default_type);
        let content_type = ContentType::parse(content_type)
            .map_err(|_| refused(format!("`{content_type}` is no content type")))?;
        // Other encodings would change the ends of lines, which are part of a file.
        let content = Body::new_with_encoding(content, ContentTransferEncoding::Base64)
            .map_err(|_| refused(format!("`{filename}` can't be encoded")))?;
        parts.push(lettre::message::Attachment::new(filename).body(content, content_type));
    }
    Ok(parts)
}

/// A file, or as much of it as shows that it is too long.
async fn read_file(path: &Path) -> Result<Vec<u8>, TaskError> {
    let fail = |error: std::io::Error| {
        TaskError::permanent(format!("{}: {error}", path.display())).code("email.attachment")
    };
    let file = tokio::fs::File::open(path).await.map_err(fail)?;
    let mut content = Vec::new();
    let mut file = file.take(EmailArgs::ATTACHED_BYTES_MAX + 1);
    file.read_to_end(&mut content).await.map_err(fail)?;
    Ok(content)
}
