//! A file much larger than the memory it takes; alone in its process, whose peak is measured.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fs::File;
use std::io::{BufWriter, Write};

use taskloom_dispatch::{BlockingTask, Ctx};
use taskloom_tasks::{Data, DataArgs};

/// How much more memory reading the file may take than the process had before.
const GROWTH_KIB_MAX: u64 = 12 << 10;
const N_ROWS: u64 = 400_000;

/// The most memory this process has had, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|it| it.starts_with("VmHWM:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_large_file_takes_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (csv, ndjson) = (folder.path().join("in.csv"), folder.path().join("out.ndjson"));
    let mut writer = BufWriter::new(File::create(&csv).unwrap());
    writeln!(writer, "n,key,value,filler").unwrap();
    for n in 0..N_ROWS {
        let (key, value, filler) = (n % 97, n * 7 % 1000, "x".repeat(60));
        writeln!(writer, "{n},key-{key},{value}.5,{filler}").unwrap();
    }
    writer.into_inner().unwrap().sync_all().unwrap();
    let n_bytes = std::fs::metadata(&csv).unwrap().len();
    assert!(2 * GROWTH_KIB_MAX * 1024 < n_bytes, "{n_bytes} bytes are no large file");

    let before = peak_kib();
    let ctx = Ctx::detached();
    let converted = Data::default().run(&ctx, DataArgs::new(&csv).output(&ndjson)).unwrap();
    assert_eq!((converted.rows_in, converted.bytes), (N_ROWS, n_bytes));
    assert_eq!(ctx.last_progress().unwrap().fraction, 1.0);
    let grouped = DataArgs::new(&ndjson)
        .group_by(["key"])
        .aggregate("n", "count()")
        .aggregate("p99", "quantile(value, 0.99)");
    let grouped = Data::default().run(&Ctx::detached(), grouped).unwrap();
    assert_eq!((grouped.rows_in, grouped.groups), (N_ROWS, 97));
    let growth = peak_kib() - before;
    assert!(growth < GROWTH_KIB_MAX, "{growth} KiB more");
}
