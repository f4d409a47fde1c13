//! Four deadlocks: each is found by a watchdog, and then made impossible.

use std::sync::Arc;
use std::time::Duration;

use taskloom_flow::{BoundedTaskGroup, TaskGroup, timeout};
use tokio::sync::{Mutex, mpsc};
use tokio::task::yield_now;

/// Waits for the routines of a group, and names those that are stuck.
async fn watch(what: &str, mut group: TaskGroup) {
    let all_ended = async { while group.join_next().await.is_some() {} };
    timeout(Duration::from_secs(5), all_ended).await.ok();
    let stuck: Vec<_> = group.routines().into_iter().map(|it| it.name).collect();
    println!("{what}: stuck after 5 s: {stuck:?}");
}

/// Its number, and what is in it.
type Account = Arc<(u32, Mutex<i64>)>;

async fn transfer(from: Account, to: Account, in_order: bool) {
    let mut both = [(from, -10), (to, 10)];
    if in_order {
        both.sort_by_key(|it| it.0.0);
    }
    let [(first, first_by), (second, second_by)] = &both;
    let mut one = first.1.lock().await;
    yield_now().await; // The other transfer has its turn here.
    let mut other = second.1.lock().await;
    *one += first_by;
    *other += second_by;
}

async fn lock_order(what: &str, in_order: bool) {
    let [a, b] = [1, 2].map(|number| Arc::new((number, Mutex::new(100))));
    let group = TaskGroup::new();
    group.spawn("a to b", transfer(Arc::clone(&a), Arc::clone(&b), in_order));
    group.spawn("b to a", transfer(b, a, in_order));
    watch(what, group).await;
}

/// Passes three numbers to the other side, and takes three from it.
async fn trade(out: mpsc::Sender<u32>, mut inbox: mpsc::Receiver<u32>, at_once: bool) {
    let send = async {
        for n in 0..3 {
            out.send(n).await.ok();
        }
    };
    let receive = async { while inbox.recv().await.is_some_and(|n| n < 2) {} };
    if at_once {
        tokio::join!(send, receive);
    } else {
        send.await; // Both channels are full, and both sides stand here.
        receive.await;
    }
}

async fn circle(what: &str, at_once: bool) {
    let ((to_b, from_a), (to_a, from_b)) = (mpsc::channel(1), mpsc::channel(1));
    let group = TaskGroup::new();
    group.spawn("a", trade(to_b, from_b, at_once));
    group.spawn("b", trade(to_a, from_a, at_once));
    watch(what, group).await;
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    lock_order("locks in any order", false).await;
    lock_order("locks in one order", true).await;
    circle("send, then receive", false).await;
    circle("send and receive", true).await;

    // A routine that holds the only slot asks for another: debug builds say so at once, and
    // release builds would wait for ever.
    if !cfg!(debug_assertions) {
        return;
    }
    let group = BoundedTaskGroup::new(1);
    let spawner = group.spawner();
    group.spawn("parent", async move { drop(spawner.spawn("child", async {}).await) }).await;
    let error = group.join().await.expect_err("its parent waits for itself");
    println!("{error}");
}
