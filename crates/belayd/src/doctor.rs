//! Every prerequisite of the host, with its verdict. Nothing is changed.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use belay_engine::{EngineOptions, Severity};
use belay_protocol::{Finding, Verdict};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;

use crate::config::Config;

/// Free space on the host below which volumes cannot sensibly be promised.
const SPACE_LOW: u64 = 1 << 30;

/// Tools that belayd runs, where it expects them, what for, and the package that has them.
const TOOLS: [(&str, &str, &str, Verdict); 7] = [
    ("/usr/sbin/mkfs.ext4", "makes volumes", "e2fsprogs", Verdict::Faulty),
    ("/usr/sbin/e2fsck", "checks volumes", "e2fsprogs", Verdict::Faulty),
    ("/usr/sbin/resize2fs", "grows volumes", "e2fsprogs", Verdict::Faulty),
    ("/usr/bin/setpriv", "ties Podman's service to belayd", "util-linux", Verdict::Faulty),
    ("/usr/sbin/iptables", "publishes ports", "iptables", Verdict::Limited),
    ("/usr/sbin/mkfs.xfs", "makes xfs volumes", "xfsprogs", Verdict::Limited),
    ("/usr/sbin/mkfs.btrfs", "makes btrfs volumes", "btrfs-progs", Verdict::Limited),
];

/// Prints the findings and says by the exit code whether belayd can do its work here.
pub(crate) async fn report(config: Config, json: bool) -> ExitCode {
    let findings = examine(&config).await;
    let mut out = std::io::stdout().lock();
    let written = if json {
        serde_json::to_string_pretty(&findings)
            .map_err(std::io::Error::from)
            .and_then(|text| writeln!(out, "{text}"))
    } else {
        findings.iter().try_for_each(|finding| {
            let verdict = match finding.verdict {
                Verdict::Good => "good   ",
                Verdict::Limited => "limited",
                Verdict::Faulty => "FAULTY ",
            };
            writeln!(out, "{verdict}  {}: {}", finding.subject, finding.found)?;
            if finding.advice.is_empty() {
                Ok(())
            } else {
                writeln!(out, "         {}", finding.advice)
            }
        })
    };
    let faulty = findings.iter().any(|finding| finding.verdict == Verdict::Faulty);
    if faulty || written.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![root(), loop_devices()];
    let options = EngineOptions {
        socket: config.engine_socket.clone(),
        runtime_dir: config.runtime_dir.clone(),
        kind: config.engine,
    };
    let engine = belay_engine::examine(&options).await;
    findings.extend(engine.findings.into_iter().map(|found| Finding {
        subject: format!("engine ({})", found.code),
        verdict: match found.severity {
            Severity::Fault => Verdict::Faulty,
            Severity::Warning => Verdict::Limited,
            Severity::Note => Verdict::Good,
        },
        found: found.what,
        advice: found.advice,
    }));
    findings.extend(TOOLS.map(tool));
    findings.push(space(&config.state_dir));
    findings.push(cgroups());
    findings.push(open_files(config));
    findings
}

fn finding(subject: &str, verdict: Verdict, found: String, advice: &str) -> Finding {
    let advice = if verdict == Verdict::Good { String::new() } else { advice.to_owned() };
    Finding { subject: subject.to_owned(), verdict, found, advice }
}

fn root() -> Finding {
    let uid = nix::unistd::geteuid();
    let verdict = if uid.is_root() { Verdict::Good } else { Verdict::Faulty };
    let advice = "run it as root: it mounts volumes";
    finding("permission", verdict, format!("runs as uid {uid}"), advice)
}

fn loop_devices() -> Finding {
    let advice = "load the module: modprobe loop; and make it permanent: echo loop > \
                  /etc/modules-load.d/belay.conf";
    match std::fs::File::options().read(true).write(true).open("/dev/loop-control") {
        Ok(_) => {
            finding("loop devices", Verdict::Good, "/dev/loop-control can be opened".into(), "")
        }
        Err(error) => finding(
            "loop devices",
            Verdict::Faulty,
            format!("/dev/loop-control cannot be opened: {error}"),
            advice,
        ),
    }
}

fn tool((path, purpose, package, missing): (&str, &str, &str, Verdict)) -> Finding {
    let present = Path::new(path).exists();
    let verdict = if present { Verdict::Good } else { missing };
    let found = if present {
        format!("{path} is there and {purpose}")
    } else {
        format!("{path} is not there; it {purpose}")
    };
    let name = path.rsplit('/').next().unwrap_or(path);
    finding(name, verdict, found, &format!("apt-get install {package}"))
}

/// Open files that belayd needs besides the sockets of runners.
const OTHER_FILES: u64 = 1024;

fn open_files(config: &Config) -> Finding {
    let wanted = u64::try_from(config.runners.connections).unwrap_or(u64::MAX);
    let wanted = wanted.saturating_add(OTHER_FILES);
    let advice = "raise it, as LimitNOFILE in belayd's unit, or lower runner.connections";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((limit, _)) => {
            let verdict = if limit >= wanted { Verdict::Good } else { Verdict::Limited };
            let runners = limit.saturating_sub(OTHER_FILES).min(wanted - OTHER_FILES);
            let found = format!(
                "{limit} may be open at a time here: enough for {runners} of {} runners",
                config.runners.connections
            );
            finding("open files", verdict, found, advice)
        }
        Err(error) => {
            finding("open files", Verdict::Limited, format!("cannot be told: {error}"), advice)
        }
    }
}

fn space(state_dir: &Path) -> Finding {
    // Before the first start the directory is absent; its nearest parent has the same disk.
    let existing = state_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match statvfs(existing) {
        Ok(found) => {
            let free = found.blocks_available() * found.fragment_size();
            let verdict = if free < SPACE_LOW { Verdict::Limited } else { Verdict::Good };
            let text = format!("{} MiB free at {}", free >> 20, existing.display());
            finding("space", verdict, text, "free space: every volume is allocated in full")
        }
        Err(error) => finding(
            "space",
            Verdict::Faulty,
            format!("{}: {error}", existing.display()),
            "see that the disk can be read",
        ),
    }
}

fn cgroups() -> Finding {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let legacy = Path::new("/sys/fs/cgroup/memory").exists();
    let (verdict, found) = match (unified, legacy) {
        (true, _) => (Verdict::Good, "cgroup v2".to_owned()),
        (false, true) => (Verdict::Good, "cgroup v1".to_owned()),
        (false, false) => (Verdict::Faulty, "no cgroup hierarchy is mounted".to_owned()),
    };
    finding("cgroups", verdict, found, "mount it: mount -t cgroup2 cgroup2 /sys/fs/cgroup")
}
