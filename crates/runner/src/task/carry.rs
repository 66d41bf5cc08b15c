//! What is brought, and what is carried out.

use belay_protocol::runner::{CloseReason, IssuedToken, RunnerToken, ServerFrame};
use tokio::sync::{mpsc, oneshot};

use super::{HubTask, Inbound, Out, Pass};
use crate::clock::random;
use crate::core::bindings::SessionId;
use crate::core::event::{Answer, Ask, AskId, Effect, Event, Origin, Refusal, Traveller};
use crate::core::tokens::{Grant, TokenHash, Tokens};
use crate::handle::{IssueToken, Request, TokenLife};
use crate::records::Passage;

impl HubTask {
    /// Carries out what may go. The order of effects is kept.
    pub(super) fn carry_out(&mut self) {
        while let Some(out) = self.outbox.pop() {
            match out {
                Out::Effect(effect) => self.carry(effect),
                Out::Show(show) => show(),
            }
        }
    }

    fn carry(&mut self, effect: Effect) {
        match effect {
            Effect::Save(_)
            | Effect::Forget(_)
            | Effect::Remember(..)
            | Effect::ForgetTravel(_)
            | Effect::Happened(_) => {
                unreachable!("what goes to the disk does not go out by itself")
            }
            Effect::Reply { session, id, result } => {
                let frame = match result {
                    Ok(reply) => ServerFrame::Ok { id, reply },
                    Err(error) => ServerFrame::Error { id, error },
                };
                self.send(session, frame);
            }
            Effect::Tell { session, notice } => self.send(session, ServerFrame::Notice(notice)),
            Effect::Close { session, reason } => self.close(session, reason),
            Effect::Answer { id, result } => {
                if let Some(reply) = self.asks.remove(&id) {
                    // Whoever does not wait any longer can ask again.
                    let _ = reply.send(result);
                }
            }
            Effect::Host(order) => self.orders.push_back(order),
        }
    }

    /// Hands a frame to a socket. One that has not taken those before it is closed: it holds nobody
    /// up, and is told everything when it connects again.
    fn send(&mut self, session: SessionId, frame: ServerFrame) {
        let Some(line) = self.lines.get(&session) else { return };
        match line.frames.try_send(Box::new(frame)) {
            // One that is closed already says so itself.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.close(session, CloseReason::Slow);
                self.happened(Event::Disconnected { session });
            }
        }
    }

    fn close(&mut self, session: SessionId, reason: CloseReason) {
        if let Some(line) = self.lines.remove(&session) {
            // A socket that has ended by itself needs no reason.
            let _ = line.close.send(reason);
        }
    }

    /// Closes every socket, at the end.
    pub(super) fn let_everybody_go(&mut self) {
        for (_, line) in self.lines.drain() {
            let _ = line.close.send(CloseReason::Draining);
        }
    }

    /// Hands an event to the hub.
    pub(super) fn happened(&mut self, event: Event) {
        let effects = self.hub.handle(event, &self.clock.now());
        self.take_effects(effects);
    }

    pub(super) fn take_effects(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Save(record) if self.arriving == Some(record.run.id) => {
                    self.outbox.write(|writes| writes.save_arrival(record));
                }
                Effect::Save(record) => self.outbox.write(|writes| writes.save(record)),
                Effect::Forget(run) => self.outbox.write(|writes| writes.forget(run)),
                Effect::Remember(travel, until) => {
                    self.outbox.write(|writes| writes.remember(travel, until));
                }
                Effect::ForgetTravel(travel) => {
                    self.outbox.write(|writes| writes.forget_travel(travel));
                }
                Effect::Happened(tale) => self.tales.push(tale),
                effect => self.outbox.push(Out::Effect(effect)),
            }
        }
    }

    /// Tells what happened to the runs whose records are about to be written, so that it is on the
    /// disk with them.
    pub(super) fn tell_tales(&mut self) {
        for tale in self.tales.drain(..) {
            let workload = tale.workload.clone();
            let (message, details) = tale.told();
            self.events.emit(&workload, message, details);
        }
    }

    pub(super) fn brought(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Knock { hash, reply } => {
                let admitted = self.tokens.admit(hash, &self.clock.now());
                let _ = reply.send(admitted.map(|grant| Pass {
                    runner: grant.runner.clone(),
                    workload: grant.workload.clone(),
                }));
            }
            Inbound::Opened { session, pass, line } => {
                let Pass { runner, workload } = pass;
                self.lines.insert(session, line);
                self.happened(Event::Connected { session, runner, workload });
            }
            Inbound::Request { session, id, request } => {
                self.happened(Event::Request { session, id, request });
            }
            Inbound::Note { session, note } => self.happened(Event::Note { session, note }),
            Inbound::Closed { session } => {
                self.lines.remove(&session);
                self.happened(Event::Disconnected { session });
            }
        }
    }

    pub(super) fn requested(&mut self, request: Request) {
        match request {
            Request::Ask { ask, reply } => {
                let id = AskId(self.next_ask);
                self.next_ask += 1;
                self.asks.insert(id, reply);
                self.happened(Event::Ask { id, ask });
            }
            Request::Admit { passage, reply } => self.admit(*passage, reply),
            Request::TokensOf { runner, reply } => {
                let tokens = self.tokens.of(&runner);
                self.show(reply, tokens);
            }
            Request::Departures { reply } => {
                let departures = self.hub.departures();
                self.show(reply, departures);
            }
            Request::Run { run, reply } => {
                let detail = self.hub.run_detail(run, &self.clock.now());
                self.show(reply, detail);
            }
            Request::Runs { query, reply } => {
                let page = self.hub.run_page(&query, &self.clock.now());
                self.show(reply, page);
            }
            Request::Runners { reply } => {
                let runners = self.hub.runner_list();
                self.show(reply, runners);
            }
            Request::Waitpoints { query, reply } => {
                let page = self.hub.waitpoint_page(&query);
                self.show(reply, page);
            }
            Request::Declare { workload, policy, reply } => {
                self.happened(Event::Declared { workload, policy });
                self.show(reply, ());
            }
            Request::Withdraw { workload, reply } => {
                self.happened(Event::Withdrawn { workload });
                self.show(reply, ());
            }
            Request::Issue { token, reply } => {
                let issued = self.issue(token);
                self.show(reply, issued);
            }
            Request::RunStints { run, reply } => {
                let stints = self.hub.run_stints(run);
                self.show(reply, stints);
            }
            Request::StintsOf { runner, reply } => {
                let stints = self.hub.stints_of(&runner);
                self.show(reply, stints);
            }
            Request::Forgotten { runs, reply } => {
                let forgotten = self.hub.forgotten(&runs);
                self.show(reply, forgotten);
            }
            Request::Revoke { runner, reply } => {
                for hash in self.tokens.revoke(&runner) {
                    self.outbox.write(|writes| writes.remove_token(hash));
                }
                self.show(reply, ());
            }
        }
    }

    /// Answers behind everything that the answer rests on.
    fn show<T: Send + 'static>(&mut self, reply: oneshot::Sender<T>, shown: T) {
        self.outbox.push(Out::Show(Box::new(move || {
            let _ = reply.send(shown);
        })));
    }

    /// Lets a run of another node in, with the tokens of its runner. All of it is one commit.
    fn admit(&mut self, passage: Passage, reply: oneshot::Sender<Result<Answer, Refusal>>) {
        let Passage { arrival, tokens, .. } = passage;
        let now = self.clock.now();
        if let Err(refusal) = self.hub.may_admit(&arrival, &now) {
            return self.show(reply, Err(refusal));
        }
        let Traveller { runner, workload, run, .. } = arrival.traveller.clone();
        let origin = Origin::Hosted;
        for hash in tokens {
            let (runner, workload) = (runner.clone(), workload.clone());
            let grant = Grant { runner, workload, origin, expires_at: None };
            self.tokens.insert(hash, grant.clone());
            self.outbox.write(|writes| writes.put_token(hash, grant));
        }
        self.arriving = Some(run);
        let id = AskId(self.next_ask);
        self.next_ask += 1;
        self.asks.insert(id, reply);
        self.happened(Event::Ask { id, ask: Ask::Admit(Box::new(arrival)) });
        self.arriving = None;
    }

    fn issue(&mut self, asked: IssueToken) -> Result<IssuedToken, Refusal> {
        let IssueToken { runner, workload, life } = asked;
        Tokens::may_issue(&runner, life.origin())?;
        let now = self.clock.now();
        let expires_at = match life {
            TokenLife::Container => None,
            TokenLife::Limited(life) => Some(now.later(life)),
        };
        for hash in self.tokens.collect(&now, |_| true) {
            self.outbox.write(|writes| writes.remove_token(hash));
        }
        let token = RunnerToken::from_entropy(random());
        let hash = TokenHash::of(&token);
        let grant = Grant {
            runner: runner.clone(),
            workload: workload.clone(),
            origin: life.origin(),
            expires_at,
        };
        self.tokens.insert(hash, grant.clone());
        self.outbox.write(|writes| writes.put_token(hash, grant));
        Ok(IssuedToken { token, runner, workload, expires_at })
    }

    pub(super) fn tell_tally(&self) {
        let tally = self.hub.tally();
        self.tell.send_if_modified(|told| std::mem::replace(told, tally) != tally);
    }
}
