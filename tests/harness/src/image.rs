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

/// Writes an image archive, as docker saves one, with the files of [`busybox_image`] in
/// `directory` and this health check, and returns its path: `checked.tar` there.
///
/// Needs coreutils' `sha256sum`.
pub fn checked_image(directory: &Path, healthcheck: &[&str]) -> anyhow::Result<PathBuf> {
    let layer = directory.join("busybox.tar");
    let sum = std::process::Command::new("/usr/bin/sha256sum").arg(&layer).output()?;
    let sum = String::from_utf8(sum.stdout)?;
    let digest = sum.split_whitespace().next().context("sha256sum gave no sum")?;
    let config = serde_json::json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64"),
        "os": "linux",
        "config": { "Healthcheck": { "Test": healthcheck } },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        "history": [{ "created_by": "the tests" }],
    });
    // By their digests, as an engine names them; that of the configuration is not looked at.
    let (config_name, layer_name) = (format!("{}.json", "c".repeat(64)), format!("{digest}.tar"));
    let manifest = serde_json::json!([{
        "Config": config_name, "RepoTags": null, "Layers": [layer_name],
    }]);
    let path = directory.join("checked.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&path)?);
    for (name, text) in [(config_name.as_str(), config), ("manifest.json", manifest)] {
        let text = text.to_string();
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes())?;
    }
    tar.append_path_with_name(&layer, &layer_name)?;
    tar.into_inner()?.sync_all()?;
    Ok(path)
}

/// Writes a root file system tar with the files of [`busybox_image`], this program and the libraries
/// that it is linked to, and returns its path: the program's name and `.tar` in `directory`.
///
/// Needs `ldd`.
pub fn program_image(directory: &Path, program: &Path) -> anyhow::Result<PathBuf> {
    let name = program.file_name().context("a program has a name")?.to_string_lossy().into_owned();
    let path = directory.join(format!("{name}.tar"));
    let mut tar = tar::Builder::new(std::fs::File::create(&path)?);
    let mut base = tar::Archive::new(std::fs::File::open(directory.join("busybox.tar"))?);
    for entry in base.entries()? {
        let entry = entry?;
        let mut header = entry.header().clone();
        let (inside, link) =
            (entry.path()?.into_owned(), entry.link_name()?.map(std::borrow::Cow::into_owned));
        match link {
            Some(to) => tar.append_link(&mut header, inside, to)?,
            None => tar.append_data(&mut header, inside, entry)?,
        }
    }
    let listed = std::process::Command::new("/usr/bin/ldd").arg(program).output()?;
    let listed = String::from_utf8(listed.stdout)?;
    let words =
        listed.lines().filter_map(|line| line.split_whitespace().find(|it| it.starts_with('/')));
    let libraries =
        words.map(|library| (library.trim_start_matches('/').to_owned(), PathBuf::from(library)));
    for (inside, file) in libraries.chain([(name, program.to_owned())]) {
        let bytes = std::fs::read(&file)?;
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, inside, bytes.as_slice())?;
    }
    tar.into_inner()?.sync_all()?;
    Ok(path)
}
