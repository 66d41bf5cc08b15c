use super::*;

/// Answers as captured from Podman 4.3.1, with ids shortened.
const PODMAN: &[(u16, &str, Fault)] = &[
    (404, "no container with name or ID \"web\" found: no such container", Fault::Absent),
    (
        404,
        "failed to find image localhost/belay/none:x: localhost/belay/none:x: No such image",
        Fault::Absent,
    ),
    (404, "no such image: localhost/belay/none:x: image not known", Fault::Absent),
    (404, "no exec session with ID abc found: no such exec session", Fault::Absent),
    (
        500,
        "container create: unable to find network with name or ID nosuch: network not found",
        Fault::Absent,
    ),
    (404, "Not Found\n", Fault::Unsupported),
    (
        500,
        "container create: creating container storage: the container name \"web\" is already in use by \
         5d02f509. You have to remove that container to be able to reuse that name: that name is already in use",
        Fault::Conflict,
    ),
    (
        409,
        "renaming container d919: name web already in use, cannot rename container d919: container already exists",
        Fault::Conflict,
    ),
    (
        500,
        "cannot remove container 7889 as it is running - running or paused containers cannot be removed \
         without force: container state improper",
        Fault::Conflict,
    ),
    (
        500,
        "can only kill running containers. 7889 is in state exited: container state improper",
        Fault::Conflict,
    ),
    (500, "\"7889\" is already paused: container state improper", Fault::Conflict),
    (500, "\"7889\" is not paused, can't unpause: container state improper", Fault::Conflict),
    (
        500,
        "can only create exec sessions on running containers: container state improper",
        Fault::Conflict,
    ),
    (409, "cannot create exec session as container 7889 is paused", Fault::Conflict),
    (
        500,
        "cannot listen on the TCP port: listen tcp4 127.0.0.1:18099: bind: address already in use",
        Fault::Busy,
    ),
    (500, "invalid signal: NOPE", Fault::Invalid),
    (500, "container create: \"CAP_NOPE\": unknown capability", Fault::Invalid),
    (
        500,
        "container create: running container create option: names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*: \
         invalid argument",
        Fault::Invalid,
    ),
    (
        500,
        "container create: no command or entrypoint provided, and no CMD or ENTRYPOINT from image",
        Fault::Invalid,
    ),
    (
        500,
        "runc: runc create failed: unable to start container process: exec: \"/bin/nope\": stat /bin/nope: \
         no such file or directory: OCI runtime attempted to invoke a command that was not found",
        Fault::Invalid,
    ),
    (500, "unable to find user nobody: no matching entries in passwd file", Fault::Invalid),
    (
        500,
        "container create: container-init binary not found on the host: stat \
         /usr/libexec/podman/catatonit: no such file or directory",
        Fault::Invalid,
    ),
    (
        500,
        "normalizing image: normalizing name for compat API: invalid reference format",
        Fault::Invalid,
    ),
    (500, "decode(): unexpected EOF", Fault::Unknown),
];

/// Answers as captured from Docker Engine 20.10.24, with ids shortened.
const DOCKER: &[(u16, &str, Fault)] = &[
    (404, "No such container: web", Fault::Absent),
    (404, "no such image: none:x: No such image: none:x", Fault::Absent),
    (404, "No such exec instance: abc", Fault::Absent),
    (404, "network nosuch not found", Fault::Absent),
    (404, "page not found", Fault::Unsupported),
    (
        409,
        "Conflict. The container name \"/web\" is already in use by container \"58f7\". You have to \
         remove (or rename) that container to be able to reuse that name.",
        Fault::Conflict,
    ),
    (
        409,
        "Error when allocating new name: Conflict. The container name \"/web\" is already in use by \
         container \"58f7\".",
        Fault::Conflict,
    ),
    (
        409,
        "You cannot remove a running container 7889. Stop the container before attempting removal or \
         force remove",
        Fault::Conflict,
    ),
    (409, "Container 7889 is not running", Fault::Conflict),
    (409, "Container 7889 is already paused", Fault::Conflict),
    (500, "Container 7889 is not paused", Fault::Conflict),
    (409, "Container web is paused, unpause the container before exec", Fault::Conflict),
    (400, "invalid CapAdd: unknown capability: \"CAP_NOPE\"", Fault::Invalid),
    (400, "Invalid signal: NOPE", Fault::Invalid),
    (400, "No command specified", Fault::Invalid),
    (400, "invalid reference format: repository name must be lowercase", Fault::Invalid),
    (
        400,
        "invalid mount config for type \"bind\": bind source path does not exist: /nope/x",
        Fault::Invalid,
    ),
    (
        400,
        "failed to create shim task: OCI runtime create failed: runc create failed: unable to start \
         container process: exec: \"/bin/nope\": stat /bin/nope: no such file or directory: unknown",
        Fault::Invalid,
    ),
    (500, "unable to find user nobody: no matching entries in passwd file", Fault::Invalid),
    (501, "This experimental feature is disabled by default.", Fault::Unsupported),
    (
        500,
        "Get \"http://localhost:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
        Fault::Unknown,
    ),
    (500, "unexpected EOF", Fault::Unknown),
];

/// Answers that could not be provoked, as the engines' sources have them.
const FROM_SOURCE: &[(u16, &str, Fault)] = &[
    (409, "removal of container web is already in progress", Fault::Busy),
    (
        500,
        "driver failed programming external connectivity on endpoint web: Bind for 127.0.0.1:18099 failed: \
         port is already allocated",
        Fault::Busy,
    ),
    (401, "unauthorized: incorrect username or password", Fault::Denied),
    (503, "", Fault::Unknown),
];

#[test]
fn each_answer_of_an_engine_has_its_kind() {
    for (status, message, expected) in PODMAN.iter().chain(DOCKER).chain(FROM_SOURCE) {
        assert_eq!(classify(*status, message), *expected, "{status}: {message}");
    }
}

#[test]
fn words_in_a_stream_have_a_kind_too() {
    for (message, expected) in [
        (
            "initializing source docker://127.0.0.1:1/none:x: pinging container registry 127.0.0.1:1: Get \
             \"https://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
            Fault::Unknown,
        ),
        ("reading manifest x in registry/none: manifest unknown: manifest unknown", Fault::Absent),
        (
            "pull access denied for none, repository does not exist or may require 'docker login'",
            Fault::Absent,
        ),
        (
            "unable to retrieve auth token: invalid username/password: unauthorized: no",
            Fault::Denied,
        ),
        ("writing blob: no space left on device", Fault::Unknown),
    ] {
        assert_eq!(classify_words(message), expected, "{message}");
    }
}
