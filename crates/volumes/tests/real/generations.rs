//! Generations on a host that clones by reference, and the watchdog that thaws.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use belay_volumes::{
    ByteSize, Cloning, EnsureError, FileSystem, GenerationError, GenerationName, Refusal,
    RemoveError, VolumeSpec, Volumes, VolumesConfig, Watchdog,
};

use crate::faults::{child, program};
use crate::scratch::{Scratch, spec};

fn name(text: &str) -> GenerationName {
    text.parse().expect("a name")
}

/// An xfs that plays the host's disk under the volumes.
fn cloning_host(scratch: &Scratch, mib: u64) {
    host(scratch, mib, "mkfs.xfs");
}

fn host(scratch: &Scratch, mib: u64, mkfs: &str) {
    let image = scratch.directory.join("host.img");
    File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("an image");
    let made = Command::new(mkfs).args(["-q", "-K"]).arg(&image).status().expect("mkfs");
    assert!(made.success());
    fs::create_dir(scratch.root()).expect("the mount point");
    let device = scratch.attach_foreign(&image);
    let mounted = Command::new("mount").args([&device, &scratch.root()]).status().expect("mount");
    assert!(mounted.success());
}

fn config(scratch: &Scratch) -> VolumesConfig {
    let mut config = scratch.config();
    config.keep_free = ByteSize::mib(1);
    config.watchdog =
        Some(Watchdog { program: program(), arguments: vec!["thaw-watchdog".to_owned()] });
    config
}

async fn open(scratch: &Scratch) -> Volumes {
    Volumes::open(config(scratch)).await.expect("a directory of volumes")
}

fn read(directory: &Path) -> String {
    fs::read_to_string(directory.join("state")).expect("the state")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_holds_the_state_of_its_moment_and_takes_its_place_and_back() {
    for (file_system, mib, mkfs) in [
        (FileSystem::Ext4, 64, "mkfs.xfs"),
        (FileSystem::Xfs, 300, "mkfs.xfs"),
        (FileSystem::Ext4, 64, "mkfs.btrfs"),
        (FileSystem::Xfs, 300, "mkfs.btrfs"),
    ] {
        let scratch = Scratch::new();
        host(&scratch, 1280, mkfs);
        let volumes = open(&scratch).await;
        assert_eq!(volumes.cloning().await.expect("probed"), Cloning::ByReference);
        let wanted = VolumeSpec { file_system, ..spec("web/store", ByteSize::mib(mib)) };
        let id = &wanted.id;
        let mounted = volumes.ensure(&wanted).await.expect("a volume");
        fs::write(mounted.data.join("state"), "one").expect("written");
        let kept = volumes.keep_generation(id, &name("a")).await.expect("kept while mounted");
        assert!(kept.stall > Duration::ZERO && kept.stall < Duration::from_secs(1), "{kept:?}");
        fs::write(mounted.data.join("state"), "two").expect("the writer goes on");

        let seen = volumes.mount_generation(id, &name("a")).await.expect("readable");
        assert_eq!(read(&seen.data), "one", "{file_system}");
        fs::write(seen.data.join("state"), "x").expect_err("it is read-only");
        let error = volumes.swap_generation(id, &name("a")).await.expect_err("it is being read");
        assert!(error.to_string().contains("in use"), "{error}");
        let error = volumes.delete_generation(id, &name("a")).await.expect_err("being read");
        assert!(error.to_string().contains("in use"), "{error}");
        volumes.unmount_generation(id, &name("a")).await.expect("unmounted");
        volumes.unmount_generation(id, &name("a")).await.expect("again is no error");

        let error = volumes.swap_generation(id, &name("a")).await.expect_err("it is mounted");
        assert!(matches!(error, GenerationError::Refused { refusal: Refusal::InUse { .. }, .. }));
        for (state, other) in [("one", "two"), ("two", "one"), ("one", "two")] {
            volumes.release(id).await.expect("released");
            volumes.swap_generation(id, &name("a")).await.expect("swapped");
            let mounted = volumes.ensure(&wanted).await.expect("mounted");
            assert_eq!(read(&mounted.data), state, "{file_system}: not {other}");
        }
        assert_eq!(volumes.generations(id).await.expect("a list"), [name("a")]);
        volumes.delete_generation(id, &name("a")).await.expect("deleted");
        assert_eq!(volumes.generations(id).await.expect("a list"), []);
        let error = volumes.mount_generation(id, &name("a")).await.expect_err("it is gone");
        assert!(matches!(error, GenerationError::NoGeneration { .. }), "{error}");
        volumes.release(id).await.expect("released");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_clones_by_reference_it_says_what_to_do() {
    let scratch = Scratch::new();
    host(&scratch, 256, "mkfs.ext4");
    let volumes = open(&scratch).await;
    assert_eq!(volumes.cloning().await.expect("probed"), Cloning::Unsupported);
    let wanted = spec("web/store", ByteSize::mib(16));
    let mounted = volumes.ensure(&wanted).await.expect("a volume");
    let error = volumes.keep_generation(&wanted.id, &name("a")).await.expect_err("it cannot");
    assert!(matches!(error, GenerationError::NotCloning { .. }), "{error:?}");
    assert!(error.to_string().contains("pool"), "{error}");
    fs::write(mounted.data.join("state"), "x").expect("and the volume is not frozen");
    assert_eq!(volumes.generations(&wanted.id).await.expect("a list"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_could_break_a_promise_is_refused_with_numbers() {
    let scratch = Scratch::new();
    cloning_host(&scratch, 1024);
    let volumes = open(&scratch).await;
    let room = volumes.host().await.expect("the host").available.as_u64() >> 20;
    let share = |tenths| ByteSize::mib(room * tenths / 10);
    let wanted = spec("web/store", share(6));
    volumes.ensure(&wanted).await.expect("a volume");
    let error = volumes.keep_generation(&wanted.id, &name("a")).await.expect_err("no room");
    let GenerationError::NoRoom { needed, available, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*needed, share(6));
    assert!(available < needed, "{error}");
    let small = spec("web/small", share(1));
    volumes.ensure(&small).await.expect("a volume");
    volumes.keep_generation(&small.id, &name("a")).await.expect("a small one has room");
    // Three tenths are free, and one of them is committed.
    let error = volumes.ensure(&spec("web/more", share(3))).await.expect_err("committed");
    assert!(matches!(error, EnsureError::HostFull { .. }), "{error}");
    volumes.delete_generation(&small.id, &name("a")).await.expect("deleted");
    volumes.ensure(&spec("web/more", share(2))).await.expect("and given free");
    volumes.release(&"web/more".parse().expect("an id")).await.expect("released");
    for id in [&wanted.id, &small.id] {
        volumes.release(id).await.expect("released");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_not_deleted_while_a_generation_is_read_and_the_next_start_releases_it() {
    let scratch = Scratch::new();
    cloning_host(&scratch, 512);
    let volumes = open(&scratch).await;
    let wanted = spec("web/store", ByteSize::mib(32));
    volumes.ensure(&wanted).await.expect("a volume");
    volumes.release(&wanted.id).await.expect("released");
    let kept = volumes.keep_generation(&wanted.id, &name("a")).await.expect("kept");
    assert_eq!(kept.stall, Duration::ZERO, "nobody had to wait");
    volumes.mount_generation(&wanted.id, &name("a")).await.expect("readable");
    let error = volumes.remove(&wanted.id).await.expect_err("it is being read");
    assert!(matches!(error, RemoveError::Refused { .. }), "{error}");
    drop(volumes);
    let volumes = open(&scratch).await;
    assert_eq!(volumes.recovered().mounted, [], "the volume itself was not mounted");
    volumes.remove(&wanted.id).await.expect("nobody reads it any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_cut_off_at_any_step_leaves_one_of_the_two_states() {
    let points = [
        "swap.RecordSmaller.before",
        "swap.Exchange.before",
        "swap.Exchange.after",
        "swap.RecordSize.after",
    ];
    let scratch = Scratch::new();
    cloning_host(&scratch, 1024);
    let volumes = open(&scratch).await;
    let first = spec("web/store", ByteSize::mib(32));
    let grown = spec("web/store", ByteSize::mib(48));
    let id = &first.id;
    let mounted = volumes.ensure(&first).await.expect("a volume");
    fs::write(mounted.data.join("state"), "small").expect("written");
    volumes.release(id).await.expect("released");
    volumes.keep_generation(id, &name("a")).await.expect("kept");
    // The two differ in size too, which is what a crash between the records could confuse.
    let mounted = volumes.ensure(&grown).await.expect("grown");
    fs::write(mounted.data.join("state"), "large").expect("written");
    volumes.release(id).await.expect("released");
    drop(volumes);
    for point in points.iter().cycle().take(8) {
        for effect in ["kill", "fail"] {
            let cut =
                child(&scratch, &["swap", "web/store", "a"], Some(&format!("{point}={effect}")));
            let killed = cut.status.signal() == Some(9);
            assert!(killed == (effect == "kill") && !cut.status.success(), "{point}");
            let volumes = open(&scratch).await;
            let mounted = volumes.ensure(&grown).await.expect(point);
            assert!(["small", "large"].contains(&read(&mounted.data).as_str()), "{point}");
            volumes.release(id).await.expect(point);
        }
    }
}

/// Writes until told to stop; returns the longest time that one write took.
fn write_until(path: PathBuf, stop: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    let mut file = File::create(path).expect("a file");
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        file.write_all(b"entry").and_then(|()| file.sync_all()).expect("it writes");
        longest = longest.max(began.elapsed());
    }
    longest
}

/// The processes that run this program.
fn running(program: &Path) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").expect("lists").flatten();
    let runs = |entry: &fs::DirEntry| {
        fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| line.starts_with(program.as_os_str().as_encoded_bytes()))
    };
    let pids = processes.filter(runs).map(|entry| entry.file_name().to_string_lossy().parse());
    pids.map(|pid| Pid::from_raw(pid.expect("a number"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn watchdogs_are_started_before_anybody_waits_and_outlive_neither_use_nor_owner() {
    let scratch = Scratch::new();
    cloning_host(&scratch, 512);
    let mut config = config(&scratch);
    let watchdog = scratch.directory.join("watchdog-of-this-test");
    std::os::unix::fs::symlink(program(), &watchdog).expect("links");
    let arguments = vec!["thaw-watchdog".to_owned()];
    config.watchdog = Some(Watchdog { program: watchdog.clone(), arguments });
    let volumes = Volumes::open(config).await.expect("a directory of volumes");
    let mut ids = BTreeSet::new();
    for id in ["web/store", "web/cache"] {
        let wanted = spec(id, ByteSize::mib(32));
        volumes.ensure(&wanted).await.expect("a volume");
        ids.insert(wanted.id);
    }
    for _ in 0..2 {
        volumes.prepare_generations(ids.clone(), &name("a")).await.expect("prepared");
        assert_eq!(running(&watchdog).len(), 2, "one for each, and no more the second time");
    }
    let ready = running(&watchdog);
    volumes.keep_generations(ids.clone(), &name("a")).await.expect("kept");
    assert_eq!(running(&watchdog), [], "they have served");

    // Whatever became of those that were ready, the volumes are guarded.
    volumes.prepare_generations(ids.clone(), &name("a")).await.expect("prepared");
    let again = running(&watchdog);
    assert!(again.iter().all(|pid| !ready.contains(pid)));
    kill(again[0], Signal::SIGKILL).expect("it runs");
    volumes.keep_generations(ids.clone(), &name("a")).await.expect("kept");
    assert_eq!(running(&watchdog), []);

    volumes.prepare_generations(ids.clone(), &name("a")).await.expect("prepared");
    for id in &ids {
        volumes.release(id).await.expect("one that is ready holds no volume");
    }
    drop(volumes);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !running(&watchdog).is_empty() {
        assert!(Instant::now() < deadline, "they do not outlive their owner");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_freeze_and_thaw_stalls_writers_for_no_more_than_the_watchdogs_time() {
    let scratch = Scratch::new();
    cloning_host(&scratch, 512);
    assert!(child(&scratch, &["ensure", "web/store", "32M"], None).status.success());
    let data = scratch.root().join("mounts/web/store/data");
    let stop = AtomicBool::new(false);
    let (kept, waited, longest) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_until(data.join("log"), &stop));
        let kept =
            child(&scratch, &["keep", "web/store", "a"], Some("generation.Freeze.after=kill"));
        let began = Instant::now();
        let written = fs::write(data.join("after"), "written");
        let waited = written.map(|()| began.elapsed());
        // Nothing in here may fail before the writer is told to stop.
        stop.store(true, Ordering::Relaxed);
        (kept, waited, writer.join())
    });
    let said = String::from_utf8_lossy(&kept.stderr);
    assert_eq!(kept.status.signal(), Some(9), "{said}");
    let limit = Duration::from_secs(3);
    assert!(waited.expect("the watchdog lets it through") < limit);
    assert!(longest.expect("the writer") < limit);
    let volumes = open(&scratch).await;
    let id = "web/store".parse().expect("an id");
    assert_eq!(volumes.generations(&id).await.expect("a list"), [], "nothing half kept");
    volumes.keep_generation(&id, &name("a")).await.expect("and it works");
    volumes.release(&id).await.expect("released");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_frozen_is_thawed_at_start() {
    let scratch = Scratch::new();
    assert!(child(&scratch, &["ensure", "web/store", "32M"], None).status.success());
    let mount = scratch.root().join("mounts/web/store");
    let frozen = Command::new("fsfreeze").arg("-f").arg(&mount).status().expect("fsfreeze");
    assert!(frozen.success());
    let volumes = open(&scratch).await;
    let id = "web/store".parse().expect("an id");
    assert_eq!(volumes.recovered().thawed, [id]);
    fs::write(mount.join("data/file"), "written").expect("it takes writes");
    assert_eq!(open_twice_is_quiet(volumes, &scratch).await, []);
}

async fn open_twice_is_quiet(volumes: Volumes, scratch: &Scratch) -> Vec<belay_volumes::VolumeId> {
    drop(volumes);
    open(scratch).await.recovered().thawed.clone()
}

fn passing() -> GenerationName {
    GenerationName::passing()
}

fn count(directory: &Path) -> u64 {
    fs::read_to_string(directory.join("count")).expect("a count").trim().parse().expect("a number")
}

/// Counts in one volume, then in the other, each time for good, until told to stop.
fn count_in_turn(volumes: [&Path; 2], stop: &AtomicBool) {
    let open = |directory: &Path| File::create(directory.join("count")).expect("a file");
    count_in(&volumes.map(open), stop);
}

/// The same, with each number on the disk before the next.
fn count_durably_in_turn(directories: [&Path; 2], stop: &AtomicBool) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let open = |directory: &Path| {
        let mut options = File::options();
        options.write(true).create(true).custom_flags(nix::libc::O_DSYNC);
        options.open(directory.join("count")).expect("a file")
    };
    count_in(&directories.map(open), stop);
}

fn count_in(files: &[File; 2], stop: &AtomicBool) {
    for number in 0_u64.. {
        for file in files {
            use std::os::unix::fs::FileExt as _;
            file.write_all_at(format!("{number:020}").as_bytes(), 0).expect("it writes");
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_volumes_are_kept_as_they_are_at_one_moment() {
    let scratch = Scratch::new();
    cloning_host(&scratch, 1280);
    let volumes = open(&scratch).await;
    let wanted = [spec("web/first", ByteSize::mib(32)), spec("web/second", ByteSize::mib(32))];
    let mut data = Vec::new();
    for wanted in &wanted {
        data.push(volumes.ensure(wanted).await.expect("a volume").data);
    }
    let ids: std::collections::BTreeSet<_> = wanted.iter().map(|spec| spec.id.clone()).collect();
    let stop = AtomicBool::new(false);
    let pairs = std::thread::scope(|scope| {
        scope.spawn(|| count_in_turn([&data[0], &data[1]], &stop));
        let pairs = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let mut pairs = Vec::new();
                for _ in 0..10 {
                    volumes.prepare_generations(ids.clone(), &passing()).await?;
                    let kept = volumes.keep_generations(ids.clone(), &passing()).await?;
                    let mut pair = Vec::new();
                    for kept in kept {
                        let seen = volumes.mount_generation(&kept.id, &passing()).await?;
                        pair.push(count(&seen.data));
                        volumes.unmount_generation(&kept.id, &passing()).await?;
                    }
                    pairs.push(pair);
                }
                Ok::<_, GenerationError>(pairs)
            })
        });
        stop.store(true, Ordering::Relaxed);
        pairs
    });
    let pairs = pairs.expect("ten times kept");
    for pair in &pairs {
        // The second is counted after the first.
        assert!(pair[0] == pair[1] || pair[0] == pair[1] + 1, "{pairs:?}");
    }
    assert!(pairs.first() != pairs.last(), "the writer went on in between: {pairs:?}");
    for id in &ids {
        volumes.release(id).await.expect("released");
    }
}

/// Whether an ext4 was frozen when its image was cloned: else its journal was in use.
fn was_frozen(image: &Path) -> bool {
    let shown = Command::new("dumpe2fs").arg("-h").arg(image).output().expect("dumpe2fs");
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    !String::from_utf8_lossy(&shown.stdout).contains("needs_recovery")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_writes_to_is_kept_without_a_freeze_and_whole() {
    let scratch = Scratch::new();
    cloning_host(&scratch, 1280);
    let volumes = open(&scratch).await;
    let wanted = spec("web/first", ByteSize::mib(64));
    let data = volumes.ensure(&wanted).await.expect("a volume").data;
    let ids = std::collections::BTreeSet::from([wanted.id.clone()]);
    for round in 0..5 {
        for number in 0..300 {
            fs::write(data.join(format!("{number}")), format!("{round} {number}")).expect("writes");
        }
        fs::rename(data.join("7"), data.join("renamed")).expect("renames");
        volumes.prepare_generations(ids.clone(), &passing()).await.expect("ready");
        fs::write(data.join("last"), format!("{round}")).expect("writes");
        let kept = volumes.keep_generations_at_rest(ids.clone(), &passing()).await.expect("kept");
        assert!(!was_frozen(&kept[0].image), "in round {round}");
        let seen = volumes.mount_generation(&wanted.id, &passing()).await.expect("mounted");
        for (name, number) in (0..300).map(|number| (number.to_string(), number)) {
            let name = if number == 7 { "renamed".to_owned() } else { name };
            let found = fs::read_to_string(seen.data.join(&name)).expect(&name);
            assert_eq!(found, format!("{round} {number}"));
        }
        assert!(!seen.data.join("7").exists());
        assert_eq!(fs::read_to_string(seen.data.join("last")).expect("last"), format!("{round}"));
        volumes.unmount_generation(&wanted.id, &passing()).await.expect("unmounted");
    }
    volumes.release(&wanted.id).await.expect("released");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_should_not_be_there_is_noticed_and_held_back() {
    let scratch = Scratch::new();
    cloning_host(&scratch, 1280);
    let volumes = open(&scratch).await;
    let wanted = spec("web/first", ByteSize::mib(64));
    let data = volumes.ensure(&wanted).await.expect("a volume").data;
    let ids = std::collections::BTreeSet::from([wanted.id.clone()]);
    let places = ["a", "b"].map(|name| data.join(name));
    for place in &places {
        fs::create_dir(place).expect("creates");
    }
    let stop = AtomicBool::new(false);
    let (pairs, frozen) = std::thread::scope(|scope| {
        scope.spawn(|| count_durably_in_turn([&places[0], &places[1]], &stop));
        let kept = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let (mut pairs, mut frozen) = (Vec::new(), 0);
                for _ in 0..20 {
                    let kept = volumes.keep_generations_at_rest(ids.clone(), &passing()).await?;
                    frozen += u32::from(was_frozen(&kept[0].image));
                    let seen = volumes.mount_generation(&wanted.id, &passing()).await?;
                    pairs.push([count(&seen.data.join("a")), count(&seen.data.join("b"))]);
                    volumes.unmount_generation(&wanted.id, &passing()).await?;
                }
                Ok::<_, GenerationError>((pairs, frozen))
            })
        });
        stop.store(true, Ordering::Relaxed);
        kept
    })
    .expect("kept each time");
    for pair in &pairs {
        assert!(pair[0] == pair[1] || pair[0] == pair[1] + 1, "{pairs:?}");
    }
    assert!(frozen > 0, "it was never noticed");
    volumes.release(&wanted.id).await.expect("released");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_one_volume_cannot_be_frozen_none_is_kept_and_all_go_on() {
    let scratch = Scratch::new();
    cloning_host(&scratch, 1280);
    let volumes = open(&scratch).await;
    let plain = spec("web/first", ByteSize::mib(32));
    let other =
        VolumeSpec { file_system: FileSystem::Btrfs, ..spec("web/second", ByteSize::mib(300)) };
    let mut data = Vec::new();
    for wanted in [&plain, &other] {
        data.push(volumes.ensure(wanted).await.expect("a volume").data);
    }
    let ids = std::collections::BTreeSet::from([plain.id.clone(), other.id.clone()]);
    let prepared = volumes.prepare_generations(ids.clone(), &passing()).await;
    let kept = volumes.keep_generations(ids.clone(), &passing()).await;
    for error in [prepared.expect_err("refused"), kept.map(drop).expect_err("refused")] {
        assert!(matches!(error, GenerationError::NotMountedHere { .. }), "{error:?}");
    }
    for (id, data) in ids.iter().zip(&data) {
        fs::write(data.join("state"), "x").expect("it is not frozen");
        assert_eq!(volumes.generations(id).await.expect("a list"), []);
        volumes.release(id).await.expect("released");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_that_a_killed_process_was_reading_are_swept() {
    let scratch = Scratch::new();
    cloning_host(&scratch, 512);
    let id: belay_volumes::VolumeId = "web/store".parse().expect("an id");
    let directory = scratch.root().join("images/web/store");
    let images = || {
        let listed = fs::read_dir(&directory).expect("lists");
        let names = listed.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().expect("text")).collect();
        names.sort();
        names
    };
    assert!(child(&scratch, &["ensure", "web/store", "32M"], None).status.success());
    for point in ["generation.Freeze.after=kill", "generation.Clone.after=kill"] {
        let cut = child(&scratch, &["keep", "web/store", "capture"], Some(point));
        assert_eq!(cut.status.signal(), Some(9), "{}", String::from_utf8_lossy(&cut.stderr));
        let volumes = open(&scratch).await;
        assert_eq!(images(), ["volume.img", "volume.json"], "{point}");
        assert_eq!(volumes.recovered().discarded.len(), 1, "{point}");
    }
    let volumes = open(&scratch).await;
    volumes.keep_generation(&id, &passing()).await.expect("kept");
    volumes.keep_generation(&id, &name("a")).await.expect("kept for good");
    let seen = volumes.mount_generation(&id, &passing()).await.expect("readable");
    drop(volumes);
    let volumes = open(&scratch).await;
    assert_eq!(images(), ["generation-a.img", "volume.img", "volume.json"]);
    assert!(!seen.mount.exists(), "it is mounted no more");
    volumes.release(&id).await.expect("released");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_too_many_pieces_is_not_cloned_under_its_writers() {
    use std::os::unix::fs::FileExt as _;
    let scratch = Scratch::new();
    cloning_host(&scratch, 1280);
    let mut config = config(&scratch);
    config.extents_max = 400;
    let volumes = Volumes::open(config).await.expect("a directory of volumes");
    let wanted = spec("web/store", ByteSize::mib(32));
    let id = &wanted.id;
    volumes.ensure(&wanted).await.expect("a volume");
    volumes.release(id).await.expect("released");
    volumes.keep_generation(id, &name("a")).await.expect("kept");
    // What shares its blocks with a clone is written somewhere else.
    let image = scratch.root().join("images/web/store/volume.img");
    let image = File::options().read(true).write(true).open(image).expect("the image");
    let mut block = [0; 4096];
    for number in 0..500 {
        image.read_exact_at(&mut block, number * 8192).expect("reads");
        image.write_all_at(&block, number * 8192).expect("writes");
    }
    image.sync_all().expect("synced");
    drop(image);
    volumes.delete_generation(id, &name("a")).await.expect("deleted");
    volumes.keep_generation(id, &name("a")).await.expect("nobody has to wait for this one");
    let mounted = volumes.ensure(&wanted).await.expect("a volume");
    let error = volumes.keep_generation(id, &name("b")).await.expect_err("too many");
    let GenerationError::Scattered { extents, .. } = error else { panic!("{error:?}") };
    assert!(extents > 400, "{extents}");
    let ids = std::collections::BTreeSet::from([id.clone()]);
    let told = volumes.prepare_generations(ids, &passing()).await;
    told.expect_err("and a capture is told in time");
    fs::write(mounted.data.join("state"), "x").expect("it was not frozen");
    volumes.release(id).await.expect("released");
}
