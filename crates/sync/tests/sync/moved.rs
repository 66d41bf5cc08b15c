//! How many bytes a change moves: into the store, and out of it to a consumer that has the state
//! before. Each bar is what was measured when it was set, and 5 hundredths more.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use belay_protocol::SyncRole;
use belay_sync::SyncSpec;

use crate::commands::{applied, publish};
use crate::content::{noise, overwrite};
use crate::faulty::Faulty;
use crate::scene::{Place, VOLUMES, spec, start_on, trees};
use crate::stored;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const PAGE: u64 = 4 * KIB;

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Lines that compress to a third or so.
fn lines(seed: u64, length: u64) -> Vec<u8> {
    let (mut dice, mut text) = (Dice(seed * 2 + 1), String::new());
    while (text.len() as u64) < length {
        let (time, roll) = (text.len(), dice.roll());
        writeln!(text, "{time:012} request {:x} took {} ms", roll % 65_536, roll % 997)
            .expect("memory");
    }
    text.truncate(usize::try_from(length).expect("it is small"));
    text.into_bytes()
}

/// Gives everything in a directory a time that is the same in every run, since the list of a tree is cut
/// by what stands in it.
fn date(dir: &Path, seconds: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000 + seconds);
    for entry in fs::read_dir(dir).expect("lists") {
        let path = entry.expect("lists").path();
        if path.is_dir() {
            date(&path, 0);
        }
        let is_old = fs::metadata(&path).expect("exists").modified().expect("a time") <= time;
        if !is_old {
            fs::File::open(&path).expect("opens").set_modified(time).expect("sets a time");
        }
    }
    fs::File::open(dir).expect("opens").set_modified(time).expect("sets a time");
}

/// A kind of change, what it does to the files, and what it moved into the store and out of it.
struct Row {
    name: &'static str,
    change: fn(&Path),
    stored: u64,
    fetched: u64,
}

const ROWS: &[Row] = &[
    Row {
        name: "1 MiB of what does not compress",
        change: |data| overwrite(&data.join("random"), 7 * MIB + 123, &noise(70, MIB)),
        stored: 1_084_199,
        fetched: 1_083_414,
    },
    Row {
        name: "1 MiB of pages",
        change: |data| overwrite(&data.join("pages"), 3 * MIB + 123, &noise(71, MIB)),
        stored: 1_087_688,
        fetched: 1_087_063,
    },
    Row {
        name: "256 scattered pages of 32 MiB",
        change: |data| {
            let mut dice = Dice(4_711);
            for page in 0..256 {
                let at = dice.roll() % (32 * MIB / PAGE) * PAGE;
                overwrite(&data.join("random"), at, &noise(1_000 + page, PAGE));
            }
        },
        stored: 1_101_284,
        fetched: 1_093_419,
    },
    Row {
        name: "1,000 scattered rows",
        change: |data| {
            let mut dice = Dice(815);
            for row in 0..1_000 {
                let at = dice.roll() % (16 * MIB / PAGE) * PAGE + 100;
                overwrite(&data.join("pages"), at, &noise(2_000 + row, 24));
            }
        },
        stored: 71_413,
        fetched: 63_108,
    },
    Row {
        name: "100 adjacent rows",
        change: |data| {
            for row in 0..100 {
                overwrite(&data.join("pages"), 9 * MIB + row * 110, &noise(4_000 + row, 24));
            }
        },
        stored: 35_099,
        fetched: 34_954,
    },
    Row {
        name: "a log that loses 1 KiB at its head and gets 1 KiB more",
        change: |data| {
            let mut log = fs::read(data.join("log")).expect("reads");
            log.drain(..1_024);
            log.extend(lines(5_000, KIB));
            fs::write(data.join("log"), log).expect("writes");
        },
        stored: 17_855,
        fetched: 17_710,
    },
    Row { name: "nothing but times", change: |_| {}, stored: 0, fetched: 0 },
];

#[tokio::test]
async fn a_change_moves_no_more_bytes_than_it_did() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let provider = Place::new(&temp.path().join("provider"), &VOLUMES);
    let consumer = Place::new(&temp.path().join("consumer"), &VOLUMES);
    fs::create_dir(provider.data("app").join("data")).expect("creates");
    let data = provider.data("data");
    let file = |name: &str| data.join(name);
    fs::write(file("random"), noise(1, 32 * MIB)).expect("writes");
    let pages = (0..16 * MIB / PAGE).flat_map(|page| {
        let rows = lines(page + 1, PAGE - 1_024);
        rows.into_iter().chain(noise(page, 1_024))
    });
    fs::write(file("pages"), pages.collect::<Vec<u8>>()).expect("writes");
    fs::write(file("log"), lines(3, 4 * MIB)).expect("writes");
    fs::create_dir(file("small")).expect("creates");
    for number in 0..1_000 {
        fs::write(file(&format!("small/{number}")), lines(number, 300)).expect("writes");
    }
    date(&data, 0);
    date(&provider.data("app"), 0);
    let store_path = temp.path().join("store");
    // Nothing is deleted while it is counted.
    let spec = |role| SyncSpec { keep_generations: 100, ..spec(role) };
    let store = Faulty::open(&store_path);
    let publishing = start_on(&provider, &VOLUMES, store.clone(), spec(SyncRole::Provider));
    let reading = Faulty::open(&store_path);
    let consuming = start_on(&consumer, &VOLUMES, reading.clone(), spec(SyncRole::Consumer));
    applied(&consuming, publish(&publishing).await.expect("publishes")).await;

    let fetched = || reading.with(|faults| faults.fetched);
    let mut missed = String::new();
    for (row, seconds) in ROWS.iter().zip(1..) {
        let Row { name, change, stored: most_stored, fetched: most_fetched } = row;
        let before = (stored::bytes(&store_path).await, fetched());
        change(&data);
        date(&data, seconds);
        let cid = publish(&publishing).await.expect("publishes");
        applied(&consuming, cid).await;
        let (put, got) = (stored::bytes(&store_path).await - before.0, fetched() - before.1);
        // Times alone are no other content, and nothing is published for them.
        assert!(put == 0 || trees(&consumer) == trees(&provider), "{name}: the trees differ");
        for (what, bytes, most) in [("stored", put, *most_stored), ("fetched", got, *most_fetched)]
        {
            if bytes > most + most / 20 {
                writeln!(missed, "{name}: {bytes} bytes {what}, {most} before").expect("memory");
            }
        }
    }
    assert!(missed.is_empty(), "\n{missed}");
    consuming.stop().await;
    publishing.stop().await;
}
