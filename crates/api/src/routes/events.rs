//! `GET /v1/events`: a page, or a stream that goes on.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use belay_protocol::{EventPage, EventQuery, EventSeq, EventStart, EventTally, ProblemCode};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::ask::replied;
use super::extract::Pairs;
use crate::answer::{self, Refusal};
use crate::core::query::EventsAsked;
use crate::core::{query, stream as blocks};
use crate::state::{ApiState, ReadEvents};

/// Events on a page that does not say how many.
const PAGE: usize = 100;

/// Events that are read at once for a stream, and so the most that are held for one that is slow.
const AHEAD: usize = 64;

/// How often a stream without events says that it is there.
const ALIVE: Duration = Duration::from_secs(15);

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

pub(crate) async fn events(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Pairs(pairs): Pairs,
) -> Result<Response, Refusal> {
    let asked = query::events(&pairs)?;
    if wants_stream(&headers) {
        return follow(state, asked, last_event_id(&headers)?).await;
    }
    let start = asked.after.map_or(EventStart::Last, EventStart::After);
    let limit = asked.limit.or(asked.last).unwrap_or(PAGE);
    let query = EventQuery { start, workload: asked.workload, kinds: asked.kinds, limit };
    Ok(answer::json(&read(&state, query).await?))
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter();
    let mut accepted = accepted.filter_map(|value| value.to_str().ok());
    accepted.any(|value| {
        value
            .split(',')
            .any(|one| one.split(';').next().map(str::trim) == EVENT_STREAM.to_str().ok())
    })
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<EventSeq>, Refusal> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        answer::invalid("Last-Event-ID is not the number of an event", "send the last `id` read")
    })
}

async fn read(state: &ApiState, query: EventQuery) -> Result<EventPage, Refusal> {
    let (reply, page) = oneshot::channel();
    state.read_events(ReadEvents { query, reply }).await?;
    replied(page).await
}

/// A stream of events. Nothing is held for the client but what was read last: while it does not
/// read, nothing more is read for it, and when it takes nothing for too long its connection is cut.
async fn follow(
    state: ApiState,
    asked: EventsAsked,
    last_event_id: Option<EventSeq>,
) -> Result<Response, Refusal> {
    if asked.limit.is_some() {
        let next = "leave limit out, or ask for a page: Accept: application/json";
        return Err(answer::invalid("a stream of events has no limit", next));
    }
    let place = state.follower().ok_or_else(|| {
        Refusal::new(
            ProblemCode::Busy,
            "as many clients follow the events as belayd serves at one time",
            "end one of them, or ask for pages instead",
        )
    })?;
    let tally = state.tally();
    let mut follower = Follower {
        position: EventSeq::START,
        query: EventQuery {
            start: EventStart::Last,
            workload: asked.workload,
            kinds: asked.kinds,
            limit: AHEAD,
        },
        behind: false,
        ended: false,
        state,
        tally,
        _place: place,
    };
    // The header of a client that comes back outweighs the address that it came with first.
    let mut first = blocks::RETRY.to_owned();
    if let Some(after) = last_event_id.or(asked.after) {
        follower.position = after;
        follower.behind = true;
    } else {
        let limit = asked.last.unwrap_or(1);
        let page = read(&follower.state, EventQuery { limit, ..follower.query.clone() }).await?;
        follower.position = page.newest;
        if asked.last.is_some() {
            first.extend(page.events.iter().map(blocks::event));
        }
        // What a client that asks for no past goes on after, should it lose the connection.
        first += &blocks::alive(page.newest);
    }
    let first = stream::once(async move { Ok::<Bytes, Infallible>(first.into()) });
    let rest = stream::unfold(follower, |mut follower| async move {
        let text = follower.next().await?;
        Some((Ok(text.into()), follower))
    });
    let body = Body::from_stream(futures_util::StreamExt::chain(first, rest));
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, EVENT_STREAM)], body).into_response())
}

/// One client that follows.
struct Follower {
    state: ApiState,
    tally: watch::Receiver<EventTally>,
    query: EventQuery,
    /// Everything up to here was told, or passed over.
    position: EventSeq,
    /// Whether there may be more on the disk.
    behind: bool,
    ended: bool,
    /// Given back when the client has gone.
    _place: OwnedSemaphorePermit,
}

impl Follower {
    /// The text to send next; `None` after the end.
    async fn next(&mut self) -> Option<String> {
        while !self.ended {
            if self.behind {
                if let Some(text) = self.read_on().await {
                    return Some(text);
                }
                continue;
            }
            let shutdown = self.state.shutdown().clone();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {
                    self.ended = true;
                    return Some(blocks::end("belayd is ending; workloads keep running"));
                }
                changed = self.tally.wait_for(|tally| tally.newest > self.position) => {
                    self.behind = changed.is_ok();
                    self.ended = changed.is_err();
                }
                () = tokio::time::sleep(ALIVE) => return Some(blocks::alive(self.position)),
            }
        }
        None
    }

    /// Reads what follows; `None` when that was nothing for this client.
    async fn read_on(&mut self) -> Option<String> {
        let start = EventStart::After(self.position);
        let page = match read(&self.state, EventQuery { start, ..self.query.clone() }).await {
            Ok(page) => page,
            Err(refusal) => {
                self.ended = true;
                return Some(blocks::end(refusal.detail()));
            }
        };
        let gap = page.gap.as_ref().map(blocks::gap).unwrap_or_default();
        let events: String = page.events.iter().map(blocks::event).collect();
        self.position = page.next;
        self.behind = page.next < page.newest;
        let text = gap + &events;
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use belay_protocol::{Event, EventDetails, EventSubject};
    use futures_util::StreamExt;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::state::EventFeed;

    struct Belayd {
        tally: watch::Sender<EventTally>,
        reads: mpsc::Receiver<ReadEvents>,
        shutdown: CancellationToken,
    }

    fn state() -> (ApiState, Belayd) {
        let status = serde_json::json!({
            "schema_version": 1, "node": "n", "version": "0", "started_at": "2026-01-01T00:00:00Z",
            "ready": {"state": "ready"}, "workloads": [], "volumes": [], "refused_specs": [],
            "engine": {"kind": "", "version": "", "socket": "", "reachable": true,
                       "snapshot": "none"},
        });
        let status = serde_json::from_value(status).expect("a status");
        let (_, status) = watch::channel(Arc::new(status));
        let (commands, _) = mpsc::channel(1);
        let (tally, tallied) = watch::channel(EventTally::default());
        let (asking, reads) = mpsc::channel(4);
        let shutdown = CancellationToken::new();
        let feed = EventFeed { tally: tallied, reads: asking };
        let state = ApiState::new(status, commands, feed, shutdown.clone());
        (state, Belayd { tally, reads, shutdown })
    }

    fn after(number: u64) -> EventsAsked {
        EventsAsked { after: Some(EventSeq::new(number)), ..EventsAsked::default() }
    }

    fn page(events: &[u64], newest: u64) -> EventPage {
        let event = |number: &u64| {
            let details = EventDetails::BelaydStopping {};
            Event {
                seq: EventSeq::new(*number),
                at: "2026-01-01T00:00:00Z".parse().expect("a time"),
                severity: details.severity(),
                subject: EventSubject::Node,
                message: "x".into(),
                details,
            }
        };
        let newest = EventSeq::new(newest);
        let events: Vec<_> = events.iter().map(event).collect();
        let next = events.last().map_or(newest, |event: &Event| event.seq);
        EventPage { first: Some(EventSeq::new(1)), newest, gap: None, events, next }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_tells_what_comes_says_that_it_is_there_and_how_it_ends() {
        let (state, mut belayd) = state();
        let response = follow(state, after(4), None).await.expect("a place");
        let mut body = response.into_body().into_data_stream();
        let mut next = async || {
            let chunk = body.next().await?;
            Some(String::from_utf8(chunk.expect("no failure").to_vec()).expect("text"))
        };
        assert_eq!(next().await.expect("more"), blocks::RETRY);

        let serve = async {
            let asked = belayd.reads.recv().await.expect("asks");
            assert_eq!(asked.query.start, EventStart::After(EventSeq::new(4)));
            asked.reply.send(Ok(page(&[5, 6], 6))).expect("waits");
        };
        let (text, ()) = tokio::join!(next(), serve);
        let text = text.expect("more");
        assert!(text.starts_with("id: 5\n") && text.contains("\n\nid: 6\n"), "{text}");

        let begun = tokio::time::Instant::now();
        assert_eq!(next().await.expect("more"), ": alive\nid: 6\n\n");
        assert_eq!(begun.elapsed(), ALIVE);

        belayd.tally.send_modify(|tally| tally.newest = EventSeq::new(9));
        let serve = async {
            let asked = belayd.reads.recv().await.expect("asks");
            assert_eq!(asked.query.start, EventStart::After(EventSeq::new(6)));
            // Those that came are not of the kind that this client follows.
            asked.reply.send(Ok(page(&[], 9))).expect("waits");
        };
        let (text, ()) = tokio::join!(next(), serve);
        assert_eq!(text.expect("more"), ": alive\nid: 9\n\n", "what was passed over counts");

        belayd.shutdown.cancel();
        assert!(next().await.expect("more").starts_with("event: end\ndata: "));
        assert_eq!(next().await, None);
    }

    #[tokio::test]
    async fn more_followers_than_there_are_places_for_are_refused() {
        let (state, _belayd) = state();
        let mut followers = Vec::new();
        for _ in 0..64 {
            followers.push(follow(state.clone(), after(0), None).await.expect("a place"));
        }
        let refused = follow(state.clone(), after(0), None).await.expect_err("no place");
        assert!(refused.detail().contains("as many clients follow"));
        followers.pop();
        follow(state, after(0), None).await.expect("a place again");
    }
}
