//! What `taskloom torture` does to stores, servers to do it to, and what `taskloom bench` asks of
//! them: for tests of how a program bears that. Behind the feature `torture`.

#[cfg(feature = "postgres")]
pub use taskloom_store::postgres::{
    Cut, Held, Hold, ServerUse, cut, drop_schema, hold, is_vacant, server_use,
};
#[cfg(all(unix, feature = "postgres"))]
pub use taskloom_store::postgres::{Durability, PrivateServer, Stop};
pub use taskloom_store::sqlite::WriteHold;
pub use taskloom_store::{Beat, Claimed, Demand, NewNode, Queues};
