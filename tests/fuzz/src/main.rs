//! One target under libFuzzer, which brings the entry point and reads the command line. What it does
//! not know is said by the environment, since it starts this program anew with arguments of its own:
//! `BELAY_FUZZ_TARGET` names the target, and `BELAY_FUZZ_SEEDS` a folder that gets its seeds.
#![no_main]

use std::env;
use std::path::Path;
use std::sync::LazyLock;

use belay_fuzz::Target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = env::var("BELAY_FUZZ_TARGET").expect("BELAY_FUZZ_TARGET names a target");
    Target::find(&name).expect("BELAY_FUZZ_TARGET names a target")
});

libfuzzer_sys::fuzz_target!(
    init: {
        if let Some(folder) = env::var_os("BELAY_FUZZ_SEEDS") {
            TARGET.write_seeds(Path::new(&folder)).expect("BELAY_FUZZ_SEEDS names a folder");
        }
    },
    |bytes: &[u8]| {
        (TARGET.run)(bytes);
    }
);
