use belay_protocol::runner::{
    Again, Completed, Continued, Released, SnapshotAnswer, Suspended, WaitpointCreated, Welcome,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;

/// A conversation, with words for both sides of it.
struct Rig {
    talk: Conversation,
    /// Requests that were sent and not answered.
    sent: Vec<(RequestId, RunnerRequest)>,
    notes: usize,
    out: Vec<Output>,
}

fn run(number: u64) -> RunId {
    RunId::after(None, number, number)
}

fn epoch(number: u64) -> Epoch {
    Epoch::new(number)
}

fn timer(second: i64) -> WaitRequest {
    WaitRequest::Timer { until: Timestamp::from_second(second).expect("a time") }
}

fn wait(second: i64) -> Wish {
    Wish::Wait { wait: timer(second), snapshot_delay_ms: None }
}

fn executing(suspension: Option<u64>) -> Standing {
    let resumed = suspension.map(|suspension| Resumed {
        suspension: SuspensionId::new(suspension),
        result: WaitResult::Elapsed {},
    });
    Standing::Executing { attempt: Attempt::new(1), resumed }
}

fn waiting(suspension: u64, wait: WaitRequest) -> Standing {
    Standing::Waiting { attempt: Attempt::new(1), suspension: SuspensionId::new(suspension), wait }
}

fn assigned(attempt: u32) -> Standing {
    Standing::Assigned { attempt: Attempt::new(attempt) }
}

fn suspended(suspension: u64) -> Reply {
    let snapshot = SnapshotAnswer::Armed { delay_ms: 30_000 };
    Reply::Suspend(Suspended { suspension: SuspensionId::new(suspension), snapshot })
}

fn started() -> Reply {
    Reply::Start(Started { attempt: Attempt::new(1), payload: Value::Null, timeout_ms: None })
}

fn finished() -> Reply {
    Reply::Complete(Completed { next: NextForRun::Finished {} })
}

fn succeeded() -> Wish {
    Wish::Complete(AttemptOutcome::Succeeded { output: Value::Null })
}

impl Rig {
    fn new() -> Self {
        Self { talk: Conversation::new(), sent: Vec::new(), notes: 0, out: Vec::new() }
    }

    fn keep(&mut self, outputs: Vec<Output>) {
        self.out.clear();
        for output in outputs {
            match output {
                Output::Send(RunnerFrame::Request { id, request }) => self.sent.push((id, request)),
                Output::Send(RunnerFrame::Note(_)) => self.notes += 1,
                other => self.out.push(other),
            }
        }
        assert!(self.sent.len() <= 1, "one at a time: {:?}", self.sent);
    }

    /// Opens a socket on which belayd says that this run is bound to the runner.
    fn open(&mut self, bound: Option<RunId>) {
        self.sent.clear();
        self.talk.opened();
        let welcome = Welcome {
            runner: "r".parse().expect("a name"),
            workload: "w".parse().expect("a name"),
            run: bound,
        };
        self.hear(Notice::Welcome(welcome));
    }

    fn close(&mut self) {
        self.talk.closed();
        self.sent.clear();
    }

    fn hear(&mut self, notice: Notice) {
        let outputs = self.talk.heard(ServerFrame::Notice(notice));
        self.keep(outputs);
    }

    fn state(&mut self, run: RunId, epoch: u64, standing: Standing) {
        self.hear(Notice::State(RunStanding { run, epoch: Epoch::new(epoch), standing }));
    }

    fn wish(&mut self, wish: Wish) {
        let outputs = self.talk.wish(wish);
        self.keep(outputs);
    }

    fn take(&mut self) {
        let outputs = self.talk.take();
        self.keep(outputs);
    }

    /// What is under way.
    fn asked(&self) -> Option<&RunnerRequest> {
        self.sent.first().map(|(_, request)| request)
    }

    fn grant(&mut self, reply: Reply) {
        let (id, request) = self.sent.remove(0);
        assert_eq!((self.talk.asked_as(id), request.name()), (Some(reply.name()), reply.name()));
        let outputs = self.talk.heard(ServerFrame::Ok { id, reply });
        self.keep(outputs);
    }

    fn refuse(&mut self, code: RunnerErrorCode) {
        let (id, _) = self.sent.remove(0);
        let error = RunnerError::new(code, "no");
        let outputs = self.talk.heard(ServerFrame::Error { id, error });
        self.keep(outputs);
    }

    /// With run 1 started in epoch 1.
    fn holding() -> Self {
        let mut rig = Self::new();
        rig.open(None);
        rig.take();
        rig.grant(Reply::Ready(Empty {}));
        rig.state(run(1), 1, assigned(1));
        rig.grant(started());
        assert!(matches!(&rig.out[..], [Output::Offer(offer)] if offer.run == run(1)));
        rig
    }

    /// The same, in suspension 1 that the program asked for.
    fn suspended() -> Self {
        let mut rig = Self::holding();
        rig.wish(wait(10));
        rig.grant(suspended(1));
        assert_eq!(rig.asked(), None);
        rig
    }

    fn answered(&self) -> Option<&Result<Fulfilled, Denied>> {
        match &self.out[..] {
            [Output::Answer(answer)] => Some(answer),
            _ => None,
        }
    }

    fn is_lost(&self, loss: Loss) -> bool {
        self.out.contains(&Output::Lost(loss))
    }
}

fn name(request: Option<&RunnerRequest>) -> Option<&'static str> {
    request.map(RunnerRequest::name)
}

#[test]
fn a_runner_is_ready_when_its_program_is_and_not_before() {
    let mut rig = Rig::new();
    rig.open(None);
    assert_eq!(rig.asked(), None);
    rig.take();
    assert_eq!(name(rig.asked()), Some("ready"));
    rig.grant(Reply::Ready(Empty {}));
    assert_eq!(rig.asked(), None, "once a session");
    rig.close();
    rig.open(None);
    assert_eq!(name(rig.asked()), Some("ready"), "a new session does not know");
}

#[test]
fn a_run_that_was_assigned_before_the_runner_came_is_not_let_go() {
    let mut rig = Rig::new();
    rig.take();
    rig.open(Some(run(1)));
    assert_eq!(rig.asked(), None, "its state comes first");
    rig.state(run(1), 1, assigned(1));
    assert_eq!(
        rig.asked(),
        Some(&RunnerRequest::Start(RunReference { run: run(1), epoch: epoch(1) }))
    );
}

#[test]
fn an_assigned_run_waits_until_the_program_wants_one() {
    let mut rig = Rig::new();
    rig.open(Some(run(1)));
    rig.state(run(1), 1, assigned(1));
    assert_eq!(rig.asked(), None);
    rig.take();
    assert_eq!(name(rig.asked()), Some("start"));
}

#[test]
fn a_start_whose_answer_was_lost_is_asked_again() {
    for standing in [assigned(1), executing(None)] {
        let mut rig = Rig::new();
        rig.open(None);
        rig.take();
        rig.grant(Reply::Ready(Empty {}));
        rig.state(run(1), 1, assigned(1));
        rig.close();
        rig.open(Some(run(1)));
        rig.state(run(1), 2, standing);
        let again = RunReference { run: run(1), epoch: epoch(2) };
        assert_eq!(rig.asked(), Some(&RunnerRequest::Start(again)));
        rig.grant(started());
        assert!(matches!(&rig.out[..], [Output::Offer(_)]));
    }
}

#[test]
fn a_run_of_an_earlier_process_is_given_back_before_another_is_taken() {
    for standing in [executing(None), waiting(1, timer(1))] {
        let mut rig = Rig::new();
        rig.take();
        rig.open(Some(run(1)));
        rig.state(run(1), 4, standing);
        let back = RunReference { run: run(1), epoch: epoch(4) };
        assert_eq!(rig.asked(), Some(&RunnerRequest::Stop(back)));
        rig.grant(Reply::Stop(Empty {}));
        assert_eq!(name(rig.asked()), Some("ready"));
    }
}

#[test]
fn a_wait_ends_with_what_belayd_says_of_its_own_suspension() {
    let mut rig = Rig::suspended();
    rig.state(run(1), 1, executing(Some(1)));
    assert_eq!(rig.answered(), Some(&Ok(Fulfilled::Waited(WaitResult::Elapsed {}))));
    // A second wait is not answered by the first one's end.
    rig.wish(wait(20));
    rig.grant(suspended(2));
    rig.state(run(1), 1, executing(Some(1)));
    assert_eq!(rig.answered(), None);
    assert_eq!(name(rig.asked()), Some("suspend"), "belayd has it executing");
}

#[test]
fn a_wait_that_is_over_when_it_begins_is_answered_by_the_state_that_follows() {
    let mut rig = Rig::holding();
    rig.wish(wait(10));
    let snapshot =
        SnapshotAnswer::Omitted { reason: belay_protocol::runner::SnapshotOmission::WaitOver };
    rig.grant(Reply::Suspend(Suspended { suspension: SuspensionId::new(1), snapshot }));
    assert_eq!(rig.answered(), None);
    rig.state(run(1), 1, executing(Some(1)));
    assert_eq!(rig.answered(), Some(&Ok(Fulfilled::Waited(WaitResult::Elapsed {}))));
}

#[test]
fn a_restored_runner_hears_of_the_end_of_its_wait_in_the_new_epoch() {
    let mut rig = Rig::suspended();
    rig.close();
    rig.open(Some(run(1)));
    rig.state(run(1), 2, executing(Some(1)));
    assert_eq!(rig.answered(), Some(&Ok(Fulfilled::Waited(WaitResult::Elapsed {}))));
    rig.wish(succeeded());
    let Some(RunnerRequest::Complete(complete)) = rig.asked() else { panic!("{:?}", rig.sent) };
    assert_eq!(complete.epoch, epoch(2));
}

#[test]
fn a_wait_goes_on_over_a_reconnect() {
    let mut rig = Rig::suspended();
    rig.close();
    rig.open(Some(run(1)));
    rig.state(run(1), 2, waiting(1, timer(10)));
    assert_eq!(rig.asked(), None);
    rig.state(run(1), 2, executing(Some(1)));
    assert_eq!(rig.answered(), Some(&Ok(Fulfilled::Waited(WaitResult::Elapsed {}))));
}

#[test]
fn a_suspend_whose_answer_was_lost_is_found_or_asked_again() {
    // What belayd says at the reconnect, and whether it must be asked again, or the wait is over.
    let cases = [
        (executing(None), Some("suspend"), false),
        (waiting(1, timer(10)), None, false),
        (waiting(1, timer(99)), Some("suspend"), false),
        (executing(Some(1)), None, true),
    ];
    for (standing, asked, is_over) in cases {
        let mut rig = Rig::holding();
        rig.wish(wait(10));
        assert_eq!(name(rig.asked()), Some("suspend"));
        rig.close();
        rig.open(Some(run(1)));
        rig.state(run(1), 2, standing.clone());
        assert_eq!(name(rig.asked()), asked, "{standing:?}");
        assert_eq!(rig.answered().is_some(), is_over, "{standing:?}");
    }
}

#[test]
fn a_wait_that_the_program_gives_up_is_left() {
    let mut rig = Rig::suspended();
    let outputs = rig.talk.unwish();
    rig.keep(outputs);
    assert_eq!(name(rig.asked()), Some("continue"));
    rig.grant(Reply::Continue(Continued { result: None }));
    assert_eq!(rig.asked(), None);
}

#[test]
fn a_wait_that_is_given_up_before_its_answer_is_left_when_that_comes() {
    let mut rig = Rig::holding();
    rig.wish(wait(10));
    let outputs = rig.talk.unwish();
    rig.keep(outputs);
    rig.grant(suspended(1));
    assert_eq!(name(rig.asked()), Some("continue"));
    // That it was over already is as good.
    rig.refuse(RunnerErrorCode::WrongState);
    assert_eq!((rig.asked(), &rig.out[..]), (None, &[][..]));
}

#[test]
fn a_wait_that_takes_the_place_of_another_is_not_answered_for_it() {
    let mut rig = Rig::holding();
    rig.wish(wait(10));
    rig.wish(wait(20));
    rig.grant(suspended(1));
    assert_eq!(name(rig.asked()), Some("suspend"), "the second one");
    rig.state(run(1), 1, executing(Some(1)));
    assert_eq!(rig.answered(), None);
    rig.grant(suspended(2));
    rig.state(run(1), 1, executing(Some(2)));
    assert_eq!(rig.answered(), Some(&Ok(Fulfilled::Waited(WaitResult::Elapsed {}))));
}

#[test]
fn a_completion_whose_answer_was_lost_is_asked_again_and_answered_once() {
    let mut rig = Rig::holding();
    rig.wish(succeeded());
    assert_eq!(name(rig.asked()), Some("complete"));
    rig.close();
    // It was heard: nothing is bound any more.
    rig.open(None);
    assert_eq!(name(rig.asked()), Some("complete"));
    rig.grant(finished());
    let done = Fulfilled::Completed(NextForRun::Finished {});
    assert_eq!(rig.answered(), Some(&Ok(done)));
    // It was not heard.
    let mut rig = Rig::holding();
    rig.wish(succeeded());
    rig.close();
    rig.open(Some(run(1)));
    rig.state(run(1), 2, executing(None));
    let Some(RunnerRequest::Complete(complete)) = rig.asked() else { panic!("{:?}", rig.sent) };
    assert_eq!(complete.epoch, epoch(2));
}

#[test]
fn a_completion_that_belayd_knows_nothing_of_is_lost_with_its_run() {
    let mut rig = Rig::holding();
    rig.wish(succeeded());
    rig.close();
    rig.open(None);
    rig.refuse(RunnerErrorCode::NotBound);
    let lost = Loss::TakenAway;
    assert_eq!(rig.out, [Output::Answer(Err(Denied::Lost(lost))), Output::Lost(lost)]);
}

#[test]
fn a_run_that_is_not_bound_any_more_is_lost_with_what_was_wished() {
    let mut rig = Rig::suspended();
    rig.close();
    rig.open(None);
    let lost = Loss::TakenAway;
    assert_eq!(rig.out, [Output::Answer(Err(Denied::Lost(lost))), Output::Lost(lost)]);
    let mut rig = Rig::holding();
    rig.close();
    rig.open(Some(run(2)));
    assert!(rig.is_lost(Loss::TakenAway), "another one is bound");
    let mut rig = Rig::holding();
    rig.close();
    rig.open(Some(run(1)));
    rig.state(run(1), 2, assigned(2));
    assert!(rig.is_lost(Loss::TakenAway), "its attempt is over");
    rig.take();
    assert_eq!(name(rig.asked()), Some("start"), "and the next one is assigned");
}

#[test]
fn a_released_run_is_lost_with_its_reason() {
    let mut rig = Rig::suspended();
    let reason = ReleaseReason::Cancelled;
    rig.hear(Notice::Released(Released { run: run(2), epoch: epoch(1), reason }));
    assert_eq!(rig.out, [], "of another run");
    rig.hear(Notice::Released(Released { run: run(1), epoch: epoch(1), reason }));
    let lost = Loss::Released(reason);
    assert_eq!(rig.out, [Output::Answer(Err(Denied::Lost(lost))), Output::Lost(lost)]);
    rig.wish(Wish::Waitpoint);
    assert_eq!(rig.out, [Output::Answer(Err(Denied::Lost(Loss::TakenAway)))]);
    rig.take();
    assert_eq!(name(rig.asked()), Some("ready"));
}

#[test]
fn a_run_that_is_released_before_it_was_started_leaves_the_program_wanting_one() {
    let mut rig = Rig::new();
    rig.open(None);
    rig.take();
    rig.grant(Reply::Ready(Empty {}));
    rig.state(run(1), 1, assigned(1));
    let reason = ReleaseReason::Cancelled;
    rig.hear(Notice::Released(Released { run: run(1), epoch: epoch(1), reason }));
    rig.refuse(RunnerErrorCode::NotBound);
    assert_eq!((name(rig.asked()), &rig.out[..]), (Some("ready"), &[][..]));
}

#[test]
fn what_is_refused_for_other_reasons_leaves_the_run_in_place() {
    let mut rig = Rig::holding();
    rig.wish(Wish::Waitpoint);
    rig.refuse(RunnerErrorCode::TooManyWaitpoints);
    let Some(Err(Denied::Refused(error))) = rig.answered() else { panic!("{:?}", rig.out) };
    assert_eq!(error.code, RunnerErrorCode::TooManyWaitpoints);
    rig.wish(Wish::Waitpoint);
    let waitpoint = WaitpointId::after(None, 1, 1);
    rig.grant(Reply::Waitpoint(WaitpointCreated { waitpoint }));
    assert_eq!(rig.answered(), Some(&Ok(Fulfilled::Waitpoint(waitpoint))));
}

#[test]
fn a_result_that_no_frame_can_carry_is_refused_here() {
    let mut rig = Rig::holding();
    let output = json!("x".repeat(MAX_FRAME));
    rig.wish(Wish::Complete(AttemptOutcome::Succeeded { output }));
    assert!(matches!(rig.answered(), Some(Err(Denied::TooLarge { limit: MAX_FRAME, .. }))));
    let error = "too large".to_owned();
    let failed = AttemptOutcome::Failed { error, again: Again::GiveUp };
    rig.wish(Wish::Complete(failed));
    assert_eq!(name(rig.asked()), Some("complete"));
}

#[test]
fn progress_is_said_by_a_run_that_executes_and_by_no_other() {
    let mut rig = Rig::holding();
    let note = |rig: &mut Rig| {
        let outputs = rig.talk.progress();
        rig.keep(outputs);
        std::mem::take(&mut rig.notes)
    };
    assert_eq!(note(&mut rig), 1);
    rig.wish(wait(10));
    assert_eq!(note(&mut rig), 0, "it would end the wait");
    rig.close();
    assert_eq!(note(&mut rig), 0, "nobody hears it");
    assert_eq!(note(&mut Rig::new()), 0);
}

#[test]
fn a_runner_that_belayd_ends_gets_no_further_run() {
    let mut rig = Rig::new();
    rig.open(None);
    rig.take();
    rig.refuse(RunnerErrorCode::RunnerStopping);
    assert_eq!(rig.out, [Output::Stopping]);
    rig.take();
    assert_eq!((rig.asked(), &rig.out[..]), (None, &[Output::Stopping][..]));
}

#[test]
fn the_next_run_is_asked_for_when_the_last_one_is_over() {
    let mut rig = Rig::holding();
    rig.take();
    assert_eq!(rig.asked(), None);
    rig.wish(Wish::GiveUp);
    assert_eq!(name(rig.asked()), Some("stop"));
    rig.grant(Reply::Stop(Empty {}));
    assert_eq!(rig.answered(), Some(&Ok(Fulfilled::GivenUp)));
    assert_eq!(name(rig.asked()), Some("ready"));
}

#[test]
fn who_ends_gives_back_what_it_holds_first() {
    let mut rig = Rig::holding();
    let outputs = rig.talk.finish();
    rig.keep(outputs);
    assert_eq!(name(rig.asked()), Some("stop"));
    assert!(rig.is_lost(Loss::TakenAway) && rig.talk.has_debt());
    rig.grant(Reply::Stop(Empty {}));
    assert!(!rig.talk.has_debt());
    let mut rig = Rig::holding();
    rig.close();
    let outputs = rig.talk.finish();
    rig.keep(outputs);
    assert!(!rig.talk.has_debt(), "nobody is there to take it");
}

#[test]
fn what_comes_for_nobody_changes_nothing() {
    let mut rig = Rig::suspended();
    let before = rig.talk.work.clone();
    let id = RequestId::new(999);
    let outputs = rig.talk.heard(ServerFrame::Ok { id, reply: finished() });
    rig.keep(outputs);
    let error = RunnerError::new(RunnerErrorCode::StaleEpoch, "no");
    rig.hear(Notice::Refused(error.clone()));
    let outputs = rig.talk.heard(ServerFrame::Error { id, error });
    rig.keep(outputs);
    assert_eq!((rig.asked(), &rig.out[..]), (None, &[][..]));
    assert_eq!(rig.talk.work, before);
}
