//! Files that a staged tree shares with the present one.
//!
//! A file that lies in its place already, with the size, the times and all else that the new tree
//! gives it, is not written a second time: it is cloned, or gets a second name in the staged tree.
//! Nothing is taken on trust. Its content is hashed like any other, after everything that was written
//! to it has reached the disk, unless it has not been touched since an apply that did so; and what tells of a later change is compared once more when nobody can
//! make one, with the container stopped. Both trees have the file until one of them is removed, and
//! only one of them is ever where a container sees it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use rustix::fs::Stat;

use crate::beneath::{Dir, Name};
use crate::capture::{has_other_xattrs, xattrs};
use crate::core::member::Member;
use crate::core::ownership::Ids;
use crate::looks::Known;
use crate::stage::give_attributes;
use crate::walk::shown;

/// Memory for what is known of shared files; beyond it files are written.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// A change this soon after another may bear the same time: clocks of file systems tick up to every
/// 10 ms.
const TICK: Duration = Duration::from_millis(20);
/// Bytes hashed at once.
const PIECE: usize = 128 * 1024;

/// Whether files may be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// What did not change is cloned, and where that cannot be, gets a second name.
    ClonesAndLinks,
    /// What did not change is cloned where that can be: the old state may have to come back.
    Clones,
    /// Every file is written.
    Nothing,
}

/// A file that was shared is no longer what it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SharingError {
    #[error("{path:?} was changed while it was taken over from the present state")]
    Changed { path: String },
    #[error("{path:?}, which is taken over from the present state, could not be read")]
    Io {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// The files of a staged tree that are in the present one as well.
#[derive(Debug, Default)]
pub(crate) struct Shared(Vec<SharedFile>);

/// Shares files while a tree is staged.
#[derive(Debug)]
pub(crate) struct Sharer {
    sharing: Sharing,
    known: Option<Known>,
    files: Vec<SharedFile>,
    /// Which of them has an inode of a volume.
    inodes: HashMap<(usize, u64), usize>,
    bytes: usize,
    last: Option<Instant>,
    /// Volumes whose file system does not clone.
    without_clones: Vec<usize>,
}

#[derive(Debug)]
struct SharedFile {
    /// Index of its volume.
    mount: usize,
    /// Its path below the staging directory.
    path: Box<[u8]>,
    seen: Seen,
    digest: [u8; 32],
    /// What it holds, if that is known from an earlier apply.
    known: Option<[u8; 32]>,
}

/// What no change of a file or of what is known about it leaves as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    inode: u64,
    mode: u32,
    owner: Ids,
    size: i64,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl Seen {
    fn of(stat: &Stat) -> Self {
        Self {
            inode: stat.st_ino,
            mode: stat.st_mode,
            owner: (stat.st_uid, stat.st_gid),
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// Where a file is to be shared.
pub(crate) struct Target<'t> {
    /// Index of the volume.
    pub(crate) mount: usize,
    /// Its path below the staging directory.
    pub(crate) path: &'t [u8],
    /// Directory and name of that path.
    pub(crate) parent: &'t Dir,
    pub(crate) name: Name<'t>,
    /// Whom it is to belong to.
    pub(crate) owner: Ids,
}

impl Sharer {
    pub(crate) fn new(sharing: Sharing, known: Option<Known>) -> Self {
        let (files, inodes) = (Vec::new(), HashMap::new());
        Self { sharing, known, files, inodes, bytes: 0, last: None, without_clones: Vec::new() }
    }

    /// Puts the file of this name in the present tree into the staged one, if it is what the new tree
    /// has there. Returns what it is in the staged tree; whatever stands in the way, the file can be written
    /// instead.
    pub(crate) fn share(
        &mut self,
        present: (&Dir, Name<'_>),
        member: &Member,
        size: u64,
        target: &Target<'_>,
    ) -> io::Result<Option<Stat>> {
        let taken = target.path.len() + size_of::<SharedFile>() + 4 * size_of::<u64>();
        if self.sharing == Sharing::Nothing || self.bytes + taken > BYTES_MAX {
            return Ok(None);
        }
        let Ok((file, stat)) = present.0.open_file(present.1) else { return Ok(None) };
        if !is_as(&file, &stat, member, size, target.owner) {
            return Ok(None);
        }
        let mut known = self.known.as_mut().and_then(|known| known.digest(&member.path, &stat));
        let stat = match self.clone_file(&file, member, target)? {
            Some(clone) => {
                // What was written before it was cloned shows here, and is hashed.
                known = known.filter(|_| is_still(&file, &stat));
                clone
            }
            None if self.sharing == Sharing::ClonesAndLinks && stat.st_nlink == 1 => {
                let Some(stat) = link(&file, member, size, target)? else { return Ok(None) };
                stat
            }
            None => return Ok(None),
        };
        self.last = Some(Instant::now());
        self.bytes += taken;
        self.inodes.insert((target.mount, stat.st_ino), self.files.len());
        let (path, seen) = (target.path.into(), Seen::of(&stat));
        self.files.push(SharedFile { mount: target.mount, path, seen, digest: [0; 32], known });
        Ok(Some(stat))
    }

    /// A clone of a file, or none where the file system makes none.
    fn clone_file(
        &mut self,
        file: &File,
        member: &Member,
        target: &Target<'_>,
    ) -> io::Result<Option<Stat>> {
        if self.without_clones.contains(&target.mount) {
            return Ok(None);
        }
        let clone = target.parent.create_new(target.name)?;
        if rustix::fs::ioctl_ficlone(&clone, file).is_err() {
            self.without_clones.push(target.mount);
            target.parent.remove_file(target.name)?;
            return Ok(None);
        }
        give_attributes(&clone, member, target.owner)?;
        Ok(Some(rustix::fs::fstat(&clone)?))
    }

    /// The digest that the file which was shared last must have.
    pub(crate) fn expect(&mut self, digest: [u8; 32]) {
        if let Some(last) = self.files.last_mut() {
            last.digest = digest;
        }
    }

    /// A file of the staged tree got one more name there, which its times tell.
    pub(crate) fn linked(&mut self, mount: usize, stat: &Stat) {
        let index = self.inodes.get(&(mount, stat.st_ino));
        if let Some(file) = index.and_then(|&index| self.files.get_mut(index)) {
            file.seen = Seen::of(stat);
            self.last = Some(Instant::now());
        }
    }

    /// All that was shared, once a change of it would be seen. Blocks the thread.
    pub(crate) fn settle(self) -> Shared {
        if let Some(left) = self.last.and_then(|last| TICK.checked_sub(last.elapsed())) {
            std::thread::sleep(left);
        }
        Shared(self.files)
    }
}

impl Shared {
    /// Hashes what is shared. Everything must have been written to the disk since [`Sharer::settle`]:
    /// a page that is dirty may be changed again without a trace.
    pub(crate) fn verify<'d>(
        &self,
        staging: impl Fn(usize) -> Option<&'d Dir>,
    ) -> Result<(), SharingError> {
        let mut piece = vec![0; PIECE];
        self.each(staging, |parent, name, file| {
            if let Some(known) = file.known {
                let is_same = parent.stat(name)?.is_some_and(|stat| Seen::of(&stat) == file.seen);
                return Ok(is_same && known == file.digest);
            }
            let (mut content, stat) = parent.open_file(name)?;
            if Seen::of(&stat) != file.seen {
                return Ok(false);
            }
            let mut hasher = blake3::Hasher::new();
            loop {
                match content.read(&mut piece)? {
                    0 => break,
                    count => hasher.update(&piece[..count]),
                };
            }
            Ok(*hasher.finalize().as_bytes() == file.digest)
        })
    }

    /// Whether everything that is shared is as it was when it was hashed.
    pub(crate) fn check<'d>(
        &self,
        staging: impl Fn(usize) -> Option<&'d Dir>,
    ) -> Result<(), SharingError> {
        self.each(staging, |parent, name, file| {
            Ok(parent.stat(name)?.is_some_and(|stat| Seen::of(&stat) == file.seen))
        })
    }

    fn each<'d>(
        &self,
        staging: impl Fn(usize) -> Option<&'d Dir>,
        mut is_same: impl FnMut(&Dir, Name<'_>, &SharedFile) -> io::Result<bool>,
    ) -> Result<(), SharingError> {
        // Files of one directory follow one another.
        let mut open: Option<(usize, &[u8], Dir)> = None;
        for file in &self.0 {
            let path = || shown(&file.path);
            let same = (|| {
                let (below, name) = Name::split(&file.path)?;
                if open.as_ref().is_none_or(|(mount, at, _)| (*mount, *at) != (file.mount, below)) {
                    let root = staging(file.mount).ok_or(io::ErrorKind::NotFound)?;
                    open = Some((file.mount, below, root.open_dir(below)?));
                }
                let (_, _, parent) = open.as_ref().ok_or(io::ErrorKind::NotFound)?;
                is_same(parent, name, file)
            })();
            match same {
                Ok(true) => {}
                Ok(false) => return Err(SharingError::Changed { path: path() }),
                Err(source) => return Err(SharingError::Io { path: path(), source }),
            }
        }
        Ok(())
    }
}

/// Whether a file is as it was.
fn is_still(file: &File, stat: &Stat) -> bool {
    rustix::fs::fstat(file).is_ok_and(|now| Seen::of(&now) == Seen::of(stat))
}

/// Gives a file a second name, unless it becomes another meanwhile.
fn link(file: &File, member: &Member, size: u64, target: &Target<'_>) -> io::Result<Option<Stat>> {
    // The descriptor is what was looked at; its name may be another file's by now.
    if target.parent.link_held(target.name, file).is_err() {
        return Ok(None);
    }
    let stat = rustix::fs::fstat(file)?;
    if stat.st_nlink == 2 && is_as(file, &stat, member, size, target.owner) {
        return Ok(Some(stat));
    }
    target.parent.remove_file(target.name)?;
    Ok(None)
}

/// Whether a file is, but for its content, what a tree has in its place.
fn is_as(file: &File, stat: &Stat, member: &Member, size: u64, owner: Ids) -> bool {
    u64::try_from(stat.st_size) == Ok(size)
        && stat.st_mode & 0o7777 == member.mode
        && (stat.st_uid, stat.st_gid) == owner
        && (stat.st_mtime, stat.st_mtime_nsec)
            == (member.mtime.seconds, u64::from(member.mtime.nanos))
        && !has_other_xattrs(file)
        && xattrs(file, &member.path).is_ok_and(|found| found == member.xattrs)
}
