//! Orders in a Redis stream: each is shipped once, although a consumer dies over its share.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::streams::{StreamAutoClaimOptions, StreamId, StreamReadOptions};
use redis::{AsyncConnectionConfig, AsyncTypedCommands as _, Client, RedisError};
use taskloom_cookbook::Redis;
use taskloom_flow::{BoxError, timeout};

const N_ORDERS: usize = 10;
/// Work that was not finished for so long is another's: longer than any work may take.
const LEASE: Duration = Duration::from_millis(300);
/// How long a read waits for something new; it is also how often what was left is looked for.
const BLOCK: Duration = Duration::from_millis(50);

struct Consumer {
    name: &'static str,
    /// Of its own: a read that blocks holds up every command behind it on the connection.
    redis: MultiplexedConnection,
}

impl Consumer {
    async fn new(client: &Client, name: &'static str) -> Result<Consumer, RedisError> {
        // A reply may take as long as a read blocks, and some.
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(BLOCK * 100));
        let redis = client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Consumer { name, redis })
    }

    /// At most `n` orders that nobody had.
    async fn new_ones(&mut self, n: usize) -> Result<Vec<StreamId>, RedisError> {
        let group = StreamReadOptions::default().group("shipping", self.name);
        let options = group.count(n).block(BLOCK.as_millis() as usize);
        let reply = self.redis.xread_options(&["orders"], &[">"], &options).await?;
        Ok(reply.map(|it| it.keys.into_iter().flat_map(|it| it.ids).collect()).unwrap_or_default())
    }

    /// At most `n` orders that another took and did not finish within its lease.
    async fn left_ones(&mut self, n: usize) -> Result<Vec<StreamId>, RedisError> {
        let options = StreamAutoClaimOptions::default().count(n);
        let lease = LEASE.as_millis() as usize;
        let (name, redis) = (self.name, &mut self.redis);
        let reply = redis.xautoclaim_options("orders", "shipping", name, lease, "0", options);
        Ok(reply.await?.claimed)
    }

    /// Ships an order; `false` when that was done before. It stands under the order's own number,
    /// so that a second time changes nothing.
    async fn ship(&mut self, order: &StreamId) -> Result<bool, BoxError> {
        let n: u64 = order.get("order").ok_or("an order without its number")?;
        Ok(self.redis.hset_nx("shipped", n, self.name).await?)
    }

    /// Ships what there is until all is done: work first, acknowledge after.
    async fn run(&mut self) -> Result<(usize, usize), BoxError> {
        let (mut n_shipped, mut n_before) = (0, 0);
        loop {
            let mut orders = self.left_ones(5).await?;
            orders.extend(self.new_ones(5).await?);
            for order in orders {
                if self.ship(&order).await? {
                    n_shipped += 1;
                } else {
                    n_before += 1;
                }
                self.redis.xack("orders", "shipping", &[&order.id]).await?;
            }
            let n_done = self.redis.hlen("shipped").await?;
            let pending = self.redis.xpending("orders", "shipping").await?;
            if n_done == N_ORDERS && pending.count() == 0 {
                return Ok((n_shipped, n_before));
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = Redis::start().await?;
    let client = Client::open(server.url())?;
    let mut redis = client.get_multiplexed_async_connection().await?;
    redis.xgroup_create_mkstream("orders", "shipping", "0").await?;
    for n in 1..=N_ORDERS {
        redis.xadd("orders", "*", &[("order", n)]).await?;
    }

    let mut dies = Consumer::new(&client, "dies").await?;
    let taken = dies.new_ones(3).await?;
    dies.ship(&taken[0]).await?;
    println!("dies: took {}, shipped 1, acknowledged none", taken.len());
    drop(dies);

    let mut lives = Consumer::new(&client, "lives").await?;
    let (n_shipped, n_before) = timeout(Duration::from_secs(60), lives.run()).await??;
    println!("lives: shipped {n_shipped}, and left {n_before} that was shipped before");
    println!("shipped in all: {}", redis.hlen("shipped").await?);
    Ok(())
}
