//! What files are made of, the same in every run.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes of which every part differs and which do not compress.
pub(crate) fn noise(seed: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(length).expect("it is small")];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Writes into a file without making it another one.
pub(crate) fn overwrite(path: &Path, at: u64, content: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).expect("opens");
    file.seek(SeekFrom::Start(at)).expect("seeks");
    file.write_all(content).expect("writes");
}
