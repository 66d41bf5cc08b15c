//! Query strings of the pages about volume-sync.

use belay_protocol::{CidPrefix, Problem};

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
}
