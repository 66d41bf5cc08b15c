//! Which runs and waitpoints are asked for.

use belay_protocol::runner::{PAGE_LIMIT, RunLogQuery, RunQuery, WaitpointQuery};
use belay_protocol::{NodeId, Problem};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{unexpected, wrong};
use crate::runs::ImportMode;

const WORKLOAD: &str = "a workload's name";
const LIMIT: &str = "a number from 1 to 500";
/// Newest lines that may be asked for: they are gathered before the first is sent.
const MOST_LINES: u32 = 10_000;
const LINES: &str = "a number of lines, up to 10000";

/// `workload=NAME`, `state=STATE` as often as wanted, `before=RUN`, `limit=N`.
pub(crate) fn runs(pairs: &[(String, String)]) -> Result<RunQuery, Box<Problem>> {
    const STATES: &str = "queued, assigned, executing, waiting, suspended, restoring, finished, \
                          failed, cancelled or moved";
    let mut query = RunQuery::default();
    for (key, value) in pairs {
        match key.as_str() {
            "workload" => query.workload = Some(read(key, value, WORKLOAD)?),
            "state" => query.states.push(read(key, value, STATES)?),
            "before" => query.before = Some(read(key, value, "a run's id")?),
            "limit" => query.limit = Some(limit(key, value)?),
            unknown => {
                return Err(unexpected(unknown, "workload, state, before and limit").into());
            }
        }
    }
    Ok(query)
}

/// `workload=NAME`, `run=RUN`, `state=STATE` as often as wanted, `before=WAITPOINT`, `limit=N`.
pub(crate) fn waitpoints(pairs: &[(String, String)]) -> Result<WaitpointQuery, Box<Problem>> {
    const STATES: &str = "awaited, open, completed or abandoned";
    let mut query = WaitpointQuery::default();
    for (key, value) in pairs {
        match key.as_str() {
            "workload" => query.workload = Some(read(key, value, WORKLOAD)?),
            "run" => query.run = Some(read(key, value, "a run's id")?),
            "state" => query.states.push(read(key, value, STATES)?),
            "before" => query.before = Some(read(key, value, "a waitpoint's id")?),
            "limit" => query.limit = Some(limit(key, value)?),
            unknown => {
                return Err(unexpected(unknown, "workload, run, state, before and limit").into());
            }
        }
    }
    Ok(query)
}

/// `follow` (alone, or `true` or `false`), `tail=N` and `after=TIME`.
pub(crate) fn logs(pairs: &[(String, String)]) -> Result<RunLogQuery, Box<Problem>> {
    let mut query = RunLogQuery::default();
    for (key, value) in pairs {
        match (key.as_str(), value.as_str()) {
            ("follow", "" | "true") => query.follow = true,
            ("follow", "false") => query.follow = false,
            ("follow", found) => return Err(wrong(key, found, "true or false").into()),
            ("tail", found) => {
                let lines = found.parse::<u32>().ok().filter(|lines| *lines <= MOST_LINES);
                query.tail = Some(lines.ok_or_else(|| wrong(key, found, LINES))?);
            }
            ("after", found) => query.after = Some(read(key, found, "a time, as a line has it")?),
            (unknown, _) => return Err(unexpected(unknown, "follow, tail and after").into()),
        }
    }
    Ok(query)
}

/// `to=NODE`, which must be there.
pub(crate) fn export(pairs: &[(String, String)]) -> Result<NodeId, Box<Problem>> {
    const NODE: &str = "a node's name";
    let mut node = None;
    for (key, value) in pairs {
        match key.as_str() {
            "to" => node = Some(read(key, value, NODE)?),
            unknown => return Err(unexpected(unknown, "to").into()),
        }
    }
    node.ok_or_else(|| wrong("to", "", NODE).into())
}

/// `check` (alone, or `true` or `false`).
pub(crate) fn import(pairs: &[(String, String)]) -> Result<ImportMode, Box<Problem>> {
    let mut mode = ImportMode::Take;
    for (key, value) in pairs {
        mode = match (key.as_str(), value.as_str()) {
            ("check", "" | "true") => ImportMode::Check,
            ("check", "false") => ImportMode::Take,
            ("check", found) => return Err(wrong(key, found, "true or false").into()),
            (unknown, _) => return Err(unexpected(unknown, "check").into()),
        };
    }
    Ok(mode)
}

/// A value as JSON would have it.
fn read<T: DeserializeOwned>(key: &str, found: &str, expected: &str) -> Result<T, Box<Problem>> {
    serde_json::from_value(Value::from(found)).map_err(|_| wrong(key, found, expected).into())
}

fn limit(key: &str, found: &str) -> Result<usize, Box<Problem>> {
    let number = found.parse().ok().filter(|number| (1..=PAGE_LIMIT).contains(number));
    number.ok_or_else(|| wrong(key, found, LIMIT).into())
}

#[cfg(test)]
mod tests {
    use belay_protocol::ProblemCode;
    use belay_protocol::runner::{RunId, RunState, WaitpointId, WaitpointState};

    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn runs_are_asked_for_by_what_they_are() {
        assert_eq!(runs(&[]), Ok(RunQuery::default()));
        let before = RunId::after(None, 7, 7);
        let asked = [
            ("workload", "mailer"),
            ("state", "queued"),
            ("state", "executing"),
            ("before", &before.to_string()),
            ("limit", "500"),
        ];
        let expected = RunQuery {
            workload: Some("mailer".parse().expect("a name")),
            states: vec![RunState::Queued, RunState::Executing],
            before: Some(before),
            limit: Some(500),
        };
        assert_eq!(runs(&pairs(&asked)), Ok(expected));
        for state in RunState::ALL {
            let query = runs(&pairs(&[("state", state.as_str())])).expect("it is listed");
            assert_eq!(query.states, [*state]);
        }
    }

    #[test]
    fn an_export_names_its_node_and_an_import_may_only_look() {
        let node = export(&pairs(&[("to", "b")])).expect("a name");
        assert_eq!(node.as_str(), "b");
        for bad in [&[][..], &[("to", "")], &[("to", "b"), ("by", "x")]] {
            let refused = export(&pairs(bad)).expect_err("refused");
            assert_eq!(refused.code, ProblemCode::InvalidRequest, "{bad:?}");
        }
        assert_eq!(import(&[]), Ok(ImportMode::Take));
        assert_eq!(import(&pairs(&[("check", "")])), Ok(ImportMode::Check));
        assert_eq!(import(&pairs(&[("check", "false")])), Ok(ImportMode::Take));
        for bad in [("check", "maybe"), ("try", "true")] {
            let refused = import(&pairs(&[bad])).expect_err("refused");
            assert_eq!(refused.code, ProblemCode::InvalidRequest, "{bad:?}");
        }
    }

    #[test]
    fn waitpoints_are_asked_for_by_what_they_are() {
        assert_eq!(waitpoints(&[]), Ok(WaitpointQuery::default()));
        let (run, before) = (RunId::after(None, 7, 7), WaitpointId::after(None, 8, 8));
        let asked = [
            ("workload", "mailer"),
            ("run", &run.to_string()),
            ("state", "awaited"),
            ("before", &before.to_string()),
            ("limit", "1"),
        ];
        let expected = WaitpointQuery {
            workload: Some("mailer".parse().expect("a name")),
            run: Some(run),
            states: vec![WaitpointState::Awaited],
            before: Some(before),
            limit: Some(1),
        };
        assert_eq!(waitpoints(&pairs(&asked)), Ok(expected));
    }

    #[test]
    fn lines_of_a_run_are_asked_for_from_a_time_on_and_so_many() {
        assert_eq!(logs(&[]), Ok(RunLogQuery::default()));
        let asked = [("follow", ""), ("tail", "20"), ("after", "2026-01-31T12:00:00.5Z")];
        let expected = RunLogQuery {
            follow: true,
            tail: Some(20),
            after: "2026-01-31T12:00:00.5Z".parse().ok(),
        };
        assert_eq!(logs(&pairs(&asked)), Ok(expected));
        for (asked, words) in [
            (("follow", "yes"), "true or false"),
            (("tail", "10001"), "up to 10000"),
            (("after", "noon"), "as a line has it"),
            (("since", "1"), "only follow, tail and after"),
        ] {
            let problem = logs(&pairs(&[asked])).expect_err(words);
            assert_eq!(problem.code, ProblemCode::InvalidRequest);
            assert!(problem.detail.contains(words), "{}", problem.detail);
        }
    }

    #[test]
    fn a_wrong_question_says_what_would_do() {
        let refused = |problem: Box<Problem>, words: &str| {
            assert_eq!(problem.code, ProblemCode::InvalidRequest);
            assert!(problem.detail.contains(words), "{}", problem.detail);
        };
        for (asked, words) in [
            (("workload", "W b"), "a workload's name"),
            (("state", "done"), "restoring, finished, failed, cancelled or moved"),
            (("before", "run_1"), "a run's id"),
            (("limit", "0"), "from 1 to 500"),
            (("limit", "501"), "from 1 to 500"),
            (("after", "1"), "only workload, state, before and limit"),
        ] {
            refused(runs(&pairs(&[asked])).expect_err(words), words);
        }
        for (asked, words) in [
            (("run", "7"), "a run's id"),
            (("state", "waiting"), "awaited, open, completed or abandoned"),
            (("before", "run_1"), "a waitpoint's id"),
            (("id", "1"), "only workload, run, state, before and limit"),
        ] {
            refused(waitpoints(&pairs(&[asked])).expect_err(words), words);
        }
    }
}
