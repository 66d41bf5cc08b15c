//! What a publish was begun under: the key that it was meant for, and who may read it.

use std::path::{Path, PathBuf};

use belay_protocol::SyncKey;
use serde::{Deserialize, Serialize};

/// What of a workload's spec a publish cannot outlive: finished under anything else, it would go to
/// where nobody asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Terms {
    key: SyncKey,
    /// None if anyone with the store may read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<SealedFor>,
}

/// Whom a tree is sealed for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedFor {
    /// Where the workload's own key lies.
    identity: PathBuf,
    /// The others, in their order.
    members: Vec<String>,
}

impl Terms {
    /// Those of a spec: its key, and where its trees are sealed its identity and members.
    pub(crate) fn new(key: &SyncKey, sealed: Option<(&Path, Vec<String>)>) -> Self {
        let sealed = sealed.map(|(identity, mut members)| {
            members.sort();
            members.dedup();
            SealedFor { identity: identity.to_owned(), members }
        });
        Self { key: key.clone(), sealed }
    }

    /// Why what was begun under these must not be published under those of `now`; none if it may.
    pub(crate) fn outdated(&self, now: &Self) -> Option<String> {
        let Self { key, sealed } = self;
        let changed = if *key != now.key {
            format!("under key {key}, and the workload's key is {} now", now.key)
        } else if *sealed == now.sealed {
            return None;
        } else {
            let reader = |sealed: &Option<SealedFor>| match sealed {
                Some(sealed) => format!("{} members", sealed.members.len() + 1),
                None => "anyone with the store".to_owned(),
            };
            let (before, after) = (reader(sealed), reader(&now.sealed));
            if before == after {
                format!("for other {before} than the spec has now")
            } else {
                format!("for {before}, and the spec says {after} now")
            }
        };
        Some(format!("the publish was begun {changed}; ask again"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(key: &str, sealed: Option<(&str, &[&str])>) -> Terms {
        let sealed = sealed.map(|(identity, members)| {
            (Path::new(identity), members.iter().map(|&member| member.to_owned()).collect())
        });
        Terms::new(&key.parse().expect("a key"), sealed)
    }

    #[test]
    fn a_publish_outlives_neither_its_key_nor_those_it_was_sealed_for() {
        let mine = "/etc/mine.pem";
        let begun = terms("models", Some((mine, &["b", "a"])));
        assert_eq!(begun.outdated(&terms("models", Some((mine, &["a", "b", "a"])))), None);
        for (now, told) in [
            (terms("others", None), "under key models, and the workload's key is others now"),
            (terms("models", None), "for 3 members, and the spec says anyone with the store now"),
            (terms("models", Some((mine, &["a"]))), "for 3 members, and the spec says 2 members"),
            (terms("models", Some((mine, &["a", "c"]))), "for other 3 members than the spec has"),
            (terms("models", Some(("/etc/b.pem", &["a", "b"]))), "for other 3 members than"),
        ] {
            let reason = begun.outdated(&now).expect("it is");
            assert!(reason.contains(told) && reason.ends_with("; ask again"), "{reason}");
            assert!(now.outdated(&begun).is_some(), "nor the other way round");
        }
    }

    #[test]
    fn they_are_read_as_they_were_written() {
        for terms in [terms("models", None), terms("models", Some(("/m.pem", &["a"])))] {
            let text = serde_json::to_string(&terms).expect("serialises");
            assert_eq!(serde_json::from_str::<Terms>(&text).expect("reads"), terms);
        }
    }
}
