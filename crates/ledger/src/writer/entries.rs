//! Entries of the journal in SQLite.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use crate::journal::{Entry, JournalPage, JournalQuery, Numbered, ReadFrom, Retention};

/// Surplus entries are deleted so many at a time: one deletion less with every commit.
const SLACK: u64 = 128;

/// Newest entries that no age removes.
const ALWAYS_KEPT: u64 = 1000;

/// Makes the tables. The newest entry is never deleted, so the number after the largest one there
/// is was never given; `journal_floor` holds what numbers begin above where there is none.
pub(super) const TABLES: &str = "CREATE TABLE IF NOT EXISTS journal (
         number INTEGER PRIMARY KEY, at INTEGER NOT NULL,
         topic TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL);
     CREATE TABLE IF NOT EXISTS journal_floor (number INTEGER NOT NULL);";

/// Has numbers begin above this one.
pub(super) fn begin_above(connection: &Connection, floor: u64) -> Result<(), rusqlite::Error> {
    connection
        .execute("INSERT INTO journal_floor (number) VALUES (?1)", params![signed(floor)])
        .map(|_| ())
}

/// A number above all that a ledger lost a moment ago can have given: the seconds since 1970. Only
/// one that had more than one entry for each second since then would have given more.
pub(super) fn floor_after_loss() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or(Duration::ZERO).as_secs()
}

/// Number of the newest entry; where there is none, what numbers begin above.
pub(super) fn newest(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let newest = connection
        .prepare_cached("SELECT MAX(number) FROM journal")?
        .query_row([], |row| row.get::<_, Option<i64>>(0))?;
    let newest = match newest {
        Some(newest) => newest,
        None => connection
            .prepare_cached("SELECT MAX(number) FROM journal_floor")?
            .query_row([], |row| row.get::<_, Option<i64>>(0))?
            .unwrap_or(0),
    };
    Ok(unsigned(newest))
}

/// Writes entries under the numbers that follow, deletes what is beyond the bounds, and gives the
/// number of the newest.
pub(super) fn append<'a>(
    transaction: &Transaction<'_>,
    entries: impl Iterator<Item = &'a Entry>,
    retention: Retention,
) -> Result<u64, rusqlite::Error> {
    let mut number = newest(transaction)?;
    let mut last = 0;
    for entry in entries {
        number += 1;
        last = entry.at;
        transaction
            .prepare_cached(
                "INSERT INTO journal (number, at, topic, kind, body) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![signed(number), entry.at, entry.topic, entry.kind, entry.body])?;
    }
    prune(transaction, number, last, retention)?;
    Ok(number)
}

/// Deletes what is beyond the bounds, `now` being the time of the newest entry.
fn prune(
    transaction: &Transaction<'_>,
    newest: u64,
    now: i64,
    retention: Retention,
) -> Result<(), rusqlite::Error> {
    let Some((first, oldest)) = oldest(transaction)? else { return Ok(()) };
    // Numbers have no holes, so that a number says how many come after it.
    let surplus = newest.saturating_sub(retention.entries.max(1));
    if surplus >= first + SLACK {
        transaction
            .prepare_cached("DELETE FROM journal WHERE number <= ?1")?
            .execute(params![signed(surplus)])?;
    }
    let age = i64::try_from(retention.age.as_millis()).unwrap_or(i64::MAX);
    let since = now.saturating_sub(age);
    if oldest < since {
        let spared = newest.saturating_sub(ALWAYS_KEPT.min(retention.entries.max(1)));
        // Up to the first that is young enough: a hole would look like a loss.
        transaction
            .prepare_cached(
                "DELETE FROM journal WHERE number <= ?1 AND number < COALESCE(
                     (SELECT number FROM journal WHERE at >= ?2 ORDER BY number LIMIT 1), ?1 + 1)",
            )?
            .execute(params![signed(spared), since])?;
    }
    Ok(())
}

fn oldest(connection: &Connection) -> Result<Option<(u64, i64)>, rusqlite::Error> {
    connection
        .prepare_cached("SELECT number, at FROM journal ORDER BY number LIMIT 1")?
        .query_row([], |row| Ok((unsigned(row.get(0)?), row.get(1)?)))
        .optional()
}

pub(super) fn read(
    connection: &Connection,
    query: &JournalQuery,
) -> Result<JournalPage, rusqlite::Error> {
    let (order, after) = match query.from {
        ReadFrom::After(number) => ("number > ?1 ORDER BY number", number),
        ReadFrom::End => ("number > ?1 ORDER BY number DESC", 0),
    };
    let text = format!("SELECT number, at, topic, kind, body FROM journal WHERE {order}");
    let mut statement = connection.prepare_cached(&text)?;
    let mut rows = statement.query(params![signed(after)])?;
    let mut entries = Vec::new();
    while entries.len() < query.limit
        && let Some(row) = rows.next()?
    {
        let topic: String = row.get(2)?;
        let kind: String = row.get(3)?;
        let asked_for = query.topic.as_ref().is_none_or(|wanted| *wanted == topic)
            && (query.kinds.is_empty() || query.kinds.contains(&kind));
        if asked_for {
            let entry = Entry { at: row.get(1)?, topic, kind, body: row.get(4)? };
            entries.push(Numbered { number: unsigned(row.get(0)?), entry });
        }
    }
    if query.from == ReadFrom::End {
        entries.reverse();
    }
    let first = oldest(connection)?.map(|(number, _)| number);
    Ok(JournalPage { first, newest: newest(connection)?, entries })
}

/// SQLite's integers are signed; a number beyond them is beyond every entry.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    number.unsigned_abs()
}
