//! Where the members of an archive that another program wrote go, and what is declared by them.

use super::member::Body;
use super::path::{ContainerPath, Mounts, PathFault, Unresolved};
use super::record::PATHS_MAX;
use super::tree::{MEMBERS_MAX, is_below, is_target, is_tree_path, parts};

/// Why an archive is not taken for a tree of this workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ImportFault {
    #[error("{path:?} contains \"..\"")]
    Traversal { path: String },
    #[error("{path:?} is no path that a tree holds")]
    Path { path: String },
    #[error("{path:?} is a link with a target that no link has")]
    Target { path: String },
    #[error("{path:?} has extended attributes that no tree holds")]
    Xattrs { path: String },
    #[error("{0}, and what is topmost in the archive is what is declared")]
    Topmost(#[from] PathFault),
    #[error("{path:?} is not UTF-8, and what is topmost in the archive is what is declared")]
    Unreadable { path: String },
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    #[error(
        "more than {PATHS_MAX} of its paths lie in no directory that came before them; put the \
         directories into the archive, before what is in them"
    )]
    TooManyPaths,
    #[error("the archive has more than {MEMBERS_MAX} members")]
    TooManyMembers,
    #[error("the files for volume {volume} hold more than the volume does ({size} bytes)")]
    TooMuchContent { volume: String, size: u64 },
    #[error("nothing in the archive lies in a volume of the workload")]
    Nothing,
}

/// A volume as far as an import needs it.
#[derive(Debug, Clone)]
pub(crate) struct Capacity {
    pub(crate) volume: String,
    /// Bytes.
    pub(crate) size: u64,
}

/// Where a member goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Into the volume of this index.
    Volume {
        mount: usize,
        /// Its path in the container, as a tree has it.
        path: Vec<u8>,
        /// How much of that path is the volume's mount point, with the slash after it.
        point: usize,
    },
    /// Nowhere: it is a directory around volumes, of which no volume holds anything.
    Nowhere,
}

/// Takes the members of one archive, in whatever order they come.
#[derive(Debug)]
pub(crate) struct Arrivals {
    mounts: Mounts,
    capacities: Vec<Capacity>,
    /// Bytes of files, by volume.
    content: Vec<u64>,
    members: u64,
    /// What is declared so far: none at or below another.
    roots: Vec<ContainerPath>,
}

impl Arrivals {
    /// `capacities` are those of the volumes of `mounts`, in their order.
    pub(crate) fn new(mounts: Mounts, capacities: Vec<Capacity>) -> Self {
        let content = vec![0; capacities.len()];
        Self { mounts, capacities, content, members: 0, roots: Vec::new() }
    }

    /// Judges a member by the name that it has in the archive.
    pub(crate) fn admit(&mut self, name: &[u8], body: &Body) -> Result<Destination, ImportFault> {
        let path = self.named(name)?;
        if *body == Body::Directory && self.mounts.is_above(&path) {
            return Ok(Destination::Nowhere);
        }
        if let Body::Symlink { target } = body
            && !is_target(target)
        {
            return Err(ImportFault::Target { path: shown(&path) });
        }
        let declared =
            |root: &ContainerPath| root.as_member() == path || is_below(&path, root.as_member());
        if !self.roots.iter().any(declared) {
            self.declare(&path)?;
        }
        let destination = self.place(path)?;
        if let (Body::File { size }, Destination::Volume { mount, .. }) = (body, &destination) {
            let capacity = &self.capacities[*mount];
            let content = &mut self.content[*mount];
            *content = content.saturating_add(*size);
            if *content > capacity.size {
                let Capacity { volume, size } = capacity.clone();
                return Err(ImportFault::TooMuchContent { volume, size });
            }
        }
        Ok(destination)
    }

    /// Counts what is left out, and returns its path.
    pub(crate) fn leave_out(&mut self, name: &[u8]) -> Result<Vec<u8>, ImportFault> {
        self.named(name)
    }

    /// Where the file lies that a link of the archive is another name of.
    pub(crate) fn linked(&self, name: &[u8]) -> Result<Destination, ImportFault> {
        self.place(normal(name)?)
    }

    /// What the archive declares: its topmost paths, in order.
    pub(crate) fn declared(mut self) -> Result<Vec<ContainerPath>, ImportFault> {
        if self.roots.is_empty() {
            return Err(ImportFault::Nothing);
        }
        self.roots.sort();
        Ok(self.roots)
    }

    fn named(&mut self, name: &[u8]) -> Result<Vec<u8>, ImportFault> {
        self.members += 1;
        if self.members > MEMBERS_MAX {
            return Err(ImportFault::TooManyMembers);
        }
        normal(name)
    }

    fn declare(&mut self, path: &[u8]) -> Result<(), ImportFault> {
        let text =
            std::str::from_utf8(path).map_err(|_| ImportFault::Unreadable { path: shown(path) })?;
        let root = ContainerPath::parse(&format!("/{text}"))?;
        self.mounts.resolve(&root)?;
        self.roots.retain(|known| !is_below(known.as_member(), path));
        if self.roots.len() == PATHS_MAX {
            return Err(ImportFault::TooManyPaths);
        }
        self.roots.push(root);
        Ok(())
    }

    fn place(&self, path: Vec<u8>) -> Result<Destination, ImportFault> {
        let Some((mount, below)) = self.mounts.holder(&path) else {
            let path = format!("/{}", shown(&path));
            return Err(ImportFault::Unresolved(Unresolved::NoVolume { path }));
        };
        let point = path.len() - below.len();
        Ok(Destination::Volume { mount, point, path })
    }
}

/// The path that an archive names so: `/data`, `./data` and `data/` are one. Empty for the root.
fn normal(name: &[u8]) -> Result<Vec<u8>, ImportFault> {
    if parts(name).any(|part| part == b"..") {
        return Err(ImportFault::Traversal { path: shown(name) });
    }
    let parts: Vec<&[u8]> = parts(name).filter(|part| !matches!(*part, b"" | b".")).collect();
    let path = parts.join(&b'/');
    if path.is_empty() || is_tree_path(&path) {
        Ok(path)
    } else {
        Err(ImportFault::Path { path: shown(name) })
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals() -> Arrivals {
        let path = |text| ContainerPath::parse(text).expect("a container path");
        let mounts = Mounts::new(vec![path("/srv/app"), path("/srv/app/data")], path("/belay"));
        let capacity = |volume: &str| Capacity { volume: volume.to_owned(), size: 100 };
        Arrivals::new(mounts, vec![capacity("app"), capacity("data")])
    }

    fn to(mount: usize, path: &str, point: &str) -> Destination {
        Destination::Volume { mount, path: path.as_bytes().to_vec(), point: point.len() }
    }

    fn declared(arrivals: Arrivals) -> Vec<String> {
        arrivals.declared().expect("something").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_as_tar_writes_them_lead_into_the_volume_with_the_longest_mount_point() {
        let mut arrivals = arrivals();
        let file = Body::File { size: 1 };
        for (name, body, destination) in [
            ("./", Body::Directory, Destination::Nowhere),
            ("srv/", Body::Directory, Destination::Nowhere),
            ("/srv/app/", Body::Directory, to(0, "srv/app", "srv/app")),
            ("./srv/app//a", file.clone(), to(0, "srv/app/a", "srv/app/")),
            ("srv/app/data", Body::Directory, to(1, "srv/app/data", "srv/app/data")),
            ("srv/app/data/x/y", file, to(1, "srv/app/data/x/y", "srv/app/data/")),
            ("srv/app/database", Body::Directory, to(0, "srv/app/database", "srv/app/")),
        ] {
            assert_eq!(arrivals.admit(name.as_bytes(), &body), Ok(destination), "{name}");
        }
        assert_eq!(arrivals.linked(b"/srv/app/a"), Ok(to(0, "srv/app/a", "srv/app/")));
        assert_eq!(declared(arrivals), ["/srv/app"]);
    }

    #[test]
    fn what_is_topmost_is_declared_in_whatever_order_it_comes() {
        let mut arrivals = arrivals();
        let file = Body::File { size: 1 };
        for name in ["srv/app/b/c", "srv/app/data/x", "srv/app/b/", "srv/app/a"] {
            let body = if name.ends_with('/') { &Body::Directory } else { &file };
            arrivals.admit(name.as_bytes(), body).expect(name);
        }
        assert_eq!(declared(arrivals), ["/srv/app/a", "/srv/app/b", "/srv/app/data/x"]);
        let nothing = self::arrivals().declared();
        assert_eq!(nothing, Err(ImportFault::Nothing));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let mut arrivals = arrivals();
        let file = Body::File { size: 1 };
        for (name, words) in [
            (&b"srv/app/../../etc"[..], "contains \"..\""),
            (b"../srv/app/x", "contains \"..\""),
            (b"etc/passwd", "/etc/passwd is not in a volume"),
            (b"srv/app2", "/srv/app2 is not in a volume"),
            (b"belay/request.json", "is in the control volume"),
            (b"srv", "/srv is not in a volume"),
            (b"srv/app/a\0b", "no path that a tree holds"),
            (b"srv/app/\xff", "is not UTF-8"),
            (&b"srv/app/".iter().copied().chain([b'x'; 256]).collect::<Vec<u8>>(), "no path"),
            (b"", "is in the control volume, or holds it"),
        ] {
            let refused = arrivals.admit(name, &file).expect_err("refused").to_string();
            assert!(refused.contains(words), "{refused}");
        }
        let outside = arrivals.linked(b"/etc/shadow").expect_err("refused").to_string();
        assert!(outside.contains("/etc/shadow is not in a volume"), "{outside}");
        // Below what is declared any bytes are a name.
        arrivals.admit(b"srv/app/", &Body::Directory).expect("a volume");
        arrivals.admit(b"srv/app/\xff", &file).expect("a name");
    }

    #[test]
    fn a_link_leads_anywhere_but_has_a_target_that_a_link_can_have() {
        let mut arrivals = arrivals();
        let link = |target: &[u8]| Body::Symlink { target: target.to_vec() };
        for target in [&b"/etc/passwd"[..], b"../../x", &[b'x'; 4095]] {
            arrivals.admit(b"srv/app/a", &link(target)).expect("a link");
        }
        for target in [&b""[..], b"a\0b", &[b'x'; 4096]] {
            let refused = arrivals.admit(b"srv/app/a", &link(target)).expect_err("refused");
            assert_eq!(
                refused.to_string(),
                "\"srv/app/a\" is a link with a target that no link has"
            );
        }
    }

    #[test]
    fn members_paths_and_bytes_have_bounds() {
        let mut full = arrivals();
        full.admit(b"srv/app/a", &Body::File { size: 60 }).expect("fits");
        full.admit(b"srv/app/data/a", &Body::File { size: 60 }).expect("another volume");
        let refused = full.admit(b"srv/app/b", &Body::File { size: u64::MAX });
        let volume = "app".to_owned();
        assert_eq!(refused, Err(ImportFault::TooMuchContent { volume, size: 100 }));

        let mut many = arrivals();
        for number in 0..PATHS_MAX {
            many.admit(format!("srv/app/{number}").as_bytes(), &Body::Directory).expect("room");
        }
        assert_eq!(many.admit(b"srv/app/x", &Body::Directory), Err(ImportFault::TooManyPaths));
        many.admit(b"srv/app", &Body::Directory).expect("it takes in all the others");
        many.members = MEMBERS_MAX;
        assert_eq!(many.leave_out(b"srv/app/fifo"), Err(ImportFault::TooManyMembers));
    }
}
