//! Commands that somebody talks to while they run.

use std::time::Duration;

use belay_engine::{
    EngineError, Session, SessionInput, SessionOutput, SessionPiece, SessionSignal, SessionSpec,
    Stdin, Terminal,
};

use crate::world::{World, eventually};

const SOON: Duration = Duration::from_secs(30);

fn command(argv: &[&str]) -> SessionSpec {
    SessionSpec {
        argv: argv.iter().map(|&text| text.to_owned()).collect(),
        env: Vec::new(),
        user: None,
        working_dir: None,
        stdin: Stdin::Open,
        terminal: None,
    }
}

async fn begin(
    world: &World,
    id: impl AsRef<str>,
    spec: &SessionSpec,
) -> (Session, SessionOutput, SessionInput) {
    let mut session = world.engine.prepare_session(id, spec).await.expect("prepared");
    let (output, input) = session.start(spec).await.expect("started");
    (session, output, input)
}

/// Reads until `words` were seen on either output, or to the end.
async fn read_until(output: &mut SessionOutput, words: &str) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let reading = async {
        while let Some(piece) = output.next().await.expect("read") {
            match piece {
                SessionPiece::Stdout(bytes) => out.extend_from_slice(&bytes),
                SessionPiece::Stderr(bytes) => err.extend_from_slice(&bytes),
            }
            let seen = |side: &[u8]| String::from_utf8_lossy(side).contains(words);
            if !words.is_empty() && (seen(&out) || seen(&err)) {
                break;
            }
        }
    };
    let in_time = tokio::time::timeout(SOON, reading).await;
    assert!(in_time.is_ok(), "{:?}", String::from_utf8_lossy(&out));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&out), text(&err))
}

async fn processes(world: &World, id: &str) -> String {
    let listed = world.engine.exec(id, &belay_engine::ExecSpec::new(["/bin/ps"])).await;
    String::from_utf8_lossy(&listed.expect("listed").stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_is_read_and_the_end_of_the_input_reaches_the_command() {
    let world = World::new().await;
    let id = world.run(&world.obedient("talk")).await;
    let (session, mut output, mut input) =
        begin(&world, &id, &command(&["/bin/sh", "-c", "cat; echo over >&2; exit 5"])).await;
    for piece in [&b"one\n"[..], b"\x00\x01\x02two\n"] {
        assert_eq!(input.write(piece).await.expect("written"), piece.len());
    }
    input.close().await.expect("closed");
    let (out, err) = read_until(&mut output, "").await;
    assert_eq!((out.as_str(), err.as_str()), ("one\n\0\u{1}\u{2}two\n", "over\n"));
    assert_eq!(session.exit_code().await.expect("ended"), 5);
    assert!(session.has_ended().await.expect("looked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_its_size_and_low_bytes_are_only_bytes() {
    let world = World::new().await;
    let id = world.run(&world.obedient("tty")).await;
    // Podman answers a resize before the terminal has its new size.
    let script = "printf '\\001\\002\\000low\n'; stty size; read line; \
                  while [ \"$(stty size)\" = '33 111' ]; do sleep 0.05; done; stty size; \
                  trap 'echo caught; exit 9' INT; echo up; while :; do sleep 0.05; done";
    let mut spec = command(&["/bin/sh", "-c", script]);
    spec.terminal = Some(Terminal { rows: 33, columns: 111 });
    let (session, mut output, mut input) = begin(&world, &id, &spec).await;
    let (out, _) = read_until(&mut output, "33 111").await;
    assert!(out.starts_with("\u{1}\u{2}\0low\r\n"), "{out:?}");
    input.write(b"go on\n").await.expect("written");
    // Podman sets the first size by itself, and may do so after one that was asked for meanwhile.
    let resized = async {
        loop {
            session.resize(Terminal { rows: 20, columns: 70 }).await.expect("resized");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let (out, _) = tokio::select! {
        read = read_until(&mut output, "up") => read,
        never = resized => never,
    };
    assert!(out.contains("20 70"), "{out:?}");
    // As a person types it.
    input.write(b"\x03").await.expect("written");
    let (out, _) = read_until(&mut output, "").await;
    assert!(out.contains("caught"), "{out:?}");
    assert_eq!(session.exit_code().await.expect("ended"), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_reaches_the_command_and_its_children() {
    let world = World::new().await;
    let id = world.run(&world.obedient("signal")).await;
    // A signal between two commands is kept by the shell until the second one ends.
    let script = "trap 'echo caught; exit 3' INT; echo up; while :; do sleep 0.05; done";
    let (mut session, mut output, _input) =
        begin(&world, &id, &command(&["/bin/sh", "-c", script])).await;
    read_until(&mut output, "up").await;
    assert!(session.signal(SessionSignal::Int).await.expect("sent"));
    let (out, _) = read_until(&mut output, "").await;
    assert_eq!(out, "caught\n");
    assert_eq!(session.exit_code().await.expect("ended"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_takes_all_that_the_command_began_and_nothing_else() {
    let world = World::new().await;
    let id = world.run(&world.obedient("end")).await;
    let script = "sleep 1001 & (sleep 1002; true) & echo up; sleep 1003";
    let (session, mut output, _input) =
        begin(&world, &id, &command(&["/bin/sh", "-c", script])).await;
    read_until(&mut output, "up").await;
    // As a later process finds it: by its id.
    let mut found = world.engine.find_session(&id, session.id()).expect("a name");
    found.end().await.expect("ended");
    let left = processes(&world, id.as_str()).await;
    assert!(!left.contains("sleep 100"), "{left}");
    let state = world.engine.inspect(&id).await.expect("looked").expect("is there").state;
    assert!(state.incarnation().is_some(), "the container runs on: {state:?}");
    eventually("the engine to know of the end", || async {
        session.has_ended().await.ok()?.then_some(())
    })
    .await;
    found.end().await.expect("what has ended is left as it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_a_container_that_does_not_run_is_a_conflict() {
    let world = World::new().await;
    let id = world.run(&world.obedient("down")).await;
    world.engine.stop(&id, Duration::ZERO).await.expect("stopped");
    let refused = world.engine.prepare_session(&id, &command(&["/bin/true"])).await;
    assert!(matches!(refused, Err(EngineError::Conflict { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_is_told_apart() {
    let world = World::new().await;
    let id = world.run(&world.obedient("absent")).await;
    let spec = command(&["/bin/no-such-program"]);
    let mut session = world.engine.prepare_session(&id, &spec).await.expect("prepared");
    match session.start(&spec).await {
        Ok((mut output, _input)) => {
            read_until(&mut output, "").await;
            let code = session.exit_code().await.expect("ended");
            assert!(code == 126 || code == 127, "{code}");
        }
        Err(error) => assert!(matches!(error, EngineError::Invalid { .. }), "{error:?}"),
    }
}
