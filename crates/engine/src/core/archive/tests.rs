use proptest::prelude::*;

use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn kind(names: &[&str]) -> Option<ArchiveKind> {
    let mut detector = Detector::default();
    for name in names {
        if detector.see(name.as_bytes()) == Seen::Settled {
            break;
        }
    }
    detector.finish()
}

#[test]
fn saved_images_are_told_by_their_names() {
    let layer = format!("{HEX}.tar");
    let config = format!("{HEX}.json");
    // As podman save writes a Docker archive: the index comes last.
    assert_eq!(
        kind(&[&layer, &config, "repositories", &format!("{HEX}/layer.tar"), "manifest.json"]),
        Some(ArchiveKind::Image)
    );
    // As docker save up to 24 does.
    assert_eq!(
        kind(&[
            &format!("{HEX}/"),
            &format!("{HEX}/VERSION"),
            &format!("{HEX}/json"),
            &format!("{HEX}/layer.tar"),
            &config,
            "manifest.json",
            "repositories"
        ]),
        Some(ArchiveKind::Image)
    );
    // As an OCI layout, with and without a leading "./", and as docker save from 25 on.
    assert_eq!(
        kind(&[
            "./",
            "./blobs/",
            "./blobs/sha256/",
            &format!("./blobs/sha256/{HEX}"),
            "./index.json",
            "./oci-layout"
        ]),
        Some(ArchiveKind::Image)
    );
}

#[test]
fn trees_are_root_file_systems() {
    for names in [
        &["bin/", "bin/sh"][..],
        &["./", "./usr/"],
        // A tree may hold files of these names among others.
        &["manifest.json", "app/server"],
        &["index.json", "oci-layout", "blobs/other"],
        // Without an index there is nothing that an engine could load.
        &["index.json"],
        &["repositories"],
    ] {
        assert_eq!(kind(names), Some(ArchiveKind::RootFileSystem), "{names:?}");
    }
    assert_eq!(kind(&["./", "."]), None);
    assert_eq!(kind(&[]), None);
}

#[test]
fn the_first_foreign_name_settles_it() {
    let mut detector = Detector::default();
    assert_eq!(detector.see(b"manifest.json"), Seen::Open);
    assert_eq!(detector.see(b"etc/passwd"), Seen::Settled);
}

#[test]
fn a_file_is_known_by_its_first_bytes() {
    let mut header = tar::Header::new_ustar();
    header.set_path("bin/sh").expect("short");
    header.set_size(0);
    header.set_cksum();
    assert_eq!(packing(header.as_bytes()), Packing::Plain);
    let mut broken = *header.as_bytes();
    broken[0] ^= 1;
    assert_eq!(packing(&broken), Packing::Other("no tar file"));
    assert_eq!(packing(&[0; 512]), Packing::Plain);
    assert_eq!(packing(&[0; 100]), Packing::Other("no tar file"));
    assert_eq!(packing(&[0x1f, 0x8b, 8]), Packing::Gzip);
    assert_eq!(packing(b"\x7fELF"), Packing::Other("a program"));
    assert_eq!(packing(b""), Packing::Other("no tar file"));
}

proptest! {
    #[test]
    fn no_bytes_upset_the_detector(head in proptest::collection::vec(any::<u8>(), 0..600),
        names in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..20))
    {
        packing(&head);
        let mut detector = Detector::default();
        for name in &names {
            detector.see(name);
        }
        detector.finish();
    }
}
