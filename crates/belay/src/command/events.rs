//! `belay events`: what happened, and what happens.

use std::fmt::Write as _;
use std::time::Duration;

use belay_protocol::EventSeq;
use serde_json::Value;

use crate::cli::{EventsShown, Format};
use crate::client::Client;
use crate::core::event_blocks::{EventBlocks, Told};
use crate::core::view::events as view;
use crate::failure::{self, Ending};
use crate::output::Output;

/// Events before those to come that are shown without a number to begin after.
const BEFORE: usize = 10;

/// Events that are shown without a number to begin after.
const LAST: usize = 100;

/// Events that are asked for at once.
const PAGE: usize = 500;

/// Longest silence of a stream: belayd says every 15 s that it is there.
const SILENCE: Duration = Duration::from_secs(45);

/// Pause before belayd is looked for again, doubled up to the longest.
pub(super) const AWAY: Duration = Duration::from_millis(250);

/// Longest pause before belayd is looked for again.
pub(super) const AWAY_MAX: Duration = Duration::from_secs(5);

/// Temporarily unavailable, as belayd says it of itself while it is busy or ends (`EX_TEMPFAIL`).
const TEMPORARY: u8 = 75;

pub(crate) async fn run(
    client: &Client,
    shown: &EventsShown,
    output: &Output,
) -> Result<(), Ending> {
    if shown.listing.output == Format::Table {
        output.text(&view::head(output.style()))?;
    }
    let position = show_pages(client, shown, output).await?;
    if shown.follow {
        return follow(client, shown, output, position).await;
    }
    Ok(())
}

fn show(event: &Value, shown: &EventsShown, output: &Output) -> Result<(), Ending> {
    match shown.listing.output {
        Format::Json => output.json_line(event),
        Format::Table => output.text(&view::line(event, output.style())),
    }
}

/// The part of a query that says which events are meant.
fn filter(shown: &EventsShown) -> String {
    let mut text = String::new();
    if let Some(workload) = &shown.workload {
        let _ = write!(text, "&workload={workload}");
    }
    for kind in &shown.kinds {
        let _ = write!(text, "&kind={kind}");
    }
    text
}

/// Shows what there is, and says after which number more would come.
async fn show_pages(
    client: &Client,
    shown: &EventsShown,
    output: &Output,
) -> Result<EventSeq, Ending> {
    let filter = filter(shown);
    let Some(mut after) = shown.after else {
        let last = if shown.follow { BEFORE } else { LAST };
        let path = format!("/v1/events?last={last}{filter}");
        let page: view::EventPage = client.get(&path).await?;
        for event in &page.events {
            show(event, shown, output)?;
        }
        return Ok(page.next);
    };
    loop {
        let path = format!("/v1/events?after={after}&limit={PAGE}{filter}");
        let page: view::EventPage = client.get(&path).await?;
        if let Some(gap) = &page.gap {
            output.remark(&view::gap(gap));
        }
        for event in &page.events {
            show(event, shown, output)?;
        }
        after = page.next;
        // What comes while this goes on is for whoever follows.
        if page.events.len() < PAGE || page.next >= page.newest {
            return Ok(after);
        }
    }
}

/// Shows what comes, for ever: a belayd that ends or is replaced is waited for, and asked for what
/// came after the last number that was shown.
async fn follow(
    client: &Client,
    shown: &EventsShown,
    output: &Output,
    mut position: EventSeq,
) -> Result<(), Ending> {
    let filter = filter(shown);
    let mut pause = AWAY;
    let mut away = false;
    loop {
        let path = format!("/v1/events?after={position}{filter}");
        let lost = match client.stream(&path).await {
            Ok(mut lines) => {
                if std::mem::take(&mut away) {
                    output.remark(&format!("belayd is back; going on after event {position}"));
                }
                pause = AWAY;
                let mut blocks = EventBlocks::default();
                loop {
                    let line = match tokio::time::timeout(SILENCE, lines.next_line()).await {
                        Ok(Ok(Some(line))) => line,
                        Ok(Ok(None)) => break "it ended its answer".to_owned(),
                        Ok(Err(ending)) => break passing(ending)?,
                        Err(_) => break format!("it said nothing for {} s", SILENCE.as_secs()),
                    };
                    let told = blocks.take(&line).map_err(|error| lines.misread(&error))?;
                    match told {
                        Some(Told::Event(event)) => show(&event, shown, output)?,
                        Some(Told::Gap(gap)) => output.remark(&view::gap(&gap)),
                        Some(Told::End(reason)) => break reason,
                        None => {}
                    }
                    position = blocks.position().unwrap_or(position);
                }
            }
            Err(ending) => passing(ending)?,
        };
        if !std::mem::replace(&mut away, true) {
            output.remark(&format!("belayd is away ({lost}); waiting for it"));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AWAY_MAX);
    }
}

/// Why belayd is away, if it may come back; any other failure ends the command.
pub(super) fn passing(ending: Ending) -> Result<String, Ending> {
    match ending {
        Ending::Failed(failure)
            if matches!(failure.exit_code, failure::UNAVAILABLE | TEMPORARY) =>
        {
            Ok(failure.what)
        }
        Ending::Failed(_) | Ending::PipeClosed => Err(ending),
    }
}
