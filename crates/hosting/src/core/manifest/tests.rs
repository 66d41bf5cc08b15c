use std::path::Path;

use belay_lifecycle::core::spec::parse;

use super::*;

fn spec(more: &str) -> WorkloadSpec {
    let text = format!(
        "name = \"work\"\nimage = \"file:a.tar\"\ncommand = [\"/a\"]\n{more}\n[limits]\n\
         memory = \"64M\"\n[runner]\n"
    );
    parse(&text, "work.toml", Path::new("/etc")).expect("a good spec")
}

fn versions(criu: &str) -> Versions {
    Versions {
        engine: "podman".into(),
        engine_version: "4.3.1".into(),
        runtime: "runc".into(),
        criu: Some(criu.into()),
        kernel: "6.18".into(),
    }
}

fn processor(flags: &str) -> Processor {
    Processor::read("x86_64", &format!("processor\t: 0\nflags\t\t: fpu {flags}\nbugs : x\n"))
}

pub(in crate::core) fn manifest() -> Manifest {
    Manifest {
        travel: TravelId::after(None, 1, 2),
        from: "a".parse().expect("a name"),
        to: "b".parse().expect("a name"),
        runner: "run-1".parse().expect("a name"),
        workload: "work".parse().expect("a name"),
        run: RunId::after(None, 1, 2),
        url: "ws://10.88.0.1:7000".into(),
        made_of: MadeOf::of("sha256:1", &[], &spec("")),
        taken_at: Timestamp::UNIX_EPOCH,
        bytes: 5,
        digest: "d".into(),
        versions: versions("4.2.1"),
        processor: processor("avx2 sse4_2"),
    }
}

fn here() -> Here {
    Here {
        node: "b".parse().expect("a name"),
        versions: versions("4.2.1"),
        processor: processor("avx2 avx512f sse4_2"),
        made_of: Some(MadeOf::of("sha256:1", &[], &spec(""))),
    }
}

fn says(manifest: &Manifest, here: &Here) -> String {
    fits(manifest, here).expect_err("it does not fit").to_string()
}

#[test]
fn the_node_that_it_is_for_takes_it_with_what_it_was_made_of() {
    assert_eq!(fits(&manifest(), &here()), Ok(()));
    let newer = Here { versions: versions("4.3"), ..here() };
    assert_eq!(fits(&manifest(), &newer), Ok(()));
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let other = Here { node: "c".parse().expect("a name"), ..here() };
    assert_eq!(says(&manifest(), &other), "it was exported for b, and this node is c");
    let none = Here { made_of: None, ..here() };
    assert_eq!(says(&manifest(), &none), "no workload work takes runs");
    let image = Here { made_of: Some(MadeOf::of("sha256:2", &[], &spec(""))), ..here() };
    assert_eq!(
        says(&manifest(), &image),
        "work is of another image here: it is sha256:2, and the runner was made of sha256:1"
    );
    let user = Here { made_of: Some(MadeOf::of("sha256:1", &[], &spec("user = \"7\""))), ..here() };
    assert_eq!(
        says(&manifest(), &user),
        "work has user = \"7\" here, and the runner was made with null"
    );
    let processor = |processor| Here { processor, ..here() };
    let arm = Processor { architecture: "aarch64".into(), features: BTreeSet::new() };
    assert_eq!(
        says(&manifest(), &processor(arm)),
        "it was taken on x86_64, and this host is aarch64"
    );
    assert_eq!(
        says(&manifest(), &processor(super::tests::processor("sse4_2"))),
        "the processor here lacks what the one it ran on has: avx2"
    );
    let older = Here { versions: versions("4.1"), ..here() };
    assert_eq!(
        says(&manifest(), &older),
        "it was taken by CRIU 4.2.1, and this host has 4.1 now; install 4.2.1 or later"
    );
}

#[test]
fn an_image_of_the_same_bytes_is_the_same_whatever_the_engine_calls_it() {
    let of = |id: &str, tag: &str| MadeOf::of(id, &[tag.to_owned()], &spec(""));
    let made =
        Manifest { made_of: of("sha256:1", "localhost/belay/a:0123456789abcdef"), ..manifest() };
    let with = |made_of| Here { made_of: Some(made_of), ..here() };
    assert_eq!(fits(&made, &with(of("sha256:2", "localhost/belay/b:0123456789abcdef"))), Ok(()));
    says(&made, &with(of("sha256:2", "localhost/belay/a:fedcba9876543210")));
    says(&made, &with(of("sha256:2", "docker.io/a:0123456789abcdef")));
}

#[test]
fn what_a_processor_can_is_read_without_what_no_program_uses() {
    let found = processor("avx2 xsave hypervisor tsc_adjust");
    let words: Vec<&str> = found.features.iter().map(String::as_str).collect();
    assert_eq!(words, ["avx2", "xsave"]);
    assert!(
        !Processor::read("x86_64", &std::fs::read_to_string("/proc/cpuinfo").expect("reads"))
            .architecture
            .is_empty()
    );
}
