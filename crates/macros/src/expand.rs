//! The code that a task becomes.
//!
//! For `fn greet(ctx: &Ctx, name: String) -> Result<String, TaskError>` it is: a type `greet`
//! that implements `Task` and has the body as `greet::body`; a function `greet` that returns an
//! invocation; and a registration of the type. All but the type and the function stand in a
//! nameless constant, so nothing else enters the user's namespace.

use std::time::Duration;

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned as _;
use syn::{Attribute, FnArg, ItemFn, ReturnType};

use crate::options::{Options, Process};
use crate::signature::Signature;

pub(crate) fn expand(
    function: &ItemFn,
    signature: &Signature,
    options: &Options,
    name: &str,
) -> TokenStream {
    let ident = &function.sig.ident;
    let vis = &function.vis;
    let attributes = Attributes::sort(&function.attrs);
    let (cfg, docs, callers) = (&attributes.cfg, &attributes.docs, &attributes.callers);
    let output = &signature.output;
    let names: Vec<_> = signature.params.iter().map(|it| &it.name).collect();
    let types: Vec<_> = signature.params.iter().map(|it| &it.ty).collect();
    let args_type = args_type(signature);
    let body = body(function, &attributes);
    let task = task_impl(function, signature, options, name);
    let entry = if signature.blocking { quote!(of_blocking) } else { quote!(of) };
    let type_docs = format!(
        " The task `{name}`, as a type. Calling it as a function makes an invocation; its body is \
         `{ident}::body`."
    );
    quote! {
        #(#cfg)*
        #[doc = #type_docs]
        #[allow(non_camel_case_types, dead_code, reason = "named like its function")]
        #[derive(
            ::core::clone::Clone, ::core::marker::Copy, ::core::default::Default,
            ::core::fmt::Debug
        )]
        #vis struct #ident {}

        #(#cfg)*
        #(#docs)*
        #(#callers)*
        #[allow(
            dead_code, clippy::too_many_arguments,
            reason = "a job may be submitted by name, and takes what its body takes"
        )]
        #vis fn #ident(#(#names: #types),*) -> ::taskloom::Invocation<#output> {
            #ident::__invocation(#(#names),*)
        }

        #(#cfg)*
        #[allow(clippy::too_many_arguments, reason = "a task takes what its body takes")]
        const _: () = {
            #args_type
            #body
            impl #ident {
                #[doc(hidden)]
                #[allow(dead_code, reason = "a job may be submitted by name alone")]
                #vis fn __invocation(#(#names: #types),*) -> ::taskloom::Invocation<#output> {
                    let args = __TaskloomArgs { #(#names),* };
                    ::taskloom::Invocation::new(#name, __options(), &args)
                }
            }
            #task
            fn __entry() -> ::taskloom::Entry {
                ::taskloom::Entry::#entry(#ident {})
            }
            ::taskloom::__private::inventory::submit! {
                ::taskloom::__private::Registration(__entry)
            }
        };
    }
}

/// The attributes of the function, by where they go.
#[derive(Default)]
struct Attributes {
    /// On everything.
    cfg: Vec<Attribute>,
    /// On the invocation and on the body.
    docs: Vec<Attribute>,
    /// On the invocation.
    callers: Vec<Attribute>,
    /// On the body: whatever else there is.
    body: Vec<Attribute>,
}

impl Attributes {
    fn sort(attributes: &[Attribute]) -> Attributes {
        let mut sorted = Attributes::default();
        for attribute in attributes {
            let path = attribute.path();
            let place = if path.is_ident("cfg") {
                &mut sorted.cfg
            } else if path.is_ident("doc") {
                &mut sorted.docs
            } else if path.is_ident("deprecated") {
                &mut sorted.callers
            } else {
                &mut sorted.body
            };
            place.push(attribute.clone());
        }
        sorted
    }
}

/// The arguments as one value: a JSON object keyed by parameter name.
fn args_type(signature: &Signature) -> TokenStream {
    let fields = signature.params.iter().map(|it| {
        let (serde, name, ty) = (&it.serde, &it.name, &it.ty);
        // Without `pub`: the derives point at the first token when the type does not fit.
        quote! { #(#serde)* #name: #ty }
    });
    quote! {
        #[doc(hidden)]
        #[derive(
            ::taskloom::__private::serde::Serialize, ::taskloom::__private::serde::Deserialize
        )]
        #[serde(crate = "::taskloom::__private::serde", deny_unknown_fields)]
        pub struct __TaskloomArgs { #(#fields),* }
    }
}

/// The function as it was written, under the name `body`.
fn body(function: &ItemFn, attributes: &Attributes) -> TokenStream {
    let ident = &function.sig.ident;
    let vis = &function.vis;
    let (docs, others) = (&attributes.docs, &attributes.body);
    let mut signature = function.sig.clone();
    signature.ident = syn::Ident::new("body", ident.span());
    for input in &mut signature.inputs {
        // These stand on the fields of the arguments.
        if let FnArg::Typed(input) = input {
            input.attrs.retain(|it| !it.path().is_ident("serde"));
        }
    }
    let block = &function.block;
    quote! {
        impl #ident {
            #(#docs)*
            #(#others)*
            #vis #signature #block
        }
    }
}

fn task_impl(
    function: &ItemFn,
    signature: &Signature,
    options: &Options,
    name: &str,
) -> TokenStream {
    let ident = &function.sig.ident;
    let output = &signature.output;
    let settings = settings(options);
    let (kind, asyncness, wait) = if signature.blocking {
        (quote!(BlockingTask), None, None)
    } else {
        (quote!(Task), Some(quote!(async)), Some(quote!(.await)))
    };
    let ctx = signature.has_ctx.then(|| quote!(__ctx,));
    let names = signature.params.iter().map(|it| &it.name);
    // An error that turns into no `TaskError` is told at the return type.
    let returned = match &function.sig.output {
        ReturnType::Type(_, ty) => ty.span(),
        ReturnType::Default => ident.span(),
    };
    let fail = quote_spanned! { at(returned) =>
        ::core::result::Result::Err(::core::convert::From::from(error))
    };
    // A future that is not `Send` is told at the name.
    let head = quote_spanned! { at(ident.span()) =>
        #asyncness fn run(
            &self,
            __ctx: &::taskloom::Ctx,
            __args: __TaskloomArgs,
        ) -> ::core::result::Result<#output, ::taskloom::TaskError>
    };
    quote! {
        fn __options() -> ::taskloom::TaskOptions {
            #[allow(unused_mut, reason = "a task may leave every default as it is")]
            let mut options = <::taskloom::TaskOptions as ::core::default::Default>::default();
            #settings
            options
        }

        impl ::taskloom::#kind for #ident {
            const NAME: &'static str = #name;
            type Args = __TaskloomArgs;
            type Output = #output;

            fn options(&self) -> ::taskloom::TaskOptions {
                __options()
            }

            #[allow(clippy::useless_conversion, unused_variables, reason = "it may be one already")]
            #head {
                match #ident::body(#ctx #(__args.#names),*) #wait {
                    ::core::result::Result::Ok(output) => ::core::result::Result::Ok(output),
                    ::core::result::Result::Err(error) => #fail,
                }
            }
        }
    }
}

/// Our own code at a place of the user's: names in it are looked up as ours all the same, also
/// when a `macro_rules!` of the user wrote the function.
fn at(place: Span) -> Span {
    Span::call_site().located_at(place)
}

/// What differs from the defaults, as assignments.
fn settings(options: &Options) -> TokenStream {
    let retry = &options.retry;
    let max_attempts = retry.max_attempts.map(|n| quote!(options.retry.max_attempts = #n;));
    let backoff = retry.backoff.map(|it| {
        let delay = duration(it);
        // A first delay over the default maximum means what it says.
        quote! {
            options.retry.backoff.delay_first = #delay;
            options.retry.backoff.delay_max =
                ::core::cmp::Ord::max(options.retry.backoff.delay_max, #delay);
        }
    });
    let factor = retry.factor.map(|it| quote!(options.retry.backoff.factor = #it;));
    let max = retry.max.map(|it| {
        let delay = duration(it);
        quote! {
            options.retry.backoff.delay_max = #delay;
            options.retry.backoff.delay_first =
                ::core::cmp::Ord::min(options.retry.backoff.delay_first, #delay);
        }
    });
    let jitter = retry.jitter.map(|full| {
        let jitter = if full { quote!(Full) } else { quote!(None) };
        quote!(options.retry.backoff.jitter = ::taskloom::Jitter::#jitter;)
    });
    let timeout = options.timeout.map(|it| {
        let timeout = duration(it);
        quote!(options.timeout = ::core::option::Option::Some(#timeout);)
    });
    let priority = options.priority.map(|level| {
        quote! {
            options.priority =
                ::core::result::Result::unwrap_or_default(::taskloom::Priority::new(#level));
        }
    });
    let queue = options
        .queue
        .as_ref()
        .map(|name| quote!(options.queue = ::core::option::Option::Some(#name);));
    let log = options.log_execution.then(|| quote!(options.log_execution = true;));
    let measure = options.measure_performance.then(|| quote!(options.measure_performance = true;));
    let process = options.process.as_ref().map(process);
    quote! {
        #max_attempts #backoff #factor #max #jitter #timeout #priority #queue #log #measure #process
    }
}

fn process(process: &Process) -> TokenStream {
    let memory = option(process.memory.map(|bytes| quote!(#bytes)));
    let grace = option(process.grace.map(duration));
    quote! {
        options.process = ::core::option::Option::Some(
            ::taskloom::ProcessOptions { memory: #memory, grace: #grace }
        );
    }
}

fn option(value: Option<TokenStream>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}

fn duration(duration: Duration) -> TokenStream {
    let (secs, nanos) = (duration.as_secs(), duration.subsec_nanos());
    quote!(::core::time::Duration::new(#secs, #nanos))
}
