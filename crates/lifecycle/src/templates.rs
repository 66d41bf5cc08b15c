//! Where workloads that take runs and the host of their runners meet.

use std::collections::BTreeMap;
use std::sync::Arc;

use belay_engine::Image;
use belay_protocol::WorkloadName;
use tokio::sync::watch;

use crate::core::record::Declaration;
use crate::core::spec::WorkloadSpec;
use crate::core::template::{RunnersSeen, Standing};

/// A workload of which containers of runners are made.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// Its spec, which has a `runner`.
    pub spec: Arc<WorkloadSpec>,
    /// Where the spec comes from.
    pub declaration: Declaration,
    /// Generation of the spec.
    pub generation: u64,
    /// Its image, once it is on the host.
    pub image: Option<Image>,
    /// Whether it takes runs.
    pub standing: Standing,
}

/// The templates of a node, and the runners that there are of each. Clones show the same.
///
/// The task of each workload writes its template; the host of the runners counts them.
#[derive(Debug, Clone)]
pub struct Templates {
    templates: Arc<watch::Sender<BTreeMap<WorkloadName, Template>>>,
    runners: Arc<watch::Sender<Option<BTreeMap<WorkloadName, RunnersSeen>>>>,
}

impl Default for Templates {
    fn default() -> Self {
        Self {
            templates: Arc::new(watch::Sender::default()),
            runners: Arc::new(watch::Sender::new(None)),
        }
    }
}

impl Templates {
    /// Follows the templates.
    pub fn follow(&self) -> watch::Receiver<BTreeMap<WorkloadName, Template>> {
        self.templates.subscribe()
    }

    /// Says which runners there are; a workload that is left out has none.
    pub fn count(&self, runners: BTreeMap<WorkloadName, RunnersSeen>) {
        self.runners.send_if_modified(|seen| {
            let changed = seen.as_ref() != Some(&runners);
            *seen = Some(runners);
            changed
        });
    }

    /// Shows a template, or that there is none.
    pub fn show(&self, workload: &WorkloadName, template: Option<Template>) {
        self.templates.send_if_modified(|shown| {
            let before = match template {
                Some(template) if shown.get(workload) == Some(&template) => return false,
                Some(template) => {
                    shown.insert(workload.clone(), template);
                    return true;
                }
                None => shown.remove(workload),
            };
            before.is_some()
        });
    }

    /// Follows the counts; `None` before the host of the runners has looked.
    pub(crate) fn follow_runners(
        &self,
    ) -> watch::Receiver<Option<BTreeMap<WorkloadName, RunnersSeen>>> {
        self.runners.subscribe()
    }
}
