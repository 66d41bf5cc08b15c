use std::ffi::OsString;

use proptest::prelude::*;

use super::super::metadata::{Metadata, Schema};
use super::super::mount_table::{self, DeviceNumber};
use super::super::spec::VolumeRole;
use super::*;

const MIB: u64 = 1 << 20;

fn spec(mib: u64) -> VolumeSpec {
    VolumeSpec::data("web/store".parse().expect("an id"), ByteSize::mib(mib))
}

fn file_system_id(last: char) -> FileSystemId {
    format!("00112233-4455-6677-8899-aabbccddeef{last}").parse().expect("an id")
}

fn superblock(mib: u64) -> Superblock {
    Superblock {
        file_system: FileSystem::Ext4,
        id: file_system_id('0'),
        labelled_ours: true,
        size: mib * MIB,
        left_as: LeftAs::Clean,
    }
}

fn metadata(mib: u64) -> FoundMetadata {
    FoundMetadata::Present(Metadata {
        schema: Schema,
        id: spec(1).id,
        file_system_id: file_system_id('0'),
        file_system: FileSystem::Ext4,
        allocation: Allocation::Full,
        role: VolumeRole::Data,
        size: mib * MIB,
        last_check: None,
    })
}

fn mount(minor: u32) -> MountEntry {
    MountEntry {
        device: DeviceNumber::of_loop(minor),
        root: PathBuf::from("/"),
        target: PathBuf::from("/v/mounts/web/store"),
        target_deleted: false,
        file_system: "ext4".to_owned(),
        source: OsString::from(format!("/dev/loop{minor}")),
        read_only: false,
    }
}

fn device(minor: u32, mounted_somewhere: bool) -> ObservedDevice {
    ObservedDevice { minor, usable: true, mounted_somewhere }
}

fn absent() -> Observed {
    Observed {
        image: ObservedImage::Absent,
        metadata: FoundMetadata::Absent,
        devices: vec![],
        target: vec![],
        growth: MountedGrowth::Permitted,
    }
}

/// A volume of this size that is not mounted.
fn released(mib: u64) -> Observed {
    let image = ObservedImage::Present { size: mib * MIB, superblock: Some(superblock(mib)) };
    Observed { image, metadata: metadata(mib), ..absent() }
}

/// A volume of this size that is mounted in its place.
fn mounted(mib: u64) -> Observed {
    Observed { devices: vec![device(9, true)], target: vec![mount(9)], ..released(mib) }
}

fn with_superblock(mut observed: Observed, change: impl FnOnce(&mut Superblock)) -> Observed {
    if let ObservedImage::Present { superblock: Some(superblock), .. } = &mut observed.image {
        change(superblock);
    }
    observed
}

fn steps(spec: &VolumeSpec, observed: &Observed) -> Vec<EnsureStep> {
    plan_ensure(spec, observed).expect("a plan").steps
}

#[test]
fn nothing_becomes_a_volume_that_is_named_only_when_whole() {
    let size = ByteSize::mib(16);
    assert_eq!(
        steps(&spec(16), &absent()),
        [
            EnsureStep::PrepareBuilding,
            EnsureStep::AllocateImage(size),
            EnsureStep::Format,
            EnsureStep::Mark,
            EnsureStep::Publish,
            EnsureStep::Attach,
            EnsureStep::Mount,
            EnsureStep::PrepareRoot(RootState::FreshlyMounted),
        ]
    );
}

#[test]
fn a_released_volume_is_attached_and_mounted() {
    assert_eq!(
        steps(&spec(16), &released(16)),
        [
            EnsureStep::Reserve(ByteSize::mib(16)),
            EnsureStep::Attach,
            EnsureStep::Mount,
            EnsureStep::PrepareRoot(RootState::FreshlyMounted),
        ]
    );
}

#[test]
fn a_mounted_volume_is_adopted() {
    assert_eq!(
        steps(&spec(16), &mounted(16)),
        [EnsureStep::Reserve(ByteSize::mib(16)), EnsureStep::PrepareRoot(RootState::InUse)]
    );
}

#[test]
fn a_device_left_by_a_crash_is_used_and_no_second_one_is_attached() {
    let observed = Observed { devices: vec![device(9, false)], ..released(16) };
    let plan = plan_ensure(&spec(16), &observed).expect("a plan");
    assert_eq!(plan.device, Some(9));
    assert!(!plan.steps.contains(&EnsureStep::Attach));
    assert!(plan.steps.contains(&EnsureStep::Mount));
}

#[test]
fn an_unclean_file_system_is_checked_before_the_mount_and_never_while_it_is_mounted_anywhere() {
    for left_as in [LeftAs::Unclean, LeftAs::Faulty] {
        let unclean = |observed| with_superblock(observed, |block| block.left_as = left_as);
        let found = steps(&spec(16), &unclean(released(16)));
        let at = |step| found.iter().position(|other| *other == step).expect("it is planned");
        assert!(at(EnsureStep::Check) < at(EnsureStep::Mount));
        assert!(!steps(&spec(16), &unclean(mounted(16))).contains(&EnsureStep::Check));
        let elsewhere = Observed { devices: vec![device(9, true)], ..unclean(released(16)) };
        assert!(!steps(&spec(16), &elsewhere).contains(&EnsureStep::Check));
    }
}

#[test]
fn a_thin_volume_is_not_reserved() {
    let thin = VolumeSpec { allocation: Allocation::Thin, ..spec(16) };
    let found = steps(&thin, &released(16));
    assert!(!found.iter().any(|step| matches!(step, EnsureStep::Reserve(_))));
    assert!(found.contains(&EnsureStep::Record), "what it is now is recorded");
}

#[test]
fn a_mounted_volume_grows_in_this_order() {
    let size = ByteSize::mib(32);
    assert_eq!(
        steps(&spec(32), &mounted(16)),
        [
            EnsureStep::Extend(size),
            EnsureStep::Reserve(size),
            EnsureStep::UpdateCapacity,
            EnsureStep::GrowMounted,
            EnsureStep::Record,
            EnsureStep::PrepareRoot(RootState::InUse),
        ]
    );
}

#[test]
fn without_the_capability_ext4_grows_only_while_released() {
    let refused = Observed { growth: MountedGrowth::NotPermitted, ..mounted(16) };
    assert!(matches!(plan_ensure(&spec(32), &refused), Err(Refusal::GrowthNeedsRelease { .. })));
    let observed = Observed { growth: MountedGrowth::NotPermitted, ..released(16) };
    let found = steps(&spec(32), &observed);
    let at = |step| found.iter().position(|other| *other == step).expect("it is planned");
    assert!(at(EnsureStep::GrowUnmounted) < at(EnsureStep::Attach));
    assert!(!found.contains(&EnsureStep::GrowMounted));
}

#[test]
fn a_growth_that_was_cut_off_is_completed_when_it_is_still_wanted() {
    let mut cut = released(16);
    cut.image = ObservedImage::Present { size: 32 * MIB, superblock: Some(superblock(16)) };
    let plan = plan_ensure(&spec(32), &cut).expect("a plan");
    assert!(plan.steps.contains(&EnsureStep::GrowMounted));
    assert!(plan.steps.contains(&EnsureStep::Record));
    // Grown, but not recorded yet.
    let mut unrecorded = released(32);
    unrecorded.metadata = metadata(16);
    assert!(steps(&spec(32), &unrecorded).contains(&EnsureStep::Record));
    // Taken back by whoever wanted it: what was promised before is still there.
    for observed in [cut, unrecorded] {
        let plan = plan_ensure(&spec(16), &observed).expect("a plan");
        assert_eq!(plan.size, ByteSize::mib(16));
        assert!(plan.steps.contains(&EnsureStep::Reserve(ByteSize::mib(32))));
        assert!(!plan.steps.contains(&EnsureStep::Record));
    }
}

#[test]
fn what_is_not_the_volume_is_refused() {
    let image = |image| Observed { image, ..released(16) };
    let other_mount = MountEntry { file_system: "tmpfs".to_owned(), ..mount(3) };
    let read_only = MountEntry { read_only: true, ..mount(9) };
    let unusable = ObservedDevice { usable: false, ..device(9, false) };
    let cases: Vec<(&str, Observed)> = vec![
        ("not a plain file", image(ObservedImage::NotAFile)),
        ("not formatted", image(ObservedImage::Present { size: 16 * MIB, superblock: None })),
        ("was made with", with_superblock(released(16), |block| block.id = file_system_id('1'))),
        (
            "specification says",
            with_superblock(released(16), |block| block.file_system = FileSystem::Xfs),
        ),
        (
            "not made by this daemon",
            Observed {
                metadata: FoundMetadata::Absent,
                ..with_superblock(released(16), |block| block.labelled_ours = false)
            },
        ),
        (
            "truncated",
            image(ObservedImage::Present { size: 15 * MIB, superblock: Some(superblock(16)) }),
        ),
        ("not shrunk", released(17)),
        (
            "several loop devices",
            Observed { devices: vec![device(1, false), device(2, false)], ..released(16) },
        ),
        ("read-only or in part", Observed { devices: vec![unusable], ..released(16) }),
        (
            "mounted in the volume's place",
            Observed { target: vec![other_mount.clone()], ..released(16) },
        ),
        ("mounted in the volume's place", Observed { target: vec![other_mount], ..absent() }),
        ("read-only after an error", Observed { target: vec![read_only], ..mounted(16) }),
    ];
    for (part, observed) in cases {
        let refusal = plan_ensure(&spec(16), &observed).expect_err(part).to_string();
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
}

#[test]
fn lost_metadata_is_repaired_when_the_image_bears_our_mark() {
    for lost in [FoundMetadata::Absent, FoundMetadata::Corrupt("half a file".to_owned())] {
        let observed = Observed { metadata: lost, ..released(16) };
        assert_eq!(steps(&spec(16), &observed)[0], EnsureStep::RepairMetadata);
    }
}

#[test]
fn release_goes_from_the_mount_to_the_number() {
    assert_eq!(
        plan_release(&mounted(16)),
        Ok(vec![
            ReleaseStep::Unmount,
            ReleaseStep::Detach(9),
            ReleaseStep::ConfirmGone,
            ReleaseStep::RemoveMinor(9),
        ])
    );
    assert_eq!(plan_release(&released(16)), Ok(vec![ReleaseStep::ConfirmGone]));
    let twice = Observed { target: vec![mount(9), mount(9)], ..mounted(16) };
    let unmounts = plan_release(&twice).expect("a plan");
    assert_eq!(unmounts.iter().filter(|step| **step == ReleaseStep::Unmount).count(), 2);
}

#[test]
fn what_is_not_ours_is_not_unmounted() {
    let foreign = Observed { target: vec![mount(3)], ..released(16) };
    assert!(matches!(plan_release(&foreign), Err(Refusal::MountPointTaken { .. })));
    let below = Observed { target: vec![mount(3), mount(9)], ..mounted(16) };
    assert!(plan_release(&below).is_err());
}

#[test]
fn only_a_volume_that_nothing_holds_is_deleted() {
    assert_eq!(plan_removal(&released(16)), Ok(()));
    assert_eq!(plan_removal(&absent()), Ok(()));
    assert!(matches!(plan_removal(&mounted(16)), Err(Refusal::InUse { .. })));
    let attached = Observed { devices: vec![device(9, false)], ..released(16) };
    assert!(matches!(plan_removal(&attached), Err(Refusal::InUse { .. })));
}

#[test]
fn recovery_touches_nothing_that_is_mounted_or_foreign() {
    let id = spec(1).id;
    let ours = |minor, mounted_somewhere, deleted| FoundDevice {
        minor,
        volume: Some((id.clone(), Place::Volume)),
        mounted_somewhere,
        deleted,
    };
    let building = PathBuf::from("/v/images/web/.store.new");
    let clone = PathBuf::from("/v/images/web/store/generation-capture.img");
    let found = FoundAtStart {
        devices: vec![
            ours(1, true, false),
            ours(2, true, true),
            ours(3, false, false),
            ours(4, false, true),
            FoundDevice { volume: None, ..ours(5, false, false) },
            FoundDevice { volume: Some((id.clone(), Place::Generation)), ..ours(7, true, false) },
        ],
        idle_minors: vec![6],
        half_done: vec![(id.clone(), Place::Building, building.clone())],
        passing: vec![clone.clone()],
    };
    assert_eq!(
        plan_recovery(&found),
        [
            RecoveryStep::Adopt(id.clone(), 1),
            RecoveryStep::ReportDeleted(id.clone(), 2),
            RecoveryStep::Detach(3),
            RecoveryStep::RemoveMinor(3),
            RecoveryStep::Detach(4),
            RecoveryStep::RemoveMinor(4),
            RecoveryStep::ReleaseGeneration(7),
            RecoveryStep::RemoveMinor(6),
            RecoveryStep::DeleteDirectory(building.clone()),
            RecoveryStep::DeleteClone(clone),
        ]
    );
    // A half-built volume that is mounted after all is not deleted.
    let held = FoundAtStart {
        devices: vec![FoundDevice {
            volume: Some((id.clone(), Place::Building)),
            ..ours(1, true, false)
        }],
        idle_minors: vec![],
        half_done: vec![(id.clone(), Place::Building, building)],
        passing: vec![],
    };
    assert_eq!(plan_recovery(&held), [RecoveryStep::Adopt(id, 1)]);
}

#[test]
fn a_btrfs_mount_is_known_by_its_source() {
    let table = mount_table::parse(
        b"40 1 0:52 / /v/mounts/web/store rw - btrfs /dev/loop9 rw,subvolid=5,subvol=/\n",
    );
    let observed = Observed { target: table, ..mounted(16) };
    assert!(steps(&spec(16), &observed).contains(&EnsureStep::PrepareRoot(RootState::InUse)));
}

#[test]
fn a_pool_is_made_mounted_or_adopted_and_nothing_else_is_taken_for_one() {
    let size = ByteSize::mib(512);
    let pool = |change: fn(&mut Superblock)| {
        let mut superblock = Superblock { file_system: FileSystem::Xfs, ..superblock(512) };
        change(&mut superblock);
        ObservedImage::Present { size: 512 * MIB, superblock: Some(superblock) }
    };
    let ours = pool(|_| {});
    let absent = ObservedImage::Absent;
    assert_eq!(plan_pool(size, &absent, &[], &[]), Ok(PoolPlan::Create(size)));
    assert_eq!(plan_pool(size, &ours, &[], &[]), Ok(PoolPlan::Mount { device: None }));
    let device = [device(9, true)];
    assert_eq!(plan_pool(size, &ours, &device, &[]), Ok(PoolPlan::Mount { device: Some(9) }));
    let adopted = plan_pool(size, &ours, &device, &[mount(9)]);
    assert_eq!(adopted, Ok(PoolPlan::Adopt { device: 9 }));
    let refused = |image: &ObservedImage, target: &[MountEntry]| {
        plan_pool(size, image, &[], target).expect_err("it is not a pool").to_string()
    };
    assert!(refused(&absent, &[mount(3)]).contains("mounted in the volume's place"));
    assert!(refused(&ObservedImage::NotAFile, &[]).contains("not a plain file"));
    assert!(refused(&pool(|block| block.labelled_ours = false), &[]).contains("not made by"));
    assert!(refused(&pool(|block| block.size += 1), &[]).contains("truncated"));
    assert!(refused(&pool(|block| block.file_system = FileSystem::Ext4), &[]).contains("ext4"));
    let small = plan_pool(ByteSize::mib(299), &absent, &[], &[]).expect_err("too small");
    assert!(small.to_string().contains("300Mi"), "{small}");
}

/// What a step does to the world, as far as a plan looks at it.
fn carry_out(world: &mut Observed, step: EnsureStep, size: ByteSize) {
    let bytes = size.as_u64();
    match step {
        EnsureStep::Publish => {
            let new = Superblock { size: bytes, ..superblock(1) };
            world.image = ObservedImage::Present { size: bytes, superblock: Some(new) };
            let FoundMetadata::Present(metadata) = metadata(1) else { unreachable!("it is given") };
            world.metadata = FoundMetadata::Present(Metadata { size: bytes, ..metadata });
        }
        EnsureStep::RepairMetadata => {
            let ObservedImage::Present { superblock: Some(found), .. } = &world.image else {
                unreachable!("only what bears our mark is repaired")
            };
            let FoundMetadata::Present(fresh) = metadata(1) else { unreachable!("it is given") };
            let (size, file_system_id) = (found.size, found.id);
            world.metadata = FoundMetadata::Present(Metadata { file_system_id, size, ..fresh });
        }
        EnsureStep::Record => {
            if let FoundMetadata::Present(metadata) = &mut world.metadata {
                metadata.size = bytes;
            }
        }
        EnsureStep::Extend(to) => {
            if let ObservedImage::Present { size, .. } = &mut world.image {
                *size = to.as_u64();
            }
        }
        EnsureStep::GrowMounted | EnsureStep::GrowUnmounted => {
            if let ObservedImage::Present { superblock: Some(found), size } = &mut world.image {
                found.size = *size;
            }
        }
        EnsureStep::Check => {
            if let ObservedImage::Present { superblock: Some(found), .. } = &mut world.image {
                found.left_as = LeftAs::Clean;
            }
        }
        EnsureStep::Attach => world.devices.push(device(9, false)),
        EnsureStep::Mount => {
            let device = &mut world.devices[0];
            device.mounted_somewhere = true;
            let minor = device.minor;
            world.target.push(mount(minor));
        }
        EnsureStep::PrepareBuilding
        | EnsureStep::AllocateImage(_)
        | EnsureStep::Format
        | EnsureStep::Mark
        | EnsureStep::Reserve(_)
        | EnsureStep::UpdateCapacity
        | EnsureStep::PrepareRoot(_) => {}
    }
}

fn any_observed() -> impl Strategy<Value = Observed> {
    let image = prop_oneof![
        Just(ObservedImage::Absent),
        Just(ObservedImage::NotAFile),
        (1_u64..64, proptest::option::of((1_u64..64, any::<bool>(), 0..3_u8, any::<bool>())))
            .prop_map(|(size, block)| ObservedImage::Present {
                size: size * MIB,
                superblock: block.map(|(mib, ours, left, same)| Superblock {
                    id: file_system_id(if same { '0' } else { '1' }),
                    labelled_ours: ours,
                    left_as: [LeftAs::Clean, LeftAs::Unclean, LeftAs::Faulty][usize::from(left)],
                    ..superblock(mib)
                }),
            }),
    ];
    let found = prop_oneof![
        Just(FoundMetadata::Absent),
        Just(FoundMetadata::Corrupt("x".to_owned())),
        (1_u64..64).prop_map(metadata),
    ];
    let devices = proptest::collection::vec(
        (8_u32..11, any::<bool>(), any::<bool>()).prop_map(|(minor, usable, mounted_somewhere)| {
            ObservedDevice { minor, usable, mounted_somewhere }
        }),
        0..3,
    );
    let target = proptest::collection::vec(
        (8_u32..11, any::<bool>())
            .prop_map(|(minor, ro)| MountEntry { read_only: ro, ..mount(minor) }),
        0..3,
    );
    let growth = prop_oneof![Just(MountedGrowth::Permitted), Just(MountedGrowth::NotPermitted)];
    (image, found, devices, target, growth).prop_map(
        |(image, metadata, devices, target, growth)| Observed {
            image,
            metadata,
            devices,
            target,
            growth,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_plan_endangers_data(observed in any_observed(), mib in 1_u64..64, thin: bool) {
        let allocation = if thin { Allocation::Thin } else { Allocation::Full };
        let wanted = VolumeSpec { allocation, ..spec(mib) };
        let Ok(plan) = plan_ensure(&wanted, &observed) else { return Ok(()) };
        let has = |step| plan.steps.contains(&step);
        let absent = observed.image == ObservedImage::Absent;
        // Only an image that this plan creates is formatted.
        prop_assert_eq!(has(EnsureStep::Format), absent);
        // Nothing is mounted over something, and nothing is attached twice.
        prop_assert!(!has(EnsureStep::Mount) || observed.target.is_empty());
        prop_assert!(!has(EnsureStep::Attach) || observed.devices.is_empty());
        // What is mounted anywhere is neither checked nor grown from outside.
        let live = observed.devices.iter().any(|device| device.mounted_somewhere);
        prop_assert!(!(live && (has(EnsureStep::Check) || has(EnsureStep::GrowUnmounted))));
        // Never smaller, and as large as asked for.
        prop_assert!(plan.size >= wanted.size);
        for step in &plan.steps {
            if let (EnsureStep::Extend(to), ObservedImage::Present { size, .. }) =
                (step, &observed.image)
            {
                prop_assert!(to.as_u64() > *size);
            }
        }
        // It ends ready for use.
        prop_assert!(matches!(plan.steps.last(), Some(EnsureStep::PrepareRoot(_))));
        let full = allocation == Allocation::Full;
        let reserved = plan.steps.iter().any(|step| {
            matches!(step, EnsureStep::Reserve(size) if *size >= plan.size)
        });
        prop_assert!(absent || reserved == full);
    }

    #[test]
    fn a_plan_carried_out_leaves_nothing_to_do(
        observed in any_observed(),
        mib in 1_u64..64,
        cut in 0_usize..12,
    ) {
        let wanted = spec(mib);
        // A plan that is cut off anywhere is taken up again by the next one.
        let mut world = observed;
        for limit in [cut, usize::MAX] {
            let Ok(plan) = plan_ensure(&wanted, &world) else { return Ok(()) };
            for step in plan.steps.iter().take(limit) {
                carry_out(&mut world, *step, plan.size);
            }
            if limit == cut {
                // A killed process takes a device with it that is not mounted.
                world.devices.retain(|device| device.mounted_somewhere);
            }
        }
        let rest = plan_ensure(&wanted, &world);
        // A growth of a live ext4 that may not be done is the one way to end otherwise.
        if matches!(rest, Err(Refusal::GrowthNeedsRelease { .. })) {
            return Ok(());
        }
        let rest = rest.expect("what was provided can be provided").steps;
        prop_assert!(
            matches!(rest[..], [EnsureStep::Reserve(_), EnsureStep::PrepareRoot(RootState::InUse)]),
            "{rest:?}"
        );
    }

    #[test]
    fn no_release_touches_a_foreign_mount(observed in any_observed()) {
        let Ok(steps) = plan_release(&observed) else { return Ok(()) };
        let minors: Vec<_> = observed.devices.iter().map(|device| device.minor).collect();
        for entry in &observed.target {
            prop_assert!(minors.contains(&entry.device.minor));
        }
        let unmounts = steps.iter().filter(|step| **step == ReleaseStep::Unmount).count();
        prop_assert_eq!(unmounts, observed.target.len());
    }
}
