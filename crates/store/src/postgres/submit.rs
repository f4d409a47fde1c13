//! Accepting jobs.

use std::collections::HashMap;

use taskloom_model::{Command, EventKind, Job, State, StateName, Time};

use super::Result;
use super::lane::Ask;
use super::names::{Names, Place};
use super::rows::{self, Loaded, Stored, big};
use super::session::{Params, Session};
use super::tally::packed;
use super::tx::Tx;
use crate::codec::{Extra, is_plain, pack_around_key};
use crate::{Accepted, NewJob, StoreError};

/// Jobs to be accepted, all or none.
pub(super) struct Submit {
    pub(super) jobs: Vec<NewJob>,
    places: Vec<Place>,
}

impl Submit {
    pub(super) fn new(jobs: Vec<NewJob>) -> Submit {
        Submit { jobs, places: Vec::new() }
    }
}

impl Ask for Submit {
    type Answer = Vec<Accepted>;

    fn n_new(&self) -> usize {
        self.jobs.len()
    }

    async fn prepare(&mut self, names: &mut Names, session: &Session) -> Result<()> {
        self.places = names.places(session, &self.jobs).await?;
        Ok(())
    }

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Vec<Accepted>> {
        let jobs = self.jobs.iter().zip(&self.places);
        if self.jobs.iter().all(is_plain) {
            return Ok(jobs.map(|(new, place)| tx.accept_plain(new, *place)).collect());
        }
        let keys: Vec<u64> = tx.keys.drain(..self.jobs.len()).collect();
        if self.jobs.iter().any(|it| it.unique.is_some()) {
            // What an earlier call of this transaction has accepted may hold a text.
            tx.write_moves().await?;
        }
        tx.load_ids(self.jobs.iter().flat_map(|it| it.after.iter().copied())).await?;
        let after = self.jobs.iter().flat_map(|it| &it.after);
        if let Some(&id) = after.clone().find(|it| tx.find(**it).is_none()) {
            return Err(StoreError::UnknownDependency { id });
        }
        let mut uniques = tx.take_uniques(&self.jobs, &keys).await?;
        let mut accepted = Vec::with_capacity(self.jobs.len());
        for ((new, place), key) in jobs.zip(keys) {
            accepted.push(tx.accept((new, *place), key, &mut uniques).await?);
        }
        Ok(accepted)
    }

    async fn perform_at_once(&self, tx: &mut Tx<'_>) -> Result<Option<(Vec<Accepted>, u64)>> {
        match (self.jobs.as_slice(), self.places.as_slice()) {
            ([new], [place]) if is_plain(new) && tx.has_writer_row() => {
                let (accepted, first_event) = tx.accept_at_once(new, *place).await?;
                Ok(Some((vec![accepted], first_event)))
            }
            _ => Ok(None),
        }
    }
}

/// A plain job, in one round trip. It needs no [`super::tx::LOCK_PARTS`]: of the tables that are
/// dropped in parts it uses only `jobs`, and waits for that before it writes anything. Parts are of
/// 2^24 keys. The event is packed as by [`crate::codec::pack`], with the key in six groups of seven
/// bits whatever it is: `$7` is its kind, `$8` what follows the key.
pub(super) const ADD_ONE: &str = "WITH \
     new AS MATERIALIZED (SELECT nextval('job_key') AS job), \
     in_jobs AS (INSERT INTO jobs (job, created, lane, policy, rank, args) \
     SELECT job, $1::bigint, $2::int, $3::int, $4::smallint, $5::text FROM new), \
     in_hot AS (INSERT INTO hot (job, fence, lane, attempts, crashes, snoozes, rank, state, flags) \
     SELECT job, 0, $2, 0, 0, 0, $4, 2, 0 FROM new), \
     in_counts AS (INSERT INTO counts (lane, part, state, writer, n) \
     SELECT $2, (job >> 24)::int, 2, $6::int, 1 FROM new \
     ON CONFLICT (lane, part, state, writer) DO UPDATE SET n = counts.n + excluded.n), \
     in_events AS (INSERT INTO events (first, at, n, body) \
     SELECT pg_current_xact_id()::text::bigint << 20, $1, 1, \
     $7::bytea || substring(int8send(((job & 127) << 40) | (((job >> 7) & 127) << 32) \
     | (((job >> 14) & 127) << 24) | (((job >> 21) & 127) << 16) | (((job >> 28) & 127) << 8) \
     | (job >> 35) | x'808080808000'::bigint) FROM 3) || $8::bytea FROM new RETURNING first) \
     SELECT job, first FROM new, in_events";

/// Who holds the unique texts of a batch.
#[derive(Default)]
struct Uniques<'a> {
    /// The job that has the text, as far as the batch is accepted.
    holders: HashMap<&'a str, Accepted>,
    /// The job that has it in the database.
    stored: HashMap<&'a str, u64>,
}

/// The smaller, the sooner.
fn rank_of(new: &NewJob) -> i16 {
    9 - i16::from(new.priority.level())
}

const TAKE_UNIQUES_NOW: &str = "INSERT INTO uniques (text, job) \
     SELECT text, job FROM unnest($1::text[], $2::bigint[]) AS u(text, job) ORDER BY text \
     ON CONFLICT DO NOTHING RETURNING text";
const UNIQUE_HOLDERS: &str = "SELECT u.text, u.job, j.created FROM uniques u \
     JOIN jobs j ON j.job = u.job WHERE u.text = ANY($1)";
/// How often a text may be freed between the two statements.
const TAKES_MAX: usize = 5;

impl Tx<'_> {
    /// Accepts a plain job in a transaction of its own.
    async fn accept_at_once(&mut self, new: &NewJob, place: Place) -> Result<(Accepted, u64)> {
        let created = self.now;
        let event = packed(EventKind::JobSubmitted, (0, created, place.0), 0);
        let (kind, rest) = pack_around_key(event);
        let params: Params<'_> = &[
            &created.as_millis(),
            &place.0,
            &place.1,
            &rank_of(new),
            &new.args,
            &self.writer.row,
            &kind,
            &rest,
        ];
        self.session.prepare(&[ADD_ONE]).await?;
        self.session.is_committing.set(true);
        let rows = self.session.query(ADD_ONE, params).await?;
        self.session.is_committing.set(false);
        let gone = || StoreError::Database("a submit has answered nothing".into());
        let row = rows.first().ok_or_else(gone)?;
        let (key, first) = (rows::key(row.try_get(0)?), rows::key(row.try_get(1)?));
        (self.tally.told.ready, self.tally.told.changed) = (true, true);
        Ok((Accepted { id: self.job_id(key, created), duplicate: false }, first))
    }

    fn accept_plain(&mut self, new: &NewJob, place: Place) -> Accepted {
        let (created, key) = (self.now, self.keys.pop_front().unwrap_or(0));
        let rank = self.add_new((new, place), key, None);
        self.new.ready.job.push(big(key));
        self.new.ready.lane.push(place.0);
        self.new.ready.rank.push(rank);
        self.tally.count((key, place.0), StateName::Ready, 1);
        self.tally.told.ready = true;
        Accepted { id: self.job_id(key, created), duplicate: false }
    }

    /// Whether the counts of this transaction belong to rows that are known before it begins, and
    /// only grow.
    fn has_writer_row(&self) -> bool {
        !self.session.is_pooled() && !self.writer.folds
    }

    /// Notes the row of what was submitted, and says so.
    fn add_new(&mut self, (new, place): (&NewJob, Place), key: u64, extra: Option<String>) -> i16 {
        let rank = rank_of(new);
        self.new.job.push(big(key));
        self.new.lane.push(place.0);
        self.new.policy.push(place.1);
        self.new.rank.push(rank);
        self.new.args.push(new.args.clone());
        self.new.extra.push(extra);
        self.tally.event(EventKind::JobSubmitted, (key, self.now, place.0), 0);
        rank
    }

    /// Takes the unique texts of a batch, each for the first job that wants it; another
    /// transaction that wants one waits for this one.
    async fn take_uniques<'j>(&mut self, jobs: &'j [NewJob], keys: &[u64]) -> Result<Uniques<'j>> {
        let mut uniques = Uniques::default();
        let mut wanted: HashMap<&'j str, u64> = HashMap::new();
        for (job, key) in jobs.iter().zip(keys) {
            if let Some(text) = &job.unique {
                wanted.entry(text).or_insert(*key);
            }
        }
        for _ in 0..TAKES_MAX {
            if wanted.is_empty() {
                return Ok(uniques);
            }
            let (texts, jobs): (Vec<&str>, Vec<i64>) =
                wanted.iter().map(|(text, key)| (*text, big(*key))).unzip();
            self.session.prepare(&[TAKE_UNIQUES_NOW, UNIQUE_HOLDERS]).await?;
            let begin = self.begin();
            let (params, texts_only): (Params<'_>, Params<'_>) = (&[&texts, &jobs], &[&texts]);
            let ((), taken, held) = futures::try_join!(
                begin,
                self.session.query(TAKE_UNIQUES_NOW, params),
                self.session.query(UNIQUE_HOLDERS, texts_only),
            )?;
            for row in &taken {
                if let Some((text, key)) = wanted.remove_entry(row.try_get::<_, &str>(0)?) {
                    uniques.stored.insert(text, key);
                }
            }
            for row in &held {
                if let Some((text, _)) = wanted.remove_entry(row.try_get::<_, &str>(0)?) {
                    let created = Time::from_millis(row.try_get(2)?);
                    let id = self.job_id(rows::key(row.try_get(1)?), created);
                    uniques.holders.insert(text, Accepted { id, duplicate: true });
                }
            }
        }
        Err(StoreError::Contended { why: "unique texts come and go too fast".into() })
    }

    async fn accept<'j>(
        &mut self,
        (new, place): (&'j NewJob, Place),
        key: u64,
        uniques: &mut Uniques<'j>,
    ) -> Result<Accepted> {
        if let Some(holder) = new.unique.as_deref().and_then(|it| uniques.holders.get(it)) {
            return Ok(*holder);
        }
        let mut rules = new.rules;
        if let Some(delay) = new.delay {
            rules.run_at = Some(self.now + delay);
        }
        let extra = Extra {
            run_at: rules.run_at,
            deadline: rules.deadline,
            key: new.key.clone(),
            unique: new.unique.clone(),
        };
        let rank = self.add_new((new, place), key, extra.to_json());
        if let Some(deadline) = rules.deadline {
            self.writes.deadlines.insert((deadline.as_millis(), big(key)), true);
            self.tally.told.due = true;
        }
        let mut after: Vec<u64> = new.after.iter().map(|id| id.key()).collect();
        after.sort_unstable();
        after.dedup();
        let n_unfinished = u32::try_from(after.len()).unwrap_or(u32::MAX);
        let job = Job::submit(self.now, rules, n_unfinished);
        self.enter(Loaded {
            key,
            created: self.now,
            lane: place.0,
            rank,
            extra,
            job,
            started: self.now,
            is_awaited: false,
            stored: Stored::Nowhere,
            is_dirty: true,
            last: None,
            ended_here: false,
        });
        self.wait_for(key, &after).await?;
        let accepted = Accepted { id: self.job_id(key, self.now), duplicate: false };
        let has_ended = self.jobs.get(&key).is_some_and(|it| it.job.state.name().is_ended());
        if let Some(text) = &new.unique
            && !has_ended
        {
            uniques.holders.insert(text, Accepted { duplicate: true, ..accepted });
            if uniques.stored.get(text.as_str()) != Some(&key) {
                self.writes.take_unique(text, key);
            }
        }
        Ok(accepted)
    }

    /// Puts a new job where it begins.
    pub(super) fn enter(&mut self, loaded: Loaded) {
        self.tally.count((loaded.key, loaded.lane), loaded.job.state.name(), 1);
        match loaded.job.state {
            State::Ready => self.tally.told.ready = true,
            State::Delayed { .. } => self.tally.told.due = true,
            _ => {}
        }
        self.jobs.insert(loaded.key, loaded);
    }

    /// Lets a new job wait for others. Those that have ended already are heard of at once.
    pub(super) async fn wait_for(&mut self, key: u64, after: &[u64]) -> Result<()> {
        for on in after {
            // One that is forgotten has ended, and did not succeed before the job was submitted.
            let mut state = StateName::Cancelled;
            if let Some(other) = self.jobs.get_mut(on) {
                state = other.job.state.name();
                if !state.is_ended() {
                    if !other.is_awaited {
                        (other.is_awaited, other.is_dirty) = (true, true);
                    }
                    self.writes.dependencies.push((big(*on), big(key)));
                    continue;
                }
            }
            let command = Command::DependencyEnded { succeeded: state == StateName::Succeeded };
            if self.transition(key, command, None).await?.is_err() {
                break;
            }
        }
        Ok(())
    }
}
