//! Whether an image is made for this machine.

/// Whether programs for `image` run on a processor of `host`, both in Go's words. An image that does
/// not say is believed.
pub fn runs_on(image: &str, host: &str) -> bool {
    image.is_empty()
        || host.is_empty()
        || image == host
        || matches!((image, host), ("386", "amd64") | ("arm", "arm64"))
}

/// Names under which a kernel has an interpreter for programs of an architecture, as Debian's and
/// Docker's packages of QEMU register it.
pub fn interpreter(architecture: &str) -> Option<&'static str> {
    match architecture {
        "amd64" => Some("qemu-x86_64"),
        "386" => Some("qemu-i386"),
        "arm64" => Some("qemu-aarch64"),
        "arm" => Some("qemu-arm"),
        "riscv64" => Some("qemu-riscv64"),
        "ppc64le" => Some("qemu-ppc64le"),
        "s390x" => Some("qemu-s390x"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_runs_its_own_and_what_it_can() {
        for (image, host, runs) in [
            ("amd64", "amd64", true),
            ("386", "amd64", true),
            ("amd64", "386", false),
            ("arm64", "amd64", false),
            ("arm", "arm64", true),
            ("arm64", "arm", false),
            ("", "amd64", true),
            ("wasm", "amd64", false),
        ] {
            assert_eq!(runs_on(image, host), runs, "{image} on {host}");
        }
        assert_eq!(interpreter("arm64"), Some("qemu-aarch64"));
        assert_eq!(interpreter("wasm"), None);
    }
}
