//! Other states of a volume kept beside the one in use: their names, what they may cost, and how
//! one of them takes its place.

use std::fmt;
use std::str::FromStr;

use belay_protocol::{InvalidName, VolumeName};

use super::metadata::Metadata;
use super::plan::Refusal;
use super::size::ByteSize;
use super::superblock::Superblock;

/// Names a state of a volume that is kept beside the one in use, in the alphabet of volume names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GenerationName(VolumeName);

impl FromStr for GenerationName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.parse().map(Self)
    }
}

impl fmt::Display for GenerationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of clones that end with the process that made them.
const PASSING: &str = "capture";

const PREFIX: &str = "generation-";
const SUFFIX: &str = ".img";

impl GenerationName {
    /// The name of a clone that is only read, and ends with the process that made it: what a killed
    /// one leaves is deleted when the volumes are opened again.
    ///
    /// # Panics
    /// Never: the name is lawful.
    pub fn passing() -> Self {
        Self(PASSING.parse().expect("it is in the alphabet of names"))
    }

    pub(crate) fn is_passing(&self) -> bool {
        self.0.as_str() == PASSING
    }

    /// The file that holds it, in the volume's directory.
    pub(crate) fn file_name(&self) -> String {
        format!("{PREFIX}{}{SUFFIX}", self.0)
    }

    /// The name that a file in a volume's directory stands for.
    pub(crate) fn of_file(name: &str) -> Option<Self> {
        name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
    }
}

/// A volume, as far as it matters for what held generations may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) size: ByteSize,
    pub(crate) generations: usize,
}

/// What writes to volumes with held generations may still take from their directory. Each block is
/// copied at most once after the latest clone, so a volume with any number of generations can take
/// at most its size once more, and one without takes nothing.
pub(crate) fn committed(volumes: impl IntoIterator<Item = Holding>) -> ByteSize {
    volumes
        .into_iter()
        .filter(|volume| volume.generations > 0)
        .fold(ByteSize::ZERO, |sum, volume| sum.saturating_add(volume.size))
}

/// Whether a directory with this much space can take another generation of a volume of this size,
/// beside what is committed for the others; if not, what there would be for it. A volume that has
/// generations already is asked again: the new one shares anew what was copied since.
pub(crate) fn may_hold(
    available: ByteSize,
    committed_for_others: ByteSize,
    size: ByteSize,
) -> Result<(), ByteSize> {
    let uncommitted = available.saturating_sub(committed_for_others);
    if uncommitted >= size { Ok(()) } else { Err(uncommitted) }
}

/// The size recorded before, and after, a generation takes the place of the image in use. Between
/// the two records either image may stand in its place, and the smaller size is right for both:
/// what is larger than recorded is grown into, what is smaller would be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SwapPlan {
    pub(crate) before: u64,
    pub(crate) after: u64,
}

/// Decides whether a generation can take the place of the image in use.
pub(crate) fn plan_swap(
    metadata: &Metadata,
    generation: Option<&Superblock>,
    length: u64,
) -> Result<SwapPlan, Refusal> {
    let superblock = generation.ok_or(Refusal::Unrecognised)?;
    if superblock.file_system != metadata.file_system {
        let (wanted, found) = (metadata.file_system, superblock.file_system);
        return Err(Refusal::OtherFileSystem { wanted, found });
    }
    if superblock.id != metadata.file_system_id {
        let expected = metadata.file_system_id;
        return Err(Refusal::OtherImage { expected, found: superblock.id });
    }
    if length < superblock.size {
        let expected = ByteSize::bytes(superblock.size);
        return Err(Refusal::Truncated { image: ByteSize::bytes(length), expected });
    }
    Ok(SwapPlan { before: metadata.size.min(superblock.size), after: superblock.size })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holding(mib: u64, generations: usize) -> Holding {
        Holding { size: ByteSize::mib(mib), generations }
    }

    #[test]
    fn a_generation_is_known_by_its_file() {
        let name: GenerationName = "before-apply".parse().expect("a name");
        assert_eq!(GenerationName::of_file(&name.file_name()), Some(name));
        for foreign in ["volume.img", "generation-.img", "generation-A.img", "generation-a.img.new"]
        {
            assert_eq!(GenerationName::of_file(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn one_name_is_for_clones_that_pass() {
        assert!(GenerationName::passing().is_passing());
        let kept: GenerationName = "before-apply".parse().expect("a name");
        assert!(!kept.is_passing());
    }

    #[test]
    fn only_volumes_with_generations_are_a_commitment() {
        let volumes = [holding(10, 0), holding(20, 1), holding(40, 3)];
        assert_eq!(committed(volumes), ByteSize::mib(60));
    }

    #[test]
    fn a_generation_needs_the_volumes_size_once_more() {
        let (available, others) = (ByteSize::mib(100), ByteSize::mib(40));
        assert_eq!(may_hold(available, others, ByteSize::mib(60)), Ok(()));
        assert_eq!(may_hold(available, others, ByteSize::mib(61)), Err(ByteSize::mib(60)));
    }

    proptest! {
        /// A model of blocks: whatever is cloned and overwritten in whatever order, the space that
        /// was free beyond the commitments never runs out.
        #[test]
        fn commitments_cover_every_order_of_clones_and_writes(
            actions in proptest::collection::vec((0..3_usize, 0..8_usize, any::<bool>()), 0..120),
            spare in 0..30_i64,
        ) {
            const BLOCKS: usize = 8;
            let mut shared = [[false; BLOCKS]; 3];
            let mut generations = [0_usize; 3];
            let mut free = spare;
            let block_size = |blocks: usize| ByteSize::bytes(blocks as u64);
            for (volume, block, clone) in actions {
                if clone {
                    let available = ByteSize::bytes(u64::try_from(free).expect("not negative"));
                    let others = (0..3).filter(|other| *other != volume).map(|other| Holding {
                        size: block_size(BLOCKS),
                        generations: generations[other],
                    });
                    if may_hold(available, committed(others), block_size(BLOCKS)).is_ok() {
                        generations[volume] += 1;
                        shared[volume] = [true; BLOCKS];
                    }
                } else if shared[volume][block] {
                    shared[volume][block] = false;
                    free -= 1;
                    prop_assert!(free >= 0, "a promised write found no space");
                }
            }
        }
    }
}
