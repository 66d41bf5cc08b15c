//! Blobs that were taken out of their place.
//!
//! Each lies under a name of its own, so that whoever set it aside decides over that alone, and not
//! over what others stored or put back meanwhile.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use belay_protocol::Cid;

use super::{LocalStore, make_dir, new_name, sync_parent};
use crate::blob::{Aside, BlobError};

impl LocalStore {
    fn asides_dir(&self) -> PathBuf {
        self.root.join("aside")
    }

    fn aside_path(&self, aside: &Aside) -> PathBuf {
        self.asides_dir().join(format!("{}.{}", aside.id(), aside.mark()))
    }

    pub(super) fn set_aside_blocking(&self, id: Cid) -> Result<Option<Aside>, BlobError> {
        let io = |error| BlobError::io("set an object aside", error);
        make_dir(&self.asides_dir()).map_err(io)?;
        let aside = Aside::new(id, new_name());
        let (from, to) = (self.blob_path(id), self.aside_path(&aside));
        match fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        }
        sync_parent(&to).and_then(|()| sync_parent(&from)).map_err(io)?;
        Ok(Some(aside))
    }

    pub(super) fn put_back_blocking(&self, aside: &Aside) -> Result<(), BlobError> {
        let io = |error| BlobError::io("put an object back", error);
        let (from, to) = (self.aside_path(aside), self.blob_path(aside.id()));
        if let Some(shard) = to.parent() {
            make_dir(shard).map_err(io)?;
        }
        match fs::hard_link(&from, &to) {
            Ok(()) => {}
            // What was stored anew was hashed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io(error)),
        }
        // It is in its place for good before its other name goes.
        sync_parent(&to).map_err(io)?;
        self.remove_aside_blocking(aside)
    }

    pub(super) fn remove_aside_blocking(&self, aside: &Aside) -> Result<(), BlobError> {
        let path = self.aside_path(aside);
        let removed = match fs::remove_file(&path) {
            Ok(()) => sync_parent(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(|error| BlobError::io("remove an object", error))
    }

    pub(super) fn asides_blocking(&self, limit: usize) -> Result<Vec<Aside>, BlobError> {
        let listed = self.listed_asides(limit, |_| true);
        listed.map_err(|error| BlobError::io("list what is set aside", error))
    }

    fn listed_asides(&self, limit: usize, wanted: impl Fn(Cid) -> bool) -> io::Result<Vec<Aside>> {
        let entries = match fs::read_dir(self.asides_dir()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut asides = Vec::new();
        for entry in entries {
            if asides.len() == limit {
                break;
            }
            let name = entry?.file_name();
            let Some((id, mark)) = name.to_str().and_then(|name| name.split_once('.')) else {
                continue;
            };
            let Ok(id) = id.parse::<Cid>() else { continue };
            if wanted(id) {
                asides.push(Aside::new(id, mark.to_owned()));
            }
        }
        Ok(asides)
    }

    /// Opens a blob in its place or where it was set aside.
    pub(super) fn open_anywhere(&self, id: Cid) -> io::Result<Option<File>> {
        if let Some(file) = open(self.blob_path(id))? {
            return Ok(Some(file));
        }
        for aside in self.listed_asides(usize::MAX, |found| found == id)? {
            if let Some(file) = open(self.aside_path(&aside))? {
                return Ok(Some(file));
            }
        }
        // It may have been put back between the two looks.
        open(self.blob_path(id))
    }
}

fn open(path: PathBuf) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
