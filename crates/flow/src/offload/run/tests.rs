//! Answers, room, the flag, panics, and the end of the pool.

use std::sync::mpsc::{Receiver, Sender, channel};

use futures::{StreamExt as _, TryStreamExt as _, poll};

use super::*;

/// A closure that tells when it begins, and runs until it is released.
fn occupied() -> (impl FnOnce(&CancelFlag) + Send + 'static, Receiver<()>, Sender<()>) {
    let (release, released) = channel::<()>();
    let (began, begun) = channel();
    let f = move |_: &CancelFlag| {
        began.send(()).unwrap();
        released.recv().ok();
    };
    (f, begun, release)
}

fn n_waiting(pool: &Offload) -> usize {
    pool.shared.state.lock().backlog.len()
}

#[tokio::test]
async fn answers_and_panics_come_back() {
    let pool = Offload::new("test", 2);
    assert_eq!(pool.run(|_| 7).await, Ok(7));
    let panicked = pool.run(|_| -> u32 { panic!("no luck") }).await;
    let Err(OffloadError::Panicked(panicked)) = panicked else { panic!("{panicked:?}") };
    assert_eq!(panicked.message, "no luck");
    assert_eq!(pool.run(|_| 8).await, Ok(8));
}

#[tokio::test]
async fn callers_wait_for_room_and_get_it_in_their_order() {
    let pool = Offload::with_backlog("test", 1, 1);
    let (f, begun, release) = occupied();
    let mut first = Box::pin(pool.run(f));
    assert!(poll!(first.as_mut()).is_pending());
    begun.recv().unwrap();
    let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let note = |n: u32| {
        let order = Arc::clone(&order);
        pool.run(move |_| order.lock().push(n))
    };
    let mut waiting: Vec<_> = (0..5).map(|n| Box::pin(note(n))).collect();
    for call in &mut waiting {
        assert!(poll!(call.as_mut()).is_pending());
    }
    assert_eq!(n_waiting(&pool), 1, "the others wait outside");
    assert_eq!(pool.try_submit(|| {}), Err(super::super::Full));
    drop(release);
    futures::future::join_all(waiting).await;
    assert_eq!(*order.lock(), [0, 1, 2, 3, 4]);
    first.await.unwrap();
}

#[tokio::test]
async fn a_dropped_call_raises_the_flag_of_what_runs() {
    let pool = Offload::new("test", 1);
    let (began, begun) = channel();
    let (ended, end) = channel();
    let mut call = Box::pin(pool.run(move |cancel| {
        began.send(()).unwrap();
        while !cancel.is_cancelled() {
            std::thread::yield_now();
        }
        ended.send(()).unwrap();
    }));
    assert!(poll!(call.as_mut()).is_pending());
    begun.recv().unwrap();
    drop(call);
    assert_eq!(end.recv(), Ok(()));
}

#[tokio::test]
async fn a_dropped_call_frees_the_place_of_what_waits_and_hands_on_its_turn() {
    let pool = Offload::with_backlog("test", 1, 1);
    let (f, begun, release) = occupied();
    let mut first = Box::pin(pool.run(f));
    assert!(poll!(first.as_mut()).is_pending());
    begun.recv().unwrap();
    let held = Arc::new(());
    let in_call = Arc::clone(&held);
    let mut in_backlog = Box::pin(pool.run(move |_| drop(in_call)));
    let mut has_turn = Box::pin(pool.run(|_| 2));
    let mut last = Box::pin(pool.run(|_| 3));
    assert!(poll!(in_backlog.as_mut()).is_pending());
    assert!(poll!(has_turn.as_mut()).is_pending());
    assert!(poll!(last.as_mut()).is_pending());
    drop(in_backlog);
    assert_eq!((n_waiting(&pool), Arc::strong_count(&held)), (0, 1), "it will never run");
    assert!(poll!(has_turn.as_mut()).is_pending());
    assert_eq!(n_waiting(&pool), 1, "who waited for the place heard of it");
    drop(has_turn);
    assert!(poll!(last.as_mut()).is_pending());
    assert_eq!(n_waiting(&pool), 1, "the last one has the place now");
    drop(release);
    assert_eq!(last.await, Ok(3));
    first.await.unwrap();
}

#[tokio::test]
async fn a_closed_pool_refuses_and_ends_those_who_wait() {
    let pool = Offload::with_backlog("test", 1, 1);
    let (f, begun, release) = occupied();
    let mut first = Box::pin(pool.run(f));
    assert!(poll!(first.as_mut()).is_pending());
    begun.recv().unwrap();
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(pool.run(|_| {}))).collect();
    for call in &mut waiting {
        assert!(poll!(call.as_mut()).is_pending());
    }
    pool.close();
    for call in waiting {
        assert_eq!(call.await, Err(OffloadError::Closed));
    }
    assert_eq!(pool.run(|_| {}).await, Err(OffloadError::Closed));
    assert_eq!(pool.try_submit(|| {}), Err(super::super::Full));
    drop(release);
    assert_eq!(first.await, Ok(()), "what ran goes on");
}

#[tokio::test]
async fn map_cpu_keeps_the_order_and_isolates_panics() {
    let pool = Offload::new("test", 3);
    let half = |it: u32| if it == 5 { panic!("five") } else { it * 2 };
    let answers: Vec<_> = pool.map_cpu(0..10, half).collect().await;
    for (n, answer) in (0..10).zip(&answers) {
        assert_eq!(answer.is_err(), n == 5);
        assert!(answer.as_ref().map_or(true, |it| *it == n * 2));
    }
    let answers: Result<Vec<u32>, _> = pool.map_cpu(0..10, half).try_collect().await;
    assert!(answers.unwrap_err().to_string().contains("five"));
}
