use proptest::prelude::*;

use super::*;

fn path(text: &str) -> ContainerPath {
    ContainerPath::parse(text).expect("a container path")
}

fn mounts(points: &[&str]) -> Mounts {
    Mounts::new(points.iter().map(|point| path(point)).collect(), path("/belay"))
}

#[test]
fn sm001_a_final_slash_does_not_matter() {
    let place = mounts(&["/app/data"]).resolve(&path("/app/data/")).expect("resolves");
    assert_eq!(place, Place { mount: 0, below: String::new() });
}

#[test]
fn sm002_a_file_resolves_below_its_volume() {
    let place = mounts(&["/app/data"]).resolve(&path("/app/data/x/y.txt")).expect("resolves");
    assert_eq!(place, Place { mount: 0, below: "x/y.txt".into() });
}

#[test]
fn sm003_sm004_sm009_texts_that_are_no_container_paths_are_refused() {
    assert!(matches!(ContainerPath::parse("app/data"), Err(PathFault::Relative { .. })));
    assert!(matches!(ContainerPath::parse("/app/../etc"), Err(PathFault::Traversal { .. })));
    assert!(matches!(ContainerPath::parse("/app/.."), Err(PathFault::Traversal { .. })));
    assert!(matches!(ContainerPath::parse(""), Err(PathFault::Empty)));
    assert!(matches!(ContainerPath::parse("/a\0b"), Err(PathFault::Zero { .. })));
    let long = format!("/{}", "x".repeat(PATH_MAX));
    assert!(matches!(ContainerPath::parse(&long), Err(PathFault::TooLong { .. })));
    let deep = "/x".repeat(DEPTH_MAX + 1);
    assert!(matches!(ContainerPath::parse(&deep), Err(PathFault::TooDeep { .. })));
}

#[test]
fn sm005_sm043_a_path_in_no_volume_is_refused() {
    let refused = mounts(&["/app/data"]).resolve(&path("/app/database"));
    assert_eq!(refused, Err(Unresolved::NoVolume { path: "/app/database".into() }));
}

#[test]
fn sm007_sm008_the_control_volume_is_refused_from_below_at_and_above() {
    let mounts = mounts(&["/", "/app"]);
    for text in ["/belay", "/belay/volume-sync", "/"] {
        assert!(matches!(mounts.resolve(&path(text)), Err(Unresolved::Control { .. })), "{text}");
    }
}

#[test]
fn sm010_sm011_sm012_the_longest_mount_point_wins_in_any_order() {
    for points in [["/app", "/app/data"], ["/app/data", "/app"]] {
        let mounts = mounts(&points);
        let inner = mounts.resolve(&path("/app/data/x")).expect("resolves");
        assert_eq!((points[inner.mount], &inner.below[..]), ("/app/data", "x"));
        let outer = mounts.resolve(&path("/app/other")).expect("resolves");
        assert_eq!((points[outer.mount], &outer.below[..]), ("/app", "other"));
    }
}

#[test]
fn nested_volumes_are_those_strictly_below() {
    let mounts = mounts(&["/app/data/deep", "/app", "/app/data", "/apple"]);
    let nested: Vec<usize> = mounts.nested(&path("/app")).into_iter().map(|n| n.0).collect();
    assert_eq!(nested, [2, 0]);
}

#[test]
fn a_minimal_set_has_no_path_below_another() {
    let paths = ["/b", "/a/x", "/a.b", "/a", "/a/x/y", "/b"].map(path).to_vec();
    let kept: Vec<String> = minimal(paths).iter().map(ToString::to_string).collect();
    assert_eq!(kept, ["/a", "/a.b", "/b"]);
}

proptest! {
    #[test]
    fn any_text_is_a_normal_path_or_refused(text in "[/.a-c\\x00]{0,12}|\\PC{0,20}") {
        if let Ok(parsed) = ContainerPath::parse(&text) {
            prop_assert!(parsed.as_str().starts_with('/'));
            prop_assert!(parsed.parts().all(|part| !matches!(part, "" | "." | "..")));
            prop_assert_eq!(ContainerPath::parse(parsed.as_str()), Ok(parsed));
        }
    }

    #[test]
    fn resolution_agrees_with_a_walk_from_the_leaf_up(
        points in prop::collection::btree_set("(/[ab]){1,3}", 1..5),
        wanted in "(/[ab]){1,4}",
    ) {
        let points: Vec<String> = points.into_iter().collect();
        let table = Mounts::new(points.iter().map(|point| path(point)).collect(), path("/belay"));
        let mut prefix = wanted.as_str();
        let mut expected = None;
        while !prefix.is_empty() {
            if let Some(mount) = points.iter().position(|point| point == prefix) {
                expected = Some((mount, wanted[prefix.len()..].trim_start_matches('/').to_owned()));
                break;
            }
            prefix = &prefix[..prefix.rfind('/').unwrap_or(0)];
        }
        let found = table.resolve(&path(&wanted)).ok().map(|place| (place.mount, place.below));
        prop_assert_eq!(found, expected);
    }
}
