//! The expansion passes the strictest lints of a user.
#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, unreachable_pub, unused_qualifications)]

/// Tasks for others to use.
pub mod tasks {
    use taskloom::{Ctx, TaskError, task};

    /// Adds.
    #[task("add")]
    #[retry(max_attempts = 1)]
    #[log_execution]
    pub async fn add(_ctx: &Ctx, a: u8, b: u8) -> Result<u8, TaskError> {
        Ok(a + b)
    }

    /// Adds on a thread.
    #[task]
    pub fn add_blocking(a: u8, b: u8) -> Result<u8, TaskError> {
        Ok(a + b)
    }

    /// Never called from here: known by its name alone.
    #[task]
    #[deprecated = "use `add`"]
    async fn private() -> Result<(), TaskError> {
        Ok(())
    }
}

fn main() {
    let request = tasks::add(1, 2).into_request();
    assert!(request.is_ok());
}
