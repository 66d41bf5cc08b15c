//! Judges what an app asks for in the control files of its system volume, and how often it may.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use belay_protocol::VolumeName;
use belay_protocol::app_request::{OverridesApply, OverridesRequest, REQUEST_SCHEMA, ResetRequest};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::environment;
use super::spec::{Permission, WorkloadSpec};

/// Largest request, and largest set of overrides as JSON, in bytes.
pub const MOST_BYTES: usize = 64 * 1024;
/// Longest id of a request, in characters.
const REQUEST_ID_MAX: usize = 128;
/// Longest piece of an app's own text that an error repeats, in characters.
const REPEATED_MAX: usize = 80;
/// Longest error that is given back, in characters.
const ERROR_MAX: usize = 2_000;

/// Names that apps of earlier systems are given by their host and may not change.
const RESERVED: [&str; 10] = [
    "CONTAINER_IP",
    "CONTAINER_NAME",
    "CONTAINER_PORT",
    "HOST",
    "HOST_IP",
    "HOST_PORT",
    "HOST_PROTOCOL",
    "HOST_URL",
    "PORT",
    "URL",
];

/// Why a request is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Every fault found, joined.
    pub error: String,
    /// The id of the request, if it could be read.
    pub request_id: Option<String>,
    /// Whether the bytes may be the beginning of something: they are no JSON yet.
    pub unfinished: bool,
}

impl Refused {
    /// A refusal of what could not be read as a request.
    pub fn whole(error: impl Into<String>) -> Self {
        Self { error: error.into(), request_id: None, unfinished: false }
    }
}

/// Overrides that take the place of those in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverridesPlan {
    /// All overrides afterwards.
    pub merged: BTreeMap<String, String>,
    /// Names that are set.
    pub set: Vec<String>,
    /// Names whose override ends.
    pub removed: Vec<String>,
    /// When it is to be in force.
    pub apply: OverridesApply,
    /// Echoed in the answer.
    pub request_id: Option<String>,
}

/// Volumes that are to be emptied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResetPlan {
    /// Which.
    pub volumes: Vec<VolumeName>,
    /// Echoed in the answer.
    pub request_id: Option<String>,
}

/// Judges a request for other overrides.
pub fn judge_overrides(
    bytes: &[u8],
    spec: &WorkloadSpec,
    in_force: &BTreeMap<String, String>,
) -> Result<OverridesPlan, Refused> {
    let request: OverridesRequest = parse(bytes)?;
    let mut faults = Vec::new();
    check_head(request.schema_version, request.request_id.as_deref(), &mut faults);
    if spec.app_requests.overrides == Permission::Denied {
        faults.push("the spec of this workload does not let it override its environment".into());
    }
    let mut merged = in_force.clone();
    for (name, value) in &request.set {
        match (check_name(name), normal_value(value)) {
            (Ok(()), Ok(value)) => _ = merged.insert(name.clone(), value),
            (named, value) => {
                faults.extend(named.err());
                let why = value.err().map(|why| format!("the value of {} {why}", shortened(name)));
                faults.extend(why);
            }
        }
    }
    let removed: BTreeSet<_> = request.remove.iter().collect();
    let mut ended = Vec::new();
    for name in removed {
        if let Err(fault) = check_name(name) {
            faults.push(fault);
        } else if request.set.contains_key(name) {
            faults.push(format!("{} is both set and removed", shortened(name)));
        } else if merged.remove(name).is_some() {
            ended.push(name.clone());
        }
    }
    let size = serde_json::to_vec(&merged).map_or(usize::MAX, |text| text.len());
    if size > MOST_BYTES {
        faults.push(format!("the overrides would take more than {MOST_BYTES} bytes in all"));
    }
    let request_id = request.request_id;
    conclude(&faults, request_id.as_deref())?;
    Ok(OverridesPlan {
        merged,
        set: request.set.keys().cloned().collect(),
        removed: ended,
        apply: request.apply,
        request_id,
    })
}

/// Judges a request for empty volumes.
pub fn judge_reset(bytes: &[u8], spec: &WorkloadSpec) -> Result<ResetPlan, Refused> {
    let request: ResetRequest = parse(bytes)?;
    let mut faults = Vec::new();
    check_head(request.schema_version, request.request_id.as_deref(), &mut faults);
    if !request.preserve.env_overrides {
        faults.push("preserve.env_overrides is always true".into());
    }
    if spec.app_requests.reset == Permission::Denied {
        faults.push("the spec of this workload does not let it reset its volumes".into());
    }
    let allowed = |name: &VolumeName| {
        spec.volumes.get(name).is_some_and(|volume| volume.app_reset == Permission::Granted)
    };
    let mut volumes = BTreeSet::new();
    match request.volumes {
        None => volumes.extend(spec.volumes.keys().filter(|name| allowed(name)).cloned()),
        Some(names) => {
            for name in names {
                match name.parse::<VolumeName>() {
                    Ok(known) if allowed(&known) => _ = volumes.insert(known),
                    Ok(known) if spec.volumes.contains_key(&known) => {
                        faults.push(format!("the spec does not let the app reset volume {known}"));
                    }
                    Ok(_) | Err(_) => {
                        faults.push(format!("{} is no volume of this workload", shortened(&name)));
                    }
                }
            }
        }
    }
    if volumes.is_empty() && faults.is_empty() {
        faults.push("there is no volume to reset".into());
    }
    let request_id = request.request_id;
    conclude(&faults, request_id.as_deref())?;
    Ok(ResetPlan { volumes: volumes.into_iter().collect(), request_id })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refused> {
    if bytes.len() > MOST_BYTES {
        return Err(Refused::whole(format!("the request is larger than {MOST_BYTES} bytes")));
    }
    let unfinished = |error: String| Refused { error, request_id: None, unfinished: true };
    let text = std::str::from_utf8(bytes)
        .map_err(|_| unfinished("the request is not UTF-8".to_owned()))?;
    // serde_json refuses more than 128 levels.
    let body: Value = serde_json::from_str(text).map_err(|error| {
        // Where in the text, and not what stands there: it may be a secret.
        unfinished(format!(
            "the request is not JSON, at line {} column {}",
            error.line(),
            error.column()
        ))
    })?;
    if !body.is_object() {
        return Err(Refused::whole("the request is not a JSON object"));
    }
    let id = body.get("request_id").and_then(Value::as_str);
    let request_id = id.filter(|id| is_short_id(id)).map(str::to_owned);
    // Read from the text and not from the value, in which a name that comes twice comes once.
    serde_json::from_str(text).map_err(|error| Refused {
        error: shape_fault(&error),
        request_id,
        unfinished: false,
    })
}

/// The fault of a request of the wrong shape, without the text of any value.
fn shape_fault(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once(", expected ") {
        Some((found, expected)) if found.starts_with("invalid ") => {
            let what = found.split(':').next().unwrap_or("invalid value");
            format!("{what}, expected {expected}")
        }
        Some(_) | None => text.chars().take(ERROR_MAX).collect(),
    }
}

fn check_head(schema: u64, request_id: Option<&str>, faults: &mut Vec<String>) {
    if schema != REQUEST_SCHEMA {
        faults.push(format!("schema_version is {schema}, expected {REQUEST_SCHEMA}"));
    }
    if request_id.is_some_and(|id| !is_short_id(id)) {
        faults.push(format!("request_id has more than {REQUEST_ID_MAX} characters"));
    }
}

fn is_short_id(id: &str) -> bool {
    id.chars().count() <= REQUEST_ID_MAX
}

fn conclude(faults: &[String], request_id: Option<&str>) -> Result<(), Refused> {
    if faults.is_empty() {
        return Ok(());
    }
    let error: String = faults.join("; ").chars().take(ERROR_MAX).collect();
    let request_id = request_id.filter(|id| is_short_id(id)).map(str::to_owned);
    Err(Refused { error, request_id, unfinished: false })
}

fn check_name(name: &str) -> Result<(), String> {
    if !environment::is_valid_name(name) {
        return Err(format!("{} is not {}", shortened(name), environment::NAME_RULE));
    }
    if environment::is_reserved(name)
        || name.starts_with("R1EN_")
        || name.starts_with("EE_")
        || RESERVED.contains(&name)
    {
        return Err(format!("{} is reserved", shortened(name)));
    }
    Ok(())
}

fn normal_value(value: &Value) -> Result<String, &'static str> {
    let text = match value {
        Value::Null => return Err("is null; name it in remove instead"),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    if text.contains('\0') { Err("has a NUL character") } else { Ok(text) }
}

fn shortened(text: &str) -> String {
    let short: String = text.chars().take(REPEATED_MAX).collect();
    format!("{short:?}")
}

/// How often an app had its container restarted or its volumes emptied.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// How often in short succession.
    pub count: u32,
    /// When last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
}

/// Pause after the first.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

impl Pace {
    /// Whether nothing is held against the app.
    pub fn is_fresh(&self) -> bool {
        *self == Self::default()
    }

    fn pause(&self) -> Duration {
        match self.count {
            0 => Duration::ZERO,
            count => FIRST_PAUSE.saturating_mul(1 << (count - 1).min(10)).min(LONGEST_PAUSE),
        }
    }

    /// How long the next one has to wait: 5 s after the first, doubled each time, 10 min at most.
    pub fn wait(&self, now: Timestamp) -> Duration {
        let since = self.last.map(|last| Duration::try_from(now.duration_since(last)));
        match since {
            // A clock that was set back must not hold an app for years.
            Some(Err(_)) | None => Duration::ZERO,
            Some(Ok(since)) => self.pause().saturating_sub(since),
        }
    }

    /// The pace once it happens now. After a quiet time of ten pauses the count begins anew.
    #[must_use]
    pub fn after(&self, now: Timestamp) -> Self {
        let since = self.last.and_then(|last| Duration::try_from(now.duration_since(last)).ok());
        let quiet = since.is_none_or(|since| since >= self.pause().saturating_mul(10));
        let count = if quiet { 1 } else { self.count.saturating_add(1) };
        Self { count, last: Some(now) }
    }
}

#[cfg(test)]
mod tests;
