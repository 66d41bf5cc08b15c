//! Verbs that change something, with their progress.

use std::fmt::Write;
use std::io::Read;
use std::path::Path;

use belay_protocol::{
    DeployRequest, OperationOutcome, PublishAllRequest, PublishTarget, WorkloadName,
};
use reqwest::Method;
use serde_json::Value;

use crate::cli::Wait;
use crate::client::{Client, Document};
use crate::core::targets;
use crate::failure::{self, Ending, Failure};
use crate::output::Output;

/// Longest spec that is sent; belayd reads requests up to 1 MiB.
const LONGEST_SPEC: u64 = 512 * 1024;

pub(crate) async fn deploy(
    client: &Client,
    file: &Path,
    wait: Wait,
    output: &Output,
) -> Result<(), Ending> {
    let request = deploy_request(file)?;
    let path = format!("/v1/workloads{}", wait.query());
    act(client, Method::POST, &path, Document::of(&request), output).await
}

pub(crate) async fn start_without_content(
    client: &Client,
    name: &WorkloadName,
    wait: Wait,
    output: &Output,
) -> Result<(), Ending> {
    let wait = wait.seconds().map_or_else(String::new, |seconds| format!("&wait={seconds}"));
    let path = format!("/v1/workloads/{name}/start?content=ignore{wait}");
    act(client, Method::POST, &path, Document::none(), output).await
}

/// `start`, `stop` or `restart`.
pub(crate) async fn act_on(
    client: &Client,
    name: &WorkloadName,
    verb: &str,
    wait: Wait,
    output: &Output,
) -> Result<(), Ending> {
    let path = format!("/v1/workloads/{name}/{verb}{}", wait.query());
    act(client, Method::POST, &path, Document::none(), output).await
}

/// How a workload is removed.
pub(crate) struct Removal {
    pub(crate) volumes: &'static str,
    pub(crate) dependants: &'static str,
    pub(crate) wait: Wait,
}

pub(crate) async fn remove(
    client: &Client,
    name: &WorkloadName,
    how: Removal,
    output: &Output,
) -> Result<(), Ending> {
    let Removal { volumes, dependants, wait } = how;
    let wait = wait.seconds().map_or_else(String::new, |seconds| format!("&wait={seconds}"));
    let path = format!("/v1/workloads/{name}?volumes={volumes}&dependants={dependants}{wait}");
    act(client, Method::DELETE, &path, Document::none(), output).await
}

pub(crate) async fn clear_overrides(
    client: &Client,
    name: &WorkloadName,
    output: &Output,
) -> Result<(), Ending> {
    let path = format!("/v1/workloads/{name}/env");
    act(client, Method::DELETE, &path, Document::none(), output).await
}

pub(crate) async fn publish(
    client: &Client,
    targets: &[String],
    metadata: Vec<(String, Value)>,
    output: &Output,
) -> Result<(), Ending> {
    let metadata = metadata.into_iter().collect();
    let mut targets = targets::read(targets, &metadata).map_err(|what| {
        let next = "name each workload and then its paths: belay sync publish web db /data";
        Failure::new(failure::USAGE, what, next)
    })?;
    let (path, document) = if targets.len() == 1 {
        let PublishTarget { workload, request } = targets.remove(0);
        (format!("/v1/workloads/{workload}/sync/publish"), Document::of(&request))
    } else {
        let request = PublishAllRequest { targets };
        ("/v1/sync/publish".to_owned(), Document::of(&request))
    };
    act(client, Method::POST, &path, document, output).await
}

pub(crate) async fn signing_key(client: &Client, output: &Output) -> Result<(), Ending> {
    act(client, Method::POST, "/v1/sync/keygen", Document::none(), output).await
}

/// Asks for an operation, shows its progress and what came of it.
pub(crate) async fn act(
    client: &Client,
    method: Method,
    path: &str,
    body: Document,
    output: &Output,
) -> Result<(), Ending> {
    let outcome = carry_out(client, method, path, body, output).await?;
    finish(outcome, output)
}

async fn carry_out(
    client: &Client,
    method: Method,
    path: &str,
    body: Document,
    output: &Output,
) -> Result<OperationOutcome, Ending> {
    let mut line = output.progress();
    client.operate(method, path, body, |progress| line.show(progress)).await
}

fn finish(outcome: OperationOutcome, output: &Output) -> Result<(), Ending> {
    let mut text = outcome.summary + "\n";
    if let Some(publish) = outcome.publish {
        let _ = writeln!(
            text,
            "cid {}\nversion {}, record {}",
            publish.cid, publish.version, publish.seq
        );
    }
    output.text(&text)
}

/// The request for a spec file: its text, its name for errors, and the directory against which
/// its relative paths hold.
pub(crate) fn deploy_request(file: &Path) -> Result<DeployRequest, Ending> {
    let unreadable = |error: &std::io::Error| {
        Failure::new(
            failure::NO_INPUT,
            format!("cannot read {}: {error}", file.display()),
            "name the spec's file: belay deploy FILE",
        )
    };
    let absolute = std::fs::canonicalize(file).map_err(|error| unreadable(&error))?;
    let opened = std::fs::File::open(&absolute).map_err(|error| unreadable(&error))?;
    let mut spec = String::new();
    let read = opened.take(LONGEST_SPEC + 1).read_to_string(&mut spec);
    let length = read.map_err(|error| unreadable(&error))?;
    if length as u64 > LONGEST_SPEC {
        return Err(Failure::new(
            failure::NO_INPUT,
            format!("{} is longer than 512 KiB, so it is not a spec", file.display()),
            "name the spec's file: belay deploy FILE",
        )
        .into());
    }
    let directory = absolute.parent().unwrap_or(Path::new("/"));
    Ok(DeployRequest {
        spec,
        file: file.display().to_string(),
        directory: directory.display().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_sent_with_its_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("web.toml");
        std::fs::write(&file, "name = \"web\"").expect("writes");
        let request = deploy_request(&file).expect("readable");
        let real = std::fs::canonicalize(directory.path()).expect("it is there");
        assert_eq!(request.directory, real.display().to_string());
        assert_eq!(request.spec, "name = \"web\"");
        assert_eq!(request.file, file.display().to_string());
    }

    #[test]
    fn what_cannot_be_a_spec_is_refused_before_anything_is_sent() {
        let directory = tempfile::tempdir().expect("a directory");
        let long = directory.path().join("long.toml");
        std::fs::write(&long, " ".repeat(600 * 1024)).expect("writes");
        for file in [long, directory.path().join("absent.toml"), directory.path().to_owned()] {
            let Err(Ending::Failed(failure)) = deploy_request(&file) else {
                panic!("{} is no spec", file.display());
            };
            assert_eq!(failure.exit_code, failure::NO_INPUT);
        }
    }
}
