//! Stretches of the run, alone.
//!
//! Most failures are made within a few seconds of a run of half a minute, and a run of two seconds costs a tenth of it. So
//! the first question is whether some stretch fails without all that came before it: its operations and faults as densely as
//! they were, moved to where the cluster has just formed. Short stretches come first, the latest before the violation
//! first among those of a length.

use super::simpler::{START_NS, longest_ns};
use super::{Shrinker, Trial};
use crate::engine::plan::{Plan, Trigger};
use crate::world::Nanos;

/// Lengths of stretches, shortest first.
const LENGTHS_NS: [Nanos; 4] = [1_000_000_000, 2_000_000_000, 4_000_000_000, 8_000_000_000];
/// Other keys for each: what hangs on luck has had it once, in the whole run.
const KEYS: u64 = 2;

impl<T: Trial> Shrinker<'_, T> {
    /// Takes the shortest stretch that fails.
    pub(super) fn shortest_stretch(&mut self) {
        let plan = self.best.plan.clone();
        let seen = self.best.at_ns.unwrap_or(plan.duration_ns);
        for length in LENGTHS_NS {
            if START_NS + length * 3 / 2 > plan.duration_ns {
                return;
            }
            let stretches = beginnings(&plan, length, seen).into_iter().flat_map(|from| {
                let alone = stretch(&plan, from, length);
                (0..KEYS).map(move |attempt| Plan { key: alone.key.wrapping_add(attempt << 32), ..alone.clone() })
            });
            if self.take_first(stretches.collect::<Vec<_>>()).is_some() {
                return;
            }
        }
    }
}

/// Where stretches of this length begin, each overlapping half of the next; the ones that end near `seen` first.
fn beginnings(plan: &Plan, length: Nanos, seen: Nanos) -> Vec<Nanos> {
    let mut beginnings: Vec<Nanos> =
        (0..).map(|nth| nth * length / 2).take_while(|from| *from < plan.duration_ns).collect();
    beginnings.sort_by_key(|from| (from + length).abs_diff(seen));
    beginnings
}

/// What begins in `from..from + length`, moved to the time at which a cluster has formed. Faults that are not over at `from`
/// begin with it.
fn stretch(plan: &Plan, from: Nanos, length: Nanos) -> Plan {
    let start = from.min(START_NS);
    let until = from + length;
    let moved = |ns: Nanos| ns.max(from) - from + start;
    let mut plan = plan.clone();
    plan.duration_ns = start + length;
    plan.faults.retain(|planned| {
        let begins = planned.when.not_before_ns();
        begins < until && (begins >= from || begins + longest_ns(&planned.fault) > from)
    });
    for planned in &mut plan.faults {
        match &mut planned.when {
            Trigger::At { ns } => *ns = moved(*ns),
            Trigger::Site { after_ns, .. } | Trigger::DiskOp { after_ns, .. } => *after_ns = moved(*after_ns),
            Trigger::FirstStart { .. } => {}
        }
    }
    for client in &mut plan.clients {
        client.ops.retain(|op| (from..until).contains(&op.not_before_ns));
        client.ops.iter_mut().for_each(|op| op.not_before_ns = moved(op.not_before_ns));
    }
    plan
}
