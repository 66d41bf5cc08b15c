//! Has an image on the host.

use belay_engine::{Engine, Image};
use belay_protocol::{Problem, ProblemCode, WorkloadName};
use tokio::sync::mpsc;

use crate::core::spec::{ImageSource, PullPolicy};
use crate::problems;
use crate::reporter::Progress;

/// Steps of a pull that may wait to be reported.
const STEPS: usize = 16;

/// Looks an image up and fetches or loads it as the policy says.
pub(crate) async fn fetch(
    engine: Engine,
    workload: WorkloadName,
    source: ImageSource,
    policy: PullPolicy,
    progress: Progress,
) -> Result<Image, Problem> {
    let reference = match &source {
        ImageSource::File(path) => {
            progress.say("fetch image", format!("loading {}", path.display()));
            let loaded = engine.load(path).await;
            return loaded.map_err(|error| problems::load(&workload, &error));
        }
        ImageSource::Registry(reference) => reference,
    };
    let present = engine.image(reference).await;
    let present = present.map_err(|error| problems::pull(&workload, &source, &error))?;
    match (present, policy) {
        (Some(image), PullPolicy::Missing | PullPolicy::Never) => Ok(image),
        (None, PullPolicy::Never) => Err(Problem::new(
            ProblemCode::ImageUnavailable,
            format!("{workload}: image {reference} is not on this host and pull is never"),
            format!("load it, or set pull = \"missing\": podman pull {reference}"),
        )),
        (present, PullPolicy::Always | PullPolicy::Missing) => {
            match pull(&engine, reference, &progress).await {
                Ok(image) => Ok(image),
                // A registry that is away must not keep a node from running what it has.
                Err(error) => match present {
                    Some(image) => {
                        let why = problems::with_causes(&error);
                        progress.say("fetch image", format!("using the one on this host: {why}"));
                        Ok(image)
                    }
                    None => Err(problems::pull(&workload, &source, &error)),
                },
            }
        }
    }
}

async fn pull(
    engine: &Engine,
    reference: &str,
    progress: &Progress,
) -> Result<Image, belay_engine::EngineError> {
    let (sender, mut steps) = mpsc::channel::<belay_engine::PullProgress>(STEPS);
    let report = async {
        while let Some(step) = steps.recv().await {
            let layer = step.layer.map(|layer| format!("{layer}: ")).unwrap_or_default();
            let (done, total) = step.bytes.unzip();
            progress.say_bytes("fetch image", format!("{layer}{}", step.status), done, total);
        }
    };
    let (image, ()) = tokio::join!(engine.pull(reference, None, sender), report);
    image
}
