//! The function under `#[task]`: what it takes and what it returns, checked.

use syn::visit::{self, Visit};
use syn::{
    Attribute, FnArg, GenericArgument, Ident, ItemFn, Pat, PatType, PathArguments, ReturnType,
    Type, TypeImplTrait, TypeReference,
};

use crate::Errors;

/// What the expansion has to know of the function.
pub(crate) struct Signature {
    /// Whether the first parameter is `ctx: &Ctx`.
    pub(crate) has_ctx: bool,
    /// The parameters but for the context.
    pub(crate) params: Vec<Param>,
    /// The `T` of its `Result<T, E>`.
    pub(crate) output: Type,
    /// Whether it runs on a thread.
    pub(crate) blocking: bool,
}

/// One argument of the task's jobs.
pub(crate) struct Param {
    pub(crate) name: Ident,
    pub(crate) ty: Type,
    /// Its `#[serde(…)]` attributes.
    pub(crate) serde: Vec<Attribute>,
}

impl Signature {
    /// Checks the function; `None` when it can't become a task.
    pub(crate) fn check(function: &ItemFn, errors: &mut Errors) -> Option<Signature> {
        let mut own = Errors::default();
        check_kind(&function.sig, &mut own);
        let mut has_ctx = false;
        let mut params = Vec::new();
        for (place, input) in function.sig.inputs.iter().enumerate() {
            match input {
                FnArg::Receiver(receiver) => own.say_of(
                    receiver,
                    "a task is a free function and has no `self`: move it out of the `impl`, or \
                     implement `taskloom::Task` for the type",
                ),
                FnArg::Typed(input) => match read_param(input, place, &mut own) {
                    Read::Ctx => has_ctx = true,
                    Read::Param(param) => params.push(*param),
                    Read::Wrong => {}
                },
            }
        }
        let output = own.take(output_of(&function.sig.output, &function.sig.ident));
        if let Some(error) = own.0 {
            errors.push(error);
            return None;
        }
        let blocking = function.sig.asyncness.is_none();
        Some(Signature { has_ctx, params, output: output?, blocking })
    }
}

fn check_kind(signature: &syn::Signature, errors: &mut Errors) {
    if !signature.generics.params.is_empty() {
        errors.say_of(
            &signature.generics,
            "a task has one name and one kind of arguments, so its function can't be generic: \
             write the types out, or one task for each",
        );
    }
    if let Some(word) = signature.constness {
        errors.say(word.span, "a task can't be a `const fn`: remove `const`");
    }
    if let Some(word) = signature.unsafety {
        errors.say(word.span, "a task can't be `unsafe`: put an `unsafe` block into its body");
    }
    if let Some(abi) = &signature.abi {
        errors.say_of(abi, "a task has no ABI of its own: remove `extern`");
    }
    if let Some(dots) = &signature.variadic {
        errors.say_of(dots, "a task has a fixed number of parameters: take a `Vec` instead");
    }
}

enum Read {
    Ctx,
    Param(Box<Param>),
    /// And told.
    Wrong,
}

fn read_param(input: &PatType, place: usize, errors: &mut Errors) -> Read {
    let ty = bare(&input.ty);
    match ty {
        Type::Reference(it) if is_ctx(&it.elem) => {
            if 0 < place {
                errors.say_of(input, "the context comes first: make it the first parameter");
                return Read::Wrong;
            }
            if it.mutability.is_some() {
                errors.say_of(ty, "the context is shared: write `ctx: &Ctx`");
                return Read::Wrong;
            }
            return Read::Ctx;
        }
        ty if is_ctx(ty) => {
            errors.say_of(ty, "the context is lent to the body: write `ctx: &Ctx`");
            return Read::Wrong;
        }
        _ => {}
    }
    let name = match &*input.pat {
        Pat::Ident(it) if it.by_ref.is_none() && it.subpat.is_none() => Some(it.ident.clone()),
        Pat::Wild(it) => {
            errors.say_of(it, "an argument needs a name, its key in JSON: write `_name`");
            None
        }
        pattern => {
            errors.say_of(
                pattern,
                "an argument needs a name, its key in JSON: write `name: Type` and take it apart \
                 in the body",
            );
            None
        }
    };
    let mut borrowed = Borrowed { errors, found: false };
    borrowed.visit_type(ty);
    let found = borrowed.found;
    let is_serde = |it: &&Attribute| it.path().is_ident("serde");
    let serde = input.attrs.iter().filter(is_serde).cloned().collect();
    match name {
        Some(name) if !found => {
            Read::Param(Box::new(Param { name, ty: (*input.ty).clone(), serde }))
        }
        _ => Read::Wrong,
    }
}

/// Looks for what can't be an argument, however deep inside a type.
struct Borrowed<'a> {
    errors: &'a mut Errors,
    found: bool,
}

impl Borrowed<'_> {
    fn say_of(&mut self, tokens: impl quote::ToTokens, message: &str) {
        self.found = true;
        self.errors.say_of(tokens, message);
    }
}

impl<'ast> Visit<'ast> for Borrowed<'_> {
    fn visit_type_reference(&mut self, reference: &'ast TypeReference) {
        let owned = match bare(&reference.elem) {
            Type::Path(it) if it.path.is_ident("str") => "`String`".to_owned(),
            Type::Slice(_) => "a `Vec`".to_owned(),
            _ => "the value itself".to_owned(),
        };
        let what = format!(
            "arguments are kept in the store and outlive this call, so they can't be borrowed: \
             take {owned}"
        );
        self.say_of(reference, &what);
    }

    fn visit_type_impl_trait(&mut self, ty: &'ast TypeImplTrait) {
        self.say_of(
            ty,
            "arguments are written as JSON and read back, so their type must be known: name it \
             instead of `impl`",
        );
    }

    fn visit_lifetime(&mut self, lifetime: &'ast syn::Lifetime) {
        self.say_of(lifetime, "arguments outlive this call: take an owned type");
        visit::visit_lifetime(self, lifetime);
    }
}

/// The `T` of `Result<T, E>`.
fn output_of(output: &ReturnType, function: &Ident) -> syn::Result<Type> {
    let cure = "a task returns a `Result`: write `-> Result<T, TaskError>`, with `()` for `T` when \
                there is nothing to tell";
    let ReturnType::Type(_, ty) = output else {
        return Err(syn::Error::new_spanned(function, cure));
    };
    let wrong = || syn::Error::new_spanned(ty, cure);
    let Type::Path(path) = bare(ty) else { return Err(wrong()) };
    let last = path.path.segments.last().filter(|it| it.ident.to_string().ends_with("Result"));
    let PathArguments::AngleBracketed(arguments) = &last.ok_or_else(wrong)?.arguments else {
        let what = "write out what it returns: `Result<T, E>`; this name hides the types";
        return Err(syn::Error::new_spanned(ty, what));
    };
    let types: Vec<&Type> = arguments
        .args
        .iter()
        .filter_map(|it| match it {
            GenericArgument::Type(ty) => Some(ty),
            _ => None,
        })
        .collect();
    match types.as_slice() {
        [output] | [output, _] => Ok((*output).clone()),
        _ => Err(wrong()),
    }
}

fn is_ctx(ty: &Type) -> bool {
    let Type::Path(path) = bare(ty) else { return false };
    path.path.segments.last().is_some_and(|it| it.ident == "Ctx")
}

/// The type without the invisible groups and parentheses around it.
fn bare(mut ty: &Type) -> &Type {
    loop {
        ty = match ty {
            Type::Group(it) => &it.elem,
            Type::Paren(it) => &it.elem,
            other => return other,
        };
    }
}
