//! When the operations of a client begin: a mean pause between two, now and then a long one.

use serde::Serialize;
use sim_runtime::engine::{PlannedOp, Shape};
use sim_runtime::world::draws::Stream;

/// Draws operations until the time for them is over.
pub fn spread<O: Serialize>(
    shape: &Shape,
    draws: &mut Stream,
    mut next: impl FnMut(&mut Stream) -> O,
) -> Vec<PlannedOp> {
    let mut ops = Vec::new();
    let mut at_ns = BEGIN_NS + draws.below(shape.pace_ns.max(1) * 2);
    while at_ns < shape.duration_ns && ops.len() < OPS_MAX {
        let op = serde_json::to_value(next(draws)).expect("an operation is plain data");
        ops.push(PlannedOp { not_before_ns: at_ns, op });
        let pause = if draws.below(60) == 0 { draws.below(PAUSE_NS_MAX) } else { 0 };
        at_ns += 1 + draws.below(2 * shape.pace_ns.max(1)) + pause;
    }
    ops
}

/// A number below `limit`, which is small.
pub fn below(draws: &mut Stream, limit: u32) -> u32 {
    u32::try_from(draws.below(u64::from(limit.max(1)))).expect("below a u32")
}

/// The cluster has had time to form.
const BEGIN_NS: u64 = 300_000_000;
/// Bound on the operations of one client.
const OPS_MAX: usize = 20_000;
const PAUSE_NS_MAX: u64 = 2_500_000_000;
