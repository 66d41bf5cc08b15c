//! Archives of others, published in the place of what the volumes hold.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use belay_protocol::control::Stage;
use belay_protocol::record::{ArchiveFormat, Capture};
use belay_protocol::{ProblemCode, PublishOutcome, SyncUpload};
use belay_store::RecordStore;
use belay_sync::PublishError;
use belay_sync::failpoint::Point;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::FutureExt;
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;

use crate::commands::{Scene, applied, publish};
use crate::disk::{Disk, End};
use crate::exports::{export, fill_with_everything};
use crate::kill::killed_as;
use crate::scene::{FORMATS, Place, Running, VOLUMES, fill, provide_as, tree, trees};
use crate::stored::head;

/// Hands an archive over in pieces, as the node does.
pub(crate) async fn import(
    running: &Running,
    archive: &[u8],
) -> Result<PublishOutcome, PublishError> {
    let (pieces, taken) = mpsc::channel(2);
    let sent = async {
        for piece in archive.chunks(10_000) {
            if pieces.send(SyncUpload::Bytes(piece.to_vec())).await.is_err() {
                return;
            }
        }
        let _ = pieces.send(SyncUpload::End).await;
    };
    tokio::join!(sent, running.handle.import(taken)).1
}

fn spooled(place: &Place) -> usize {
    fs::read_dir(place.state().join("sync/spool")).expect("lists").count()
}

#[tokio::test]
async fn an_exported_generation_comes_back_as_the_content_that_it_was() {
    for format in FORMATS {
        let scene = Scene::new();
        fill_with_everything(&scene);
        let providing = provide_as(&scene.provider, &scene.store_path(), format);
        let first = publish(&providing).await.expect("publishes");
        let (archive, ended) = export(&scene, None).await;
        ended.expect("is whole");
        let outcome = import(&providing, &archive).await.expect("imports");
        assert_eq!((outcome.cid, outcome.seq, outcome.unchanged), (first, 1, true));

        let later = scene.publish(&providing, "two").await;
        let held = trees(&scene.provider);
        let events = providing.window.events();
        let outcome = import(&providing, &archive).await.expect("imports");
        assert_eq!((outcome.cid, outcome.seq, outcome.unchanged), (first, 3, false));
        assert_eq!(providing.window.events(), events, "the container is left alone");
        assert_eq!(trees(&scene.provider), held, "and so are its volumes");
        assert_eq!(spooled(&scene.provider), 0);
        let record = head(&scene.store_path()).await;
        assert_eq!((record.capture, record.schema), (Capture::Imported, 3));
        assert_eq!(record.parent_cid, Some(later));
        assert_eq!(record.manifest.archive_format, format);
        assert_eq!(export(&scene, None).await.0, archive, "times included");

        let consuming = scene.consume();
        applied(&consuming, first).await;
        let noise = fs::read(scene.consumer.data("data").join("noise")).expect("reads");
        assert_eq!(noise.len(), 24 * 1024 * 1024);
        consuming.stop().await;

        // The volumes still hold what they held, and the next publish says so.
        assert_eq!(publish(&providing).await.expect("publishes"), later);
        assert_eq!(head(&scene.store_path()).await.capture, Capture::Stopped);
        providing.stop().await;
    }
}

/// One tree of what the two volumes hold, as the container sees them.
fn seen_by_the_container(place: &Place, root: &Path) {
    let copy = |from: &Path, to: &Path| {
        let copied = Command::new("/bin/cp").args(["-a", "-T"]).args([from, to]).status();
        assert!(copied.expect("cp runs").success());
    };
    copy(&place.data("app"), &root.join("app"));
    copy(&place.data("data"), &root.join("app/data"));
}

fn tar(directory: &Path, arguments: &[&str]) -> Vec<u8> {
    let made = Command::new("tar").current_dir(directory).args(arguments).output();
    let made = made.expect("tar runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

#[tokio::test]
async fn what_gnu_tar_makes_of_container_paths_is_what_a_publish_of_them_is() {
    let scene = Scene::new();
    fill_with_everything(&scene);
    let data = scene.provider.data("data");
    let long = data.join("x".repeat(200)).join("y".repeat(120));
    fs::write(&long, "deep").expect("writes");
    symlink("z".repeat(150), data.join("far")).expect("links");
    fs::hard_link(&long, data.join("x".repeat(200)).join("w".repeat(110))).expect("links");
    let old = fs::File::open(data.join("state")).expect("opens");
    let before = rustix::fs::Timespec { tv_sec: -86_400, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: before, last_modification: before };
    rustix::fs::futimens(&old, &times).expect("dates");
    fs::set_permissions(&long, fs::Permissions::from_mode(0o4711)).expect("modes");
    let providing = scene.provide();
    let cid = publish(&providing).await.expect("publishes");

    let root = scene.temp.path().join("root");
    fs::create_dir(&root).expect("creates");
    seen_by_the_container(&scene.provider, &root);
    let attributes = ["--xattrs", "--xattrs-include=user.*"];
    let absolute = ["-P", "--transform=s,^app,/app,S"];
    let whole = |form: &str, more: &[&str]| {
        let arguments = [&["-cz", form][..], &attributes, more].concat();
        tar(&root, &arguments)
    };
    for (what, archive) in [
        ("pax", whole("--format=posix", &["app"])),
        ("pax with absolute names", whole("--format=posix", &[&absolute[..], &["app"]].concat())),
        ("pax of the root", whole("--format=posix", &["."])),
        ("in order", whole("--format=posix", &["--sort=name", "app"])),
    ] {
        let outcome = import(&providing, &archive).await.expect(what);
        assert!(outcome.unchanged, "{what}");
        assert_eq!(outcome.cid, cid, "{what}");
    }

    // GNU tar's own form has no attributes, and so neither has this tree.
    let a = fs::File::open(data.join("a")).expect("opens");
    rustix::fs::fremovexattr(&a, "user.k").expect("removes");
    let cid = publish(&providing).await.expect("publishes");
    for more in [&["app"][..], &["-P", "--transform=s,^app,/app,S", "app"]] {
        let archive = tar(&root, &[&["-cz", "--format=gnu"][..], more].concat());
        assert!(import(&providing, &archive).await.expect("imports").unchanged, "{more:?}");
    }
    assert_eq!(head(&scene.store_path()).await.cid, cid);

    // Two paths of it are what a publish of both is, and a volume of which the archive says nothing
    // is none of it.
    let archive = tar(&root, &["-cz", "app/data/sub", "app/state"]);
    import(&providing, &archive).await.expect("imports");
    let record = head(&scene.store_path()).await;
    assert_eq!(record.manifest.archive_paths, ["/app/data/sub", "/app/state"]);
    let archive = tar(&root, &["-cz", "--exclude=app/data", "app"]);
    import(&providing, &archive).await.expect("imports");
    let consuming = scene.consume();
    let kept = tree(&scene.consumer.data("data"));
    applied(&consuming, head(&scene.store_path()).await.cid).await;
    assert_eq!(tree(&scene.consumer.data("data")), kept, "the inner volume is left alone");
    assert!(scene.consumer.data("app").join("state").exists());
    consuming.stop().await;
    providing.stop().await;
}

/// An entry of an archive, with a name that no builder would write.
struct Entry {
    name: &'static [u8],
    kind: EntryType,
    link: &'static str,
    size: u64,
    content: &'static [u8],
}

const DIRECTORY: EntryType = EntryType::Directory;
const SYMLINK: EntryType = EntryType::Symlink;
const HARD_LINK: EntryType = EntryType::Link;

fn entry(name: &'static [u8], kind: EntryType, link: &'static str) -> Entry {
    Entry { name, kind, link, size: 0, content: b"" }
}

fn file(name: &'static [u8]) -> Entry {
    Entry { name, kind: EntryType::Regular, link: "", size: 4, content: b"evil" }
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for entry in entries {
        let mut header = Header::new_gnu();
        let bytes = header.as_mut_bytes();
        bytes[..entry.name.len()].copy_from_slice(entry.name);
        bytes[157..157 + entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_size(entry.size);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_cksum();
        builder.append(&header, entry.content).expect("appends");
    }
    builder.into_inner().expect("ends").finish().expect("compresses")
}

/// What an archive says that is no archive.
fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("compresses");
    encoder.finish().expect("compresses")
}

fn hostile() -> Vec<(Vec<u8>, &'static str)> {
    let of = |entries: &[Entry]| archive(entries);
    let whole = of(&[file(b"app/x")]);
    let huge = Entry { size: 1 << 32, ..file(b"app/x") };
    let label = Entry { size: 10_000_000, ..entry(b"global", EntryType::XGlobalHeader, "") };
    let long = Entry { size: 4, content: b"a\0b\0", ..entry(b"long", EntryType::GNULongLink, "") };
    let pax = |size, content| Entry { size, content, ..entry(b"pax", EntryType::XHeader, "") };
    let unnamed = pax(24, b"24 SCHILY.xattr.user.=x\n");
    let value: &'static [u8] =
        [b"70030 SCHILY.xattr.user.large=", &vec![b'x'; 69_999][..], b"\n"].concat().leak();
    let large = pax(70_030, value);
    let mut many = Vec::new();
    for name in 0..65_u8 {
        let name: &'static [u8] = format!("app/{name}").leak().as_bytes();
        many.push(file(name));
    }
    vec![
        (of(&[file(b"app/../../etc/passwd")]), "contains \"..\""),
        (of(&[file(b"../app/x")]), "contains \"..\""),
        (of(&[file(b"/etc/passwd")]), "/etc/passwd is not in a volume"),
        (of(&[file(b"belay/volume-sync/request.json")]), "is in the control volume"),
        (of(&[file(b"app")]), "is a mount point here and no directory"),
        (of(&[file(b"app/x"), file(b"/app/x")]), "is named twice"),
        (of(&[entry(b"app/", DIRECTORY, ""), entry(b"./app", DIRECTORY, "")]), "is named twice"),
        (of(&[entry(b"app/d", SYMLINK, "/etc"), file(b"app/d/x")]), "below what is no directory"),
        (of(&[file(b"app/f"), file(b"app/f/x")]), "below what is no directory"),
        (of(&[entry(b"app/h", HARD_LINK, "/etc/shadow")]), "/etc/shadow is not in a volume"),
        (of(&[entry(b"app/h", HARD_LINK, "app/none")]), "links to what is no file before it"),
        (
            of(&[entry(b"app/s", SYMLINK, "/etc/shadow"), entry(b"app/h", HARD_LINK, "app/s")]),
            "links to what is no file before it",
        ),
        (of(&[entry(b"app/l", SYMLINK, "")]), "a link with a target that no link has"),
        (of(&[long, entry(b"app/l", SYMLINK, "")]), "a link with a target that no link has"),
        (of(&[unnamed, file(b"app/x")]), "has extended attributes that no tree holds"),
        (of(&[large, file(b"app/x")]), "has extended attributes that no tree holds"),
        (of(&[entry(b"app/s", EntryType::GNUSparse, "")]), "tar --sparse"),
        (of(&[entry(b"app/fifo", EntryType::Fifo, "")]), "nothing in the archive lies in"),
        (of(&[]), "nothing in the archive lies in"),
        (of(&many), "more than 64 of its paths"),
        (of(&[huge]), "hold more than the volume does"),
        (of(&[label]), "an extension header of 10000000 bytes is larger"),
        (whole[..whole.len() / 2].to_vec(), "is damaged: the archive ends within a member"),
        ([&whole[..whole.len() - 8], &[0; 8]].concat(), "could not be read or decompressed"),
        (gzipped(b"no tar at all"), "ends within a member"),
        (gzipped(&[b'x'; 10_240]), "header's checksum"),
        (b"plain".to_vec(), "is not compressed with gzip"),
        (Vec::new(), "is not compressed with gzip"),
    ]
}

#[tokio::test]
async fn an_archive_that_leads_elsewhere_or_holds_too_much_is_refused_by_name() {
    let scene = Scene::new();
    let providing = scene.provide();
    scene.publish(&providing, "one").await;
    let (held, events) = (trees(&scene.provider), providing.window.events());
    for (archive, words) in hostile() {
        let refused = import(&providing, &archive).await.expect_err(words);
        let PublishError::Failed { stage, code, reason } = refused else { panic!("{refused:?}") };
        assert_eq!((stage, code), (Stage::Validation, Some(ProblemCode::ImportRefused)), "{words}");
        assert!(reason.contains(words), "{words}: {reason}");
        assert_eq!(spooled(&scene.provider), 0, "{words}: nothing is left");
    }
    assert_eq!(trees(&scene.provider), held);
    assert_eq!(providing.window.events(), events);
    assert_eq!(head(&scene.store_path()).await.seq, 1);
    let status = providing.status("the failure", |status| status.last_failure.is_some()).await;
    assert_eq!(status.stage, "idle");
    assert!(!scene.provider.state().join("sync/publish.json").exists());

    // What does not travel is left out and counted; directories need not be named.
    let mixed = [
        entry(b"app/fifo", EntryType::Fifo, ""),
        entry(b"app/b/c/", DIRECTORY, ""),
        file(b"app/b/c/d"),
    ];
    import(&providing, &archive(&mixed)).await.expect("imports");
    let record = head(&scene.store_path()).await;
    assert_eq!((record.manifest.skipped_special, record.manifest.members), (1, 2));
    assert_eq!(record.manifest.archive_paths, ["/app/b/c"]);
    providing.stop().await;
}

#[tokio::test]
async fn an_archive_that_does_not_come_to_its_end_is_none() {
    let scene = Scene::new();
    let providing = scene.provide();
    let (pieces, taken) = mpsc::channel(2);
    pieces.send(SyncUpload::Bytes(archive(&[file(b"app/x")]))).await.expect("room");
    let handle = providing.handle.clone();
    let mut importing = Box::pin(handle.import(taken));
    assert_eq!((&mut importing).now_or_never(), None, "it waits for the rest");
    let (_others, other) = mpsc::channel(1);
    assert_eq!(providing.handle.import(other).await, Err(PublishError::Importing));
    drop(pieces);
    let refused = importing.await.expect_err("cut short");
    let PublishError::Failed { code, reason, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(code, Some(ProblemCode::ImportRefused));
    assert_eq!(reason, "the archive did not arrive whole");
    assert_eq!(spooled(&scene.provider), 0);
    providing.stop().await;
}

#[tokio::test]
async fn a_consumer_and_one_that_is_paused_import_nothing() {
    let scene = Scene::new();
    let archive = archive(&[file(b"app/x")]);
    let consuming = scene.consume();
    assert_eq!(import(&consuming, &archive).await, Err(PublishError::NotProvider));
    consuming.stop().await;
    let providing = scene.provide();
    providing.handle.pause().await.expect("pauses");
    assert_eq!(import(&providing, &archive).await, Err(PublishError::Paused));
    providing.handle.resume().await.expect("goes on");
    assert!(!import(&providing, &archive).await.expect("imports").unchanged);
    providing.stop().await;
}

/// Where a killed process finds the archive that it imports.
pub(crate) const ARCHIVE: &str = "import.tar.gz";

/// The points of an import, with the number of records to which it comes.
fn ends_of_imports() -> impl Iterator<Item = (Point, usize)> {
    let lost = Point::IMPORT_LOST.map(|point| (point, 0));
    lost.into_iter().chain(Point::IMPORT_KEPT.map(|point| (point, 1)))
}

#[tokio::test]
async fn an_import_killed_anywhere_is_published_once_or_not_at_all() {
    for (point, records) in ends_of_imports() {
        for format in FORMATS {
            an_import_ends(point, records, format, End::Kill).await;
        }
    }
}

#[tokio::test]
async fn an_import_that_loses_its_power_is_published_once_or_not_at_all() {
    for (point, records) in ends_of_imports() {
        for format in FORMATS {
            an_import_ends(point, records, format, End::PowerCut).await;
        }
    }
}

async fn an_import_ends(point: Point, records: usize, format: ArchiveFormat, end: End) {
    let scene = Scene::new();
    let disks = end.disks(&[&scene.provider.root, &scene.store_path()]);
    Place::new(&scene.provider.root, &VOLUMES);
    fill(&scene.provider, "one");
    let wanted = archive(&[entry(b"app/", DIRECTORY, ""), file(b"app/data/x")]);
    fs::write(scene.temp.path().join(ARCHIVE), wanted).expect("writes");
    disks.iter().for_each(Disk::sync);
    killed_as(format, "import", point, scene.temp.path());
    Disk::cut(&disks);
    let running = provide_as(&scene.provider, &scene.store_path(), format);
    running.status("rest", |status| status.stage == "idle").await;
    running.looked().await;
    let what = format!("{point:?} {format:?} {end:?}");
    let key = "models".parse().expect("a key");
    let history = scene.store().history(&key, 10).await.expect("reads");
    assert_eq!(history.len(), records, "{what}");
    assert_eq!(spooled(&scene.provider), 0, "{what}");
    assert!(!scene.provider.state().join("sync/publish.json").exists(), "{what}");
    let sent = fs::read_dir(scene.provider.state().join("sync_history/sent"));
    assert_eq!(sent.map_or(0, Iterator::count), records, "{what}");
    assert_eq!(running.window.events(), Vec::<String>::new(), "{what}");
    if records == 1 {
        let record = head(&scene.store_path()).await;
        assert_eq!(record.capture, Capture::Imported, "{what}");
        let consuming = scene.consume();
        applied(&consuming, record.cid).await;
        let came = fs::read(scene.consumer.data("data").join("x")).expect("reads");
        assert_eq!(came, b"evil", "{what}");
        consuming.stop().await;
    }
    running.stop().await;
}

#[tokio::test]
async fn what_was_unpacked_and_is_damaged_in_the_spool_is_not_published() {
    let scene = Scene::new();
    let wanted = archive(&[file(b"app/x")]);
    fs::write(scene.temp.path().join(ARCHIVE), wanted).expect("writes");
    killed_as(ArchiveFormat::TarGz, "import", Point::ClaimJournalled, scene.temp.path());
    let spool = scene.provider.state().join("sync/spool");
    let captured = fs::read_dir(spool).expect("lists").next().expect("one").expect("reads").path();
    fs::write(captured, b"damaged").expect("damages");
    let running = provide_as(&scene.provider, &scene.store_path(), ArchiveFormat::TarGz);
    let status = running.status("the failure", |status| status.last_failure.is_some()).await;
    let failure = status.last_failure.expect("there is one").error;
    assert!(failure.contains("import it again"), "{failure}");
    running.looked().await;
    assert_eq!(spooled(&scene.provider), 0);
    assert_eq!(running.window.events(), Vec::<String>::new(), "nothing is captured for it");
    running.stop().await;
}
