//! The part of a spec that declares volume-sync.

use std::path::Path;
use std::time::Duration;

use belay_protocol::record::ArchiveFormat;
use belay_protocol::{PublisherKey, SyncKey, SyncRole};
use belay_sync::{
    ApplyTimes, CapturePolicy, IfUnchanged, MaintenanceWindow, Member, OnUnready, Owners,
    OwnershipPolicy, PublisherRule, Schedule, Sealing, SetId,
};

use super::super::first_content::FirstContent;
use super::super::keys::{Keys, Switch};
use super::required;

/// Volume-sync of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncDeclaration {
    /// Provider or consumer.
    pub role: SyncRole,
    /// Key under which the record stands.
    pub key: SyncKey,
    /// How often is looked when nothing announces itself.
    pub poll_interval: Duration,
    /// In which form a provider publishes; a consumer takes any.
    pub format: ArchiveFormat,
    /// How trees are sealed; none if anyone with the store may read them.
    pub sealing: Option<Sealing>,
    /// What captures of a provider may be.
    pub capture: CapturePolicy,
    /// Whose records a consumer takes; none if it takes those of whoever writes to the store.
    pub publishers: Option<Vec<PublisherKey>>,
    /// Who may publish besides the provider that published last.
    pub publisher: PublisherRule,
    /// What a consumer does with content on which it does not become ready.
    pub on_unready: OnUnready,
    /// What a consumer makes of owners and set-id bits.
    pub ownership: OwnershipPolicy,
    /// What a provider publishes by itself; nothing if none.
    pub schedule: Option<Schedule>,
    /// When a consumer may be stopped for an apply.
    pub apply_times: ApplyTimes,
    /// Whether a consumer is started before its volumes hold something of the key.
    pub first_content: FirstContent,
}

/// Members of one key, the provider not counted.
const MEMBERS_MAX: usize = 1_000;

/// Publishers of one key.
const PUBLISHERS_MAX: usize = 1_000;

/// Paths of one publish, as in a request of an app.
const PATHS_MAX: usize = 64;

const PATHS: &str = "absolute paths in the container, each on a volume";

const WINDOW: &str = "times of the week in UTC, as in \"02:00-04:00\" or \"sat,sun 22:00-02:00\"";

const PUBLISHERS: &str = "Ed25519 keys, each as `belay sync keygen` prints it";

const MEMBERS: &str = "X25519 keys, each the middle line of what `openssl pkey -pubout` writes";

/// Reads `sync`; relative paths are below `directory`.
pub(super) fn read(keys: &mut Keys<'_>, directory: &Path) -> Option<SyncDeclaration> {
    let mut table = keys.table("sync")?;
    if !table.has("role") {
        table.missing("role", "one of provider, consumer");
    }
    let role =
        table.choice("role", &[("provider", SyncRole::Provider), ("consumer", SyncRole::Consumer)]);
    let key = required(&mut table, "key", "a sync key");
    let bounds = Duration::from_secs(1)..=Duration::from_secs(3600);
    let poll_interval = table.duration("poll_interval", bounds).unwrap_or(Duration::from_secs(10));
    let formats = [("tree", ArchiveFormat::Tree), ("tar.gz", ArchiveFormat::TarGz)];
    let format = table.choice("archive_format", &formats).unwrap_or(ArchiveFormat::Tree);
    let sealing = read_sealing(&mut table, role, format, directory);
    let capture = read_capture(&mut table, role, format);
    let publishers = read_publishers(&mut table, role);
    let publisher = read_publisher(&mut table, role);
    let on_unready = read_on_unready(&mut table, role);
    let ownership = read_ownership(&mut table, role);
    let schedule = read_schedule(&mut table, role);
    let apply_times = read_apply_times(&mut table, role);
    let first_content = read_first_content(&mut table, role);
    table.finish();
    Some(SyncDeclaration {
        role: role?,
        key: key?,
        poll_interval,
        format,
        sealing,
        capture,
        publishers,
        publisher,
        on_unready,
        ownership,
        schedule,
        apply_times,
        first_content,
    })
}

fn read_capture(
    table: &mut Keys<'_>,
    role: Option<SyncRole>,
    format: ArchiveFormat,
) -> CapturePolicy {
    let policies = [
        ("stopped", CapturePolicy::Stopped),
        ("atomic", CapturePolicy::Atomic),
        ("live", CapturePolicy::Live),
    ];
    let Some(policy) = table.choice("capture", &policies) else { return CapturePolicy::Stopped };
    if role == Some(SyncRole::Consumer) {
        table.fault("capture", "a policy", "none, since a consumer captures nothing");
    }
    if policy == CapturePolicy::Live && format == ArchiveFormat::TarGz {
        let expected = "\"stopped\" or \"atomic\", since an archive is read in one go";
        table.fault("capture", "\"live\"", expected);
    }
    policy
}

fn read_publisher(table: &mut Keys<'_>, role: Option<SyncRole>) -> PublisherRule {
    let rules = [("one", PublisherRule::One), ("any", PublisherRule::Any)];
    let Some(chosen) = table.choice("publisher", &rules) else { return PublisherRule::One };
    if role == Some(SyncRole::Consumer) {
        table.fault("publisher", "a rule", "none; a consumer lists its publishers");
    }
    chosen
}

fn read_on_unready(table: &mut Keys<'_>, role: Option<SyncRole>) -> OnUnready {
    let rules = [("rollback", OnUnready::Rollback), ("keep", OnUnready::Keep)];
    let Some(chosen) = table.choice("on_unready", &rules) else { return OnUnready::Rollback };
    if role == Some(SyncRole::Provider) {
        table.fault("on_unready", "a rule", "none, since a provider takes nothing over");
    }
    chosen
}

fn read_ownership(table: &mut Keys<'_>, role: Option<SyncRole>) -> OwnershipPolicy {
    let mut policy = OwnershipPolicy::default();
    let owners = table.choice("owners", &[("keep", Owners::Keep), ("volume", Owners::Volume)]);
    let set_id = table.choice("set_id", &[("keep", SetId::Keep), ("clear", SetId::Clear)]);
    for (name, is_there) in [("owners", owners.is_some()), ("set_id", set_id.is_some())] {
        if is_there && role == Some(SyncRole::Provider) {
            table.fault(name, "a policy", "none, since a provider takes nothing over");
        }
    }
    policy.owners = owners.unwrap_or(policy.owners);
    policy.set_id = set_id.unwrap_or(policy.set_id);
    policy
}

fn read_schedule(table: &mut Keys<'_>, role: Option<SyncRole>) -> Option<Schedule> {
    let bounds = Duration::from_secs(10)..=Duration::from_hours(30 * 24);
    let (has_every, has_paths) = (table.has("every"), table.has("paths"));
    let every = table.duration("every", bounds);
    let paths = table.texts("paths", PATHS);
    let rules = [("skip", IfUnchanged::Skip), ("capture", IfUnchanged::Capture)];
    let if_unchanged = table.choice("if_unchanged", &rules);
    if role == Some(SyncRole::Consumer) {
        for key in ["every", "paths", "if_unchanged"] {
            if table.has(key) {
                table.fault(key, "a schedule", "none, since a consumer publishes nothing");
            }
        }
    }
    if table.has("if_unchanged") && !has_every {
        table.missing("every", "a duration, as there is a rule for publishes by schedule");
    }
    if has_every && !has_paths {
        table.missing("paths", PATHS);
    }
    if has_paths && !has_every {
        table.missing("every", "a duration, as there are paths to publish");
    }
    let paths = paths?;
    if paths.is_empty() || paths.len() > PATHS_MAX {
        table.fault("paths", &paths.len().to_string(), &format!("1 to {PATHS_MAX} paths"));
    }
    for path in paths.iter().filter(|path| !path.starts_with('/')) {
        table.fault("paths", &format!("{path:?}"), PATHS);
    }
    Some(Schedule { every: every?, paths, if_unchanged: if_unchanged.unwrap_or_default() })
}

fn read_apply_times(table: &mut Keys<'_>, role: Option<SyncRole>) -> ApplyTimes {
    let bounds = Duration::from_secs(1)..=Duration::from_hours(30 * 24);
    let min_interval = table.duration("min_interval", bounds);
    let window = table.parsed::<MaintenanceWindow>("window", WINDOW);
    for key in ["min_interval", "window"] {
        if role == Some(SyncRole::Provider) && table.has(key) {
            table.fault(key, "a limit", "none, since a provider takes nothing over");
        }
    }
    ApplyTimes { min_interval: min_interval.unwrap_or_default(), window }
}

fn read_first_content(table: &mut Keys<'_>, role: Option<SyncRole>) -> FirstContent {
    let bounds = Duration::from_secs(1)..=Duration::from_hours(30 * 24);
    let switch = table.switch("wait_for_first", bounds);
    if role == Some(SyncRole::Provider) && table.has("wait_for_first") {
        table.fault("wait_for_first", "a rule", "none, since a provider takes nothing over");
    }
    match switch {
        None | Some(Switch::Off) => FirstContent::NotAwaited,
        Some(Switch::On) => FirstContent::Awaited { within: None },
        Some(Switch::OnFor(within)) => FirstContent::Awaited { within: Some(within) },
    }
}

fn read_publishers(table: &mut Keys<'_>, role: Option<SyncRole>) -> Option<Vec<PublisherKey>> {
    let declared = table.texts("publishers", PUBLISHERS)?;
    if role == Some(SyncRole::Provider) {
        table.fault("publishers", "a list", "none, since a provider takes nothing over");
    }
    // An empty list would let nobody in, or anybody; whoever writes one means either.
    if declared.is_empty() || declared.len() > PUBLISHERS_MAX {
        let expected = format!("1 to {PUBLISHERS_MAX} keys");
        table.fault("publishers", &declared.len().to_string(), &expected);
    }
    let mut publishers = Vec::new();
    for text in &declared {
        match text.parse::<PublisherKey>() {
            Ok(publisher) => publishers.push(publisher),
            Err(_) => table.fault("publishers", &format!("{text:?}"), PUBLISHERS),
        }
    }
    Some(publishers)
}

fn read_sealing(
    table: &mut Keys<'_>,
    role: Option<SyncRole>,
    format: ArchiveFormat,
    directory: &Path,
) -> Option<Sealing> {
    let identity = table.text("identity", "the path of a file with an X25519 key");
    let mut members = Vec::new();
    let declared = table.texts("members", MEMBERS).unwrap_or_default();
    for text in &declared {
        match text.parse::<Member>() {
            Ok(member) => members.push(member),
            Err(_) => table.fault("members", &format!("{text:?}"), MEMBERS),
        }
    }
    if declared.len() > MEMBERS_MAX {
        let expected = format!("at most {MEMBERS_MAX} keys");
        table.fault("members", &declared.len().to_string(), &expected);
    }
    if !declared.is_empty() && role == Some(SyncRole::Consumer) {
        table.fault("members", "a list", "none, since a consumer publishes nothing");
    }
    let Some(identity) = identity else {
        if !declared.is_empty() {
            table
                .missing("identity", "the path of a file with an X25519 key, as there are members");
        }
        return None;
    };
    if format == ArchiveFormat::TarGz {
        table.fault("archive_format", "\"tar.gz\"", "\"tree\", since no other form is sealed");
    }
    Some(Sealing { identity: directory.join(identity), members })
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const KEY: &str = "MCowBQYDK2VuAyEATpbMA2ufcuNho6kfYCLHG1wEmuTV/erbsY4rHReGeUw=";

    fn read(sync: &str) -> Result<Option<SyncDeclaration>, Vec<String>> {
        let text = format!("name = \"web\"\nimage = \"x\"\n[sync]\nkey = \"k\"\n{sync}\n");
        match parse(&text, "web.toml", Path::new("/etc/belay")) {
            Ok(spec) => Ok(spec.sync),
            Err(faults) => Err(faults.iter().map(|fault| format!("{fault:?}")).collect()),
        }
    }

    #[test]
    fn a_tree_is_sealed_for_the_members_that_are_declared() {
        let spec =
            format!("role = \"provider\"\nidentity = \"keys/me.pem\"\nmembers = [\"{KEY}\"]");
        let sync = read(&spec).expect("lawful").expect("declared");
        let members = vec![KEY.parse().expect("a key")];
        let identity = Path::new("/etc/belay/keys/me.pem").to_owned();
        assert_eq!(sync.sealing, Some(Sealing { identity, members }));
        assert_eq!(sync.format, ArchiveFormat::Tree);
        let sync =
            read("role = \"consumer\"\nidentity = \"/k\"").expect("lawful").expect("declared");
        assert_eq!(sync.sealing.map(|sealing| sealing.members), Some(Vec::new()));
        assert_eq!(read("role = \"consumer\"").expect("lawful").expect("declared").sealing, None);
    }

    #[test]
    fn captures_stop_the_container_unless_the_spec_permits_more() {
        for (text, policy) in [
            ("", CapturePolicy::Stopped),
            ("capture = \"stopped\"", CapturePolicy::Stopped),
            ("capture = \"atomic\"\narchive_format = \"tar.gz\"", CapturePolicy::Atomic),
            ("capture = \"live\"", CapturePolicy::Live),
        ] {
            let sync = read(&format!("role = \"provider\"\n{text}")).expect("lawful");
            assert_eq!(sync.expect("declared").capture, policy, "{text}");
        }
        for (spec, told) in [
            ("role = \"provider\"\ncapture = \"online\"", "atomic"),
            ("role = \"consumer\"\ncapture = \"atomic\"", "captures nothing"),
            (
                "role = \"provider\"\ncapture = \"live\"\narchive_format = \"tar.gz\"",
                "read in one go",
            ),
        ] {
            let faults = read(spec).expect_err("a fault");
            assert!(faults.iter().any(|fault| fault.contains(told)), "{faults:?}");
        }
    }

    #[test]
    fn a_consumer_lists_whose_records_it_takes() {
        let signer = PublisherKey::from_bytes([9; 32]);
        let spec = format!("role = \"consumer\"\npublishers = [\"{signer}\"]");
        let sync = read(&spec).expect("lawful").expect("declared");
        assert_eq!(sync.publishers, Some(vec![signer]));
        assert_eq!(
            read("role = \"consumer\"").expect("lawful").expect("declared").publishers,
            None
        );
        for (spec, told) in [
            ("role = \"consumer\"\npublishers = []".to_owned(), "1 to 1000 keys"),
            ("role = \"consumer\"\npublishers = [\"me\"]".to_owned(), "belay sync keygen"),
            // The key of a member reads and does not sign.
            (format!("role = \"consumer\"\npublishers = [\"{KEY}\"]"), "Ed25519"),
            (format!("role = \"provider\"\npublishers = [\"{signer}\"]"), "takes nothing over"),
        ] {
            let faults = read(&spec).expect_err("a fault");
            assert!(faults.iter().any(|fault| fault.contains(told)), "{faults:?}");
        }
    }

    #[test]
    fn one_provider_publishes_unless_the_spec_lets_any() {
        for (text, rule) in [
            ("", PublisherRule::One),
            ("publisher = \"one\"", PublisherRule::One),
            ("publisher = \"any\"", PublisherRule::Any),
        ] {
            let sync = read(&format!("role = \"provider\"\n{text}")).expect("lawful");
            assert_eq!(sync.expect("declared").publisher, rule, "{text}");
        }
        for (spec, told) in [
            ("role = \"provider\"\npublisher = \"all\"", "any"),
            ("role = \"consumer\"\npublisher = \"any\"", "lists its publishers"),
        ] {
            let faults = read(spec).expect_err("a fault");
            assert!(faults.iter().any(|fault| fault.contains(told)), "{faults:?}");
        }
    }

    #[test]
    fn a_consumer_goes_back_from_what_it_is_not_ready_on_unless_its_spec_says_keep() {
        for (text, rule) in [
            ("", OnUnready::Rollback),
            ("on_unready = \"rollback\"", OnUnready::Rollback),
            ("on_unready = \"keep\"", OnUnready::Keep),
        ] {
            let sync = read(&format!("role = \"consumer\"\n{text}")).expect("lawful");
            assert_eq!(sync.expect("declared").on_unready, rule, "{text}");
        }
        for (spec, told) in [
            ("role = \"consumer\"\non_unready = \"stop\"", "keep"),
            ("role = \"provider\"\non_unready = \"keep\"", "takes nothing over"),
        ] {
            let faults = read(spec).expect_err("a fault");
            assert!(faults.iter().any(|fault| fault.contains(told)), "{faults:?}");
        }
    }

    #[test]
    fn a_consumer_waits_for_its_first_content_if_its_spec_says_so() {
        let within = |secs| FirstContent::Awaited { within: Some(Duration::from_secs(secs)) };
        for (text, rule) in [
            ("", FirstContent::NotAwaited),
            ("wait_for_first = false", FirstContent::NotAwaited),
            ("wait_for_first = true", FirstContent::Awaited { within: None }),
            ("wait_for_first = \"10m\"", within(600)),
        ] {
            let sync = read(&format!("role = \"consumer\"\n{text}")).expect("lawful");
            assert_eq!(sync.expect("declared").first_content, rule, "{text}");
        }
        for (spec, told) in [
            ("role = \"provider\"\nwait_for_first = true", "takes nothing over"),
            ("role = \"provider\"\nwait_for_first = false", "takes nothing over"),
            ("role = \"consumer\"\nwait_for_first = 10", "true, false or a duration"),
            ("role = \"consumer\"\nwait_for_first = \"0s\"", "from 1s to"),
            ("role = \"consumer\"\nwait_for_first = \"long\"", "a duration such as"),
        ] {
            let faults = read(spec).expect_err("a fault");
            let named = |fault: &String| fault.contains("sync.wait_for_first");
            assert!(faults.iter().any(|fault| fault.contains(told) && named(fault)), "{faults:?}");
        }
    }

    #[test]
    fn a_consumer_says_what_it_makes_of_owners_and_set_id_bits() {
        for (text, owners, set_id) in [
            ("", Owners::Keep, SetId::Clear),
            ("owners = \"keep\"\nset_id = \"keep\"", Owners::Keep, SetId::Keep),
            ("owners = \"volume\"", Owners::Volume, SetId::Clear),
            ("owners = \"volume\"\nset_id = \"clear\"", Owners::Volume, SetId::Clear),
        ] {
            let sync = read(&format!("role = \"consumer\"\n{text}")).expect("lawful");
            let policy = sync.expect("declared").ownership;
            assert_eq!(policy, OwnershipPolicy { owners, set_id }, "{text}");
        }
        for (spec, told) in [
            ("role = \"consumer\"\nowners = \"root\"", "volume"),
            ("role = \"consumer\"\nset_id = \"volume\"", "clear"),
            ("role = \"provider\"\nowners = \"keep\"", "takes nothing over"),
            ("role = \"provider\"\nset_id = \"clear\"", "takes nothing over"),
        ] {
            let faults = read(spec).expect_err("a fault");
            assert!(faults.iter().any(|fault| fault.contains(told)), "{faults:?}");
        }
    }

    #[test]
    fn a_consumer_says_when_it_may_be_stopped() {
        let sync = read("role = \"consumer\"").expect("lawful").expect("declared");
        assert_eq!(sync.apply_times, ApplyTimes::default());
        let spec = "role = \"consumer\"\nmin_interval = \"1h\"\nwindow = \"sat,sun 22:00-02:00\"";
        let times = read(spec).expect("lawful").expect("declared").apply_times;
        assert_eq!(times.min_interval, Duration::from_hours(1));
        let shown = times.window.expect("declared").to_string();
        assert_eq!(shown, "sat,sun 22:00-02:00 UTC");
        for (spec, told) in [
            ("role = \"consumer\"\nwindow = \"late\"", "02:00-04:00"),
            ("role = \"consumer\"\nwindow = \"caturday 02:00-04:00\"", "is no day"),
            ("role = \"consumer\"\nmin_interval = \"0s\"", "min_interval"),
            ("role = \"provider\"\nwindow = \"02:00-04:00\"", "takes nothing over"),
            ("role = \"provider\"\nmin_interval = \"1h\"", "takes nothing over"),
        ] {
            let faults = read(spec).expect_err("a fault");
            assert!(faults.iter().any(|fault| fault.contains(told)), "{faults:?}");
        }
    }

    #[test]
    fn a_provider_says_what_it_publishes_by_itself() {
        let spec = "role = \"provider\"\nevery = \"15m\"\npaths = [\"/data\"]";
        let schedule = read(spec).expect("lawful").expect("declared").schedule.expect("declared");
        assert_eq!(
            (schedule.every, schedule.paths),
            (Duration::from_mins(15), vec!["/data".to_owned()])
        );
        assert_eq!(schedule.if_unchanged, IfUnchanged::Skip);
        let capture = read(&format!("{spec}\nif_unchanged = \"capture\"")).expect("lawful");
        let schedule = capture.expect("declared").schedule.expect("declared");
        assert_eq!(schedule.if_unchanged, IfUnchanged::Capture);
        let without = read("role = \"provider\"").expect("lawful").expect("declared");
        assert_eq!(without.schedule, None);
        for (spec, told) in [
            ("role = \"provider\"\nevery = \"15m\"", "absolute paths"),
            ("role = \"provider\"\npaths = [\"/data\"]", "there are paths to publish"),
            ("role = \"provider\"\nevery = \"15m\"\npaths = []", "1 to 64 paths"),
            ("role = \"provider\"\nevery = \"15m\"\npaths = [\"data\"]", "absolute paths"),
            ("role = \"provider\"\nevery = \"5s\"\npaths = [\"/data\"]", "every"),
            ("role = \"consumer\"\nevery = \"15m\"\npaths = [\"/data\"]", "publishes nothing"),
            ("role = \"consumer\"\nif_unchanged = \"skip\"", "publishes nothing"),
            ("role = \"provider\"\nif_unchanged = \"skip\"", "there is a rule for publishes"),
        ] {
            let faults = read(spec).expect_err("a fault");
            assert!(faults.iter().any(|fault| fault.contains(told)), "{faults:?}");
        }
    }

    #[test]
    fn what_cannot_be_sealed_is_a_fault() {
        for (spec, told) in [
            ("role = \"provider\"\nidentity = \"k\"\nmembers = [\"me\"]".to_owned(), "X25519"),
            (format!("role = \"provider\"\nmembers = [\"{KEY}\"]"), "identity"),
            (format!("role = \"consumer\"\nidentity = \"k\"\nmembers = [\"{KEY}\"]"), "consumer"),
            (
                "role = \"provider\"\nidentity = \"k\"\narchive_format = \"tar.gz\"".to_owned(),
                "no other form is sealed",
            ),
            ("role = \"provider\"\narchive_format = \"zip\"".to_owned(), "archive_format"),
        ] {
            let faults = read(&spec).expect_err("a fault");
            assert!(faults.iter().any(|fault| fault.contains(told)), "{faults:?}");
        }
    }
}
