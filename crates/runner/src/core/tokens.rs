//! Who may connect: tokens by their hashes.

use std::collections::{BTreeSet, HashMap};

use belay_protocol::WorkloadName;
use belay_protocol::runner::{RunnerId, RunnerToken};
use jiff::Timestamp;

use crate::core::event::{Origin, Refusal};
use crate::core::now::Now;

/// How names begin that the hub gives to the runners that it has started.
const RESERVED: &str = "run-";

/// BLAKE3 of a token's bytes. The token has 256 random bits, so its plain hash gives nothing away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TokenHash(pub(crate) [u8; 32]);

impl TokenHash {
    pub(crate) fn of(token: &RunnerToken) -> Self {
        Self(*blake3::hash(token.bytes()).as_bytes())
    }
}

/// Whom a token lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) runner: RunnerId,
    pub(crate) workload: WorkloadName,
    pub(crate) origin: Origin,
    /// From when on it lets nobody in.
    pub(crate) expires_at: Option<Timestamp>,
}

/// Why a token lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denial {
    #[error("the token is not known; it was never made here, or its runner is gone")]
    Unknown,
    #[error("the token expired at {at}")]
    Expired { at: Timestamp },
}

/// The tokens that were made and not revoked.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    grants: HashMap<TokenHash, Grant>,
    of_runner: HashMap<RunnerId, BTreeSet<TokenHash>>,
}

impl Tokens {
    /// Whether a token may be made for a runner of this name.
    pub(crate) fn may_issue(runner: &RunnerId, origin: Origin) -> Result<(), Refusal> {
        let is_reserved = runner.as_str().starts_with(RESERVED);
        match origin {
            Origin::Foreign if is_reserved => Err(Refusal::ReservedName(runner.clone())),
            Origin::Foreign | Origin::Hosted => Ok(()),
        }
    }

    /// Takes a token in.
    pub(crate) fn insert(&mut self, hash: TokenHash, grant: Grant) {
        self.of_runner.entry(grant.runner.clone()).or_default().insert(hash);
        self.grants.insert(hash, grant);
    }

    /// Whom a token lets in now.
    pub(crate) fn admit(&self, hash: TokenHash, now: &Now) -> Result<&Grant, Denial> {
        let grant = self.grants.get(&hash).ok_or(Denial::Unknown)?;
        match grant.expires_at {
            Some(at) if at <= now.wall => Err(Denial::Expired { at }),
            Some(_) | None => Ok(grant),
        }
    }

    /// The tokens of a runner.
    pub(crate) fn of(&self, runner: &RunnerId) -> Vec<TokenHash> {
        self.of_runner.get(runner).into_iter().flatten().copied().collect()
    }

    /// Forgets the tokens of a runner and says which they were.
    pub(crate) fn revoke(&mut self, runner: &RunnerId) -> BTreeSet<TokenHash> {
        let hashes = self.of_runner.remove(runner).unwrap_or_default();
        for hash in &hashes {
            self.grants.remove(hash);
        }
        hashes
    }

    /// Forgets tokens that let nobody in any more: expired ones, and those of containers of which
    /// `is_kept` knows nothing. Says which they were.
    pub(crate) fn collect(
        &mut self,
        now: &Now,
        is_kept: impl Fn(&RunnerId) -> bool,
    ) -> Vec<TokenHash> {
        let is_over = |grant: &Grant| match grant.origin {
            Origin::Hosted => !is_kept(&grant.runner),
            Origin::Foreign => grant.expires_at.is_some_and(|at| at <= now.wall),
        };
        let over: Vec<TokenHash> =
            self.grants.iter().filter(|(_, grant)| is_over(grant)).map(|(&hash, _)| hash).collect();
        for hash in &over {
            let Some(grant) = self.grants.remove(hash) else { continue };
            if let Some(hashes) = self.of_runner.get_mut(&grant.runner) {
                hashes.remove(hash);
                if hashes.is_empty() {
                    self.of_runner.remove(&grant.runner);
                }
            }
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use belay_timer_wheel::Moment;

    use super::*;

    fn at(seconds: i64) -> Now {
        let wall = Timestamp::from_second(seconds).expect("in range");
        Now { moment: Moment::ORIGIN, wall, entropy: 0 }
    }

    fn grant(runner: &str, origin: Origin, expires_at: Option<Timestamp>) -> Grant {
        let runner = runner.parse().expect("a name");
        Grant { runner, workload: "mailer".parse().expect("a name"), origin, expires_at }
    }

    #[test]
    fn a_token_lets_its_runner_in_until_it_expires() {
        let mut tokens = Tokens::default();
        let expiry = at(10).later(Duration::from_secs(5));
        let laptop = grant("laptop", Origin::Foreign, Some(expiry));
        tokens.insert(TokenHash([1; 32]), laptop.clone());
        assert_eq!(tokens.admit(TokenHash([1; 32]), &at(14)), Ok(&laptop));
        assert_eq!(tokens.admit(TokenHash([1; 32]), &at(15)), Err(Denial::Expired { at: expiry }));
        assert_eq!(tokens.admit(TokenHash([2; 32]), &at(14)), Err(Denial::Unknown));
    }

    #[test]
    fn a_revoked_runner_has_no_token_left() {
        let mut tokens = Tokens::default();
        tokens.insert(TokenHash([1; 32]), grant("run-a-1", Origin::Hosted, None));
        tokens.insert(TokenHash([2; 32]), grant("run-a-1", Origin::Hosted, None));
        tokens.insert(TokenHash([3; 32]), grant("run-b-1", Origin::Hosted, None));
        let revoked = tokens.revoke(&"run-a-1".parse().expect("a name"));
        assert_eq!(revoked.len(), 2);
        for hash in revoked {
            assert_eq!(tokens.admit(hash, &at(0)), Err(Denial::Unknown));
        }
        assert!(tokens.admit(TokenHash([3; 32]), &at(0)).is_ok());
    }

    #[test]
    fn tokens_of_containers_that_are_gone_and_expired_ones_are_collected() {
        let mut tokens = Tokens::default();
        tokens.insert(TokenHash([1; 32]), grant("run-a-1", Origin::Hosted, None));
        tokens.insert(TokenHash([2; 32]), grant("run-b-1", Origin::Hosted, None));
        tokens.insert(TokenHash([3; 32]), grant("old", Origin::Foreign, Some(at(5).wall)));
        tokens.insert(TokenHash([4; 32]), grant("young", Origin::Foreign, Some(at(50).wall)));
        let mut collected = tokens.collect(&at(20), |runner| runner.as_str() == "run-b-1");
        collected.sort();
        assert_eq!(collected, [TokenHash([1; 32]), TokenHash([3; 32])]);
        assert!(tokens.admit(TokenHash([2; 32]), &at(20)).is_ok());
        assert!(tokens.admit(TokenHash([4; 32]), &at(20)).is_ok());
    }

    #[test]
    fn names_of_runners_that_belayd_starts_are_not_for_others() {
        let name: RunnerId = "run-0a-1".parse().expect("a name");
        let refused = Tokens::may_issue(&name, Origin::Foreign).expect_err("refused");
        assert_eq!(
            refused.to_string(),
            "run-0a-1 is a name as belayd gives them to its own runners: choose one that does not \
             begin with \"run-\""
        );
        Tokens::may_issue(&name, Origin::Hosted).expect("its own");
    }
}
