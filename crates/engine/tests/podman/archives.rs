//! Images from files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use belay_engine::{ContainerState, EngineKind, LoadError, Network};

use crate::world::{World, command_line, gzip, root_tar};

fn write(world: &World, name: &str, bytes: &[u8]) -> PathBuf {
    let path = world.dir.path().join(name);
    std::fs::write(&path, bytes).expect("written");
    path
}

async fn runs(world: &World, part: &str, image: &str) {
    let mut spec = world.spec(part, &["/bin/cat", "/etc/mark"]);
    image.clone_into(&mut spec.image);
    spec.network = Network::None;
    let id = world.run(&spec).await;
    let end = world.engine.wait(&id, Duration::from_secs(20)).await.expect("it ends");
    assert!(matches!(end, ContainerState::Exited { exit_code: 0, .. }), "{end:?}");
}

/// Writes images to a file with the engine's own command. Docker knows one format and no choice.
fn save(world: &World, choice: &[&str], path: &Path, tags: &[&str]) {
    let mut arguments = vec!["save", "--output", path.to_str().expect("UTF-8")];
    if world.engine.info().kind == EngineKind::Podman {
        arguments.push("--quiet");
        arguments.extend(choice);
    }
    arguments.extend(tags);
    command_line(&arguments);
}

/// Takes the tags of an image away at the end, also on a panic.
struct Untag(Vec<String>);

impl Drop for Untag {
    fn drop(&mut self) {
        for tag in &self.0 {
            command_line(&["rmi", "--force", tag]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_are_one_image() {
    let world = World::new().await;
    let bytes = root_tar(&world.named("same"));
    let path = write(&world, "My App.tar", &bytes);
    let first = world.engine.load(&path).await.expect("loaded");
    let _untag = Untag(first.tags.clone());
    let hex = blake3::hash(&bytes).to_hex();
    assert_eq!(first.tags, [format!("localhost/belay/my-app:{}", &hex[..16])]);
    let second = world.engine.load(&path).await.expect("loaded again");
    assert_eq!(first, second, "an import would have made another id");
    assert_eq!(world.engine.image(&first.tags[0]).await.expect("looked up"), Some(first.clone()));
    assert_eq!(world.engine.image(&first.id).await.expect("looked up"), Some(first.clone()));
    assert!(first.size > 0 && first.digests.len() <= 1);
    runs(&world, "same", &first.tags[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packed_root_file_system_loads_too() {
    let world = World::new().await;
    let path = write(&world, "packed.tgz", &gzip(&root_tar(&world.named("packed"))));
    let image = world.engine.load(&path).await.expect("loaded");
    let _untag = Untag(image.tags.clone());
    runs(&world, "packed", &image.id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn saved_images_of_every_kind_load_with_their_own_id() {
    let world = World::new().await;
    let tag = world.image.tags[0].clone();
    let formats = match world.engine.info().kind {
        EngineKind::Podman => &["docker-archive", "oci-archive"][..],
        EngineKind::Docker => &["docker-archive"],
    };
    for format in formats {
        for packed in [false, true] {
            let name = format!("{format}-{packed}.tar");
            let path = world.dir.path().join(&name);
            save(&world, &["--format", format], &path, &[&tag]);
            if packed {
                let bytes = std::fs::read(&path).expect("saved");
                std::fs::write(&path, gzip(&bytes)).expect("packed");
            }
            let image = world.engine.load(&path).await.unwrap_or_else(|e| panic!("{name}: {e:?}"));
            let own = format!("localhost/belay/{}", name.trim_end_matches(".tar"));
            let own = image.tags.iter().find(|tag| tag.starts_with(&own)).expect("our tag");
            let _untag = Untag(vec![own.clone()]);
            assert!(image.tags.contains(&tag), "its own tag came along: {:?}", image.tags);
            let again = world.engine.load(&path).await.expect("loaded again");
            assert_eq!(again.id, image.id, "{name}");
            runs(&world, &format!("{format}-{packed}"), &image.id).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_image_is_told_by_name() {
    let world = World::new().await;
    let tar = root_tar("cut");
    for (name, bytes, said) in [
        ("empty", &b""[..], "empty"),
        ("text", &b"just words\n"[..], "no tar file"),
        ("zip", &b"PK\x03\x04rest"[..], "zip"),
        ("zstd.tar", &b"\x28\xb5\x2f\xfdrest"[..], "zstd"),
        ("blocks.tar", &[0_u8; 1024][..], "empty tar"),
        ("cut.tar.gz", &gzip(&tar)[..100], "damaged"),
    ] {
        let path = write(&world, name, bytes);
        let error = world.engine.load(&path).await.expect_err(name);
        assert!(matches!(error, LoadError::NotAnImage { .. }), "{name}: {error:?}");
        assert!(error.to_string().contains(said), "{name}: {error}");
    }
    let error = world.engine.load(world.dir.path()).await.expect_err("a folder");
    assert!(matches!(error, LoadError::NotAnImage { .. }), "{error:?}");
    let error = world.engine.load(&world.dir.path().join("absent")).await.expect_err("absent");
    assert!(matches!(error, LoadError::Read { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_images_in_one_file_are_refused() {
    let world = World::new().await;
    let path = write(&world, "second.tar", &root_tar(&world.named("second")));
    let second = world.engine.load(&path).await.expect("loaded");
    let _untag = Untag(second.tags.clone());
    let both = world.dir.path().join("both.tar");
    let tags = [world.image.tags[0].as_str(), second.tags[0].as_str()];
    save(&world, &["--multi-image-archive"], &both, &tags);
    let error = world.engine.load(&both).await.expect_err("two images");
    assert!(
        matches!(&error, LoadError::SeveralImages { images, .. } if images.len() == 2),
        "{error:?}"
    );
}
