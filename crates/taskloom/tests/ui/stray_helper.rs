use taskloom::{TaskError, log_execution, measure_performance, priority, queue, retry, task, timeout};

#[retry(max_attempts = 3)]
async fn without_task() -> Result<(), TaskError> {
    Ok(())
}

#[timeout(seconds = 30)]
#[task]
async fn above_task() -> Result<(), TaskError> {
    Ok(())
}

#[priority(level = 5)]
struct NotEvenAFunction;

#[queue("web")]
fn with_queue() {}

#[log_execution]
fn with_log() {}

#[measure_performance]
fn with_measure() {}

fn main() {}
