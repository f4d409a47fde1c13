//! Handlers: what their failures cost, and how they end.

use super::*;

struct Do(&'static str);

/// A handler that does as its event says, after a second.
async fn obey(event: Arc<Do>) -> Result<(), BoxError> {
    sleep(Duration::from_secs(1)).await;
    match event.0 {
        "error" => Err("no luck".into()),
        "panic" => panic!("bad luck"),
        _ => Ok(()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_lives_on_after_errors_and_panics() {
    let bus = EventBus::new();
    let mut reports = bus.subscribe::<HandlerReport>();
    bus.on("it", obey);
    bus.on("broken", |_: Arc<Do>| -> futures::future::Ready<_> { panic!("at once") });
    for event in ["error", "panic", "fine"] {
        assert_eq!(bus.publish(Do(event)), published(2, 0));
    }
    sleep(Duration::from_secs(10)).await;
    let mut texts = Vec::new();
    while let Some(Some(Ok(report))) = reports.recv().now_or_never() {
        assert!(report.event.ends_with("::Do"));
        texts.push(report.to_string());
    }
    let broken = "handler `broken` panicked: at once";
    let its = ["handler `it` errored: no luck", "handler `it` panicked: bad luck"];
    assert_eq!(texts, [broken, broken, broken, its[0], its[1]]);
    let stats = bus.stats();
    let topic = stats.iter().find(|it| it.event.ends_with("::Do")).unwrap();
    let counts = topic.subscribers.iter().map(|it| (it.name, it.handled, it.failed));
    assert_eq!(counts.collect::<Vec<_>>(), [("it", 3, 2), ("broken", 3, 3)]);
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_misses_is_reported() {
    let bus = EventBus::new();
    let mut reports = bus.subscribe::<HandlerReport>();
    bus.on_with(SubscriptionOptions::new().named("slow").backlog_max(1), obey);
    for _ in 0..4 {
        bus.publish(Do("fine"));
    }
    let report = reports.recv().await.unwrap().unwrap();
    assert_eq!(report.to_string(), "handler `slow` missed 3 events");
    assert_eq!(report.trouble, HandlerTrouble::Missed(3));
}

#[tokio::test(start_paused = true)]
async fn a_handler_of_reports_that_fails_reports_nothing() {
    let bus = EventBus::new();
    bus.on("reporter", |_: Arc<HandlerReport>| async { Err("no paper".into()) });
    bus.on("it", obey);
    bus.publish(Do("error"));
    sleep(Duration::from_secs(10)).await;
    let stats = bus.stats();
    let reports = stats.iter().find(|it| it.event.contains("HandlerReport")).unwrap();
    assert_eq!((reports.published, reports.subscribers[0].failed), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_handler_publishes_to_the_bus_it_is_on() {
    let bus = EventBus::new();
    let to = bus.publisher();
    bus.on("double", move |n: Arc<i64>| {
        let to = to.clone();
        async move {
            if *n < 100 {
                to.publish(*n * 2);
            }
            Ok(())
        }
    });
    let mut numbers = bus.subscribe::<i64>();
    bus.publish(30_i64);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(taken(&mut numbers), [30, 60, 120]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_taken_off_ends_its_call_and_no_more() {
    let n_ended = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&n_ended);
    let bus = EventBus::new();
    let handler = bus.on("it", move |_: Arc<i64>| {
        let counted = Arc::clone(&counted);
        async move {
            sleep(Duration::from_secs(1)).await;
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    });
    bus.publish(1_i64);
    bus.publish(2_i64);
    sleep(Duration::from_millis(500)).await;
    handler.off();
    assert_eq!(bus.publish(3_i64), published(0, 0));
    assert_eq!(bus.publish_wait(4_i64).now_or_never(), Some(published(0, 0)));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(n_ended.load(Ordering::Relaxed), 1);
    assert!(bus.stats()[0].subscribers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_handlers_end_what_they_have() {
    for (deadline, n_aborted, n_left) in [(5, 0, 0), (2, 1, 2)] {
        let bus = EventBus::new();
        let left = Arc::new(AtomicUsize::new(4));
        let count = Arc::clone(&left);
        bus.on("it", move |_: Arc<i64>| {
            let count = Arc::clone(&count);
            async move {
                sleep(Duration::from_secs(1)).await;
                count.fetch_sub(1, Ordering::Relaxed);
                Ok(())
            }
        });
        for n in 0..4_i64 {
            bus.publish(n);
        }
        let deadline = Duration::from_secs(deadline) + Duration::from_millis(500);
        let drained = bus.drain(deadline).await;
        assert_eq!((drained.n_aborted, left.load(Ordering::Relaxed)), (n_aborted, n_left));
        assert_eq!(bus.publish(9_i64), published(0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_bus_aborts_its_handlers() {
    let bus = EventBus::new();
    let (held, kept) = (Arc::new(()), bus.publisher());
    let in_handler = Arc::clone(&held);
    bus.on("it", move |_: Arc<i64>| {
        let held = Arc::clone(&in_handler);
        async move {
            futures::future::pending::<()>().await;
            drop(held);
            Ok(())
        }
    });
    bus.publish(1_i64);
    tokio::task::yield_now().await;
    assert_eq!(Arc::strong_count(&held), 3);
    drop(bus);
    tokio::task::yield_now().await;
    assert_eq!(Arc::strong_count(&held), 1);
    assert_eq!(kept.publish(2_i64), published(0, 0));
}
