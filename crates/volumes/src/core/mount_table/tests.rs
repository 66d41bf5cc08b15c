use proptest::prelude::*;

use super::*;

const TABLE: &[u8] = b"\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
90 27 7:4096 / /v/mounts/web/store rw,nosuid,nodev,noatime - ext4 /dev/loop4096 rw,errors=remount-ro
91 27 7:4097 / /v/mounts/web/store-2 rw shared:3 master:1 - ext4 /dev/loop4097 ro,errors=remount-ro
92 27 7:4098 / /v/my\\040files\\134x rw - xfs /dev/loop4098 rw
93 27 7:4099 /data /srv/data rw - ext4 /dev/loop4099 rw,emergency_ro
94 27 7:4100 / /v/gone//deleted rw - ext4 /dev/loop4100 rw
this is not a mount
95 27 nonsense / /x rw - ext4 /dev/loop1 rw
96 27 7:1 / /y rw ext4 without a dash
";

fn at(path: &str) -> Vec<MountEntry> {
    let table = parse(TABLE);
    mounted_at(&table, Path::new(path)).into_iter().cloned().collect()
}

#[test]
fn a_mount_is_found_at_its_exact_path_only() {
    assert_eq!(at("/v/mounts/web/store").len(), 1);
    assert_eq!(at("/v/mounts/web/store")[0].device, DeviceNumber::of_loop(4096));
    assert_eq!(at("/v/mounts/web"), []);
    assert_eq!(at("/v/mounts/web/sto"), []);
}

#[test]
fn a_sibling_with_the_same_prefix_is_another_mount() {
    assert_eq!(at("/v/mounts/web/store-2")[0].device, DeviceNumber::of_loop(4097));
    assert_eq!(at("/v/mounts/web/store-"), []);
}

#[test]
fn a_trailing_slash_changes_nothing() {
    assert_eq!(at("/v/mounts/web/store/").len(), 1);
}

#[test]
fn escaped_blanks_and_backslashes_are_decoded() {
    assert_eq!(at("/v/my files\\x").len(), 1);
}

#[test]
fn lines_that_are_not_mounts_are_left_out() {
    assert_eq!(parse(TABLE).len(), 6);
    assert_eq!(parse(b"").len(), 0);
}

#[test]
fn a_file_system_that_stopped_writing_is_read_only() {
    assert!(!at("/v/mounts/web/store")[0].read_only);
    assert!(at("/v/mounts/web/store-2")[0].read_only);
    assert!(at("/srv/data")[0].read_only);
}

#[test]
fn a_mount_whose_directory_was_deleted_is_no_mount_of_that_path() {
    assert_eq!(at("/v/gone"), []);
    let table = parse(TABLE);
    assert!(table.iter().any(|entry| entry.target_deleted && entry.target == Path::new("/v/gone")));
}

#[test]
fn the_running_kernels_own_table_holds_the_root() {
    let table = std::fs::read("/proc/self/mountinfo").expect("every Linux has it");
    assert_eq!(mounted_at(&parse(&table), Path::new("/")).len(), 1);
}

fn escape(path: &[u8]) -> Vec<u8> {
    path.iter()
        .flat_map(|&c| match c {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{c:03o}").into_bytes(),
            other => vec![other],
        })
        .collect()
}

proptest! {
    #[test]
    fn any_path_survives_the_kernels_escapes(name in proptest::collection::vec(1_u8.., 1..40)) {
        let mut path = b"/".to_vec();
        path.extend(name);
        prop_assert_eq!(unescape(&escape(&path)), path);
    }

    #[test]
    fn no_table_makes_the_parser_panic(table in proptest::collection::vec(any::<u8>(), 0..400)) {
        parse(&table);
    }
}
