//! Volumes grow, mounted or not, and a growth that is cut off is completed.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use belay_volumes::{
    ByteSize, EnsureError, FileSystem, MountedVolume, Refusal, VolumeSpec, Volumes,
};

use crate::faults::child;
use crate::scratch::{Scratch, spec};

fn of(file_system: FileSystem, mib: u64) -> VolumeSpec {
    VolumeSpec { file_system, ..spec("web/store", ByteSize::mib(mib)) }
}

async fn capacity(volumes: &Volumes) -> u64 {
    let list = volumes.list().await.expect("a list");
    assert!(list[0].allocated >= list[0].size, "the growth is allocated: {:?}", list[0]);
    list[0].mounted.as_ref().expect("mounted").total.as_u64()
}

fn has_resource_capability() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("the status");
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("CapEff");
    u64::from_str_radix(set.trim(), 16).expect("a number") & 1 << 24 != 0
}

fn keep(mounted: &MountedVolume) {
    fs::write(mounted.data.join("kept"), "content").expect("a file");
}

fn kept(mounted: &MountedVolume) {
    assert_eq!(fs::read(mounted.data.join("kept")).expect("the file"), b"content");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_volume_grows_under_its_user() {
    for (file_system, from, to) in
        [(FileSystem::Xfs, 300, 400), (FileSystem::Btrfs, 256, 384), (FileSystem::Ext4, 64, 128)]
    {
        let scratch = Scratch::new();
        let volumes = scratch.open().await;
        let first = volumes.ensure(&of(file_system, from)).await.expect("a volume");
        let before = capacity(&volumes).await;
        keep(&first);
        let held = fs::File::create(first.data.join("held")).expect("somebody writes");
        let grown = volumes.ensure(&of(file_system, to)).await;
        if file_system == FileSystem::Ext4 && !has_resource_capability() {
            let error = grown.expect_err("the kernel would refuse it");
            assert!(
                matches!(
                    error,
                    EnsureError::Refused { refusal: Refusal::GrowthNeedsRelease { .. }, .. }
                ),
                "{error}"
            );
            assert!(error.to_string().contains("CAP_SYS_RESOURCE"), "{error}");
            assert_eq!(capacity(&volumes).await, before, "nothing was touched");
            continue;
        }
        let grown = grown.expect("grown");
        assert_eq!((grown.device, grown.size), (first.device.clone(), ByteSize::mib(to)));
        let after = capacity(&volumes).await;
        assert!(after > before + ((to - from) << 20) * 8 / 10, "{file_system}: {before} {after}");
        held.sync_all().expect("the writer never noticed");
        kept(&first);
        drop(held);
        volumes.release(&first.id).await.expect("released");
        scratch.assert_nothing_held();
        let again = volumes.ensure(&of(file_system, to)).await.expect("mounted again");
        kept(&again);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_ext4_grows_before_it_is_mounted() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let first = volumes.ensure(&of(FileSystem::Ext4, 32)).await.expect("a volume");
    let before = capacity(&volumes).await;
    keep(&first);
    volumes.release(&first.id).await.expect("released");
    let grown = volumes.ensure(&of(FileSystem::Ext4, 96)).await.expect("grown");
    kept(&grown);
    assert!(capacity(&volumes).await > before + (56 << 20));
    volumes.ensure(&of(FileSystem::Ext4, 96)).await.expect("and it is settled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_growth_cut_off_at_any_step_is_completed_by_the_next() {
    let ext4 = ["Extend", "Reserve", "GrowUnmounted", "Attach", "Mount", "Record"];
    let with_capability =
        ["Extend", "Reserve", "Attach", "Mount", "UpdateCapacity", "GrowMounted", "Record"];
    let ext4: &[&str] = if has_resource_capability() { &with_capability } else { &ext4 };
    let xfs: &[&str] = &["Extend", "Reserve", "UpdateCapacity", "GrowMounted", "Record"];
    let cases = [
        (FileSystem::Ext4, ["8M", "24M"], 24, ext4),
        (FileSystem::Xfs, ["300M", "340M"], 340, xfs),
    ];
    for (file_system, [from, to], mib, steps) in cases {
        let name = file_system.name();
        for step in steps {
            for moment in ["before", "after"] {
                for effect in ["kill", "fail"] {
                    let scratch = Scratch::new();
                    let point = format!("ensure.{step}.{moment}={effect}");
                    let made = child(&scratch, &["ensure", "web/store", from, name], None);
                    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
                    if file_system == FileSystem::Ext4 {
                        assert!(child(&scratch, &["release", "web/store"], None).status.success());
                    }
                    let cut = child(&scratch, &["ensure", "web/store", to, name], Some(&point));
                    let said = String::from_utf8_lossy(&cut.stderr);
                    match effect {
                        "kill" => assert_eq!(cut.status.signal(), Some(9), "{point}: {said}"),
                        _ => assert!(said.contains("a test made it fail"), "{point}: {said}"),
                    }
                    let volumes = scratch.open().await;
                    let grown = volumes.ensure(&of(file_system, mib)).await;
                    let grown = match grown {
                        // Killed while mounted but not grown: it is told to release first.
                        Err(EnsureError::Refused {
                            refusal: Refusal::GrowthNeedsRelease { .. },
                            ..
                        }) if file_system == FileSystem::Ext4 => {
                            volumes.release(&of(file_system, mib).id).await.expect(&point);
                            volumes.ensure(&of(file_system, mib)).await
                        }
                        other => other,
                    };
                    grown.expect(&point);
                    let total = capacity(&volumes).await;
                    let least = if mib == 24 { 17 << 20 } else { 250 << 20 };
                    assert!(total > least, "{point}: {total}");
                    volumes.release(&of(file_system, mib).id).await.expect(&point);
                    scratch.assert_nothing_held();
                }
            }
        }
    }
}
