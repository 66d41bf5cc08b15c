use super::*;

#[test]
fn the_name_of_a_loaded_image_is_found_in_the_engines_words() {
    for (said, name) in [
        // Podman 4.3.1, one tag, several tags, none.
        ("Loaded image: localhost/belay/web:1", Some("localhost/belay/web:1")),
        ("Loaded image: localhost/a:1,localhost/b:2", Some("localhost/a:1")),
        ("Loaded image: sha256:00ff", Some("sha256:00ff")),
        // Docker.
        ("Loaded image: web:1\n", Some("web:1")),
        ("Loaded image ID: sha256:00ff\n", Some("sha256:00ff")),
        (
            "The image web:1 already exists, renaming the old one\nLoaded image: web:1\n",
            Some("web:1"),
        ),
        ("", None),
        ("Loaded image: ", None),
        ("something else\n", None),
    ] {
        assert_eq!(loaded_name(said).as_deref(), name, "{said:?}");
    }
}
