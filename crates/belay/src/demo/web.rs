//! The containers' web servers, as anybody on this machine sees them.

use std::time::{Duration, Instant};

use crate::failure::{self, Ending, Failure};

/// Longest wait for an answer that is needed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest wait for an answer that tells whether the server is up.
const GLANCE: Duration = Duration::from_millis(250);

/// Pause between two glances.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks web servers on the loopback.
#[derive(Debug)]
pub(crate) struct Web {
    http: reqwest::Client,
}

impl Web {
    pub(crate) fn new() -> Result<Self, Ending> {
        // Each question has a connection of its own: one that is kept would hide an outage.
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
        let http = client
            .build()
            .map_err(|error| Failure::local("cannot make an HTTP client", &error, ""))?;
        Ok(Self { http })
    }

    /// The body of a page that must be there.
    pub(crate) async fn get(&self, url: &str) -> Result<Vec<u8>, Ending> {
        self.fetch(url, PATIENCE).await.map_err(|error| {
            let what = format!("cannot read {url}: {}", failure::chain(&error));
            Failure::new(failure::SOFTWARE, what, "").into()
        })
    }

    /// The body of a page, if it is there now.
    pub(crate) async fn glance(&self, url: &str) -> Option<Vec<u8>> {
        self.fetch(url, GLANCE).await.ok()
    }

    /// Whether a page is gone: the server answers, and says that it has none.
    pub(crate) async fn is_absent(&self, url: &str) -> bool {
        let answer = self.http.get(url).timeout(PATIENCE).send().await;
        answer.is_ok_and(|answer| answer.status() == reqwest::StatusCode::NOT_FOUND)
    }

    async fn fetch(&self, url: &str, patience: Duration) -> reqwest::Result<Vec<u8>> {
        let answer = self.http.get(url).timeout(patience).send().await?.error_for_status()?;
        Ok(answer.bytes().await?.into())
    }

    /// Looks at a page again and again, for as long as it is polled, and keeps the longest time
    /// for which it was not there.
    pub(crate) async fn watch(&self, url: &str, outage: &mut Outage) {
        let mut last_seen = Instant::now();
        loop {
            let seen = self.glance(url).await.is_some();
            outage.glances += 1;
            if seen {
                if outage.is_out {
                    outage.longest = outage.longest.max(last_seen.elapsed());
                }
                last_seen = Instant::now();
            }
            outage.is_out = !seen;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What a visitor would have noticed.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    /// Longest time between two good answers with a bad one between.
    pub(crate) longest: Duration,
    /// How often it was looked at.
    pub(crate) glances: u32,
    /// Whether the last look failed.
    pub(crate) is_out: bool,
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn answer(listener: &TcpListener, status: &str) {
        let (mut stream, _) = listener.accept().await.expect("a visitor");
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await.expect("a request");
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nhi");
        stream.write_all(answer.as_bytes()).await.expect("writes");
    }

    #[tokio::test]
    async fn an_outage_is_measured_from_the_last_good_answer_to_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let web = Web::new().expect("a client");
        let mut outage = Outage::default();
        let serve = async {
            answer(&listener, "200 OK").await;
            for _ in 0..3 {
                answer(&listener, "503 Away").await;
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
            answer(&listener, "200 OK").await;
            answer(&listener, "200 OK").await;
        };
        tokio::select! {
            () = web.watch(&url, &mut outage) => unreachable!("it watches on"),
            () = serve => {}
        }
        assert!(outage.longest >= Duration::from_millis(120), "{outage:?}");
        assert!(outage.glances >= 5, "{outage:?}");
    }

    #[tokio::test]
    async fn absent_and_unreachable_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let web = Web::new().expect("a client");
        let (absent, ()) = tokio::join!(web.is_absent(&url), answer(&listener, "404 None"));
        assert!(absent);
        let (absent, ()) = tokio::join!(web.is_absent(&url), answer(&listener, "200 OK"));
        assert!(!absent);
        drop(listener);
        assert!(!web.is_absent(&url).await);
        assert!(web.glance(&url).await.is_none());
    }
}
