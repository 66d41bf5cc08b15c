//! Other mount namespaces that hold a volume, and hosts that lack what is needed.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use belay_volumes::{ByteSize, Hold, Origin, ReleaseError};

use crate::faults::program;
use crate::scratch::{Scratch, spec};

/// A process with a copy of all mounts, as a container or a sandboxed service has.
struct Elsewhere(Child);

/// Lets go of all loop devices but the one under the given mount: others run tests, too.
const KEEP_ONE: &str = r#"
while read -r id parent device root target rest; do
    case "$device" in
        7:*) [ "$target" = "$0" ] || umount -l "$target" ;;
    esac
done < /proc/self/mountinfo
exec sleep 60
"#;

impl Elsewhere {
    fn holding(mount: &Path) -> Self {
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "/bin/sh", "-c", KEEP_ONE])
            .arg(mount)
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare");
        let started = Self(child);
        let deadline = Instant::now() + Duration::from_secs(10);
        let name = format!("/proc/{}/comm", started.0.id());
        while fs::read_to_string(&name).expect("it lives").trim() != "sleep" {
            assert!(Instant::now() < deadline, "it has its own mounts by now");
            std::thread::sleep(Duration::from_millis(5));
        }
        started
    }

    fn end(&mut self) {
        let _gone = self.0.kill();
        self.0.wait().expect("reaped");
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.end();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_another_namespace_holds_is_not_released_and_never_attached_twice() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = spec("web/store", ByteSize::mib(16));
    let first = volumes.ensure(&wanted).await.expect("a volume");
    fs::write(first.data.join("state"), "one").expect("written");
    let mut elsewhere = Elsewhere::holding(&first.mount);

    let error = volumes.release(&wanted.id).await.expect_err("it is held");
    assert!(error.is_retryable());
    let ReleaseError::StillAttached { holders, .. } = &error else { panic!("{error:?}") };
    let pid = i32::try_from(elsewhere.0.id()).expect("a process id");
    assert!(
        holders.iter().any(|holder| holder.pid == pid && matches!(holder.hold, Hold::Mount(_))),
        "{error}"
    );
    volumes.remove(&wanted.id).await.expect_err("and it is not deleted");
    // A second device on the same image would be two kernels' worth of one file system.
    let again = volumes.ensure(&wanted).await.expect("mounted again, from the same device");
    assert_eq!((again.device, again.origin), (first.device, Origin::Existing));
    assert_eq!(fs::read(again.data.join("state")).expect("the state"), b"one");
    assert_eq!(scratch.devices().len(), 1);

    volumes.release(&wanted.id).await.expect_err("it is still held");
    elsewhere.end();
    volumes.release(&wanted.id).await.expect("nobody holds it any more");
    scratch.assert_nothing_held();
}

/// Opens the directory of volumes in a namespace in which something is missing.
fn without(scratch: &Scratch, hidden: &str) -> Output {
    let script = format!(
        "mount -t tmpfs none {hidden} && exec \"$0\" \"$1\" {} ensure web/store 8M",
        scratch.minors.start
    );
    Command::new("unshare")
        .args(["--mount", "--propagation", "private", "/bin/sh", "-c", &script])
        .arg(program())
        .arg(scratch.root())
        .output()
        .expect("unshare")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_lacks_is_named_before_anything_is_changed() {
    for (hidden, said) in
        [("/dev", "modprobe loop"), ("/usr/sbin", "install the package e2fsprogs")]
    {
        let scratch = Scratch::new();
        let output = without(&scratch, hidden);
        assert!(!output.status.success(), "without {hidden}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(said), "without {hidden}: {text}");
        assert!(!scratch.root().exists(), "nothing was made");
    }
}
