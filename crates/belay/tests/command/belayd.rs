//! belayd's side of the socket, played by a thread: each connection is answered with what the test
//! says, and what was asked is kept.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};

use tempfile::TempDir;

/// One answer: the HTTP status and the body, cut after the body when it is not whole.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn ok(body: impl Into<String>) -> Self {
        Self { status: 200, body: body.into() }
    }
}

/// What `belay` asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) body: String,
}

/// A socket with answers waiting on it.
pub(crate) struct Belayd {
    directory: TempDir,
    asked: Receiver<Asked>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Belayd {
    /// Answers as many connections as there are answers, in order.
    pub(crate) fn answering(answers: Vec<Answer>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("belay.sock")).expect("binds");
        let (sender, asked) = channel();
        let thread = std::thread::spawn(move || {
            for answer in answers {
                let (stream, _) = listener.accept().expect("belay connects");
                let mut reader = BufReader::new(stream);
                sender.send(read_request(&mut reader)).expect("the test waits");
                let head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n\r\n", answer.status);
                let mut stream = reader.into_inner();
                stream.write_all(head.as_bytes()).expect("writes");
                // A belay that fails at a line need not read the rest.
                let _ = stream.write_all(answer.body.as_bytes());
            }
        });
        Self { directory, asked, thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("belay.sock")
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs `belay` against it.
    pub(crate) fn belay(&self, arguments: &[&str]) -> Output {
        belay().env("BELAY_SOCKET", self.socket()).args(arguments).output().expect("it runs")
    }

    /// The next thing that was asked.
    pub(crate) fn asked(&self) -> Asked {
        self.asked.recv().expect("belay asked")
    }
}

impl Drop for Belayd {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            thread.join().expect("every answer was asked for");
        }
    }
}

/// The command, without anything of the caller's environment that it looks at.
pub(crate) fn belay() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_belay"));
    command.env_remove("BELAY_SOCKET").env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

/// Exit code, standard output and standard error.
pub(crate) fn parts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn read_request(reader: &mut impl BufRead) -> Asked {
    let mut line = String::new();
    reader.read_line(&mut line).expect("a request");
    let (mut length, mut is_chunked) = (0, false);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).expect("a header");
        let header = header.trim_end().to_ascii_lowercase();
        if let Some(value) = header.strip_prefix("content-length: ") {
            length = value.parse().expect("a number");
        }
        is_chunked |= header == "transfer-encoding: chunked";
        if header.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("the body");
    while is_chunked {
        let mut size = String::new();
        reader.read_line(&mut size).expect("the size of a chunk");
        let size = usize::from_str_radix(size.trim_end(), 16).expect("a number");
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).expect("a chunk and the end of its line");
        body.extend_from_slice(&chunk[..size]);
        is_chunked = size > 0;
    }
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    Asked { line, body: String::from_utf8(body).expect("JSON") }
}
