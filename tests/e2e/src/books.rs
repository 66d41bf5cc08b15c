//! A database that tells whether it is of one moment: amounts are moved between accounts, and each
//! transaction leaves their sum, and one entry for itself.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

const ACCOUNTS: i64 = 64;
const OPENING: i64 = 1_000;

/// Moves amounts until it is told to stop, which it asks with the number of each transaction.
///
/// # Errors
/// Those of the database.
pub fn keep(path: &Path, journal: &str, mut stop: impl FnMut(i64) -> bool) -> rusqlite::Result<()> {
    let mut books = Connection::open(path)?;
    books.busy_timeout(Duration::from_secs(10))?;
    books.pragma_update(None, "journal_mode", journal)?;
    books.pragma_update(None, "synchronous", "FULL")?;
    let opening = books.transaction()?;
    opening.execute_batch(
        "CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL);
         CREATE TABLE IF NOT EXISTS entry (number INTEGER PRIMARY KEY, note BLOB NOT NULL);
         CREATE TABLE IF NOT EXISTS total (entries INTEGER NOT NULL);
         INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM total);",
    )?;
    for id in 0..ACCOUNTS {
        opening.execute("INSERT OR IGNORE INTO account VALUES (?1, ?2)", params![id, OPENING])?;
    }
    opening.commit()?;
    let mut number: i64 = books.query_row("SELECT entries FROM total", [], |row| row.get(0))?;
    while !stop(number) {
        number += 1;
        let moving = books.transaction()?;
        let (from, to) = (number * 7 % ACCOUNTS, number * 13 % ACCOUNTS);
        let amount = number % 5;
        moving.execute("UPDATE account SET amount = amount - ?1 WHERE id = ?2", [amount, from])?;
        // As large as a page, so that a transaction takes several, in many places.
        moving.execute("INSERT INTO entry VALUES (?1, randomblob(3000))", [number])?;
        moving.execute("DELETE FROM entry WHERE number <= ?1", [number - 1_000])?;
        moving.execute("UPDATE account SET amount = amount + ?1 WHERE id = ?2", [amount, to])?;
        moving.execute("UPDATE total SET entries = ?1", [number])?;
        moving.commit()?;
    }
    Ok(())
}

/// How many transactions the database holds, each of them whole.
///
/// # Errors
/// What is torn.
pub fn audit(path: &Path) -> Result<i64, String> {
    let told = |error: rusqlite::Error| error.to_string();
    // As an app would open it after a power cut: what the journal holds is rolled back.
    let books =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(told)?;
    let check: String =
        books.query_row("PRAGMA integrity_check", [], |row| row.get(0)).map_err(told)?;
    if check != "ok" {
        return Err(check);
    }
    let number = |query: &str| books.query_row(query, [], |row| row.get::<_, i64>(0)).map_err(told);
    let entries = number("SELECT entries FROM total")?;
    let sum = number("SELECT sum(amount) FROM account")?;
    if sum != ACCOUNTS * OPENING {
        return Err(format!("the accounts hold {sum} after {entries} entries"));
    }
    let (last, count) = (
        number("SELECT coalesce(max(number), 0) FROM entry")?,
        number("SELECT count(*) FROM entry")?,
    );
    if last != entries || count != entries.min(1_000) {
        return Err(format!("{count} entries up to {last}, and {entries} were made"));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_finds_what_is_torn() {
        let temp = tempfile::tempdir().expect("a directory");
        let path = temp.path().join("books");
        keep(&path, "wal", |number| number == 1_010).expect("writes");
        assert_eq!(audit(&path), Ok(1_010));
        let books = Connection::open(&path).expect("opens");
        books.execute("DELETE FROM entry WHERE number = 500", []).expect("tears");
        let torn = audit(&path).expect_err("found");
        assert!(torn.contains("999 entries"), "{torn}");
        books.execute("UPDATE account SET amount = amount + 1 WHERE id = 1", []).expect("tears");
        let torn = audit(&path).expect_err("found");
        assert!(torn.contains("accounts hold"), "{torn}");
    }
}
