//! What the engine does.

use belay_protocol::runner::RunnerId;

use super::super::account::Plan;
use super::{About, Call, Container, Line, Process, World, runner_of};
use crate::core::event::{Effect, Event, HostEvent, HostOrder, SnapshotOutcome};
use crate::core::run::{Exit, Means};
use crate::core::snapshots::Ticket;

impl World {
    pub(super) fn engine(&mut self) {
        if !self.orders.is_empty() && !self.dice.one_in(3) {
            // Those for one runner are obeyed in their order.
            let first = |&at: &usize| {
                let runner = runner_of(&self.orders[at]);
                self.orders[..at].iter().all(|earlier| runner_of(earlier) != runner)
            };
            let firsts: Vec<usize> = (0..self.orders.len()).filter(first).collect();
            let at = self.dice.pick(&firsts).expect("the first of all is one");
            let order = self.orders.remove(at);
            self.obey(order);
        } else if !self.calls.is_empty() {
            let calls = u64::try_from(self.calls.len()).expect("it is small");
            let at = usize::try_from(self.dice.below(calls)).expect("it is small");
            let call = self.calls.remove(at);
            self.call_goes_on(call);
        }
    }

    pub(super) fn host(&mut self, event: HostEvent) {
        self.event(Event::Host(event), About::default());
    }

    pub(super) fn obey(&mut self, order: HostOrder) {
        self.tell(Line::Obeyed(order.clone()));
        match order {
            HostOrder::StartRunner { runner, workload } => {
                if self.containers.contains_key(&runner) {
                    return;
                }
                if self.fails(6) {
                    self.host(HostEvent::StartFailed { runner, reason: "no image".to_owned() });
                    return;
                }
                self.containers.insert(runner.clone(), Container::Running);
                self.processes.push(Process { runner, workload, session: None, work: None });
            }
            HostOrder::StopRunner { runner } => self.end_container(&runner),
            HostOrder::TakeSnapshot(ticket) => self.calls.push(Call::Ordered(ticket)),
            HostOrder::AbortSnapshot(ticket) => {
                let ordered =
                    |call: &Call| matches!(call, Call::Ordered(found) if *found == ticket);
                if let Some(at) = self.calls.iter().position(ordered)
                    && self.dice.one_in(2)
                {
                    self.calls.remove(at);
                    self.not_taken(ticket);
                }
            }
            HostOrder::FindSnapshot(ticket) => {
                let found = match self.containers.get(&ticket.runner) {
                    Some(Container::Frozen { means, by }) if *by == ticket => Some(*means),
                    _ => None,
                };
                match found {
                    Some(means) => self.taken(&ticket, means),
                    None => self.not_taken(ticket),
                }
            }
            HostOrder::PutBack(ticket) => {
                if self.containers.contains_key(&ticket.runner) {
                    self.containers.insert(ticket.runner.clone(), Container::Running);
                }
                self.host(HostEvent::Settled { ticket });
            }
            HostOrder::Drop(ticket) => {
                self.remove_container(&ticket.runner);
                self.host(HostEvent::Settled { ticket });
            }
            HostOrder::Restore(ticket) => {
                if self.fails(6) {
                    self.host(HostEvent::RestoreFailed { ticket, reason: "torn".to_owned() });
                } else if self.containers.contains_key(&ticket.runner) {
                    self.containers.insert(ticket.runner, Container::Running);
                }
            }
        }
    }

    pub(super) fn call_goes_on(&mut self, call: Call) {
        match call {
            Call::Ordered(ticket) => {
                let is_running = self.containers.get(&ticket.runner) == Some(&Container::Running);
                if !is_running || self.fails(3) {
                    self.not_taken(ticket);
                    return;
                }
                let means = self.dice.pick(&[Means::Checkpoint, Means::Pause]).expect("two");
                let by = ticket.clone();
                self.containers.insert(ticket.runner.clone(), Container::Frozen { means, by });
                self.tell(Line::Frozen(ticket.runner.clone()));
                if self.dice.one_in(2)
                    && let Some(session) = self.session_of(&ticket.runner)
                {
                    self.disconnect_session(session);
                }
                let still = matches!(
                    self.containers.get(&ticket.runner),
                    Some(Container::Frozen { by, .. }) if *by == ticket
                );
                if !still || self.numbers == 0 {
                    return;
                }
                self.calls.push(Call::Frozen(ticket.clone(), means));
                if means == Means::Checkpoint && self.dice.one_in(3) {
                    let runner = ticket.runner;
                    self.host(HostEvent::Exited { runner, exit: Exit::default() });
                }
            }
            Call::Frozen(ticket, means) => self.taken(&ticket, means),
        }
    }

    fn taken(&mut self, ticket: &Ticket, means: Means) {
        let is_wanted = self.account.taking.remove(&ticket.run).is_some();
        if is_wanted {
            self.tally.taken += 1;
            if let Some(waiting) = self.account.waiting.get_mut(&ticket.run) {
                waiting.plan = Plan::Stored;
            }
        }
        let outcome = SnapshotOutcome::Taken(means);
        let effects = {
            let event = HostEvent::Snapshot { ticket: ticket.clone(), outcome };
            self.event(Event::Host(event), About::default())
        };
        let undone = effects.iter().any(|effect| {
            matches!(effect, Effect::Host(HostOrder::PutBack(found) | HostOrder::Drop(found))
                if found == ticket)
        });
        assert!(!(is_wanted && undone), "a wanted snapshot is undone: {ticket:?}");
    }

    fn not_taken(&mut self, ticket: Ticket) {
        let is_connected = self.session_of(&ticket.runner).is_some();
        self.account.failed(&ticket, is_connected, self.now, &self.policy);
        let outcome = SnapshotOutcome::NotTaken { reason: "no".to_owned() };
        self.host(HostEvent::Snapshot { ticket, outcome });
    }

    fn remove_container(&mut self, runner: &RunnerId) {
        self.containers.remove(runner);
        // What freezes it comes to nothing; the engine says so in its time.
        for call in &mut self.calls {
            if let Call::Frozen(ticket, _) = call
                && ticket.runner == *runner
            {
                *call = Call::Ordered(ticket.clone());
            }
        }
        self.processes.retain(|process| process.runner != *runner);
    }

    fn end_container(&mut self, runner: &RunnerId) {
        self.remove_container(runner);
        self.exit(runner);
    }

    fn exit(&mut self, runner: &RunnerId) {
        let exit = Exit { code: Some(1), ..Exit::default() };
        self.host(HostEvent::Exited { runner: runner.clone(), exit });
    }

    pub(super) fn die(&mut self) {
        let alive: Vec<RunnerId> = self
            .containers
            .iter()
            .filter(|(_, container)| match container {
                Container::Running => true,
                // A stored process cannot die, nor one that the engine is about to say it froze.
                Container::Frozen { means, by } => {
                    *means == Means::Pause
                        && !self
                            .calls
                            .iter()
                            .any(|call| matches!(call, Call::Frozen(ticket, _) if ticket == by))
                }
            })
            .map(|(runner, _)| runner.clone())
            .collect();
        if let Some(runner) = self.dice.pick(&alive)
            && self.dice.one_in(2)
        {
            self.end_container(&runner);
        }
    }
}
