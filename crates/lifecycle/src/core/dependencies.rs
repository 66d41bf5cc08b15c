//! Who depends on whom: what may be declared, and in which order.

use std::collections::{BTreeMap, BTreeSet};

use belay_protocol::WorkloadName;

/// Workloads with those that each depends on.
pub type Graph = BTreeMap<WorkloadName, BTreeSet<WorkloadName>>;

/// What of a set of declared workloads can be taken.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Those that can, each after all that it depends on.
    pub order: Vec<WorkloadName>,
    /// Those that cannot, with the reason.
    pub refused: BTreeMap<WorkloadName, Refusal>,
}

/// Why a declared workload is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It depends on workloads that do not exist; all of them are named.
    Missing(Vec<WorkloadName>),
    /// It depends on itself, by way of these; the last depends on the first.
    Cycle(Vec<WorkloadName>),
    /// It depends on workloads that exist nowhere else and are refused with it.
    Refused(Vec<WorkloadName>),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |names: &[WorkloadName]| {
            names.iter().map(WorkloadName::as_str).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::Missing(names) => write!(f, "{}, which this node does not have", list(names)),
            Self::Refused(names) => write!(f, "{}, which is refused itself", list(names)),
            Self::Cycle(names) => {
                for name in names {
                    write!(f, "{name} -> ")?;
                }
                write!(f, "{}, a cycle", names.first().map_or("", WorkloadName::as_str))
            }
        }
    }
}

/// Decides which of the `declared` workloads can be taken by a node that has those of `known`.
///
/// A declared workload replaces the known one of its name. A known one whose own needs are gone
/// stays what it is.
pub fn admit(known: &Graph, declared: &Graph) -> Admission {
    let exists = |name: &WorkloadName| known.contains_key(name) || declared.contains_key(name);
    let mut open = Graph::new();
    let mut missing: BTreeMap<WorkloadName, Vec<WorkloadName>> = BTreeMap::new();
    for (name, needs) in known.iter().filter(|(name, _)| !declared.contains_key(*name)) {
        open.insert(name.clone(), needs.iter().filter(|need| exists(need)).cloned().collect());
    }
    for (name, needs) in declared {
        let absent: Vec<_> = needs.iter().filter(|need| !exists(need)).cloned().collect();
        if !absent.is_empty() {
            missing.insert(name.clone(), absent);
        }
        open.insert(name.clone(), needs.clone());
    }
    let mut admission = Admission::default();
    let mut settled: BTreeSet<WorkloadName> = BTreeSet::new();
    loop {
        let free: Vec<_> = open
            .iter()
            .filter(|(_, needs)| needs.iter().all(|need| settled.contains(need)))
            .map(|(name, _)| name.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        for name in free {
            open.remove(&name);
            if declared.contains_key(&name) {
                admission.order.push(name.clone());
            }
            settled.insert(name);
        }
    }
    for name in open.keys().filter(|name| declared.contains_key(*name)) {
        let refusal = if let Some(absent) = missing.remove(name) {
            Refusal::Missing(absent)
        } else if let Some(cycle) = cycle_through(&open, name) {
            Refusal::Cycle(cycle)
        } else {
            let needs = open[name].iter().filter(|need| open.contains_key(*need));
            Refusal::Refused(needs.cloned().collect())
        };
        admission.refused.insert(name.clone(), refusal);
    }
    admission
}

/// A shortest way from a workload back to itself.
fn cycle_through(graph: &Graph, start: &WorkloadName) -> Option<Vec<WorkloadName>> {
    let mut came_from: BTreeMap<&WorkloadName, &WorkloadName> = BTreeMap::new();
    let mut level = vec![start];
    while !level.is_empty() {
        let mut next = Vec::new();
        for from in level {
            for to in graph.get(from).into_iter().flatten() {
                if to == start {
                    let mut way = vec![from.clone()];
                    let mut at = from;
                    while let Some(before) = came_from.get(at) {
                        way.push((*before).clone());
                        at = before;
                    }
                    way.reverse();
                    return Some(way);
                }
                if !came_from.contains_key(to) {
                    came_from.insert(to, from);
                    next.push(to);
                }
            }
        }
        level = next;
    }
    None
}

/// The workloads that depend on one directly, by name.
pub fn dependants(graph: &Graph, on: &WorkloadName) -> Vec<WorkloadName> {
    graph.iter().filter(|(_, needs)| needs.contains(on)).map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests;
