//! The volume with the control files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use belay_volumes::VolumeSpec;

use crate::scratch::Scratch;

fn shape(path: &Path) -> (u32, u32, u32, bool) {
    let found = fs::symlink_metadata(path).expect("it exists");
    (found.permissions().mode() & 0o7777, found.uid(), found.gid(), found.is_dir())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_system_volume_has_its_directories() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = VolumeSpec::system("web".parse().expect("a name"));
    let mounted = volumes.ensure(&wanted).await.expect("the system volume");
    assert_eq!(mounted.id.to_string(), "web/system");
    assert_eq!(shape(&mounted.data), (0o755, 0, 0, true));
    for name in ["volume-sync", "env-overrides", "reset"] {
        assert_eq!(shape(&mounted.data.join(name)), (0o1777, 0, 0, true), "{name}");
    }
    assert_eq!(shape(&mounted.private), (0o700, 0, 0, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_put_in_place_of_a_directory_is_replaced_and_not_followed() {
    let scratch = Scratch::new();
    let outside = scratch.directory.join("outside");
    fs::create_dir(&outside).expect("a directory of the host");
    fs::write(outside.join("file"), "untouched").expect("a file of the host");
    let before = shape(&outside);
    let volumes = scratch.open().await;
    let wanted = VolumeSpec::system("web".parse().expect("a name"));
    let mounted = volumes.ensure(&wanted).await.expect("the system volume");
    let place = |name: &str| mounted.data.join(name);
    fs::remove_dir(place("volume-sync")).expect("root in a container can");
    symlink(&outside, place("volume-sync")).expect("a link to the host");
    fs::remove_dir(place("reset")).expect("root in a container can");
    fs::write(place("reset"), "a file").expect("a file");
    fs::set_permissions(&mounted.data, PermissionsExt::from_mode(0o777)).expect("chmod");
    std::os::unix::fs::chown(place("env-overrides"), Some(5), Some(5)).expect("chown");

    volumes.ensure(&wanted).await.expect("it is put right");
    for name in ["volume-sync", "env-overrides", "reset"] {
        assert_eq!(shape(&place(name)), (0o1777, 0, 0, true), "{name}");
    }
    assert_eq!(shape(&mounted.data), (0o755, 0, 0, true));
    assert_eq!(shape(&outside), before);
    assert_eq!(fs::read(outside.join("file")).expect("the file"), b"untouched");
}
