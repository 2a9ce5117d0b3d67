//! What a plan lists, as sequences of which any part can be left out.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::engine::plan::Plan;
use crate::engine::system::Knob;

/// One kind of thing in a plan, numbered.
pub(super) trait List: Sync {
    fn len(&self, plan: &Plan) -> usize;

    /// The plan with those only for whose number `keeps` says so.
    fn filtered(&self, plan: &Plan, keeps: &mut dyn FnMut(usize) -> bool) -> Plan;

    /// The plan without those of these numbers.
    fn without(&self, plan: &Plan, range: Range<usize>) -> Plan {
        self.filtered(plan, &mut |number| !range.contains(&number))
    }
}

/// Clients with operations. One that is left out keeps its number and does nothing: who works through a session, say,
/// may hang on the number.
pub(super) struct Clients;

impl List for Clients {
    fn len(&self, plan: &Plan) -> usize {
        plan.clients.iter().filter(|client| !client.ops.is_empty()).count()
    }

    fn filtered(&self, plan: &Plan, keeps: &mut dyn FnMut(usize) -> bool) -> Plan {
        let mut plan = plan.clone();
        let busy = plan.clients.iter_mut().filter(|client| !client.ops.is_empty());
        busy.enumerate().filter(|(number, _)| !keeps(*number)).for_each(|(_, client)| client.ops.clear());
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

    fn filtered(&self, plan: &Plan, keeps: &mut dyn FnMut(usize) -> bool) -> Plan {
        let mut plan = plan.clone();
        retain(&mut plan.faults, keeps);
        plan
    }
}

/// Live fault points.
pub(super) struct FaultPoints;

impl List for FaultPoints {
    fn len(&self, plan: &Plan) -> usize {
        plan.buggify.live.len()
    }

    fn filtered(&self, plan: &Plan, keeps: &mut dyn FnMut(usize) -> bool) -> Plan {
        let mut plan = plan.clone();
        retain(&mut plan.buggify.live, keeps);
        plan
    }
}

/// The operations of all clients in the order of their times, so that a part is a stretch of time.
pub(super) struct Operations;

impl List for Operations {
    fn len(&self, plan: &Plan) -> usize {
        plan.clients.iter().map(|client| client.ops.len()).sum()
    }

    fn filtered(&self, plan: &Plan, keeps: &mut dyn FnMut(usize) -> bool) -> Plan {
        let mut in_order: Vec<(u64, usize, usize)> = Vec::new();
        for (client, planned) in plan.clients.iter().enumerate() {
            in_order.extend(planned.ops.iter().enumerate().map(|(position, op)| (op.not_before_ns, client, position)));
        }
        in_order.sort_unstable();
        let numbered = in_order.into_iter().enumerate();
        let gone: BTreeSet<(usize, usize)> = numbered
            .filter(|(number, _)| !keeps(*number))
            .map(|(_, (_, client, position))| (client, position))
            .collect();
        let mut plan = plan.clone();
        for (number, client) in plan.clients.iter_mut().enumerate() {
            retain(&mut client.ops, &mut |position| !gone.contains(&(number, position)));
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

    fn filtered(&self, plan: &Plan, keeps: &mut dyn FnMut(usize) -> bool) -> Plan {
        let mut smaller = plan.clone();
        for (_, knob) in self.changed(plan).enumerate().filter(|(number, _)| !keeps(*number)) {
            smaller.knobs.insert(knob.name.to_owned(), knob.default);
        }
        smaller
    }
}

fn retain<T>(list: &mut Vec<T>, keeps: &mut dyn FnMut(usize) -> bool) {
    let mut number = 0;
    list.retain(|_| {
        number += 1;
        keeps(number - 1)
    });
}
