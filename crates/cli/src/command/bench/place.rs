//! Where a bench works: a new file, or a server without our schema; gone at the end.

use std::path::PathBuf;

use anyhow::{Context, Result};
use taskloom::torture::{drop_schema, is_vacant};

use crate::args::BenchArgs;
use crate::exit::Usage;

/// A store of the bench's own.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) url: String,
    pub(super) is_server: bool,
    _folder: Option<Folder>,
}

impl Bench {
    /// A new store, on the server that `store` names, or else in a file with its settings.
    pub(super) async fn new(store: &str, args: &BenchArgs) -> Result<Bench> {
        if store.starts_with("postgres:") || store.starts_with("postgresql:") {
            if !is_vacant(store.to_owned()).await? {
                let message = "the database has a schema taskloom already; bench drops what it \
                     makes and touches nothing else: name another database (or, if that is what an \
                     earlier bench left, DROP SCHEMA taskloom CASCADE)";
                return Err(Usage(message.into()).into());
            }
            return Ok(Bench { url: store.to_owned(), is_server: true, _folder: None });
        }
        let folder = Folder::new(args.folder.clone())?;
        let url = format!("sqlite://{}", folder.0.join("bench.db").display());
        let url = match store.split_once('?') {
            Some((_, settings)) => format!("{url}?{settings}"),
            None => url,
        };
        Ok(Bench { url, is_server: false, _folder: Some(folder) })
    }

    /// Leaves the server as it was found; a file goes with the value.
    pub(super) async fn clear(&self) -> Result<()> {
        if self.is_server && !is_vacant(self.url.clone()).await? {
            drop_schema(self.url.clone()).await?;
        }
        Ok(())
    }
}

/// The folder of the store; a temporary one is removed at the end.
#[derive(Debug)]
struct Folder(PathBuf, bool);

impl Folder {
    fn new(named: Option<PathBuf>) -> Result<Folder> {
        let is_temporary = named.is_none();
        // Beside the working directory, not in memory-backed /tmp: the disk is what is measured.
        let name = format!(".taskloom-bench-{}", std::process::id());
        let folder = named.unwrap_or_else(|| PathBuf::from(name));
        if folder.join("bench.db").exists() {
            let folder = folder.display();
            let message = format!("{folder} holds a bench.db already; remove it or name another");
            return Err(Usage(message).into());
        }
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Folder(folder, is_temporary))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.1 {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }
}
