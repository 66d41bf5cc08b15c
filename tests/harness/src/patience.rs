//! Waiting for something, with a deadline and a reason.

use std::net::TcpListener;
use std::time::Duration;

use tokio::time::Instant;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(40);

/// Looks again and again until `look` finds something.
///
/// # Panics
/// When nothing was found within the deadline, with what was awaited and what was seen last.
pub async fn until<T, F>(what: &str, deadline: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let end = Instant::now() + deadline;
    loop {
        let seen = match look().await {
            Ok(found) => return found,
            Err(seen) => seen,
        };
        assert!(
            Instant::now() < end,
            "waited {} s for {what}; last seen: {seen}",
            deadline.as_secs()
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// A loopback port that nothing listens on just now.
///
/// # Panics
/// When the host has none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port is free");
    listener.local_addr().expect("it is bound").port()
}

/// Whether the counts are those of `--full`.
pub fn is_full() -> bool {
    std::env::var("BELAY_TEST_COUNTS").is_ok_and(|counts| counts == "full")
}
