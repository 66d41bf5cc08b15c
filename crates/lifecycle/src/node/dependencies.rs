//! Who depends on whom, checked before anything is changed.

use belay_protocol::{DeployRequest, Problem, ProblemCode, SpecFault, WorkloadName};

use super::NodeTask;
use crate::core::dependencies::{self, Graph, Refusal};
use crate::core::providers;
use crate::core::spec::WorkloadSpec;
use crate::reporter::Reporter;

/// The fault of a spec whose dependencies are refused.
pub(super) fn fault(file: &str, refusal: &Refusal) -> SpecFault {
    let expected = match refusal {
        Refusal::Missing(_) => "workloads of this node; deploy them first",
        Refusal::Cycle(_) => "an order in which all of them can start",
        Refusal::Refused(_) => "workloads that are not refused; correct their files",
    };
    SpecFault {
        file: file.to_owned(),
        key: "depends_on".to_owned(),
        found: refusal.to_string(),
        expected: expected.to_owned(),
        nearest: None,
    }
}

/// The workloads that a spec depends on.
pub(super) fn needs(spec: &WorkloadSpec) -> std::collections::BTreeSet<WorkloadName> {
    spec.depends_on.keys().cloned().collect()
}

impl NodeTask {
    /// Who depends on whom now. Workloads that show nothing yet depend on nobody.
    pub(super) fn graph(&self) -> Graph {
        providers::graph(&self.context.board.page())
    }

    /// The problem of a spec that depends on what is not there, or on itself.
    pub(super) fn dependency_fault(
        &self,
        request: &DeployRequest,
        spec: &WorkloadSpec,
    ) -> Option<Problem> {
        let declared = Graph::from([(spec.name.clone(), needs(spec))]);
        let admission = dependencies::admit(&self.graph(), &declared);
        let mut faults = Vec::new();
        if let Some(refusal) = admission.refused.get(&spec.name) {
            let mut fault = fault(&request.file, refusal);
            if let Refusal::Missing(missing) = refusal
                && let [missing] = missing.as_slice()
            {
                let names = self.handles.keys().filter(|name| **name != spec.name);
                let names = names.map(WorkloadName::as_str);
                fault.nearest = crate::core::keys::nearest(missing.as_str(), names);
            }
            faults.push(fault);
        }
        faults.extend(self.unpublished(&request.file, spec));
        if faults.is_empty() {
            return None;
        }
        let detail = format!("{} cannot depend on what it names", spec.name);
        let next = "correct the spec and deploy it again; nothing was changed";
        Some(Problem::new(ProblemCode::InvalidSpec, detail, next).with_faults(faults))
    }

    /// Faults of `env` entries that name a port which the other workload does not publish.
    fn unpublished(&self, file: &str, spec: &WorkloadSpec) -> Vec<SpecFault> {
        let page = self.context.board.page();
        let mut faults = Vec::new();
        for (name, source) in &spec.env_from {
            let found = page.workloads.iter().find(|found| found.name == source.from);
            let Some(found) = found else { continue };
            let tcp = found.ports.iter().filter(|port| port.protocol == "tcp");
            let ports: Vec<_> = tcp.map(|port| port.container_port.to_string()).collect();
            if ports.contains(&source.port.to_string()) {
                continue;
            }
            let expected = match ports.as_slice() {
                [] => format!("a TCP port that {} publishes; it publishes none", source.from),
                ports => format!("a TCP port that {} publishes: {}", source.from, ports.join(", ")),
            };
            faults.push(SpecFault {
                file: file.to_owned(),
                key: format!("env.{name}.port"),
                found: source.port.to_string(),
                expected,
                nearest: None,
            });
        }
        faults
    }

    /// Tells whoever deploys that published addresses of others are out of the container's reach.
    pub(super) fn warn_of_unreachable(&self, spec: &WorkloadSpec, reporter: &Reporter) {
        let providers = providers::seen(spec, &self.context.board.page());
        for name in providers::unreachable(spec, &providers) {
            reporter.progress(
                "check",
                format!(
                    "{name} publishes its ports on the host's loopback only, which a container with \
                     a network of its own does not reach"
                ),
            );
        }
    }

    /// The problem of removing a workload that others depend on.
    pub(super) fn is_needed(&self, workload: &WorkloadName) -> Option<Problem> {
        let names = dependencies::dependants(&self.graph(), workload);
        let names: Vec<_> = names.iter().map(WorkloadName::as_str).collect();
        let who = match names.as_slice() {
            [] => return None,
            [one] => format!("{one} depends on {workload}"),
            several => format!("{} depend on {workload}", several.join(", ")),
        };
        Some(Problem::new(
            ProblemCode::HasDependants,
            format!("{who} and could not be started again without it"),
            format!("remove them first, or insist: belay rm --force {workload}"),
        ))
    }
}
