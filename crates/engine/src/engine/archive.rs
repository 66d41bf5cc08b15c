//! Files out of a container.

use bollard::query_parameters::DownloadFromContainerOptionsBuilder;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::{Engine, fault, reference};
use crate::error::{EngineError, Object, Operation};

impl Engine {
    /// A file or tree of a container, running or not, as a tar stream. A path that is not there is
    /// [`EngineError::Absent`]. It may be dropped at any time; there is no deadline.
    ///
    /// The tar is made of what the container wrote: treat its names and links as hostile.
    pub fn archive_out(
        &self,
        container: impl AsRef<str>,
        path: &str,
    ) -> BoxStream<'static, Result<Bytes, EngineError>> {
        let checked = reference(Operation::ArchiveOut, container.as_ref()).map(str::to_owned);
        let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
        let engine = self.clone();
        futures_util::stream::once(std::future::ready(checked))
            .map(move |checked| match checked {
                Ok(name) => {
                    let object = Object::Container(name.clone());
                    engine
                        .docker()
                        .download_from_container(&name, Some(options.clone()))
                        .map(move |piece| {
                            piece.map_err(|error| {
                                fault::from_bollard(Operation::ArchiveOut, object.clone(), error)
                            })
                        })
                        .boxed()
                }
                Err(error) => futures_util::stream::once(std::future::ready(Err(error))).boxed(),
            })
            .flatten()
            .boxed()
    }
}
