//! The network's side of probes, against sockets of this test.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const LIMIT: Duration = Duration::from_millis(500);

/// What a server does with each connection.
#[derive(Debug, Clone, Copy)]
enum Server {
    /// Answers with this.
    Says(&'static str),
    /// Answers nothing and keeps the connection.
    Hangs,
    /// Ends the connection with a reset.
    Resets,
}

/// Serves and returns its address, with what the last request said.
async fn serve(
    server: Server,
) -> (SocketAddr, Arc<std::sync::Mutex<String>>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let heard = Arc::new(std::sync::Mutex::new(String::new()));
    let said = Arc::clone(&heard);
    let task = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut buffer = [0; 2048];
            match server {
                Server::Says(answer) => {
                    let length = socket.read(&mut buffer).await.unwrap_or(0);
                    *said.lock().expect("nobody panics with it") =
                        String::from_utf8_lossy(&buffer[..length]).into_owned();
                    let _ = socket.write_all(answer.as_bytes()).await;
                }
                Server::Hangs => kept.push(socket),
                Server::Resets => {
                    let _ = socket.read(&mut buffer).await;
                    // With bytes unread or a linger of 0 the kernel resets instead of closing.
                    let _ = socket.set_zero_linger();
                }
            }
        }
    });
    (address, heard, task)
}

fn http(path: &str) -> HttpProbe {
    HttpProbe {
        port: 80,
        path: path.to_owned(),
        status: 200..=399,
        host: None,
        headers: BTreeMap::new(),
    }
}

async fn ask_within(address: SocketAddr, http: &HttpProbe) -> Observation {
    let client = client();
    let asked = tokio::time::timeout(LIMIT, ask_http(&client, address, http));
    asked.await.unwrap_or_else(|_| no_answer(LIMIT))
}

#[tokio::test]
async fn a_status_is_good_within_its_range_and_definite_outside() {
    let table = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Class::Good, "HTTP 200"),
        ("HTTP/1.1 302 Found\r\nlocation: http://192.0.2.1/\r\n\r\n", Class::Good, "HTTP 302"),
        ("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", Class::Failing, "HTTP 503"),
        ("HTTP/1.1 401 Who\r\ncontent-length: 0\r\n\r\n", Class::Failing, "HTTP 401"),
    ];
    for (answer, class, seen) in table {
        let (address, _, server) = serve(Server::Says(answer)).await;
        assert_eq!(ask_within(address, &http("/")).await, Observation::new(class, seen));
        let only_401 = HttpProbe { status: 401..=401, ..http("/") };
        let expected = if seen == "HTTP 401" { Class::Good } else { Class::Failing };
        assert_eq!(ask_within(address, &only_401).await.class, expected, "{seen}");
        server.abort();
    }
}

#[tokio::test]
async fn headers_and_host_are_sent() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let (address, heard, server) = serve(Server::Says(answer)).await;
    let headers = BTreeMap::from([("X-Probe".to_owned(), "belay".to_owned())]);
    let probe = HttpProbe { host: Some("example.org".into()), headers, ..http("/up?full=1") };
    assert_eq!(ask_within(address, &probe).await.class, Class::Good);
    let request = heard.lock().expect("nobody panics with it").to_lowercase();
    assert!(request.starts_with("get /up?full=1 http/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nhost: example.org\r\n"), "{request}");
    assert!(request.contains("\r\nx-probe: belay\r\n"), "{request}");
    assert_eq!(request.matches("\r\nhost:").count(), 1, "{request}");
    server.abort();
}

#[tokio::test]
async fn refused_and_reset_are_definite_and_silence_is_not() {
    let (address, _, server) = serve(Server::Hangs).await;
    let seen = ask_within(address, &http("/")).await;
    assert_eq!(seen, Observation::new(Class::Inconclusive, "no answer within 0.5 s"));
    assert_eq!(ask_tcp(address).await.class, Class::Good, "it accepts");
    server.abort();
    let _ = server.await;

    let expected = Observation::new(Class::Failing, format!("{address} refuses"));
    assert_eq!(ask_within(address, &http("/")).await, expected);
    assert_eq!(ask_tcp(address).await, expected);

    let (address, _, server) = serve(Server::Resets).await;
    let seen = ask_within(address, &http("/")).await;
    assert_eq!(seen.class, Class::Failing, "{seen:?}");
    server.abort();

    let (address, _, server) = serve(Server::Says("220 not a web server\r\n")).await;
    assert_eq!(ask_within(address, &http("/")).await.class, Class::Inconclusive);
    server.abort();
}

#[test]
fn want_of_something_of_our_own_says_nothing_about_the_workload() {
    let address = "127.0.0.1:1".parse().expect("an address");
    for kind in [
        io::ErrorKind::AddrNotAvailable,
        io::ErrorKind::TimedOut,
        io::ErrorKind::HostUnreachable,
        io::ErrorKind::Other,
    ] {
        let seen = transport(address, kind, || "words".to_owned());
        assert_eq!(seen, Observation::new(Class::Inconclusive, "words"), "{kind:?}");
    }
}

#[test]
fn what_a_command_says_is_cut_to_a_line_without_control_characters() {
    assert_eq!(first_line(b"\n  \x1b[31mdown\x07  \nmore"), Some("[31mdown".to_owned()));
    assert_eq!(first_line(&[b'x'; 500]).map(|line| line.len()), Some(SHOWN));
    assert_eq!(first_line(b"\n\n"), None);
}
