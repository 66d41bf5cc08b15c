//! What a test's container runs to have something to lose: it moves amounts between accounts in an
//! SQLite database, one transaction after the other, until it is ended.
//!
//! `bookkeeper DATABASE JOURNAL_MODE`

use std::path::Path;

use belay_e2e::books;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(journal)) = (arguments.next(), arguments.next()) else {
        return Err("bookkeeper DATABASE JOURNAL_MODE".into());
    };
    books::keep(Path::new(&path), &journal, |_| false)?;
    Ok(())
}
