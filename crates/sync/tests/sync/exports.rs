//! Stored generations written out as archives, and held against each other.

use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use belay_protocol::record::ArchiveFormat;
use belay_protocol::{
    Cid, DifferingPart, SyncDifference, SyncDifferences, SyncLine, SyncPiece, SyncRole,
};
use belay_store::{BlobStore, LocalStore};
use belay_sync::{Against, AskError, Export, SyncReader};
use flate2::read::GzDecoder;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::commands::{Scene, prefix, publish, reader};
use crate::scene::{FORMATS, VOLUMES, fill, provide_as, spec};

/// What came out, and how it ended.
pub(crate) async fn export(scene: &Scene, cid: Option<Cid>) -> (Vec<u8>, Result<(), AskError>) {
    let reader = reader(&scene.provider, &scene.store_path(), spec(SyncRole::Provider));
    let export = match reader.export(cid.map(prefix).as_ref()).await {
        Ok(export) => export,
        Err(error) => return (Vec::new(), Err(error)),
    };
    taken(export).await
}

/// What comes out of an export, and how it ends.
pub(crate) async fn taken(export: Export<LocalStore>) -> (Vec<u8>, Result<(), AskError>) {
    let (pieces, mut taken) = mpsc::channel(2);
    let written = tokio::spawn(export.write(pieces));
    let mut archive = Vec::new();
    while let Some(piece) = taken.recv().await {
        let SyncPiece::Bytes(bytes) = piece else { panic!("{piece:?}") };
        archive.extend(bytes);
    }
    (archive, written.await.expect("no panic"))
}

/// Whether gzip and tar take it for whole, and what is in it then.
fn unpacked(archive: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut plain = Vec::new();
    GzDecoder::new(archive).read_to_end(&mut plain).ok()?;
    if plain.len() < 1024 || plain[plain.len() - 1024..].iter().any(|&byte| byte != 0) {
        return None;
    }
    let mut members = Vec::new();
    let mut archive = tar::Archive::new(Cursor::new(plain));
    for entry in archive.entries().ok()? {
        let mut entry = entry.ok()?;
        let path = entry.path().ok()?.display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).ok()?;
        members.push((path, content));
    }
    Some(members)
}

/// A state with one of everything that travels, larger than what is fetched at one time.
pub(crate) fn fill_with_everything(scene: &Scene) {
    fill(&scene.provider, "one");
    let data = scene.provider.data("data");
    fs::write(data.join("a"), b"linked").expect("writes");
    fs::hard_link(data.join("a"), data.join("b")).expect("links");
    symlink("a", data.join("c")).expect("links");
    fs::set_permissions(data.join("a"), fs::Permissions::from_mode(0o1640)).expect("modes");
    fs::create_dir(data.join("x".repeat(200))).expect("creates");
    let sparse = fs::File::create(data.join("sparse")).expect("creates");
    sparse.set_len(3 * 1024 * 1024).expect("sizes");
    let mut noise = vec![0; 24 * 1024 * 1024];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut noise);
    fs::write(data.join("noise"), noise).expect("writes");
    let file = fs::File::open(data.join("a")).expect("opens");
    rustix::fs::fsetxattr(&file, "user.k", b"v", rustix::fs::XattrFlags::empty()).expect("sets");
}

#[tokio::test]
async fn a_tree_is_written_out_as_the_archive_that_would_have_been_published_of_it() {
    let scene = Scene::new();
    fill_with_everything(&scene);
    let providing = scene.provide();
    let cid = publish(&providing).await.expect("publishes");
    let (tree, ended) = export(&scene, None).await;
    ended.expect("is whole");
    assert_eq!(export(&scene, Some(cid)).await.0, tree, "the same each time");
    providing.stop().await;

    let providing = provide_as(&scene.provider, &scene.store_path(), ArchiveFormat::TarGz);
    assert_eq!(publish(&providing).await.expect("publishes"), cid, "the same content");
    let (archive, ended) = export(&scene, None).await;
    ended.expect("is whole");
    assert!(tree == archive, "the same bytes, whatever the form");
    let members = unpacked(&tree).expect("tar reads it");
    let sparse = members.iter().find(|(path, _)| path == "app/data/sparse").expect("is there");
    assert_eq!(sparse.1.len(), 3 * 1024 * 1024);
    assert!(members.iter().any(|(path, content)| path == "app/state" && content == b"one"));
    providing.stop().await;
}

fn damage(path: &Path) {
    let mut bytes = fs::read(path).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("damages");
}

#[tokio::test]
async fn an_archive_that_cannot_be_finished_is_taken_for_whole_by_nobody() {
    for format in FORMATS {
        let scene = Scene::new();
        fill_with_everything(&scene);
        let providing = provide_as(&scene.provider, &scene.store_path(), format);
        publish(&providing).await.expect("publishes");
        providing.stop().await;
        let blobs = scene.store().list(None, 10).await.expect("lists");
        let largest = blobs.iter().max_by_key(|blob| blob.size).expect("some").id.to_string();
        damage(&scene.store_path().join("blobs").join(&largest[57..]).join(&largest));
        let (archive, ended) = export(&scene, None).await;
        let Err(AskError::Damaged { reason }) = ended else { panic!("{format:?}: {ended:?}") };
        assert!(reason.contains("a stored chunk is refused") || reason.contains("is not bafkr4i"));
        assert!(!archive.is_empty(), "{format:?}: it had begun");
        assert!(unpacked(&archive).is_none(), "{format:?}: its end is missing");
        let mut plain = Vec::new();
        GzDecoder::new(&archive[..]).read_to_end(&mut plain).expect_err("gzip says so too");
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_an_export() {
    let scene = Scene::new();
    fill_with_everything(&scene);
    let providing = scene.provide();
    publish(&providing).await.expect("publishes");
    let reader = reader(&scene.provider, &scene.store_path(), spec(SyncRole::Provider));
    let export = reader.export(None).await.expect("opens");
    let (pieces, mut taken) = mpsc::channel(1);
    let written = tokio::spawn(export.write(pieces));
    taken.recv().await.expect("the first piece");
    drop(taken);
    tokio::time::timeout(crate::scene::DEADLINE, written)
        .await
        .expect("ends in time")
        .expect("no panic")
        .expect("nobody is there to be told");
    let spool = fs::read_dir(scene.provider.state().join("sync/spool")).expect("lists").count();
    assert_eq!(spool, 0, "nothing is left");
    providing.stop().await;
}

async fn diff(scene: &Scene, from: Cid, to: Against) -> Vec<SyncLine> {
    let reader = reader(&scene.provider, &scene.store_path(), spec(SyncRole::Provider));
    diff_by(reader, from, to).await
}

/// What a reader tells of a generation and of what it is compared with.
pub(crate) async fn diff_by(
    reader: SyncReader<LocalStore>,
    from: Cid,
    to: Against,
) -> Vec<SyncLine> {
    let diff = reader.diff(Some(&prefix(from)), to).await.expect("opens");
    let (pieces, taken) = mpsc::channel(2);
    let written = tokio::spawn(diff.write(pieces));
    let pieces = futures_util::stream::unfold(taken, |mut taken| async move {
        let piece = taken.recv().await?;
        Some((piece, taken))
    });
    let lines = pieces.map(|piece| match piece {
        SyncPiece::Line(line) => line,
        other => panic!("{other:?}"),
    });
    let lines = lines.collect().await;
    written.await.expect("no panic").expect("is whole");
    lines
}

/// One letter, the path, and what of it differs.
pub(crate) fn short(lines: &[SyncLine]) -> (Vec<String>, SyncDifferences) {
    let mut told = Vec::new();
    for line in lines {
        match line {
            SyncLine::Difference(SyncDifference::Added { path, .. }) => {
                told.push(format!("+{path}"));
            }
            SyncLine::Difference(SyncDifference::Removed { path, .. }) => {
                told.push(format!("-{path}"));
            }
            SyncLine::Difference(SyncDifference::Changed { path, parts, .. }) => {
                let parts: Vec<&str> = parts
                    .iter()
                    .map(|part| match part {
                        DifferingPart::Kind => "kind",
                        DifferingPart::Content => "content",
                        DifferingPart::Target => "target",
                        DifferingPart::Mode => "mode",
                        DifferingPart::Owner => "owner",
                        DifferingPart::Attributes => "attributes",
                    })
                    .collect();
                told.push(format!("~{path} {}", parts.join(" ")));
            }
            SyncLine::Compared(sum) => return (told, *sum),
            other => panic!("{other:?}"),
        }
    }
    panic!("no end: {told:?}")
}

#[tokio::test]
async fn what_differs_between_two_generations_is_told_in_order_whatever_their_forms() {
    for [before, after] in [
        [ArchiveFormat::Tree, ArchiveFormat::Tree],
        [ArchiveFormat::TarGz, ArchiveFormat::Tree],
        [ArchiveFormat::Tree, ArchiveFormat::TarGz],
    ] {
        let scene = Scene::new();
        fill(&scene.provider, "one");
        let data = scene.provider.data("data");
        symlink("state", data.join("link")).expect("links");
        let providing = provide_as(&scene.provider, &scene.store_path(), before);
        let first = publish(&providing).await.expect("publishes");
        providing.stop().await;

        let app = scene.provider.data("app");
        fs::write(app.join("state"), "two").expect("writes");
        fs::set_permissions(app.join("sub"), fs::Permissions::from_mode(0o700)).expect("modes");
        fs::remove_file(app.join("sub/one")).expect("removes");
        fs::remove_file(data.join("link")).expect("removes");
        symlink("sub", data.join("link")).expect("links");
        fs::create_dir(data.join("new")).expect("creates");
        fs::write(data.join("new/file"), "x").expect("writes");
        let providing = provide_as(&scene.provider, &scene.store_path(), after);
        let second = publish(&providing).await.expect("publishes");

        let told = diff(&scene, first, Against::Generation(Some(prefix(second)))).await;
        let expected = [
            "~/app/data/link target",
            "+/app/data/new",
            "+/app/data/new/file",
            "~/app/state content",
            "~/app/sub mode",
            "-/app/sub/one",
        ];
        let (found, sum) = short(&told);
        assert_eq!(found, expected);
        assert_eq!(sum, SyncDifferences { added: 2, removed: 1, changed: 3, equal: 7 });
        let none = diff(&scene, second, Against::Generation(None)).await;
        assert_eq!(short(&none).0, Vec::<String>::new(), "the newest is the second");
        providing.stop().await;
    }
}

#[tokio::test]
async fn what_volumes_hold_now_is_held_against_what_was_published() {
    let scene = Scene::new();
    fill(&scene.provider, "one");
    let providing = scene.provide();
    let cid = publish(&providing).await.expect("publishes");
    let live = || Against::Live(scene.provider.layout(&VOLUMES));
    assert_eq!(short(&diff(&scene, cid, live()).await).0, Vec::<String>::new());
    let data = scene.provider.data("data");
    fs::write(data.join("state"), "eno").expect("writes");
    fs::remove_dir_all(data.join("sub")).expect("removes");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        data.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("makes a FIFO");
    let expected = ["~/app/data/state content", "-/app/data/sub", "-/app/data/sub/one"];
    assert_eq!(short(&diff(&scene, cid, live()).await).0, expected);
    providing.stop().await;
}
