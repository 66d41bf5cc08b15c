//! What an operator or a timer asks of an existing volume: trim, check, reset, adopt.

use std::fs::File;

use crate::core::size::ByteSize;
use crate::core::spec::{Allocation, VolumeId};
use crate::error::{CareError, IoFault};
use crate::volumes::Inner;
use crate::{image, ioctl, observe};

/// Gives the free space of a thin volume back to the host.
pub(crate) fn trim(inner: &Inner, id: &VolumeId) -> Result<ByteSize, CareError> {
    let io = |source| CareError::Io { id: id.clone(), source };
    let metadata = image::read_metadata(&inner.layout.metadata(id)).map_err(io)?;
    if metadata.present().is_none_or(|found| found.allocation == Allocation::Full) {
        return Err(CareError::FullyAllocated { id: id.clone() });
    }
    let sight = observe::volume(&inner.layout, id).map_err(io)?;
    if sight.observed.target.is_empty() {
        return Err(CareError::NotMounted { id: id.clone() });
    }
    let mount = inner.layout.mount(id);
    let root = File::open(&mount).map_err(IoFault::on("open", &mount)).map_err(io)?;
    ioctl::trim(&root).map(ByteSize::bytes).map_err(IoFault::on("trim", mount)).map_err(io)
}
