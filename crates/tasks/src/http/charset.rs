//! Which encoding a body is in, and its text.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

/// How far into a page its `<meta charset>` is looked for, as browsers do.
const META_BYTES: usize = 1024;

/// The text of `bytes`. The encoding is that of a byte order mark, else that of `content_type`,
/// else that of a `<meta>`, else UTF-8 when the bytes are that, else windows-1252. What can't be
/// decoded becomes U+FFFD.
pub(super) fn decode(bytes: &[u8], content_type: Option<&str>) -> String {
    let encoding = content_type
        .and_then(of_content_type)
        .or_else(|| of_meta(bytes))
        .unwrap_or_else(|| if is_utf8(bytes) { UTF_8 } else { WINDOWS_1252 });
    encoding.decode(bytes).0.into_owned()
}

fn of_content_type(content_type: &str) -> Option<&'static Encoding> {
    let mut parameters = content_type.split(';').skip(1);
    let label = parameters.find_map(|it| {
        let (name, value) = it.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    })?;
    Encoding::for_label(label.as_bytes())
}

fn of_meta(bytes: &[u8]) -> Option<&'static Encoding> {
    let head = &bytes[..bytes.len().min(META_BYTES)];
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    head.match_indices("<meta").find_map(|(start, _)| {
        let tag = &head[start..];
        let tag = &tag[..tag.find('>').unwrap_or(tag.len())];
        let value = tag[tag.find("charset")?..].strip_prefix("charset")?.trim_start();
        let value = value.strip_prefix('=')?.trim_start().trim_start_matches(['"', '\'']);
        let end = value.find(['"', '\'', ' ', ';', '/']).unwrap_or(value.len());
        let encoding = Encoding::for_label(&value.as_bytes()[..end])?;
        // A page whose `<meta>` could be read as ASCII is not in UTF-16, whatever it says.
        Some(if encoding.is_ascii_compatible() { encoding } else { UTF_8 })
    })
}

/// Whether `bytes` are UTF-8, perhaps cut off within a character.
fn is_utf8(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).map_or_else(|error| error.error_len().is_none(), |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_decode(bytes: &[u8], content_type: Option<&str>, expected: &str) {
        assert_eq!(decode(bytes, content_type), expected);
    }

    #[test]
    fn the_header_names_the_encoding() {
        check_decode(b"caf\xe9", Some("text/html; charset=ISO-8859-1"), "café");
        check_decode(b"\x83e\x83X\x83g", Some("text/html;charset=\"Shift_JIS\""), "テスト");
        check_decode(b"\xef\xbb\xbfx", Some("text/html; charset=ISO-8859-1"), "x");
    }

    #[test]
    fn a_meta_names_the_encoding_when_the_header_does_not() {
        check_decode(b"<meta charset=koi8-r>\xd4", Some("text/html"), "<meta charset=koi8-r>т");
        let page = b"<META http-equiv=x content='text/html; charset=windows-1251'>\xfe";
        assert!(decode(page, None).ends_with('ю'));
        check_decode("<meta charset=utf-16>é".as_bytes(), None, "<meta charset=utf-16>é");
    }

    #[test]
    fn bytes_that_name_nothing_are_utf8_if_they_can_be() {
        check_decode("naïve".as_bytes(), None, "naïve");
        check_decode(b"na\xefve", None, "naïve");
    }
}
