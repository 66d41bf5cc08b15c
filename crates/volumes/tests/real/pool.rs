//! All images in one xfs image, on a host that cannot clone.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use belay_volumes::{
    ByteSize, Cloning, EnsureError, OpenError, Refusal, Volumes, VolumesConfig, Watchdog,
};

use crate::faults::program;
use crate::scratch::{Scratch, spec};

fn config(scratch: &Scratch, mib: u64) -> VolumesConfig {
    let mut config = scratch.config();
    config.keep_free = ByteSize::mib(1);
    config.pool = Some(ByteSize::mib(mib));
    config.watchdog =
        Some(Watchdog { program: program(), arguments: vec!["thaw-watchdog".to_owned()] });
    config
}

async fn open(scratch: &Scratch, mib: u64) -> Volumes {
    Volumes::open(config(scratch, mib)).await.expect("a pool")
}

fn allocated(scratch: &Scratch) -> u64 {
    fs::metadata(scratch.root().join("pool.img")).expect("the pool").blocks() * 512
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_fully_allocated_clones_and_is_found_again() {
    let scratch = Scratch::new();
    let volumes = open(&scratch, 512).await;
    assert!(allocated(&scratch) >= 512 << 20);
    assert_eq!(volumes.cloning().await.expect("probed"), Cloning::ByReference);
    let wanted = spec("web/store", ByteSize::mib(64));
    let name = "a".parse().expect("a name");
    let mounted = volumes.ensure(&wanted).await.expect("a volume");
    assert!(scratch.root().join("pool/images/web/store/volume.img").is_file());
    fs::write(mounted.data.join("state"), "one").expect("written");
    volumes.keep_generation(&wanted.id, &name).await.expect("kept");
    fs::write(mounted.data.join("state"), "two").expect("written");
    let held = File::create(mounted.data.join("held")).expect("somebody writes");
    drop(volumes);

    let volumes = open(&scratch, 512).await;
    assert_eq!(volumes.recovered().mounted, std::slice::from_ref(&wanted.id));
    assert_eq!(scratch.mounts().len(), 2, "the pool and the volume, once each");
    held.sync_all().expect("the writer never noticed");
    drop(held);
    volumes.release_pool().await.expect_err("a volume is mounted");
    volumes.release(&wanted.id).await.expect("released");
    volumes.swap_generation(&wanted.id, &name).await.expect("taken back");
    let mounted = volumes.ensure(&wanted).await.expect("a volume");
    assert_eq!(fs::read(mounted.data.join("state")).expect("the state"), b"one");
    volumes.release(&wanted.id).await.expect("released");
    volumes.release_pool().await.expect("given up");
    drop(volumes);
    scratch.assert_nothing_held();
    let volumes = open(&scratch, 512).await;
    assert_eq!(volumes.list().await.expect("a list").len(), 1, "it is found again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_generation_breaks_no_promise_however_full_the_pool_is() {
    let scratch = Scratch::new();
    let volumes = open(&scratch, 700).await;
    let wanted = spec("web/store", ByteSize::mib(128));
    let mounted = volumes.ensure(&wanted).await.expect("a volume");
    let content = vec![0x11; 1 << 20];
    let file = File::create(mounted.data.join("big")).expect("a file");
    for block in 0..80 {
        file.write_all_at(&content, block << 20).expect("written");
    }
    file.sync_all().expect("synced");
    volumes.keep_generation(&wanted.id, &"a".parse().expect("a name")).await.expect("kept");
    // Others take all that they are given.
    let mut others = 0;
    loop {
        let id = format!("other/v{others}");
        match volumes.ensure(&spec(&id, ByteSize::mib(32))).await {
            Ok(_) => others += 1,
            Err(EnsureError::HostFull { .. }) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(others >= 4, "{others}");
    // Every block is copied now: an i/o error, or a read-only file system, fails here.
    let content = vec![0x22; 1 << 20];
    for block in 0..80 {
        file.write_all_at(&content, block << 20).expect("written over");
    }
    file.sync_all().expect("synced");
    drop(file);
    let list = volumes.list().await.expect("a list");
    for volume in list {
        assert!(!volume.mounted.expect("mounted").read_only, "{}", volume.id);
        volumes.release(&volume.id).await.expect("released");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_grows_and_never_shrinks() {
    let scratch = Scratch::new();
    drop(open(&scratch, 320).await);
    let volumes = open(&scratch, 448).await;
    assert!(allocated(&scratch) >= 448 << 20);
    let host = volumes.host().await.expect("the host");
    assert!(host.available > ByteSize::mib(320), "{host:?}");
    drop(volumes);
    let volumes = open(&scratch, 320).await;
    assert_eq!(volumes.host().await.expect("the host").available, host.available);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_cut_off_at_any_step_is_made_by_the_next_start() {
    for step in [
        "Allocate.before",
        "Format.before",
        "Publish.before",
        "Attach.before",
        "Mount.before",
        "Mount.after",
    ] {
        let scratch = Scratch::new();
        let cut = Command::new(program())
            .args([scratch.root().as_os_str(), scratch.minors.start.to_string().as_ref()])
            .args(["ensure", "web/store", "16M"])
            .env("BELAY_VOLUMES_POOL", "320M")
            .env("BELAY_VOLUMES_FAILPOINT", format!("pool.{step}=kill"))
            .output()
            .expect("the example runs");
        assert!(!cut.status.success(), "{step}");
        let volumes = open(&scratch, 320).await;
        volumes.ensure(&spec("web/store", ByteSize::mib(16))).await.expect(step);
        volumes.release(&"web/store".parse().expect("an id")).await.expect(step);
        volumes.release_pool().await.expect(step);
        scratch.assert_nothing_held();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_pool_is_neither_formatted_nor_mounted() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.root()).expect("the directory");
    let image = scratch.root().join("pool.img");
    fs::write(&image, vec![0x5a; 1 << 20]).expect("somebody's file");
    let error = Volumes::open(config(&scratch, 320)).await.expect_err("it is not a pool");
    assert!(matches!(error, OpenError::Pool(Refusal::Unrecognised)), "{error}");
    assert_eq!(fs::read(&image).expect("the file"), vec![0x5a; 1 << 20]);
    fs::remove_file(&image).expect("removed");
    let error =
        Volumes::open(config(&scratch, 12 << 20)).await.expect_err("more than the host has");
    assert!(matches!(error, OpenError::PoolTooLarge { .. }), "{error}");
    assert!(!image.exists());
    scratch.assert_nothing_held();
}
