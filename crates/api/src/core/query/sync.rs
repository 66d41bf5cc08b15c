//! Query strings of the pages about volume-sync.

use belay_protocol::{CidPrefix, DiffAgainst, Problem, VerifyDepth};

use super::{unexpected, wrong};

const CID: &str = "a content id, or its first 10 characters or more";

/// `cid=CID`.
pub(crate) fn generation(pairs: &[(String, String)]) -> Result<Option<CidPrefix>, Box<Problem>> {
    let mut cid = None;
    for (key, value) in pairs {
        match key.as_str() {
            "cid" => cid = Some(value.parse().map_err(|_| wrong(key, value, CID))?),
            unknown => return Err(unexpected(unknown, "cid").into()),
        }
    }
    Ok(cid)
}

/// `from=CID` and `to=CID` or `to=live`; what is not named is the newest.
pub(crate) fn diff(
    pairs: &[(String, String)],
) -> Result<(Option<CidPrefix>, DiffAgainst), Box<Problem>> {
    let (mut from, mut to) = (None, DiffAgainst::Generation(None));
    for (key, value) in pairs {
        let cid = || value.parse().map_err(|_| wrong(key, value, CID));
        match (key.as_str(), value.as_str()) {
            ("from", _) => from = Some(cid()?),
            ("to", "live") => to = DiffAgainst::Live,
            ("to", _) => to = DiffAgainst::Generation(Some(cid()?)),
            (unknown, _) => return Err(unexpected(unknown, "from and to").into()),
        }
    }
    Ok((from, to))
}

/// `content` (alone, or `true` or `false`).
pub(crate) fn verify(pairs: &[(String, String)]) -> Result<VerifyDepth, Box<Problem>> {
    let mut depth = VerifyDepth::Marks;
    for (key, value) in pairs {
        match (key.as_str(), value.as_str()) {
            ("content", "" | "true") => depth = VerifyDepth::Content,
            ("content", "false") => depth = VerifyDepth::Marks,
            ("content", found) => return Err(wrong(key, found, "true or false").into()),
            (unknown, _) => return Err(unexpected(unknown, "content").into()),
        }
    }
    Ok(depth)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_generation_is_named_by_the_beginning_of_its_id() {
        assert_eq!(generation(&[]).expect("the newest"), None);
        let named = generation(&pairs(&[("cid", "bafkr4iaha4d")])).expect("a beginning");
        assert_eq!(named.expect("named").to_string(), "bafkr4iaha4d");
        for (bad, words) in [(("cid", "web"), "a content id"), (("id", "x"), "only cid")] {
            let problem = generation(&pairs(&[bad])).expect_err("refused");
            assert!(problem.detail.contains(words), "{}", problem.detail);
        }
    }

    #[test]
    fn volumes_are_read_only_where_that_is_said() {
        for (said, depth) in [
            (&[][..], VerifyDepth::Marks),
            (&[("content", "")], VerifyDepth::Content),
            (&[("content", "true")], VerifyDepth::Content),
            (&[("content", "false")], VerifyDepth::Marks),
        ] {
            assert_eq!(verify(&pairs(said)).expect("a depth"), depth);
        }
        for bad in [("content", "yes"), ("depth", "content")] {
            verify(&pairs(&[bad])).expect_err(bad.0);
        }
    }

    #[test]
    fn what_is_compared_is_named_or_the_newest_or_live() {
        let cid = || Some("bafkr4iaha4d".parse().expect("a beginning"));
        let newest = DiffAgainst::Generation(None);
        assert_eq!(diff(&[]).expect("the newest twice"), (None, newest));
        let named = pairs(&[("from", "bafkr4iaha4d"), ("to", "bafkr4iaha4d")]);
        assert_eq!(diff(&named).expect("both"), (cid(), DiffAgainst::Generation(cid())));
        let live = diff(&pairs(&[("to", "live")])).expect("the volumes");
        assert_eq!(live, (None, DiffAgainst::Live));
        for bad in [("from", "live"), ("to", ""), ("cid", "bafkr4iaha4d")] {
            diff(&pairs(&[bad])).expect_err(bad.0);
        }
    }
}
