//! What an archive says of the checkpoint in it, and whether this node takes it.

use std::collections::{BTreeMap, BTreeSet};

use belay_engine::{ContainerSpec, Network, RootAccess};
use belay_lifecycle::core::container::apply_spec;
use belay_lifecycle::core::spec::WorkloadSpec;
use belay_protocol::runner::{RunId, RunnerId, TravelId};
use belay_protocol::{NodeId, WorkloadName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::checkpoint::{Incompatible, Versions, compare};

/// Repository of images that were loaded from files, whose tags are of their bytes.
const OF_FILES: &str = "localhost/belay/";
/// How the names of processor features begin that a program may have found and may use.
const FEATURES: [&str; 22] = [
    "adx", "aes", "amx", "avx", "bmi", "cx16", "erms", "f16c", "fma", "fsgsbase", "fsrm", "gfni",
    "lzcnt", "movbe", "pclmul", "popcnt", "rd", "sha", "sse", "ssse", "vaes", "xsave",
];

/// What an archive says of the checkpoint in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its way.
    pub travel: TravelId,
    /// The node that exported it.
    pub from: NodeId,
    /// The node that it is for.
    pub to: NodeId,
    /// The runner.
    pub runner: RunnerId,
    /// Its workload.
    pub workload: WorkloadName,
    /// The run that waits in it.
    pub run: RunId,
    /// Where the runner looks for belayd.
    pub url: String,
    /// What its container was made of.
    pub made_of: MadeOf,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// Bytes of its files.
    pub bytes: u64,
    /// BLAKE3 over the files of CRIU's image.
    pub digest: String,
    /// What it was taken with.
    pub versions: Versions,
    /// The processor that it ran on.
    pub processor: Processor,
}

/// What a container was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MadeOf {
    /// Id of its image.
    pub image: String,
    /// References of the image that are of its bytes.
    pub image_tags: BTreeSet<String>,
    /// What the spec says of its process, by name, each as JSON.
    pub spec: BTreeMap<String, String>,
}

/// A processor, as far as programs depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Processor {
    /// Its architecture: `x86_64`.
    pub architecture: String,
    /// What it can that others of its architecture cannot.
    pub features: BTreeSet<String>,
}

impl Processor {
    /// The one that `/proc/cpuinfo` tells of.
    pub fn read(architecture: &str, cpuinfo: &str) -> Self {
        let line = cpuinfo.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            matches!(name.trim(), "flags" | "Features").then_some(value)
        });
        let words = line.unwrap_or_default().split_whitespace();
        let counts = |word: &&str| FEATURES.iter().any(|known| word.starts_with(known));
        let features = words.filter(counts).map(str::to_owned).collect();
        Self { architecture: architecture.to_owned(), features }
    }
}

impl MadeOf {
    /// What a container of this image and this spec is made of. `tags` are the image's.
    pub fn of(image: &str, tags: &[String], spec: &WorkloadSpec) -> Self {
        let image_tags = tags.iter().filter(|tag| tag.starts_with(OF_FILES)).cloned().collect();
        let mut made = ContainerSpec::new("", image);
        apply_spec(&mut made, spec);
        let network = match made.network {
            Network::Bridge => "bridge",
            Network::Host => "host",
            Network::None => "none",
        };
        let root = match made.root {
            RootAccess::ReadWrite => false,
            RootAccess::ReadOnly => true,
        };
        let said = [
            ("command", json!(spec.command)),
            ("entrypoint", json!(spec.entrypoint)),
            ("user", json!(made.user)),
            ("working_dir", json!(made.working_dir)),
            ("hostname", json!(made.hostname)),
            ("network", json!(network)),
            ("read_only", json!(root)),
            ("cap_add", json!(made.cap_add)),
            ("cap_drop", json!(made.cap_drop)),
            ("tmpfs", json!(made.tmpfs)),
            ("limits.memory", json!(made.limits.memory)),
            ("limits.cpus", json!(made.limits.nano_cpus)),
            ("limits.pids", json!(made.limits.pids)),
        ];
        let spec = said.map(|(name, value)| (name.to_owned(), value.to_string())).into();
        Self { image: image.to_owned(), image_tags, spec }
    }

    /// Whether a container of `here` has the files that one of this has.
    fn has_image_of(&self, here: &Self) -> bool {
        let hash = |tag: &String| tag.rsplit_once(':').map(|(_, hash)| hash.to_owned());
        let hashes = |of: &Self| of.image_tags.iter().filter_map(hash).collect::<BTreeSet<_>>();
        self.image == here.image || !hashes(self).is_disjoint(&hashes(here))
    }
}

/// What a node has.
#[derive(Debug, Clone)]
pub struct Here {
    /// The node.
    pub node: NodeId,
    /// What it restores with.
    pub versions: Versions,
    /// Its processor.
    pub processor: Processor,
    /// What a runner of the workload would be made of; none if the workload takes no runs.
    pub made_of: Option<MadeOf>,
}

/// Why a checkpoint is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is for another node.
    #[error("it was exported for {to}, and this node is {here}")]
    ForAnother {
        /// That one.
        to: NodeId,
        /// This one.
        here: NodeId,
    },
    /// The workload takes no runs here.
    #[error("no workload {0} takes runs")]
    NoWorkload(WorkloadName),
    /// The workload is of another image.
    #[error("{workload} is of another image here: it is {here}, and the runner was made of {then}")]
    Image {
        /// Which.
        workload: WorkloadName,
        /// The image here.
        here: String,
        /// The image of the runner.
        then: String,
    },
    /// The workload's spec says something else.
    #[error("{workload} has {name} = {here} here, and the runner was made with {then}")]
    Spec {
        /// Which.
        workload: WorkloadName,
        /// What.
        name: String,
        /// As it is here.
        here: String,
        /// As the runner was made.
        then: String,
    },
    /// It was taken on another kind of processor.
    #[error("it was taken on {then}, and this host is {here}")]
    Architecture {
        /// That one.
        then: String,
        /// This one.
        here: String,
    },
    /// The processor lacks something.
    #[error("the processor here lacks what the one it ran on has: {}", .0.join(", "))]
    Features(Vec<String>),
    /// What is installed does not restore it.
    #[error(transparent)]
    Versions(#[from] Incompatible),
}

/// Whether a node takes what this is the manifest of, as far as that tells.
pub fn fits(manifest: &Manifest, here: &Here) -> Result<(), Unfit> {
    if manifest.to != here.node {
        return Err(Unfit::ForAnother { to: manifest.to.clone(), here: here.node.clone() });
    }
    let workload = || manifest.workload.clone();
    let Some(made_of) = &here.made_of else { return Err(Unfit::NoWorkload(workload())) };
    if !manifest.made_of.has_image_of(made_of) {
        let (here, then) = (made_of.image.clone(), manifest.made_of.image.clone());
        return Err(Unfit::Image { workload: workload(), here, then });
    }
    let names: BTreeSet<&String> =
        manifest.made_of.spec.keys().chain(made_of.spec.keys()).collect();
    for name in names {
        let value = |of: &MadeOf| of.spec.get(name).map_or("nothing", String::as_str).to_owned();
        let (here, then) = (value(made_of), value(&manifest.made_of));
        if here != then {
            let name = name.clone();
            return Err(Unfit::Spec { workload: workload(), name, here, then });
        }
    }
    let (then, now) = (&manifest.processor, &here.processor);
    if then.architecture != now.architecture {
        let (then, here) = (then.architecture.clone(), now.architecture.clone());
        return Err(Unfit::Architecture { then, here });
    }
    let missing: Vec<String> = then.features.difference(&now.features).cloned().collect();
    if !missing.is_empty() {
        return Err(Unfit::Features(missing));
    }
    Ok(compare(&manifest.versions, &here.versions)?)
}

#[cfg(test)]
pub(in crate::core) mod tests;
