//! The child's side: takes one attempt from its node, runs it, says how it ended, and exits.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::FileType;
use rustix::process::{Resource, Rlimit, Signal};
use serde_json::value::RawValue;
use taskloom_flow::{catch_panic, catch_panic_blocking};
use taskloom_store::{Clock, PAYLOAD_MAX};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::peak_memory;
use super::wire::{self, Begin, End, FromChild, Said, TO_CHILD_MAX, ToChild, WireError};
use crate::attempt::result_too_large;
use crate::ctx::Outlet;
use crate::{Ctx, CtxBuilder, Entry, LogLevel, Runner, TaskError};

/// The variable of the environment that makes a process a child; it holds the name of the task.
pub const CHILD_VARIABLE: &str = "TASKLOOM_CHILD";

/// How often news of progress go to the node.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// The stack of our own threads, in bytes: they count against the body's memory.
const STACK: usize = 256 * 1024;
/// What a child that could not begin exits with.
const EXIT_CODE: i32 = 70;

/// A node's wish that this process run one attempt.
#[derive(Debug)]
pub struct ChildWish {
    task: String,
}

impl ChildWish {
    /// What this process was started for, by the value of [`CHILD_VARIABLE`]. `None`: it is no
    /// child. A process that a child has started inherits the variable and is none either: a child
    /// leads its group, and its standard input is a socket.
    #[must_use]
    pub fn read(variable: Option<OsString>) -> Option<ChildWish> {
        let task = variable?.into_string().ok()?;
        let input = rustix::fs::fstat(io::stdin()).ok()?;
        let is_socket = FileType::from_raw_mode(input.st_mode) == FileType::Socket;
        (is_socket && leads_its_group()).then_some(ChildWish { task })
    }

    /// The name of the task.
    #[must_use]
    pub fn task(&self) -> &str {
        &self.task
    }

    /// Runs the attempt as `entry` says, and ends this process.
    pub async fn run(self, entry: &Entry, clock: Arc<dyn Clock>) -> ! {
        let (mut line, begin) = take_line().await;
        let mouth = Mouth(Arc::new(Mutex::new(clone(&line))));
        let deadline = begin.time_left.and_then(|it| Instant::now().checked_add(it));
        let ctx = CtxBuilder::new(begin.job, Arc::clone(&entry.name))
            .queue(begin.queue.as_str())
            .attempt(begin.attempt, begin.max_attempts)
            .deadline(deadline)
            .clock(clock)
            .outlet(Arc::new(mouth.clone()))
            .build();
        let heard = ctx.clone();
        start_thread("taskloom-ear", move || listen(&mut line, &heard));
        let told = (mouth.clone(), ctx.clone());
        start_thread("taskloom-mouth", move || {
            loop {
                std::thread::sleep(TELL_EVERY);
                told.0.say_progress(&told.1);
            }
        });
        limit_memory(begin.memory);
        mouth.say(&FromChild::Begun);
        let said = body(entry, ctx.clone(), begin.args).await;
        mouth.say_progress(&ctx);
        mouth.end(said)
    }

    /// Says that this program has no such task here, and ends this process. `place` names the call
    /// that the child came to.
    pub async fn refuse(self, place: &str) -> ! {
        let (line, _begin) = take_line().await;
        let message = format!(
            "the child came to `{place}`, which does not know the task `{}`: let the system that \
             has the task be the first to start, or call `run_child_if_asked` at the start of \
             `main` if it is a `#[task]` function",
            self.task
        );
        let error = TaskError::new(message).code("task.process.start");
        Mouth(Arc::new(Mutex::new(line))).end(Said::error(&error))
    }
}

/// Takes the socket to the node, and its first message. The first caller has it; another one waits
/// for the end of the process.
async fn take_line() -> (UnixStream, Box<Begin>) {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    let taken = (|| -> io::Result<UnixStream> {
        let line = io::stdin().as_fd().try_clone_to_owned()?;
        // The body reads nothing there, and what it starts doesn't hold the socket open.
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        Ok(UnixStream::from(line))
    })();
    let mut line = taken.unwrap_or_else(|error| give_up(&error));
    match wire::read_blocking(&mut line, TO_CHILD_MAX) {
        Ok(ToChild::Begin(begin)) => (line, begin),
        Ok(ToChild::Cancel(_)) => give_up(&"the node cancels before it begins"),
        Err(error) => give_up(&error),
    }
}

fn clone(line: &UnixStream) -> UnixStream {
    line.try_clone().unwrap_or_else(|error| give_up(&error))
}

fn give_up(error: &dyn std::fmt::Display) -> ! {
    eprintln!("this child of a Taskloom node can't work: {error}");
    std::process::exit(EXIT_CODE)
}

fn start_thread(name: &str, f: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK);
    if let Err(error) = thread.spawn(f) {
        give_up(&error);
    }
}

/// From here on an allocation beyond the cap fails. Counted is what is private and writable: not
/// the program's code, nor address space that is only reserved.
fn limit_memory(bytes: Option<u64>) {
    let Some(bytes) = bytes else { return };
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    if let Err(error) = rustix::process::setrlimit(Resource::Data, limit) {
        give_up(&error);
    }
}

async fn body(entry: &Entry, ctx: Ctx, args: Box<RawValue>) -> Said {
    let said = match &entry.runner {
        Runner::Async(runner) => catch_panic(runner(ctx, Arc::from(args.get()))).await,
        Runner::Blocking(runner) => {
            let (ended, end) = oneshot::channel();
            let runner = Arc::clone(runner);
            let thread = std::thread::Builder::new().name("taskloom-blocking".to_owned());
            let spawned = thread.spawn(move || {
                ended.send(catch_panic_blocking(|| runner(&ctx, args.get()))).ok();
            });
            match spawned {
                Ok(_) => end.await.expect("the thread catches every panic"),
                Err(error) => Ok(Err(error.into())),
            }
        }
    };
    match said {
        Ok(Ok(json)) if PAYLOAD_MAX < json.len() => Said::error(&result_too_large(json.len())),
        Ok(Ok(json)) => match RawValue::from_string(json) {
            Ok(json) => Said::Result(json),
            Err(error) => Said::error(&error.into()),
        },
        Ok(Err(error)) => Said::error(&error),
        Err(panicked) => Said::Panic {
            message: panicked.message,
            location: panicked.location,
            backtrace: panicked.backtrace,
        },
    }
}

/// The way out to the node. Its messages are whole: the lock is held for each.
#[derive(Debug, Clone)]
struct Mouth(Arc<Mutex<UnixStream>>);

impl Mouth {
    /// Says it, or ends everything: nobody is there to hear the rest.
    fn say(&self, message: &FromChild) {
        if self.try_say(message).is_err() {
            die();
        }
    }

    fn try_say(&self, message: &FromChild) -> Result<(), WireError> {
        wire::write_blocking(&mut *self.0.lock(), message)
    }

    fn say_progress(&self, ctx: &Ctx) {
        if let (Some(progress), _) = ctx.take_signs() {
            self.say(&FromChild::Progress(progress));
        }
    }

    /// The last message, and the end of the process.
    fn end(&self, said: Said) -> ! {
        let peak = peak_memory(std::process::id());
        let told = self.try_say(&FromChild::End(End { said, peak }));
        if let Err(error @ WireError::TooLong(..)) = told {
            let error = TaskError::new(format!("how the body ended can't be told: {error}"));
            let said = Said::error(&error.code("task.process.message"));
            self.say(&FromChild::End(End { said, peak }));
        }
        std::process::exit(0)
    }
}

impl Outlet for Mouth {
    fn log(&self, level: LogLevel, text: String) {
        self.say(&FromChild::Log(level, text));
    }
}

/// Hears the node to its end, which is ours too.
fn listen(line: &mut UnixStream, ctx: &Ctx) {
    ignore_termination();
    loop {
        match wire::read_blocking(line, TO_CHILD_MAX) {
            Ok(ToChild::Cancel(reason)) => ctx.cancel(reason),
            Ok(ToChild::Begin(_)) | Err(_) => die(),
        }
    }
}

/// A service manager sends SIGTERM to every process of a service at once. The node drains then, and
/// tells its children in time.
fn ignore_termination() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else {
        return;
    };
    let _entered = runtime.enter();
    // The handler stays when the stream of signals is dropped.
    signal(SignalKind::terminate()).ok();
}

fn leads_its_group() -> bool {
    rustix::process::getpgrp() == rustix::process::getpid()
}

/// Ends this process and everything it has started.
fn die() -> ! {
    if leads_its_group() {
        rustix::process::kill_current_process_group(Signal::KILL).ok();
    }
    std::process::abort()
}
