#![allow(unused)]

use taskloom::{Ctx, TaskError, task};

#[task]
async fn generic<T>(value: T) -> Result<(), TaskError> {
    Ok(())
}

#[task]
async fn with_lifetime<'a>(value: u8) -> Result<(), TaskError> {
    Ok(())
}

#[task]
async fn borrowed_text(url: &str) -> Result<(), TaskError> {
    Ok(())
}

#[task]
async fn borrowed_deep_inside(urls: Vec<&'static str>, bytes: &[u8]) -> Result<(), TaskError> {
    Ok(())
}

#[task]
async fn anything(url: impl Into<String>) -> Result<(), TaskError> {
    Ok(())
}

#[task]
async fn no_result(url: String) -> String {
    url
}

#[task]
async fn nothing(url: String) {}

#[task]
async fn hidden_types(url: String) -> std::fmt::Result {
    Ok(())
}

#[task]
async fn pattern((a, b): (u8, u8)) -> Result<(), TaskError> {
    Ok(())
}

#[task]
async fn nameless(_: u8) -> Result<(), TaskError> {
    Ok(())
}

#[task]
async fn ctx_by_value(ctx: Ctx) -> Result<(), TaskError> {
    Ok(())
}

#[task]
async fn ctx_changed(ctx: &mut Ctx) -> Result<(), TaskError> {
    Ok(())
}

#[task]
async fn ctx_last(url: String, ctx: &Ctx) -> Result<(), TaskError> {
    Ok(())
}

#[task]
unsafe extern "C" fn foreign() -> Result<(), TaskError> {
    Ok(())
}

struct Client;

impl Client {
    #[task]
    async fn method(&self, url: String) -> Result<(), TaskError> {
        Ok(())
    }
}

#[task]
async fn several_at_once(url: &str, _: u8) -> String {
    String::new()
}

fn main() {}
