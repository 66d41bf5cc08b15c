//! Points at which a test can make an operation fail, or end the process, or hold it. Without the
//! feature `failpoints` there are none.

use std::fmt::Debug;

use crate::error::IoFault;

/// Where an operation stands between two of its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    After,
}

#[cfg(not(feature = "failpoints"))]
#[expect(clippy::unnecessary_wraps, reason = "it fails where failpoints are compiled in")]
pub(crate) fn reach(_operation: &str, _step: &impl Debug, _moment: Moment) -> Result<(), IoFault> {
    Ok(())
}

/// `BELAY_VOLUMES_FAILPOINT` is `<operation>.<Step>.<before|after>=<fail|kill>`.
#[cfg(feature = "failpoints")]
pub(crate) fn reach(operation: &str, step: &impl Debug, moment: Moment) -> Result<(), IoFault> {
    use nix::sys::signal::{Signal, raise};

    let Ok(wanted) = std::env::var("BELAY_VOLUMES_FAILPOINT") else { return Ok(()) };
    let Some((point, effect)) = wanted.split_once('=') else { return Ok(()) };
    let step = format!("{step:?}");
    let step = step.split(['(', ' ']).next().unwrap_or_default();
    let moment = match moment {
        Moment::Before => "before",
        Moment::After => "after",
    };
    if point != format!("{operation}.{step}.{moment}") {
        return Ok(());
    }
    match effect {
        "kill" => {
            let sent = raise(Signal::SIGKILL);
            Err(IoFault::new("pass", point, std::io::Error::other(format!("killed: {sent:?}"))))
        }
        _ => Err(IoFault::new("pass", point, std::io::Error::other("a test made it fail"))),
    }
}
