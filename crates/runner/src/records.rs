//! What the ledger keeps: tables, and the way between their records and the hub's.
//!
//! A run is three records: `run_submission`, which is written once, `run`, which is written at each
//! change and stays small, and `run_output`, once it has finished. What its waitpoints were completed
//! with is in `run_waitpoint`, one record each. `runner_token` holds hashes of tokens,
//! `run_travel` the ways by which runs came from other nodes.

mod passage;
mod shape;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use belay_ledger::{Batch, Ledger, LedgerError};
use belay_protocol::runner::{RunId, TravelId, WaitpointId};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde_json::Value;

pub use self::passage::{BadPassage, Passage};
use self::shape::{PhaseShape, RunShape, SubmissionShape, TokenShape};
use crate::core::event::RunRecord;
use crate::core::run::{Phase, RunEnd, Submission};
use crate::core::tokens::{Grant, TokenHash};

const RUN: &str = "run";
const SUBMISSION: &str = "run_submission";
const OUTPUT: &str = "run_output";
const WAITPOINT: &str = "run_waitpoint";
const TOKEN: &str = "runner_token";
const TRAVEL: &str = "run_travel";

/// Writes of one commit. Of several for one run the last counts.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    runs: BTreeMap<RunId, RunWrite>,
    tokens: BTreeMap<TokenHash, Option<Grant>>,
    travels: BTreeMap<TravelId, Option<Timestamp>>,
}

#[derive(Debug)]
enum RunWrite {
    Save { record: Box<RunRecord>, submission: Written },
    Forget,
}

/// Whether a part of a run is on the disk already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    NotYet,
    Before,
}

impl Writes {
    /// Adds the record of a run.
    pub(crate) fn save(&mut self, record: Box<RunRecord>) {
        // Whatever is the first to be written of a run comes before it is bound.
        let is_first = record.run.epoch.get() == 0;
        self.put_run(record, if is_first { Written::NotYet } else { Written::Before });
    }

    /// Adds the record of a run that came from another node.
    pub(crate) fn save_arrival(&mut self, record: Box<RunRecord>) {
        self.put_run(record, Written::NotYet);
    }

    fn put_run(&mut self, record: Box<RunRecord>, submission: Written) {
        let with_it = matches!(
            self.runs.get(&record.run.id),
            Some(RunWrite::Save { submission: Written::NotYet, .. })
        );
        let submission = if with_it { Written::NotYet } else { submission };
        self.runs.insert(record.run.id, RunWrite::Save { record, submission });
    }

    /// Adds the removal of a run.
    pub(crate) fn forget(&mut self, run: RunId) {
        self.runs.insert(run, RunWrite::Forget);
    }

    /// Adds the way by which a run came, with the time until which it counts.
    pub(crate) fn remember(&mut self, travel: TravelId, until: Timestamp) {
        self.travels.insert(travel, Some(until));
    }

    /// Adds the removal of one.
    pub(crate) fn forget_travel(&mut self, travel: TravelId) {
        self.travels.insert(travel, None);
    }

    /// Adds a token.
    pub(crate) fn put_token(&mut self, hash: TokenHash, grant: Grant) {
        self.tokens.insert(hash, Some(grant));
    }

    /// Adds the removal of a token.
    pub(crate) fn remove_token(&mut self, hash: TokenHash) {
        self.tokens.insert(hash, None);
    }
}

/// What of the runs is on the disk, as far as it need not be written again.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// Completed waitpoints of runs that have any.
    waitpoints: HashMap<RunId, BTreeSet<WaitpointId>>,
}

impl Books {
    /// The changes of a commit. It is tried until it succeeds, so what is in it counts as written.
    pub(crate) fn batch(&mut self, writes: Writes) -> Result<Batch, LedgerError> {
        let mut batch = Batch::default();
        for (id, write) in writes.runs {
            match write {
                RunWrite::Save { record, submission } => {
                    self.put(&mut batch, id, &record, submission)?;
                }
                RunWrite::Forget => self.remove(&mut batch, id),
            }
        }
        for (travel, until) in writes.travels {
            match until {
                Some(until) => batch.put(TRAVEL, travel.to_string(), &until)?,
                None => batch.remove(TRAVEL, travel.to_string()),
            }
        }
        for (hash, grant) in writes.tokens {
            let key = HEXLOWER.encode(&hash.0);
            match grant {
                Some(grant) => batch.put(TOKEN, key, &TokenShape::from(grant))?,
                None => batch.remove(TOKEN, key),
            }
        }
        Ok(batch)
    }

    fn put(
        &mut self,
        batch: &mut Batch,
        id: RunId,
        record: &RunRecord,
        submission: Written,
    ) -> Result<(), LedgerError> {
        let key = id.to_string();
        match submission {
            Written::NotYet => {
                let shape = SubmissionShape::of(&record.run.submission);
                batch.put(SUBMISSION, key.as_str(), &shape)?;
            }
            Written::Before => {}
        }
        if let Phase::Ended { end: RunEnd::Finished { output }, .. } = &record.run.phase {
            batch.put(OUTPUT, key.as_str(), output)?;
        }
        for (&waitpoint, output) in &record.run.waitpoints {
            if let Some(output) = output
                && self.waitpoints.entry(id).or_default().insert(waitpoint)
            {
                batch.put(WAITPOINT, waitpoint.to_string(), output)?;
            }
        }
        batch.put(RUN, key, &RunShape::of(record))
    }

    fn remove(&mut self, batch: &mut Batch, id: RunId) {
        let key = id.to_string();
        for waitpoint in self.waitpoints.remove(&id).into_iter().flatten() {
            batch.remove(WAITPOINT, waitpoint.to_string());
        }
        batch.remove(OUTPUT, key.as_str());
        batch.remove(SUBMISSION, key.as_str());
        batch.remove(RUN, key);
    }
}

/// What was found in the ledger.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) records: Vec<RunRecord>,
    pub(crate) tokens: Vec<(TokenHash, Grant)>,
    pub(crate) travels: Vec<(TravelId, Timestamp)>,
    pub(crate) books: Books,
    /// Records that did not read back, with why. They cost what they are about.
    pub(crate) lost: Vec<String>,
}

/// Reads everything.
pub(crate) async fn load(ledger: &Ledger) -> Result<Found, LedgerError> {
    let mut found = Found::default();
    let runs = ledger.load::<RunShape>(RUN).await?;
    let submissions = ledger.load::<SubmissionShape>(SUBMISSION).await?;
    let outputs = ledger.load::<Value>(OUTPUT).await?;
    let waitpoints = ledger.load::<Value>(WAITPOINT).await?;
    let tokens = ledger.load::<TokenShape>(TOKEN).await?;
    let travels = ledger.load::<Timestamp>(TRAVEL).await?;
    for (table, set_aside) in [
        (RUN, &runs.set_aside),
        (SUBMISSION, &submissions.set_aside),
        (OUTPUT, &outputs.set_aside),
        (WAITPOINT, &waitpoints.set_aside),
        (TOKEN, &tokens.set_aside),
        (TRAVEL, &travels.set_aside),
    ] {
        let said = set_aside.iter().map(|bad| format!("{table}/{}: {}", bad.key, bad.reason));
        found.lost.extend(said);
    }
    let mut parts = Parts {
        submissions: submissions.records,
        outputs: outputs.records,
        waitpoints: waitpoints.records,
    };
    for (key, shape) in runs.records {
        match parts.put_together(&key, shape) {
            Ok(record) => {
                let completed = record.run.waitpoints.iter();
                let completed: BTreeSet<WaitpointId> =
                    completed.filter(|(_, output)| output.is_some()).map(|(&id, _)| id).collect();
                if !completed.is_empty() {
                    found.books.waitpoints.insert(record.run.id, completed);
                }
                found.records.push(record);
            }
            Err(reason) => found.lost.push(format!("{RUN}/{key}: {reason}")),
        }
    }
    for (key, until) in travels.records {
        match key.parse() {
            Ok(travel) => found.travels.push((travel, until)),
            Err(_) => found.lost.push(format!("{TRAVEL}: a key is no id")),
        }
    }
    for (key, shape) in tokens.records {
        match HEXLOWER.decode(key.as_bytes()).map(<[u8; 32]>::try_from) {
            Ok(Ok(hash)) => found.tokens.push((TokenHash(hash), shape.into())),
            Ok(Err(_)) | Err(_) => found.lost.push(format!("{TOKEN}: a key is no hash")),
        }
    }
    Ok(found)
}

/// What belongs to the records of runs.
struct Parts {
    submissions: BTreeMap<String, SubmissionShape>,
    outputs: BTreeMap<String, Value>,
    waitpoints: BTreeMap<String, Value>,
}

impl Parts {
    fn put_together(&mut self, key: &str, shape: RunShape) -> Result<RunRecord, String> {
        let id: RunId = key.parse().map_err(|_| "its key is no id".to_owned())?;
        let submission = self.submissions.remove(key).ok_or("its submission is missing")?;
        let output = match &shape.phase {
            PhaseShape::Finished { .. } => {
                Some(self.outputs.remove(key).ok_or("its result is missing")?)
            }
            _ => None,
        };
        let waitpoints = &mut self.waitpoints;
        shape.into_record(id, Arc::new(Submission::from(submission)), output, |waitpoint| {
            waitpoints.remove(&waitpoint.to_string())
        })
    }
}

#[cfg(test)]
mod tests;
