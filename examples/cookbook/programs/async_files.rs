//! Files from async code: line by line, all or nothing, and many of them.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, BufWriter};
use tokio::task::spawn_blocking;

async fn write_lines(path: &Path, n: usize) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path).await?);
    for i in 0..n {
        file.write_all(format!("line {i}\n").as_bytes()).await?;
    }
    // Without it, what is still in the buffer is lost when the file is dropped.
    file.flush().await
}

async fn count_lines(path: &Path) -> io::Result<usize> {
    let mut lines = BufReader::new(File::open(path).await?).lines();
    let mut n = 0;
    while lines.next_line().await?.is_some() {
        n += 1;
    }
    Ok(n)
}

/// Readers find the old content or the new, and after a power cut too.
async fn write_atomically(path: PathBuf, content: Vec<u8>) -> io::Result<()> {
    let write = move || {
        // In the same folder: a rename is atomic only within a file system.
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let mut new = NamedTempFile::new_in(folder)?;
        new.write_all(&content)?;
        new.as_file().sync_all()?;
        new.persist(&path)?;
        // The name, too, must reach the disk.
        fs::File::open(folder)?.sync_all()
    };
    // One hop for six calls. It runs to its end, even when this future is dropped.
    spawn_blocking(write).await?
}

/// The size of all the files in a folder: one hop for all of them.
async fn size(folder: PathBuf) -> io::Result<u64> {
    let sum = move || fs::read_dir(folder)?.map(|it| Ok(it?.metadata()?.len())).sum();
    spawn_blocking(sum).await?
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;

    let log = folder.path().join("log.txt");
    write_lines(&log, 5000).await?;
    println!("lines: {}", count_lines(&log).await?);

    let settings = folder.path().join("settings.json");
    for content in ["{}", "{\"theme\": \"dark\"}"] {
        write_atomically(settings.clone(), content.into()).await?;
    }
    println!("settings: {}", tokio::fs::read_to_string(&settings).await?);
    println!("files left: {}", fs::read_dir(folder.path())?.count());

    let many = folder.path().join("many");
    tokio::fs::create_dir(&many).await?;
    for n in 0..200 {
        tokio::fs::write(many.join(n.to_string()), "ten bytes.").await?;
    }
    println!("many files: {} bytes", size(many).await?);
    Ok(())
}
