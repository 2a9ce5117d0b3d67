//! Order by revision: the replies claim an order, and it is verified (Raft, section 8: linearizable semantics; design of
//! the store: the revision of a write is its index in the log, a read tells the index it has seen).
//!
//! All writes are replayed in the order of their revisions over (value, create revision, mod revision, version) of all
//! keys; a read of revision r must show the state after all writes up to r, a compare that did not match the state
//! before it. And the order must keep to real time. Nothing is trusted: a wrong revision fails.
//!
//! A write whose outcome is unknown has no revision of its own. It is placed where a read shows its value: under the mod
//! revision of the row. Unknown writes that nobody ever saw may still have happened in between, once each, not before
//! they were asked for: versions, absences and expectations are explained by them where they can be, and by nothing
//! else.
//!
//! - `facts`: what replies say, per key and revision
//! - `replay`: is there a course of each key that agrees with all of it?
//! - `real_time`: do revisions agree with the order in which clients asked and were told?
mod facts;
mod real_time;
mod replay;

use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use self::facts::Facts;
use super::{Operations, Write, Writers};
use crate::event::Event;

#[derive(Debug, Default)]
pub struct OrderByRevision {
    operations: Operations,
}

/// Something does not fit.
#[derive(Debug)]
struct Misfit {
    at_ns: Nanos,
    message: String,
}

/// When the operation ended, or the beginning of time.
fn ended(operation: &Write) -> Nanos {
    operation.returned.as_ref().map_or(0, |(moment, _)| moment.at_ns)
}

impl Oracle<Event> for OrderByRevision {
    fn property(&self) -> &'static str {
        "order-by-revision"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        self.operations.on_event(event, judge);
    }

    fn finish(&mut self, _at_ns: Nanos, judge: &mut Judge<'_>) {
        let operations = self.operations.all();
        let writers = Writers::new(&operations, judge);
        let floors = real_time::floors(&operations);
        let mut misfits = real_time::check(&operations, &floors, judge);
        let mut facts = Facts::new(&operations, &writers, &floors);
        misfits.append(&mut facts.misfits);
        replay::check(&facts, &mut misfits, judge);
        misfits.sort_by_key(|misfit| misfit.at_ns);
        for misfit in misfits {
            judge.violated(misfit.at_ns, None, misfit.message);
        }
    }
}

#[cfg(test)]
mod tests;
