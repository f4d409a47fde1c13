//! What the settings of a task mean, checked.

use std::time::Duration;

use proc_macro2::{Span, TokenStream};
use syn::{Attribute, Ident, Lit};

use crate::setting::{Setting, Value, parse_args, parse_attribute};
use crate::{Errors, nearest};

/// The settings that may also stand as an attribute of their own.
pub(crate) const HELPERS: [&str; 6] =
    ["retry", "timeout", "priority", "queue", "log_execution", "measure_performance"];
const KEYS: [&str; 9] = [
    "name",
    "retry",
    "timeout",
    "priority",
    "queue",
    "log_execution",
    "measure_performance",
    "blocking",
    "process",
];
const RETRY_KEYS: [&str; 5] = ["max_attempts", "backoff", "factor", "max", "jitter"];
const PROCESS_KEYS: [&str; 2] = ["memory", "grace"];
const PRIORITY_MAX: u8 = 9;
/// Less than this holds no program, in bytes.
const MEMORY_MIN: u64 = 16_000_000;
/// The longest name of a task or a queue, in bytes, as the store has it.
const NAME_MAX: usize = 255;
/// Longer than any program runs; what is over it is a slip.
const DURATION_MAX: Duration = Duration::from_secs(366 * 86_400);

/// What a task's settings say; `None` is the default.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) name: Option<String>,
    pub(crate) retry: Retry,
    pub(crate) timeout: Option<Duration>,
    pub(crate) priority: Option<u8>,
    pub(crate) queue: Option<String>,
    pub(crate) log_execution: bool,
    pub(crate) measure_performance: bool,
    pub(crate) process: Option<Process>,
    /// Where `blocking` stands.
    blocking: Option<Span>,
}

/// What they say of child processes.
#[derive(Default)]
pub(crate) struct Process {
    /// In bytes.
    pub(crate) memory: Option<u64>,
    pub(crate) grace: Option<Duration>,
}

/// What they say of retries.
#[derive(Default)]
pub(crate) struct Retry {
    pub(crate) max_attempts: Option<u32>,
    pub(crate) backoff: Option<Duration>,
    pub(crate) factor: Option<f64>,
    pub(crate) max: Option<Duration>,
    /// Whether chance spreads the delays.
    pub(crate) jitter: Option<bool>,
}

impl Options {
    /// Reads the arguments of `#[task(…)]` and the attributes under it.
    pub(crate) fn read(args: TokenStream, helpers: &[Attribute], errors: &mut Errors) -> Options {
        let mut settings = errors.take(parse_args(args)).unwrap_or_default();
        settings.extend(helpers.iter().filter_map(|it| errors.take(parse_attribute(it))));
        let mut options = Options::default();
        let mut seen = Vec::new();
        for setting in &settings {
            let key = match &setting.key {
                Some(key) => key.to_string(),
                None => "name".to_owned(),
            };
            if seen.contains(&key) {
                errors.say(setting.span, format!("`{key}` is given twice: keep one of the two"));
                continue;
            }
            errors.take(options.set(&key, setting));
            seen.push(key);
        }
        options
    }

    fn set(&mut self, key: &str, setting: &Setting) -> syn::Result<()> {
        match key {
            "name" => self.name = Some(read_name(setting, "task")?),
            "retry" => self.retry = Retry::read(setting)?,
            "timeout" => {
                let timeout = read_duration(sole(setting, "seconds")?)?;
                if timeout.is_zero() {
                    let what = "a timeout of 0 ends every attempt at once: leave it out for none";
                    return Err(syn::Error::new(setting.span, what));
                }
                self.timeout = Some(timeout);
            }
            "priority" => {
                let level = sole(setting, "level")?;
                let is_known = |it: &u8| *it <= PRIORITY_MAX;
                let read = read_integer(level)?.try_into().ok().filter(is_known);
                self.priority = Some(read.ok_or_else(|| {
                    syn::Error::new(level.span(), "a priority is 0 to 9, the most urgent")
                })?);
            }
            "queue" => self.queue = Some(read_name(setting, "queue")?),
            "log_execution" => self.log_execution = read_flag(setting)?,
            "measure_performance" => self.measure_performance = read_flag(setting)?,
            "blocking" => self.blocking = read_flag(setting)?.then_some(setting.span),
            "process" => self.process = Process::read(setting)?,
            "task" => return Err(syn::Error::new(setting.span, "#[task] is given twice")),
            _ => return Err(unknown(key, setting.span, &KEYS)),
        }
        Ok(())
    }

    /// Whether `blocking` agrees with the kind of function, and with `process`.
    pub(crate) fn check_kind(&self, signature: &syn::Signature, errors: &mut Errors) {
        if let (Some(span), Some(_)) = (self.blocking, &self.process) {
            let what = "an attempt has a child process or a thread of the node: remove `blocking` \
                        or `process`; in a child, a plain `fn` may block as it likes";
            errors.say(span, what);
        } else if let Some(span) = self.blocking
            && signature.asyncness.is_some()
        {
            errors.say(
                span,
                "a blocking task runs on a thread and can't await: remove `async`, or remove \
                 `blocking`",
            );
        }
    }

    /// The name of the task, which is that of its function unless given.
    pub(crate) fn name(&self, function: &Ident) -> String {
        let own = || syn::ext::IdentExt::unraw(function).to_string();
        self.name.clone().unwrap_or_else(own)
    }
}

/// Reads the settings in the parentheses of another one, each at most once. `example` is one that
/// is right.
fn read_list(
    list: &[Setting],
    example: &str,
    mut set: impl FnMut(&str, &Setting) -> syn::Result<()>,
) -> Errors {
    let mut seen = Vec::new();
    let mut errors = Errors::default();
    for inner in list {
        let Some(key) = inner.key.as_ref().map(ToString::to_string) else {
            errors.say(inner.span, format!("say which: {example}"));
            continue;
        };
        if seen.contains(&key) {
            errors.say(inner.span, format!("`{key}` is given twice: keep one of the two"));
            continue;
        }
        errors.take(set(&key, inner));
        seen.push(key);
    }
    errors
}

impl Process {
    /// `None` for `process = false`.
    fn read(setting: &Setting) -> syn::Result<Option<Process>> {
        let list = match &setting.value {
            Value::List(list) => list.as_slice(),
            Value::Flag | Value::Literal(Lit::Bool(_)) => {
                return Ok(read_flag(setting)?.then(Process::default));
            }
            Value::Literal(_) => {
                let what = "say it alone, or how: process(memory = \"512MB\", grace = \"5s\")";
                return Err(syn::Error::new(setting.span, what));
            }
        };
        let mut process = Process::default();
        let example = "process(memory = \"512MB\", grace = \"5s\")";
        let errors = read_list(list, example, |key, inner| process.set(key, inner));
        errors.0.map_or(Ok(Some(process)), Err)
    }

    fn set(&mut self, key: &str, setting: &Setting) -> syn::Result<()> {
        match key {
            "memory" => {
                let literal = literal_of(setting)?;
                let text = match literal {
                    Lit::Str(text) => text.value(),
                    _ => String::new(),
                };
                let Ok(bytes) = taskloom_model::parse_size(&text) else {
                    let what = "`memory` is a number and a unit in quotes: \"512MB\", \"2GiB\"";
                    return Err(syn::Error::new(literal.span(), what));
                };
                if bytes < MEMORY_MIN {
                    let what = "this holds no program: give it 16 MB at least";
                    return Err(syn::Error::new(literal.span(), what));
                }
                self.memory = Some(bytes);
            }
            "grace" => self.grace = Some(read_duration(literal_of(setting)?)?),
            _ => return Err(unknown(key, setting.span, &PROCESS_KEYS)),
        }
        Ok(())
    }
}

impl Retry {
    fn read(setting: &Setting) -> syn::Result<Retry> {
        let example = "retry(max_attempts = 3, backoff = \"2s\")";
        let Value::List(list) = &setting.value else {
            return Err(syn::Error::new(setting.span, format!("say how: {example}")));
        };
        let mut retry = Retry::default();
        let mut errors = read_list(list, example, |key, inner| retry.set(key, inner));
        if let (Some(backoff), Some(max)) = (retry.backoff, retry.max)
            && max < backoff
        {
            let what = "`max`, the longest delay, is under `backoff`, the first one: raise it";
            errors.say(setting.span, what);
        }
        errors.0.map_or(Ok(retry), Err)
    }

    fn set(&mut self, key: &str, setting: &Setting) -> syn::Result<()> {
        match key {
            "max_attempts" => {
                let literal = literal_of(setting)?;
                let n: Option<u32> = read_integer(literal)?.try_into().ok();
                self.max_attempts = Some(n.filter(|it| 0 < *it).ok_or_else(|| {
                    let what = "`max_attempts` counts the first attempt too: write 1 for no retry, \
                                and at most 4294967295";
                    syn::Error::new(literal.span(), what)
                })?);
            }
            "backoff" => self.backoff = Some(read_duration(literal_of(setting)?)?),
            "factor" => {
                let literal = literal_of(setting)?;
                let read = match literal {
                    Lit::Int(it) => it.base10_parse().ok(),
                    Lit::Float(it) => it.base10_parse().ok(),
                    _ => None,
                };
                let is_growing = |it: &f64| it.is_finite() && 1.0 <= *it;
                self.factor = Some(read.filter(is_growing).ok_or_else(|| {
                    syn::Error::new(literal.span(), "`factor` is a number of at least 1")
                })?);
            }
            "max" => self.max = Some(read_duration(literal_of(setting)?)?),
            "jitter" => {
                let literal = literal_of(setting)?;
                let text = read_text(literal)?;
                self.jitter = Some(match text.as_str() {
                    "full" => true,
                    "none" => false,
                    _ => {
                        let what = "`jitter` is \"full\" or \"none\"";
                        return Err(syn::Error::new(literal.span(), what));
                    }
                });
            }
            _ => return Err(unknown(key, setting.span, &RETRY_KEYS)),
        }
        Ok(())
    }
}

fn unknown(key: &str, span: Span, keys: &[&str]) -> syn::Error {
    let is_retry = keys.len() == KEYS.len();
    let retry_key = nearest::nearest(key, &RETRY_KEYS).filter(|_| is_retry);
    let what = match (nearest::nearest(key, keys), retry_key) {
        (Some(near), _) => format!("no setting is called `{key}`: did you mean `{near}`?"),
        (None, Some(near)) => format!("`{key}` is about retries: write `retry({near} = …)`"),
        (None, None) if keys.len() == 1 => {
            format!("no setting is called `{key}` here: write `{}`", keys.concat())
        }
        (None, None) => {
            format!("no setting is called `{key}`: there are {}", keys.join(", "))
        }
    };
    syn::Error::new(span, what)
}

/// The literal of `key = literal`.
fn literal_of(setting: &Setting) -> syn::Result<&Lit> {
    let key = setting.key.as_ref().map(ToString::to_string).unwrap_or_default();
    match &setting.value {
        Value::Literal(literal) => Ok(literal),
        Value::Flag | Value::List(_) => {
            Err(syn::Error::new(setting.span, format!("say what it is: `{key} = …`")))
        }
    }
}

/// The literal of `key = literal`, `key(literal)` or `key(name = literal)`.
fn sole<'a>(setting: &'a Setting, name: &str) -> syn::Result<&'a Lit> {
    let key = setting.key.as_ref().map_or_else(|| name.to_owned(), ToString::to_string);
    let list = match &setting.value {
        Value::Literal(literal) => return Ok(literal),
        Value::Flag => &[],
        Value::List(list) => list.as_slice(),
    };
    let [inner] = list else {
        let what = format!("write `{key}({name} = …)`, or `{key} = …` inside #[task(…)]");
        return Err(syn::Error::new(setting.span, what));
    };
    match &inner.key {
        Some(word) if word != name => Err(unknown(&word.to_string(), inner.span, &[name])),
        Some(_) => literal_of(inner),
        None => match &inner.value {
            Value::Literal(literal) => Ok(literal),
            Value::Flag | Value::List(_) => Err(syn::Error::new(inner.span, "expected a literal")),
        },
    }
}

fn read_flag(setting: &Setting) -> syn::Result<bool> {
    match &setting.value {
        Value::Flag => Ok(true),
        Value::Literal(Lit::Bool(it)) => Ok(it.value),
        Value::Literal(_) | Value::List(_) => {
            Err(syn::Error::new(setting.span, "this is said by its name alone: remove the rest"))
        }
    }
}

fn read_text(literal: &Lit) -> syn::Result<String> {
    let Lit::Str(text) = literal else {
        return Err(syn::Error::new(literal.span(), "expected a text in quotes"));
    };
    Ok(text.value())
}

fn read_name(setting: &Setting, what: &str) -> syn::Result<String> {
    let literal = sole(setting, "name")?;
    let name = read_text(literal)?;
    let cure = match name.as_str() {
        "" => format!("the name of a {what} can't be empty"),
        _ if NAME_MAX < name.len() => {
            format!("the name of a {what} is at most {NAME_MAX} bytes long")
        }
        _ if name.chars().any(|it| it.is_whitespace() || it.is_control()) => {
            format!("the name of a {what} has no blanks: write `_` or `.` instead")
        }
        _ => return Ok(name),
    };
    Err(syn::Error::new(literal.span(), cure))
}

fn read_integer(literal: &Lit) -> syn::Result<u64> {
    let whole = "expected a whole number, without quotes";
    let Lit::Int(number) = literal else {
        return Err(syn::Error::new(literal.span(), whole));
    };
    number.base10_parse().map_err(|_| syn::Error::new(literal.span(), whole))
}

/// A number of seconds, or a text such as `"1m30s"`.
fn read_duration(literal: &Lit) -> syn::Result<Duration> {
    let read = match literal {
        Lit::Int(seconds) => seconds.base10_parse().ok().map(Duration::from_secs),
        Lit::Float(seconds) => {
            let seconds = seconds.base10_parse().ok();
            seconds.and_then(|it| Duration::try_from_secs_f64(it).ok())
        }
        Lit::Str(text) => taskloom_model::parse_duration(&text.value()).ok(),
        _ => None,
    };
    let what = match read {
        Some(read) if read <= DURATION_MAX => return Ok(read),
        Some(_) => "this is over a year, the longest that can be set here",
        None => {
            "this is no duration: write a number of seconds, or a text such as \"500ms\", \
             \"10s\", \"5m\", \"1h30m\" or \"2d\""
        }
    };
    Err(syn::Error::new(literal.span(), what))
}
