//! The title of an HTML page.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};

use lol_html::html_content::{Element, TextChunk};
use lol_html::{ElementContentHandlers, HtmlRewriter, Selector, Settings};

/// How much is parsed at a time: most titles stand in the first piece.
const PIECE_BYTES: usize = 4096;

/// The first title of a page with any text: entities decoded, white space collapsed. Parsing
/// stops there.
pub(super) fn find(page: &str) -> Option<String> {
    let text = RefCell::new(String::new());
    let is_drawing = Cell::new(false);
    let is_done = Cell::new(false);
    let titles = ElementContentHandlers::default()
        .element(|_: &mut Element<'_, '_>| {
            is_drawing.set(false);
            Ok(())
        })
        .text(|chunk: &mut TextChunk<'_>| {
            if !is_drawing.get() && !is_done.get() {
                text.borrow_mut().push_str(chunk.as_str());
                is_done.set(chunk.last_in_text_node() && !text.borrow().trim().is_empty());
            }
            Ok(())
        });
    // Called after the handler above: an SVG drawing may have titles too.
    let drawings = ElementContentHandlers::default().element(|_: &mut Element<'_, '_>| {
        is_drawing.set(true);
        Ok(())
    });
    let title: Selector = "title".parse().ok()?;
    let drawing: Selector = "svg title".parse().ok()?;
    let settings = Settings::new()
        .append_element_content_handler((Cow::Owned(title), titles))
        .append_element_content_handler((Cow::Owned(drawing), drawings));
    let mut rewriter = HtmlRewriter::new(settings, |_: &[u8]| ());
    for piece in page.as_bytes().chunks(PIECE_BYTES) {
        if rewriter.write(piece).is_err() || is_done.get() {
            break;
        }
    }
    drop(rewriter);
    let text = text.into_inner();
    let decoded = html_escape::decode_html_entities(&text);
    let title = decoded.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    (!title.is_empty()).then_some(title)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_title(page: &str, expected: Option<&str>) {
        assert_eq!(find(page).as_deref(), expected, "{page:.100}");
    }

    #[test]
    fn a_title_has_its_entities_decoded_and_its_spaces_collapsed() {
        check_title("<title>A &amp; B</title>", Some("A & B"));
        check_title(
            "<html><head><TITLE lang=en>\n  Fish\n &#38; &eacute;&#x2603; </TITLE>",
            Some("Fish & é☃"),
        );
        check_title("<title>1 < 2 <b>not bold</b></title>", Some("1 < 2 <b>not bold</b>"));
    }

    #[test]
    fn a_page_without_a_title_has_none() {
        check_title("", None);
        check_title("<p>no title", None);
        check_title("<title> </title>", None);
        check_title("<!-- <title>x</title> --><script>'<title>y</title>'</script>", None);
    }

    #[test]
    fn the_title_of_a_drawing_is_not_the_title_of_the_page() {
        check_title("<svg><title>logo</title></svg><title>page</title>", Some("page"));
    }

    #[test]
    fn a_title_across_pieces_is_whole() {
        for padding in 4080..4100 {
            let page = format!("<!--{}--><title>a&amp;é b</title>", "x".repeat(padding));
            check_title(&page, Some("a&é b"));
        }
    }
}
