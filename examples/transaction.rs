//! A transfer of money and the job that tells of it, in one transaction: both or neither.
//!
//! `transaction` keeps all in a SQLite file; `transaction postgres://USER@HOST/DATABASE` in a database.

use std::error::Error;

use taskloom::prelude::*;
use taskloom::submit_in::{self, rusqlite, tokio_postgres};

/// Tells somebody of money that has come.
#[task]
async fn notify(name: String, amount: i64) -> Result<String, TaskError> {
    Ok(format!("{name} has got {amount}"))
}

const ACCOUNTS: &str = "DROP TABLE IF EXISTS accounts; \
     CREATE TABLE accounts (name TEXT PRIMARY KEY, balance BIGINT NOT NULL CHECK (balance >= 0)); \
     INSERT INTO accounts VALUES ('ann', 100), ('bob', 0)";
const PAY: &str = "UPDATE accounts SET balance = balance + $1 WHERE name = $2";

/// Moves money from Ann to Bob. An error drops the transaction, and the job with it.
fn transfer(app: &mut rusqlite::Connection, amount: i64) -> Result<JobId, Box<dyn Error>> {
    let tx = app.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    tx.execute(PAY, (amount, "bob"))?;
    let accepted = submit_in::sqlite(&tx, notify("bob".into(), amount))?;
    tx.execute(PAY, (-amount, "ann"))?;
    tx.commit()?;
    Ok(accepted.id)
}

/// The same on PostgreSQL.
async fn transfer_there(
    app: &mut tokio_postgres::Client,
    amount: i64,
) -> Result<JobId, Box<dyn Error>> {
    let tx = app.transaction().await?;
    tx.execute(PAY, &[&amount, &"bob"]).await?;
    let accepted = submit_in::postgres(&tx, notify("bob".into(), amount)).await?;
    tx.execute(PAY, &[&-amount, &"ann"]).await?;
    tx.commit().await?;
    Ok(accepted.id)
}

async fn tell(system: &TaskSystem, transferred: Result<JobId, Box<dyn Error>>) {
    match transferred {
        Ok(id) => match system.job::<String>(id).await {
            Ok(said) => println!("{said}"),
            Err(error) => println!("{error}"),
        },
        Err(_) => println!("not enough money, and no job"),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or("jobs.db".into());
    let system = TaskSystem::open(&url).start().await?;
    if url.starts_with("postgres://") {
        let (mut app, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
        let transfers = async {
            app.batch_execute(ACCOUNTS).await?;
            for amount in [70, 40] {
                tell(&system, transfer_there(&mut app, amount).await).await;
            }
            Ok(())
        };
        tokio::select! {
            ended = connection => ended?,
            done = transfers => done.map_err(|error: tokio_postgres::Error| error)?,
        }
    } else {
        let mut app = rusqlite::Connection::open(&url)?;
        app.execute_batch(ACCOUNTS)?;
        for amount in [70, 40] {
            tell(&system, transfer(&mut app, amount)).await;
        }
    }
    system.drain().await?;
    Ok(())
}
