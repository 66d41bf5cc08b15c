//! What volumes hold now, entry by entry.

use std::io::Read;

use rustix::fs::FileType;

use crate::beneath::file_type;
use crate::capture::{CaptureError, Links, bare, read_xattrs, size, xattrs};
use crate::core::difference::Told;
use crate::core::member::Body;
use crate::walk::{At, Met, io_fault};

/// An entry that was met, with the digest of its content; none for what is in no tree.
pub(super) fn told(met: &Met<'_>, links: &mut Links) -> Result<Option<Told>, CaptureError> {
    let fault = |source| CaptureError::from(io_fault(met.path, source));
    let mut member = bare(met);
    let mut digest = None;
    match (file_type(&met.stat), met.at) {
        (FileType::Directory, _) => member.xattrs = read_xattrs(met)?,
        (FileType::RegularFile, At::Entry { dir, name }) => {
            let (file, stat) = dir.open_file(name).map_err(fault)?;
            if let Some(to) = links.first_name(met)? {
                member.link_to(to.to_vec());
            } else {
                member.body = Body::File { size: size(&stat) };
                member.xattrs = xattrs(&file, met.path)?;
                let mut hasher = blake3::Hasher::new();
                hasher.update_reader((&file).take(size(&stat))).map_err(fault)?;
                digest = Some(*hasher.finalize().as_bytes());
            }
        }
        (FileType::Symlink, At::Entry { dir, name }) => {
            member.body = Body::Symlink { target: dir.read_link(name).map_err(fault)? };
        }
        // Sockets, FIFOs and devices are in no tree.
        _ => return Ok(None),
    }
    Ok(Some(Told { member, digest }))
}
