//! Builds a record's tree beside the present one, in the volumes that will hold it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;

use belay_packs::FrameFault;
use belay_protocol::record::{Manifest, OWNED_SCHEMA};
use belay_protocol::{Cid, VolumeName};
use rustix::fs::{FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use serde::{Deserialize, Serialize};

use crate::archive::{ArchiveReader, ReadError};
use crate::beneath::{Dir, Name, file_type};
use crate::capture::xattrs;
use crate::core::apply::{Unit, locate};
use crate::core::member::{Body, Member, Mtime};
use crate::core::ownership::{Altered, Ids, Owner, OwnershipPolicy, Position};
use crate::core::record::AcceptedRecord;
use crate::core::tree::{Limits, TreeFault, TreeIndex, TreeSummary, is_below};
use crate::looks::StagedFiles;
use crate::manifest_file::ManifestError;
use crate::sharing::{Shared, Sharer, Sharing, SharingError, Target};
use crate::volume::Volumes;
use crate::walk::shown;

/// Prefix of the directories in a volume's private part that hold staged trees.
pub(crate) const STAGING_PREFIX: &str = "staging-";

/// Bytes written between two looks at the room that is left: the app is running beside this.
const CHECK_EVERY: usize = 4 * 1024 * 1024;
/// Runs of zeros of this many bytes become holes.
const HOLE: usize = 4096;
/// Bytes copied at once; a multiple of [`HOLE`].
const COPY_PIECE: usize = 128 * 1024;
/// Memory for the places of copies that links stand for.
const COPIES_MAX: usize = 128 * 1024 * 1024;

/// A staged tree, whole and durable.
#[derive(Debug)]
pub(crate) struct Staged {
    /// Name of the staging directory in each volume touched.
    pub(crate) directory: String,
    pub(crate) steps: Vec<StagedUnit>,
    /// Files that lie in the present tree too.
    pub(crate) shared: Shared,
    /// What its files look like.
    pub(crate) files: StagedFiles,
    /// Volumes mounted below a declared path, of which the tree says nothing. They stay as they are.
    pub(crate) untouched: Vec<VolumeName>,
    /// What became of owners and set-id bits; none if the tree has none of its own.
    pub(crate) ownership: Option<Settled>,
}

/// Owners and set-id bits of a tree as volumes hold them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settled {
    pub(crate) policy: OwnershipPolicy,
    pub(crate) altered: Altered,
    /// Content id of what the volumes hold, which is not the record's if something was altered.
    pub(crate) holds: Cid,
}

/// One staged entry.
#[derive(Debug)]
pub(crate) struct StagedUnit {
    pub(crate) unit: Unit,
    /// Its name in the staging directory.
    pub(crate) slot: String,
}

/// What a tree is staged from.
pub(crate) trait TreeSource {
    /// The next entry, or none at the end. A file's content must have been read.
    fn next(&mut self) -> Result<Option<Member>, StageError>;

    /// Gives the content of the file that was last returned, piece by piece.
    fn content(
        &mut self,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), StageError>,
    ) -> Result<(), StageError>;

    /// Passes over the content of the file that was last returned, and returns the digest that it is
    /// to have.
    fn pass_over(&mut self) -> Result<[u8; 32], StageError> {
        let mut hasher = blake3::Hasher::new();
        self.content(&mut |piece: &[u8]| {
            hasher.update(piece);
            Ok(())
        })?;
        Ok(*hasher.finalize().as_bytes())
    }

    /// Whether all content that was given is what it should be.
    fn finish(&mut self) -> Result<(), StageError>;
}

impl<R: Read> TreeSource for ArchiveReader<R> {
    fn next(&mut self) -> Result<Option<Member>, StageError> {
        Ok(self.next()?)
    }

    fn content(
        &mut self,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), StageError>,
    ) -> Result<(), StageError> {
        self.content(sink)
    }

    fn finish(&mut self) -> Result<(), StageError> {
        Ok(())
    }
}

/// Why a tree could not be staged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("the tree is refused: {0}")]
    Tree(#[from] TreeFault),
    #[error("this is another tree than the record names: {what} differs")]
    Other { what: &'static str },
    #[error("a chunk of {path:?} is refused: {fault}")]
    Chunk { path: String, fault: FrameFault },
    #[error("{chunks} chunks that were in the present state are no longer there")]
    Lost { chunks: usize },
    #[error("a fetched chunk could not be read")]
    Fetched(#[source] io::Error),
    #[error("{path:?} is a mount point here and no directory in the tree")]
    MountPoint { path: String },
    #[error("{path:?} links to what is no file of the tree")]
    LinkTarget { path: String },
    #[error(
        "volume {volume} has no room for the new state beside the old: {needed} bytes and {members} entries are needed, {bytes} bytes and {inodes} inodes are free"
    )]
    NoRoom { volume: String, needed: u64, members: u64, bytes: u64, inodes: u64 },
    #[error("the tree links too many files from one volume to another")]
    Copies,
    #[error(transparent)]
    Shared(#[from] SharingError),
    #[error("{path:?} could not be staged")]
    Io {
        path: String,
        #[source]
        source: io::Error,
    },
}

fn fault(path: &[u8], source: io::Error) -> StageError {
    StageError::Io { path: shown(path), source }
}

/// Refuses what cannot fit, before anything is fetched. Where unchanged files get a second name, what
/// is free says nothing: only what is new needs room, which is seen as it is staged.
pub(crate) fn check_room(
    volumes: &Volumes,
    units: &[Unit],
    manifest: &Manifest,
    sharing: Sharing,
) -> Result<(), StageError> {
    let mut touched: Vec<usize> = units.iter().map(|unit| unit.mount).collect();
    touched.dedup();
    let (mut bytes, mut inodes, mut size, mut block) = (0_u64, 0_u64, 0_u64, 0_u64);
    for &mount in &touched {
        let volume = &volumes.all[mount];
        let room = volume.room().map_err(|source| fault(volume.point.as_member(), source))?;
        bytes = bytes.saturating_add(room.bytes);
        inodes = inodes.saturating_add(room.inodes);
        size = size.saturating_add(volume.size);
        block = block.max(room.block);
    }
    // Sparse files take less than their size, so size is held against the volume and not against
    // what is free; that is seen file by file.
    let needed = manifest.content_bytes;
    let full = match sharing {
        Sharing::Nothing | Sharing::Clones => {
            manifest.members > inodes || manifest.members.saturating_mul(block) / 8 > bytes
        }
        Sharing::ClonesAndLinks => false,
    };
    if needed > size || full {
        let volume = volumes.all[touched[0]].name.to_string();
        return Err(StageError::NoRoom {
            volume,
            needed,
            members: manifest.members,
            bytes,
            inodes,
        });
    }
    Ok(())
}

/// Stages the tree that `source` gives. On failure nothing is left but a directory that the caller
/// clears away.
pub(crate) fn stage(
    volumes: &Volumes,
    units: Vec<Unit>,
    accepted: &AcceptedRecord,
    source: &mut impl TreeSource,
    directory: &str,
    how: Staging,
) -> Result<Staged, StageError> {
    let manifest = &accepted.record.manifest;
    let limits = Limits { members: manifest.members, content: manifest.content_bytes };
    let mut index = TreeIndex::new(&accepted.roots, limits);
    let mut staging = Site::open(volumes, &units, directory)?;
    let Staging { mut sharer, policy } = how;
    let mut altered = Altered::default();
    while let Some(member) = source.next()? {
        index.admit(&member)?;
        staging.leave_for(&member.path)?;
        let settled = staging.settle(&member, policy, &mut altered)?;
        let digest = staging.place(&settled, source, &mut sharer)?;
        index.record_settled(&member, &settled, &digest);
    }
    staging.leave_for(b"")?;
    source.finish()?;
    let tree = index.finish()?;
    is_named(&tree, accepted)?;
    let common = sharer.settle();
    for place in &staging.places {
        let synced = place.dir.sync_file_system();
        synced.map_err(|source| fault(volumes.all[place.mount].point.as_member(), source))?;
    }
    common.verify(|mount| Some(&staging.at(mount)?.dir))?;
    let (filled, files) = (staging.filled, staging.files);
    let mut staged = Staged {
        directory: directory.to_owned(),
        steps: Vec::new(),
        shared: common,
        files,
        untouched: Vec::new(),
        ownership: tree.owned.then_some(Settled { policy, altered, holds: tree.held }),
    };
    for (index, unit) in units.into_iter().enumerate() {
        if filled[index] {
            staged.steps.push(StagedUnit { unit, slot: slot(index) });
        } else {
            staged.untouched.push(volumes.all[unit.mount].name.clone());
        }
    }
    Ok(staged)
}

/// Whether a tree is the one that a record names.
pub(crate) fn is_named(tree: &TreeSummary, accepted: &AcceptedRecord) -> Result<(), StageError> {
    let manifest = &accepted.record.manifest;
    for (what, differs) in [
        ("its content id", tree.cid != accepted.record.cid),
        ("the number of its entries", tree.members != manifest.members),
        ("the size of its files", tree.content != manifest.content_bytes),
        (
            "whether it has owners or set-id bits of its own",
            tree.owned != (manifest.schema_version == OWNED_SCHEMA),
        ),
    ] {
        if differs {
            return Err(StageError::Other { what });
        }
    }
    Ok(())
}

fn slot(index: usize) -> String {
    format!("u{index}")
}

/// A staging directory in one volume.
struct Place {
    mount: usize,
    dir: Dir,
    /// Whom the root of the volume belongs to.
    owner: Ids,
}

/// How a tree is staged.
#[derive(Debug)]
pub(crate) struct Staging {
    pub(crate) sharer: Sharer,
    pub(crate) policy: OwnershipPolicy,
}

/// Where a tree is staged.
struct Site<'v> {
    volumes: &'v Volumes,
    units: &'v [Unit],
    places: Vec<Place>,
    filled: Vec<bool>,
    /// Directories that are being filled, outermost first. Their mode and time come last.
    open: Vec<Member>,
    /// Copies of files that have names in another volume: by the copy's volume and the first name
    /// of the file, where the copy is staged.
    copies: HashMap<(usize, Vec<u8>), Vec<u8>>,
    /// Bytes of memory that `copies` takes.
    copies_bytes: usize,
    /// Bytes that copies take beyond the content that the record declares, by volume.
    copied: HashMap<usize, u64>,
    files: StagedFiles,
}

impl<'v> Site<'v> {
    fn open(volumes: &'v Volumes, units: &'v [Unit], directory: &str) -> Result<Self, StageError> {
        let mut places: Vec<Place> = Vec::new();
        for unit in units {
            if places.iter().any(|place| place.mount == unit.mount) {
                continue;
            }
            let volume = &volumes.all[unit.mount];
            let opened = (|| {
                let name = Name::new(directory.as_bytes())?;
                volume.private.make_dir(name)?;
                Ok((volume.private.open_child(name)?, volume.owner()?))
            })();
            let (dir, owner) = opened.map_err(|source| fault(volume.point.as_member(), source))?;
            places.push(Place { mount: unit.mount, dir, owner });
        }
        Ok(Self {
            volumes,
            units,
            places,
            filled: vec![false; units.len()],
            open: Vec::new(),
            copies: HashMap::new(),
            copies_bytes: 0,
            copied: HashMap::new(),
            files: StagedFiles::default(),
        })
    }

    fn at(&self, mount: usize) -> Option<&Place> {
        self.places.iter().find(|place| place.mount == mount)
    }

    /// Where a member is staged: its volume's staging directory and its path in that.
    fn locate(&self, member: &[u8]) -> Result<(usize, &Place, Vec<u8>), StageError> {
        let outside = || TreeFault::Outside { path: shown(member) };
        let (unit, below) = locate(self.units, member).ok_or_else(outside)?;
        let mount = self.units[unit].mount;
        let place = self.at(mount).ok_or_else(outside)?;
        let mut path = slot(unit).into_bytes();
        if !below.is_empty() {
            path.push(b'/');
            path.extend_from_slice(below);
        }
        Ok((unit, place, path))
    }

    /// An entry as it will lie in its volume.
    fn settle<'m>(
        &self,
        member: &'m Member,
        policy: OwnershipPolicy,
        altered: &mut Altered,
    ) -> Result<Cow<'m, Member>, StageError> {
        if !member.is_owned() {
            return Ok(Cow::Borrowed(member));
        }
        let (unit, place, _) = self.locate(&member.path)?;
        let unit = &self.units[unit];
        let is_whole_volume = unit.below.is_empty() && unit.path.as_member() == member.path;
        let position = if is_whole_volume { Position::Root } else { Position::Below };
        let settled = policy.settle(member, position, place.owner);
        altered.note(member, &settled, place.owner);
        Ok(settled)
    }

    fn place(
        &mut self,
        member: &Member,
        source: &mut impl TreeSource,
        sharer: &mut Sharer,
    ) -> Result<[u8; 32], StageError> {
        let io = |source| fault(&member.path, source);
        let (unit, place, path) = self.locate(&member.path)?;
        let is_root = self.units[unit].path.as_member() == member.path;
        let whole_volume = is_root && self.units[unit].below.is_empty();
        if whole_volume && member.body != Body::Directory {
            return Err(StageError::MountPoint { path: shown(&member.path) });
        }
        if whole_volume {
            self.keep_mount_point(member)?;
        }
        let (parent, name) = Name::split(&path).map_err(io)?;
        let parent = place.dir.open_dir(parent).map_err(io)?;
        let mut digest = [0; 32];
        let (mut copied, mut staged) = (None, None);
        // Each entry takes an inode, and its directory may take another block.
        self.check_room(place, 0, member)?;
        match &member.body {
            Body::Directory => {
                parent.make_dir(name).map_err(io)?;
                set_xattrs(parent.open_child(name).map_err(io)?.descriptor(), member)?;
            }
            Body::File { size } => {
                let at = (&parent, name, &path[..]);
                let taken_over = if is_root {
                    None
                } else {
                    self.share(member, *size, at, sharer).map_err(io)?
                };
                if let Some(stat) = taken_over {
                    digest = source.pass_over()?;
                    sharer.expect(digest);
                    staged = Some((stat, stat.st_nlink > 1));
                } else {
                    let check_room = || self.check_room(place, *size, member);
                    check_room()?;
                    let owner = member.owner.ids(place.owner);
                    let written =
                        write_file(&parent, name, member, *size, owner, check_room, source)?;
                    digest = written.0;
                    staged = Some((written.1, false));
                }
            }
            Body::Symlink { target } => {
                parent.make_symlink(name, target).map_err(io)?;
                give(&parent, name, member.owner.ids(place.owner)).map_err(io)?;
                parent.set_mtime(name, timespec(member.mtime)).map_err(io)?;
            }
            Body::HardLink { to } => {
                copied = self.link(member, to, place, &parent, name)?;
                if let Some(stat) = parent.stat(name).map_err(io)? {
                    sharer.linked(place.mount, &stat);
                }
            }
        }
        let mount = place.mount;
        if let Some((stat, is_shared)) = staged {
            self.files.note(&stat, is_shared);
        }
        if let Some(bytes) = copied {
            self.copied_to(mount, member, &path, bytes)?;
        }
        self.filled[unit] |= is_root;
        if member.body == Body::Directory {
            self.open.push(member.clone());
        }
        Ok(digest)
    }

    /// Puts the file that has this place now into the staged tree, if it is what the
    /// new tree has there. Roots have names of their own: two names of one file are not exchanged.
    fn share(
        &self,
        member: &Member,
        size: u64,
        (parent, name, path): (&Dir, Name<'_>, &[u8]),
        sharer: &mut Sharer,
    ) -> io::Result<Option<Stat>> {
        let Some((unit, below)) = locate(self.units, &member.path) else { return Ok(None) };
        let unit = &self.units[unit];
        let present = (|| {
            let (between, last) = Name::split(below)?;
            let root = self.volumes.all[unit.mount].data()?;
            let mut at = unit.below.clone().into_bytes();
            if !at.is_empty() && !between.is_empty() {
                at.push(b'/');
            }
            at.extend_from_slice(between);
            Ok::<_, io::Error>((root.open_dir(&at)?, last))
        })();
        // Where there is nothing, or something else on the way, nothing is shared.
        let Ok((present, last)) = present else { return Ok(None) };
        let root = self.at(unit.mount).ok_or(io::ErrorKind::NotFound)?.owner;
        let owner = member.owner.ids(root);
        let target = Target { mount: unit.mount, path, parent, name, owner };
        sharer.share((&present, last), member, size, &target)
    }

    /// Where the root of a volume lies in a directory of another unit, that directory keeps an
    /// empty one for it to be mounted on.
    fn keep_mount_point(&self, member: &Member) -> Result<(), StageError> {
        let io = |source| fault(&member.path, source);
        let Ok((parent, name)) = Name::split(&member.path) else { return Ok(()) };
        if locate(self.units, parent).is_none() {
            return Ok(());
        }
        let (_, place, path) = self.locate(parent)?;
        let parent = place.dir.open_dir(&path).map_err(io)?;
        parent.make_dir(name).map_err(io)?;
        parent.open_child(name).map_err(io)?.set_mode(member.mode).map_err(io)?;
        parent.chown(name, place.owner.0, place.owner.1).map_err(io)
    }

    fn check_room(&self, place: &Place, size: u64, member: &Member) -> Result<(), StageError> {
        let volume = &self.volumes.all[place.mount];
        let room = volume.room().map_err(|source| fault(&member.path, source))?;
        // A file larger than what is free may still be mostly holes; it then ends by itself.
        if room.bytes == 0 || room.inodes == 0 || size > volume.size {
            return Err(StageError::NoRoom {
                volume: volume.name.to_string(),
                needed: size,
                members: 1,
                bytes: room.bytes,
                inodes: room.inodes,
            });
        }
        Ok(())
    }

    /// Gives a file another name, or copies it into another volume. Returns the size of a copy.
    fn link(
        &self,
        member: &Member,
        to: &[u8],
        place: &Place,
        parent: &Dir,
        name: Name<'_>,
    ) -> Result<Option<u64>, StageError> {
        let io = |source| fault(&member.path, source);
        let refused = || StageError::LinkTarget { path: shown(&member.path) };
        let (_, to_place, to_path) = self.locate(to)?;
        let (to_parent, to_name) = Name::split(&to_path).map_err(io)?;
        let to_parent = to_place.dir.open_dir(to_parent).map_err(|_| refused())?;
        let target = to_parent.stat(to_name).map_err(io)?.ok_or_else(refused)?;
        if file_type(&target) != FileType::RegularFile {
            return Err(refused());
        }
        if to_place.mount == place.mount {
            parent.link(name, &to_parent, to_name).map_err(io)?;
            return Ok(None);
        }
        // No link reaches from one volume to another: there the file is another file, one for all
        // its names in that volume.
        if let Some(copy) = self.copies.get(&(place.mount, to.to_vec())) {
            let (copy_parent, copy_name) = Name::split(copy).map_err(io)?;
            let copy_parent = place.dir.open_dir(copy_parent).map_err(io)?;
            parent.link(name, &copy_parent, copy_name).map_err(io)?;
            return Ok(None);
        }
        let (mut source, stat) = to_parent.open_file(to_name).map_err(io)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let before = self.copied.get(&place.mount).copied().unwrap_or(0);
        let check_room = || self.check_room(place, before.saturating_add(size), member);
        check_room()?;
        let mut copy = parent.create_new(name).map_err(io)?;
        let mut piece = vec![0; COPY_PIECE];
        let mut unchecked = 0;
        loop {
            let count = source.read(&mut piece).map_err(io)?;
            if count == 0 {
                break;
            }
            unchecked += count;
            if unchecked >= CHECK_EVERY {
                unchecked = 0;
                check_room()?;
            }
            write_sparse(&mut copy, &piece[..count]).map_err(io)?;
        }
        copy.set_len(size).map_err(io)?;
        let attributes =
            xattrs(&source, &member.path).map_err(|error| io(io::Error::other(error)))?;
        set_xattrs(&copy, &Member { xattrs: attributes, ..member.clone() })?;
        // Who is the owner of that volume is that of this one here.
        let owner = Owner::of((stat.st_uid, stat.st_gid), to_place.owner).ids(place.owner);
        own(&copy, owner, stat.st_mode & 0o7777).map_err(io)?;
        rustix::fs::futimens(&copy, &times(member.mtime)).map_err(|error| io(error.into()))?;
        Ok(Some(size))
    }

    /// Remembers a copy, so that other names of its file become links to it.
    fn copied_to(
        &mut self,
        mount: usize,
        member: &Member,
        path: &[u8],
        bytes: u64,
    ) -> Result<(), StageError> {
        let Body::HardLink { to } = &member.body else { return Ok(()) };
        let copied = self.copied.entry(mount).or_default();
        *copied = copied.saturating_add(bytes);
        self.copies_bytes += to.len() + path.len();
        if self.copies_bytes > COPIES_MAX {
            return Err(StageError::Copies);
        }
        self.copies.insert((mount, to.clone()), path.to_vec());
        Ok(())
    }

    /// Finishes every open directory that does not hold `next`.
    fn leave_for(&mut self, next: &[u8]) -> Result<(), StageError> {
        while self.open.last().is_some_and(|dir| next.is_empty() || !is_below(next, &dir.path)) {
            let Some(member) = self.open.pop() else { break };
            let io = |source| fault(&member.path, source);
            let (_, place, path) = self.locate(&member.path)?;
            let dir = place.dir.open_dir(&path).map_err(io)?;
            let owner = member.owner.ids(place.owner);
            own(dir.descriptor(), owner, member.mode).map_err(io)?;
            rustix::fs::futimens(dir.descriptor(), &times(member.mtime))
                .map_err(|error| io(error.into()))?;
        }
        Ok(())
    }
}

fn write_file(
    parent: &Dir,
    name: Name<'_>,
    member: &Member,
    size: u64,
    owner: Ids,
    check_room: impl Fn() -> Result<(), StageError>,
    source: &mut impl TreeSource,
) -> Result<([u8; 32], Stat), StageError> {
    let io = |source| fault(&member.path, source);
    let mut file = parent.create_new(name).map_err(io)?;
    let mut hasher = blake3::Hasher::new();
    let mut unchecked = 0;
    source.content(&mut |piece| {
        hasher.update(piece);
        unchecked += piece.len();
        if unchecked >= CHECK_EVERY {
            unchecked = 0;
            check_room()?;
        }
        write_sparse(&mut file, piece).map_err(io)
    })?;
    file.set_len(size).map_err(io)?;
    give_attributes(&file, member, owner).map_err(io)?;
    let stat = rustix::fs::fstat(&file).map_err(|error| io(error.into()))?;
    Ok((*hasher.finalize().as_bytes(), stat))
}

/// Gives a file that was just made what its content does not tell.
pub(crate) fn give_attributes(file: &File, member: &Member, owner: Ids) -> io::Result<()> {
    for (name, value) in &member.xattrs {
        rustix::fs::fsetxattr(file, &name[..], value, XattrFlags::CREATE)?;
    }
    own(file, owner, member.mode)?;
    Ok(rustix::fs::futimens(file, &times(member.mtime))?)
}

/// Writes the next piece of a file, with holes in the place of zeros. Pieces but the last have a
/// length that is a multiple of [`HOLE`].
pub(crate) fn write_sparse(file: &mut (impl Write + Seek), piece: &[u8]) -> io::Result<()> {
    for part in piece.chunks(HOLE) {
        if part.len() == HOLE && part.iter().all(|&byte| byte == 0) {
            let hole = i64::try_from(HOLE).unwrap_or(0);
            file.seek(SeekFrom::Current(hole))?;
        } else {
            file.write_all(part)?;
        }
    }
    Ok(())
}

/// Owner first: giving a file away clears mode bits.
pub(crate) fn own(file: impl AsFd, owner: Ids, mode: u32) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
    rustix::fs::fchown(&file, Some(user), Some(group))
        .map_err(|error| no_owner(error.into(), owner))?;
    Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?)
}

/// Gives an entry away that is not followed if it is a link.
pub(crate) fn give(parent: &Dir, name: Name<'_>, owner: Ids) -> io::Result<()> {
    parent.chown(name, owner.0, owner.1).map_err(|error| no_owner(error, owner))
}

/// Nothing can belong to these ids here.
#[derive(Debug, thiserror::Error)]
#[error(
    "the ids {user}:{group} do not exist here: belayd runs in a user namespace without them (with \
     owners = \"volume\" everything belongs to the owner of the volume)"
)]
struct NoOwner {
    user: u32,
    group: u32,
}

/// That ids are unknown is all that the kernel calls an invalid argument of such a call.
fn no_owner(error: io::Error, (user, group): Ids) -> io::Error {
    match error.kind() {
        io::ErrorKind::InvalidInput => io::Error::other(NoOwner { user, group }),
        _ => error,
    }
}

fn set_xattrs(file: impl AsFd, member: &Member) -> Result<(), StageError> {
    for (name, value) in &member.xattrs {
        rustix::fs::fsetxattr(&file, &name[..], value, XattrFlags::CREATE)
            .map_err(|error| fault(&member.path, error.into()))?;
    }
    Ok(())
}

fn timespec(mtime: Mtime) -> Timespec {
    Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() }
}

fn times(mtime: Mtime) -> Timestamps {
    Timestamps { last_access: timespec(mtime), last_modification: timespec(mtime) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::context::with_causes;

    const WITHIN: &str = "BELAY_TEST_WITHIN_A_USER_NAMESPACE";

    /// Runs itself once more where no id exists but root's.
    #[test]
    fn ids_that_do_not_exist_here_are_named_with_what_to_do() {
        if std::env::var_os(WITHIN).is_none() {
            let name = "stage::tests::ids_that_do_not_exist_here_are_named_with_what_to_do";
            let this = std::env::current_exe().expect("it runs");
            let mut within = Command::new("unshare");
            within.args(["--user", "--map-root-user"]).arg(this).args(["--exact", name]);
            let ran = within.env(WITHIN, "1").output().expect("unshare runs");
            let told = String::from_utf8_lossy(&ran.stdout);
            assert!(ran.status.success() && told.contains("1 passed"), "{told}");
            return;
        }
        let temp = tempfile::tempdir().expect("a temporary directory");
        let file = File::create(temp.path().join("file")).expect("creates");
        let dir = Dir::open(temp.path()).expect("opens");
        let name = Name::new(b"file").expect("a name");
        own(&file, (0, 0), 0o600).expect("root exists");
        for refused in [own(&file, (7, 8), 0o600), give(&dir, name, (7, 8))] {
            let refused = fault(b"data/f", refused.expect_err("nobody has them"));
            assert_eq!(
                with_causes(&refused),
                "\"data/f\" could not be staged: the ids 7:8 do not exist here: belayd runs in a \
                 user namespace without them (with owners = \"volume\" everything belongs to the \
                 owner of the volume)"
            );
        }
    }
}
