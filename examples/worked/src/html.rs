//! What the programs read of an HTML page: its title, and its words.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};

use lol_html::html_content::{Element, TextChunk};
use lol_html::{ElementContentHandlers, HtmlRewriter, Selector, Settings};

/// How much is parsed at a time: most titles stand in the first piece.
const PIECE_BYTES: usize = 4096;

type Handlers<'h> = (Cow<'h, Selector>, ElementContentHandlers<'h>);

/// The first title of a page with any text: entities decoded, white space collapsed. Parsing
/// stops there.
#[must_use]
pub fn title(page: &str) -> Option<String> {
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
    parse(page, vec![(select("title"), titles), (select("svg title"), drawings)], &is_done);
    let title = words(&text.borrow());
    (!title.is_empty()).then_some(title)
}

/// How many words there are in the body.
#[must_use]
pub fn n_words(page: &str) -> usize {
    let text = RefCell::new(String::new());
    let body = ElementContentHandlers::default().text(|chunk: &mut TextChunk<'_>| {
        text.borrow_mut().push_str(chunk.as_str());
        if chunk.last_in_text_node() {
            text.borrow_mut().push(' '); // `<p>a</p><p>b</p>` is two words.
        }
        Ok(())
    });
    parse(page, vec![(select("body"), body)], &Cell::new(false));
    let text = words(&text.borrow());
    text.split(' ').filter(|it| !it.is_empty()).count()
}

fn select(selector: &str) -> Cow<'static, Selector> {
    Cow::Owned(selector.parse().expect("our selectors are selectors"))
}

/// Calls `handlers` with what they select, until `is_done`. A page too broken to go on with is read
/// as far as it goes.
fn parse(page: &str, handlers: Vec<Handlers<'_>>, is_done: &Cell<bool>) {
    let mut settings = Settings::new();
    for handler in handlers {
        settings = settings.append_element_content_handler(handler);
    }
    let mut rewriter = HtmlRewriter::new(settings, |_: &[u8]| ());
    for piece in page.as_bytes().chunks(PIECE_BYTES) {
        if rewriter.write(piece).is_err() || is_done.get() {
            return;
        }
    }
    rewriter.end().ok();
}

/// The words of a text with entities, each after one space.
fn words(text: &str) -> String {
    let decoded = html_escape::decode_html_entities(text);
    decoded.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_a_reader_sees() {
        assert_eq!(n_words("<title>no</title><body><p>a&nbsp;b</p><p>c <b>d</b></body>"), 4);
        assert_eq!(n_words("<body> </body>"), 0);
        assert_eq!(n_words(""), 0);
    }
}
