use proptest::prelude::*;

use super::*;

/// A world that carries steps out as the engine and the kernel would.
#[derive(Debug, Clone)]
struct World {
    facts: Facts,
    next_id: u32,
    forgotten: bool,
}

impl World {
    fn members(&mut self) -> &mut Vec<Member> {
        self.facts.members.as_mut().expect("the engine answers in this world")
    }

    fn state_of(&mut self, id: &str) -> &mut MemberState {
        let member = self.members().iter_mut().find(|member| member.id == id);
        &mut member.expect("steps name containers that exist").state
    }

    /// An apply brings what a start waits for, once its volumes are there.
    fn is_applied(&mut self, desired: &Desired) -> bool {
        let goes_on = desired.goal == Goal::Running && desired.window == WindowDemand::Closed;
        let due = goes_on && self.facts.content == ContentFact::Awaited;
        if due {
            assert_eq!(self.facts.volumes, VolumesFact::Whole, "an apply needs volumes");
            self.facts.content = ContentFact::There;
        }
        due
    }

    /// Carries a step out and checks what must never be.
    fn carry_out(&mut self, desired: &mut Desired, step: Step) {
        let running = self.members().iter().filter(|m| m.state == MemberState::Running).count();
        match step {
            Step::Wait | Step::Look => {}
            Step::Stop { id } => {
                *self.state_of(&id) = MemberState::Exited;
                desired.renewal = Renewal::None;
                self.facts.gate = GateFact::Due;
            }
            Step::Remove { id } => {
                assert_ne!(*self.state_of(&id), MemberState::Running, "removed a running one");
                self.members().retain(|member| member.id != id);
            }
            Step::FetchImage => self.facts.image = ImageFact::Present,
            Step::ProvideVolumes => self.facts.volumes = VolumesFact::Mounted,
            Step::RecoverVolumes => {
                assert_eq!(running, 0, "touched volumes under a running container");
                self.facts.volumes = VolumesFact::Whole;
            }
            Step::ResetVolumes => {
                assert_eq!(running, 0, "emptied volumes under a running container");
                assert_eq!(self.facts.volumes, VolumesFact::Whole, "emptied what is not mounted");
                assert_eq!(desired.window, WindowDemand::Closed, "emptied during a window");
                self.facts.reset = ResetFact::None;
            }
            Step::Create => {
                assert_eq!(self.facts.image, ImageFact::Present);
                assert_eq!(self.facts.volumes, VolumesFact::Whole, "created without volumes");
                self.next_id += 1;
                let id = format!("new{}", self.next_id);
                let generation = desired.target;
                assert_eq!(self.facts.providers, ProvidersFact::There, "made without its values");
                assert_eq!(self.facts.content, ContentFact::There, "made before its content");
                let (state, fit) = (MemberState::Created, Fit::Current);
                self.members().push(Member { id, generation, state, fit });
            }
            Step::Start { id } => {
                assert_eq!(running, 0, "two would run at once");
                assert_eq!(self.facts.reset, ResetFact::None, "started before its reset");
                assert_eq!(self.facts.providers, ProvidersFact::There, "started before them");
                assert_eq!(self.facts.content, ContentFact::There, "started before its content");
                let target = self.members().iter().find(|member| member.id == id);
                assert_eq!(target.map(|t| t.fit), Some(Fit::Current), "started as it was");
                assert_eq!(desired.goal, Goal::Running, "started what should not run");
                assert_eq!(desired.window, WindowDemand::Closed, "started during a window");
                assert_eq!(self.facts.volumes, VolumesFact::Whole);
                *self.state_of(&id) = MemberState::Running;
                self.facts.gate = GateFact::Due;
            }
            Step::Probe { .. } => self.facts.gate = GateFact::Settled,
            Step::SettleDeploy => desired.previous = None,
            Step::ReleaseVolumes => {
                assert_eq!(desired.window, WindowDemand::Closed, "unmounted under a window");
                assert!(self.members().is_empty(), "unmounted under a container");
                self.facts.volumes = VolumesFact::Released;
            }
            Step::Forget => self.forgotten = true,
        }
    }
}

fn member() -> impl Strategy<Value = Member> {
    let state = prop_oneof![
        Just(MemberState::Created),
        Just(MemberState::Running),
        Just(MemberState::Exited),
    ];
    let fit = prop_oneof![Just(Fit::Current), Just(Fit::Stale)];
    ("[a-z]{8}", 1_u64..5, state, fit).prop_map(|(id, generation, state, fit)| Member {
        id,
        generation,
        state,
        fit,
    })
}

fn facts() -> impl Strategy<Value = Facts> {
    (
        proptest::collection::vec(member(), 0..5),
        prop_oneof![Just(ImageFact::Present), Just(ImageFact::Missing)],
        prop_oneof![
            Just(VolumesFact::Released),
            Just(VolumesFact::Partial),
            Just(VolumesFact::Mounted),
            Just(VolumesFact::Whole)
        ],
        prop_oneof![Just(GateFact::Due), Just(GateFact::Settled)],
        prop_oneof![Just(ResetFact::None), Just(ResetFact::Wanted)],
        prop_oneof![Just(ContentFact::There), Just(ContentFact::Awaited)],
    )
        .prop_map(|(mut members, image, volumes, gate, reset, content)| Facts {
            members: {
                // No two containers have one id, however small a failing case is made.
                for (index, member) in members.iter_mut().enumerate() {
                    member.id = format!("{}{index}", member.id);
                }
                Some(members)
            },
            image,
            volumes,
            reset,
            providers: ProvidersFact::There,
            content,
            start: StartFact::Allowed,
            gate,
        })
}

fn desired() -> impl Strategy<Value = Desired> {
    (
        prop_oneof![
            Just(Goal::Running),
            Just(Goal::Stopped),
            Just(Goal::Halted),
            Just(Goal::Removed(VolumeFate::Keep)),
        ],
        1_u64..5,
        proptest::option::of(1_u64..5),
        prop_oneof![Just(WindowDemand::Closed), Just(WindowDemand::Open)],
        prop_oneof![Just(Renewal::None), Just(Renewal::Wanted)],
    )
        .prop_map(|(goal, target, previous, window, renewal)| Desired {
            goal,
            target,
            previous: previous.filter(|previous| *previous != target),
            window,
            renewal,
        })
}

proptest! {
    /// Whatever is found, the machine comes to what should be and then stays quiet.
    #[test]
    fn every_state_converges(mut desired in desired(), facts in facts()) {
        let mut world = World { facts, next_id: 0, forgotten: false };
        for _ in 0..40 {
            let step = next_step(&desired, &world.facts);
            if step == Step::Wait && world.is_applied(&desired) {
                continue;
            }
            if step == Step::Wait || world.forgotten {
                break;
            }
            world.carry_out(&mut desired, step);
        }
        prop_assert!(world.forgotten || next_step(&desired, &world.facts) == Step::Wait);
        let members = world.members().clone();
        let running: Vec<_> =
            members.iter().filter(|m| m.state == MemberState::Running).collect();
        if desired.window == WindowDemand::Open {
            prop_assert!(running.is_empty());
            return Ok(());
        }
        match desired.goal {
            Goal::Running => {
                prop_assert!(running.len() == 1 && running[0].generation == desired.target);
                prop_assert_eq!(desired.previous, None);
                prop_assert_eq!(world.facts.reset, ResetFact::None);
            }
            Goal::Halted => prop_assert!(running.is_empty()),
            Goal::Stopped => {
                prop_assert!(members.is_empty());
                prop_assert_eq!(world.facts.volumes, VolumesFact::Released);
            }
            Goal::Removed(_) => prop_assert!(world.forgotten && members.is_empty()),
        }
    }

    /// What cannot be told is looked at again and never acted on.
    #[test]
    fn unknown_never_mutates(
        desired in desired(),
        mut facts in facts(),
        at in any::<prop::sample::Index>(),
        silent in any::<bool>(),
    ) {
        let members = facts.members.as_mut().expect("generated");
        if silent || members.is_empty() {
            facts.members = None;
        } else {
            let at = at.index(members.len());
            members[at].state = MemberState::Unknown;
        }
        prop_assert_eq!(next_step(&desired, &facts), Step::Look);
    }

    /// While content is awaited nothing is made or started, and what runs of the target is not
    /// ended for it.
    #[test]
    fn awaited_content_starts_nothing(desired in desired(), mut facts in facts()) {
        facts.content = ContentFact::Awaited;
        let step = next_step(&desired, &facts);
        prop_assert!(!matches!(step, Step::Create | Step::Start { .. }), "{:?}", step);
        let there = Facts { content: ContentFact::There, ..facts.clone() };
        let stops = |step: &Step| matches!(step, Step::Stop { .. } | Step::Remove { .. });
        prop_assert!(!stops(&step) || step == next_step(&desired, &there), "{:?}", step);
    }

    /// While it backs off nothing is made or started, and nothing that runs is stopped for it.
    #[test]
    fn backing_off_starts_nothing(mut desired in desired(), mut facts in facts()) {
        facts.start = StartFact::BackingOff;
        desired.goal = Goal::Running;
        let step = next_step(&desired, &facts);
        let starts = matches!(
            step,
            Step::Start { .. }
                | Step::Create
                | Step::FetchImage
                | Step::ProvideVolumes
                | Step::ResetVolumes
        );
        prop_assert!(!starts, "{:?}", step);
    }
}

fn settled(members: Vec<Member>) -> Facts {
    Facts {
        members: Some(members),
        image: ImageFact::Present,
        volumes: VolumesFact::Whole,
        reset: ResetFact::None,
        providers: ProvidersFact::There,
        content: ContentFact::There,
        start: StartFact::Allowed,
        gate: GateFact::Settled,
    }
}

fn of(id: &str, generation: u64, state: MemberState) -> Member {
    Member { id: id.into(), generation, state, fit: Fit::Current }
}

const RUN: Desired = Desired {
    goal: Goal::Running,
    target: 2,
    previous: Some(1),
    window: WindowDemand::Closed,
    renewal: Renewal::None,
};

#[test]
fn a_deploy_makes_the_new_one_before_it_stops_the_old() {
    let facts = settled(vec![of("old", 1, MemberState::Running)]);
    assert_eq!(next_step(&RUN, &facts), Step::Create);
    let facts =
        settled(vec![of("old", 1, MemberState::Running), of("new", 2, MemberState::Created)]);
    assert_eq!(next_step(&RUN, &facts), Step::Stop { id: "old".into() });
    let facts =
        settled(vec![of("old", 1, MemberState::Exited), of("new", 2, MemberState::Created)]);
    assert_eq!(next_step(&RUN, &facts), Step::Start { id: "new".into() });
}

#[test]
fn the_old_one_stays_until_the_new_one_is_ready() {
    let members = vec![of("old", 1, MemberState::Exited), of("new", 2, MemberState::Running)];
    let mut facts = settled(members);
    facts.gate = GateFact::Due;
    assert_eq!(next_step(&RUN, &facts), Step::Probe { id: "new".into() });
    facts.gate = GateFact::Settled;
    assert_eq!(next_step(&RUN, &facts), Step::SettleDeploy);
    let done = Desired { previous: None, ..RUN };
    assert_eq!(next_step(&done, &facts), Step::Remove { id: "old".into() });
}

#[test]
fn of_two_containers_of_one_generation_the_second_goes() {
    let done = Desired { previous: None, ..RUN };
    let both = |second| settled(vec![of("one", 2, MemberState::Running), of("two", 2, second)]);
    let step = next_step(&done, &both(MemberState::Running));
    assert_eq!(step, Step::Stop { id: "two".into() }, "one alone may write");
    let step = next_step(&done, &both(MemberState::Exited));
    assert_eq!(step, Step::Remove { id: "two".into() });
}

#[test]
fn a_settled_workload_is_left_alone() {
    let facts = settled(vec![of("new", 2, MemberState::Running)]);
    assert_eq!(next_step(&Desired { previous: None, ..RUN }, &facts), Step::Wait);
}

#[test]
fn a_start_waits_for_its_providers_and_what_runs_is_left_alone() {
    let done = Desired { previous: None, ..RUN };
    let awaited =
        |members: Vec<Member>| Facts { providers: ProvidersFact::Awaited, ..settled(members) };
    assert_eq!(next_step(&done, &awaited(vec![])), Step::Wait);
    assert_eq!(next_step(&done, &awaited(vec![of("c", 2, MemberState::Exited)])), Step::Wait);
    assert_eq!(next_step(&done, &awaited(vec![of("c", 2, MemberState::Running)])), Step::Wait);
    // The version before serves on meanwhile.
    assert_eq!(next_step(&RUN, &awaited(vec![of("old", 1, MemberState::Running)])), Step::Wait);
    let fetched = Facts { image: ImageFact::Missing, ..awaited(vec![]) };
    assert_eq!(next_step(&done, &fetched), Step::FetchImage, "what needs no provider goes on");
    let stop = Desired { goal: Goal::Stopped, ..done };
    let remove = Step::Remove { id: "c".into() };
    assert_eq!(next_step(&stop, &awaited(vec![of("c", 2, MemberState::Exited)])), remove);
}

#[test]
fn a_start_waits_for_its_first_content_and_what_runs_is_left_alone() {
    let done = Desired { previous: None, ..RUN };
    let awaited =
        |members: Vec<Member>| Facts { content: ContentFact::Awaited, ..settled(members) };
    for members in [vec![], vec![of("c", 2, MemberState::Created)]] {
        assert_eq!(next_step(&done, &awaited(members)), Step::Wait);
    }
    assert_eq!(next_step(&done, &awaited(vec![of("c", 2, MemberState::Exited)])), Step::Wait);
    assert_eq!(next_step(&done, &awaited(vec![of("c", 2, MemberState::Running)])), Step::Wait);
    // The version before serves on meanwhile, and is stopped for the apply alone.
    let old = || vec![of("old", 1, MemberState::Running)];
    assert_eq!(next_step(&RUN, &awaited(old())), Step::Wait);
    // One that ended is not started on what the new one does not start on.
    let ended = awaited(vec![of("old", 1, MemberState::Exited)]);
    assert_eq!(next_step(&RUN, &ended), Step::SettleDeploy);
    assert_eq!(next_step(&done, &ended), Step::Remove { id: "old".into() });
    let window = Desired { window: WindowDemand::Open, ..RUN };
    assert_eq!(next_step(&window, &awaited(old())), Step::Stop { id: "old".into() });
    // What an apply needs is provided.
    let fetched = Facts { image: ImageFact::Missing, ..awaited(vec![]) };
    assert_eq!(next_step(&done, &fetched), Step::FetchImage);
    for (volumes, step) in [
        (VolumesFact::Released, Step::ProvideVolumes),
        (VolumesFact::Mounted, Step::RecoverVolumes),
    ] {
        assert_eq!(next_step(&done, &Facts { volumes, ..awaited(vec![]) }), step);
    }
    let reset = Facts { reset: ResetFact::Wanted, ..awaited(vec![]) };
    assert_eq!(next_step(&done, &reset), Step::ResetVolumes);
    let stop = Desired { goal: Goal::Stopped, ..done };
    let remove = Step::Remove { id: "c".into() };
    assert_eq!(next_step(&stop, &awaited(vec![of("c", 2, MemberState::Exited)])), remove);
}

#[test]
fn a_container_with_another_environment_is_made_anew_before_its_next_start() {
    let done = Desired { previous: None, ..RUN };
    let stale = |state| Member { fit: Fit::Stale, ..of("c", 2, state) };
    let facts = settled(vec![stale(MemberState::Exited)]);
    assert_eq!(next_step(&done, &facts), Step::Remove { id: "c".into() });
    let facts = settled(vec![stale(MemberState::Running)]);
    assert_eq!(next_step(&done, &facts), Step::Wait, "one that runs is not ended for it");
    let mut facts = settled(vec![stale(MemberState::Exited)]);
    facts.start = StartFact::Completed;
    assert_eq!(next_step(&done, &facts), Step::Wait, "one that is complete is not run again");
}
