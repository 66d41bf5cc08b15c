//! A workload's secrets, given before each start and taken away when it is down.

use belay_engine::Access;
use belay_protocol::{Problem, ProblemCode};

use super::state::State;
use crate::core::container::Bind;
use crate::core::spec::secrets::{MOUNT, Reader};
use crate::secrets;

impl State {
    /// Writes the secrets of the spec in force, and says where they are to be seen; `None` where it
    /// has none.
    pub(super) async fn place_secrets(&self) -> Result<Option<Bind>, Problem> {
        let Some(known) = &self.known else { return Ok(None) };
        let wanted = known.spec.secrets.clone();
        if wanted.is_empty() {
            return Ok(None);
        }
        let reader = Reader::of(self.user());
        let placed = secrets::place(&self.context.runtime_dir, &self.name, wanted, reader).await;
        let source = placed.map_err(|detail| {
            Problem::new(
                ProblemCode::SecretUnavailable,
                format!("{}: {detail}", self.name),
                "put it right on this host; the start is tried again by itself",
            )
        })?;
        Ok(Some(Bind { source, target: MOUNT.to_owned(), access: Access::ReadOnly }))
    }

    /// Takes the secrets away once nothing runs that could read them.
    pub(super) async fn clear_secrets(&self) {
        if let Err(error) = secrets::clear(&self.context.runtime_dir, &self.name).await {
            tracing::warn!(workload = %self.name, "its secrets are left in memory: {error}");
        }
    }
}
