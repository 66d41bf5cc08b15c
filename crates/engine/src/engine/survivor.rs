//! Processes of a container, as the host sees them.

use super::Engine;
use crate::blocking;
use crate::core::process;

/// A process that is there although its container should have ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// Its id, in the host's numbering.
    pub pid: u32,
    /// Its state as the kernel writes it: `D` waits and takes no signal.
    pub state: char,
    /// The kernel's function that it waits in, where that is shown.
    pub waits_in: Option<String>,
}

impl Engine {
    /// A process of this container, found on the host by its control group and not by asking the
    /// engine; `None` when there is none. What has ended and is only waited for does not count.
    pub async fn survivor(&self, container: impl AsRef<str>) -> Option<Survivor> {
        // A name says nothing in a control group; an id does.
        let id = container.as_ref().to_owned();
        blocking::run(move || find(&id)).await
    }
}

fn find(id: &str) -> Option<Survivor> {
    let entries = std::fs::read_dir("/proc").ok()?;
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|groups| process::is_in_container(&groups, id))
        })
        .find_map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
            let state = process::state_of(&String::from_utf8_lossy(&line))?;
            let waits_in = std::fs::read_to_string(format!("/proc/{pid}/wchan")).ok();
            let waits_in = waits_in.filter(|name| !name.is_empty() && name != "0");
            Some(Survivor { pid, state, waits_in })
        })
}
