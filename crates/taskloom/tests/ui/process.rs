use taskloom::{TaskError, task};

#[task(process = "child")]
async fn not_said_alone() -> Result<(), TaskError> {
    Ok(())
}

#[task(process(memory = 512))]
async fn memory_without_a_unit() -> Result<(), TaskError> {
    Ok(())
}

#[task(process(memory = "lots"))]
fn memory_that_is_no_size() -> Result<(), TaskError> {
    Ok(())
}

#[task(process(memory = "1MB"))]
fn too_little_memory() -> Result<(), TaskError> {
    Ok(())
}

#[task(process(grace = "soon", memroy = "64MB"))]
async fn two_mistakes() -> Result<(), TaskError> {
    Ok(())
}

#[task(process(memory = "64MB", memory = "32MB"))]
async fn memory_twice() -> Result<(), TaskError> {
    Ok(())
}

#[task(process("64MB"))]
async fn without_saying_which() -> Result<(), TaskError> {
    Ok(())
}

#[task(process, blocking)]
fn child_and_thread() -> Result<(), TaskError> {
    Ok(())
}

#[task(proces)]
async fn misspelt() -> Result<(), TaskError> {
    Ok(())
}

fn main() {}
