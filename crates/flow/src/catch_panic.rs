//! Panics as values, with the place they came from and a backtrace.
//!
//! A process-wide panic hook, installed by the first catch, keeps quiet about a panic that is
//! being caught and remembers where it came from; every other panic goes to the hook that was
//! there before. A program that sets a hook of its own should do so first: one set later hides
//! place and backtrace from us, and the message remains.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::Pin;
use std::sync::Once;
use std::task::{Context, Poll, ready};

/// The longest backtrace kept, in frames: what is deeper is the runtime, or a recursion.
const FRAMES_MAX: usize = 64;

/// What the frames of panicking itself are called.
const PANICKING: [&str; 3] =
    ["core::panicking::", "rust_begin_unwind", "std::panicking::begin_panic"];

/// A panic that was caught.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked {
    /// The text it carried.
    pub message: String,
    /// Where it was raised, as `file:line:column`; empty when that is unknown.
    pub location: String,
    /// The frames between the panic and the catch, at most 64, one or two lines each; empty when
    /// they are unknown. Without debug information the frames have no names.
    pub backtrace: String,
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.location.is_empty() {
            return write!(f, "panicked: {}", self.message);
        }
        write!(f, "panicked at {}: {}", self.location, self.message)
    }
}

impl std::error::Error for Panicked {}

impl Panicked {
    /// A panic that the hook told of as usual, so that only its message need be kept.
    pub(crate) fn told_by_hook(payload: &(dyn Any + Send)) -> Self {
        let (location, backtrace) = Default::default();
        Panicked { message: message_of(payload), location, backtrace }
    }
}

thread_local! {
    /// How many catches this thread is inside of. Written by `catch`, read by the hook.
    static N_CATCHES: Cell<usize> = const { Cell::new(0) };
    /// The last panic under a catch. Written by the hook, taken by `catch`.
    static LAST: RefCell<Option<Raised>> = const { RefCell::new(None) };
}

/// What the hook saw of a panic.
struct Raised {
    location: String,
    backtrace: Backtrace,
}

fn install_hook() {
    static INSTALLED: Once = Once::new();
    // The standard library refuses a new hook while this thread unwinds.
    if !INSTALLED.is_completed() && !std::thread::panicking() {
        INSTALLED.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if !remember(info) {
                    previous(info);
                }
            }));
        });
    }
}

/// Remembers a panic under a catch. `false`: it should be printed.
fn remember(info: &PanicHookInfo<'_>) -> bool {
    if N_CATCHES.try_with(Cell::get).unwrap_or(0) == 0 {
        return false;
    }
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let raised = Raised { location, backtrace: Backtrace::force_capture() };
    let stored = LAST.try_with(|last| last.try_borrow_mut().map(|mut it| it.replace(raised)));
    // A panic while another one unwinds ends the process, and nobody would live to tell of it.
    matches!(stored, Ok(Ok(None))) && !cfg!(panic = "abort")
}

/// Runs `f` and turns its panic into a value.
fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Panicked> {
    install_hook();
    N_CATCHES.with(|it| it.set(it.get() + 1));
    // What is left here was caught by the caller's own code, and is no concern of ours.
    drop(LAST.take());
    let mut f = Some(f);
    let mut output = None;
    let returned = catch_unwind(AssertUnwindSafe(|| {
        begin_caught_backtrace(&mut || output = f.take().map(|it| it()));
    }));
    N_CATCHES.with(|it| it.set(it.get() - 1));
    match returned {
        Ok(()) => Ok(output.expect("the closure was there to be called once")),
        Err(payload) => Err(panicked_of(payload.as_ref())),
    }
}

/// Marks in a backtrace where the caught code begins: a name of its own, and not generic, since
/// those lose their path.
#[inline(never)]
fn begin_caught_backtrace(f: &mut dyn FnMut()) {
    f();
    // Something to come back for: otherwise the call may take the place of this frame.
    std::hint::black_box(());
}

fn panicked_of(payload: &(dyn Any + Send)) -> Panicked {
    let message = message_of(payload);
    let Some(raised) = LAST.take() else {
        return Panicked { message, location: String::new(), backtrace: String::new() };
    };
    let backtrace = trim(&raised.backtrace.to_string());
    Panicked { message, location: raised.location, backtrace }
}

/// Cuts the machinery off both ends of a backtrace: of panicking above, of the catch below.
fn trim(backtrace: &str) -> String {
    let mut frames: Vec<String> = Vec::new();
    for line in backtrace.lines() {
        let number = line.trim_start().split_once(": ").map(|(number, _)| number);
        if number.is_some_and(|it| it.bytes().all(|byte| byte.is_ascii_digit())) {
            frames.push(line.to_owned());
        } else if let Some(frame) = frames.last_mut() {
            frame.push('\n');
            frame.push_str(line);
        }
    }
    let names = |frame: &String, words: &[&str]| {
        let name = frame.lines().next().unwrap_or_default();
        words.iter().any(|it| name.contains(it))
    };
    let begin = frames.iter().rposition(|it| names(it, &PANICKING)).map_or(0, |it| it + 1);
    let n_frames = frames[begin..].iter().position(|it| names(it, &["begin_caught_backtrace"]));
    let kept = &frames[begin..begin + n_frames.unwrap_or(frames.len() - begin)];
    kept.iter().take(FRAMES_MAX).map(String::as_str).collect::<Vec<_>>().join("\n")
}

/// Runs `f` and turns its panic into a value, with a backtrace, without printing it.
///
/// # Errors
/// [`Panicked`] when `f` panicked. Whatever `f` had begun to change stays as the panic left it.
///
/// ```
/// use taskloom_flow::catch_panic_blocking;
///
/// let panicked = catch_panic_blocking(|| -> i32 { panic!("no luck") }).unwrap_err();
/// assert_eq!(panicked.message, "no luck");
/// assert!(panicked.location.contains(".rs:"));
/// ```
pub fn catch_panic_blocking<T>(f: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch(f)
}

pin_project_lite::pin_project! {
    /// The future of [`catch_panic`].
    #[must_use = "futures do nothing unless polled"]
    #[derive(Debug)]
    pub struct CatchPanic<F> {
        // Empty once it ended: it is dropped under the catch too.
        #[pin]
        future: Option<F>,
    }
}

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.project().future;
        let polled = catch(|| match slot.as_mut().as_pin_mut() {
            Some(future) => future.poll(cx),
            None => panic!("`CatchPanic` was polled after it ended"),
        });
        let output = match polled {
            Ok(poll) => Ok(ready!(poll)),
            Err(panicked) => Err(panicked),
        };
        let dropped = catch(|| slot.set(None));
        Poll::Ready(output.and_then(|output| dropped.map(|()| output)))
    }
}

/// Runs `future` and turns its panic into a value, with a backtrace, without printing it.
///
/// A panic of the future's own drop at its end is caught as well. A catch costs some nanoseconds
/// a poll; a panic costs about a millisecond, for the names of its frames.
///
/// # Errors
/// The output is [`Panicked`] when the future panicked. Whatever it had begun to change stays as
/// the panic left it.
///
/// # Cancel safety
/// That of `future`. A panic of its drop before its end is not caught.
///
/// ```
/// use taskloom_flow::catch_panic;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// assert_eq!(catch_panic(async { 7 }).await, Ok(7));
/// let panicked = catch_panic(async { panic!("no luck") }).await.unwrap_err();
/// assert_eq!(panicked.message, "no luck");
/// # }
/// ```
pub fn catch_panic<F: Future>(future: F) -> CatchPanic<F> {
    CatchPanic { future: Some(future) }
}

/// The text of a panic, from what it carried.
fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a text").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn raise_deep_inside() {
        let empty: [u8; 0] = std::hint::black_box([]);
        std::hint::black_box(empty[std::hint::black_box(3)..].len());
    }

    #[test]
    fn a_panic_is_told_with_its_message_place_and_frames() {
        let panicked = catch_panic_blocking(raise_deep_inside).unwrap_err();
        assert!(panicked.message.contains("out of range"), "{}", panicked.message);
        assert!(panicked.location.contains("catch_panic.rs:"), "{}", panicked.location);
        assert!(panicked.backtrace.contains("raise_deep_inside"), "{}", panicked.backtrace);
    }

    #[test]
    fn a_backtrace_is_cut_to_what_lies_between_panic_and_catch() {
        let text = "   0: std::backtrace::Backtrace::force_capture
             at /rustc/1/backtrace.rs:1:1
   1: taskloom_flow::catch_panic::remember
   2: __rustc::rust_begin_unwind
   3: core::panicking::panic_fmt
             at /rustc/1/panicking.rs:1:1
   4: app::inner
             at src/main.rs:3:5
   5: app::outer
   6: taskloom_flow::catch_panic::begin_caught_backtrace
   7: std::panicking::catch_unwind
   8: main";
        let expected = "   4: app::inner\n             at src/main.rs:3:5\n   5: app::outer";
        assert_eq!(trim(text), expected);
    }

    #[test]
    fn a_backtrace_without_names_is_kept_up_to_the_maximum() {
        let text: Vec<String> = (0..100).map(|it| format!("{it:4}: <unknown>")).collect();
        assert_eq!(trim(&text.join("\n")).lines().count(), FRAMES_MAX);
        assert_eq!(trim(""), "");
    }

    #[tokio::test]
    async fn a_future_panics_at_any_poll() {
        let future = async {
            tokio::task::yield_now().await;
            raise_deep_inside();
        };
        let panicked = catch_panic(future).await.unwrap_err();
        assert!(panicked.message.contains("out of range"));
        assert!(panicked.backtrace.contains("raise_deep_inside"), "{}", panicked.backtrace);
    }

    #[tokio::test]
    async fn a_panic_of_the_drop_is_caught_too() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                if !std::thread::panicking() {
                    panic!("in drop");
                }
            }
        }
        let bomb = Bomb;
        let future = std::future::poll_fn(move |_| {
            let _owned = &bomb;
            Poll::Ready(())
        });
        assert_eq!(catch_panic(future).await.unwrap_err().message, "in drop");
    }

    #[test]
    fn a_catch_within_a_catch_keeps_both_apart() {
        let outer = catch_panic_blocking(|| {
            let inner = catch_panic_blocking(|| panic!("inner")).unwrap_err();
            assert_eq!(inner.message, "inner");
            panic!("outer");
        });
        let outer = outer.unwrap_err();
        assert_eq!(outer.message, "outer");
        assert!(!outer.location.is_empty());
    }

    #[test]
    fn a_panic_that_user_code_caught_does_not_taint_the_next() {
        let result = catch_panic_blocking(|| {
            catch_unwind(|| panic!("caught by the user")).unwrap_err();
        });
        assert_eq!(result, Ok(()));
        let next =
            catch_panic_blocking(|| -> () { std::panic::resume_unwind(Box::new("resumed")) });
        let next: Panicked = next.unwrap_err();
        assert_eq!((next.message.as_str(), next.location.as_str()), ("resumed", ""));
    }

    #[test]
    fn any_payload_has_a_message() {
        let panicked = catch_panic_blocking(|| std::panic::panic_any(7)).unwrap_err();
        assert_eq!(panicked.message, "a panic without a text");
    }
}
