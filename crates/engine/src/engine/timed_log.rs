//! A container's output with times that are exact enough to cut it by.
//!
//! Podman's API tells whole seconds; its log file has nanoseconds. Docker's API has them.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use reqwest::Method;
use serde::Deserialize;

use super::http::Api;
use super::{Engine, EngineKind, LogLine, LogOptions, reference};
use crate::core::k8s_file::Joiner;
use crate::error::{EngineError, Object, Operation};
use crate::{blocking, deadline};

/// A container's output, read from its beginning on, and then what came since.
#[derive(Debug)]
pub struct TimedLog {
    engine: Engine,
    container: String,
    source: Source,
}

#[derive(Debug)]
enum Source {
    File(LogFile),
    /// Up to this time it was read.
    Api(Option<Timestamp>),
}

/// A file that is read on from where it was read to.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    /// Which file it was: the engine begins another one when it is full.
    inode: u64,
    offset: u64,
    joiner: Joiner,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    host_config: InspectedHost,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedHost {
    log_config: InspectedLog,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedLog {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(default)]
    path: PathBuf,
}

impl Engine {
    /// The output of a container, to be read with its times. Deadline: [`deadline::READ`].
    pub async fn timed_log(&self, container: impl AsRef<str>) -> Result<TimedLog, EngineError> {
        let name = reference(Operation::Logs, container.as_ref())?;
        let source = match self.info().kind {
            EngineKind::Docker => Source::Api(None),
            EngineKind::Podman => {
                let path = format!("/containers/{name}/json");
                let request = self.http().request(Method::GET, Api::Libpod, &path);
                let object = Object::Container(name.to_owned());
                let found: Inspected =
                    self.http().json(Operation::Inspect, object, deadline::READ, request).await?;
                let log = found.host_config.log_config;
                if log.kind == "k8s-file" && log.path.is_absolute() {
                    Source::File(LogFile::at(log.path))
                } else {
                    Source::Api(None)
                }
            }
        };
        Ok(TimedLog { engine: self.clone(), container: name.to_owned(), source })
    }
}

impl TimedLog {
    /// Hands each line that has come since the last call to `take`, with what it gathers them in. A
    /// container that is gone has no more.
    pub async fn read<T: Send + 'static>(
        &mut self,
        gathered: T,
        take: impl FnMut(&mut T, LogLine) + Send + 'static,
    ) -> io::Result<T> {
        match &mut self.source {
            Source::File(file) => {
                let mut mine = std::mem::replace(file, LogFile::at(PathBuf::new()));
                let (mine, read) = blocking::run(move || {
                    let mut gathered = gathered;
                    let read = mine.read(&mut gathered, take);
                    (mine, read.map(|()| gathered))
                })
                .await;
                *file = mine;
                read
            }
            Source::Api(last) => {
                let options = LogOptions { follow: false, tail: None, since: *last };
                let mut lines = self.engine.logs(&self.container, &options);
                let (mut gathered, mut take) = (gathered, take);
                let before = *last;
                loop {
                    let next = tokio::time::timeout(deadline::STREAM_SILENCE, lines.next()).await;
                    match next {
                        Ok(Some(Ok(line))) if line.time.is_some() && line.time <= before => {}
                        Ok(Some(Ok(line))) => {
                            *last = line.time.or(*last);
                            take(&mut gathered, line);
                        }
                        Ok(Some(Err(EngineError::Absent { .. })) | None) => return Ok(gathered),
                        Ok(Some(Err(error))) => return Err(io::Error::other(error)),
                        Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
                    }
                }
            }
        }
    }

    /// What was written without a line end after it, once the container has ended and all was read.
    pub fn rest(&mut self) -> Vec<LogLine> {
        match &mut self.source {
            Source::File(file) => file.joiner.rest().collect(),
            // The API gives it as a line.
            Source::Api(_) => Vec::new(),
        }
    }

    /// Bytes that the engine has of it, where it lies in a file that can be looked at.
    pub async fn size(&self) -> Option<u64> {
        match &self.source {
            Source::File(file) => {
                let path = file.path.clone();
                blocking::run(move || std::fs::metadata(path)).await.ok().map(|found| found.len())
            }
            Source::Api(_) => None,
        }
    }
}

impl LogFile {
    fn at(path: PathBuf) -> Self {
        Self { path, inode: 0, offset: 0, joiner: Joiner::default() }
    }

    /// Reads every whole line that is there and was not read. Blocks.
    fn read<T>(
        &mut self,
        gathered: &mut T,
        mut take: impl FnMut(&mut T, LogLine),
    ) -> io::Result<()> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let found = file.metadata()?;
        if found.ino() != self.inode || found.len() < self.offset {
            (self.inode, self.offset, self.joiner) = (found.ino(), 0, Joiner::default());
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line)?;
            if line.pop() != Some(b'\n') {
                // The rest of it is being written, or nothing is left.
                return Ok(());
            }
            self.offset += length as u64;
            if let Some(line) = self.joiner.take(&line) {
                take(gathered, line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn texts(file: &mut LogFile) -> Vec<String> {
        let mut texts = Vec::new();
        let push = |texts: &mut Vec<String>, line: LogLine| texts.push(line.text().into_owned());
        file.read(&mut texts, push).expect("reads");
        texts
    }

    #[test]
    fn a_file_is_read_on_from_whole_line_to_whole_line() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("ctr.log");
        let mut file = LogFile::at(path.clone());
        assert!(texts(&mut file).is_empty(), "it is not there yet");
        let mut written = File::create(&path).expect("made");
        write!(written, "2026-11-22T12:00:00Z stdout F one\n2026-11-22T12:00:01Z std")
            .expect("written");
        assert_eq!(texts(&mut file), ["one"]);
        assert!(texts(&mut file).is_empty());
        write!(written, "out F two\n2026-11-22T12:00:02Z stdout P thr").expect("written");
        assert_eq!(texts(&mut file), ["two"]);
        writeln!(written, "e\n2026-11-22T12:00:02Z stdout F e").expect("written");
        assert_eq!(texts(&mut file), ["three"]);
    }

    #[test]
    fn a_file_that_the_engine_began_anew_is_read_from_its_beginning() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("ctr.log");
        std::fs::write(&path, "2026-11-22T12:00:00Z stdout F one\n").expect("written");
        let mut file = LogFile::at(path.clone());
        assert_eq!(texts(&mut file), ["one"]);
        let next = place.path().join("ctr.log.tmp");
        std::fs::write(&next, "2026-11-22T12:00:01Z stdout F two, which is longer\n")
            .expect("written");
        std::fs::rename(&next, &path).expect("renamed");
        assert_eq!(texts(&mut file), ["two, which is longer"]);
        std::fs::write(&path, "2026-11-22T12:00:02Z stdout F 3\n").expect("cut and written");
        assert_eq!(texts(&mut file), ["3"]);
    }
}
