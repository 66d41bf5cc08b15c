//! What the demo does, step by step. Each line it says is about something that just happened, with
//! numbers that were measured or read from belayd.

use std::fmt::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use belay_protocol::control::Response;
use belay_protocol::{
    Finding, PublishRequest, SyncOutcome, Verdict, VolumeStatus, WorkloadPhase, WorkloadStatus,
};

use super::Stay;
use super::image;
use super::narrator::Narrator;
use super::node::{self, Node};
use super::place::Place;
use super::web::{Outage, Web};
use crate::command;
use crate::core::human;
use crate::core::stage::{self, Role};
use crate::core::view;
use crate::failure::{self, Ending, Failure};

/// Longest wait for a publish or an apply; each takes about a second.
const SYNC: Duration = Duration::from_mins(1);

/// Pause between two looks at a status.
const LOOK: Duration = Duration::from_millis(25);

/// What the provider's app calls its request.
const REQUEST_ID: &str = "first-edition";

/// The file that the second edition does not have any more.
const DROPPED: &str = "first.txt";

/// The two nodes, as far as they were started.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    belayd: PathBuf,
    place: &'a Place,
    web: Web,
    nodes: Vec<Node>,
    told: bool,
}

/// Looks at the host before anything is changed.
pub(crate) async fn check_host(belayd: &Path, narrator: &Narrator<'_>) -> Result<(), Ending> {
    let findings = command::examine(belayd).await?;
    let alike =
        |verdict| findings.iter().filter(move |finding: &&Finding| finding.verdict == verdict);
    if view::doctor::worst(&findings) == Verdict::Faulty {
        let faults = alike(Verdict::Faulty);
        let lines = faults.map(|f| format!("{}: {}; {}", f.subject, f.found, f.advice));
        let details = lines.collect();
        let what = "this host lacks something that belayd needs; nothing was changed".to_owned();
        let (next, exit_code) = ("mend it, then: belay doctor".to_owned(), failure::UNAVAILABLE);
        return Err(Failure { what, details, next, exit_code }.into());
    }
    let good = alike(Verdict::Good).count();
    narrator.say("host", &format!("{good} of {} prerequisites are good", findings.len()))?;
    for limited in alike(Verdict::Limited) {
        narrator.say("host", &format!("limited: {}: {}", limited.subject, limited.found))?;
    }
    Ok(())
}

/// Tells the story, then stays if it is asked to.
pub(crate) async fn tell(
    stage: &mut Stage<'_>,
    stay: Stay,
    narrator: &Narrator<'_>,
) -> Result<(), Ending> {
    stage.start_nodes(narrator).await?;
    stage.first_edition(narrator).await?;
    stage.second_edition(narrator).await?;
    stage.show_volumes(narrator).await?;
    stage.runs(narrator).await?;
    stage.told = true;
    stage.show_addresses(stay, narrator)?;
    match stay {
        Stay::Once => Ok(()),
        Stay::UntilInterrupted => stage.watch_over().await,
    }
}

impl<'a> Stage<'a> {
    pub(crate) fn new(belayd: PathBuf, place: &'a Place) -> Result<Self, Ending> {
        Ok(Self { belayd, place, web: Web::new()?, nodes: Vec::new(), told: false })
    }

    /// Whether the story was told to its end.
    pub(crate) fn is_told(&self) -> bool {
        self.told
    }

    /// The last lines of every node's log.
    pub(crate) fn log_tails(&self) -> Vec<String> {
        let tails = self.nodes.iter().flat_map(|node| node::log_tail(node.role.word(), node.log()));
        tails.collect()
    }

    /// Removes the workloads through the API and ends both belayd, whatever fails on the way.
    pub(crate) async fn end(self, narrator: &Narrator<'_>) -> Result<(), Ending> {
        let mut all = Ok(());
        for node in self.nodes {
            let word = node.role.word();
            let log = node.log().to_owned();
            let removed = node.remove_workloads().await;
            let ended = node.end().await;
            let told = removed.and(ended).and_then(|time| {
                let time = human::milliseconds(milliseconds(time));
                narrator.say(word, &format!("workload and volumes removed; belayd ended in {time}"))
            });
            // The other node is ended whatever became of this one; the first failure is kept, with
            // the log, which is about to be removed.
            all = all.and(told.map_err(|ending| match ending {
                Ending::PipeClosed => ending,
                Ending::Failed(mut failure) => {
                    failure.details.extend(node::log_tail(word, &log));
                    Ending::Failed(failure)
                }
            }));
        }
        all
    }

    async fn start_nodes(&mut self, narrator: &Narrator<'_>) -> Result<(), Ending> {
        let image = self.place.image();
        let bytes = image::write(&image)?;
        let size = human::size(bytes);
        narrator
            .say("image", &format!("{}: busybox and a few scripts, {size}", image.display()))?;

        let [a, b, c, d] = free_ports()?;
        for (role, ports) in [(Role::Provider, [a, b]), (Role::Consumer, [c, d])] {
            self.nodes.push(Node::start(role, &self.belayd, self.place, ports)?);
        }
        for node in &mut self.nodes {
            let status = node.ready().await?;
            let engine = format!("{} {}", status.engine.kind, status.engine.version);
            let what = format!("belayd {} ready, process {}, {engine}", status.version, node.pid());
            narrator.say(node.role.word(), &what)?;
        }
        for node in &self.nodes {
            let began = Instant::now();
            let mut heard = Ok(());
            let tell = |step: &str| {
                let said = narrator.say(node.role.word(), step);
                heard = std::mem::replace(&mut heard, Ok(())).and(said);
            };
            node.deploy(&image, tell).await?;
            heard?;
            let workload = self.ready_workload(node).await?;
            let time = human::milliseconds(milliseconds(began.elapsed()));
            let what = format!(
                "workload {} is {} after {time}: {}",
                workload.name,
                workload.phase.as_str(),
                workload.reason
            );
            narrator.say(node.role.word(), &what)?;
        }
        Ok(())
    }

    /// A publish that the provider's own app asks for.
    async fn first_edition(&self, narrator: &Narrator<'_>) -> Result<(), Ending> {
        let page = self.page(Role::Consumer, "index.html");
        if !self.web.is_absent(&page).await {
            return Err(broken(format!("{page} should not be there before the first publish")));
        }
        narrator.say("consumer", &format!("has nothing yet: {page} is 404"))?;

        let ask = format!("{}/cgi-bin/publish?{REQUEST_ID}", self.base(Role::Provider));
        narrator.say("provider", "its app writes request.json into /belay/volume-sync")?;
        let mut outage = Outage::default();
        let visited = self.page(Role::Provider, "index.html");
        let publish = async {
            // belayd may stop the container before this answer is through; what counts is the
            // response that the app finds.
            let _ = self.web.glance(&ask).await;
            self.response().await
        };
        let response = tokio::select! {
            response = publish => response?,
            () = self.web.watch(&visited, &mut outage) => unreachable!("it watches on"),
        };
        let published = match response {
            Response::Ok(published) => published,
            Response::Error(failed) => {
                let what = format!("the publish failed at {}: {}", failed.stage, failed.error);
                return Err(broken(what));
            }
        };
        narrator.say(
            "provider",
            &format!(
                "response.json says ok: cid {}, {} of content in an archive of {}",
                published.cid.short(),
                human::size(published.content_bytes),
                human::size(published.archive_size_bytes)
            ),
        )?;
        let down = published.downtime_ms.map_or("an unknown time".to_owned(), human::milliseconds);
        let seen = human::milliseconds(milliseconds(outage.longest));
        narrator.say(
            "provider",
            &format!("was down for {down}; a visitor noticed {seen} ({} looks)", outage.glances),
        )?;
        let applied = self.applied(published.cid).await?;
        self.prove(&applied, &["index.html", "payload.bin", DROPPED], narrator).await
    }

    /// A publish by the operator, of a page that changed and a file that went.
    async fn second_edition(&self, narrator: &Narrator<'_>) -> Result<(), Ending> {
        self.web.get(&format!("{}/cgi-bin/revise", self.base(Role::Provider))).await?;
        let what = format!("its app changed the page and deleted {DROPPED}");
        narrator.say("provider", &what)?;
        let provider = self.node(Role::Provider);
        let request = PublishRequest {
            archive_paths: vec![stage::DATA.to_owned()],
            metadata: [("edition".to_owned(), "2".into())].into(),
        };
        narrator.say("operator", "belay sync publish page /data --metadata edition=2")?;
        let outcome = provider.publish(&request).await?;
        let Some(published) = outcome.publish else {
            return Err(broken("the publish ended well and named no content".to_owned()));
        };
        let down = human::milliseconds(published.downtime_ms);
        let what = format!("published {}, was down for {down}", published.cid.short());
        narrator.say("provider", &what)?;
        let applied = self.applied(published.cid).await?;
        self.prove(&applied, &["index.html", "payload.bin"], narrator).await?;
        let dropped = self.page(Role::Consumer, DROPPED);
        if !self.web.is_absent(&dropped).await {
            return Err(broken(format!(
                "{dropped} is still there, though the provider deleted it"
            )));
        }
        narrator.say("proof", &format!("{dropped} is 404: deletions are replicated"))
    }

    /// Reads each file through the web servers of both containers and compares.
    async fn prove(
        &self,
        applied: &SyncOutcome,
        files: &[&str],
        narrator: &Narrator<'_>,
    ) -> Result<(), Ending> {
        let time = human::milliseconds(applied.duration_ms);
        let down = human::milliseconds(applied.downtime_ms);
        let what = format!("applied {} in {time}, was down for {down}", applied.cid.short());
        narrator.say("consumer", &what)?;
        let mut bytes = 0;
        for file in files {
            let original = self.served(Role::Provider, file).await?;
            let replica = self.served(Role::Consumer, file).await?;
            if original != replica {
                return Err(broken(format!("{file} differs between provider and consumer")));
            }
            bytes += original.len() as u64;
        }
        let page = self.page(Role::Consumer, "index.html");
        let text = self.served(Role::Consumer, "index.html").await?;
        let size = human::size(bytes);
        let count = human::count(files.len(), "file");
        narrator.say("proof", &format!("{count}, {size}, equal through both containers"))?;
        let text = String::from_utf8_lossy(&text);
        narrator.say("proof", &format!("{page} says {}", text.trim()))
    }

    async fn show_volumes(&self, narrator: &Narrator<'_>) -> Result<(), Ending> {
        for node in &self.nodes {
            for volume in node.volumes().await? {
                narrator.say(node.role.word(), &volume_line(&volume))?;
            }
        }
        Ok(())
    }

    fn show_addresses(&self, stay: Stay, narrator: &Narrator<'_>) -> Result<(), Ending> {
        let mut text = String::from("\n");
        for node in &self.nodes {
            let _ = writeln!(
                text,
                "{:<9} page    {}/\n{:9} status  http://127.0.0.1:{}/v1/status\n\
                 {:9} command belay --socket {} status",
                node.role.word(),
                self.base(node.role),
                "",
                node.status_port,
                "",
                node.socket.display()
            );
        }
        text += match (stay, narrator.is_watched()) {
            (Stay::Once, _) => "",
            (Stay::UntilInterrupted, true) => "\nCtrl-C ends the demo and removes all of it.\n",
            (Stay::UntilInterrupted, false) => {
                "\nNo terminal is attached; the demo stays until it gets SIGINT or SIGTERM. \
                 With --once it ends by itself.\n"
            }
        };
        narrator.text(&(text + "\n"))
    }

    /// Waits as long as both nodes live.
    async fn watch_over(&mut self) -> Result<(), Ending> {
        let ends = self.nodes.iter_mut().map(|node| Box::pin(node.ended()));
        let (first, ..) = futures_util::future::select_all(ends).await;
        first
    }

    /// Waits for the answer that the provider's app finds in its `response.json`.
    async fn response(&self) -> Result<Response, Ending> {
        let url = format!("{}/cgi-bin/response", self.base(Role::Provider));
        self.patiently("the provider's app finds no response", async || {
            // The server is away during the capture, and before the first answer there is no file.
            let body = self.web.glance(&url).await?;
            let response: Response = serde_json::from_slice(&body).ok()?;
            let id = match &response {
                Response::Ok(published) => &published.request_id,
                Response::Error(failed) => &failed.request_id,
            };
            (id.as_deref() == Some(REQUEST_ID)).then_some(response)
        })
        .await
    }

    /// The node's workload, once the node shows it as ready.
    async fn ready_workload(&self, node: &Node) -> Result<WorkloadStatus, Ending> {
        self.patiently("a deployed workload is not shown as ready", async || {
            let workload = node.workload().await.ok()?;
            (workload.phase == WorkloadPhase::Ready).then_some(workload)
        })
        .await
    }

    /// Waits until the consumer applied this content and serves again.
    async fn applied(&self, cid: belay_protocol::Cid) -> Result<SyncOutcome, Ending> {
        let consumer = self.node(Role::Consumer);
        let page = self.page(Role::Consumer, "index.html");
        self.patiently("the consumer did not apply it", async || {
            let sync = consumer.workload().await.ok()?.sync?;
            let applied = sync.last_apply.filter(|applied| applied.cid == cid)?;
            self.web.glance(&page).await.map(|_| applied)
        })
        .await
    }

    /// Repeats a look until it shows something.
    pub(super) async fn patiently<T>(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> Option<T>,
    ) -> Result<T, Ending> {
        let deadline = Instant::now() + SYNC;
        loop {
            if let Some(found) = look().await {
                return Ok(found);
            }
            if Instant::now() > deadline {
                let mut failure = Failure::new(
                    failure::SOFTWARE,
                    format!("{what} within {} s", SYNC.as_secs()),
                    "the logs above say why",
                );
                failure.details = self.troubles().await;
                return Err(failure.into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What each node says is wrong with its volume-sync.
    async fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        for node in &self.nodes {
            let word = node.role.word();
            match node.workload().await {
                Ok(workload) => {
                    troubles.push(format!(
                        "{word}: {}, {}",
                        workload.phase.as_str(),
                        workload.reason
                    ));
                    let failed = workload.sync.and_then(|sync| sync.last_failure);
                    troubles.extend(failed.map(|f| format!("{word}: {}: {}", f.stage, f.error)));
                }
                Err(Ending::Failed(failure)) => troubles.push(format!("{word}: {}", failure.what)),
                Err(Ending::PipeClosed) => {}
            }
        }
        troubles
    }

    async fn served(&self, role: Role, file: &str) -> Result<Vec<u8>, Ending> {
        self.web.get(&self.page(role, file)).await
    }

    pub(super) fn place(&self) -> &Place {
        self.place
    }

    pub(super) fn node(&self, role: Role) -> &Node {
        let mut nodes = self.nodes.iter();
        nodes.find(|node| node.role == role).expect("both nodes were started")
    }

    fn base(&self, role: Role) -> String {
        format!("http://127.0.0.1:{}", self.node(role).web_port)
    }

    fn page(&self, role: Role, file: &str) -> String {
        format!("{}{}/{file}", self.base(role), stage::DATA)
    }
}

/// Four ports that were free just now. They are held together, so that they differ.
fn free_ports() -> Result<[u16; 4], Ending> {
    let failed = |error: std::io::Error| Failure::local("cannot find a free port", &error, "");
    let mut held = Vec::new();
    let mut ports = [0; 4];
    for port in &mut ports {
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
        *port = listener.local_addr().map_err(failed)?.port();
        held.push(listener);
    }
    Ok(ports)
}

fn volume_line(volume: &VolumeStatus) -> String {
    let used = match &volume.usage {
        Some(usage) => format!(", {} used", human::size(usage.used_bytes)),
        None => String::new(),
    };
    format!(
        "volume {}: {} promised, {} held on the host's disk{used}, {} on {}",
        volume.name,
        human::size(volume.size_bytes),
        human::size(volume.allocated_bytes),
        volume.file_system,
        volume.device.as_deref().unwrap_or("no device")
    )
}

pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The demo saw something that should not be.
pub(super) fn broken(what: String) -> Ending {
    Failure::new(failure::SOFTWARE, what, "report this as a bug, with the lines above").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ() {
        let mut ports = free_ports().expect("some are free");
        ports.sort_unstable();
        assert!(ports.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
