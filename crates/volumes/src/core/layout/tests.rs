use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn id(text: &str) -> VolumeId {
    text.parse().expect(text)
}

fn layout() -> Layout {
    Layout::new(PathBuf::from("/var/lib/belay/volumes"))
}

fn faults(volumes: &[(&str, &str)]) -> Vec<MountPointFault> {
    let volumes: Vec<_> = volumes
        .iter()
        .map(|(name, path)| (name.parse().expect("a volume name"), (*path).to_owned()))
        .collect();
    check_mount_points(&volumes, Some("/belay"))
}

#[test]
fn a_volume_has_its_places() {
    let (layout, id) = (layout(), id("web/store"));
    let root = "/var/lib/belay/volumes";
    assert_eq!(layout.image(&id), Path::new(root).join("images/web/store/volume.img"));
    assert_eq!(layout.metadata(&id), Path::new(root).join("images/web/store/volume.json"));
    assert_eq!(layout.mount(&id), Path::new(root).join("mounts/web/store"));
}

#[test]
fn a_path_leads_back_to_its_volume() {
    let (layout, id) = (layout(), id("web/store"));
    for (path, place) in [
        (layout.image(&id), Place::Volume),
        (layout.volume(&id).join("generation-a.img"), Place::Generation),
        (Layout::image_in(&layout.building(&id)), Place::Building),
        (Layout::image_in(&layout.removing(&id)), Place::Removing),
    ] {
        assert_eq!(layout.volume_of(&path), Some((id.clone(), place)), "{}", path.display());
    }
    for foreign in [
        "/etc/passwd",
        "/var/lib/belay/volumes/images/web",
        "/var/lib/belay/volumes/images/Web/x/i",
    ] {
        assert_eq!(layout.volume_of(Path::new(foreign)), None, "{foreign}");
    }
}

#[test]
fn names_that_could_escape_are_not_names() {
    for bad in ["web", "web/", "/web", "../x", "web/..", "web/a/b", "web/a?b", "Web/x", "web/.new"]
    {
        assert!(bad.parse::<VolumeId>().is_err(), "{bad}");
    }
    assert!(format!("{}/x", "w".repeat(300)).parse::<VolumeId>().is_err());
}

#[test]
fn distinct_mount_points_are_accepted() {
    assert_eq!(faults(&[("a", "/data"), ("b", "/data2"), ("c", "/var/lib/c")]), []);
    assert_eq!(faults(&[]), []);
}

#[test]
fn duplicate_and_nested_mount_points_are_refused_with_both_names() {
    let texts = |volumes: &[(&str, &str)]| -> Vec<String> {
        faults(volumes).iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        texts(&[("a", "/data"), ("b", "/data/")]),
        ["volumes a and b are both mounted at /data"]
    );
    assert_eq!(
        texts(&[("a", "/data/in"), ("b", "/data")]),
        ["volume a at /data/in lies within volume b at /data"]
    );
    assert_eq!(texts(&[("a", "/belay")]), ["volumes system and a are both mounted at /belay"]);
    assert_eq!(
        texts(&[("a", "/belay/x")]),
        ["volume a at /belay/x lies within volume system at /belay"]
    );
}

#[test]
fn the_name_of_the_system_volume_is_reserved() {
    assert!(faults(&[("system", "/x")]).contains(&MountPointFault::ReservedName));
}

#[test]
fn paths_that_are_no_mount_points_are_refused() {
    for bad in ["", "data", "/", "//", "/a/../b", "/a/./b", "/a\0b"] {
        assert!(matches!(faults(&[("a", bad)])[..], [MountPointFault::NotAPath { .. }]), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn no_two_volumes_share_a_path(names in proptest::collection::btree_set(("[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?", "[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?"), 1..12)) {
        let layout = layout();
        let mut paths = BTreeSet::new();
        for (workload, volume) in &names {
            let id = id(&format!("{workload}/{volume}"));
            for path in [layout.volume(&id), layout.building(&id), layout.removing(&id), layout.mount(&id)] {
                prop_assert!(path.starts_with("/var/lib/belay/volumes"));
                prop_assert!(paths.insert(path));
            }
        }
    }

    #[test]
    fn accepted_mount_points_never_touch(paths in proptest::collection::vec("(/[ab]{1,2}){1,3}/?", 1..6)) {
        let volumes: Vec<_> = paths.iter().enumerate()
            .map(|(i, path)| (format!("v{i}").parse().expect("a volume name"), path.clone()))
            .collect();
        let accepted = check_mount_points(&volumes, None).is_empty();
        let clean: Vec<PathBuf> = paths.iter().map(|path| Path::new(path).components().collect()).collect();
        let touching = clean.iter().enumerate().any(|(i, a)| {
            clean.iter().enumerate().any(|(j, b)| i != j && a.starts_with(b))
        });
        prop_assert_eq!(accepted, !touching);
    }
}
