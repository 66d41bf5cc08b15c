use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a time")
}

fn name(text: &str) -> WorkloadName {
    text.parse().expect("a name")
}

const RULES: Rules = Rules { keep: 1, grace: Duration::from_secs(100) };

/// A world in which images `a` to `e` were brought for `web`, in this order, and `f` is foreign.
struct World {
    inventory: Inventory,
    records: BTreeMap<String, ImageRecord>,
}

impl World {
    fn new() -> Self {
        let mut records = BTreeMap::new();
        for (order, id) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
            let order = order as u64 + 1;
            let mut record = ImageRecord::new(
                "r/web:latest",
                &[],
                10,
                order,
                at(i64::try_from(order).expect("small")),
            );
            if id != "e" {
                record.users.insert(name("web"), order);
            }
            records.insert(id.to_owned(), record);
        }
        let held = |id: &str| HeldImage { id: id.to_owned(), names: Vec::new() };
        Self {
            inventory: Inventory {
                images: Some(["a", "b", "c", "d", "e", "f"].map(held).to_vec()),
                in_containers: Some(BTreeSet::from(["d".to_owned()])),
                workloads: Some(vec![WorkloadNeed {
                    workload: name("web"),
                    images: vec!["d".to_owned()],
                    sources: vec!["r/web:latest".to_owned()],
                }]),
                leased: BTreeSet::new(),
            },
            records,
        }
    }

    fn plan(&self, demand: Demand, now: i64) -> Plan {
        plan(&self.inventory, &self.records, RULES, demand, at(now)).expect("all is known")
    }

    fn goes(&self, demand: Demand, now: i64) -> String {
        self.plan(demand, now).goes.iter().map(|goes| goes.id.as_str()).collect()
    }

    fn record(&mut self, id: &str) -> &mut ImageRecord {
        self.records.get_mut(id).expect("it has a record")
    }
}

#[test]
fn what_is_superseded_goes_after_its_grace_and_the_one_before_stays() {
    let world = World::new();
    assert_eq!(world.goes(Demand::Tidy, 50), "", "nothing is old enough");
    assert_eq!(world.goes(Demand::Tidy, 101), "a");
    assert_eq!(world.goes(Demand::Tidy, 1000), "ab");
    assert_eq!(world.goes(Demand::Prune, 0), "ab", "an operator waits for nothing");
    let stays = world.plan(Demand::Tidy, 1000).stays;
    assert_eq!(stays["c"], Stays::Previous(name("web")));
    assert_eq!(stays["d"], Stays::Container);
    assert_eq!(stays["e"], Stays::Needed(name("web")), "the tag moved; the next start may use it");
    assert_eq!(stays["f"], Stays::Foreign);
}

#[test]
fn each_reason_to_stay_suffices() {
    type Change = fn(&mut World);
    let cases: [(&str, Change, Stays); 6] = [
        ("leased", |w| w.inventory.leased.extend(["a".to_owned()]), Stays::Leased),
        (
            "in a foreign container",
            |w| w.inventory.in_containers.get_or_insert_default().extend(["a".to_owned()]),
            Stays::Container,
        ),
        ("pinned", |w| w.record("a").pinned = true, Stays::Pinned),
        (
            "named by somebody",
            |w| w.inventory.images.as_mut().expect("known")[0].names.push("mine".into()),
            Stays::Named("mine".into()),
        ),
        (
            "of a version",
            |w| w.inventory.workloads.as_mut().expect("known")[0].images.push("a".into()),
            Stays::Needed(name("web")),
        ),
        ("without a record", |w| drop(w.records.remove("a")), Stays::Foreign),
    ];
    for (case, change, stays) in cases {
        let mut world = World::new();
        change(&mut world);
        assert_eq!(world.goes(Demand::Prune, 1000), "b", "{case}");
        assert_eq!(world.plan(Demand::Prune, 1000).stays["a"], stays, "{case}");
    }
}

#[test]
fn a_name_that_belayd_gave_does_not_hold_an_image() {
    let mut world = World::new();
    world.record("a").names.insert("r/web:1".into());
    world.inventory.images.as_mut().expect("known")[0].names.push("r/web:1".into());
    let plan = world.plan(Demand::Prune, 0);
    assert_eq!(plan.goes[0].names, ["r/web:1"]);
}

#[test]
fn nothing_goes_while_anything_is_unknown() {
    type Change = fn(&mut Inventory);
    let cases: [(Change, Unknown); 3] = [
        (|i| i.images = None, Unknown::Images),
        (|i| i.in_containers = None, Unknown::Containers),
        (|i| i.workloads = None, Unknown::Workloads),
    ];
    for (change, unknown) in cases {
        let mut world = World::new();
        change(&mut world.inventory);
        for demand in [Demand::Tidy, Demand::Space, Demand::Prune] {
            let planned = plan(&world.inventory, &world.records, RULES, demand, at(1000));
            assert_eq!(planned, Err(unknown));
        }
    }
}

#[test]
fn images_of_a_removed_workload_go_only_for_space_and_longest_unused_first() {
    let mut world = World::new();
    world.inventory.workloads = Some(Vec::new());
    world.inventory.in_containers = Some(BTreeSet::new());
    world.record("b").used = 99;
    assert_eq!(world.goes(Demand::Tidy, 1000), "", "it may be deployed again without a network");
    assert_eq!(world.goes(Demand::Space, 1000), "acdeb");
}

#[test]
fn a_clock_that_went_back_makes_nothing_old() {
    assert_eq!(World::new().goes(Demand::Tidy, -1_000_000), "");
}

#[test]
fn marks_have_an_absolute_and_a_relative_side() {
    let marks = Marks { low_bytes: 100, low_percent: 5, high_bytes: 200, high_percent: 10 };
    for (free, total, low, high) in [
        (99, 1000, true, false),
        (100, 1000, false, false),
        (199, 1000, false, false),
        (200, 1000, false, true),
        (400, 10_000, true, false),
        (500, 10_000, false, false),
        (1000, 10_000, false, true),
        (0, 0, true, false),
    ] {
        let space = Space { free, total };
        assert_eq!((marks.is_low(space), marks.is_high(space)), (low, high), "{free} of {total}");
    }
}

mod property {
    use proptest::prelude::*;

    use super::*;

    const IDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

    #[derive(Debug, Clone)]
    #[expect(clippy::struct_excessive_bools, reason = "independent facts of an image")]
    struct Drawn {
        own: bool,
        pinned: bool,
        leased: bool,
        contained: bool,
        named: bool,
        version_of: Option<bool>,
        used_by: [Option<u64>; 2],
        fetched: u64,
    }

    fn drawn() -> impl Strategy<Value = Drawn> {
        (
            any::<[bool; 5]>(),
            any::<Option<bool>>(),
            [proptest::option::of(0_u64..20), proptest::option::of(0_u64..20)],
            0_u64..20,
        )
            .prop_map(
                |([own, pinned, leased, contained, named], version_of, used_by, fetched)| Drawn {
                    own,
                    pinned,
                    leased,
                    contained,
                    named,
                    version_of,
                    used_by,
                    fetched,
                },
            )
    }

    proptest! {
        /// Against the rules written down one by one, without any of the plan's own sets.
        #[test]
        fn nothing_that_somebody_needs_ever_goes(
            images in proptest::collection::vec(drawn(), IDS.len()),
            keep in 0_u32..3,
            demand in prop_oneof![Just(Demand::Tidy), Just(Demand::Space), Just(Demand::Prune)],
        ) {
            let workloads = [name("one"), name("two")];
            let mut records = BTreeMap::new();
            let mut inventory = Inventory {
                images: Some(Vec::new()),
                in_containers: Some(BTreeSet::new()),
                workloads: Some(workloads.iter().map(|workload| WorkloadNeed {
                    workload: workload.clone(),
                    images: Vec::new(),
                    sources: vec!["s".to_owned()],
                }).collect()),
                leased: BTreeSet::new(),
            };
            for (id, image) in IDS.iter().zip(&images) {
                let id = (*id).to_owned();
                if image.own {
                    let mut record = ImageRecord::new("s", &[], 1, image.fetched, at(0));
                    record.pinned = image.pinned;
                    for (workload, used) in workloads.iter().zip(image.used_by) {
                        if let Some(used) = used {
                            record.users.insert(workload.clone(), used);
                        }
                    }
                    records.insert(id.clone(), record);
                }
                let names = if image.named { vec!["theirs".to_owned()] } else { Vec::new() };
                inventory.images.as_mut().expect("known").push(HeldImage { id: id.clone(), names });
                if image.leased { inventory.leased.insert(id.clone()); }
                if image.contained { inventory.in_containers.as_mut().expect("known").insert(id.clone()); }
                if let Some(first) = image.version_of {
                    let needs = inventory.workloads.as_mut().expect("known");
                    needs[usize::from(first)].images.push(id);
                }
            }
            let rules = Rules { keep, grace: Duration::from_secs(1) };
            let found = plan(&inventory, &records, rules, demand, at(100)).expect("known");
            prop_assert_eq!(found.goes.len() + found.stays.len(), IDS.len());
            let newest = images.iter().filter(|image| image.own).map(|image| image.fetched).max();
            for goes in &found.goes {
                let at = IDS.iter().position(|id| *id == goes.id).expect("drawn");
                let image = &images[at];
                prop_assert!(image.own && !image.pinned && !image.leased && !image.contained);
                prop_assert!(!image.named && image.version_of.is_none());
                let latest = Some(image.fetched) == newest
                    && images.iter().filter(|i| i.own && Some(i.fetched) == newest).count() == 1;
                prop_assert!(!latest, "the newest under a name that specs have");
                for user in 0..2 {
                    let Some(used) = image.used_by[user] else { continue };
                    let newer = images.iter().filter(|i| i.own && i.used_by[user] > Some(used)).count();
                    let level = images.iter().filter(|i| i.own && i.used_by[user] == Some(used)).count();
                    prop_assert!(newer + level > keep as usize + 1, "one of the last of a workload");
                }
            }
            // The same question has the same answer: a dry run is the real one.
            prop_assert_eq!(plan(&inventory, &records, rules, demand, at(100)).expect("known"), found);
        }
    }
}
