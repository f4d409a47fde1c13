//! The folder of the demo: its store, its downloads, its results and its mail.
//!
//! # Invariants
//! - One demo at a time works in a folder: whoever does holds the lock on its mark.
//! - A folder with other things in it is refused, and no file is removed that the demo didn't make.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::records;
use super::results::RESULT_FILES;
use crate::exit::Usage;

/// Marks a folder as one of the demo; locked while a demo works in it.
const MARK: &str = "demo.lock";

/// The folder, while this demo holds it.
#[derive(Debug)]
pub(super) struct Folder {
    given: PathBuf,
    root: PathBuf,
    /// Its lock ends with it, however the process ends.
    _mark: File,
}

impl Folder {
    /// Makes or takes the folder; with `fresh`, what an earlier demo made there is removed.
    pub(super) fn open(given: &Path, fresh: bool) -> Result<Folder> {
        let shown = given.display();
        check_is_ours(given)?;
        fs::create_dir_all(given).with_context(|| format!("can't make {shown}"))?;
        let root = given.canonicalize().with_context(|| format!("can't find {shown}"))?;
        if root.to_str().is_none_or(|it| it.contains('?')) {
            let why = format!("{shown} can't stand in the address of a store; choose another name");
            return Err(Usage(why).into());
        }
        let mark = File::options().write(true).create(true).truncate(false).open(root.join(MARK));
        let mark = mark.with_context(|| format!("can't write to {shown}"))?;
        match mark.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let why =
                    format!("another demo is at work in {shown}; give it a --folder of its own");
                return Err(Usage(why).into());
            }
            Err(fs::TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("can't lock {shown}"));
            }
        }
        let folder = Folder { given: given.to_owned(), root, _mark: mark };
        if fresh {
            folder.forget().with_context(|| format!("can't clear {shown}"))?;
        }
        for it in [folder.data(), folder.results()] {
            fs::create_dir_all(&it).with_context(|| format!("can't make {}", it.display()))?;
        }
        Ok(folder)
    }

    /// The address of the store, for this process.
    pub(super) fn store_url(&self) -> String {
        format!("sqlite://{}", self.root.join("demo.db").display())
    }

    /// A path in it, as the user would write it.
    pub(super) fn shown(&self, name: &str) -> String {
        self.given.join(name).display().to_string()
    }

    /// Where downloads go.
    pub(super) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Where results go.
    pub(super) fn results(&self) -> PathBuf {
        self.root.join("results")
    }

    /// Where mail is kept.
    pub(super) fn mail(&self) -> PathBuf {
        self.root.join("mail")
    }

    /// Removes what an earlier demo made.
    fn forget(&self) -> io::Result<()> {
        for name in ["demo.db", "demo.db-wal", "demo.db-shm"] {
            remove(fs::remove_file(self.root.join(name)))?;
        }
        remove(fs::remove_dir_all(self.root.join("demo.db-nodes")))?;
        for it in records::FILES {
            remove(fs::remove_file(self.data().join(it.name)))?;
            remove(fs::remove_file(self.data().join(unfinished(it.name))))?;
        }
        for name in RESULT_FILES {
            remove(fs::remove_file(self.results().join(name)))?;
        }
        let is_unfinished = |it: &str| it.starts_with(".taskloom-") && it.ends_with(".part");
        let left_over = files(&self.results(), is_unfinished)?;
        for path in left_over.into_iter().chain(messages(&self.mail())?) {
            remove(fs::remove_file(path))?;
        }
        for it in [self.data(), self.results(), self.mail()] {
            // One that holds something else as well stays.
            fs::remove_dir(it).ok();
        }
        Ok(())
    }
}

/// What a download is called until it is whole.
pub(super) fn unfinished(name: &str) -> String {
    format!(".{name}.part")
}

/// The messages kept in a mail folder.
pub(super) fn messages(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let is_number = |it: &str| it.len() == 6 && it.bytes().all(|it| it.is_ascii_digit());
    files(folder, |it| it.strip_suffix(".eml").is_some_and(is_number))
}

/// The files of a folder that have such a name; none when there is no folder.
fn files(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&is_wanted) {
            files.push(entry.path());
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// A new or empty folder becomes ours; another must bear the mark.
fn check_is_ours(given: &Path) -> Result<()> {
    let shown = given.display();
    let mut entries = match fs::read_dir(given) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Usage(format!("can't use {shown} as a folder: {error}")).into()),
    };
    if entries.next().is_none() || given.join(MARK).exists() {
        return Ok(());
    }
    let why = format!("{shown} holds other things; give the demo a --folder that is new or empty");
    Err(Usage(why).into())
}

/// What is not there needs no removing.
fn remove(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_other_things_in_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        assert!(Folder::open(folder.path(), true).unwrap_err().is::<Usage>());
        assert!(folder.path().join("notes.txt").exists());
    }

    #[test]
    fn two_demos_never_work_in_one_folder() {
        let folder = tempfile::tempdir().unwrap();
        let first = Folder::open(folder.path(), false).unwrap();
        assert!(Folder::open(folder.path(), false).unwrap_err().is::<Usage>());
        drop(first);
        Folder::open(folder.path(), false).unwrap();
    }

    #[test]
    fn fresh_removes_what_the_demo_made_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        drop(Folder::open(path, false).unwrap());
        fs::create_dir(path.join("mail")).unwrap();
        let ours = [
            "demo.db",
            "demo.db-wal",
            "data/weather.csv",
            "results/.taskloom-a.part",
            "mail/000001.eml",
        ];
        let foreign = ["notes.txt", "demo.dbx", "data/mine.csv", "mail/letter.eml"];
        for name in ours.iter().chain(&foreign) {
            fs::write(path.join(name), "").unwrap();
        }
        drop(Folder::open(path, true).unwrap());
        assert!(ours.iter().all(|it| !path.join(it).exists()));
        assert!(foreign.iter().all(|it| path.join(it).exists()));
    }
}
