//! What holds in every history of a job, whatever is done to it and in which order.

use std::time::Duration;

use proptest::prelude::*;
use taskloom_model::{
    CRASHES_MAX, Command, DependencyPolicy, Effect, FailReason, Fence, Job, NodeId, Outcome,
    RetryPolicy, Roll, Rules, State, StateName, Time, apply,
};

/// A command; the fence of a `Finish` is made current, or one behind, when it is applied.
#[derive(Debug, Clone, Copy)]
struct Step {
    command: Command,
    is_late: bool,
    wait: Duration,
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let hint = proptest::option::of((0_u64..200).prop_map(Duration::from_secs));
    prop_oneof![
        1 => Just(Outcome::Succeeded),
        1 => Just(Outcome::TimedOut),
        1 => Just(Outcome::Interrupted),
        1 => Just(Outcome::Cancelled),
        1 => (0_u64..60).prop_map(|secs| Outcome::Snoozed { delay: Duration::from_secs(secs) }),
        4 => (prop::bool::weighted(0.1), hint)
            .prop_map(|(permanent, hint)| Outcome::Errored { permanent, hint }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        1 => any::<bool>().prop_map(|succeeded| Command::DependencyEnded { succeeded }),
        4 => Just(Command::Due),
        8 => (1_u64..4).prop_map(|node| Command::Claim { node: NodeId(node) }),
        8 => (outcome(), 0.0_f64..1.0).prop_map(|(outcome, roll)| Command::Finish {
            fence: Fence(0),
            outcome,
            roll: Roll(roll),
        }),
        2 => Just(Command::OwnerLost),
        1 => Just(Command::Cancel),
        1 => Just(Command::Retry),
        1 => Just(Command::Expire),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step =
        (command(), prop::bool::weighted(0.1), 0_u64..90).prop_map(|(command, is_late, secs)| {
            let wait = Duration::from_secs(secs);
            Step { command, is_late, wait }
        });
    prop::collection::vec(step, 0..120)
}

fn submitted() -> impl Strategy<Value = Job> {
    let secs = || proptest::option::of(0_i64..600);
    (0_u32..4, 1_u32..5, secs(), secs(), any::<bool>()).prop_map(
        |(n_unfinished, max_attempts, run_at, deadline, runs)| {
            let rules = Rules {
                retry: RetryPolicy { max_attempts, ..RetryPolicy::default() },
                run_at: run_at.map(|it| Time::from_millis(it * 1000)),
                deadline: deadline.map(|it| Time::from_millis(it * 1000)),
                on_dependency_failure: if runs {
                    DependencyPolicy::Run
                } else {
                    DependencyPolicy::Cancel
                },
            };
            Job::submit(Time::from_millis(0), rules, n_unfinished)
        },
    )
}

/// One move that was not refused.
struct Move {
    now: Time,
    before: Job,
    command: Command,
    after: Job,
    effects: Vec<Effect>,
}

/// Plays a history and hands every move to `check`.
fn check_moves(job: &Job, steps: &[Step], mut check: impl FnMut(&Move)) {
    let mut job = job.clone();
    let mut now = Time::from_millis(0);
    for step in steps {
        now = now + step.wait;
        let command = match step.command {
            Command::Finish { outcome, roll, .. } => {
                let current = job.life.fence;
                let fence = if step.is_late { Fence(current.0.wrapping_sub(1)) } else { current };
                Command::Finish { fence, outcome, roll }
            }
            other => other,
        };
        let before = job.clone();
        // A refusal gives no job back, so the old one is all there is.
        if let Ok((after, effects)) = apply(now, &job, command) {
            job = after.clone();
            check(&Move { now, before, command, after, effects });
        }
    }
}

proptest! {
    #[test]
    fn fences_grow_by_one_with_a_claim_and_stay_otherwise(job in submitted(), steps in steps()) {
        check_moves(&job, &steps, |it| {
            let grown = it.after.life.fence.0 - it.before.life.fence.0;
            let is_claim = matches!(it.command, Command::Claim { .. });
            assert_eq!(grown, u64::from(is_claim), "{:?}", it.command);
        });
    }

    #[test]
    fn an_ended_job_moves_only_by_an_operators_retry(job in submitted(), steps in steps()) {
        check_moves(&job, &steps, |it| {
            if it.before.state.name().is_ended() {
                assert_eq!(it.command, Command::Retry);
                assert_eq!(it.after.state, State::Ready);
            }
        });
    }

    #[test]
    fn attempts_never_exceed_the_policy(job in submitted(), steps in steps()) {
        check_moves(&job, &steps, |it| {
            let Job { state, rules, life } = &it.after;
            assert!(life.attempts <= rules.retry.max_attempts, "{life:?}");
            let may_run = matches!(state, State::Ready | State::Retrying { .. });
            assert!(!may_run || life.attempts < rules.retry.max_attempts, "{state:?}, {life:?}");
        });
    }

    #[test]
    fn crashes_interrupts_and_snoozes_cost_no_attempt(job in submitted(), steps in steps()) {
        let mut at_claim = 0;
        check_moves(&job, &steps, |it| {
            if matches!(it.command, Command::Claim { .. }) {
                at_claim = it.before.life.attempts;
            }
            let is_free = match it.command {
                Command::OwnerLost => true,
                Command::Finish { outcome, .. } => {
                    matches!(outcome, Outcome::Interrupted | Outcome::Snoozed { .. })
                        && !it.before.life.cancel_requested
                }
                _ => false,
            };
            if is_free {
                assert_eq!(it.after.life.attempts, at_claim, "{:?}", it.command);
            }
        });
    }

    #[test]
    fn the_third_crash_and_no_other_quarantines(job in submitted(), steps in steps()) {
        let quarantined = State::Failed { reason: FailReason::Quarantined };
        let mut n_crashes = 0;
        check_moves(&job, &steps, |it| {
            match it.command {
                Command::OwnerLost => n_crashes += 1,
                Command::Retry => n_crashes = 0,
                _ => {}
            }
            assert!(it.after.life.crashes == n_crashes && n_crashes <= CRASHES_MAX);
            if it.command == Command::OwnerLost && !it.before.life.cancel_requested {
                let is_third = n_crashes == CRASHES_MAX;
                assert_eq!(it.after.state == quarantined, is_third, "{n_crashes} crashes");
            }
        });
    }

    #[test]
    fn a_job_that_was_asked_to_end_ends_with_its_attempt(job in submitted(), steps in steps()) {
        check_moves(&job, &steps, |it| {
            if !it.before.life.cancel_requested || it.command == Command::Cancel {
                return;
            }
            let succeeded =
                matches!(it.command, Command::Finish { outcome: Outcome::Succeeded, .. });
            let expected = if succeeded { State::Succeeded } else { State::Cancelled };
            assert_eq!(it.after.state, expected, "after {:?}", it.command);
            assert!(!it.after.life.cancel_requested, "the wish is fulfilled");
        });
    }

    #[test]
    fn no_attempt_begins_after_the_deadline(job in submitted(), steps in steps()) {
        check_moves(&job, &steps, |it| {
            if matches!(it.command, Command::Claim { .. }) {
                assert!(it.after.rules.deadline.is_none_or(|deadline| it.now < deadline));
            }
        });
    }

    #[test]
    fn every_end_and_every_attempt_is_told_once(job in submitted(), steps in steps()) {
        check_moves(&job, &steps, |it| {
            let count = |wanted: fn(&Effect) -> bool| {
                it.effects.iter().filter(|effect| wanted(effect)).count()
            };
            let ends = !it.before.state.name().is_ended() && it.after.state.name().is_ended();
            assert_eq!(count(|effect| matches!(effect, Effect::Ended { .. })), usize::from(ends));
            let n_end_events =
                count(|effect| matches!(effect, Effect::Event(kind) if kind.is_end()));
            assert_eq!(n_end_events, usize::from(ends));
            let runs = |job: &Job| job.state.name() == StateName::Running;
            let attempt_ends = runs(&it.before) && !runs(&it.after);
            let n_attempts = count(|effect| matches!(effect, Effect::AttemptEnded(_)));
            assert_eq!(n_attempts, usize::from(attempt_ends));
        });
    }

    #[test]
    fn a_refused_command_is_refused_again(job in submitted(), steps in steps()) {
        // `apply` takes the job by reference, so all it could change is its own mind.
        let mut now = Time::from_millis(0);
        for step in &steps {
            now = now + step.wait;
            let kept = job.clone();
            let (once, twice) = (apply(now, &job, step.command), apply(now, &job, step.command));
            assert_eq!(once, twice);
            assert_eq!(job, kept);
        }
    }
}
