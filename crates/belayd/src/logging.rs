//! Where log lines go.

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Config, LogFormat};

/// Starts logging as configured.
pub(crate) fn start(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log_level)
        .with_context(|| format!("log.level {:?} is not a filter", config.log_level))?;
    // systemd sets this for a service whose standard error journald reads.
    let under_journald = std::env::var_os("JOURNAL_STREAM").is_some();
    let registry = tracing_subscriber::registry().with(filter);
    match config.log_format {
        LogFormat::Journald => journald(registry),
        LogFormat::Auto if under_journald => journald(registry),
        LogFormat::Auto | LogFormat::Text => {
            let text = tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
            registry.with(text).try_init().context("cannot start logging")
        }
        LogFormat::Json => {
            let json = tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr);
            registry.with(json).try_init().context("cannot start logging")
        }
    }
}

fn journald<S>(registry: S) -> anyhow::Result<()>
where
    S: tracing::Subscriber
        + for<'span> tracing_subscriber::registry::LookupSpan<'span>
        + Send
        + Sync
        + 'static,
{
    let layer = tracing_journald::layer().context("journald does not take log lines")?;
    registry.with(layer).try_init().context("cannot start logging")
}
