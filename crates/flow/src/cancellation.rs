//! Cancellation: a tree of tokens that say why.
//!
//! # Invariants
//! - A cancelled token stays cancelled, for the first reason given.
//! - Cancelling a token cancels its children, never its parent.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

/// Why something was cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Somebody asked for it, in these words.
    Asked(Cow<'static, str>),
    /// The routine of this name failed, and its siblings end with it.
    SiblingFailed(Cow<'static, str>),
    /// The owner drains: what was begun may be finished, nothing new is taken.
    Draining,
    /// The owner was dropped.
    OwnerDropped,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Asked(words) => f.write_str(words),
            Reason::SiblingFailed(name) => write!(f, "the routine {name:?} failed"),
            Reason::Draining => f.write_str("the owner drains"),
            Reason::OwnerDropped => f.write_str("the owner was dropped"),
        }
    }
}

impl From<&'static str> for Reason {
    fn from(words: &'static str) -> Self {
        Reason::Asked(words.into())
    }
}

impl From<String> for Reason {
    fn from(words: String) -> Self {
        Reason::Asked(words.into())
    }
}

/// What was under way was cancelled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cancelled: {reason}")]
pub struct Cancelled {
    /// Why.
    pub reason: Reason,
}

/// A token in a tree: whoever holds it hears of cancellation, and of its reason.
///
/// Clones are the same token. Built on [`CancellationToken`], which it gives to code that wants
/// one ([`Cancellation::token`]); what it adds is the reason.
///
/// ```
/// use taskloom_flow::{Cancellation, Reason};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let server = Cancellation::new();
/// let request = server.child();
/// server.cancel("the operator asked");
/// assert_eq!(request.cancelled().await, Reason::from("the operator asked"));
///
/// let cancelled = request.run(std::future::pending::<()>()).await.unwrap_err();
/// assert_eq!(cancelled.to_string(), "cancelled: the operator asked");
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Cancellation {
    node: Arc<Node>,
}

#[derive(Default)]
struct Node {
    token: CancellationToken,
    /// Set before the token fires, so whoever hears of it finds it here.
    reason: OnceLock<Reason>,
    parent: Option<Cancellation>,
}

impl Cancellation {
    /// A token without a parent.
    #[must_use]
    pub fn new() -> Self {
        Cancellation::default()
    }

    /// A token that is cancelled with this one, and can be cancelled alone.
    #[must_use]
    pub fn child(&self) -> Self {
        let token = self.node.token.child_token();
        let parent = Some(self.clone());
        Cancellation { node: Arc::new(Node { token, parent, ..Node::default() }) }
    }

    /// A token that is cancelled with `token`, of whose reason nothing is known.
    #[must_use]
    pub fn child_of(token: &CancellationToken) -> Self {
        let token = token.child_token();
        Cancellation { node: Arc::new(Node { token, ..Node::default() }) }
    }

    /// Cancels this token and its children. Of several reasons the first stays.
    pub fn cancel(&self, reason: impl Into<Reason>) {
        if !self.is_cancelled() {
            self.node.reason.get_or_init(|| reason.into());
            self.node.token.cancel();
        }
    }

    /// Whether it, or one above it, was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.node.token.is_cancelled()
    }

    /// Why it was cancelled; `None` while it is not.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        if !self.is_cancelled() {
            return None;
        }
        let mut node = &self.node;
        loop {
            if let Some(reason) = node.reason.get() {
                return Some(reason.clone());
            }
            let Some(parent) = node.parent.as_ref().filter(|it| it.is_cancelled()) else {
                // Cancelled through the token of tokio-util, which knows of no reasons.
                return Some(Reason::from("no reason was given"));
            };
            node = &parent.node;
        }
    }

    /// Waits until it is cancelled, and says why.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn cancelled(&self) -> Reason {
        self.node.token.cancelled().await;
        // A loop that swallows its cancellation comes by here again and again without ever
        // waiting: once in a while it lets others run, and lets itself be aborted.
        tokio::task::coop::consume_budget().await;
        self.reason().expect("it was cancelled")
    }

    /// Runs `future` until it ends or the token is cancelled; then the future is dropped at its
    /// await point. A future that is ready at that moment keeps its output.
    ///
    /// # Errors
    /// [`Cancelled`], with the reason, when the token was faster.
    ///
    /// # Cancel safety
    /// That of `future`.
    pub async fn run<F: Future>(&self, future: F) -> Result<F::Output, Cancelled> {
        tokio::select! {
            biased;
            output = future => Ok(output),
            reason = self.cancelled() => Err(Cancelled { reason }),
        }
    }

    /// The token beneath, for code that knows only tokio-util.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.node.token
    }
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancellation").field("reason", &self.reason()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[track_caller]
    fn check_reason(token: &Cancellation, expected: Option<&'static str>) {
        assert_eq!(token.reason(), expected.map(Reason::from));
    }

    #[test]
    fn a_reason_goes_down_the_tree_and_never_up() {
        let root = Cancellation::new();
        let (left, right) = (root.child(), root.child());
        let leaf = left.child();
        left.cancel("left");
        check_reason(&leaf, Some("left"));
        check_reason(&right, None);
        check_reason(&root, None);
        root.cancel("root");
        check_reason(&right, Some("root"));
        check_reason(&leaf, Some("left"));
    }

    #[test]
    fn the_first_reason_stays() {
        let token = Cancellation::new();
        token.cancel("first");
        token.cancel("second");
        check_reason(&token, Some("first"));
        check_reason(&token.child(), Some("first"));
    }

    #[test]
    fn a_bare_token_has_no_reason_to_give() {
        let bare = CancellationToken::new();
        let token = Cancellation::child_of(&bare);
        bare.cancel();
        check_reason(&token.child(), Some("no reason was given"));
    }

    #[tokio::test]
    async fn an_output_that_is_ready_is_kept() {
        let token = Cancellation::new();
        token.cancel("late");
        assert_eq!(token.run(ready(7)).await, Ok(7));
        assert_eq!(token.run(pending::<()>()).await.unwrap_err().reason, Reason::from("late"));
    }

    #[tokio::test]
    async fn a_future_that_is_cancelled_is_dropped_before_it_is_told() {
        let token = Cancellation::new();
        let held = Arc::new(());
        let inside = Arc::clone(&held);
        let work = token.run(async move {
            pending::<()>().await;
            drop(inside);
        });
        let cancel = async { token.cancel("enough") };
        let (said, ()) = tokio::join!(work, cancel);
        assert!(said.is_err());
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
