//! Volume-sync in the `tree` format: one gibibyte in 10,000 files, published, changed, applied.
//! CPU time is held against the floor, which is the same content cut, hashed and compressed in this
//! process without anything around it, and shown beside `tar | gzip` and restic.

mod rivals;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use belay_packs::{ContentWriter, Effort, Keys, Known, PackNumber, PackSink, PackSummary};
use belay_protocol::{Cid, SyncRole, SyncStatus};
use belay_store::{BlobStore, LocalStore};
use belay_sync::{
    AnswerPlace, ControlVolume, FoundState, MountPoint, NoClones, NodeKey, OfflineWindow,
    PublishCommand, Ready, SyncHandle, SyncLayout, SyncNode, SyncSpec, Window, WindowClosed,
    WindowPurpose, WindowRefused, spawn,
};
use nix::sys::resource::{UsageWho, getrusage};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::rivals::{Restic, tar_gzip};
use crate::lifecycle::{Finding, finding};

pub(crate) const MIB: u64 = 1024 * 1024;
const DEADLINE: Duration = Duration::from_mins(10);

/// Small files, of 200 bytes to 64 KiB.
const SMALL: u64 = 9_900;
/// Files of 4 to 16 MiB, such as libraries are.
const MIDDLE: u64 = 36;

pub(crate) async fn run() -> Result<Vec<Finding>> {
    let scratch = tempfile::Builder::new().prefix("belay-bench-").tempdir_in("/var/tmp")?;
    let provider = Place::new(&scratch.path().join("provider"))?;
    let consumer = Place::new(&scratch.path().join("consumer"))?;
    let data = provider.root.join("data");
    fill(&data)?;
    let bytes = tree_bytes(&data)?;
    let mut findings = vec![finding("the tree", mib(bytes), "MiB", None)];

    // The floor first: it reads everything into the page cache for both.
    let before = cpu()?;
    let packed = floor(&data)?;
    let floor_cpu = cpu()?.saturating_sub(before);
    findings.push(finding("floor: cut, hash, compress", floor_cpu.as_secs_f64(), "CPU s", None));
    findings.push(finding("floor: packs", mib(packed), "MiB", None));
    let gzip = tar_gzip(&data)?;
    findings.push(finding("tar | gzip", gzip.cpu.as_secs_f64(), "CPU s", None));
    findings.push(finding("tar | gzip: archive", mib(gzip.stored), "MiB", None));
    let restic = Restic::new(&scratch.path().join("restic"))?;
    let backup = restic.backup(&data)?;
    findings.push(finding("restic: first backup", backup.cpu.as_secs_f64(), "CPU s", None));
    findings.push(finding("restic: stored", mib(backup.stored), "MiB", None));
    let backup = restic.backup(&data)?;
    findings.push(finding("restic: unchanged backup", millis(backup.cpu), "CPU ms", None));

    let store_path = scratch.path().join("store");
    let publishing = Running::start(&provider, &store_path, SyncRole::Provider)?;
    forget_peak_memory()?;
    let memory = peak_memory()?;
    let first = publishing.publish(&store_path).await?;
    let ratio = first.cpu.as_secs_f64() / floor_cpu.as_secs_f64();
    findings.push(finding("first publish", first.cpu.as_secs_f64(), "CPU s", None));
    findings.push(finding("first publish, of the floor", ratio, "times", Some(1.2)));
    findings.push(finding("first publish: stored", mib(first.stored), "MiB", None));
    findings.push(finding("first publish: app stopped", first.stopped, "ms", None));
    let grown = peak_memory()?.saturating_sub(memory);
    findings.push(finding("first publish: memory above idle", mib(grown), "MiB", Some(64.7)));

    // The first one after it finds files that had changed a moment before they were read.
    publishing.publish(&store_path).await?;
    let same = publishing.publish(&store_path).await?;
    findings.push(finding("unchanged publish", millis(same.cpu), "CPU ms", Some(150.0)));
    findings.push(finding("unchanged publish: app stopped", same.stopped, "ms", None));

    let consuming = Running::start(&consumer, &store_path, SyncRole::Consumer)?;
    consuming.applied(first.cid).await?;

    // Part of what lies around a change is stored with it, and is more here and less there.
    let (mut changes, mut backups) = (Vec::new(), Vec::new());
    for place in 0..5_u64 {
        overwrite(&data.join("random"), (6 * place + 1) * MIB + 123, &noise(71 + place, MIB))?;
        changes.push(publishing.publish(&store_path).await?);
        backups.push(restic.backup(&data)?);
    }
    changes.sort_by_key(|change| change.stored);
    backups.sort_by_key(|backup| backup.stored);
    findings.push(finding("1 MiB changed: stored", mib(changes[2].stored), "MiB", Some(1.15)));
    findings.push(finding("1 MiB changed", millis(changes[2].cpu), "CPU ms", None));
    findings.push(finding("restic: 1 MiB changed: stored", mib(backups[2].stored), "MiB", None));

    let mut dice = Dice(4_711);
    for page in 0..256_u64 {
        let at = dice.roll() % 8_192 * 4_096;
        overwrite(&data.join("random"), at, &noise(1_000 + page, 4_096))?;
    }
    let pages = publishing.publish(&store_path).await?;
    findings.push(finding("256 pages changed: stored", mib(pages.stored), "MiB", Some(1.1)));
    let backup = restic.backup(&data)?;
    findings.push(finding("restic: 256 pages changed: stored", mib(backup.stored), "MiB", None));
    consuming.applied(pages.cid).await?;

    for number in 0..1_000_u64 {
        let path = data.join(format!("small/{}/{}", number % 100, number));
        fs::write(path, noise(10_000 + number, 2_000))?;
    }
    let many = publishing.publish(&store_path).await?;
    let waited = consuming.applied(many.cid).await?;
    findings.push(finding("1,000 files changed: consumer stopped", waited, "ms", Some(100.0)));
    ensure!(tree_bytes(&consumer.root.join("data"))? == tree_bytes(&data)?, "the trees differ");
    publishing.stop().await?;
    consuming.stop().await?;
    Ok(findings)
}

fn mib(bytes: u64) -> f64 {
    let mut text = String::new();
    let _infallible = write!(text, "{bytes}");
    text.parse::<f64>().unwrap_or(f64::NAN) / 1_048_576.0
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// CPU time of this process so far.
fn cpu() -> Result<Duration> {
    spent(UsageWho::RUSAGE_SELF)
}

fn spent(who: UsageWho) -> Result<Duration> {
    let usage = getrusage(who)?;
    let time = |part: nix::sys::time::TimeVal| -> Result<Duration> {
        let micros = u64::try_from(part.tv_sec())? * 1_000_000 + u64::try_from(part.tv_usec())?;
        Ok(Duration::from_micros(micros))
    };
    Ok(time(usage.user_time())? + time(usage.system_time())?)
}

/// Lets the peak begin at what there is now.
fn forget_peak_memory() -> Result<()> {
    Ok(fs::write("/proc/self/clear_refs", "5")?)
}

/// Most memory that this process had, in bytes.
fn peak_memory() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no peak")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Bytes that do not compress.
pub(crate) fn noise(seed: u64, length: u64) -> Vec<u8> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        bytes.extend_from_slice(&dice.roll().to_le_bytes());
    }
    bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    bytes
}

/// Bytes that compress to a third or so, as code and logs do.
fn words(seed: u64, length: u64) -> Vec<u8> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        let roll = dice.roll();
        let _infallible = write!(bytes, "{:x} ", (roll % 4_096) * 7_919);
        if roll.is_multiple_of(11) {
            bytes.push(b'\n');
        }
    }
    bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    bytes
}

/// Bytes that compress to less than a half, page by page one less and three more.
fn pages(seed: u64, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut page = seed << 20;
    while (bytes.len() as u64) < length {
        bytes.extend(words(page, 3 * 4_096));
        bytes.extend(noise(page, 4_096));
        page += 1;
    }
    bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    bytes
}

/// The tree: 10,000 files, one gibibyte.
pub(crate) fn fill(data: &Path) -> Result<()> {
    let mut left = 1024 * MIB;
    let mut put = |path: PathBuf, content: &[u8]| -> Result<u64> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, content)?;
        left = left.saturating_sub(content.len() as u64);
        Ok(left)
    };
    for number in 0..SMALL {
        // Most are small, few are large.
        let length = 200 + 64 * 1024 / (1 + number % 97);
        put(data.join(format!("small/{}/{number}", number % 100)), &words(number, length))?;
    }
    for number in 0..MIDDLE {
        let length = (4 + number % 13) * MIB;
        put(data.join(format!("middle/{number}")), &pages(20_000 + number, length))?;
    }
    for number in 0..2 {
        put(data.join(format!("database-{number}")), &pages(30_000 + number, 64 * MIB))?;
    }
    put(data.join("log"), &words(40_000, 32 * MIB))?;
    let mut left = put(data.join("random"), &noise(40_001, 32 * MIB))?;
    let mut number = 50_000;
    while left > 0 {
        left = put(data.join(format!("rest/{number}")), &pages(number, left.min(8 * MIB)))?;
        number += 1;
    }
    Ok(())
}

/// Bytes of the files of a tree.
fn tree_bytes(root: &Path) -> Result<u64> {
    let mut bytes = 0;
    for path in files(root)? {
        bytes += fs::metadata(path)?.len();
    }
    Ok(bytes)
}

fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut waiting) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let list = if entry.file_type()?.is_dir() { &mut waiting } else { &mut found };
            list.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

pub(crate) fn overwrite(path: &Path, at: u64, content: &[u8]) -> Result<()> {
    let mut file = File::options().write(true).open(path)?;
    file.seek(SeekFrom::Start(at))?;
    Ok(file.write_all(content)?)
}

/// Packs that go nowhere.
struct Nowhere;

impl PackSink for Nowhere {
    type Pack = io::Sink;

    fn begin(&mut self, _number: PackNumber) -> io::Result<io::Sink> {
        Ok(io::sink())
    }

    fn finish(&mut self, _: PackNumber, _: io::Sink, _: PackSummary) -> io::Result<()> {
        Ok(())
    }
}

/// Cuts, hashes and compresses every file, and returns the bytes of the packs.
fn floor(data: &Path) -> Result<u64> {
    let mut writer = ContentWriter::new(&Keys::plain(), Known::default(), PackNumber(0), Nowhere);
    for path in files(data)? {
        writer.write(File::open(path)?, Effort::Fast)?;
    }
    let (_, _, written) = writer.finish()?;
    Ok(written.stored)
}

/// A workload without a container.
struct Place {
    root: PathBuf,
}

impl Place {
    fn new(root: &Path) -> Result<Self> {
        fs::create_dir_all(root.join("data"))?;
        fs::create_dir_all(root.join("control"))?;
        Ok(Self { root: root.to_owned() })
    }

    fn layout(&self) -> Result<SyncLayout> {
        Ok(SyncLayout {
            mounts: vec![MountPoint {
                volume: "data".parse()?,
                container_path: "/data".to_owned(),
                data: self.root.join("data"),
                private: self.root.join("private"),
                size: 4096 * MIB,
            }],
            control: ControlVolume {
                data: self.root.join("control"),
                container_path: "/belay".to_owned(),
                answers: Arc::new(Answers(self.root.join("answer"))),
            },
            clones: Arc::new(NoClones),
        })
    }
}

#[derive(Debug)]
struct Answers(PathBuf);

impl AnswerPlace for Answers {
    fn place(&self, directory: BorrowedFd<'_>, name: &str, content: &[u8]) -> io::Result<()> {
        fs::write(&self.0, content)?;
        fs::rename(&self.0, format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
    }
}

/// A container that stops and starts at once; what is left of a window is what sync needs it for.
#[derive(Clone, Default)]
struct Stopwatch(Arc<Mutex<Duration>>);

impl OfflineWindow for Stopwatch {
    async fn open(&self, _purpose: WindowPurpose) -> Result<Window, WindowRefused> {
        let (window, owner) = Window::pair(FoundState::Running);
        let (last, began) = (Arc::clone(&self.0), Instant::now());
        tokio::spawn(async move {
            let (_, reply) = owner.closed().await;
            let downtime = began.elapsed();
            *last.lock().expect("nobody panics while holding it") = downtime;
            reply.send(Ok(WindowClosed {
                found: FoundState::Running,
                ready: Ready::Ready,
                downtime,
            }));
        });
        Ok(window)
    }

    async fn readiness(&self) -> Option<Ready> {
        Some(Ready::Ready)
    }
}

/// What a publish came to.
struct Published {
    cid: Cid,
    cpu: Duration,
    /// Bytes that the store has more.
    stored: u64,
    /// Milliseconds for which the app was stopped.
    stopped: f64,
}

struct Running {
    handle: SyncHandle,
    status: watch::Receiver<SyncStatus>,
    window: Stopwatch,
    shutdown: CancellationToken,
    join: JoinHandle<()>,
    _layout: watch::Sender<Option<SyncLayout>>,
}

impl Running {
    fn start(place: &Place, store: &Path, role: SyncRole) -> Result<Self> {
        let window = Stopwatch::default();
        let (layout, seen) = watch::channel(Some(place.layout()?));
        let shutdown = CancellationToken::new();
        let mut spec = SyncSpec::new(role, "bench".parse()?);
        // Nothing that is stored is deleted while it is counted.
        spec.keep_generations = 100;
        let (handle, join) = spawn(
            "bench".parse()?,
            SyncNode { id: "node".parse()?, key: NodeKey::new(&place.root) },
            spec,
            &place.root.join("state"),
            Arc::new(LocalStore::open(store)?),
            seen,
            window.clone(),
            shutdown.clone(),
        )?;
        let status = handle.status();
        Ok(Self { handle, status, window, shutdown, join, _layout: layout })
    }

    async fn publish(&self, store: &Path) -> Result<Published> {
        let (stored, before) = (stored(store).await?, cpu()?);
        let command = PublishCommand {
            archive_paths: vec!["/data".to_owned()],
            metadata: serde_json::Map::new(),
        };
        let outcome = self.handle.publish(command).await?;
        let cpu = cpu()?.saturating_sub(before);
        Ok(Published {
            cid: outcome.cid,
            cpu,
            stored: self::stored(store).await?.saturating_sub(stored),
            stopped: self.stopped(),
        })
    }

    /// Waits until this content is applied, and says for how many milliseconds the app was stopped.
    async fn applied(&self, cid: Cid) -> Result<f64> {
        self.handle.check();
        let mut status = self.status.clone();
        let is_applied =
            |status: &SyncStatus| status.last_apply.as_ref().is_some_and(|last| last.cid == cid);
        tokio::time::timeout(DEADLINE, status.wait_for(is_applied)).await??;
        Ok(self.stopped())
    }

    fn stopped(&self) -> f64 {
        millis(*self.window.0.lock().expect("nobody panics while holding it"))
    }

    async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        Ok(self.join.await?)
    }
}

/// Bytes of all objects of the store.
async fn stored(store: &Path) -> Result<u64> {
    let blobs = LocalStore::open(store)?.list(None, 100_000).await?;
    Ok(blobs.iter().map(|blob| blob.size).sum())
}
