//! Judges the bytes of a request.

use belay_protocol::control::AppRequest;
use belay_protocol::record::{ConsumerApply, ProviderCapture, RuntimeWishes};
use serde_json::{Map, Value};

use super::capturing::{CapturePolicy, unsaid};
use super::path::{ContainerPath, Mounts, minimal};
use super::record::PATHS_MAX;

/// Largest request, in bytes.
pub(crate) const REQUEST_MAX: usize = 64 * 1024;
/// Largest metadata, in bytes of JSON; the record that carries it has 64 KiB.
const METADATA_MAX: usize = 16 * 1024;
/// What paths and metadata may take of a record's 64 KiB; the rest of it is small.
const TRAVELS_MAX: usize = 60 * 1024;
/// Longest request id, in characters.
const REQUEST_ID_MAX: usize = 128;
/// Faults that are told. The bytes of a request hold thousands, and what is told is kept in journals
/// and status.
const FAULTS_MAX: usize = 64;
/// Characters of a body that is not JSON which are given back.
const RAW_BODY_MAX: usize = 1024;

/// A request whose shape and paths are lawful on this workload.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ValidRequest {
    pub(crate) request: AppRequest,
    /// The paths, in order, none below another.
    pub(crate) roots: Vec<ContainerPath>,
}

/// Why a request was refused, with what can be given back of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RefusedRequest {
    /// Every fault found, joined.
    pub(crate) error: String,
    pub(crate) body: Option<Value>,
    pub(crate) raw_body: Option<String>,
    /// True if the bytes may be the beginning of something: they are not JSON yet.
    pub(crate) unfinished: bool,
}

impl RefusedRequest {
    fn unreadable(error: String, raw_body: Option<String>) -> Self {
        Self { error, body: None, raw_body, unfinished: true }
    }

    /// The paths of the request as far as they are texts.
    pub(crate) fn archive_paths(&self) -> Vec<String> {
        let paths = self.body.as_ref().and_then(|body| body.get("archive_paths")?.as_array());
        let texts = paths.into_iter().flatten().filter_map(Value::as_str);
        texts.take(PATHS_MAX).map(|text| text.chars().take(200).collect()).collect()
    }

    /// The id of the request, if it is a text of lawful length.
    pub(crate) fn request_id(&self) -> Option<String> {
        let id = self.body.as_ref()?.get("request_id")?.as_str()?;
        (id.chars().count() <= REQUEST_ID_MAX).then(|| id.to_owned())
    }
}

/// Judges a request: size, encoding, JSON, shape, then each path against the mount table.
pub(crate) fn judge(
    bytes: &[u8],
    mounts: &Mounts,
    policy: CapturePolicy,
) -> Result<ValidRequest, Box<RefusedRequest>> {
    if bytes.len() > REQUEST_MAX {
        let error = format!("the request is larger than {REQUEST_MAX} bytes");
        return Err(Box::new(RefusedRequest {
            error,
            body: None,
            raw_body: None,
            unfinished: false,
        }));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        let refused = RefusedRequest::unreadable("the request is not UTF-8".into(), None);
        return Err(Box::new(refused));
    };
    // serde_json refuses more than 128 levels and numbers that no 64-bit type holds.
    let body: Value = serde_json::from_str(text).map_err(|error| {
        let raw = text.chars().take(RAW_BODY_MAX).collect();
        Box::new(RefusedRequest::unreadable(format!("the request is not JSON: {error}"), Some(raw)))
    })?;
    let Value::Object(fields) = &body else {
        return Err(Box::new(RefusedRequest {
            error: format!("the request is {}, expected an object", kind(&body)),
            body: None,
            raw_body: Some(text.chars().take(RAW_BODY_MAX).collect()),
            unfinished: false,
        }));
    };
    match judge_fields(fields, mounts, policy) {
        Ok(valid) => Ok(valid),
        Err(faults) => Err(Box::new(RefusedRequest {
            error: faults.join("; "),
            body: Some(body),
            raw_body: None,
            unfinished: false,
        })),
    }
}

/// Judges paths and metadata that were given by command rather than by file.
pub(crate) fn judge_command(
    archive_paths: Vec<String>,
    metadata: Map<String, Value>,
    mounts: &Mounts,
    policy: CapturePolicy,
) -> Result<ValidRequest, String> {
    let mut fields = Map::new();
    fields.insert("archive_paths".into(), archive_paths.into());
    fields.insert("metadata".into(), metadata.into());
    judge_fields(&fields, mounts, policy).map_err(|faults| faults.join("; "))
}

fn judge_fields(
    fields: &Map<String, Value>,
    mounts: &Mounts,
    policy: CapturePolicy,
) -> Result<ValidRequest, Vec<String>> {
    let mut faults = Vec::new();
    let known = ["archive_paths", "metadata", "runtime", "request_id"];
    for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
        let name: String = name.chars().take(80).collect();
        faults.push(format!("{name:?} is not a field of a request"));
    }
    let metadata = judge_metadata(fields.get("metadata"), &mut faults);
    let runtime = judge_runtime(fields.get("runtime"), policy, &mut faults);
    let request_id = judge_request_id(fields.get("request_id"), &mut faults);
    let (archive_paths, roots) = judge_paths(fields.get("archive_paths"), mounts, &mut faults);
    let length = serde_json::to_string(&(&archive_paths, &metadata)).map_or(0, |text| text.len());
    if faults.is_empty() && length > TRAVELS_MAX {
        faults.push(format!(
            "archive_paths and metadata take {length} bytes together, at most {TRAVELS_MAX} travel"
        ));
    }
    if !faults.is_empty() {
        faults.truncate(FAULTS_MAX);
        return Err(faults);
    }
    Ok(ValidRequest {
        request: AppRequest { archive_paths, metadata, runtime, request_id },
        roots: minimal(roots),
    })
}

fn judge_metadata(value: Option<&Value>, faults: &mut Vec<String>) -> Map<String, Value> {
    match value {
        None => Map::new(),
        Some(Value::Object(metadata)) => {
            let length = serde_json::to_string(metadata).map_or(usize::MAX, |text| text.len());
            if length > METADATA_MAX {
                faults
                    .push(format!("metadata takes {length} bytes, at most {METADATA_MAX} travel"));
            }
            metadata.clone()
        }
        Some(other) => {
            faults.push(format!("metadata is {}, expected an object", kind(other)));
            Map::new()
        }
    }
}

fn judge_runtime(
    value: Option<&Value>,
    policy: CapturePolicy,
    faults: &mut Vec<String>,
) -> RuntimeWishes {
    let mut wishes = RuntimeWishes { provider_capture: unsaid(policy), ..RuntimeWishes::default() };
    let fields = match value {
        None => return wishes,
        Some(Value::Object(fields)) => fields,
        Some(other) => {
            faults.push(format!("runtime is {}, expected an object", kind(other)));
            return wishes;
        }
    };
    for (name, value) in fields {
        match name.as_str() {
            "provider_capture" => match value.as_str() {
                Some("offline") => wishes.provider_capture = ProviderCapture::Offline,
                Some("online") if policy == CapturePolicy::Stopped => faults.push(
                    "runtime.provider_capture \"online\" is not permitted on this node: the spec \
                     of the workload has to say capture = \"atomic\" or \"live\" in [sync]"
                        .into(),
                ),
                Some("online") => wishes.provider_capture = ProviderCapture::Online,
                _ => faults.push(format!(
                    "runtime.provider_capture is {}, expected \"offline\" or \"online\"",
                    shown(value)
                )),
            },
            "consumer_apply" => match value.as_str() {
                Some("offline_restart") => wishes.consumer_apply = ConsumerApply::OfflineRestart,
                Some("online_no_restart") => wishes.consumer_apply = ConsumerApply::OnlineNoRestart,
                Some("online_restart") => wishes.consumer_apply = ConsumerApply::OnlineRestart,
                _ => faults.push(format!(
                    "runtime.consumer_apply is {}, expected \"offline_restart\", \
                     \"online_no_restart\" or \"online_restart\"",
                    shown(value)
                )),
            },
            other => {
                let other: String = other.chars().take(80).collect();
                faults.push(format!("{other:?} is not a field of runtime"));
            }
        }
    }
    wishes
}

fn judge_request_id(value: Option<&Value>, faults: &mut Vec<String>) -> Option<String> {
    match value {
        None => None,
        Some(Value::String(id)) if id.chars().count() <= REQUEST_ID_MAX => Some(id.clone()),
        Some(Value::String(_)) => {
            faults.push(format!("request_id has more than {REQUEST_ID_MAX} characters"));
            None
        }
        Some(other) => {
            faults.push(format!("request_id is {}, expected a text", kind(other)));
            None
        }
    }
}

fn judge_paths(
    value: Option<&Value>,
    mounts: &Mounts,
    faults: &mut Vec<String>,
) -> (Vec<String>, Vec<ContainerPath>) {
    let (mut texts, mut roots) = (Vec::new(), Vec::new());
    let items = match value {
        Some(Value::Array(items)) if !items.is_empty() => items,
        Some(Value::Array(_)) => {
            faults.push("archive_paths is empty".into());
            return (texts, roots);
        }
        Some(other) => {
            faults.push(format!("archive_paths is {}, expected a list", kind(other)));
            return (texts, roots);
        }
        None => {
            faults.push("archive_paths is missing".into());
            return (texts, roots);
        }
    };
    if items.len() > PATHS_MAX {
        faults.push(format!("archive_paths has {} paths, at most {PATHS_MAX}", items.len()));
        return (texts, roots);
    }
    for item in items {
        let Some(text) = item.as_str() else {
            faults.push(format!("archive_paths holds {}, expected texts", kind(item)));
            continue;
        };
        texts.push(text.to_owned());
        match ContainerPath::parse(text) {
            Ok(path) => match mounts.resolve(&path) {
                Ok(_) => roots.push(path),
                Err(fault) => faults.push(fault.to_string()),
            },
            Err(fault) => faults.push(fault.to_string()),
        }
    }
    (texts, roots)
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{:?}", text.chars().take(80).collect::<String>()),
        other => kind(other).to_owned(),
    }
}

#[cfg(test)]
mod tests;
