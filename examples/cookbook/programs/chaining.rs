//! One call after another: each answer leads to the next question.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::{Json, Router, routing::get};
use serde::{Deserialize, Serialize};
use taskloom_cookbook::{Server, client};
use taskloom_flow::{BoxError, TaskGroup};

#[derive(Serialize, Deserialize)]
struct User {
    name: String,
    team: u32,
}

/// Two users are known, and each team has a page.
fn routes() -> Router {
    let user = async |Path(id): Path<u32>| match id {
        1 => Ok(Json(User { name: "ada".into(), team: 42 })),
        2 => Ok(Json(User { name: "alan".into(), team: 7 })),
        _ => Err(StatusCode::NOT_FOUND),
    };
    Router::new().route("/user/{id}", get(user))
}

#[derive(Clone)]
struct Api {
    client: reqwest::Client,
    root: String,
}

impl Api {
    /// `?` after the await: an error ends this function, and goes to whoever awaits it.
    async fn user(&self, id: u32) -> Result<User, reqwest::Error> {
        let url = format!("{}/user/{id}", self.root);
        self.client.get(url).send().await?.error_for_status()?.json().await
    }

    async fn team_page(&self, user: &User) -> Result<String, reqwest::Error> {
        let url = format!("{}/page/{}", self.root, user.team);
        self.client.get(url).send().await?.error_for_status()?.text().await
    }

    /// Borrows `seen` across every await: no lock, no copy, as it runs within its caller.
    async fn visit(&self, id: u32, seen: &mut Vec<String>) -> Result<usize, reqwest::Error> {
        let user = self.user(id).await?;
        seen.push(user.name.clone());
        Ok(self.team_page(&user).await?.len())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = Server::with(routes()).await;
    let api = Api { client: client(), root: server.url("") };

    // A call that nobody awaits is a value and no more.
    let later = api.user(1);
    println!("requests before the await: {}", server.n_requests());
    println!("the user: {}", later.await?.name);

    let mut seen = Vec::new();
    let lengths = [api.visit(1, &mut seen).await?, api.visit(2, &mut seen).await?];
    println!("saw {seen:?}, pages of {lengths:?} bytes");

    // The second step is not taken when the first fails.
    let error = api.visit(3, &mut seen).await.expect_err("there is no user 3");
    println!("the third: {}; seen: {}", error.status().map_or(0, |it| it.as_u16()), seen.len());

    // A routine may outlive its caller, so its chain owns what it needs: `async move`.
    let group = TaskGroup::new();
    let inside = api.clone();
    let page = group.spawn("chain", async move {
        let user = inside.user(2).await?;
        inside.team_page(&user).await
    });
    println!("from a routine: {} bytes", page.await?.len());
    group.join().await?;
    Ok(())
}
