//! PostgreSQL through a pool: a batch, a transaction, rows as a stream, and the bound of the pool.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use futures::TryStreamExt as _;
use taskloom_cookbook::Postgres;
use taskloom_flow::{BoxError, gather};
use tokio_postgres::error::SqlState;
use tokio_postgres::{NoTls, Row};

const N_CONNECTIONS: usize = 3;

fn pool(server: &Postgres) -> Result<Pool, BoxError> {
    let config = ManagerConfig { recycling_method: RecyclingMethod::Verified };
    let manager = Manager::from_config(server.config(), NoTls, config);
    let wait = Some(Duration::from_secs(20));
    let pool = Pool::builder(manager).max_size(N_CONNECTIONS).runtime(Runtime::Tokio1);
    Ok(pool.wait_timeout(wait).create_timeout(wait).recycle_timeout(wait).build()?)
}

/// All rows with one statement: a query for each row would wait for the server each time.
async fn insert(pool: &Pool, names: &[String], balance: i64) -> Result<u64, BoxError> {
    let client = pool.get().await?;
    let text = "INSERT INTO accounts (name, balance) SELECT unnest($1::text[]), $2";
    let insert = client.prepare_cached(text).await?; // once for each connection
    Ok(client.execute(&insert, &[&names, &balance]).await?)
}

/// Moves money, all of it or none: a transaction that is dropped is rolled back.
async fn transfer(pool: &Pool, from: &str, to: &str, amount: i64) -> Result<(), BoxError> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    let text = "UPDATE accounts SET balance = balance + $2 WHERE name = $1";
    let update = transaction.prepare_cached(text).await?;
    for (name, amount) in [(to, amount), (from, -amount)] {
        transaction.execute(&update, &[&name, &amount]).await?;
    }
    Ok(transaction.commit().await?)
}

/// The sum, row by row: a table may be larger than memory.
async fn sum(pool: &Pool) -> Result<(usize, i64), BoxError> {
    let client = pool.get().await?;
    let query = client.prepare_cached("SELECT balance FROM accounts").await?;
    let rows = client.query_raw(&query, std::iter::empty::<i64>()).await?;
    let add = async |(n, sum), row: Row| Ok((n + 1, sum + row.get::<_, i64>(0)));
    Ok(rows.try_fold((0, 0), add).await?)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = Postgres::start().await?;
    let pool = pool(&server)?;
    let table =
        "CREATE TABLE accounts (name text PRIMARY KEY, balance bigint CHECK (0 <= balance))";
    pool.get().await?.batch_execute(table).await?;
    let names: Vec<String> = (0..1000).map(|n| format!("account {n}")).collect();
    println!("inserted: {}", insert(&pool, &names, 100).await?);

    // Fifty transfers at once share three connections.
    let transfers = (0..50).map(|n| transfer(&pool, &names[n], &names[n + 50], 30));
    gather(transfers.collect::<Vec<_>>()).await?;
    println!("connections: {}", pool.status().size);

    let refused = transfer(&pool, &names[0], &names[1], 71).await;
    let error = refused.expect_err("there are 70 left").downcast::<tokio_postgres::Error>()?;
    assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION));
    println!("refused: {}", error.as_db_error().ok_or("the server says why")?.message());
    println!("accounts and money, as before: {:?}", sum(&pool).await?);

    // Whoever asks for one more waits, and not for ever.
    let _held = gather([pool.get(), pool.get(), pool.get()]).await?;
    let mut limits = pool.timeouts();
    limits.wait = Some(Duration::from_millis(20));
    let Err(error) = pool.timeout_get(&limits).await else { return Err("a fourth".into()) };
    println!("a fourth: {error}");
    Ok(())
}
