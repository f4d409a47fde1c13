//! What is written in an attribute: `key`, `key = literal`, `key(…)`, or a literal alone.
//! Nothing here knows which keys there are.

use proc_macro2::{Span, TokenStream};
use syn::ext::IdentExt as _;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned as _;
use syn::{Attribute, Expr, ExprLit, Ident, Lit, Meta, Token};

/// One thing that is said.
pub(crate) struct Setting {
    /// `None`: a literal alone.
    pub(crate) key: Option<Ident>,
    pub(crate) value: Value,
    /// Where to point when it is wrong as a whole.
    pub(crate) span: Span,
}

/// What is said of it.
pub(crate) enum Value {
    /// Nothing but the key.
    Flag,
    /// `= literal`, or the literal alone.
    Literal(Lit),
    /// `(…)`
    List(Vec<Setting>),
}

struct Settings(Vec<Setting>);

impl Parse for Settings {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let settings = Punctuated::<Setting, Token![,]>::parse_terminated(input)?;
        Ok(Settings(settings.into_iter().collect()))
    }
}

impl Parse for Setting {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        if !input.peek(Ident::peek_any) || input.peek(syn::LitBool) {
            let literal = parse_literal(input)?;
            let span = literal.span();
            return Ok(Setting { key: None, value: Value::Literal(literal), span });
        }
        let key = input.call(Ident::parse_any)?;
        let span = key.span();
        let value = if input.parse::<Option<Token![=]>>()?.is_some() {
            Value::Literal(parse_literal(input)?)
        } else if input.peek(syn::token::Paren) {
            let inside;
            syn::parenthesized!(inside in input);
            Value::List(inside.parse::<Settings>()?.0)
        } else {
            Value::Flag
        };
        Ok(Setting { key: Some(key), value, span })
    }
}

/// Reads a literal, and says so when something else stands there.
fn parse_literal(input: ParseStream<'_>) -> syn::Result<Lit> {
    if input.peek(Token![-]) {
        return Err(input.error("no setting of a task is negative; write a number from 0 up"));
    }
    input.parse().map_err(|error| {
        let what = "expected a number or a text in quotes: settings are read when the program is \
                    compiled";
        syn::Error::new(error.span(), what)
    })
}

/// Reads what stands in the parentheses of an attribute.
pub(crate) fn parse_args(args: TokenStream) -> syn::Result<Vec<Setting>> {
    syn::parse2::<Settings>(args).map(|it| it.0)
}

/// Reads an attribute as the setting it stands for: `#[retry(…)]` as `retry(…)`.
pub(crate) fn parse_attribute(attribute: &Attribute) -> syn::Result<Setting> {
    let key = attribute.path().segments.last().map(|it| it.ident.clone());
    let value = match &attribute.meta {
        Meta::Path(_) => Value::Flag,
        Meta::List(list) => Value::List(parse_args(list.tokens.clone())?),
        Meta::NameValue(pair) => match &pair.value {
            Expr::Lit(ExprLit { lit, .. }) => Value::Literal(lit.clone()),
            other => return Err(syn::Error::new(other.span(), "expected a literal")),
        },
    };
    let span = attribute.path().span();
    Ok(Setting { key, value, span })
}
