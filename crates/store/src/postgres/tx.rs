//! One transaction: the jobs it has locked, what it makes of them, and what it will write.
//!
//! # Invariants
//! - A job in `jobs` is locked until the commit, so what is known of it stays true.
//! - Moves happen here, in memory, as the model says; [`Tx::write`] brings them to the database
//!   before anything reads there what they changed.

use std::collections::{BTreeMap, VecDeque};

use taskloom_model::{
    Command, Effect, Fence, Job, JobId, Life, NodeId, Refusal, State, StateName, Time, apply,
};
use tokio_postgres::Row;

use super::Result;
use super::front::Fronts;
use super::lane::Known;
use super::names::Names;
use super::rows::{
    self, LOAD_ENDED, LOAD_HOT, LastAttempt, Loaded, Stored, TAKE_DEPENDENTS, big, clean, code, int,
};
use super::session::{Params, Session};
use super::tally::{Tally, WriterRow};
use super::write::{ADD_EVENTS, AttemptRow, LogRow, NewRows, Write, Writes};
use crate::codec::{Extra, OUTCOME_LOST, outcome_code};
use crate::keys::KeyMap;
use crate::{AttemptError, NewLog};

/// What an attempt left behind, beside its outcome.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) node: NodeId,
    pub(super) started: Time,
    pub(super) result: Option<&'a str>,
    pub(super) error: Option<&'a AttemptError>,
}

pub(super) type Moved = std::result::Result<StateName, Refusal>;

pub(super) struct Tx<'a> {
    pub(super) session: &'a Session,
    pub(super) names: &'a mut Names,
    pub(super) fronts: &'a mut Fronts,
    pub(super) now: Time,
    pub(super) salt: u32,
    /// The writer whose counts these are.
    pub(super) writer: WriterRow,
    has_begun: bool,
    /// The node that was looked for, and whether it is known: it is locked until the commit.
    pub(super) met: Option<(NodeId, bool)>,
    /// Keys for new jobs, taken from the sequence.
    pub(super) keys: VecDeque<u64>,
    pub(super) jobs: KeyMap<Loaded>,
    pub(super) tally: Tally,
    pub(super) writes: Writes,
    pub(super) new: NewRows,
    /// Jobs that have ended and whose dependents have not heard of it, with whether they
    /// succeeded.
    endings: VecDeque<(u64, bool)>,
}

/// With a lock that keeps out only the drop of a part: it waits until no transaction is under way,
/// and those that come meanwhile wait here, where they hold nothing.
pub(super) const LOCK_PARTS: &str = "LOCK TABLE ONLY jobs IN ACCESS SHARE MODE";
pub(super) const TAKE_KEYS: &str = "SELECT nextval('job_key') FROM generate_series(1, $1::bigint)";

impl<'a> Tx<'a> {
    pub(super) fn new(
        session: &'a Session,
        known: &'a mut Known,
        (now, salt, writer): (Time, u32, WriterRow),
    ) -> Tx<'a> {
        Tx {
            session,
            names: &mut known.names,
            fronts: &mut known.fronts,
            now,
            salt,
            writer,
            has_begun: false,
            met: None,
            keys: VecDeque::new(),
            jobs: KeyMap::default(),
            tally: Tally::default(),
            writes: Writes::default(),
            new: NewRows::default(),
            endings: VecDeque::new(),
        }
    }

    /// Begins, if that has not happened yet; polled together with the first query, it costs no
    /// round trip.
    pub(super) fn begin(&mut self) -> impl Future<Output = Result<()>> + use<'a> {
        let (session, has_begun) = (self.session, self.has_begun);
        self.has_begun = true;
        async move { if has_begun { Ok(()) } else { session.begin_writing().await } }
    }

    pub(super) async fn query(
        &mut self,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>> {
        let begin = self.begin();
        let ((), rows) = futures::try_join!(begin, self.session.query(sql, params))?;
        Ok(rows)
    }

    /// Takes `n` keys for new jobs.
    pub(super) async fn take_keys(&mut self, n: usize) -> Result<()> {
        let n = big(n as u64);
        for row in self.query(TAKE_KEYS, &[&n]).await? {
            self.keys.push_back(rows::key(row.try_get(0)?));
        }
        Ok(())
    }

    pub(super) fn job_id(&self, key: u64, created: Time) -> JobId {
        JobId::compose(created, self.salt, key)
    }

    /// Reads and locks jobs, those that exist. What has just arrived among them is taken in.
    pub(super) async fn load(&mut self, keys: impl Iterator<Item = u64>) -> Result<()> {
        let mut arrived = self.read(keys.collect()).await?;
        if arrived.is_empty() {
            return Ok(());
        }
        let mut arrivals = Vec::new();
        // A chain of them may be longer than the stack.
        while !arrived.is_empty() {
            let taken = self.take_arrivals(arrived).await?;
            arrived = self.read(taken.iter().flat_map(|it| it.after.clone()).collect()).await?;
            arrivals.extend(taken);
        }
        Box::pin(self.enter_arrivals(arrivals)).await
    }

    /// Reads and locks jobs, those that exist, and returns which of them have just arrived.
    async fn read(&mut self, keys: Vec<u64>) -> Result<Vec<u64>> {
        let mut arrived = Vec::new();
        let mut missing: Vec<i64> =
            keys.into_iter().filter(|it| !self.jobs.contains_key(it)).map(big).collect();
        missing.sort_unstable();
        missing.dedup();
        // Between the two statements an operator may have moved a job from the one to the other
        // table; the second round finds it.
        for _ in 0..2 {
            if missing.is_empty() {
                break;
            }
            self.session.prepare(&[LOAD_HOT, LOAD_ENDED]).await?;
            let begin = self.begin();
            let params: Params<'_> = &[&missing];
            let ((), hot, ended) = futures::try_join!(
                begin,
                self.session.query(LOAD_HOT, params),
                self.session.query(LOAD_ENDED, params),
            )?;
            let policies = hot.iter().map(|it| it.get(14)).chain(ended.iter().map(|it| it.get(9)));
            self.names.read_policies(self.session, policies).await?;
            for row in &ended {
                let loaded = rows::ended(row, self.names)?;
                self.jobs.insert(loaded.key, loaded);
            }
            for row in &hot {
                let loaded = rows::hot(row, self.names)?;
                if rows::has_just_arrived(row)? {
                    arrived.push(loaded.key);
                }
                self.jobs.insert(loaded.key, loaded);
            }
            missing.retain(|it| !self.jobs.contains_key(&rows::key(*it)));
        }
        Ok(arrived)
    }

    /// Reads and locks jobs by their public ids.
    pub(super) async fn load_ids(&mut self, ids: impl Iterator<Item = JobId>) -> Result<()> {
        let salt = self.salt;
        self.load(ids.filter(|it| it.salt() == salt).map(|it| it.key())).await
    }

    /// The loaded job with this public id; `None` when it is of another store, or gone.
    pub(super) fn find(&self, id: JobId) -> Option<&Loaded> {
        let loaded = self.jobs.get(&id.key())?;
        (id.salt() == self.salt && loaded.created == id.created()).then_some(loaded)
    }

    /// Applies `command` to a loaded job, and tells its dependents.
    ///
    /// Dependents hear of it in the order of their age, and theirs after them: a loop, because a
    /// chain of jobs may be longer than the stack.
    pub(super) async fn transition(
        &mut self,
        key: u64,
        command: Command,
        left: Option<Left<'_>>,
    ) -> Result<Moved> {
        let moved = self.step(key, command, left);
        while !self.endings.is_empty() {
            self.tell_dependents().await?;
        }
        Ok(moved)
    }

    /// Tells of the endings there are; new ones may come of it.
    async fn tell_dependents(&mut self) -> Result<()> {
        let endings = std::mem::take(&mut self.endings);
        let is_awaited = |it: &&(u64, bool)| self.jobs.get(&it.0).is_some_and(|it| it.is_awaited);
        let awaited: Vec<i64> = endings.iter().filter(is_awaited).map(|it| big(it.0)).collect();
        if awaited.is_empty() {
            return Ok(());
        }
        let mut dependents: KeyMap<Vec<u64>> = KeyMap::default();
        for row in self.query(TAKE_DEPENDENTS, &[&awaited]).await? {
            let (on, job): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            dependents.entry(rows::key(on)).or_default().push(rows::key(job));
        }
        self.load(dependents.values().flatten().copied().collect::<Vec<_>>().into_iter()).await?;
        for (key, succeeded) in endings {
            for dependent in dependents.remove(&key).unwrap_or_default() {
                // A dependent that is gone or has ended already has nothing to learn.
                self.step(dependent, Command::DependencyEnded { succeeded }, None).ok();
            }
        }
        Ok(())
    }

    /// Applies `command` to a job and notes what comes of it.
    fn step(&mut self, key: u64, command: Command, left: Option<Left<'_>>) -> Moved {
        let Some(mut loaded) = self.jobs.remove(&key) else {
            return Err(Refusal::AlreadyFinished);
        };
        let applied = apply(self.now, &loaded.job, command);
        let moved = applied.map(|(job, effects)| {
            let before = std::mem::replace(&mut loaded.job, job);
            if loaded.job != before {
                loaded.is_dirty = true;
                if command == Command::Retry {
                    self.begin_anew(&mut loaded, before.life);
                }
                if loaded.job.state != before.state {
                    self.tally.count((key, loaded.lane), before.state.name(), -1);
                    self.tally.count((key, loaded.lane), loaded.job.state.name(), 1);
                    self.arrive(&mut loaded, &before, (&effects, left));
                }
            }
            self.tell(&mut loaded, &before, &effects);
            loaded.job.state.name()
        });
        self.jobs.insert(key, loaded);
        moved
    }

    /// Notes what a job brings to the state it has come to, and the attempt that ended.
    fn arrive(
        &mut self,
        loaded: &mut Loaded,
        before: &Job,
        (effects, left): (&[Effect], Option<Left<'_>>),
    ) {
        let attempt = effects.iter().find_map(|effect| match effect {
            Effect::AttemptEnded(outcome) => Some(*outcome),
            _ => None,
        });
        let last = attempt.zip(left).map(|(outcome, left)| LastAttempt {
            node: left.node,
            started: left.started,
            outcome: code(outcome_code(outcome)),
            result: left.result.map(|it| clean(it).into_owned()),
            error: left.error.map(|it| {
                // JSON writes a NUL as an escape.
                serde_json::to_string(it).expect("the error of an attempt is plain data")
            }),
        });
        loaded.ended_here = loaded.job.state.name().is_ended();
        if loaded.ended_here {
            loaded.last = last;
            return;
        }
        if let Some(last) = last {
            let (life, now) = (before.life, self.now);
            let row = AttemptRow::new(loaded.key, (life.fence, int(life.attempts)), now, &last);
            self.writes.attempts.push(row);
        }
        match loaded.job.state {
            State::Ready => self.tally.told.ready = true,
            // A node may have to wake earlier than it meant to.
            State::Delayed { .. } | State::Retrying { .. } => self.tally.told.due = true,
            _ => {}
        }
        if let (State::Running { .. }, Some(deadline)) = (&before.state, loaded.job.rules.deadline)
        {
            // It may have passed while the job was running.
            self.writes.deadlines.insert((deadline.as_millis(), big(loaded.key)), true);
            self.tally.told.due = true;
        }
    }

    /// Before an operator's retry: the last attempt moves from the ended row to the others.
    fn begin_anew(&mut self, loaded: &mut Loaded, life: Life) {
        if let Some(last) = loaded.last.take() {
            // It ended in this transaction. A lost attempt was given back, so its number is one
            // more than what is used.
            let is_lost = last.outcome == code(OUTCOME_LOST);
            let attempt = int(life.attempts) + i32::from(is_lost);
            let row = AttemptRow::new(loaded.key, (life.fence, attempt), self.now, &last);
            self.writes.attempts.push(row);
        } else if loaded.stored == Stored::Ended && !loaded.ended_here {
            self.writes.keep_attempts.push(big(loaded.key));
        }
        loaded.is_awaited = false;
        if let Some(text) = &loaded.extra.unique {
            self.writes.take_unique(text, loaded.key);
        }
        if loaded.extra.deadline.is_some() {
            loaded.extra = Extra { deadline: None, ..loaded.extra.clone() };
            self.writes.extras.push((big(loaded.key), loaded.extra.to_json()));
        }
    }

    /// Notes the events, and that the others must hear when the job has ended.
    fn tell(&mut self, loaded: &mut Loaded, before: &Job, effects: &[Effect]) {
        let attempt = loaded.job.life.attempts.max(before.life.attempts);
        for effect in effects {
            match *effect {
                Effect::Event(kind) => {
                    self.tally.event(kind, (loaded.key, loaded.created, loaded.lane), attempt);
                }
                Effect::Ended { succeeded } => {
                    if let Some(text) = &loaded.extra.unique {
                        self.writes.free_unique(text, loaded.key);
                    }
                    if let Some(deadline) = before.rules.deadline {
                        let place = (deadline.as_millis(), big(loaded.key));
                        self.writes.deadlines.insert(place, false);
                    }
                    self.endings.push_back((loaded.key, succeeded));
                }
                Effect::AttemptEnded(_) => {}
            }
        }
    }

    /// Notes lines for the log of a job.
    pub(super) fn log(&mut self, key: u64, fence: Fence, logs: &[NewLog]) {
        self.writes.logs.extend(logs.iter().map(|it| LogRow {
            job: big(key),
            fence: big(fence.0),
            at: it.at.as_millis(),
            level: it.level,
            text: clean(&it.text).into_owned(),
        }));
    }

    /// Whether there are moves that the database has not seen.
    fn has_moves(&self) -> bool {
        self.jobs.values().any(|it| it.is_dirty) || !self.writes.is_empty() || !self.new.is_empty()
    }

    /// Statements that are sent together arrive in their order only if none must be prepared.
    async fn prepare(&self, writes: &[Write]) -> Result<()> {
        let mut sqls: Vec<&'static str> = writes.iter().map(|it| it.sql).collect();
        sqls.push(ADD_EVENTS);
        self.session.prepare(&sqls).await
    }

    /// Writes the moves there are, so that the next statement sees them.
    pub(super) async fn write_moves(&mut self) -> Result<()> {
        if !self.has_moves() {
            return Ok(());
        }
        let begin = self.begin();
        let jobs = std::mem::take(&mut self.jobs);
        let writes = std::mem::take(&mut self.writes);
        let new = std::mem::take(&mut self.new);
        let statements = writes.statements((jobs, new), self.now);
        self.prepare(&statements).await?;
        let sending = statements.iter().map(|it| it.send(self.session));
        futures::try_join!(begin, futures::future::try_join_all(sending))?;
        Ok(())
    }

    /// Writes all there is and commits, in one round trip. Returns the offset of the first event,
    /// if there was one.
    pub(super) async fn commit(&mut self) -> Result<Option<u64>> {
        if self.session.is_pooled() && (self.has_moves() || 0 < self.tally.n_events) {
            // Only a transaction that has begun knows its writer.
            self.begin().await?;
        }
        let jobs = std::mem::take(&mut self.jobs);
        let writes = std::mem::take(&mut self.writes);
        let new = std::mem::take(&mut self.new);
        let mut statements = writes.statements((jobs, new), self.now);
        let tally = std::mem::take(&mut self.tally);
        let told = tally.told;
        statements.extend(super::write::counts(
            &tally.counts,
            self.session.writer().map_or(self.writer, |number| self.writer.of(number)),
        ));
        let events = super::write::events(tally, self.now)?;
        self.tally.told = told;
        if !self.has_begun && statements.is_empty() && events.is_none() {
            return Ok(None);
        }
        self.prepare(&statements).await?;
        let begin = self.begin();
        let session = self.session;
        let sending = statements.iter().map(|it| it.send(session));
        let first = async {
            let Some(events) = &events else { return Ok(None) };
            let row = session.query(ADD_EVENTS, &events.params()).await?;
            let first: i64 = row.first().map_or(Ok(0), |row| row.try_get(0))?;
            Ok(Some(rows::key(first)))
        };
        let commit = async {
            session.is_committing.set(true);
            session.end("COMMIT").await
        };
        let sending = futures::future::try_join_all(sending);
        let ((), _, first, ()) = futures::try_join!(begin, sending, first, commit)?;
        session.is_committing.set(false);
        Ok(first)
    }
}

/// Deadlines to be kept (`true`) or forgotten, by time and job.
pub(super) type Deadlines = BTreeMap<(i64, i64), bool>;
