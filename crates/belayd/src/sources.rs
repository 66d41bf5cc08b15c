//! Where configuration and specs are read from.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use belay_lifecycle::SpecFile;
use belay_protocol::SpecFault;

use crate::config::{self, Config, DEFAULT_PATH, Piece};

/// Largest configuration or spec file that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// Reads the file, its drop-ins and the environment.
pub(crate) fn read_config(named: Option<&Path>) -> Result<Config, Vec<SpecFault>> {
    let path = named.unwrap_or(Path::new(DEFAULT_PATH));
    let mut pieces = Vec::new();
    let mut faults = Vec::new();
    match read_file(path) {
        Ok(text) => pieces.push(Piece { name: path.display().to_string(), text }),
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => {}
        Err(error) => faults.push(unreadable(path, &error)),
    }
    for drop_in in toml_files(&path.with_file_name("belayd.d")).unwrap_or_default() {
        match read_file(&drop_in) {
            Ok(text) => pieces.push(Piece { name: drop_in.display().to_string(), text }),
            Err(error) => faults.push(unreadable(&drop_in, &error)),
        }
    }
    // A variable that is not text is nobody's setting; `vars` would panic on it.
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let (environment, unknown) = config::pieces_of_environment(variables);
    pieces.extend(environment);
    faults.extend(unknown);
    let host = nix::unistd::gethostname().ok();
    let host = host.as_deref().map(|name| name.to_string_lossy()).unwrap_or_default();
    let host = host.split('.').next().unwrap_or_default();
    match config::read(&pieces, host) {
        Ok(config) if faults.is_empty() => Ok(config),
        Ok(_) => Err(faults),
        Err(more) => {
            faults.extend(more);
            Err(faults)
        }
    }
}

/// Reads every spec of `workloads.d`. A directory that is absent holds none.
pub(crate) fn read_specs(directory: &Path) -> std::io::Result<Vec<SpecFile>> {
    let files = match toml_files(directory) {
        Ok(files) => files,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let read = |path: PathBuf| {
        let text = read_file(&path).map_err(|error| error.to_string());
        SpecFile { path, text }
    };
    Ok(files.into_iter().map(read).collect())
}

/// The `*.toml` files of a directory, by name; hidden ones are an editor's.
fn toml_files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        if path.extension().is_some_and(|extension| extension == "toml") && !hidden {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> std::io::Result<String> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(std::io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    if metadata.len() > FILE_MAX {
        let text = format!("it has {} bytes, at most {FILE_MAX} are read", metadata.len());
        return Err(std::io::Error::new(ErrorKind::InvalidData, text));
    }
    std::fs::read_to_string(path)
}

fn unreadable(path: &Path, error: &std::io::Error) -> SpecFault {
    SpecFault {
        file: path.display().to_string(),
        key: "(file)".into(),
        found: error.to_string(),
        expected: "a file that can be read".into(),
        nearest: None,
    }
}
