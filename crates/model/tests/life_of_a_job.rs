//! The life of a job, as a table: what each command does to a job in each state.
//!
//! [`expected`] is the table. It is one `match` without `_`, so the compiler says when a pair is
//! missing. Below it stand the cases that need more than a state and a command.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::time::Duration;

use taskloom_model::{
    Backoff, CRASHES_MAX, Command, DependencyPolicy, Effect, FailReason, Fence, Jitter, Job, Life,
    NodeId, Outcome, RetryPolicy, Roll, Rules, State, StateName, Time, apply,
};

/// What can happen to a job, in plain words.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Happens {
    LastDependencySucceeds,
    DependencyFails,
    TimeComes,
    TimeIsNotYet,
    NodeClaims,
    AttemptSucceeds,
    AttemptErrs,
    AttemptErrsForGood,
    AttemptTimesOut,
    AttemptSnoozes,
    AttemptIsInterrupted,
    AttemptEndsCancelled,
    LateWorkerFinishes,
    OwnerDies,
    SomebodyCancels,
    OperatorRetries,
    DeadlinePasses,
}

/// The effect on the state, the events told, and the counts changed. `no:` is a refusal.
fn expected(happens: Happens, from: StateName) -> &'static str {
    use Happens::*;
    use StateName::*;
    match (happens, from) {
        (LastDependencySucceeds, Blocked) => "ready: JobReady",
        (
            LastDependencySucceeds,
            Delayed | Ready | Running | Retrying | Succeeded | Failed | Cancelled,
        ) => "no: wrong state",

        (DependencyFails, Blocked) => "cancelled: JobCancelled",
        (
            DependencyFails,
            Delayed | Ready | Running | Retrying | Succeeded | Failed | Cancelled,
        ) => "no: wrong state",

        (TimeComes, Delayed | Retrying) => "ready: JobReady",
        (TimeComes, Blocked | Ready | Running | Succeeded | Failed | Cancelled) => {
            "no: wrong state"
        }
        (TimeIsNotYet, Delayed | Retrying) => "no: not yet",
        (TimeIsNotYet, Blocked | Ready | Running | Succeeded | Failed | Cancelled) => {
            "no: wrong state"
        }

        (NodeClaims, Ready) => "running: JobClaimed, attempts +1, fence +1",
        (NodeClaims, Delayed | Blocked | Running | Retrying | Succeeded | Failed | Cancelled) => {
            "no: wrong state"
        }

        (AttemptSucceeds, Running) => "succeeded: JobSucceeded",
        (AttemptErrs | AttemptTimesOut, Running) => "retrying: JobRetrying",
        (AttemptErrsForGood, Running) => "failed: JobFailed",
        (AttemptSnoozes, Running) => "delayed: JobSnoozed, attempts -1, snoozes +1",
        (AttemptIsInterrupted, Running) => "ready: JobInterrupted, attempts -1",
        (AttemptEndsCancelled, Running) => "cancelled: JobCancelled",
        (
            AttemptSucceeds | AttemptErrs | AttemptErrsForGood | AttemptTimesOut | AttemptSnoozes
            | AttemptIsInterrupted | AttemptEndsCancelled,
            Delayed | Blocked | Ready | Retrying | Succeeded | Failed | Cancelled,
        ) => "no: already finished",
        (
            LateWorkerFinishes,
            Delayed | Blocked | Ready | Running | Retrying | Succeeded | Failed | Cancelled,
        ) => "no: stale fence",

        (OwnerDies, Running) => "ready: JobLost, JobReady, attempts -1, crashes +1",
        (OwnerDies, Delayed | Blocked | Ready | Retrying | Succeeded | Failed | Cancelled) => {
            "no: wrong state"
        }

        (SomebodyCancels, Delayed | Blocked | Ready | Retrying) => "cancelled: JobCancelled",
        (SomebodyCancels, Running) => "running: JobCancelRequested, cancel asked",
        (SomebodyCancels, Succeeded | Failed | Cancelled) => "no: wrong state",

        (OperatorRetries, Succeeded | Failed | Cancelled) => {
            "ready: JobRetried, attempts -2, crashes -1, snoozes -1"
        }
        (OperatorRetries, Delayed | Blocked | Ready | Running | Retrying) => "no: wrong state",

        (DeadlinePasses, Delayed | Blocked | Ready | Retrying) => "failed: JobFailed",
        (DeadlinePasses, Running | Succeeded | Failed | Cancelled) => "no: wrong state",
    }
}

const HAPPENINGS: [Happens; 17] = [
    Happens::LastDependencySucceeds,
    Happens::DependencyFails,
    Happens::TimeComes,
    Happens::TimeIsNotYet,
    Happens::NodeClaims,
    Happens::AttemptSucceeds,
    Happens::AttemptErrs,
    Happens::AttemptErrsForGood,
    Happens::AttemptTimesOut,
    Happens::AttemptSnoozes,
    Happens::AttemptIsInterrupted,
    Happens::AttemptEndsCancelled,
    Happens::LateWorkerFinishes,
    Happens::OwnerDies,
    Happens::SomebodyCancels,
    Happens::OperatorRetries,
    Happens::DeadlinePasses,
];

#[test]
fn every_command_does_to_every_state_what_the_table_says() {
    for (place, happens) in HAPPENINGS.into_iter().enumerate() {
        assert_eq!(happens as usize, place, "every happening is listed once, in order");
        for from in StateName::ALL {
            check_table(happens, from);
        }
    }
}

#[track_caller]
fn check_table(happens: Happens, from: StateName) {
    let (now, job) = (moment(happens), job(happens, from));
    let before = job.clone();
    let actual = match apply(now, &job, command(happens)) {
        Ok((after, effects)) => told(&before, &after, &effects),
        Err(refusal) => format!("no: {}", kind(&format!("{refusal:?}"))),
    };
    assert_eq!(actual, expected(happens, from), "a {from} job, and then {happens:?}");
    assert_eq!(job, before, "the job given stays as it is");
}

const NOON: Time = Time::from_millis(1_700_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const CURRENT: Fence = Fence(7);
const NODE: NodeId = NodeId(1);

fn moment(happens: Happens) -> Time {
    if happens == Happens::TimeIsNotYet { NOON - Duration::from_millis(1) } else { NOON }
}

/// A job in the middle of its life; what it waits for comes at noon.
fn job(happens: Happens, from: StateName) -> Job {
    let state = match from {
        StateName::Delayed => State::Delayed { at: NOON },
        StateName::Blocked => State::Blocked { n_unfinished: 1 },
        StateName::Ready => State::Ready,
        StateName::Running => State::Running { node: NODE },
        StateName::Retrying => State::Retrying { at: NOON },
        StateName::Succeeded => State::Succeeded,
        StateName::Failed => State::Failed { reason: FailReason::Exhausted },
        StateName::Cancelled => State::Cancelled,
    };
    let deadline = (happens == Happens::DeadlinePasses).then_some(NOON);
    Job { state, rules: Rules { retry: POLICY, deadline, ..Rules::default() }, life: LIFE }
}

const LIFE: Life =
    Life { attempts: 2, crashes: 1, snoozes: 1, fence: CURRENT, cancel_requested: false };

const POLICY: RetryPolicy = RetryPolicy {
    max_attempts: 3,
    backoff: Backoff {
        delay_first: Duration::from_secs(10),
        factor: 2.0,
        delay_max: Duration::from_secs(60),
        jitter: Jitter::None,
    },
};

const ERRORED: Outcome = Outcome::Errored { permanent: false, hint: None };

fn command(happens: Happens) -> Command {
    let finish = |outcome| Command::Finish { fence: CURRENT, outcome, roll: Roll(0.5) };
    match happens {
        Happens::LastDependencySucceeds => Command::DependencyEnded { succeeded: true },
        Happens::DependencyFails => Command::DependencyEnded { succeeded: false },
        Happens::TimeComes | Happens::TimeIsNotYet => Command::Due,
        Happens::NodeClaims => Command::Claim { node: NODE },
        Happens::AttemptSucceeds => finish(Outcome::Succeeded),
        Happens::AttemptErrs => finish(ERRORED),
        Happens::AttemptErrsForGood => finish(Outcome::Errored { permanent: true, hint: None }),
        Happens::AttemptTimesOut => finish(Outcome::TimedOut),
        Happens::AttemptSnoozes => finish(Outcome::Snoozed { delay: HOUR }),
        Happens::AttemptIsInterrupted => finish(Outcome::Interrupted),
        Happens::AttemptEndsCancelled => finish(Outcome::Cancelled),
        Happens::LateWorkerFinishes => Command::Finish {
            fence: Fence(CURRENT.0 - 1),
            outcome: Outcome::Succeeded,
            roll: Roll(0.5),
        },
        Happens::OwnerDies => Command::OwnerLost,
        Happens::SomebodyCancels => Command::Cancel,
        Happens::OperatorRetries => Command::Retry,
        Happens::DeadlinePasses => Command::Expire,
    }
}

/// `StaleFence { current: … }` becomes `stale fence`.
fn kind(debug: &str) -> String {
    let mut words = String::new();
    for (place, letter) in debug.chars().take_while(|it| it.is_alphabetic()).enumerate() {
        if letter.is_uppercase() && 0 < place {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

fn told(before: &Job, after: &Job, effects: &[Effect]) -> String {
    let mut said = Vec::new();
    for effect in effects {
        if let Effect::Event(event) = effect {
            said.push(format!("{event:?}"));
        }
    }
    let counts = |it: &Life| [it.attempts, it.crashes, it.snoozes].map(i64::from);
    let names = ["attempts", "crashes", "snoozes"];
    for ((name, old), new) in names.iter().zip(counts(&before.life)).zip(counts(&after.life)) {
        if old != new {
            said.push(format!("{name} {:+}", new - old));
        }
    }
    if before.life.fence != after.life.fence {
        said.push(format!("fence +{}", after.life.fence.0 - before.life.fence.0));
    }
    if after.life.cancel_requested {
        said.push("cancel asked".into());
    }
    check_effects(before, after, effects);
    format!("{}: {}", after.state.name(), said.join(", "))
}

/// What every move tells the world: each end once, and each attempt that ended.
#[track_caller]
fn check_effects(before: &Job, after: &Job, effects: &[Effect]) {
    let ended: Vec<_> = effects.iter().filter(|it| matches!(it, Effect::Ended { .. })).collect();
    if !before.state.name().is_ended() && after.state.name().is_ended() {
        let succeeded = after.state == State::Succeeded;
        assert_eq!(ended, [&Effect::Ended { succeeded }]);
    } else {
        assert!(ended.is_empty(), "{before:?} did not end, but {effects:?}");
    }
    let n_attempts = effects.iter().filter(|it| matches!(it, Effect::AttemptEnded(_))).count();
    let was_running = before.state.name() == StateName::Running;
    let is_running = after.state.name() == StateName::Running;
    assert_eq!(n_attempts, usize::from(was_running && !is_running), "attempts that ended");
}

// What needs more than a state and a command.

fn running(life: Life) -> Job {
    let rules = Rules { retry: POLICY, ..Rules::default() };
    Job { state: State::Running { node: NODE }, rules, life }
}

#[track_caller]
fn check_state(job: &Job, command: Command, expected: State) {
    let (after, _) = apply(NOON, job, command).unwrap();
    assert_eq!(after.state, expected, "{command:?} on {job:?}");
}

fn finish(outcome: Outcome) -> Command {
    Command::Finish { fence: CURRENT, outcome, roll: Roll(0.5) }
}

#[test]
fn a_new_job_starts_where_its_rules_put_it() {
    let at = |run_at| Rules { run_at, ..Rules::default() };
    let check = |rules, n_unfinished, expected| {
        let job = Job::submit(NOON, rules, n_unfinished);
        assert_eq!((job.state, job.life), (expected, Life::default()));
    };
    check(at(None), 0, State::Ready);
    check(at(Some(NOON)), 0, State::Ready);
    check(at(Some(NOON + HOUR)), 0, State::Delayed { at: NOON + HOUR });
    check(at(Some(NOON + HOUR)), 2, State::Blocked { n_unfinished: 2 });
}

#[test]
fn a_blocked_job_waits_for_all_and_then_for_its_time() {
    let mut job = Job::submit(NOON, Rules::default(), 2);
    let succeeded = Command::DependencyEnded { succeeded: true };
    check_state(&job, succeeded, State::Blocked { n_unfinished: 1 });
    job.state = State::Blocked { n_unfinished: 1 };
    check_state(&job, succeeded, State::Ready);
    job.rules.run_at = Some(NOON + HOUR);
    check_state(&job, succeeded, State::Delayed { at: NOON + HOUR });
}

#[test]
fn a_job_may_run_although_a_dependency_failed() {
    let rules = Rules { on_dependency_failure: DependencyPolicy::Run, ..Rules::default() };
    let failed = Command::DependencyEnded { succeeded: false };
    check_state(&Job::submit(NOON, rules, 2), failed, State::Blocked { n_unfinished: 1 });
    check_state(&Job::submit(NOON, rules, 1), failed, State::Ready);
}

#[test]
fn the_delay_of_a_retry_is_that_of_the_policy_or_of_the_hint() {
    let secs = |secs| State::Retrying { at: NOON + Duration::from_secs(secs) };
    let job = running(Life { attempts: 1, ..LIFE });
    check_state(&job, finish(ERRORED), secs(10));
    let hint = Some(Duration::from_secs(99));
    check_state(&job, finish(Outcome::Errored { permanent: false, hint }), secs(99));
    check_state(&running(LIFE), finish(Outcome::TimedOut), secs(20));
}

#[test]
fn a_job_fails_for_the_reason_that_ended_it() {
    let failed = |reason| State::Failed { reason };
    let last = running(Life { attempts: 3, ..LIFE });
    check_state(&last, finish(ERRORED), failed(FailReason::Exhausted));
    check_state(&last, finish(Outcome::TimedOut), failed(FailReason::Exhausted));
    let permanent = Outcome::Errored { permanent: true, hint: None };
    check_state(&running(LIFE), finish(permanent), failed(FailReason::Permanent));
    let often = running(Life { crashes: CRASHES_MAX - 1, ..LIFE });
    check_state(&often, Command::OwnerLost, failed(FailReason::Quarantined));
    let mut late = running(LIFE);
    late.rules.deadline = Some(NOON + Duration::from_secs(20));
    check_state(&late, finish(ERRORED), failed(FailReason::Deadline));
    late.state = State::Ready;
    late.rules.deadline = Some(NOON);
    check_state(&late, Command::Expire, failed(FailReason::Deadline));
}

#[test]
fn a_wish_to_cancel_wins_over_all_but_success() {
    let job = running(Life { cancel_requested: true, ..LIFE });
    for outcome in [
        ERRORED,
        Outcome::Errored { permanent: true, hint: None },
        Outcome::TimedOut,
        Outcome::Snoozed { delay: HOUR },
        Outcome::Interrupted,
        Outcome::Cancelled,
    ] {
        check_state(&job, finish(outcome), State::Cancelled);
    }
    check_state(&job, Command::OwnerLost, State::Cancelled);
    check_state(&job, finish(Outcome::Succeeded), State::Succeeded);
}

#[test]
fn asking_twice_to_cancel_tells_nothing_new() {
    let job = running(Life { cancel_requested: true, ..LIFE });
    assert_eq!(apply(NOON, &job, Command::Cancel), Ok((job.clone(), vec![])));
}

#[track_caller]
fn check_refused(now: Time, job: &Job, command: Command, expected: &str) {
    assert_eq!(apply(now, job, command).unwrap_err().to_string(), expected);
}

#[test]
fn a_deadline_is_not_passed_before_its_time_and_stops_the_next_attempt_then() {
    let rules = Rules { deadline: Some(NOON), ..Rules::default() };
    let job = Job::submit(NOON - HOUR, rules, 0);
    check_refused(NOON - HOUR, &job, Command::Expire, "it is too early");
    let claim = Command::Claim { node: NODE };
    check_refused(NOON, &job, claim, "the deadline of the job has passed");
    let endless = Job::submit(NOON, Rules::default(), 0);
    check_refused(NOON, &endless, Command::Expire, "it is too early");
}

#[test]
fn an_operators_retry_is_a_new_life_under_the_old_fences() {
    let rules = Rules { deadline: Some(NOON), ..Rules::default() };
    let job = Job { state: State::Cancelled, rules, life: LIFE };
    let (job, _) = apply(NOON, &job, Command::Retry).unwrap();
    assert_eq!(job.life, Life { fence: CURRENT, ..Life::default() });
    let (job, _) = apply(NOON, &job, Command::Claim { node: NODE }).unwrap();
    assert_eq!((job.life.attempts, job.life.fence), (1, CURRENT.next()));
}
