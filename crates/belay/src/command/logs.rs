//! `belay logs`: what a workload wrote, and writes.

use belay_protocol::runner::{RunDetail, RunId, RunLogQuery};
use belay_protocol::{LogLine, LogPosition, LogQuery, LogStream, ProblemCode, WorkloadName};
use jiff::Timestamp;
use reqwest::Method;

use super::events::{AWAY, AWAY_MAX, passing};
use crate::client::{AnswerLines, Client, Document};
use crate::core::human;
use crate::core::table::{Style, Tone};
use crate::failure::Ending;
use crate::output::Output;

/// Shows a log. One that is followed goes on when belayd ends or is replaced, with the line after
/// the last that was shown, and ends when its workload is gone.
pub(crate) async fn run(
    client: &Client,
    name: &WorkloadName,
    query: &LogQuery,
    stamps: Stamps,
    output: &Output,
) -> Result<(), Ending> {
    let gone = ProblemCode::NoSuchWorkload.exit_code();
    let mut position = None;
    let first = path(name, query, None);
    let mut lines = client.lines(Method::GET, &first, Document::none()).await?;
    loop {
        let behind = |line: &LogLine, before| LogPosition::behind(before, line);
        let lost = match show(&mut lines, &mut position, behind, stamps, output).await {
            Ok(()) if !query.follow => return Ok(()),
            Ok(()) => "it ended its answer".to_owned(),
            Err(ending) if query.follow => passing(ending)?,
            Err(ending) => return Err(ending),
        };
        let again = path(name, query, position.as_ref());
        match reconnect(client, &again, &lost, gone, output).await? {
            Some(next) => lines = next,
            None => return Ok(()),
        }
    }
}

/// Shows what a run wrote. One that is followed goes on over an absence of belayd, and ends when the
/// run is over.
pub(crate) async fn run_of(
    client: &Client,
    run: RunId,
    query: RunLogQuery,
    stamps: Stamps,
    output: &Output,
) -> Result<(), Ending> {
    let gone = ProblemCode::NoSuchRun.exit_code();
    let mut position = None;
    let first = path_of_run(run, query, None);
    let mut lines = client.lines(Method::GET, &first, Document::none()).await?;
    loop {
        let behind = |line: &LogLine, before: Option<Timestamp>| line.at.or(before);
        let lost = match show(&mut lines, &mut position, behind, stamps, output).await {
            Ok(()) if !query.follow => return Ok(()),
            Ok(()) if is_over(client, run).await? => return Ok(()),
            Ok(()) => "it ended its answer".to_owned(),
            Err(ending) if query.follow => passing(ending)?,
            Err(ending) => return Err(ending),
        };
        let again = path_of_run(run, query, position);
        match reconnect(client, &again, &lost, gone, output).await? {
            Some(next) => lines = next,
            None => return Ok(()),
        }
    }
}

/// Whether the end of a log that was followed is the end of its run, and not of belayd.
async fn is_over(client: &Client, run: RunId) -> Result<bool, Ending> {
    match client.get::<RunDetail>(&format!("/v1/runs/{run}")).await {
        Ok(detail) => Ok(detail.status.ended_at.is_some()),
        Err(ending) => passing(ending).map(|_| false),
    }
}

fn path_of_run(run: RunId, query: RunLogQuery, last: Option<Timestamp>) -> String {
    let from = match (last, query.tail) {
        (Some(last), _) => format!("&after={last}"),
        (None, Some(tail)) => format!("&tail={tail}"),
        (None, None) => String::new(),
    };
    format!("/v1/runs/{run}/logs?follow={}{from}", query.follow)
}

/// Asks again until belayd is back; none if what was followed is gone, which `gone` says.
async fn reconnect<'a>(
    client: &'a Client,
    path: &str,
    lost: &str,
    gone: u8,
    output: &Output,
) -> Result<Option<AnswerLines<'a>>, Ending> {
    let mut pause = AWAY;
    let mut told = false;
    loop {
        tokio::time::sleep(pause).await;
        match client.lines(Method::GET, path, Document::none()).await {
            Ok(lines) => {
                if told {
                    output.remark("belayd is back; going on after the last line");
                }
                return Ok(Some(lines));
            }
            Err(Ending::Failed(failure)) if failure.exit_code == gone => return Ok(None),
            Err(ending) => drop(passing(ending)?),
        }
        if !std::mem::replace(&mut told, true) {
            output.remark(&format!("belayd is away ({lost}); waiting for it"));
        }
        pause = (pause * 2).min(AWAY_MAX);
    }
}

fn path(name: &WorkloadName, query: &LogQuery, position: Option<&LogPosition>) -> String {
    let tail = query.tail.map_or(String::new(), |lines| format!("&tail={lines}"));
    let since = query.since.map_or(String::new(), |time| format!("&since={time}"));
    let from = position.map_or(format!("{tail}{since}"), |at| format!("&resume={at}"));
    format!("/v1/workloads/{name}/logs?follow={}&previous={}{from}", query.follow, query.previous)
}

/// Shows lines to their end. `behind` says where the log is to be gone on with after each.
async fn show<P>(
    lines: &mut AnswerLines<'_>,
    position: &mut Option<P>,
    behind: impl Fn(&LogLine, Option<P>) -> Option<P>,
    stamps: Stamps,
    output: &Output,
) -> Result<(), Ending> {
    while let Some(line) = lines.next::<LogLine>().await? {
        match line.stream {
            LogStream::Stdout | LogStream::Stderr => {
                output.text(&log_line(&line, stamps, output.style()))?;
            }
            LogStream::Notice => output.notice(&line.text),
        }
        *position = behind(&line, position.take());
    }
    Ok(())
}

/// Whether lines of a log are shown with their times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stamps {
    Shown,
    Hidden,
}

/// The line as the workload wrote it, escape sequences included, as its terminal would have got
/// it. What it wrote to standard error is told apart by colour.
fn log_line(line: &LogLine, stamps: Stamps, style: Style) -> String {
    let tone = match line.stream {
        LogStream::Stdout => Tone::Plain,
        LogStream::Stderr | LogStream::Notice => Tone::Doubtful,
    };
    let text = tone.paint(style, &line.text);
    match (stamps, line.at) {
        (Stamps::Shown, Some(at)) => format!("{} {text}\n", human::clock(at)),
        (Stamps::Shown, None) => format!("{:20} {text}\n", "-"),
        (Stamps::Hidden, _) => format!("{text}\n"),
    }
}
