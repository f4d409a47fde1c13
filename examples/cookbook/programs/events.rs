//! Parts of a program that hear of each other, and share nothing but the types of their events.

use std::sync::Arc;
use std::time::Duration;

use taskloom_flow::{EventBus, EventsMissed, HandlerReport, Overflow, SubscriptionOptions};

struct OrderPlaced {
    id: u32,
}

struct OrderPaid {
    id: u32,
}

/// How full the store is, in percent.
struct Level(u32);

/// Takes the payment for each order, and tells of it.
fn install_payments(bus: &EventBus) {
    let publisher = bus.publisher(); // Handlers publish with this; they don't own the bus.
    bus.on("payments", move |order: Arc<OrderPlaced>| {
        let publisher = publisher.clone();
        async move {
            if order.id == 2 {
                return Err("card declined".into());
            }
            publisher.publish(OrderPaid { id: order.id });
            Ok(())
        }
    });
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = EventBus::new();
    install_payments(&bus);
    let mut paid = bus.subscribe::<OrderPaid>();
    let mut reports = bus.subscribe::<HandlerReport>();

    // A publisher knows no subscriber. A handler that fails goes on, and its failure is an event.
    for id in 1..=3 {
        let published = bus.publish(OrderPlaced { id });
        assert_eq!(published.delivered, 1);
    }
    let first = paid.recv().await.expect("the bus is open")?;
    let second = paid.recv().await.expect("the bus is open")?;
    println!("paid: {} and {}", first.id, second.id);
    println!("{}", reports.recv().await.expect("the bus is open")?);

    // Overflow: a backlog is bounded, and whoever fell behind is told by how much.
    let options = SubscriptionOptions::new().backlog_max(2);
    let mut latest = bus.subscribe_with::<Level>(options);
    let mut first = bus.subscribe_with::<Level>(options.overflow(Overflow::DropNewest));
    for level in [10, 20, 30, 40, 50] {
        bus.publish(Level(level));
    }
    let missed: EventsMissed =
        latest.recv().await.expect("the bus is open").err().expect("it is behind");
    println!("drop the oldest: {missed}");
    println!("then {}", latest.recv().await.expect("the bus is open")?.0);
    println!("drop the newest: {} first", first.recv().await.expect("the bus is open")?.0);

    // Replay: who comes late begins with the last event there was.
    let mut late = bus.subscribe_with_last::<Level>();
    println!("late: {}", late.recv().await.expect("the bus is open")?.0);

    // The end: handlers work off what they have.
    bus.publish(OrderPlaced { id: 4 });
    let drained = bus.drain(Duration::from_secs(5)).await;
    println!("aborted handlers: {}", drained.n_aborted);
    Ok(())
}
