//! Query strings, read strictly: a key that is not known is an error that names the known ones.

pub(crate) mod runs;
pub(crate) mod sync;

use std::time::Duration;

use belay_protocol::{
    ContentRule, DependantsRule, EventKind, EventSeq, LogQuery, Problem, ProblemCode, VolumeFate,
    WorkloadName,
};

/// `follow` and `previous` (alone, or `true` or `false`), `tail=N` and `since=TIME`.
pub(crate) fn logs(pairs: &[(String, String)]) -> Result<LogQuery, Box<Problem>> {
    let mut query =
        LogQuery { follow: false, tail: None, since: None, previous: false, resume: None };
    for (key, value) in pairs {
        match (key.as_str(), value.as_str()) {
            ("follow", "" | "true") => query.follow = true,
            ("follow", "false") => query.follow = false,
            ("tail", found) => {
                let lines = found.parse();
                query.tail = Some(lines.map_err(|_| wrong(key, found, "a number of lines"))?);
            }
            ("previous", "" | "true") => query.previous = true,
            ("previous", "false") => query.previous = false,
            ("follow" | "previous", found) => return Err(wrong(key, found, "true or false").into()),
            ("since", found) => {
                let time = found.parse();
                query.since = Some(
                    time.map_err(|_| wrong(key, found, "a time, as in 2026-01-31T12:00:00Z"))?,
                );
            }
            ("resume", found) => {
                let position = found.parse();
                query.resume =
                    Some(position.map_err(|_| wrong(key, found, "CONTAINER:SECOND:LINES"))?);
            }
            (unknown, _) => {
                return Err(unexpected(unknown, "follow, tail, since, previous and resume").into());
            }
        }
    }
    if query.resume.is_some() && !query.follow {
        return Err(wrong("resume", "", "follow with it: nothing else is gone on with").into());
    }
    if query.follow && query.previous {
        return Err(wrong("previous", "true", "no follow: what is gone writes no more").into());
    }
    Ok(query)
}

/// Most events on a page.
const EVENTS_MAX: usize = 1000;

/// Which events are asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EventsAsked {
    /// Those after this number.
    pub(crate) after: Option<EventSeq>,
    /// So many before the end.
    pub(crate) last: Option<usize>,
    /// At most so many.
    pub(crate) limit: Option<usize>,
    /// Only those that concern this workload.
    pub(crate) workload: Option<WorkloadName>,
    /// Only those of these kinds; all when empty.
    pub(crate) kinds: Vec<EventKind>,
}

/// `after=N` with `limit=N`, or `last=N`; `workload=NAME`; `kind=KIND`, as often as wanted.
pub(crate) fn events(pairs: &[(String, String)]) -> Result<EventsAsked, Box<Problem>> {
    const COUNT: &str = "a number from 1 to 1000";
    let count = |key: &str, found: &str| {
        let number = found.parse().ok().filter(|number| (1..=EVENTS_MAX).contains(number));
        number.ok_or_else(|| wrong(key, found, COUNT))
    };
    let mut asked = EventsAsked::default();
    for (key, value) in pairs {
        match (key.as_str(), value.as_str()) {
            ("after", found) => {
                let number = found.parse().map_err(|_| wrong(key, found, "a number of an event"));
                asked.after = Some(number?);
            }
            ("last", found) => asked.last = Some(count(key, found)?),
            ("limit", found) => asked.limit = Some(count(key, found)?),
            ("workload", found) => {
                let name = found.parse().map_err(|_| wrong(key, found, "a workload's name"));
                asked.workload = Some(name?);
            }
            ("kind", found) => {
                let known = "a kind that docs/events.md lists";
                asked.kinds.push(found.parse().map_err(|_| wrong(key, found, known))?);
            }
            (unknown, _) => {
                let known = "after, last, limit, workload and kind";
                return Err(unexpected(unknown, known).into());
            }
        }
    }
    if asked.last.is_some() && (asked.after.is_some() || asked.limit.is_some()) {
        return Err(wrong("last", "after or limit beside it", "last alone").into());
    }
    Ok(asked)
}

/// `volumes=keep` (the default) or `volumes=delete`, and `dependants=refuse` (the default) or
/// `dependants=ignore`.
pub(crate) fn removal(
    pairs: &[(String, String)],
) -> Result<(VolumeFate, DependantsRule), Box<Problem>> {
    let (mut fate, mut rule) = (VolumeFate::Keep, DependantsRule::Refuse);
    for (key, value) in pairs {
        match (key.as_str(), value.as_str()) {
            ("volumes", "keep") => fate = VolumeFate::Keep,
            ("volumes", "delete") => fate = VolumeFate::Delete,
            ("volumes", found) => return Err(wrong(key, found, "keep or delete").into()),
            ("dependants", "refuse") => rule = DependantsRule::Refuse,
            ("dependants", "ignore") => rule = DependantsRule::Ignore,
            ("dependants", found) => return Err(wrong(key, found, "refuse or ignore").into()),
            ("wait", _) => {}
            (unknown, _) => return Err(unexpected(unknown, "volumes, dependants and wait").into()),
        }
    }
    Ok((fate, rule))
}

/// `content=await` (the default) or `content=ignore`.
pub(crate) fn start(pairs: &[(String, String)]) -> Result<ContentRule, Box<Problem>> {
    let mut rule = ContentRule::Await;
    for (key, value) in pairs {
        match (key.as_str(), value.as_str()) {
            ("content", "await") => rule = ContentRule::Await,
            ("content", "ignore") => rule = ContentRule::Ignore,
            ("content", found) => return Err(wrong(key, found, "await or ignore").into()),
            ("wait", _) => {}
            (unknown, _) => return Err(unexpected(unknown, "content and wait").into()),
        }
    }
    Ok(rule)
}

/// `wait=SECONDS`, a day at most; what is not about waiting is for others to read.
pub(crate) fn wait(pairs: &[(String, String)]) -> Result<Option<Duration>, Box<Problem>> {
    const LONGEST: u64 = 86_400;
    let mut wait = None;
    for (key, value) in pairs.iter().filter(|(key, _)| key == "wait") {
        let seconds = value.parse().ok().filter(|seconds| *seconds <= LONGEST);
        let expected = "a number of seconds, at most 86400";
        wait = Some(seconds.ok_or_else(|| wrong(key, value, expected))?);
    }
    Ok(wait.map(Duration::from_secs))
}

/// Like [`wait`], where nothing else may be said.
pub(crate) fn only_wait(pairs: &[(String, String)]) -> Result<Option<Duration>, Box<Problem>> {
    match pairs.iter().find(|(key, _)| key != "wait") {
        Some((unknown, _)) => Err(unexpected(unknown, "wait").into()),
        None => wait(pairs),
    }
}

fn wrong(key: &str, found: &str, expected: &str) -> Problem {
    let found: String = found.chars().take(80).collect();
    Problem::new(
        ProblemCode::InvalidRequest,
        format!("query key {key}: found {found:?}, expected {expected}"),
        "correct the query",
    )
}

fn unexpected(key: &str, known: &str) -> Problem {
    let key: String = key.chars().take(80).collect();
    Problem::new(
        ProblemCode::InvalidRequest,
        format!("query key {key:?} is not known here, only {known}"),
        "correct the query",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_log_query_may_be_empty_or_full() {
        let none =
            LogQuery { follow: false, tail: None, since: None, previous: false, resume: None };
        assert_eq!(logs(&[]), Ok(none.clone()));
        let both = logs(&pairs(&[("follow", ""), ("tail", "20")]));
        assert_eq!(both, Ok(LogQuery { follow: true, tail: Some(20), ..none.clone() }));
        let neither = logs(&pairs(&[("follow", "true"), ("follow", "false")]));
        assert_eq!(neither, Ok(none.clone()));
        let resumed = logs(&pairs(&[("follow", ""), ("resume", "0123456789ab:17:2")]));
        let resume = "0123456789ab:17:2".parse().ok();
        assert_eq!(resumed, Ok(LogQuery { follow: true, resume, ..none.clone() }));
        for wrong in [&[("resume", "0123456789ab:17:2")][..], &[("follow", ""), ("resume", "x")]] {
            logs(&pairs(wrong)).expect_err("is refused");
        }
        let since = logs(&pairs(&[("since", "2026-01-31T12:00:00Z"), ("previous", "")]));
        let time = "2026-01-31T12:00:00Z".parse().ok();
        assert_eq!(since, Ok(LogQuery { since: time, previous: true, ..none }));
    }

    #[test]
    fn events_are_asked_for_by_number_or_from_the_end() {
        assert_eq!(events(&[]), Ok(EventsAsked::default()));
        let asked = [
            ("after", "17"),
            ("limit", "5"),
            ("workload", "web"),
            ("kind", "crashed"),
            ("kind", "halted"),
        ];
        assert_eq!(
            events(&pairs(&asked)),
            Ok(EventsAsked {
                after: Some(EventSeq::new(17)),
                last: None,
                limit: Some(5),
                workload: Some("web".parse().expect("a name")),
                kinds: vec![EventKind::Crashed, EventKind::Halted],
            })
        );
        let last = events(&pairs(&[("last", "1000")])).expect("asks");
        assert_eq!(last.last, Some(1000));
        for (asked, words) in [
            (&[("after", "-1")][..], "a number of an event"),
            (&[("limit", "0")], "from 1 to 1000"),
            (&[("last", "1001")], "from 1 to 1000"),
            (&[("kind", "crash")], "docs/events.md"),
            (&[("workload", "W b")], "a workload's name"),
            (&[("last", "5"), ("after", "1")], "last alone"),
            (&[("since", "1")], "only after, last, limit, workload and kind"),
        ] {
            let problem = events(&pairs(asked)).expect_err(words);
            assert_eq!(problem.code, ProblemCode::InvalidRequest);
            assert!(problem.detail.contains(words), "{}", problem.detail);
        }
    }

    #[test]
    fn a_removal_is_careful_unless_it_says_otherwise() {
        let careful = (VolumeFate::Keep, DependantsRule::Refuse);
        assert_eq!(start(&[]), Ok(ContentRule::Await));
        let ignore = pairs(&[("content", "ignore"), ("wait", "5")]);
        assert_eq!(start(&ignore), Ok(ContentRule::Ignore));
        assert_eq!(removal(&[]), Ok(careful));
        let said = pairs(&[("volumes", "keep"), ("dependants", "refuse")]);
        assert_eq!(removal(&said), Ok(careful));
        let said = pairs(&[("volumes", "delete"), ("dependants", "ignore")]);
        assert_eq!(removal(&said), Ok((VolumeFate::Delete, DependantsRule::Ignore)));
    }

    #[test]
    fn a_wait_is_a_number_of_seconds() {
        assert_eq!(only_wait(&[]), Ok(None));
        assert_eq!(only_wait(&pairs(&[("wait", "0")])), Ok(Some(Duration::ZERO)));
        let both = pairs(&[("volumes", "keep"), ("wait", "90")]);
        assert_eq!(wait(&both), Ok(Some(Duration::from_secs(90))));
        assert!(removal(&both).is_ok());
        for wrong in [pairs(&[("wait", "-1")]), pairs(&[("wait", "86401")]), both] {
            assert!(only_wait(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_wrong_query_says_what_would_do() {
        let refused = |problem: Box<Problem>, words: &str| {
            assert_eq!(problem.code, ProblemCode::InvalidRequest);
            assert!(problem.detail.contains(words), "{}", problem.detail);
        };
        refused(logs(&pairs(&[("follow", "1")])).expect_err("not a truth"), "true or false");
        refused(logs(&pairs(&[("tail", "-1")])).expect_err("negative"), "a number of lines");
        refused(logs(&pairs(&[("tails", "1")])).expect_err("unknown"), "follow, tail, since");
        refused(logs(&pairs(&[("since", "noon")])).expect_err("no time"), "a time, as in");
        let both = [("follow", ""), ("previous", "")];
        refused(logs(&pairs(&both)).expect_err("both"), "what is gone writes no more");
        refused(start(&pairs(&[("content", "no")])).expect_err("no"), "await or ignore");
        refused(start(&pairs(&[("volumes", "keep")])).expect_err("unknown"), "content and wait");
        refused(removal(&pairs(&[("volumes", "")])).expect_err("empty"), "keep or delete");
        refused(removal(&pairs(&[("dependants", "no")])).expect_err("no"), "refuse or ignore");
        refused(removal(&pairs(&[("volume", "keep")])).expect_err("unknown"), "only volumes");
    }
}
