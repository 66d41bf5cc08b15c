//! The image that the tests' containers run: busybox and nothing else.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Applets that the tests' scripts use.
const APPLETS: [&str; 22] = [
    "sh", "cat", "cp", "dd", "df", "echo", "false", "head", "httpd", "ln", "ls", "mkdir", "mkfifo",
    "mv", "rm", "sleep", "sync", "test", "touch", "true", "wc", "yes",
];

/// Writes a root file system tar with busybox to `directory` and returns its path.
///
/// Needs Debian's busybox-static.
pub fn busybox_image(directory: &Path) -> anyhow::Result<PathBuf> {
    let path = directory.join("busybox.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&path)?);
    for directory in ["bin/", "dev/", "etc/", "proc/", "sys/", "tmp/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if directory == "tmp/" { 0o1777 } else { 0o755 });
        header.set_size(0);
        tar.append_data(&mut header, directory, std::io::empty())?;
    }
    let busybox = std::fs::read("/bin/busybox")
        .context("the tests' image needs /bin/busybox: apt-get install busybox-static")?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(busybox.len() as u64);
    tar.append_data(&mut header, "bin/busybox", busybox.as_slice())?;
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    tar.into_inner()?.sync_all()?;
    Ok(path)
}
