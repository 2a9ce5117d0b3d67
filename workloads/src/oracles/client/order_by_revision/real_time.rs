//! Revisions and real time: who asks later has a later place in the order.

use sim_runtime::engine::Judge;

use super::super::{Write, revision};
use super::{Misfit, ended};
use crate::event::Action;

/// Per operation the highest revision that any client had been told of when it began. Its own place is after that.
pub(super) fn floors(operations: &[Write]) -> Vec<Option<u64>> {
    let mut told: Vec<(u64, u64)> = operations
        .iter()
        .filter_map(|operation| {
            let revision = revision(operation)?;
            operation.returned.as_ref().map(|(moment, _)| (moment.order, revision))
        })
        .collect();
    told.sort_unstable();
    let mut told = told.into_iter().peekable();
    let mut highest = None;
    // Operations come in the order in which they began.
    operations
        .iter()
        .map(|operation| {
            while let Some((_, revision)) = told.next_if(|(order, _)| *order < operation.invoked.order) {
                highest = highest.max(Some(revision));
            }
            highest
        })
        .collect()
}

pub(super) fn check(operations: &[Write], floors: &[Option<u64>], judge: &mut Judge<'_>) -> Vec<Misfit> {
    let mut misfits = Vec::new();
    for (operation, floor) in operations.iter().zip(floors) {
        let Some(revision) = revision(operation) else { continue };
        if matches!(*operation.input, Action::StaleRead { .. }) {
            continue;
        }
        judge.evaluated(floor.is_some());
        // A write has a place of its own; reads share the place after the write they saw last.
        let (late_enough, kind) = match *operation.input {
            Action::Write { .. } => (*floor < Some(revision), "write"),
            Action::Read(_) | Action::StaleRead { .. } => (*floor <= Some(revision), "read"),
        };
        if !late_enough {
            let message = format!(
                "operation {}, a {kind}, has revision {revision}, but when it began revision {floor:?} had been told",
                operation.id
            );
            misfits.push(Misfit { at_ns: ended(operation), message });
        }
    }
    misfits
}
