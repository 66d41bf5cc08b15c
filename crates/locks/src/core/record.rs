//! The record in a lock's file: who took it, what for, and how far it is.

use serde::{Deserialize, Serialize};

use super::identity::Identity;

/// Bytes of a record with its end of line. It is always written whole, over the one before.
pub const RECORD_BYTES: usize = 512;

const SCHEMA: u8 = 1;

/// Longest texts in a record.
const WORD_MAX: usize = 16;
const LOCK_MAX: usize = 136;
const BOOT_MAX: usize = 36;

/// Where the checksum stands.
const SUM_HEAD: &str = ",\"sum\":\"";
const SUM_TAIL: &str = "\"}";
const SUM_DIGITS: usize = 8;

/// Who took a lock, what for, and how far it is. For people, and for whoever takes the lock next;
/// whether the lock is held is the kernel's to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of this shape. A record of another one does not read.
    pub schema: u8,
    /// What is locked, in words.
    pub lock: String,
    /// What it was taken for, as in `deploy`.
    pub operation: String,
    /// Names this one operation.
    pub id: String,
    /// Generation of the workload that it works on; 0 where there is none.
    pub generation: u64,
    /// What kind of program took it.
    pub role: Role,
    /// Process id.
    pub pid: u32,
    /// When that process started, in clock ticks since the boot.
    pub start_ticks: u64,
    /// The boot.
    pub boot_id: String,
    /// User of that process.
    pub uid: u32,
    /// Version of that program.
    pub version: String,
    /// When it was taken, by the wall clock, in milliseconds since 1970. Only shown.
    pub wall_ms: i64,
    /// When it was taken, in milliseconds since the boot, suspensions included.
    pub since_ms: u64,
    /// What is being done.
    pub phase: String,
    /// Since when, in milliseconds since the boot.
    pub phase_ms: u64,
    /// When it should be over, in milliseconds since the boot.
    pub deadline_ms: Option<u64>,
    /// More, for people.
    pub hint: String,
}

/// What kind of program holds a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// belayd.
    Daemon,
    /// The operator's command.
    Cli,
    /// A tool that works while no belayd does.
    Rescue,
}

impl Role {
    /// The word in records and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Cli => "cli",
            Self::Rescue => "rescue",
        }
    }
}

/// What was read from a lock's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing: nobody was here, or the last one left in order.
    Nothing,
    /// Something that is no whole record.
    Unreadable,
    /// A record.
    Record(Box<Record>),
}

impl Record {
    /// A record of `lock` by this process, everything else still to be said.
    pub fn new(lock: &str, who: &Identity) -> Self {
        Self {
            schema: SCHEMA,
            lock: lock.to_owned(),
            operation: String::new(),
            id: String::new(),
            generation: 0,
            role: Role::Daemon,
            pid: who.pid,
            start_ticks: who.start_ticks,
            boot_id: who.boot_id.clone(),
            uid: 0,
            version: String::new(),
            wall_ms: 0,
            since_ms: 0,
            phase: String::new(),
            phase_ms: 0,
            deadline_ms: None,
            hint: String::new(),
        }
    }

    /// The process that wrote it.
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, start_ticks: self.start_ticks, boot_id: self.boot_id.clone() }
    }

    /// One line of exactly [`RECORD_BYTES`], spaces at its end. Texts are cut to what
    /// fits, the hint first of all, and reduced to plain characters.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut plain = Self {
            schema: SCHEMA,
            lock: plain(&self.lock, LOCK_MAX),
            operation: plain(&self.operation, WORD_MAX),
            id: plain(&self.id, WORD_MAX),
            boot_id: plain(&self.boot_id, BOOT_MAX),
            version: plain(&self.version, WORD_MAX),
            phase: plain(&self.phase, WORD_MAX),
            hint: plain(&self.hint, RECORD_BYTES),
            ..self.clone()
        };
        let room = RECORD_BYTES - 1 - SUM_HEAD.len() - SUM_DIGITS - SUM_TAIL.len() + 1;
        let mut json = json(&plain);
        // Where every number has all its digits, the name of the lock gives way after the hint.
        for part in [Part::Hint, Part::Lock] {
            let over = json.len().saturating_sub(room);
            let text = match part {
                Part::Hint => &mut plain.hint,
                Part::Lock => &mut plain.lock,
            };
            text.truncate(text.len().saturating_sub(over));
            json = self::json(&plain);
        }
        let sum = sum(&json);
        let body = &json[..json.len() - 1];
        let line = format!("{body}{SUM_HEAD}{sum}{SUM_TAIL}");
        let mut bytes = [b' '; RECORD_BYTES];
        bytes[..line.len()].copy_from_slice(line.as_bytes());
        bytes[RECORD_BYTES - 1] = b'\n';
        bytes
    }

    /// Reads what is in a lock's file.
    pub fn parse(bytes: &[u8]) -> Found {
        if bytes.is_empty() {
            return Found::Nothing;
        }
        let read = || {
            let line = std::str::from_utf8(bytes).ok()?.trim_end();
            let (body, sum_found) = line.strip_suffix(SUM_TAIL)?.rsplit_once(SUM_HEAD)?;
            let json = format!("{body}}}");
            if sum(&json) != sum_found {
                return None;
            }
            let record: Self = serde_json::from_str(&json).ok()?;
            (record.schema == SCHEMA).then(|| Box::new(record))
        };
        read().map_or(Found::Unreadable, Found::Record)
    }
}

/// What is cut where there is too much.
enum Part {
    Hint,
    Lock,
}

fn json(record: &Record) -> String {
    serde_json::to_string(record).expect("numbers and texts are always JSON")
}

fn sum(json: &str) -> String {
    blake3::hash(json.as_bytes()).to_hex()[..SUM_DIGITS].to_owned()
}

/// Characters that JSON writes as they are, one byte each.
fn plain(text: &str, longest: usize) -> String {
    let fits = |c: char| (c.is_ascii_graphic() || c == ' ') && c != '"' && c != '\\';
    text.chars().take(longest).map(|c| if fits(c) { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Record {
        let who = Identity {
            pid: 812,
            start_ticks: 98_765,
            boot_id: "0f3f2a9e-52f4-4bb8-93a1-6f3d9b1c7e55".to_owned(),
        };
        let mut record = Record::new("workload web", &who);
        record.operation = "deploy".to_owned();
        record.phase = "creating".to_owned();
        record.deadline_ms = Some(300_000);
        record
    }

    #[test]
    fn a_record_has_the_form_written_down() {
        let bytes = sample().encode();
        let text = std::str::from_utf8(&bytes).expect("text").trim_end();
        let head = "{\"schema\":1,\"lock\":\"workload web\",\"operation\":\"deploy\",\"id\":\"\",\
                    \"generation\":0,\"role\":\"daemon\",\"pid\":812,\"start_ticks\":98765,\
                    \"boot_id\":\"0f3f2a9e-52f4-4bb8-93a1-6f3d9b1c7e55\",\"uid\":0,\"version\":\"\",\
                    \"wall_ms\":0,\"since_ms\":0,\"phase\":\"creating\",\"phase_ms\":0,\
                    \"deadline_ms\":300000,\"hint\":\"\",\"sum\":\"";
        assert!(text.starts_with(head), "{text}");
        assert_eq!(Record::parse(&bytes), Found::Record(Box::new(sample())));
    }

    #[test]
    fn record_torn_empty_garbage() {
        let whole = sample().encode();
        assert_eq!(Record::parse(b""), Found::Nothing);
        assert_eq!(Record::parse(b"\xff{\"pid\":1"), Found::Unreadable);
        assert_eq!(Record::parse(b"{}"), Found::Unreadable);
        let end = whole.iter().rposition(|&byte| byte == b'}').expect("an end");
        for cut in 1..end {
            assert_eq!(Record::parse(&whole[..cut]), Found::Unreadable, "cut at {cut}");
        }
        for at in 0..=end {
            let mut torn = whole;
            torn[at] ^= 1;
            assert_eq!(Record::parse(&torn), Found::Unreadable, "changed at {at}");
        }
        // Half of one record over another.
        let mut other = sample();
        other.phase = "stopping".to_owned();
        let mut mixed = other.encode();
        mixed[..260].copy_from_slice(&whole[..260]);
        assert!(mixed != whole);
        assert_eq!(Record::parse(&mixed), Found::Unreadable);
    }

    proptest! {
        #[test]
        fn any_record_fits_and_reads_back(
            lock in ".{0,300}", operation in ".{0,60}", phase in ".{0,60}", hint in ".{0,900}",
            numbers in any::<(u64, u64, u64, u64, u32, u32, i64)>(),
        ) {
            let (start_ticks, since_ms, phase_ms, deadline, pid, uid, wall_ms) = numbers;
            let who = Identity { pid, start_ticks, boot_id: "b".repeat(80) };
            let mut record = Record::new(&lock, &who);
            record.operation = operation;
            record.id = "i".repeat(80);
            record.version = "v".repeat(80);
            record.generation = u64::MAX;
            record.uid = uid;
            record.wall_ms = wall_ms;
            record.since_ms = since_ms;
            record.phase = phase;
            record.phase_ms = phase_ms;
            record.deadline_ms = Some(deadline);
            record.hint = hint;
            let bytes = record.encode();
            let Found::Record(read) = Record::parse(&bytes) else {
                return Err(TestCaseError::fail("does not read back"));
            };
            prop_assert_eq!(read.encode(), bytes);
            prop_assert_eq!((read.pid, read.start_ticks, read.since_ms), (pid, start_ticks, since_ms));
        }
    }
}
