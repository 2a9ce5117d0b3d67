//! Draws what `kv` clients do: weights, key space, sizes and pace differ from run to run.
//!
//! Few keys make conflicts, many make empty reads; both happen, since the key space is drawn. The generator is measured
//! by sometimes-assertions in the client: conflicting, empty and rejected outcomes must all occur.

use sim_runtime::engine::{PlannedOp, Shape};
use sim_runtime::world::draws::Stream;

use super::alphabet::{Expectation, KvOp, Oversize};

/// How often each kind of operation is drawn, relative to the others.
#[derive(Clone, Copy, Debug)]
struct Weights {
    set: u64,
    delete: u64,
    cas: u64,
    set_multi: u64,
    get: u64,
    scan: u64,
    oversized: u64,
    renew: u64,
    abandon: u64,
}

/// Draws the operations of all clients.
pub fn plan(shape: &Shape, draws: &mut Stream) -> Vec<Vec<PlannedOp>> {
    let weights = Weights {
        set: 5 + draws.below(60),
        delete: 2 + draws.below(15),
        cas: 5 + draws.below(30),
        set_multi: 2 + draws.below(15),
        get: 10 + draws.below(60),
        scan: 2 + draws.below(10),
        oversized: 1 + draws.below(3),
        renew: draws.below(3),
        abandon: draws.below(4),
    };
    let keys = [2, 4, 8, 16, 32][at(draws, 5)];
    let pad_max = [0, 0, 40, 400, 4000][at(draws, 5)];
    (0..shape.clients).map(|_| client(shape, &weights, keys, pad_max, draws)).collect()
}

fn client(shape: &Shape, weights: &Weights, keys: u64, pad_max: u64, draws: &mut Stream) -> Vec<PlannedOp> {
    let mut ops = Vec::new();
    let mut at_ns = draws.below(shape.pace_ns.max(1) * 4);
    while at_ns < shape.duration_ns && ops.len() < OPS_PER_CLIENT_MAX {
        let op = op(weights, keys, pad_max, draws);
        let op = serde_json::to_value(&op).expect("an operation is plain data");
        ops.push(PlannedOp { not_before_ns: at_ns, op });
        // Now and then a pause long enough for everything in flight to settle.
        let pause = if draws.below(200) == 0 { draws.below(PAUSE_NS_MAX) } else { 0 };
        at_ns += 1 + draws.below(2 * shape.pace_ns.max(1)) + pause;
    }
    ops
}

fn op(weights: &Weights, keys: u64, pad_max: u64, draws: &mut Stream) -> KvOp {
    let table = [
        weights.set,
        weights.delete,
        weights.cas,
        weights.set_multi,
        weights.get,
        weights.scan,
        weights.oversized,
        weights.renew,
        weights.abandon,
    ];
    let mut ticket = draws.below(table.iter().sum());
    let mut kind = 0;
    while ticket >= table[kind] {
        ticket -= table[kind];
        kind += 1;
    }
    let key = number(draws.below(keys));
    let pad = number(draws.below(pad_max + 1));
    match kind {
        0 => KvOp::Set { key, pad },
        1 => KvOp::Delete { key },
        2 => {
            let expect = [
                Expectation::Absent,
                Expectation::LastValue,
                Expectation::LastValue,
                Expectation::LastRevision,
                Expectation::LastRevision,
                Expectation::Impossible,
            ][at(draws, 6)];
            KvOp::Cas { key, expect, pad }
        }
        3 => {
            let count = 1 + draws.below(5);
            KvOp::SetMulti { keys: (0..count).map(|_| number(draws.below(keys))).collect(), pad }
        }
        4 => KvOp::Get { key },
        5 => {
            let from = draws.below(keys);
            let to = from + draws.below(keys - from + 1);
            KvOp::Scan { from: number(from), to: number(to), limit: number(1 + draws.below(keys + 2)) }
        }
        6 => KvOp::Oversized {
            what: [
                Oversize::EmptyKey,
                Oversize::LongKey,
                Oversize::TooManyPairs,
                Oversize::NoPairs,
                Oversize::ScanOfNothing,
            ][at(draws, 5)],
        },
        7 => KvOp::RenewSession,
        _ => KvOp::AbandonSession,
    }
}

fn at(draws: &mut Stream, len: u64) -> usize {
    usize::try_from(draws.below(len)).expect("a small number")
}

fn number(value: u64) -> u32 {
    u32::try_from(value).expect("a small number")
}

/// Bound on the operations of one client.
const OPS_PER_CLIENT_MAX: usize = 4000;
/// Bound on a pause between two operations.
const PAUSE_NS_MAX: u64 = 3_000_000_000;
