//! What the workers note in a file that outlives them: which jobs were accepted, which attempts
//! began and ended.
//!
//! Every note is one write to a file opened for appending, so notes of several processes don't
//! mix. A note that a full disk cut in two stands alone: each begins on a line of its own.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result};
use taskloom::{Clock, Fence, JobId, SystemClock};

/// What is noted of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A submit of it has returned.
    Accepted,
    /// Somebody is about to cancel it.
    Cancel,
    /// An attempt begins.
    Start,
    /// The body of an attempt has done its work.
    End,
}

impl What {
    const ALL: [(What, &str); 4] = [
        (What::Accepted, "accepted"),
        (What::Cancel, "cancel"),
        (What::Start, "start"),
        (What::End, "end"),
    ];

    fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(it, _)| *it == self).map_or("", |(_, word)| word)
    }
}

/// Writes notes.
#[derive(Debug)]
pub(super) struct Notes {
    file: File,
    /// Which worker process writes, by its number in the run.
    process: u32,
}

impl Notes {
    /// Appends to the file at `path`, made when it is missing.
    pub(super) fn append_to(path: &Path, process: u32) -> Result<Notes> {
        let file = File::options().create(true).append(true).open(path);
        Ok(Notes { file: file.with_context(|| path.display().to_string())?, process })
    }

    /// Notes one thing of several jobs in one write.
    ///
    /// # Errors
    /// What the system says. What was written of it counts as not noted.
    pub(super) fn write(
        &self,
        what: What,
        jobs: impl IntoIterator<Item = (JobId, Fence)>,
    ) -> std::io::Result<()> {
        use std::fmt::Write as _;
        let (now, process, word) = (SystemClock.now().as_millis(), self.process, what.as_str());
        let mut text = String::new();
        for (job, fence) in jobs {
            writeln!(text, "\n{now} {process} {job} {} {word}.", fence.0)
                .expect("a string takes everything");
        }
        match (&self.file).write(text.as_bytes())? {
            n if n == text.len() => Ok(()),
            _ => Err(ErrorKind::StorageFull.into()),
        }
    }
}

/// An attempt, by its notes.
#[derive(Debug, Clone, Default)]
pub(super) struct Noted {
    /// The worker process that ran it.
    pub(super) process: u32,
    /// When it began, in milliseconds since 1970.
    pub(super) began: i64,
    /// How often it began; once is right.
    pub(super) n_starts: u32,
    /// Whether its body did its work.
    pub(super) has_ended: bool,
}

/// A job, by its notes.
#[derive(Debug, Clone, Default)]
pub(super) struct Trail {
    pub(super) is_accepted: bool,
    pub(super) is_cancelled: bool,
    /// By fence.
    pub(super) attempts: BTreeMap<Fence, Noted>,
}

/// Reads all notes. What a full disk cut in two was never said.
pub(super) fn read(path: &Path) -> Result<HashMap<JobId, Trail>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut trails: HashMap<JobId, Trail> = HashMap::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        let Some((what, job, fence, noted)) = std::str::from_utf8(&line).ok().and_then(parse)
        else {
            continue;
        };
        let trail = trails.entry(job).or_default();
        match what {
            What::Accepted => trail.is_accepted = true,
            What::Cancel => trail.is_cancelled = true,
            What::Start => {
                let attempt = trail.attempts.entry(fence).or_default();
                *attempt = Noted { n_starts: attempt.n_starts + 1, ..noted };
            }
            What::End => trail.attempts.entry(fence).or_default().has_ended = true,
        }
    }
    Ok(trails)
}

fn parse(line: &str) -> Option<(What, JobId, Fence, Noted)> {
    // The last character is a proof that nothing is missing.
    let words: Vec<&str> = line.strip_suffix('.')?.split(' ').collect();
    let [began, process, job, fence, word] = words[..] else { return None };
    let (what, _) = What::ALL.into_iter().find(|(_, it)| *it == word)?;
    let noted =
        Noted { process: process.parse().ok()?, began: began.parse().ok()?, ..Noted::default() };
    Some((what, job.parse().ok()?, Fence(fence.parse().ok()?), noted))
}

#[cfg(test)]
mod tests {
    use taskloom::Time;

    use super::*;

    #[test]
    fn a_note_that_was_cut_in_two_is_no_note() {
        let id = JobId::compose(Time::from_millis(7), 1, 2);
        let whole = format!("1767225600000 3 {id} 4 end.");
        assert!(parse(&whole).is_some());
        for n in 0..whole.len() {
            assert!(parse(&whole[..n]).is_none(), "{}", &whole[..n]);
            assert!(n == 0 || parse(&whole[n..]).is_none_or(|it| it.3.began < 1_767_225_600_000));
        }
    }

    #[test]
    fn notes_are_read_as_they_were_written() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("notes");
        let [a, b] = [1, 2].map(|key| JobId::compose(Time::from_millis(7), 1, key));
        let (first, second) = (Notes::append_to(&path, 1)?, Notes::append_to(&path, 2)?);
        first.write(What::Accepted, [(a, Fence(0)), (b, Fence(0))])?;
        second.write(What::Start, [(a, Fence(1))])?;
        (&second.file).write_all(b"\n1767225600000 2 cut")?;
        first.write(What::Start, [(a, Fence(2))])?;
        first.write(What::End, [(a, Fence(2))])?;
        second.write(What::Cancel, [(b, Fence(0))])?;
        let trails = read(&path)?;
        let a = &trails[&a].attempts;
        let told: Vec<_> = a.iter().map(|(it, n)| (it.0, n.process, n.has_ended)).collect();
        assert_eq!(told, [(1, 2, false), (2, 1, true)]);
        assert!(trails[&b].is_accepted && trails[&b].is_cancelled);
        Ok(())
    }
}
