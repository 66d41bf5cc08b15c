//! Many random operations against a model: the kernel's tables and the disk always agree with it.

use std::collections::BTreeMap;

use belay_volumes::{ByteSize, FileSystem, VolumeSpec};

use crate::scratch::{Scratch, spec};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Mounted,
    Released,
}

/// A small generator is enough here, and its seed makes a failure repeatable (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn after_many_cycles_the_kernels_tables_equal_the_model() {
    let full = std::env::var("BELAY_TEST_COUNTS").is_ok_and(|counts| counts == "full");
    let cycles = from_environment("BELAY_VOLUMES_CYCLES", if full { 10_000 } else { 200 });
    let seed = from_environment("BELAY_VOLUMES_SEED", u64::from(std::process::id()));
    let mut random = Random(seed);
    let scratch = Scratch::new();
    let mut volumes = scratch.open().await;
    let mut model: BTreeMap<String, (State, u64)> = BTreeMap::new();
    for cycle in 0..cycles {
        let context = format!("cycle {cycle} of seed {seed}: {model:?}");
        let id = format!("w{}/v{}", random.below(2), random.below(3));
        let known = model.get(&id).copied();
        let volume_id = id.parse().expect("an id");
        match random.below(12) {
            0..=5 => {
                let mib = known.map_or(8, |(_, mib)| mib);
                let wanted: VolumeSpec = spec(&id, ByteSize::mib(mib));
                volumes.ensure(&wanted).await.expect(&context);
                model.insert(id, (State::Mounted, mib));
            }
            6..=8 => {
                volumes.release(&volume_id).await.expect(&context);
                if let Some((_, mib)) = known {
                    model.insert(id, (State::Released, mib));
                }
            }
            9 => {
                let removed = volumes.remove(&volume_id).await;
                match known {
                    Some((State::Mounted, _)) => {
                        removed.expect_err(&context);
                    }
                    Some((State::Released, _)) | None => {
                        removed.expect(&context);
                        model.remove(&id);
                    }
                }
            }
            10 => {
                let wanted =
                    VolumeSpec { file_system: FileSystem::Btrfs, ..spec(&id, ByteSize::mib(7)) };
                volumes.ensure(&wanted).await.expect_err("a spec that cannot be");
            }
            _ => {
                drop(volumes);
                volumes = scratch.open().await;
                let mut adopted: Vec<_> =
                    volumes.recovered().mounted.iter().map(ToString::to_string).collect();
                adopted.sort();
                let mounted: Vec<_> = in_state(&model, State::Mounted).collect();
                assert_eq!(adopted, mounted, "{context}");
            }
        }
        let mounted = in_state(&model, State::Mounted).count();
        assert_eq!(scratch.mounts().len(), mounted, "mounts, {context}");
        assert_eq!(scratch.devices().len(), mounted, "devices, {context}");
        let listed: Vec<_> = volumes
            .list()
            .await
            .expect(&context)
            .into_iter()
            .map(|volume| (volume.id.to_string(), volume.mounted.is_some()))
            .collect();
        let expected: Vec<_> =
            model.iter().map(|(id, (state, _))| (id.clone(), *state == State::Mounted)).collect();
        assert_eq!(listed, expected, "{context}");
    }
    for id in model.keys() {
        volumes.release(&id.parse().expect("an id")).await.expect("released");
    }
    scratch.assert_nothing_held();
}

fn in_state(model: &BTreeMap<String, (State, u64)>, wanted: State) -> impl Iterator<Item = String> {
    model.iter().filter(move |(_, (state, _))| *state == wanted).map(|(id, _)| id.clone())
}
