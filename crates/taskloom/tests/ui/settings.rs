use taskloom::{TaskError, task};

#[task("")]
async fn empty_name() -> Result<(), TaskError> {
    Ok(())
}

#[task("send email")]
async fn name_with_a_blank() -> Result<(), TaskError> {
    Ok(())
}

#[task(prioritty = 5)]
async fn unknown_key() -> Result<(), TaskError> {
    Ok(())
}

#[task(max_attempts = 5)]
async fn retry_key_outside() -> Result<(), TaskError> {
    Ok(())
}

#[task(colour = "red")]
async fn key_like_none() -> Result<(), TaskError> {
    Ok(())
}

#[task]
#[retry(retries = 3)]
async fn word_of_another_program() -> Result<(), TaskError> {
    Ok(())
}

#[task]
#[retry(max_attempts = 0)]
async fn no_attempts() -> Result<(), TaskError> {
    Ok(())
}

#[task]
#[retry]
async fn retry_without_saying_how() -> Result<(), TaskError> {
    Ok(())
}

#[task(retry(backoff = "2 seconds", factor = 0.5, jitter = "some"))]
async fn three_mistakes() -> Result<(), TaskError> {
    Ok(())
}

#[task(retry(backoff = "10m", max = "5m"))]
async fn maximum_under_the_first() -> Result<(), TaskError> {
    Ok(())
}

#[task(timeout = "soon")]
async fn bad_duration() -> Result<(), TaskError> {
    Ok(())
}

#[task]
#[timeout(minutes = 5)]
async fn unknown_unit() -> Result<(), TaskError> {
    Ok(())
}

#[task(timeout = 0)]
async fn no_time() -> Result<(), TaskError> {
    Ok(())
}

#[task]
#[priority(level = 10)]
async fn too_urgent() -> Result<(), TaskError> {
    Ok(())
}

#[task(priority = -1)]
async fn negative() -> Result<(), TaskError> {
    Ok(())
}

#[task(priority = "high")]
async fn not_a_number() -> Result<(), TaskError> {
    Ok(())
}

const LEVEL: u8 = 5;

#[task(priority = LEVEL)]
async fn not_a_literal() -> Result<(), TaskError> {
    Ok(())
}

#[task(priority = 5)]
#[priority(level = 5)]
async fn both_forms() -> Result<(), TaskError> {
    Ok(())
}

#[task("a", name = "b")]
async fn two_names() -> Result<(), TaskError> {
    Ok(())
}

#[task]
#[task]
async fn twice() -> Result<(), TaskError> {
    Ok(())
}

#[task(blocking)]
async fn blocking_and_async() -> Result<(), TaskError> {
    Ok(())
}

fn main() {
    // With wrong settings the callers compile all the same.
    let _ = too_urgent().delay("10s");
}
