//! Which paths of which workloads are to be published, out of the words of a command line.

use std::collections::BTreeMap;

use belay_protocol::{PublishRequest, PublishTarget, WorkloadName};
use serde_json::Value;

/// Reads workloads and behind them their paths. Workloads that follow one another share the paths
/// that come next: a path begins with `/` and the name of a workload never does.
pub(crate) fn read(
    words: &[String],
    metadata: &BTreeMap<String, Value>,
) -> Result<Vec<PublishTarget>, String> {
    let mut targets = Vec::new();
    let mut rest = words;
    while let Some(first) = rest.first() {
        let names = rest.iter().take_while(|word| !word.starts_with('/')).count();
        let (names, behind) = rest.split_at(names);
        if names.is_empty() {
            return Err(format!("{first} is a path, and no workload comes before it"));
        }
        let paths = behind.iter().take_while(|word| word.starts_with('/')).count();
        let (paths, behind) = behind.split_at(paths);
        let parse = |name: &String| name.parse().map_err(|error| format!("{name:?}: {error}"));
        let workloads: Vec<WorkloadName> = names.iter().map(parse).collect::<Result<_, _>>()?;
        for workload in workloads {
            if paths.is_empty() {
                return Err(format!("{workload} has no path behind it; a path begins with /"));
            }
            let request =
                PublishRequest { archive_paths: paths.to_vec(), metadata: metadata.clone() };
            targets.push(PublishTarget { workload, request });
        }
        rest = behind;
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> Result<Vec<String>, String> {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let targets = read(&words, &BTreeMap::new())?;
        let show =
            |t: &PublishTarget| format!("{}:{}", t.workload, t.request.archive_paths.join(","));
        Ok(targets.iter().map(show).collect())
    }

    #[test]
    fn each_workload_has_the_paths_behind_it() {
        assert_eq!(said("web /data"), Ok(vec!["web:/data".into()]));
        assert_eq!(said("web /a /b"), Ok(vec!["web:/a,/b".into()]));
        assert_eq!(said("web db /data"), Ok(vec!["web:/data".into(), "db:/data".into()]));
        assert_eq!(
            said("web /a db job /b /c"),
            Ok(vec!["web:/a".into(), "db:/b,/c".into(), "job:/b,/c".into()])
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        for (line, words) in [
            ("/data web", "/data is a path, and no workload comes before it"),
            ("web", "web has no path behind it"),
            ("web /data db", "db has no path behind it"),
            ("web Data", "\"Data\""),
        ] {
            let error = said(line).expect_err(line);
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
