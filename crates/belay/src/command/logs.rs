//! `belay logs`: what a workload wrote, and writes.

use belay_protocol::{LogLine, LogPosition, LogQuery, LogStream, ProblemCode, WorkloadName};
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
    let mut lines = client.lines(Method::GET, &path(name, query, None), Document::none()).await?;
    loop {
        let lost = match show(&mut lines, &mut position, stamps, output).await {
            Ok(()) if !query.follow => return Ok(()),
            Ok(()) => "it ended its answer".to_owned(),
            Err(ending) if query.follow => passing(ending)?,
            Err(ending) => return Err(ending),
        };
        let mut pause = AWAY;
        let mut told = false;
        lines = loop {
            tokio::time::sleep(pause).await;
            let again = path(name, query, position.as_ref());
            match client.lines(Method::GET, &again, Document::none()).await {
                Ok(lines) => break lines,
                Err(Ending::Failed(failure)) if failure.exit_code == gone => return Ok(()),
                Err(ending) => drop(passing(ending)?),
            }
            if !std::mem::replace(&mut told, true) {
                output.remark(&format!("belayd is away ({lost}); waiting for it"));
            }
            pause = (pause * 2).min(AWAY_MAX);
        };
        if told {
            output.remark("belayd is back; going on after the last line");
        }
    }
}

fn path(name: &WorkloadName, query: &LogQuery, position: Option<&LogPosition>) -> String {
    let tail = query.tail.map_or(String::new(), |lines| format!("&tail={lines}"));
    let since = query.since.map_or(String::new(), |time| format!("&since={time}"));
    let from = position.map_or(format!("{tail}{since}"), |at| format!("&resume={at}"));
    format!("/v1/workloads/{name}/logs?follow={}&previous={}{from}", query.follow, query.previous)
}

async fn show(
    lines: &mut AnswerLines<'_>,
    position: &mut Option<LogPosition>,
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
        *position = LogPosition::behind(position.take(), &line);
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
