//! What the engine alone takes to say how a node's containers are.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Inspects that run at once, as many as belayd has.
const INSPECTS: usize = 4;

/// The engine behind a socket, by its own API and nothing else.
pub(crate) struct EngineLook(reqwest::Client);

impl EngineLook {
    pub(crate) fn at(socket: &Path) -> Result<Self> {
        Ok(Self(reqwest::Client::builder().unix_socket(socket).no_proxy().build()?))
    }

    /// One list of the containers with a label, and an inspect of each.
    pub(crate) async fn look(&self, label: &str, count: usize) -> Result<()> {
        let filters = json!({ "label": [label] }).to_string();
        let list = self.0.get("http://engine/containers/json").query(&[("filters", filters)]);
        let rows: Vec<Value> = list.send().await?.error_for_status()?.json().await?;
        ensure!(rows.len() == count, "{} containers are listed", rows.len());
        let mut inspects = JoinSet::new();
        for row in rows {
            let id = row.get("Id").and_then(Value::as_str).context("a row has an id")?;
            let inspect = self.0.get(format!("http://engine/containers/{id}/json")).send();
            inspects.spawn(async move { inspect.await?.error_for_status()?.bytes().await });
            if inspects.len() >= INSPECTS {
                let ended = inspects.join_next().await.context("one runs")?;
                ended??;
            }
        }
        while let Some(ended) = inspects.join_next().await {
            ended??;
        }
        Ok(())
    }
}
