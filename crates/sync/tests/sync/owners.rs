//! Whom files belong to, and their set-id bits: what of that travels and what a consumer makes of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use belay_protocol::control::AlteredEntries;
use belay_protocol::record::{ArchiveFormat, SyncRecord};
use belay_protocol::{Cid, SyncRole};
use belay_store::RecordStore;
use belay_sync::{Against, Held, OnUnready, Owners, OwnershipPolicy, SetId, SyncSpec};
use serde_json::json;

use crate::commands::{Scene, applied, publish, reader};
use crate::disk::Disk;
use crate::exports::{diff_by, export, short};
use crate::imports::import;
use crate::scene::{
    FORMATS, Place, Running, VOLUMES, eventually, fill, provide_as, spec, start_with,
};
use crate::verify::verify_by;

/// The user of a database, and the owner of the consumer's inner volume.
const DATABASE: u32 = 70;
const HERE: (u32, u32) = (1234, 2345);

/// Mode and owner of everything in the volume of the database, by relative path.
fn held(place: &Place) -> BTreeMap<String, (u32, u32, u32)> {
    let root = place.data("data");
    let (mut found, mut waiting) = (BTreeMap::new(), vec![root.clone()]);
    while let Some(path) = waiting.pop() {
        let told = fs::symlink_metadata(&path).expect("is there");
        let relative = path.strip_prefix(&root).expect("below").display().to_string();
        found.insert(relative, (told.permissions().mode() & 0o7777, told.uid(), told.gid()));
        if told.is_dir() {
            waiting.extend(fs::read_dir(&path).expect("lists").map(|e| e.expect("reads").path()));
        }
    }
    found
}

fn entry(path: &Path, owner: (u32, u32), mode: u32) {
    lchown(path, Some(owner.0), Some(owner.1)).expect("this test runs as root");
    if !path.is_symlink() {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("modes");
    }
}

/// A database of two owners, and programs with set-id bits.
fn fill_for_two(place: &Place) {
    fill(place, "one");
    let data = place.data("data");
    fs::create_dir(data.join("db")).expect("creates");
    for (name, owner, mode) in [
        ("db/wal", (DATABASE, 0), 0o640),
        ("db/lock", (0, DATABASE), 0o1600),
        ("su", (0, 0), 0o4755),
        ("sg", (DATABASE, DATABASE), 0o2711),
    ] {
        fs::write(data.join(name), name).expect("writes");
        entry(&data.join(name), owner, mode);
    }
    fs::hard_link(data.join("db/wal"), data.join("db/wal.again")).expect("links");
    symlink("wal", data.join("db/wal.link")).expect("links");
    entry(&data.join("db/wal.link"), (DATABASE, DATABASE), 0);
    entry(&data.join("db"), (DATABASE, DATABASE), 0o2770);
}

/// What a consumer holds of it that keeps owners.
fn expected(set_id: SetId) -> BTreeMap<String, (u32, u32, u32)> {
    let bits = |bits: u32| if set_id == SetId::Keep { bits } else { 0 };
    let (user, group) = HERE;
    [
        ("", 0o755, user, group),
        ("always", 0o644, user, group),
        ("db", 0o2770, DATABASE, DATABASE),
        ("db/lock", 0o1600, user, DATABASE),
        ("db/wal", 0o640, DATABASE, group),
        ("db/wal.again", 0o640, DATABASE, group),
        ("db/wal.link", 0o777, DATABASE, DATABASE),
        ("sg", 0o711 | bits(0o2000), DATABASE, DATABASE),
        ("state", 0o644, user, group),
        ("su", 0o755 | bits(0o4000), user, group),
        ("sub", 0o755, user, group),
        ("sub/one", 0o644, user, group),
    ]
    .map(|(name, mode, user, group)| (name.to_owned(), (mode, user, group)))
    .into()
}

/// The same where everything belongs to the owner of the volume.
fn flat() -> BTreeMap<String, (u32, u32, u32)> {
    let (user, group) = HERE;
    let all = expected(SetId::Clear).into_iter();
    all.map(|(name, (mode, _, _))| (name, (mode, user, group))).collect()
}

fn consume(scene: &Scene, policy: OwnershipPolicy) -> Running {
    chown(scene.consumer.data("data"), Some(HERE.0), Some(HERE.1)).expect("this test runs as root");
    let spec = consumer_spec(policy);
    start_with(&scene.consumer, &VOLUMES, &scene.store_path(), spec)
}

fn consumer_spec(ownership: OwnershipPolicy) -> SyncSpec {
    SyncSpec { ownership, on_unready: OnUnready::Keep, ..spec(SyncRole::Consumer) }
}

async fn head(scene: &Scene) -> SyncRecord {
    let key = "models".parse().expect("a key");
    let head = scene.store().head(&key).await.expect("reads").expect("a head");
    serde_json::from_slice(&head.bytes).expect("a record")
}

async fn altered(running: &Running, cid: Cid) -> Option<AlteredEntries> {
    let status = running
        .status("the apply", |status| {
            status.stage == "idle" && status.last_apply.as_ref().is_some_and(|last| last.cid == cid)
        })
        .await;
    status.last_apply.expect("waited for").altered
}

/// The volumes hold what they should, by their marks and by a comparison.
async fn holds(scene: &Scene, policy: OwnershipPolicy, cid: Cid) {
    let reader = || reader(&scene.consumer, &scene.store_path(), consumer_spec(policy));
    let layout = || scene.consumer.layout(&VOLUMES);
    let (damaged, sum) = verify_by(reader(), Held::Content(layout())).await.expect("is read");
    assert_eq!((damaged.len(), sum.rehashed), (0, 2), "{damaged:?}");
    let lines = diff_by(reader(), cid, Against::Live(layout())).await;
    assert_eq!(short(&lines).0, Vec::<String>::new());
}

#[tokio::test]
async fn b11_two_owners_and_set_id_bits_come_out_as_they_went_in_on_real_file_systems() {
    for (format, clones) in [(ArchiveFormat::Tree, false), (ArchiveFormat::TarGz, true)] {
        let mut scene = Scene::new();
        let mount = scene.consumer.root.join("volumes/data");
        let disk = if clones { Disk::cloning(&mount) } else { Disk::new(&mount, 64 << 20) };
        scene.consumer = Place::new(&scene.consumer.root, &VOLUMES);
        fill_for_two(&scene.provider);
        let providing = provide_as(&scene.provider, &scene.store_path(), format);
        let policy = OwnershipPolicy { owners: Owners::Keep, set_id: SetId::Keep };
        let consuming = consume(&scene, policy);
        let first = publish(&providing).await.expect("publishes");
        assert_eq!(head(&scene).await.manifest.schema_version, 4);
        assert_eq!(altered(&consuming, first).await, None, "nothing is otherwise");
        assert_eq!(held(&scene.consumer), expected(SetId::Keep), "{format:?}");
        holds(&scene, policy, first).await;

        // What did not change is shared with the state before, whoever it belongs to.
        let inode =
            |name| fs::metadata(scene.consumer.data("data").join(name)).expect("is there").ino();
        let shared = [inode("sg"), inode("db/lock")];
        fs::write(scene.provider.data("data").join("state"), "two").expect("writes");
        let second = publish(&providing).await.expect("publishes");
        assert_eq!(altered(&consuming, second).await, None);
        assert_eq!(held(&scene.consumer), expected(SetId::Keep), "{format:?}");
        assert_eq!([inode("sg"), inode("db/lock")] == shared, !clones, "{format:?}");
        holds(&scene, policy, second).await;
        let events = consuming.window.events();
        consuming.looked().await;
        consuming.stop().await;
        let consuming = consume(&scene, policy);
        consuming.looked().await;
        assert_eq!((events.len(), consuming.window.events().len()), (4, 0), "it is applied");
        consuming.stop().await;
        providing.stop().await;
        let Scene { temp, .. } = scene;
        drop(disk);
        temp.close().expect("removes");
    }
}

#[tokio::test]
async fn content_is_one_whatever_form_it_has_and_whoever_the_volume_belongs_to() {
    let scene = Scene::new();
    fill_for_two(&scene.provider);
    let mut cids = Vec::new();
    for format in FORMATS {
        let providing = provide_as(&scene.provider, &scene.store_path(), format);
        cids.push(publish(&providing).await.expect("publishes"));
        providing.stop().await;
    }
    assert_eq!(cids[0], cids[1]);
    // Elsewhere the same state belongs to another, and two of its files to the same as here.
    let other = Place::new(&scene.temp.path().join("other"), &VOLUMES);
    fill_for_two(&other);
    for (name, (_, user, group)) in held(&other) {
        let path = other.data("data").join(name);
        let mode = fs::symlink_metadata(&path).expect("is there").permissions().mode() & 0o7777;
        let owner =
            [(user, HERE.0), (group, HERE.1)].map(|(id, here)| if id == 0 { here } else { id });
        entry(&path, (owner[0], owner[1]), mode);
    }
    let providing = provide_as(&other, &scene.temp.path().join("another"), ArchiveFormat::Tree);
    assert_eq!(publish(&providing).await.expect("publishes"), cids[0]);
    providing.stop().await;
}

#[tokio::test]
async fn a_tree_of_one_owner_is_what_it_was_before_there_were_others() {
    for (format, schema) in [(ArchiveFormat::Tree, 3), (ArchiveFormat::TarGz, 1)] {
        let scene = Scene::new();
        fill(&scene.provider, "one");
        let providing = provide_as(&scene.provider, &scene.store_path(), format);
        let one = publish(&providing).await.expect("publishes");
        assert_eq!(head(&scene).await.manifest.schema_version, schema);
        // A change of owner alone is a change, of one entry.
        let state = scene.provider.data("data").join("state");
        chown(&state, Some(DATABASE), None).expect("this test runs as root");
        let two = publish(&providing).await.expect("publishes");
        assert_ne!(one, two);
        assert_eq!(head(&scene).await.manifest.schema_version, 4);
        let reader = || reader(&scene.provider, &scene.store_path(), spec(SyncRole::Provider));
        let live = || Against::Live(scene.provider.layout(&VOLUMES));
        for (from, against) in [(one, Against::Generation(None)), (one, live())] {
            let lines = diff_by(reader(), from, against).await;
            assert_eq!(short(&lines).0, ["~/app/data/state owner"]);
        }
        chown(&state, Some(0), None).expect("this test runs as root");
        assert_eq!(publish(&providing).await.expect("publishes"), one);
        assert_eq!(head(&scene).await.manifest.schema_version, schema);
        providing.stop().await;
    }
}

#[tokio::test]
async fn who_owns_a_volume_tells_who_owns_files_that_nobody_touched() {
    let scene = Scene::new();
    fill(&scene.provider, "one");
    let state = scene.provider.data("data").join("state");
    chown(&state, Some(HERE.0), None).expect("this test runs as root");
    let providing = scene.provide();
    let publish_by = async |owner: u32| {
        chown(scene.provider.data("data"), Some(owner), None).expect("this test runs as root");
        let cid = publish(&providing).await.expect("publishes");
        let reader = reader(&scene.provider, &scene.store_path(), spec(SyncRole::Provider));
        let live = Against::Live(scene.provider.layout(&VOLUMES));
        let lines = diff_by(reader, cid, live).await;
        assert_eq!(
            short(&lines).0,
            Vec::<String>::new(),
            "what is remembered of files is no owner"
        );
        cid
    };
    let [first, second, third] =
        [publish_by(0).await, publish_by(HERE.0).await, publish_by(0).await];
    assert_ne!(first, second);
    assert_eq!(first, third);
    providing.stop().await;
}

#[tokio::test]
async fn a_policy_alters_what_is_applied_and_says_so_and_another_one_applies_it_anew() {
    let scene = Scene::new();
    fill_for_two(&scene.provider);
    let providing = scene.provide();
    let cid = publish(&providing).await.expect("publishes");
    let flatten = OwnershipPolicy { owners: Owners::Volume, set_id: SetId::Clear };
    let keep = OwnershipPolicy { owners: Owners::Keep, set_id: SetId::Keep };
    for (policy, tree, counts) in [
        (OwnershipPolicy::default(), expected(SetId::Clear), Some((0, 2))),
        (flatten, flat(), Some((5, 2))),
        (keep, expected(SetId::Keep), None),
        (flatten, flat(), Some((5, 2))),
    ] {
        let consuming = consume(&scene, policy);
        let counts = counts.map(|(owners, set_id)| AlteredEntries { owners, set_id });
        assert_eq!(altered(&consuming, cid).await, counts, "{policy:?}");
        assert_eq!(held(&scene.consumer), tree, "{policy:?}");
        let last = scene.consumer.json("last_apply.json").expect("the notice");
        let told = counts.map(|told| json!({"owners": told.owners, "set_id": told.set_id}));
        assert_eq!(last.get("altered"), told.as_ref(), "{policy:?}");
        assert_eq!(consuming.window.events(), ["stop for apply", "start applied"]);
        eventually("the end of the bookkeeping", || {
            (!scene.consumer.state().join("sync/apply.json").exists()).then_some(())
        })
        .await;
        holds(&scene, policy, cid).await;
        consuming.stop().await;
        // What was applied under this policy is applied.
        let consuming = consume(&scene, policy);
        consuming.looked().await;
        assert_eq!(consuming.window.events(), Vec::<String>::new(), "{policy:?}");
        consuming.stop().await;
    }
    providing.stop().await;
}

#[tokio::test]
async fn what_is_remembered_of_files_hides_no_other_owner_and_no_other_mode() {
    for format in FORMATS {
        let scene = Scene::new();
        fill_for_two(&scene.provider);
        let providing = provide_as(&scene.provider, &scene.store_path(), format);
        let policy = OwnershipPolicy { owners: Owners::Keep, set_id: SetId::Keep };
        let consuming = consume(&scene, policy);
        let data = scene.consumer.data("data");
        for round in 0..3_u8 {
            fs::write(scene.provider.data("data").join("state"), [round]).expect("writes");
            let cid = publish(&providing).await.expect("publishes");
            altered(&consuming, cid).await;
            assert_eq!(held(&scene.consumer), expected(SetId::Keep), "{format:?} {round}");
            holds(&scene, policy, cid).await;
            // Neither touches the content, nor its size or time.
            lchown(data.join("db/lock"), Some(1), Some(1)).expect("this test runs as root");
            lchown(data.join("always"), None, Some(DATABASE)).expect("this test runs as root");
            fs::set_permissions(data.join("sg"), fs::Permissions::from_mode(0o700)).expect("modes");
        }
        consuming.stop().await;
        providing.stop().await;
    }
}

#[tokio::test]
async fn what_an_app_changes_is_told_and_what_a_policy_did_is_not() {
    let scene = Scene::new();
    fill_for_two(&scene.provider);
    let providing = scene.provide();
    let policy = OwnershipPolicy { owners: Owners::Volume, set_id: SetId::Clear };
    let consuming = consume(&scene, policy);
    let cid = publish(&providing).await.expect("publishes");
    applied(&consuming, cid).await;
    let data = scene.consumer.data("data");
    chown(data.join("db/lock"), Some(DATABASE), None).expect("this test runs as root");
    let reader = || reader(&scene.consumer, &scene.store_path(), consumer_spec(policy));
    let layout = || scene.consumer.layout(&VOLUMES);
    let lines = diff_by(reader(), cid, Against::Live(layout())).await;
    assert_eq!(short(&lines).0, ["~/app/data/db/lock owner"]);
    let (damaged, _) = verify_by(reader(), Held::Content(layout())).await.expect("is read");
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    consuming.stop().await;
    providing.stop().await;
}

#[tokio::test]
async fn an_archive_carries_owners_out_and_in() {
    for format in FORMATS {
        let scene = Scene::new();
        fill_for_two(&scene.provider);
        // The owner of the volume is one, and root another.
        let data = scene.provider.data("data");
        chown(&data, Some(HERE.0), Some(HERE.1)).expect("this test runs as root");
        let providing = provide_as(&scene.provider, &scene.store_path(), format);
        let cid = publish(&providing).await.expect("publishes");
        let (archive, ended) = export(&scene, None).await;
        ended.expect("is whole");
        let mut told = BTreeMap::new();
        let mut members = tar::Archive::new(flate2::read::GzDecoder::new(&archive[..]));
        for member in members.entries().expect("an archive") {
            let member = member.expect("a member");
            let header = member.header();
            let ids = (header.uid().expect("a number"), header.gid().expect("a number"));
            told.insert(member.path().expect("a path").display().to_string(), ids);
        }
        let database = u64::from(DATABASE);
        assert_eq!(told["app/data/db/wal"], (database, 0), "any tar reads it");
        assert_eq!(told["app/data/db/wal.link"], (database, database));

        let outcome = import(&providing, &archive).await.expect("imports");
        assert_eq!((outcome.cid, outcome.unchanged), (cid, true), "{format:?}");
        scene.publish(&providing, "two").await;
        let outcome = import(&providing, &archive).await.expect("imports");
        assert_eq!((outcome.cid, outcome.unchanged), (cid, false), "{format:?}");
        assert_eq!(export(&scene, None).await.0, archive, "{format:?}");
        providing.stop().await;
    }
}

#[tokio::test]
async fn the_ids_in_an_archive_of_another_program_are_of_another_host() {
    let scene = Scene::new();
    fill(&scene.provider, "one");
    let providing = scene.provide();
    publish(&providing).await.expect("publishes");
    let mut archive =
        tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let mut header = tar::Header::new_ustar();
    header.set_size(1);
    header.set_mode(0o6711);
    header.set_uid(1000);
    header.set_gid(1000);
    archive.append_data(&mut header, "app/data/file", &b"x"[..]).expect("memory");
    let archive = archive.into_inner().and_then(flate2::write::GzEncoder::finish).expect("memory");
    import(&providing, &archive).await.expect("imports");
    let policy = OwnershipPolicy { owners: Owners::Keep, set_id: SetId::Keep };
    let consuming = consume(&scene, policy);
    let cid = head(&scene).await.cid;
    assert_eq!(altered(&consuming, cid).await, None);
    assert_eq!(held(&scene.consumer)["file"], (0o6711, HERE.0, HERE.1));
    consuming.stop().await;
    providing.stop().await;
}

#[tokio::test]
async fn the_root_of_a_volume_keeps_its_owner_where_volumes_are_divided_otherwise() {
    let scene = Scene::new();
    let one = [("app", "/app")];
    fill(&scene.provider, "one");
    let inner = scene.provider.data("app").join("data");
    fs::write(inner.join("wal"), "x").expect("writes");
    for path in [inner.join("wal"), inner] {
        chown(&path, Some(DATABASE), Some(DATABASE)).expect("this test runs as root");
    }
    let providing =
        start_with(&scene.provider, &one, &scene.store_path(), spec(SyncRole::Provider));
    let cid = publish(&providing).await.expect("publishes");
    let consuming = consume(&scene, OwnershipPolicy::default());
    assert_eq!(altered(&consuming, cid).await, Some(AlteredEntries { owners: 1, set_id: 0 }));
    let found = held(&scene.consumer);
    assert_eq!((found[""].1, found[""].2), HERE);
    assert_eq!((found["wal"].1, found["wal"].2), (DATABASE, DATABASE));
    holds(&scene, OwnershipPolicy::default(), cid).await;
    consuming.stop().await;
    providing.stop().await;
}
