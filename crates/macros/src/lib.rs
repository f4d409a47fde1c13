//! `#[task]`: makes a function a task, and the attributes that go under it.
//!
//! The way through: `setting` reads what is written in the attributes, `options` checks it,
//! `signature` checks the function, `expand` writes the code. Every mistake is told at its place,
//! with its cure, and as many as possible at once.

mod expand;
mod nearest;
mod options;
mod setting;
mod signature;

use proc_macro::TokenStream;
use proc_macro2::{Span, TokenStream as Tokens};
use quote::{ToTokens, quote};
use syn::spanned::Spanned as _;
use syn::{Attribute, Item, ItemFn};

use crate::options::Options;
use crate::signature::Signature;

/// Makes a function a task.
///
/// ```ignore
/// use taskloom::{Ctx, TaskError, task};
///
/// /// Greets somebody.
/// #[task("greet")]
/// #[retry(max_attempts = 3, backoff = 2)]
/// #[timeout(seconds = 30)]
/// #[priority(level = 5)]
/// async fn greet(ctx: &Ctx, name: String) -> Result<String, TaskError> {
///     ctx.log("greeting");
///     Ok(format!("Hello, {name}"))
/// }
///
/// let handle = system.submit(greet("Ada".into()).delay("10s")).await?;
/// assert_eq!(greet::body(&Ctx::detached(), "Ada".into()).await?, "Hello, Ada");
/// ```
///
/// Calling `greet(…)` runs nothing: it returns a typed invocation, to be submitted. The body
/// itself, for unit tests, is `greet::body`. The type `greet` implements `taskloom::Task`, and
/// every program that links the function knows the task by its name.
///
/// An `async fn` runs on the async slots; a plain `fn` on threads of its own, as CPU-bound or
/// blocking work. The first parameter may be `ctx: &Ctx`; each other parameter is an owned value
/// that serde can read and write, and becomes a key of the job's arguments. An `Option` may be
/// missing there; `#[serde(…)]` on a parameter passes through. The return type is a `Result`,
/// whose error turns into a `taskloom::TaskError` by `Into`.
///
/// # Settings
/// All may stand in `#[task(…)]`, and all but `name`, `blocking` and `process` as an attribute
/// under it:
///
/// | setting | also | meaning | default |
/// |---|---|---|---|
/// | `"greet"` | `name = "greet"` | the name, unique and stable | the function's name |
/// | `retry(max_attempts = 3)` | | attempts in all | 5 |
/// | `retry(backoff = "2s")` | `backoff = 2` | the delay after the first attempt | 1 s |
/// | `retry(factor = 2)` | | what each further delay is multiplied by | 2 |
/// | `retry(max = "5m")` | | no delay is longer | 5 minutes, or `backoff` |
/// | `retry(jitter = "full")` | `"none"` | how chance spreads the delays | full |
/// | `timeout = "30s"` | `timeout(seconds = 30)` | how long an attempt may take | no end |
/// | `priority = 5` | `priority(level = 5)` | 0 to 9, 9 first | 0 |
/// | `queue = "web"` | `queue("web")` | the queue its jobs wait in | `default` |
/// | `log_execution` | | logs each attempt's start and end | no |
/// | `measure_performance` | | logs each attempt's wall and busy time | no |
/// | `blocking` | | says that the plain `fn` is meant so | |
/// | `process` | | runs each attempt in a child process | in the node |
/// | `process(memory = "512MB")` | | its cap: `kB`, `MB`, `GB`, `KiB`, … | none |
/// | `process(grace = "5s")` | | from the wish to end to the kill | as the node says |
///
/// # Child processes
/// `#[task(process)]` is for a body that may leak, crash, or must be killable, an `async fn` or a
/// plain one. The node starts its own program again, with the same arguments and environment; the
/// child runs `main` up to `TaskSystem::start`, does one attempt there, and exits. It never comes
/// back from `start`, and never opens the store. **Whatever `main` does before `start` happens in
/// every child too**: a line it prints, a job it submits, a port it binds. Put
/// `taskloom::run_child_if_asked()` first in `main` to have nothing before it. A crash is an
/// errored attempt; a timeout, a cancellation or a drain cancels the child's `Ctx`, and after the
/// grace kills it with all it has started. The body shares no memory with the node: its statics
/// are those of a fresh program. An attempt costs some 5 ms more than one in the node, and what
/// `main` takes up to `start`. Unix only; the cap on memory holds on Linux.
///
/// Durations are a number of seconds, or a text of `ms`, `s`, `m`, `h` and `d`: `"1h30m"`.
#[proc_macro_attribute]
pub fn task(args: TokenStream, item: TokenStream) -> TokenStream {
    task_tokens(args.into(), item.into()).into()
}

fn task_tokens(args: Tokens, item: Tokens) -> Tokens {
    match syn::parse2::<Item>(item) {
        Ok(Item::Fn(function)) => expand_fn(args, function),
        Ok(other) => {
            let error = syn::Error::new(
                keyword_span(&other),
                "a task is a function: put #[task] on a `fn`, or implement `taskloom::Task` for a \
                 type",
            );
            let error = error.into_compile_error();
            quote! { #error #other }
        }
        Err(error) => error.into_compile_error(),
    }
}

fn expand_fn(args: Tokens, mut function: ItemFn) -> Tokens {
    let mut errors = Errors::default();
    let helpers = take_helpers(&mut function.attrs);
    let options = Options::read(args, &helpers, &mut errors);
    let signature = Signature::check(&function, &mut errors);
    options.check_kind(&function.sig, &mut errors);
    let name = options.name(&function.sig.ident);
    // With a sound signature the item is written all the same: its callers then compile, and the
    // mistakes in the settings are told alone.
    let code = signature.map(|signature| expand::expand(&function, &signature, &options, &name));
    let errors = errors.into_tokens();
    quote! { #errors #code }
}

/// Takes off the attributes that belong to `#[task]`.
fn take_helpers(attributes: &mut Vec<Attribute>) -> Vec<Attribute> {
    let (helpers, others) = std::mem::take(attributes).into_iter().partition(is_helper);
    *attributes = others;
    helpers
}

fn is_helper(attribute: &Attribute) -> bool {
    let mut names = attribute.path().segments.iter().map(|it| it.ident.to_string());
    let names = match (names.next(), names.next(), names.next()) {
        (Some(name), None, None) => name,
        (Some(place), Some(name), None) if place == "taskloom" => name,
        _ => return false,
    };
    names == "task" || options::HELPERS.contains(&names.as_str())
}

/// The place of the word that says what an item is.
fn keyword_span(item: &Item) -> Span {
    match item {
        Item::Struct(it) => it.struct_token.span,
        Item::Enum(it) => it.enum_token.span,
        Item::Mod(it) => it.mod_token.span,
        Item::Impl(it) => it.impl_token.span,
        Item::Trait(it) => it.trait_token.span,
        Item::Const(it) => it.const_token.span,
        Item::Static(it) => it.static_token.span,
        Item::Type(it) => it.type_token.span,
        other => other.span(),
    }
}

/// The mistakes found so far.
#[derive(Default)]
struct Errors(Option<syn::Error>);

impl Errors {
    fn push(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(first) => first.combine(error),
            none => *none = Some(error),
        }
    }

    fn say(&mut self, span: Span, message: impl std::fmt::Display) {
        self.push(syn::Error::new(span, message));
    }

    /// Says it of all of `tokens`.
    fn say_of(&mut self, tokens: impl ToTokens, message: impl std::fmt::Display) {
        self.push(syn::Error::new_spanned(tokens, message));
    }

    /// Keeps the value, or the mistake.
    fn take<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        result.map_err(|error| self.push(error)).ok()
    }

    fn into_tokens(self) -> Option<Tokens> {
        self.0.map(syn::Error::into_compile_error)
    }
}

/// What a helper attribute says when no `#[task]` has read it.
fn stray(name: &str, item: TokenStream) -> TokenStream {
    let item = Tokens::from(item);
    let has_task = syn::parse2::<ItemFn>(item.clone()).is_ok_and(|it| {
        it.attrs.iter().any(|it| it.path().segments.last().is_some_and(|it| it.ident == "task"))
    });
    let message = if has_task {
        format!("#[{name}] stands above #[task], which can't see it there: move it below #[task]")
    } else {
        format!("#[{name}] is a setting of a task: put it under #[task], on a function")
    };
    let error = syn::Error::new(Span::call_site(), message).into_compile_error();
    quote! { #error #item }.into()
}

/// How often a job is tried, and how long it waits in between; goes under [`macro@task`]:
/// `#[retry(max_attempts = 3, backoff = "2s", factor = 2, max = "5m", jitter = "none")]`.
#[proc_macro_attribute]
pub fn retry(_args: TokenStream, item: TokenStream) -> TokenStream {
    stray("retry", item)
}

/// How long one attempt may take; goes under [`macro@task`]: `#[timeout(seconds = 30)]` or
/// `#[timeout("1m30s")]`.
#[proc_macro_attribute]
pub fn timeout(_args: TokenStream, item: TokenStream) -> TokenStream {
    stray("timeout", item)
}

/// How urgent a task's jobs are, from 0 to 9; goes under [`macro@task`]:
/// `#[priority(level = 5)]`.
#[proc_macro_attribute]
pub fn priority(_args: TokenStream, item: TokenStream) -> TokenStream {
    stray("priority", item)
}

/// The queue a task's jobs wait in; goes under [`macro@task`]: `#[queue("web")]`.
#[proc_macro_attribute]
pub fn queue(_args: TokenStream, item: TokenStream) -> TokenStream {
    stray("queue", item)
}

/// Logs the start and the end of each attempt; goes under [`macro@task`].
#[proc_macro_attribute]
pub fn log_execution(_args: TokenStream, item: TokenStream) -> TokenStream {
    stray("log_execution", item)
}

/// Logs the wall time and the busy time of each attempt; goes under [`macro@task`].
#[proc_macro_attribute]
pub fn measure_performance(_args: TokenStream, item: TokenStream) -> TokenStream {
    stray("measure_performance", item)
}
