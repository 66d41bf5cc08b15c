//! Names that belayd gives to images it loads from files, and names that a caller may use.

use std::path::Path;

/// Repository under which loaded images are tagged. No registry answers to `localhost`, so that an
/// engine never tries to pull such a name.
const REPOSITORY: &str = "localhost/belay";
const NAME_MAX: usize = 64;

/// The tag of an image that is loaded from a file: readable name from the file's, identity from
/// its content. The same bytes give the same tag.
pub(crate) fn local_tag(path: &Path, digest: &blake3::Hash) -> String {
    let stem = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let hex = digest.to_hex();
    format!("{REPOSITORY}/{}:{}", component(&stem), &hex.as_str()[..16])
}

/// A file name as one path component of an image reference: lower-case letters, digits and single
/// `-` between them.
fn component(file_name: &str) -> String {
    let lower = file_name.to_lowercase();
    let stem = [".tar.gz", ".tgz", ".tar", ".gz"]
        .iter()
        .find_map(|suffix| lower.strip_suffix(suffix))
        .unwrap_or(&lower);
    let mut name = String::new();
    for c in stem.chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            name.push(c);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
        if name.len() == NAME_MAX {
            break;
        }
    }
    let name = name.trim_end_matches('-');
    if name.is_empty() { "image".to_owned() } else { name.to_owned() }
}

/// Whether a text can stand in a path of the API as an image: a reference, an id or a digest.
///
/// The engine parses references itself; this keeps out what would end the path or climb in it.
pub(crate) fn is_image_reference(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 512
        && text.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-/:@+".contains(&c))
}

/// Whether a text can be a container's name or id, by the rule that both engines have.
pub(crate) fn is_container_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && text.len() <= 255
        && bytes.all(|c| c.is_ascii_alphanumeric() || b"_.-".contains(&c))
}

/// Splits a reference for a pull: name, and the tag or digest (`latest` when there is none).
pub(crate) fn split_reference(reference: &str) -> (&str, &str) {
    if let Some((name, digest)) = reference.split_once('@') {
        return (name, digest);
    }
    // A colon before the last slash is a registry's port.
    let last = reference.rfind('/').map_or(0, |slash| slash + 1);
    match reference[last..].rfind(':') {
        Some(colon) => (&reference[..last + colon], &reference[last + colon + 1..]),
        None => (reference, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loaded_image_is_named_by_file_and_content() {
        let digest = blake3::hash(b"abc");
        let hex = &digest.to_hex()[..16];
        for (file, name) in [
            ("/srv/My App_v1.2.tar.gz", "my-app-v1-2"),
            ("/srv/web.tar", "web"),
            ("/srv/web", "web"),
            ("/srv/--.tgz", "image"),
            ("/srv/ÄÖ.tar", "image"),
            ("/", "image"),
        ] {
            let tag = local_tag(Path::new(file), &digest);
            assert_eq!(tag, format!("localhost/belay/{name}:{hex}"), "{file}");
            assert!(is_image_reference(&tag));
        }
        let long = local_tag(Path::new(&format!("/{}.tar", "a".repeat(200))), &digest);
        assert_eq!(long.len(), REPOSITORY.len() + 1 + NAME_MAX + 1 + 16);
    }

    #[test]
    fn references_split_at_tag_or_digest() {
        for (reference, parts) in [
            ("alpine", ("alpine", "latest")),
            ("alpine:3", ("alpine", "3")),
            ("reg.example:5000/a/b", ("reg.example:5000/a/b", "latest")),
            ("reg.example:5000/a/b:v1", ("reg.example:5000/a/b", "v1")),
            ("a/b@sha256:00ff", ("a/b", "sha256:00ff")),
        ] {
            assert_eq!(split_reference(reference), parts, "{reference}");
        }
    }

    #[test]
    fn what_would_leave_its_place_in_a_path_is_refused() {
        for bad in ["", "a b", "a?x=1", "../etc", "a/../b", "a//b", "a#b", "a%2fb", "/a", "a/"] {
            assert!(!is_image_reference(bad), "{bad:?}");
            assert!(!is_container_name(bad), "{bad:?}");
        }
        for bad in [".a", "-a", "a/b", "_x", &"x".repeat(256)] {
            assert!(!is_container_name(bad), "{bad:?}");
        }
        for good in ["web", "belay.web.1", "7889122f74b7", "A_b-c"] {
            assert!(is_container_name(good), "{good:?}");
        }
    }
}
