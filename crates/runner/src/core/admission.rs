//! What there is room for: runs of a workload, and containers in the node's memory.
//!
//! Room is reserved before anything is ordered and given back when its end is known, so two runs
//! cannot both be let in for the last place.

use std::collections::HashMap;

use belay_protocol::WorkloadName;
use belay_protocol::runner::RunnerId;

/// A runner that belayd started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resident {
    pub(crate) workload: WorkloadName,
    /// What it may use, in bytes.
    memory: u64,
    place: Place,
    pub(crate) fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Memory,
    Disk,
}

/// What is to become of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Stays,
    /// It was ordered to stop.
    Stopping,
}

/// Room, and who has it.
#[derive(Debug)]
pub(crate) struct Admission {
    /// In bytes.
    memory: u64,
    reserved: u64,
    active: HashMap<WorkloadName, u32>,
    residents: HashMap<RunnerId, Resident>,
}

impl Admission {
    pub(crate) fn new(memory: u64) -> Self {
        Self { memory, reserved: 0, active: HashMap::new(), residents: HashMap::new() }
    }

    /// Runs of a workload that hold a place.
    pub(crate) fn active(&self, workload: &WorkloadName) -> u32 {
        self.active.get(workload).copied().unwrap_or(0)
    }

    pub(crate) fn take_place(&mut self, workload: &WorkloadName) {
        *self.active.entry(workload.clone()).or_default() += 1;
    }

    pub(crate) fn give_place(&mut self, workload: &WorkloadName) {
        if let Some(active) = self.active.get_mut(workload) {
            *active -= 1;
        }
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.reserved.checked_add(bytes).is_some_and(|sum| sum <= self.memory)
    }

    /// Reserves memory for a container that is to be started; says whether there was room.
    pub(crate) fn reserve(
        &mut self,
        runner: &RunnerId,
        workload: &WorkloadName,
        bytes: u64,
    ) -> bool {
        let has_room = self.has_room(bytes);
        if has_room {
            self.adopt(runner, workload, bytes);
        }
        has_room
    }

    /// Counts a container that is there, room or not.
    pub(crate) fn adopt(&mut self, runner: &RunnerId, workload: &WorkloadName, bytes: u64) {
        let resident = Resident {
            workload: workload.clone(),
            memory: bytes,
            place: Place::Memory,
            fate: Fate::Stays,
        };
        self.reserved += bytes;
        if let Some(before) = self.residents.insert(runner.clone(), resident) {
            self.give_back(&before);
        }
    }

    fn give_back(&mut self, resident: &Resident) {
        match resident.place {
            Place::Memory => self.reserved -= resident.memory,
            Place::Disk => {}
        }
    }

    /// Its memory is on the disk.
    pub(crate) fn swap_out(&mut self, runner: &RunnerId) {
        if let Some(resident) = self.residents.get_mut(runner)
            && resident.place == Place::Memory
        {
            resident.place = Place::Disk;
            self.reserved -= resident.memory;
        }
    }

    /// Whether there is room to bring it back; one that never left needs none.
    pub(crate) fn may_swap_in(&self, runner: &RunnerId) -> bool {
        match self.residents.get(runner) {
            Some(Resident { place: Place::Disk, memory, .. }) => self.has_room(*memory),
            Some(Resident { place: Place::Memory, .. }) | None => true,
        }
    }

    /// Its memory is in use again.
    pub(crate) fn swap_in(&mut self, runner: &RunnerId) {
        if let Some(resident) = self.residents.get_mut(runner)
            && resident.place == Place::Disk
        {
            resident.place = Place::Memory;
            self.reserved += resident.memory;
        }
    }

    pub(crate) fn resident(&self, runner: &RunnerId) -> Option<&Resident> {
        self.residents.get(runner)
    }

    /// Notes that a container was ordered to stop; false if it is not ours or was so before.
    pub(crate) fn begin_stop(&mut self, runner: &RunnerId) -> bool {
        match self.residents.get_mut(runner) {
            Some(resident) if resident.fate == Fate::Stays => {
                resident.fate = Fate::Stopping;
                true
            }
            Some(_) | None => false,
        }
    }

    /// A container is gone.
    pub(crate) fn remove(&mut self, runner: &RunnerId) -> Option<Resident> {
        let resident = self.residents.remove(runner)?;
        self.give_back(&resident);
        Some(resident)
    }

    pub(crate) fn residents(&self) -> impl Iterator<Item = (&RunnerId, &Resident)> {
        self.residents.iter()
    }

    /// Reserved memory, in bytes.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved
    }
}

#[cfg(test)]
mod tests;
