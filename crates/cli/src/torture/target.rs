//! The store that is tortured: a file, a server of somebody else, or a server of the torture's own;
//! and what is done to it as a whole.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use taskloom::TaskSystem;
use taskloom::torture::{Cut, Durability, Hold, PrivateServer, Stop, cut, hold};

use super::plan::{Kind, Place};

/// What `--store` says when the torture is to make a server of its own.
pub(super) const OWN_SERVER: &str = "postgres";

/// The store that is tortured.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) url: String,
    pub(super) place: Place,
    /// The server, when it is the torture's own.
    server: Option<Arc<Mutex<PrivateServer>>>,
}

impl Target {
    /// The store that is named, or a new one in `folder`.
    pub(super) async fn new(store: Option<String>, folder: &Path) -> Result<Target> {
        match store {
            Some(store) if store == OWN_SERVER => Target::own_server(folder).await,
            Some(url) => {
                let is_server = url.starts_with("postgres:") || url.starts_with("postgresql:");
                let place = if is_server { Place::Server } else { Place::File };
                Ok(Target { url, place, server: None })
            }
            None => {
                let url = format!("sqlite://{}", folder.join("torture.db").display());
                Ok(Target { url, place: Place::File, server: None })
            }
        }
    }

    async fn own_server(folder: &Path) -> Result<Target> {
        let folder = folder.canonicalize()?;
        let making = move || {
            let server = PrivateServer::start_with_disk(&folder, Durability::Default)?;
            server.database().map(|url| (url, server))
        };
        let made = tokio::task::spawn_blocking(making).await?;
        let (url, server) = made.map_err(|why| anyhow!(why))?;
        let place = Place::OwnServer { has_disk: server.has_disk() };
        Ok(Target { url, place, server: Some(Arc::new(Mutex::new(server))) })
    }

    /// Does a fault to the store for as long as it lasts, and says when it `began`. An error: it
    /// could not be done.
    pub(super) async fn suffer(
        &self,
        kind: Kind,
        length: Duration,
        began: impl FnOnce(),
    ) -> Result<()> {
        let url = || self.url.clone();
        match kind {
            Kind::Kill | Kind::Pause | Kind::Drain => {}
            Kind::Hold => {
                let _held = TaskSystem::open(url()).hold_writes().await?;
                lasting(began, length).await;
            }
            Kind::HoldRows => {
                let _held = hold(url(), Hold::Rows).await?;
                lasting(began, length).await;
            }
            Kind::HoldSnapshot => {
                let _held = hold(url(), Hold::Snapshot).await?;
                lasting(began, length).await;
            }
            Kind::Cut => {
                cut(url(), Cut::Some).await?;
                began();
            }
            Kind::CutAll => {
                cut(url(), Cut::All).await?;
                began();
            }
            Kind::Restart | Kind::Crash | Kind::Away => {
                let how = if kind == Kind::Crash { Stop::Immediate } else { Stop::Fast };
                self.server(move |it| it.stop(how)).await?;
                lasting(began, length).await;
                self.server(|it| it.start_again()).await?;
            }
            Kind::Freeze => {
                self.server(|it| it.freeze()).await?;
                lasting(began, length).await;
                self.server(|it| it.thaw()).await?;
            }
            Kind::DiskFull => {
                self.server(|it| it.fill_disk(true)).await?;
                lasting(began, length).await;
                self.server(|it| it.fill_disk(false)).await?;
            }
        }
        Ok(())
    }

    /// Takes back whatever a fault that was cut short has left.
    pub(super) async fn recover(&self) -> Result<()> {
        if self.server.is_none() {
            return Ok(());
        }
        let recovering = |it: &mut PrivateServer| {
            // None of these may be needed; whether it answers is what counts.
            it.thaw().ok();
            it.fill_disk(false).ok();
            if it.psql("postgres", "").is_ok() { Ok(()) } else { it.start_again() }
        };
        self.server(recovering).await
    }

    /// Does something with the server, on a thread that may wait.
    async fn server(
        &self,
        deed: impl FnOnce(&mut PrivateServer) -> Result<(), String> + Send + 'static,
    ) -> Result<()> {
        let server = self.server.clone().ok_or_else(|| anyhow!("the server is somebody else's"))?;
        let doing = move || deed(&mut server.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(doing).await?.map_err(|why| anyhow!(why))
    }

    /// Stops an own server and leaves its files.
    pub(super) fn keep(self) {
        let server = self.server.and_then(Arc::into_inner).map(Mutex::into_inner);
        if let Some(server) = server {
            server.unwrap_or_else(PoisonError::into_inner).keep().ok();
        }
    }
}

async fn lasting(began: impl FnOnce(), length: Duration) {
    began();
    tokio::time::sleep(length).await;
}
