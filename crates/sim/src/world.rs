//! The world of a history: programs, an operator, the weather, the wall clock; and its steps.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use taskloom_flow::TaskGroup;
use taskloom_model::{JobId, StateName};
use taskloom_store::{Clock, Store};

use crate::chance::{chance, millis, one};
use crate::jobs;
use crate::program::{Ground, Order, Program};
use crate::weather::Rates;

/// How long the operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
const PROGRAMS_MAX: usize = 4;
/// How far the wall clock may go behind, all in all: dead nodes are found that much later.
const BEHIND_MAX: Duration = Duration::from_secs(60);

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Submit,
    Start,
    Kill,
    Pause,
    Drain,
    Cancel,
    Retry,
    Jump,
    Crash,
    Weather,
    Wait,
}

/// How often each step is drawn, in a hundred.
const STEPS: [(Step, u32); 10] = [
    (Step::Submit, 40),
    (Step::Start, 9),
    (Step::Kill, 5),
    (Step::Pause, 7),
    (Step::Drain, 5),
    (Step::Cancel, 9),
    (Step::Retry, 6),
    (Step::Jump, 3),
    (Step::Weather, 8),
    (Step::Wait, 8),
];

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) ground: Ground,
    pub(crate) group: TaskGroup,
    pub(crate) programs: Vec<Program>,
    n_programs: usize,
    /// The wall clock runs away, and whoever works dies again and again, so that jobs crash often.
    is_hasty: bool,
    operator: Arc<dyn Store>,
}

impl World {
    pub(crate) fn new(ground: Ground, mut rng: Rng) -> World {
        let operator = ground.store_of(0, &Arc::default());
        let group = TaskGroup::isolated();
        let is_hasty = chance(&mut rng, 15);
        World { rng, ground, group, programs: Vec::new(), n_programs: 0, is_hasty, operator }
    }

    pub(crate) fn choose(&mut self) -> Step {
        if self.is_hasty && chance(&mut self.rng, 20) {
            return if self.rng.bool() { Step::Jump } else { Step::Crash };
        }
        let mut place = self.rng.u32(..100);
        for (step, weight) in STEPS {
            if place < weight {
                return step;
            }
            place -= weight;
        }
        Step::Submit
    }

    pub(crate) async fn step(&mut self, step: Step) {
        match step {
            Step::Submit => self.submit().await,
            Step::Start => self.start(),
            Step::Kill => self.kill(),
            Step::Pause => self.pause(),
            Step::Drain => self.drain(),
            Step::Cancel => self.cancel().await,
            Step::Retry => self.retry().await,
            Step::Jump => self.jump(),
            Step::Crash => self.crash().await,
            Step::Weather => {
                let rates = Rates::draw(&mut self.rng);
                self.tell(&format!("the weather: {rates:?}"));
                self.ground.weather.set(rates);
            }
            Step::Wait => {
                let time = millis(&mut self.rng, 1_000..8_000);
                self.pass(time).await;
            }
        }
        let pause = if chance(&mut self.rng, 30) { 0..1 } else { 1..900 };
        let pause = millis(&mut self.rng, pause);
        self.pass(pause).await;
    }

    pub(crate) fn tell(&self, text: &str) {
        self.ground.book.lock().tell(text);
    }

    /// Lets time pass, waking who is to wake.
    pub(crate) async fn pass(&mut self, time: Duration) {
        let until = self.ground.clock.elapsed() + time;
        loop {
            let next = self.programs.iter().filter_map(|it| it.wakes).min();
            let next = next.map_or(until, |it| it.min(until));
            tokio::time::sleep(next.saturating_sub(self.ground.clock.elapsed())).await;
            self.wake(self.ground.clock.elapsed());
            self.sweep();
            self.ground.book.lock().check_bodies();
            if until <= self.ground.clock.elapsed() {
                return;
            }
        }
    }

    /// Wakes the programs whose pause is over at `now`.
    pub(crate) fn wake(&mut self, now: Duration) {
        for program in self.programs.iter_mut().filter(|it| it.wakes.is_some_and(|at| at <= now)) {
            program.wakes = None;
            program.gate.open();
            self.ground.book.lock().tell(&format!("program {} wakes", program.view));
        }
    }

    /// Takes note of programs that are gone.
    pub(crate) fn sweep(&mut self) {
        let mut book = self.ground.book.lock();
        for program in self.programs.iter().filter(|it| it.is_over()) {
            book.tell(&format!("program {} is gone", program.view));
            book.check_silent(program.view);
            book.views.entry(program.view).or_default().is_gone = true;
        }
        drop(book);
        self.programs.retain(|it| !it.is_over());
    }

    pub(crate) fn start(&mut self) {
        if PROGRAMS_MAX <= self.programs.len() {
            return;
        }
        self.n_programs += 1;
        let (view, rng) = (self.n_programs, &mut self.rng);
        self.programs.push(Program::start(&self.ground, view, rng, &self.group));
    }

    fn any_program(&mut self) -> Option<usize> {
        let n = self.programs.len();
        (0 < n).then(|| self.rng.usize(..n))
    }

    /// Whoever takes up the jobs of the dead dies with them, in calm weather.
    async fn crash(&mut self) {
        self.tell("whoever works dies, again and again");
        self.ground.weather.set(Rates::default());
        for _ in 0..4 {
            self.start();
            // Long enough to see the dead silent, and to claim what they had.
            self.pass(Duration::from_millis(4_500)).await;
            for program in &mut self.programs {
                self.ground.book.lock().summary.n_killed += 1;
                program.kill();
                program.over().await;
            }
            // As if a lease had passed.
            let lease = Duration::from_secs(31) + self.ground.clock.behind();
            self.ground.clock.jump(i64::try_from(lease.as_millis()).unwrap_or(0));
            self.pass(Duration::from_millis(1)).await;
        }
        self.start();
    }

    pub(crate) fn kill(&mut self) {
        let Some(place) = self.any_program() else { return };
        let view = self.programs[place].view;
        self.tell(&format!("program {view} is killed"));
        self.ground.book.lock().summary.n_killed += 1;
        self.programs[place].kill();
    }

    fn pause(&mut self) {
        let Some(place) = self.any_program() else { return };
        // Half of the pauses outlast the lease.
        let length = millis(&mut self.rng, 500..60_000);
        let program = &mut self.programs[place];
        program.gate.shut();
        program.wakes = Some(self.ground.clock.elapsed() + length);
        let view = program.view;
        self.tell(&format!("program {view} is paused for {length:?}"));
        self.ground.book.lock().summary.n_paused += 1;
    }

    pub(crate) fn drain(&mut self) {
        let Some(place) = self.any_program() else { return };
        let deadline = millis(&mut self.rng, 0..4_000);
        let hurry_after = chance(&mut self.rng, 35).then(|| millis(&mut self.rng, 0..2_000));
        let program = &mut self.programs[place];
        program.is_draining = true;
        program.order(Order::Drain { deadline, hurry_after });
        let view = program.view;
        self.tell(&format!("program {view} drains: {deadline:?}, hurry after {hurry_after:?}"));
        let mut book = self.ground.book.lock();
        book.summary.n_drained += 1;
        book.summary.n_hurried += u64::from(hurry_after.is_some());
    }

    fn jump(&mut self) {
        let clock = &self.ground.clock;
        let forward = i64::try_from(self.rng.u64(1_000..90_000)).unwrap_or(0);
        let back = i64::try_from(self.rng.u64(1_000..30_000)).unwrap_or(0);
        let may_go_back = clock.behind() + Duration::from_secs(30) <= BEHIND_MAX;
        let goes_back = self.rng.bool() && may_go_back && !self.is_hasty;
        let millis = if goes_back { -back } else { forward };
        clock.jump(millis);
        self.tell(&format!("the wall clock jumps by {millis} ms"));
        self.ground.book.lock().summary.n_clock_jumps += 1;
    }

    async fn submit(&mut self) {
        let known: Vec<JobId> = self.ground.book.lock().jobs.values().map(|it| it.id).collect();
        let jobs = jobs::draw(&mut self.rng, self.ground.clock.now(), &known);
        let submitted = self.operator.submit(jobs);
        tokio::time::timeout(PATIENCE, submitted).await.ok();
    }

    /// Some jobs, mostly in one of `states`.
    fn some_jobs(&mut self, wanted: impl Fn(StateName) -> bool) -> Vec<JobId> {
        let book = self.ground.book.lock();
        let jobs = book.jobs.values();
        let fit: Vec<JobId> = jobs.filter(|it| wanted(it.state)).map(|it| it.id).collect();
        drop(book);
        let n = self.rng.usize(1..=3);
        let mut ids: Vec<JobId> = (0..n).filter_map(|_| one(&mut self.rng, &fit)).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    async fn cancel(&mut self) {
        let only_running = self.rng.bool();
        let ids = self.some_jobs(|it| match only_running {
            true => it == StateName::Running,
            false => !it.is_ended(),
        });
        let cancelled = tokio::time::timeout(PATIENCE, self.operator.cancel(ids.clone())).await;
        // A program that knows of it need not wait for its heartbeat.
        if cancelled.is_ok_and(|it| it.is_ok()) && self.rng.bool() {
            for (program, id) in
                self.programs.iter().flat_map(|it| ids.iter().map(move |id| (it, *id)))
            {
                program.order(Order::Cancel(id));
            }
        }
    }

    async fn retry(&mut self) {
        let ids = self.some_jobs(StateName::is_ended);
        tokio::time::timeout(PATIENCE, self.operator.retry(ids)).await.ok();
    }
}
