//! What is told of images, as events.

use std::time::Duration;

use belay_engine::Image;
use belay_protocol::event::ImageRemoved;
use belay_protocol::{EventDetails, EventSubject};

use super::ImagesTask;
use super::collect::called;
use super::flight::{Flight, FlightKey, FlightKind, left};
use super::port::ImageStore;
use super::trouble::Trouble;
use crate::core::images::back_off::Ladder;
use crate::core::images::collection::Goes;

impl<S: ImageStore> ImagesTask<S> {
    pub(super) fn tell_pull_begun(&self, key: &FlightKey) {
        let message = format!("pulling {}", key.source);
        self.tell(&key.source, message, EventDetails::ImagePullBegun {});
    }

    pub(super) fn tell_pulled(&self, key: &FlightKey, flight: &Flight, image: &Image) {
        if flight.kind == FlightKind::Load {
            return;
        }
        let took = flight.began.elapsed();
        let message = format!("pulled {} in {:.1} s", key.source, took.as_secs_f64());
        let details = EventDetails::ImagePulled {
            id: image.id.as_str().into(),
            bytes: image.size,
            duration_ms: milliseconds(took),
        };
        self.tell(&key.source, message, details);
    }

    pub(super) fn tell_pull_failed(&self, key: &FlightKey, trouble: &Trouble, ladder: &Ladder) {
        let details = EventDetails::ImagePullFailed {
            code: trouble.code.as_str().into(),
            cause: trouble.what.as_str().into(),
            failures: ladder.failures,
            delay_ms: milliseconds(left(ladder, self.clock())),
        };
        self.tell(&key.source, trouble.what.clone(), details);
    }

    /// Tells of a fetch that came to no end of its own.
    pub(super) fn tell_pull_ended(&self, key: &FlightKey, flight: &Flight, cause: &str) {
        if flight.kind == FlightKind::Load {
            return;
        }
        let message = format!("the pull of {} was ended: {cause}", key.source);
        self.tell(&key.source, message, EventDetails::ImagePullEnded { cause: cause.into() });
    }

    pub(super) fn tell_removed(&self, goes: &Goes, by: ImageRemoved) {
        let why = match by {
            ImageRemoved::Superseded => "it was superseded",
            ImageRemoved::Space => "its space is wanted",
            ImageRemoved::Operator => "an operator asked for it",
        };
        let name = goes.names.first().unwrap_or(&goes.id);
        let details =
            EventDetails::ImageRemoved { id: goes.id.as_str().into(), bytes: goes.bytes, by };
        self.tell(name, format!("{} is removed: {why}", called(goes)), details);
    }

    fn tell(&self, image: &str, message: String, details: EventDetails) {
        self.events.emit(EventSubject::Image { image: image.into() }, message, details);
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
