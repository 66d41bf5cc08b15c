//! Query strings, read strictly: a key that is not known is an error that names the known ones.

use belay_protocol::{DependantsRule, LogQuery, Problem, ProblemCode, VolumeFate};

/// `follow` (alone, or `true` or `false`) and `tail=N`.
pub(crate) fn logs(pairs: &[(String, String)]) -> Result<LogQuery, Box<Problem>> {
    let mut query = LogQuery { follow: false, tail: None };
    for (key, value) in pairs {
        match (key.as_str(), value.as_str()) {
            ("follow", "" | "true") => query.follow = true,
            ("follow", "false") => query.follow = false,
            ("follow", found) => return Err(wrong(key, found, "true or false").into()),
            ("tail", found) => {
                let lines = found.parse();
                query.tail = Some(lines.map_err(|_| wrong(key, found, "a number of lines"))?);
            }
            (unknown, _) => return Err(unexpected(unknown, "follow and tail").into()),
        }
    }
    Ok(query)
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
            (unknown, _) => return Err(unexpected(unknown, "volumes and dependants").into()),
        }
    }
    Ok((fate, rule))
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
        assert_eq!(logs(&[]), Ok(LogQuery { follow: false, tail: None }));
        let both = logs(&pairs(&[("follow", ""), ("tail", "20")]));
        assert_eq!(both, Ok(LogQuery { follow: true, tail: Some(20) }));
        let neither = logs(&pairs(&[("follow", "true"), ("follow", "false")]));
        assert_eq!(neither, Ok(LogQuery { follow: false, tail: None }));
    }

    #[test]
    fn a_removal_is_careful_unless_it_says_otherwise() {
        let careful = (VolumeFate::Keep, DependantsRule::Refuse);
        assert_eq!(removal(&[]), Ok(careful));
        let said = pairs(&[("volumes", "keep"), ("dependants", "refuse")]);
        assert_eq!(removal(&said), Ok(careful));
        let said = pairs(&[("volumes", "delete"), ("dependants", "ignore")]);
        assert_eq!(removal(&said), Ok((VolumeFate::Delete, DependantsRule::Ignore)));
    }

    #[test]
    fn a_wrong_query_says_what_would_do() {
        let refused = |problem: Box<Problem>, words: &str| {
            assert_eq!(problem.code, ProblemCode::InvalidRequest);
            assert!(problem.detail.contains(words), "{}", problem.detail);
        };
        refused(logs(&pairs(&[("follow", "1")])).expect_err("not a truth"), "true or false");
        refused(logs(&pairs(&[("tail", "-1")])).expect_err("negative"), "a number of lines");
        refused(logs(&pairs(&[("tails", "1")])).expect_err("unknown"), "follow and tail");
        refused(removal(&pairs(&[("volumes", "")])).expect_err("empty"), "keep or delete");
        refused(removal(&pairs(&[("dependants", "no")])).expect_err("no"), "refuse or ignore");
        refused(removal(&pairs(&[("volume", "keep")])).expect_err("unknown"), "only volumes");
    }
}
