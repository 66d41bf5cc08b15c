//! Many runners in one process.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use belay_protocol::runner::SUBPROTOCOL;
use belay_runner_client::{Endpoint, Run, RunnerConfig, serve};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

type Socket = WebSocketStream<TcpStream>;

/// Handshakes that are under way at a time.
const AT_ONCE: usize = 64;

/// Times that may wait to be looked at; more than are taken in one measurement.
const ANSWERS: usize = 65_536;

/// What a connection is asked to do: to say something, at this moment.
type Due = Instant;

pub(super) async fn run(address: &str) -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut connections = Vec::new();
    let (took, mut latencies) = mpsc::channel(ANSWERS);
    let mut working = JoinSet::new();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["echo", number] => {
                let tokens = vec![String::new(); number.parse()?];
                connections = connect_all(address, Kind::Echo, tokens, &took).await?;
                println!("connected");
            }
            ["ready"] => {
                let tokens = to_blank(&mut lines).await?;
                connections = connect_all(address, Kind::Ready, tokens, &took).await?;
                println!("connected");
            }
            ["suspend"] => {
                let tokens = to_blank(&mut lines).await?;
                connections = connect_all(address, Kind::Suspended, tokens, &took).await?;
                println!("connected");
            }
            ["work"] => {
                let endpoint: Endpoint = format!("ws://{address}").parse()?;
                for token in to_blank(&mut lines).await? {
                    let config = RunnerConfig { endpoint: endpoint.clone(), token: token.parse()? };
                    working.spawn(serve(config, async |run: &mut Run| Ok(run.payload().clone())));
                }
                println!("connected");
            }
            ["rate", rate, seconds] => {
                let (rate, seconds): (u32, u32) = (rate.parse()?, seconds.parse()?);
                let pause = Duration::from_secs(1) / rate;
                let began = Instant::now();
                for number in 0..rate * seconds {
                    let due = began + pause * number;
                    tokio::time::sleep_until(due.into()).await;
                    let index = usize::try_from(number)? % connections.len();
                    let asked: &mpsc::Sender<Due> = &connections[index];
                    asked.send(due).await.context("a connection has ended")?;
                }
                let mut all = Vec::new();
                for _ in 0..rate * seconds {
                    all.push(latencies.recv().await.context("a connection has ended")?);
                }
                all.sort();
                let at = |share: usize| {
                    let time: Duration = all[(all.len() - 1) * share / 1000];
                    time.as_secs_f64() * 1000.0
                };
                println!("latency {} {} {}", at(500), at(990), at(1000));
            }
            _ => bail!("the clients know no {line:?}"),
        }
    }
    Ok(())
}

async fn to_blank(lines: &mut Lines<BufReader<Stdin>>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    while let Some(line) = lines.next_line().await? {
        if line.is_empty() {
            return Ok(found);
        }
        found.push(line);
    }
    bail!("the list has no end")
}

#[derive(Clone, Copy)]
enum Kind {
    Echo,
    Ready,
    Suspended,
}

async fn connect_all(
    address: &str,
    kind: Kind,
    tokens: Vec<String>,
    took: &mpsc::Sender<Duration>,
) -> Result<Vec<mpsc::Sender<Due>>> {
    let mut open = Vec::new();
    let mut connecting = JoinSet::new();
    for token in tokens {
        while connecting.len() >= AT_ONCE {
            open.push(connecting.join_next().await.context("one is under way")???);
        }
        let (address, took) = (address.to_owned(), took.clone());
        connecting.spawn(async move { connect(&address, kind, &token, took).await });
    }
    while let Some(connected) = connecting.join_next().await {
        open.push(connected??);
    }
    Ok(open)
}

async fn connect(
    address: &str,
    kind: Kind,
    token: &str,
    took: mpsc::Sender<Duration>,
) -> Result<mpsc::Sender<Due>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut request = format!("ws://{address}/v1/runners/connect").into_client_request()?;
    request.headers_mut().insert("sec-websocket-protocol", SUBPROTOCOL.parse()?);
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
    let small = WebSocketConfig::default().read_buffer_size(1024).write_buffer_size(0);
    let (mut socket, _) = client_async_with_config(request, stream, Some(small)).await?;
    match kind {
        Kind::Echo => {}
        Kind::Ready => {
            expect(&mut socket, "welcome").await?;
            send(&mut socket, json!({"id": 1, "type": "ready"})).await?;
            expect(&mut socket, "ok").await?;
        }
        Kind::Suspended => suspend(&mut socket).await?,
    }
    let (ask, asked) = mpsc::channel(8);
    tokio::spawn(talk(socket, asked, took));
    Ok(ask)
}

/// Starts the run that is bound to the runner, and waits in it for long.
async fn suspend(socket: &mut Socket) -> Result<()> {
    expect(socket, "welcome").await?;
    let state = expect(socket, "state").await?;
    let reference = json!({"run": state["body"]["run"], "epoch": state["body"]["epoch"]});
    send(socket, json!({"id": 1, "type": "start", "body": reference})).await?;
    expect(socket, "ok").await?;
    let mut body = reference;
    body["wait"] = json!({"on": "timer", "until": "2096-01-01T00:00:00Z"});
    send(socket, json!({"id": 2, "type": "suspend", "body": body})).await?;
    let answer = expect(socket, "ok").await?;
    if answer["body"]["snapshot"]["plan"] != "armed" {
        bail!("no snapshot is armed: {answer}");
    }
    Ok(())
}

async fn send(socket: &mut Socket, frame: Value) -> Result<()> {
    Ok(socket.send(Message::text(frame.to_string())).await?)
}

async fn expect(socket: &mut Socket, kind: &str) -> Result<Value> {
    loop {
        match socket.next().await.context("the server has closed")?? {
            Message::Text(text) => {
                let frame: Value = serde_json::from_str(&text)?;
                if frame["type"] == kind {
                    return Ok(frame);
                }
                bail!("expected {kind}, heard {frame}");
            }
            Message::Ping(_) | Message::Pong(_) => {}
            other => bail!("expected {kind}, heard {other:?}"),
        }
    }
}

/// Says something whenever it is asked to, and tells how long the answer took, from the moment at
/// which it was to be said.
async fn talk(
    mut socket: Socket,
    mut asked: mpsc::Receiver<Due>,
    took: mpsc::Sender<Duration>,
) -> Result<()> {
    let mut waits = std::collections::VecDeque::new();
    let mut id = 10_u64;
    loop {
        tokio::select! {
            due = asked.recv() => {
                let due = due.context("the list of connections is gone")?;
                id += 1;
                waits.push_back(due);
                send(&mut socket, json!({"id": id, "type": "ready"})).await?;
            }
            message = socket.next() => match message.context("the server has closed")?? {
                Message::Text(_) => {
                    let due: Due = waits.pop_front().context("nothing was asked")?;
                    took.send(due.elapsed()).await?;
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => bail!("heard {other:?}"),
            },
        }
    }
}
