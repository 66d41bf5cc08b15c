//! Snapshots that are in the engine's hands.

use std::collections::BTreeMap;

use belay_protocol::runner::RunId;

use crate::core::run::Exit;
use crate::core::snapshots::Ticket;

/// A snapshot in the engine's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flight {
    /// What it is of.
    pub ticket: Ticket,
    /// What was ordered last.
    pub stage: Stage,
    /// How often it failed before.
    pub failures: u32,
    /// An exit that was told meanwhile. Whether it is the snapshot's own doing, its result says.
    pub exit: Option<Exit>,
}

/// What the engine is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Take it.
    Taking,
    /// Not take it, if that can still be.
    Aborting,
    /// Make the container what it was before.
    PuttingBack,
    /// Remove it with the container.
    Dropping,
}

/// The flights of the node, at most one for a run.
#[derive(Debug)]
pub(crate) struct Dispatch {
    places: usize,
    flights: BTreeMap<RunId, Flight>,
}

impl Dispatch {
    pub(crate) fn new(places: usize) -> Self {
        Self { places, flights: BTreeMap::new() }
    }

    /// Whether a snapshot may begin. What is put back or dropped takes a place too, and never waits
    /// for one.
    pub(crate) fn has_place(&self) -> bool {
        self.flights.len() < self.places
    }

    pub(crate) fn begin(&mut self, flight: Flight) {
        self.flights.insert(flight.ticket.run, flight);
    }

    pub(crate) fn get(&self, run: RunId) -> Option<&Flight> {
        self.flights.get(&run)
    }

    /// The run's flight, if it is the one of this ticket.
    pub(crate) fn of(&mut self, ticket: &Ticket) -> Option<&mut Flight> {
        self.flights.get_mut(&ticket.run).filter(|flight| flight.ticket == *ticket)
    }

    /// Makes a snapshot that is being taken unwanted; returns what to tell the engine.
    pub(crate) fn abort(&mut self, run: RunId) -> Option<Ticket> {
        let flight = self.flights.get_mut(&run)?;
        match flight.stage {
            Stage::Taking => {
                flight.stage = Stage::Aborting;
                Some(flight.ticket.clone())
            }
            Stage::Aborting | Stage::PuttingBack | Stage::Dropping => None,
        }
    }

    pub(crate) fn end(&mut self, run: RunId) -> Option<Flight> {
        self.flights.remove(&run)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Flight> {
        self.flights.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.flights.len()
    }
}
