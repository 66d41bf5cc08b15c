//! Unpacks an archive that another program wrote, into the spool.
//!
//! What comes of it looks to a capture like the volumes of the workload. Members may come in any
//! order, so that directories get their times when everything is in them.

use std::collections::HashSet;
use std::fs::{DirBuilder, File};
use std::io::{self, BufReader, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use rustix::fs::{FileType, Timespec, Timestamps, XattrFlags};

use crate::archive::{ArchiveReader, Foreign, ReadError};
use crate::beneath::{Dir, Name, file_type};
use crate::capture::{CHECK_EVERY, Skipped};
use crate::clones::NoClones;
use crate::context::with_causes;
use crate::core::importing::{Arrivals, Capacity, Destination, ImportFault};
use crate::core::member::{Body, Member, Mtime};
use crate::core::ownership::{Ids, Owner};
use crate::core::path::ContainerPath;
use crate::core::tree::are_xattrs;
use crate::layout::SyncLayout;
use crate::spool::{SpooledDir, keep_reserve};
use crate::stage::{give, own, write_sparse};
use crate::volume::{Volumes, VolumesError, mount_table};
use crate::walk::shown;

/// Memory for the paths of directories, whose times are set last.
const DIRECTORIES_MAX: usize = 128 * 1024 * 1024;
/// Mode of a directory of which the archive says nothing but what is in it.
const IMPLIED_MODE: u32 = 0o755;
/// Room on the disk that an entry takes beside its content.
const ENTRY_ROOM: usize = 4096;

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("it is not compressed with gzip")]
    NotGzip,
    #[error(transparent)]
    Fault(#[from] ImportFault),
    #[error("{path:?} is named twice")]
    Twice { path: String },
    #[error("{path:?} lies below what is no directory")]
    NoDirectory { path: String },
    #[error("{path:?} is a mount point here and no directory in the archive")]
    MountPoint { path: String },
    #[error("{path:?} links to what is no file before it in the archive")]
    LinkTarget { path: String },
    #[error("{path:?} has attributes that the file system of the state directory does not keep")]
    Attributes {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("the names of its directories take more than {DIRECTORIES_MAX} bytes")]
    Directories,
    #[error("the volumes of the workload are unknown")]
    Volumes(#[from] VolumesError),
    #[error("belayd is ending")]
    Ending,
    #[error("{path:?} could not be unpacked")]
    Io {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("the spool could not be used")]
    Spool(#[source] io::Error),
}

impl UnpackError {
    /// What is wrong, with what the decompressor says of it.
    pub(crate) fn in_words(&self) -> String {
        match self {
            Self::Read(ReadError::Io(_))
            | Self::Attributes { .. }
            | Self::Volumes(_)
            | Self::Io { .. }
            | Self::Spool(_) => with_causes(self),
            // Their causes are part of their words.
            Self::Read(ReadError::Fault(_))
            | Self::NotGzip
            | Self::Fault(_)
            | Self::Twice { .. }
            | Self::NoDirectory { .. }
            | Self::MountPoint { .. }
            | Self::LinkTarget { .. }
            | Self::Directories
            | Self::Ending => self.to_string(),
        }
    }

    /// Whether it is the archive that is at fault, and not this host.
    pub(crate) fn is_of_the_archive(&self) -> bool {
        match self {
            Self::Read(_)
            | Self::NotGzip
            | Self::Fault(_)
            | Self::Twice { .. }
            | Self::NoDirectory { .. }
            | Self::MountPoint { .. }
            | Self::LinkTarget { .. }
            | Self::Directories => true,
            Self::Attributes { .. }
            | Self::Volumes(_)
            | Self::Ending
            | Self::Io { .. }
            | Self::Spool(_) => false,
        }
    }
}

/// An unpacked archive.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// Where it lies; it goes with this.
    pub(crate) scratch: SpooledDir,
    /// The workload with what was unpacked in the place of its volumes, and without those of which
    /// the archive says nothing.
    pub(crate) layout: SyncLayout,
    /// What the archive declares, in order.
    pub(crate) roots: Vec<ContainerPath>,
    pub(crate) skipped: Skipped,
}

/// Unpacks `archive` into an empty directory of the spool.
pub(crate) fn unpack(
    archive: File,
    layout: &SyncLayout,
    scratch: SpooledDir,
    is_ending: impl Fn() -> bool,
) -> Result<Unpacked, UnpackError> {
    is_gzip(&archive)?;
    let mut reader = ArchiveReader::new(MultiGzDecoder::new(BufReader::new(archive)));
    let mut unpacking = Unpacking::begin(layout, &scratch)?;
    while let Some(next) = reader.next_foreign()? {
        if is_ending() {
            return Err(UnpackError::Ending);
        }
        match next {
            Foreign::Special(name) => {
                let path = unpacking.arrivals.leave_out(&name)?;
                unpacking.skipped.note(&path);
            }
            Foreign::Member(member) => unpacking.place(&member, &mut reader, &is_ending)?,
        }
    }
    unpacking.date()?;
    let Unpacking { mut filled, arrivals, skipped, .. } = unpacking;
    let roots = arrivals.declared()?;
    filled.sort_unstable();
    let mounts = filled.into_iter().map(|mount| {
        let mut point = layout.mounts[mount].clone();
        let place = scratch.path().join(mount.to_string());
        (point.data, point.private) = (place.join("data"), place.join("private"));
        point
    });
    let layout = SyncLayout {
        mounts: mounts.collect(),
        control: layout.control.clone(),
        clones: Arc::new(NoClones),
    };
    Ok(Unpacked { scratch, layout, roots, skipped })
}

fn is_gzip(mut archive: &File) -> Result<(), UnpackError> {
    let mut magic = [0; 2];
    let read = io::Read::read_exact(&mut archive, &mut magic);
    archive.seek(SeekFrom::Start(0)).map_err(UnpackError::Spool)?;
    match read {
        Ok(()) if magic == [0x1f, 0x8b] => Ok(()),
        Ok(()) => Err(UnpackError::NotGzip),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(UnpackError::NotGzip),
        Err(error) => Err(UnpackError::Spool(error)),
    }
}

fn fault(path: &[u8], source: io::Error) -> UnpackError {
    UnpackError::Io { path: shown(path), source }
}

struct Unpacking {
    arrivals: Arrivals,
    /// By volume: what is unpacked in its place.
    data: Vec<Dir>,
    /// By volume: whom its root belongs to.
    owners: Vec<Ids>,
    /// The volumes of which the archive says something.
    filled: Vec<usize>,
    /// Directories that were made because something lies in them, by volume and place.
    implied: HashSet<(usize, Vec<u8>)>,
    /// Directories that the archive names, with the times that they get.
    dated: Vec<(usize, Vec<u8>, Mtime)>,
    /// Bytes of memory that both take.
    directory_bytes: usize,
    skipped: Skipped,
    /// Bytes written since the last look at the room on the disk.
    unchecked: usize,
}

impl Unpacking {
    fn begin(layout: &SyncLayout, scratch: &SpooledDir) -> Result<Self, UnpackError> {
        let mounts = mount_table(layout)?;
        let volumes = Volumes::open(layout)?;
        let mut data = Vec::new();
        let mut owners = Vec::new();
        let mut capacities = Vec::new();
        let mut implied = HashSet::new();
        for (index, mount) in layout.mounts.iter().enumerate() {
            let place = scratch.path().join(index.to_string());
            let make = |path| DirBuilder::new().mode(0o700).create(path);
            make(&place).map_err(UnpackError::Spool)?;
            make(&place.join("data")).map_err(UnpackError::Spool)?;
            let dir = Dir::open(&place.join("data")).map_err(UnpackError::Spool)?;
            // What the archive says of no owner is the owner's of the volume, as it is there.
            let owner = volumes.all[index].owner().map_err(UnpackError::Spool)?;
            own(dir.descriptor(), owner, IMPLIED_MODE).map_err(UnpackError::Spool)?;
            data.push(dir);
            owners.push(owner);
            implied.insert((index, Vec::new()));
            capacities.push(Capacity { volume: mount.volume.to_string(), size: mount.size });
        }
        Ok(Self {
            arrivals: Arrivals::new(mounts, capacities),
            data,
            owners,
            filled: Vec::new(),
            implied,
            dated: Vec::new(),
            directory_bytes: 0,
            skipped: Skipped::default(),
            unchecked: 0,
        })
    }

    fn place<R: io::Read>(
        &mut self,
        member: &Member,
        reader: &mut ArchiveReader<R>,
        is_ending: &impl Fn() -> bool,
    ) -> Result<(), UnpackError> {
        let destination = self.arrivals.admit(&member.path, &member.body)?;
        let Destination::Volume { mount, path, point } = destination else { return Ok(()) };
        if !are_xattrs(&member.xattrs) {
            return Err(ImportFault::Xattrs { path: shown(&path) }.into());
        }
        if !self.filled.contains(&mount) {
            self.filled.push(mount);
        }
        let below = &path[point..];
        if below.is_empty() {
            if member.body != Body::Directory {
                return Err(UnpackError::MountPoint { path: shown(&path) });
            }
            return self.directory(mount, below, member, &path);
        }
        let (parent, name) = Name::split(below).map_err(|source| fault(&path, source))?;
        let parent = self.parent(mount, parent, &path)?;
        self.unchecked += ENTRY_ROOM;
        if self.unchecked >= CHECK_EVERY {
            let kept = keep_reserve(parent.descriptor(), self.unchecked);
            kept.map_err(|source| fault(&path, source))?;
            self.unchecked = 0;
        }
        match &member.body {
            Body::Directory => self.directory(mount, below, member, &path),
            Body::File { size } => {
                let file = parent.create_new(name).map_err(|source| made(&path, source))?;
                self.file(&file, *size, &path, reader, is_ending)?;
                set_xattrs(&file, member, &path)?;
                let owned = own(&file, member.owner.ids(self.owners[mount]), member.mode);
                owned.map_err(|source| fault(&path, source))?;
                let dated = rustix::fs::futimens(&file, &times(member.mtime));
                dated.map_err(|error| fault(&path, error.into()))
            }
            Body::Symlink { target } => {
                parent.make_symlink(name, target).map_err(|source| made(&path, source))?;
                let owned = give(&parent, name, member.owner.ids(self.owners[mount]));
                owned.map_err(|source| fault(&path, source))?;
                let dated = parent.set_mtime(name, timespec(member.mtime));
                dated.map_err(|source| fault(&path, source))
            }
            Body::HardLink { to } => self.link(&parent, name, to, &path),
        }
    }

    fn file<R: io::Read>(
        &mut self,
        file: &File,
        size: u64,
        path: &[u8],
        reader: &mut ArchiveReader<R>,
        is_ending: &impl Fn() -> bool,
    ) -> Result<(), UnpackError> {
        let mut target = file;
        let unchecked = &mut self.unchecked;
        reader.content(|piece| {
            *unchecked += piece.len();
            if *unchecked >= CHECK_EVERY {
                if is_ending() {
                    return Err(UnpackError::Ending);
                }
                keep_reserve(file, *unchecked).map_err(|source| fault(path, source))?;
                *unchecked = 0;
            }
            write_sparse(&mut target, piece).map_err(|source| fault(path, source))
        })?;
        file.set_len(size).map_err(|source| fault(path, source))
    }

    fn link(
        &self,
        parent: &Dir,
        name: Name<'_>,
        to: &[u8],
        path: &[u8],
    ) -> Result<(), UnpackError> {
        let refused = || UnpackError::LinkTarget { path: shown(path) };
        let Destination::Volume { mount, path: to, point } = self.arrivals.linked(to)? else {
            return Err(refused());
        };
        let (to_parent, to_name) = Name::split(&to[point..]).map_err(|_| refused())?;
        let to_parent = self.data[mount].open_dir(to_parent).map_err(|_| refused())?;
        let target = to_parent.stat(to_name).map_err(|source| fault(path, source))?;
        if !target.is_some_and(|found| file_type(&found) == FileType::RegularFile) {
            return Err(refused());
        }
        parent.link(name, &to_parent, to_name).map_err(|source| made(path, source))
    }

    /// Makes a directory that the archive names, or takes the one that was made for what is in it.
    fn directory(
        &mut self,
        mount: usize,
        below: &[u8],
        member: &Member,
        path: &[u8],
    ) -> Result<(), UnpackError> {
        let root = &self.data[mount];
        if !self.implied.remove(&(mount, below.to_vec())) {
            let (parent, name) = Name::split(below).map_err(|source| match below {
                // The root of a volume is there from the beginning.
                b"" => UnpackError::Twice { path: shown(path) },
                _ => fault(path, source),
            })?;
            let parent = root.open_dir(parent).map_err(|source| fault(path, source))?;
            parent.make_dir(name).map_err(|source| made(path, source))?;
        }
        let dir = root.open_dir(below).map_err(|source| fault(path, source))?;
        set_xattrs(dir.descriptor(), member, path)?;
        let position = if below.is_empty() { Owner::default() } else { member.owner };
        let owned = own(dir.descriptor(), position.ids(self.owners[mount]), member.mode);
        owned.map_err(|source| fault(path, source))?;
        self.hold(below)?;
        self.dated.push((mount, below.to_vec(), member.mtime));
        Ok(())
    }

    /// The directory that something lies in, made where the archive has not named it yet.
    fn parent(&mut self, mount: usize, below: &[u8], path: &[u8]) -> Result<Dir, UnpackError> {
        let opened = |source: io::Error| match source.kind() {
            io::ErrorKind::NotADirectory => UnpackError::NoDirectory { path: shown(path) },
            _ if is_loop(&source) => UnpackError::NoDirectory { path: shown(path) },
            _ => fault(path, source),
        };
        match self.data[mount].open_dir(below) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found.map_err(opened),
        }
        let mut made_to = 0;
        let mut dir = self.data[mount].open_dir(b"").map_err(opened)?;
        for part in below.split(|&byte| byte == b'/') {
            let end = if made_to == 0 { part.len() } else { made_to + 1 + part.len() };
            let name = Name::new(part).map_err(|source| fault(path, source))?;
            dir = match dir.open_child(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    dir.make_dir(name).map_err(|source| fault(path, source))?;
                    let child = dir.open_child(name).map_err(opened)?;
                    own(child.descriptor(), self.owners[mount], IMPLIED_MODE)
                        .map_err(|source| fault(path, source))?;
                    self.hold(&below[..end])?;
                    self.implied.insert((mount, below[..end].to_vec()));
                    self.unchecked += ENTRY_ROOM;
                    child
                }
                found => found.map_err(opened)?,
            };
            made_to = end;
        }
        Ok(dir)
    }

    fn hold(&mut self, path: &[u8]) -> Result<(), UnpackError> {
        self.directory_bytes += path.len() + size_of::<(usize, Vec<u8>, Mtime)>();
        if self.directory_bytes > DIRECTORIES_MAX {
            return Err(UnpackError::Directories);
        }
        Ok(())
    }

    /// Gives directories their times, now that nothing is put into them any more. Those that the
    /// archive does not name have none of their own, and get one that is always the same.
    fn date(&mut self) -> Result<(), UnpackError> {
        let none = Mtime { seconds: 0, nanos: 0 };
        let implied = self.implied.drain().map(|(mount, below)| (mount, below, none));
        for (mount, below, mtime) in self.dated.drain(..).chain(implied) {
            let dir = self.data[mount].open_dir(&below).map_err(|source| fault(&below, source))?;
            rustix::fs::futimens(dir.descriptor(), &times(mtime))
                .map_err(|error| fault(&below, error.into()))?;
        }
        Ok(())
    }
}

/// What a name that could not be made says of the archive.
fn made(path: &[u8], source: io::Error) -> UnpackError {
    match source.kind() {
        io::ErrorKind::AlreadyExists => UnpackError::Twice { path: shown(path) },
        _ => fault(path, source),
    }
}

fn is_loop(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

fn set_xattrs(file: impl AsFd, member: &Member, path: &[u8]) -> Result<(), UnpackError> {
    for (name, value) in &member.xattrs {
        rustix::fs::fsetxattr(&file, &name[..], value, XattrFlags::CREATE)
            .map_err(|error| UnpackError::Attributes { path: shown(path), source: error.into() })?;
    }
    Ok(())
}

fn timespec(mtime: Mtime) -> Timespec {
    Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() }
}

fn times(mtime: Mtime) -> Timestamps {
    Timestamps { last_access: timespec(mtime), last_modification: timespec(mtime) }
}
