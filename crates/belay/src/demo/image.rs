//! The demo's image: a root file system out of the host's static busybox, as a tar archive.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::tool;
use crate::core::stage;
use crate::failure::{self, Ending, Failure};

/// Debian's `busybox-static` puts it there.
const BUSYBOX: &str = "/bin/busybox";

/// Writes the archive and gives its size in bytes.
pub(crate) fn write(path: &Path) -> Result<u64, Ending> {
    let busybox = File::open(BUSYBOX).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            failure::UNAVAILABLE,
            "the demo makes its image from /bin/busybox, which is not there",
            "apt-get install busybox-static",
        ),
        _ => Failure::local(format!("cannot read {BUSYBOX}"), &error, ""),
    })?;
    let written = File::create_new(path).and_then(|file| build(busybox, BufWriter::new(file)));
    written.map_err(|error| {
        Failure::local(format!("cannot write {}", path.display()), &error, "").into()
    })
}

/// Writes an archive with a program and the libraries that it is linked to.
pub(crate) async fn write_runner(path: &Path, program: &Path) -> Result<(), Ending> {
    let ldd = tool::find("ldd").ok_or_else(|| {
        let what = "the demo looks with ldd for the libraries of its runner; it is not there";
        Failure::new(failure::UNAVAILABLE, what, "apt-get install libc-bin")
    })?;
    let listed = tool::run(&ldd, &[program]).await?;
    let libraries = listed.lines().filter_map(|line| {
        line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned)
    });
    let mut files: Vec<(String, PathBuf)> = libraries
        .map(|library| (library.trim_start_matches('/').to_owned(), PathBuf::from(library)))
        .collect();
    files.push((stage::RUNNER.to_owned(), program.to_owned()));
    let target = path.to_owned();
    let written = tokio::task::spawn_blocking(move || build_runner(&target, &files)).await;
    let failed = |error: io::Error| {
        Ending::from(Failure::local(format!("cannot write {}", path.display()), &error, ""))
    };
    written.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed)
}

fn build_runner(path: &Path, files: &[(String, PathBuf)]) -> io::Result<()> {
    let mut tar = Builder::new(BufWriter::new(File::create_new(path)?));
    for directory in ["dev/", "etc/", "proc/", "sys/", "tmp/"] {
        tar.append_data(&mut header(EntryType::Directory, 0o755, 0), directory, io::empty())?;
    }
    for (inside, file) in files {
        let mut file = File::open(file)?;
        let mut program = header(EntryType::Regular, 0o755, file.metadata()?.len());
        tar.append_data(&mut program, inside, &mut file)?;
    }
    tar.into_inner()?.flush()
}

/// Times and owners are fixed, so that one busybox makes one image.
fn build(mut busybox: File, out: impl Write) -> io::Result<u64> {
    let counted = Counted { out, bytes: 0 };
    let mut tar = Builder::new(counted);
    for directory in ["bin", "belay", "data", "tmp", "www", "www/cgi-bin"] {
        let mut header = header(EntryType::Directory, 0o755, 0);
        tar.append_data(&mut header, format!("{directory}/"), io::empty())?;
    }
    let length = busybox.metadata()?.len();
    let mut program = header(EntryType::Regular, 0o755, length);
    tar.append_data(&mut program, "bin/busybox", &mut busybox)?;
    for applet in stage::APPLETS {
        let mut link = header(EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut link, format!("bin/{applet}"), "busybox")?;
    }
    for (name, target) in [("www/data", "/data"), ("www/index.html", "/data/index.html")] {
        let mut link = header(EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut link, name, target)?;
    }
    for (name, text) in stage::programs() {
        let mut script = header(EntryType::Regular, 0o755, text.len() as u64);
        tar.append_data(&mut script, name, text.as_bytes())?;
    }
    let mut counted = tar.into_inner()?;
    counted.flush()?;
    Ok(counted.bytes)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

struct Counted<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_image_holds_busybox_its_links_and_the_scripts() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("image.tar");
        let bytes = write(&path).expect("busybox-static is installed");
        assert_eq!(bytes, std::fs::metadata(&path).expect("it is there").len());

        let mut archive = tar::Archive::new(File::open(&path).expect("opens"));
        let mut entries = BTreeMap::new();
        for entry in archive.entries().expect("an archive") {
            let entry = entry.expect("a member");
            let name = entry.path().expect("a path").display().to_string();
            let header = entry.header();
            let link = entry.link_name().expect("readable").map(|link| link.display().to_string());
            entries.insert(name, (header.mode().expect("a mode"), header.size(), link));
        }
        assert_eq!(entries["bin/sh"].2.as_deref(), Some("busybox"));
        assert_eq!(entries["www/index.html"].2.as_deref(), Some("/data/index.html"));
        for program in ["bin/busybox", "bin/provider", "bin/consumer", "www/cgi-bin/publish"] {
            assert_eq!(entries[program].0, 0o755, "{program}");
        }

        let again = directory.path().join("again.tar");
        write(&again).expect("writes");
        let read = |path: &Path| std::fs::read(path).expect("reads");
        assert_eq!(read(&path), read(&again), "one busybox makes one image");
    }

    #[test]
    fn busybox_takes_every_script_and_has_every_applet() {
        for (name, text) in stage::programs() {
            let mut shell = Command::new(BUSYBOX);
            shell.args(["sh", "-n"]).stdin(Stdio::piped());
            let mut shell = shell.spawn().expect("busybox-static is installed");
            let mut input = shell.stdin.take().expect("a pipe");
            input.write_all(text.as_bytes()).expect("writes");
            drop(input);
            assert!(shell.wait().expect("ends").success(), "{name}");
        }
        let listed = Command::new(BUSYBOX).arg("--list").output().expect("runs").stdout;
        let listed = String::from_utf8(listed).expect("ASCII");
        for applet in stage::APPLETS {
            assert!(listed.lines().any(|line| line == applet), "{applet}");
        }
    }
}
