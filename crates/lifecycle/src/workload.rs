//! One workload: the task that owns its state and is the only one to act on it.
//!
//! The task looks at the engine, asks the pure machine for the next step, carries it out, and
//! repeats until the machine says to wait; between any two steps it takes what has been asked of it
//! meanwhile, so that a stop wins over a start that is still under way.

mod app_requests;
mod applying;
mod check;
mod clones;
mod command;
mod conflict;
mod deploy;
mod first_content;
mod importing;
mod limits;
mod locking;
mod observe;
mod operate;
mod pending;
mod providers;
mod publishing;
mod secrets;
mod state;
mod status;
mod steps;
mod stop;
mod sync;
mod sync_acts;
mod telling;
mod template;
mod volume;

use std::sync::Arc;
use std::time::Duration;

use belay_protocol::{WorkloadName, WorkloadStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use command::{Occasion, WorkloadCommand};
use locking::Hold;
use providers::Patience;
use state::{FetchDone, State};

use crate::context::Context;
use crate::core::machine::Step;
use crate::core::record::WorkloadRecord;
use crate::first_look::FirstLook;
use crate::roll;

/// Commands that may wait for a workload's task.
const QUEUE: usize = 32;

/// Pause before the engine is asked again after it could not say.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// How long answers that are being given may take once the task ends.
const ANSWERS: Duration = Duration::from_secs(1);

/// Steps that are carried out at most once belayd is ending.
const STEPS_WHILE_ENDING: u32 = 20;

/// Held by whoever talks to a workload.
#[derive(Debug, Clone)]
pub struct WorkloadHandle {
    /// Its name.
    pub name: WorkloadName,
    /// What is asked of it.
    pub commands: mpsc::Sender<WorkloadCommand>,
    /// What it says of itself; `None` before anything was deployed and after it was removed.
    pub status: watch::Receiver<Option<WorkloadStatus>>,
}

/// What a workload's task begins with.
#[derive(Debug)]
pub(crate) enum Beginning {
    /// The ledger knows it; the second is shared by all that begin at that moment.
    Known(Box<WorkloadRecord>, Arc<FirstLook>),
    /// Nothing is known of it but its name; it waits for its first deploy.
    New,
}

/// The task of one workload.
#[derive(Debug)]
pub struct WorkloadTask {
    state: State,
    commands: mpsc::Receiver<WorkloadCommand>,
}

impl WorkloadTask {
    /// Starts a workload's task.
    pub(crate) fn spawn(
        context: Arc<Context>,
        name: WorkloadName,
        beginning: Beginning,
    ) -> (WorkloadHandle, JoinHandle<WorkloadName>) {
        let (sender, commands) = mpsc::channel(QUEUE);
        let (published, status) = watch::channel(None);
        let state = State::new(context, name.clone(), beginning, sender.clone(), published);
        // Seen from the first moment on, so that a node is not called ready before it was looked at.
        state.publish_status();
        state.show_template();
        let task = Self { state, commands };
        let handle = WorkloadHandle { name, commands: sender, status };
        (handle, tokio::spawn(task.run()))
    }

    /// Runs until the workload is forgotten or belayd ends.
    async fn run(mut self) -> WorkloadName {
        loop {
            let mut wake = self.converge().await;
            self.state.rest_locks();
            self.state.publish_status();
            if self.state.is_forgotten() {
                break;
            }
            if self.state.context.shutdown.is_cancelled() && self.drained().await {
                break;
            }
            wake = self.state.deferred_wake().map_or(wake, |due| wake.min(due));
            self.rest(wake).await;
        }
        self.commands.close();
        self.state.refuse_deferred();
        while let Some(command) = self.commands.recv().await {
            command.refuse(self.state.gone());
        }
        self.state.end_sync().await;
        self.state.checks.drain().await;
        // A publish that has just ended still has its answer to give.
        let answered = async { while self.state.answers.join_next().await.is_some() {} };
        if tokio::time::timeout(ANSWERS, answered).await.is_err() {
            self.state.answers.shutdown().await;
        }
        self.state.end_locks();
        self.state.publish_status();
        self.state.withdraw_template();
        self.state.name
    }

    /// Carries out steps until there is nothing to do, and says when to look again.
    async fn converge(&mut self) -> Instant {
        // While belayd ends, a step that fails again and again must not keep it.
        let mut left = STEPS_WHILE_ENDING;
        loop {
            if self.state.context.shutdown.is_cancelled() {
                left -= 1;
                if left == 0 {
                    return Instant::now();
                }
            }
            self.take_waiting().await;
            self.state.refresh().await;
            self.state.judge_exit().await;
            self.state.read_limits_back().await;
            if self.state.unwritten {
                self.state.write_again().await;
            }
            self.state.settle_gate().await;
            self.state.act_on_liveness().await;
            self.state.grant_window();
            self.state.grant_wish().await;
            self.state.run_sync_if_due();
            self.state.tell_sync();
            self.state.see_providers();
            self.state.follow_providers();
            self.state.look_at_requests().await;
            self.state.follow_overrides();
            self.state.see_content().await;
            self.state.settle_template().await;
            self.state.show_template();
            if self.state.is_forgotten() {
                return Instant::now();
            }
            let Some((desired, facts)) = self.state.view() else {
                // Nothing deployed yet: only a command changes that.
                return Instant::now() + roll::PERIOD;
            };
            let step = self.state.decide(&desired, &facts);
            match self.state.hold_for(&step) {
                Hold::Go => {}
                Hold::LookAgain => continue,
                Hold::Until(at) => {
                    self.state.publish_status();
                    self.state.settle_pending();
                    return at;
                }
            }
            self.state.enter(&step);
            self.state.publish_status();
            // Whoever waits is told after the status, so that what they look at next agrees.
            self.state.settle_pending();
            self.state.tell_deploy_ready();
            match step {
                Step::Wait => {
                    if self.state.judge_wait().await == Patience::Lost {
                        continue;
                    }
                    return self.state.next_wake();
                }
                Step::Look if self.state.end_stuck_removal().await => {}
                Step::Look => {
                    self.state.stale();
                    return Instant::now() + LOOK_AGAIN;
                }
                step => {
                    if let Some(at) = self.state.retry_at
                        && at > Instant::now()
                    {
                        return at;
                    }
                    self.state.retry_at = None;
                    self.state.carry_out(step).await;
                }
            }
        }
    }

    /// Takes every command that is already there, first those that have waited for a lock.
    async fn take_waiting(&mut self) {
        self.state.take_deferred().await;
        while let Ok(command) = self.commands.try_recv() {
            self.state.take(command).await;
        }
    }

    /// Waits for whatever comes first.
    async fn rest(&mut self, wake: Instant) {
        let state = &mut self.state;
        let ending = state.context.shutdown.clone();
        let was_ending = ending.is_cancelled();
        let windowed = state.window.is_some() || state.window_request.is_some();
        let is_template = state.is_template();
        tokio::select! {
            command = self.commands.recv() => {
                if let Some(command) = command {
                    state.take(command).await;
                }
            }
            // What it leads to may replace the volumes, so it waits until no window is open.
            done = FetchDone::of(&mut state.fetch), if !windowed => state.fetched(done).await,
            event = state.checks.next() => state.checked(event).await,
            (outcome, reply) = state::window_closed(&mut state.window) => {
                state.window_closed(outcome, reply).await;
            }
            changed = state::sync_changed(&mut state.sync) => state.sync_changed(changed),
            heard = state.requests.heard() => state.requests.take_hint(heard.as_ref()),
            () = providers::changed(&mut state.page, state.known.as_ref(), &state.providers) => {}
            () = template::runners_changed(&mut state.runner_counts, is_template) => {}
            // Answers that are done are let go of.
            Some(_) = state.answers.join_next() => {}
            () = tokio::time::sleep_until(wake) => state.compare_if_due(),
            () = ending.cancelled(), if !was_ending => {}
        }
    }

    /// Whether nothing is under way any more that must be finished before belayd may end.
    ///
    /// An open window has a stopped container behind it: it is closed and the container started
    /// again first.
    async fn drained(&mut self) -> bool {
        self.state.refuse_deferred();
        self.state.refuse_new_work();
        if self.state.window.is_some() {
            self.state.cancel_sync();
            return false;
        }
        self.state.abandon_fetch().await;
        true
    }
}
