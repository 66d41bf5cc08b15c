//! Directories that go away, or refuse.

use belay_locks::{AcquireError, LockName, LockSet, Places, Unusable};

use crate::other::{Other, Place, SOON, claim, web};

fn unusable(refused: Result<belay_locks::Guard, AcquireError>) -> Unusable {
    match refused.expect_err("nobody gets a lock") {
        AcquireError::Unusable(why) => why,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn lock_dir_removed_under_us_fails_closed_and_is_seen_by_the_holder() {
    let place = Place::new();
    let locks = place.locks();
    let guard = locks.try_acquire(&web(), &claim("deploy")).expect("free");
    assert!(guard.is_in_place());
    std::fs::remove_dir_all(place.run().join("locks")).expect("it is ours");
    assert!(!guard.is_in_place(), "others could take the lock beside it");
    let other = LockSet::one(LockName::workload("xyz"));
    let why = unusable(locks.try_acquire(&other, &claim("start")));
    assert!(matches!(why, Unusable::Replaced { .. }), "{why}");
    // Made anew by another process: still not the one that our own guard lies in.
    place.locks().prepare().expect("a process that comes now makes it");
    let why = unusable(locks.try_acquire(&other, &claim("start")));
    assert!(why.to_string().contains("was removed or replaced"), "{why}");
    guard.finish();
}

#[tokio::test]
async fn a_file_removed_under_its_holder_is_seen() {
    let place = Place::new();
    let locks = place.locks();
    let guard = locks.try_acquire(&web(), &claim("deploy")).expect("free");
    std::fs::remove_file(place.file()).expect("it is ours");
    assert!(!guard.is_in_place());
    drop(guard);
}

#[tokio::test]
async fn a_missing_runtime_directory_refuses_and_heals() {
    let place = Place::new();
    std::fs::remove_dir(place.run()).expect("it is empty");
    let locks = place.locks();
    let why = unusable(locks.try_acquire(&web(), &claim("start")));
    assert!(why.to_string().starts_with("the locks in "), "{why}");
    std::fs::create_dir(place.run()).expect("a directory");
    locks.try_acquire(&web(), &claim("start")).expect("it is there now").finish();
}

#[tokio::test]
async fn a_read_only_runtime_directory_refuses() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let place = Place::new();
    let run = place.run();
    let flags = MsFlags::MS_RDONLY;
    mount(Some("tmpfs"), &run, Some("tmpfs"), flags, None::<&str>).expect("needs root");
    let why = unusable(place.locks().try_acquire(&web(), &claim("start")));
    umount2(&run, MntFlags::MNT_DETACH).expect("it is ours");
    let Unusable::Io { source, .. } = why else { panic!("{why}") };
    assert_eq!(source.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

#[tokio::test]
async fn a_link_or_a_pipe_in_the_place_of_a_lock_is_refused() {
    let place = Place::new();
    let locks = place.locks();
    locks.prepare().expect("can be made");
    let file = place.file();
    std::os::unix::fs::symlink("/etc/hostname", &file).expect("links");
    unusable(locks.try_acquire(&web(), &claim("start")));
    std::fs::remove_file(&file).expect("it is ours");
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
    nix::unistd::mkfifo(&file, mode).expect("makes");
    unusable(locks.try_acquire(&web(), &claim("start")));
}

#[tokio::test]
async fn pruning_spares_what_is_held_kept_or_was_cut_short() {
    let place = Place::new();
    let locks = place.locks();
    for name in ["free", "kept", "cut"] {
        let set = LockSet::one(LockName::workload(name));
        let guard = locks.try_acquire(&set, &claim("start")).expect("free");
        if name == "cut" { drop(guard) } else { guard.finish() }
    }
    let mut other = Other::holding(&place, "hold");
    let keep = LockSet::one(LockName::workload("kept"));
    assert_eq!(locks.prune(&keep).expect("prunes"), 1);
    let left = std::fs::read_dir(place.run().join("locks/w")).expect("lists");
    let mut left: Vec<_> = left
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    left.sort();
    assert_eq!(left, ["cut", "kept", "web"]);
    other.tell("finish");
    other.hear("done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_pruned_again_and_again_has_one_holder_all_the_same() {
    let place = Place::new();
    let mut fighters: Vec<_> = (0..3).map(|_| Other::start(&place, "fight 60")).collect();
    let locks = place.locks();
    let pruning = tokio::task::spawn_blocking(move || {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(2);
        let mut pruned = 0;
        while std::time::Instant::now() < end {
            pruned += locks.prune(&LockSet::default()).expect("prunes");
            // Between two prunings there must be room for a lock to be taken.
            std::thread::sleep(std::time::Duration::from_micros(300));
        }
        pruned
    });
    for fighter in &mut fighters {
        let told = fighter.hear("fought");
        assert!(told.starts_with("0 "), "two were inside at once: {told}");
    }
    assert!(pruning.await.expect("no panic") > 0, "nothing was ever pruned");
}

#[tokio::test]
async fn the_instance_lock_is_the_directory_whatever_it_is_called() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let place = Place::new();
    let (state, bound) = (place.path().join("state"), place.path().join("bound"));
    let link = place.path().join("link");
    std::os::unix::fs::symlink(&state, &link).expect("links");
    std::fs::create_dir(&bound).expect("a directory");
    mount(Some(&state), &bound, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("needs root");
    let set = LockSet::one(LockName::Instance);
    let held = place.locks().try_acquire(&set, &claim("supervise")).expect("free");
    for path in [&link, &bound] {
        // Its runtime directory differs too.
        let run = place.path().join("another");
        let locks = belay_locks::Locks::new(Places { run, state: path.clone() });
        let refused = locks.try_acquire(&set, &claim("supervise")).expect_err("the same directory");
        assert!(refused.to_string().contains("supervise (daemon, pid "), "{refused}");
    }
    umount2(&bound, MntFlags::MNT_DETACH).expect("it is ours");
    held.finish();
    place.locks().acquire(&set, &claim("supervise"), SOON, |_| {}).await.expect("free").finish();
}
