//! Lines and messages off the wire, within bounds.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

use super::session::MESSAGE_MAX;

/// The longest command line, in bytes with its end. RFC 5321 asks for 512, extensions add to it.
const LINE_MAX: u64 = 2048;

/// A message, or that it was not kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// As the client meant it: without the dots that protect dots.
    Message(Vec<u8>),
    /// It was read to its end and dropped.
    TooBig,
}

/// The next command, without its end; `None` when the client hung up.
///
/// # Errors
/// `InvalidData` for a line over [`LINE_MAX`].
///
/// # Cancel safety
/// Not safe: what was read of the line is lost.
pub(super) async fn read_line(
    reader: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    reader.take(LINE_MAX).read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        if line.is_empty() {
            return Ok(None);
        }
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is cut or too long"));
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()))
}

/// The message up to the dot on a line of its own. A line ends with CR LF; a lone LF is text, so
/// that nobody can end a message in the middle with one.
///
/// # Errors
/// `UnexpectedEof` when the client hung up before the end.
///
/// # Cancel safety
/// Not safe: what was read of the message is lost.
pub(super) async fn read_message(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Received> {
    let mut message = Vec::new();
    let mut piece = Vec::new();
    let mut is_too_big = false;
    // The two bytes before the piece.
    let mut before = *b"\r\n";
    loop {
        piece.clear();
        reader.take(LINE_MAX).read_until(b'\n', &mut piece).await?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = match piece.strip_prefix(b".").filter(|_| before == *b"\r\n") {
            Some(b"\r\n") => break,
            Some(unprotected) => unprotected,
            None => &piece,
        };
        is_too_big |= MESSAGE_MAX < message.len() + text.len();
        if is_too_big {
            message = Vec::new();
        } else {
            message.extend_from_slice(text);
        }
        before = match piece[..] {
            [.., last_but_one, last] => [last_but_one, last],
            [last] => [before[1], last],
            [] => before,
        };
    }
    Ok(if is_too_big { Received::TooBig } else { Received::Message(message) })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check_message(wire: &str, expected: &str) {
        let mut reader = wire.as_bytes();
        let received = read_message(&mut reader).await.unwrap();
        assert_eq!(received, Received::Message(expected.as_bytes().to_vec()), "{wire:?}");
        assert_eq!(reader, b"QUIT\r\n", "what follows the message stays to be read");
    }

    #[tokio::test]
    async fn dots_that_protect_dots_are_taken_away() {
        check_message(".\r\nQUIT\r\n", "").await;
        check_message("a\r\n..\r\n..b\r\n.c\r\n.\r\nQUIT\r\n", "a\r\n.\r\n.b\r\nc\r\n").await;
    }

    #[tokio::test]
    async fn only_a_dot_between_two_ends_of_line_ends_a_message() {
        check_message("a\n.\r\nb\n.\nc\r\n.\r\nQUIT\r\n", "a\n.\r\nb\n.\nc\r\n").await;
        let long = "x".repeat(usize::try_from(LINE_MAX).unwrap());
        check_message(&format!("{long}.\r\n.\r\nQUIT\r\n"), &format!("{long}.\r\n")).await;
        // Its end lies across two pieces.
        let long = &long[1..];
        check_message(&format!("{long}\r\n..\r\n.\r\nQUIT\r\n"), &format!("{long}\r\n.\r\n")).await;
    }

    #[tokio::test]
    async fn a_message_over_the_bound_is_read_to_its_end_and_dropped() {
        let wire = format!("{}.\r\nQUIT\r\n", "0123456789abcd\r\n".repeat(MESSAGE_MAX / 16 + 1));
        let mut reader = wire.as_bytes();
        assert_eq!(read_message(&mut reader).await.unwrap(), Received::TooBig);
        assert_eq!(read_line(&mut reader).await.unwrap().as_deref(), Some("QUIT"));
    }

    #[tokio::test]
    async fn a_message_cut_short_is_an_error() {
        let error = read_message(&mut b"a\r\n".as_slice()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let long = "x".repeat(usize::try_from(LINE_MAX).unwrap() + 1);
        read_line(&mut long.as_bytes()).await.unwrap_err();
    }
}
