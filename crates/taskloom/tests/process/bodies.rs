//! What runs in the children.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use taskloom::{Ctx, TaskError, task};

#[task(process)]
pub(crate) async fn double(n: i64) -> Result<i64, TaskError> {
    tokio::time::sleep(Duration::from_millis(1)).await;
    Ok(2 * n)
}

#[task(process)]
pub(crate) fn sum(numbers: Vec<i64>) -> Result<i64, TaskError> {
    Ok(numbers.iter().sum())
}

/// What it knows of itself.
#[task(process, queue = "own", timeout = "1h", retry(max_attempts = 7))]
pub(crate) async fn who(ctx: &Ctx) -> Result<Value, TaskError> {
    let hour = Duration::from_secs(3600);
    Ok(json!({
        "pid": std::process::id(),
        "node": std::os::unix::process::parent_id(),
        "job": ctx.job_id(),
        "task": ctx.task(),
        "queue": ctx.queue(),
        "attempt": (ctx.attempt(), ctx.max_attempts()),
        "key": ctx.idempotency_key(),
        "has_time": ctx.time_left().is_some_and(|it| hour / 2 < it && it <= hour),
    }))
}

#[task(process, retry(max_attempts = 2, backoff = 0, jitter = "none"))]
pub(crate) async fn err(ctx: &Ctx, how: String) -> Result<u32, TaskError> {
    match how.as_str() {
        "permanent" => Err(TaskError::permanent("no use").code("test.permanent")),
        "snooze" => {
            let mark = std::env::temp_dir().join(format!("taskloom-{}", ctx.job_id()));
            if std::fs::remove_file(&mark).is_ok() {
                return Ok(ctx.attempt());
            }
            std::fs::write(mark, "")?;
            Err(TaskError::snooze(Duration::from_millis(1)))
        }
        "panic" => panic!("these arguments are {how}"),
        "later" => {
            let error = TaskError::new("busy").code("test.busy");
            Err(error.retry_after(Duration::from_secs(3600)))
        }
        _ => Err(TaskError::new("again")),
    }
}

#[task(process)]
pub(crate) async fn tell(ctx: &Ctx) -> Result<(), TaskError> {
    ctx.log("one");
    ctx.progress(0.5, "half");
    ctx.log_at(taskloom::LogLevel::Error, "two");
    ctx.cancelled().await;
    ctx.log(format!("heard {:?}", ctx.cancel_reason()));
    Err(TaskError::cancelled())
}

/// Starts another process, and writes the numbers of both into a file.
fn start_another(file: &str) -> std::io::Result<()> {
    let other = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn()?;
    let text = format!("{} {}", std::process::id(), other.id());
    std::fs::write(format!("{file}.new"), text)?;
    std::fs::rename(format!("{file}.new"), file)
}

/// Hears nothing, with another process beside it.
#[task(process(grace = "50ms"))]
pub(crate) fn be_deaf(file: String) -> Result<(), TaskError> {
    start_another(&file)?;
    loop {
        std::thread::park();
    }
}

/// Ends well, and leaves another process behind.
#[task(process)]
pub(crate) fn leave_another(file: String) -> Result<(), TaskError> {
    Ok(start_another(&file)?)
}

#[task(process, retry(max_attempts = 2, backoff = 0, jitter = "none"))]
pub(crate) fn crash(ctx: &Ctx, how: String) -> Result<(), TaskError> {
    ctx.log("before the crash");
    println!("said on stdout");
    eprintln!("said on stderr");
    match how.as_str() {
        "abort" => std::process::abort(),
        "exit" => std::process::exit(3),
        "exit well" => std::process::exit(0),
        signal => {
            // Several: the first SIGSEGV from outside ends only the handler of the standard
            // library, and two that come together count as one.
            for _ in 0..50 {
                Command::new("kill").args([signal, &std::process::id().to_string()]).status()?;
            }
            Ok(())
        }
    }
}

#[task(process(memory = "128MB"), retry(max_attempts = 1))]
pub(crate) fn fill(megabytes: usize) -> Result<usize, TaskError> {
    let mut blocks = Vec::new();
    for n in 0..megabytes {
        blocks.push(vec![u8::try_from(n % 255 + 1).unwrap(); 1_000_000]);
    }
    Ok(blocks.iter().filter(|it| it[999_999] != 0).count())
}

#[task(process, retry(max_attempts = 1))]
pub(crate) fn print(bytes: usize) -> Result<(), TaskError> {
    let line = format!("{}\n", "x".repeat(99));
    let mut out = std::io::stdout().lock();
    for _ in 0..bytes / 100 {
        out.write_all(line.as_bytes())?;
    }
    out.write_all(b"the end\n")?;
    out.flush()?;
    std::process::exit(4)
}

#[task(process, retry(max_attempts = 1))]
pub(crate) fn repeat(text: String, n: usize) -> Result<String, TaskError> {
    Ok(text.repeat(n))
}

/// Enters a file, waits until two have, and leaves.
#[task(process)]
pub(crate) fn meet(file: String) -> Result<(), TaskError> {
    let mut lines = std::fs::OpenOptions::new().append(true).create(true).open(&file)?;
    lines.write_all(b"+")?;
    while std::fs::read_to_string(&file)?.matches('+').count() < 2 {
        std::thread::yield_now();
    }
    Ok(lines.write_all(b"-")?)
}

/// Counts in a static: the state of a process.
#[task(process)]
pub(crate) fn count() -> Result<usize, TaskError> {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static N: AtomicUsize = AtomicUsize::new(0);
    Ok(N.fetch_add(1, Ordering::Relaxed) + 1)
}

/// Whether a process that it starts would take itself for a child, by what it inherits.
#[task(process)]
pub(crate) fn start_itself() -> Result<bool, TaskError> {
    let mut again = Command::new(std::env::current_exe()?);
    let said = again.args(["--exact", "child", "--nocapture"]).output()?;
    Ok(String::from_utf8_lossy(&said.stdout).contains("1 passed"))
}
