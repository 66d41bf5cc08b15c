//! From a template to the container of a runner, and back by its labels.

use belay_engine::{Container, ContainerSpec, labels};
use belay_lifecycle::Template;
use belay_lifecycle::core::container::{DECLARATION, DECLARED_AT, DECLARED_IN, apply_spec};
use belay_lifecycle::core::spec::WorkloadSpec;
use belay_protocol::runner::RunnerId;
use belay_protocol::{NodeId, WorkloadName};

/// The label that names the installation whose runner it is. It is not the one of containers of
/// ordinary workloads, so that nobody who looks for those finds a runner, and starts it.
pub const HOST: &str = "io.belay.host";
/// The label that names the runner.
pub const RUNNER: &str = "io.belay.runner";
/// The label that names the workload whose runs it takes.
pub const RUNNER_OF: &str = "io.belay.runner-of";

/// The label that names where the runner looks for belayd. One that came from another node looks
/// where that node was.
pub const URL: &str = "io.belay.runner-url";

/// Who a container is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The runner.
    pub runner: RunnerId,
    /// Its workload.
    pub workload: WorkloadName,
    /// Generation of the spec it was made of.
    pub generation: u64,
}

/// How a runner finds belayd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Where, in the form of a URL.
    pub url: String,
    /// Its token.
    pub token: String,
}

/// Name of a runner's container on a node.
pub fn name(node: &NodeId, runner: &RunnerId) -> String {
    format!("belay-{node}-{runner}")
}

/// The container of a runner. `image` is the id of the image.
pub fn spec(
    template: &Template,
    identity: &Identity,
    node: &NodeId,
    host: &str,
    image: &str,
    reach: &Reach,
) -> ContainerSpec {
    let spec = &template.spec;
    let mut container = ContainerSpec::new(name(node, &identity.runner), image);
    container.command.clone_from(&spec.command);
    container.entrypoint.clone_from(&spec.entrypoint);
    container.env = environment(spec, identity, node, reach);
    container.labels = [
        (labels::NODE, node.to_string()),
        (HOST, host.to_owned()),
        (RUNNER, identity.runner.to_string()),
        (RUNNER_OF, identity.workload.to_string()),
        (URL, reach.url.clone()),
        (labels::GENERATION, identity.generation.to_string()),
        (labels::SPEC, template.declaration.hash()),
        (DECLARATION, template.declaration.spec.clone()),
        (DECLARED_IN, template.declaration.file.clone()),
        (DECLARED_AT, template.declaration.directory.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    apply_spec(&mut container, spec);
    container
}

/// The spec's entries, and those by which a runner finds belayd, which nothing replaces.
fn environment(
    spec: &WorkloadSpec,
    identity: &Identity,
    node: &NodeId,
    reach: &Reach,
) -> Vec<(String, String)> {
    let own = [
        ("BELAY_NODE", node.to_string()),
        ("BELAY_WORKLOAD", identity.workload.to_string()),
        ("BELAY_RUNNER_ID", identity.runner.to_string()),
        ("BELAY_RUNNER_URL", reach.url.clone()),
        ("BELAY_RUNNER_TOKEN", reach.token.clone()),
    ];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
    spec.env.clone().into_iter().chain(own).collect()
}

/// Whose a container is; none if it is no runner's of this installation, or cannot be read.
pub fn identity(container: &Container, host: &str) -> Option<Identity> {
    let label = |name| container.labels.get(name);
    if label(HOST)? != host {
        return None;
    }
    Some(Identity {
        runner: label(RUNNER)?.parse().ok()?,
        workload: label(RUNNER_OF)?.parse().ok()?,
        generation: label(labels::GENERATION)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use belay_lifecycle::core::record::{Declaration, Source};
    use belay_lifecycle::core::spec::parse;
    use belay_lifecycle::core::template::Standing;

    use super::*;

    #[test]
    fn a_runner_has_its_template_and_finds_belayd_and_no_one_takes_it_for_a_workloads_container() {
        let text = "name = \"work\"\nimage = \"x\"\nenv = { A = \"1\" }\n[limits]\nmemory = \
                    \"64M\"\n[runner]\n";
        let template = Template {
            spec: Arc::new(parse(text, "work.toml", Path::new("/etc")).expect("a good spec")),
            declaration: Declaration {
                spec: text.into(),
                file: "work.toml".into(),
                directory: "/etc".into(),
                source: Source::Api,
            },
            generation: 3,
            image: None,
            standing: Standing::Taking,
        };
        let identity = Identity {
            runner: "run-1-1".parse().expect("a name"),
            workload: "work".parse().expect("a name"),
            generation: 3,
        };
        let node = "n1".parse().expect("a name");
        let reach = Reach { url: "ws://10.88.0.1:7".into(), token: "secret".into() };
        let made = spec(&template, &identity, &node, "i1", "sha256:1", &reach);
        assert_eq!((made.name.as_str(), made.image.as_str()), ("belay-n1-run-1-1", "sha256:1"));
        assert_eq!(made.limits.memory, Some(64 << 20));
        for (name, value) in [
            ("A", "1"),
            ("BELAY_RUNNER_URL", "ws://10.88.0.1:7"),
            ("BELAY_RUNNER_TOKEN", "secret"),
            ("BELAY_RUNNER_ID", "run-1-1"),
            ("BELAY_WORKLOAD", "work"),
        ] {
            assert!(made.env.contains(&(name.into(), value.into())), "{name}: {:?}", made.env);
        }
        assert_eq!(made.labels.get(labels::INSTANCE), None);
        assert_eq!(made.labels.get(labels::WORKLOAD), None);
        assert_eq!(made.labels[RUNNER_OF], "work");
        assert_eq!(made.labels[DECLARATION], text);
        assert!(!made.labels.values().any(|value| value.contains("secret")));
        assert!(!format!("{made:?}").contains("secret"));
    }
}
