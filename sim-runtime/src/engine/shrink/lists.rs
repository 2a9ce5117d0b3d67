//! What a plan lists, as sequences of which any part can be left out.

use std::ops::Range;

use crate::engine::plan::Plan;
use crate::engine::system::Knob;

/// One kind of thing in a plan.
pub(super) trait List: Sync {
    fn len(&self, plan: &Plan) -> usize;

    /// The plan without those of these numbers.
    fn without(&self, plan: &Plan, range: Range<usize>) -> Plan;
}

/// Clients with operations. One that is left out keeps its number and does nothing: who works through a session, say,
/// may hang on the number.
pub(super) struct Clients;

impl List for Clients {
    fn len(&self, plan: &Plan) -> usize {
        plan.clients.iter().filter(|client| !client.ops.is_empty()).count()
    }

    fn without(&self, plan: &Plan, range: Range<usize>) -> Plan {
        let mut plan = plan.clone();
        let busy = plan.clients.iter_mut().filter(|client| !client.ops.is_empty());
        busy.skip(range.start).take(range.len()).for_each(|client| client.ops.clear());
        while plan.clients.last().is_some_and(|client| client.ops.is_empty()) {
            plan.clients.pop();
        }
        plan
    }
}

pub(super) struct Faults;

impl List for Faults {
    fn len(&self, plan: &Plan) -> usize {
        plan.faults.len()
    }

    fn without(&self, plan: &Plan, range: Range<usize>) -> Plan {
        let mut plan = plan.clone();
        plan.faults.drain(range);
        plan
    }
}

/// Live fault points.
pub(super) struct FaultPoints;

impl List for FaultPoints {
    fn len(&self, plan: &Plan) -> usize {
        plan.buggify.live.len()
    }

    fn without(&self, plan: &Plan, range: Range<usize>) -> Plan {
        let mut plan = plan.clone();
        plan.buggify.live.drain(range);
        plan
    }
}

/// The operations of all clients in the order of their times, so that a part is a stretch of time.
pub(super) struct Operations;

impl Operations {
    /// Client and position of every operation.
    fn in_order(plan: &Plan) -> Vec<(usize, usize)> {
        let mut all: Vec<(u64, usize, usize)> = Vec::new();
        for (number, client) in plan.clients.iter().enumerate() {
            all.extend(client.ops.iter().enumerate().map(|(position, op)| (op.not_before_ns, number, position)));
        }
        all.sort_unstable();
        all.into_iter().map(|(_, client, position)| (client, position)).collect()
    }
}

impl List for Operations {
    fn len(&self, plan: &Plan) -> usize {
        plan.clients.iter().map(|client| client.ops.len()).sum()
    }

    fn without(&self, plan: &Plan, range: Range<usize>) -> Plan {
        let mut gone = Operations::in_order(plan)[range].to_vec();
        gone.sort_unstable();
        let mut plan = plan.clone();
        for (client, position) in gone.into_iter().rev() {
            plan.clients[client].ops.remove(position);
        }
        plan
    }
}

/// Tunables that differ from their defaults; leaving one out sets it to its default.
pub(super) struct Knobs<'a>(pub &'a [Knob]);

impl Knobs<'_> {
    fn changed(&self, plan: &Plan) -> impl Iterator<Item = &Knob> {
        self.0.iter().filter(|knob| plan.knobs.get(knob.name) != Some(&knob.default))
    }
}

impl List for Knobs<'_> {
    fn len(&self, plan: &Plan) -> usize {
        self.changed(plan).count()
    }

    fn without(&self, plan: &Plan, range: Range<usize>) -> Plan {
        let mut smaller = plan.clone();
        for knob in self.changed(plan).skip(range.start).take(range.len()) {
            smaller.knobs.insert(knob.name.to_owned(), knob.default);
        }
        smaller
    }
}
