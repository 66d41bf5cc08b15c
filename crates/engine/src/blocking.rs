//! Work that blocks, off the tasks.

use tokio::task::JoinHandle;

/// Runs blocking work on the runtime's blocking pool and gives its result.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    join(tokio::task::spawn_blocking(work)).await
}

/// The result of work that runs already. A panic in it goes on in the caller; it cannot have been
/// cancelled, because the pool only drops work when the runtime ends, and nobody waits then.
pub(crate) async fn join<T>(work: JoinHandle<T>) -> T {
    match work.await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
