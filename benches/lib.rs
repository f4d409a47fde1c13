//! Benchmarks: `cargo bench -p taskloom-benches`.
