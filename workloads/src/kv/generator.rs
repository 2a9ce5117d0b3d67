//! Draws what `kv` clients do: weights, key space, sizes and pace differ from run to run, and within a run from phase to
//! phase.
//!
//! Few keys make conflicts, many make empty reads; both happen, since the key space is drawn. In half of the runs the
//! keys are hot: the first ones are drawn far more often. The generator is measured by sometimes-assertions in the
//! client: conflicting, empty and rejected outcomes must all occur.

use std::collections::BTreeSet;

use sim_runtime::engine::{PlannedOp, Shape};
use sim_runtime::world::draws::Stream;

use super::alphabet::{Expectation, KvOp, Oversize, Staleness, TxnStep};
use super::phases::{Phase, Phases};

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
    transaction: u64,
    stale: u64,
}

/// The keys of a run, and how they are drawn.
#[derive(Clone, Copy, Debug)]
struct Keys {
    count: u64,
    hot: bool,
}

impl Keys {
    fn draw(self, draws: &mut Stream) -> u32 {
        if !self.hot {
            return number(draws.below(self.count));
        }
        // As Zipf: each of the ranges of half the size is as likely, so a key's share falls with its number.
        let range = self.count >> draws.below(u64::from(self.count.ilog2()) + 1);
        number(draws.below(range))
    }
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
        transaction: 4 + draws.below(25),
        stale: 10 + draws.below(16),
    };
    let keys = Keys { count: [2, 4, 8, 16, 32][at(draws, 5)], hot: draws.below(2) == 0 };
    let pad_max = [0, 0, 40, 400, 4000][at(draws, 5)];
    // Rare: each costs as much as thousands of small ones.
    let largest_of = (draws.below(10) == 0).then_some(LARGEST_VALUE_ONE_IN);
    let phases = Phases::draw(shape.duration_ns, draws);
    let cold = if draws.below(2) == 0 { 4 + number(draws.below(12)) } else { 0 };
    let run = Run { weights, keys, pad_max, largest_of, phases, cold };
    (0..shape.clients).map(|index| client(shape, index, &run, draws)).collect()
}

/// What all clients of a run share.
struct Run {
    weights: Weights,
    keys: Keys,
    pad_max: u64,
    /// One of so many operations stores a value as large as a value may be.
    largest_of: Option<u64>,
    phases: Phases,
    /// Keys that each client writes first of all and nobody ever again: most of what a store holds is old, and only what
    /// is old goes bad unnoticed.
    cold: u32,
}

fn client(shape: &Shape, index: u32, run: &Run, draws: &mut Stream) -> Vec<PlannedOp> {
    let mut ops = Vec::new();
    let mut at_ns = draws.below(shape.pace_ns.max(1) * 4);
    for key in (COLD_KEYS + index * COLD_KEYS_OF_CLIENT..).take(usize::try_from(run.cold).expect("a small number")) {
        let op = serde_json::to_value(KvOp::Set { key, pad: 100 + number(draws.below(900)) });
        ops.push(PlannedOp { not_before_ns: at_ns, op: op.expect("an operation is plain data") });
    }
    while at_ns < shape.duration_ns && ops.len() < OPS_PER_CLIENT_MAX {
        let phase = run.phases.at(at_ns);
        let drawn = match run.largest_of {
            Some(count) if draws.below(count) == 0 => largest(run.keys, draws),
            _ => vec![op(&run.weights.in_phase(phase), run.keys, run.pad_max, draws)],
        };
        for op in drawn {
            let op = serde_json::to_value(&op).expect("an operation is plain data");
            ops.push(PlannedOp { not_before_ns: at_ns, op });
        }
        // Now and then a pause long enough for everything in flight to settle.
        let pause = if draws.below(200) == 0 { draws.below(PAUSE_NS_MAX) } else { 0 };
        at_ns += 1 + draws.below(2 * shape.pace_ns.max(1) * phase.slowness()) + pause;
    }
    ops
}

impl Weights {
    fn in_phase(self, phase: Phase) -> Weights {
        match phase {
            Phase::Mixed | Phase::Quiet => self,
            Phase::Grow => Weights { set: 3 * self.set, set_multi: 3 * self.set_multi, delete: 0, ..self },
            Phase::Shrink => Weights { delete: 2 * (self.delete + self.set), set: 1 + self.set / 8, ..self },
        }
    }
}

fn op(weights: &Weights, keys: Keys, pad_max: u64, draws: &mut Stream) -> KvOp {
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
        weights.transaction,
        weights.stale,
    ];
    let mut ticket = draws.below(table.iter().sum());
    let mut kind = 0;
    while ticket >= table[kind] {
        ticket -= table[kind];
        kind += 1;
    }
    let key = keys.draw(draws);
    let pad = number(draws.below(pad_max + 1));
    match kind {
        0 => KvOp::Set { key, pad },
        1 => KvOp::Delete { key },
        2 => {
            let expect = expectation(draws);
            KvOp::Cas { key, expect, pad }
        }
        3 => {
            let count = 1 + draws.below(5);
            KvOp::SetMulti { keys: (0..count).map(|_| keys.draw(draws)).collect(), pad }
        }
        4 => KvOp::Get { key },
        5 => {
            let from = draws.below(keys.count);
            let to = from + draws.below(keys.count - from + 1);
            KvOp::Scan { from: number(from), to: number(to), limit: number(1 + draws.below(keys.count + 2)) }
        }
        6 => KvOp::Oversized {
            what: [
                Oversize::EmptyKey,
                Oversize::LongKey,
                Oversize::TooManyPairs,
                Oversize::NoPairs,
                Oversize::ScanOfNothing,
                Oversize::TooManyParts,
                Oversize::NoParts,
                Oversize::ModifiedTwice,
                [Oversize::LargeValue, Oversize::ModifiedTwice][at(draws, 2)],
            ][at(draws, 9)],
        },
        7 => KvOp::RenewSession,
        8 => KvOp::AbandonSession,
        9 => {
            let compare = (0..draws.below(4)).map(|_| (keys.draw(draws), expectation(draws))).collect();
            KvOp::Transaction { compare, then: branch(keys, draws), otherwise: branch(keys, draws), pad }
        }
        _ => {
            let bound = staleness(draws);
            if draws.below(4) == 0 {
                KvOp::StaleScan { from: 0, to: number(keys.count), bound }
            } else {
                KvOp::StaleGet { key, bound }
            }
        }
    }
}

/// A value as large as a value may be; or two, which are then read at once: more than one reply may carry.
fn largest(keys: Keys, draws: &mut Stream) -> Vec<KvOp> {
    let key = keys.draw(draws);
    let pair = [key, (key + 1) % number(keys.count)];
    if draws.below(4) == 0 {
        return vec![KvOp::SetLargest { key: pair[0] }];
    }
    let then = pair.map(TxnStep::Get).to_vec();
    let read = KvOp::Transaction { compare: Vec::new(), then, otherwise: Vec::new(), pad: 0 };
    pair.map(|key| KvOp::SetLargest { key }).into_iter().chain([read]).collect()
}

/// Short ages make nodes ask the leader every time, long ones let them answer alone.
fn staleness(draws: &mut Stream) -> Staleness {
    let short = draws.below(12) == 0;
    let max_age_ms = match short {
        true => Some(5 + draws.below(20)),
        false => [None, Some(50), Some(100), Some(300), Some(1000), Some(3000)][at(draws, 6)],
    };
    Staleness { max_age_ms, monotonic: draws.below(2) == 0 }
}

fn expectation(draws: &mut Stream) -> Expectation {
    [
        Expectation::Absent,
        Expectation::LastValue,
        Expectation::LastValue,
        Expectation::LastRevision,
        Expectation::LastRevision,
        Expectation::Impossible,
    ][at(draws, 6)]
}

/// A branch of a transaction; it modifies no key twice, but may read it before and after.
fn branch(keys: Keys, draws: &mut Stream) -> Vec<TxnStep> {
    let mut modified = BTreeSet::new();
    let count = 1 + draws.below(4);
    (0..count)
        .map(|_| {
            let key = keys.draw(draws);
            match draws.below(5) {
                0 | 1 if modified.insert(key) => TxnStep::Set(key),
                2 if modified.insert(key) => TxnStep::Delete(key),
                _ => TxnStep::Get(key),
            }
        })
        .collect()
}

fn at(draws: &mut Stream, len: u64) -> usize {
    usize::try_from(draws.below(len)).expect("a small number")
}

fn number(value: u64) -> u32 {
    u32::try_from(value).expect("a small number")
}

/// In a run with values at the limit one of so many operations stores one.
const LARGEST_VALUE_ONE_IN: u64 = 300;
/// The first of the keys that are written once; no other operation names them.
const COLD_KEYS: u32 = 100_000;
const COLD_KEYS_OF_CLIENT: u32 = 100;
/// Bound on the operations of one client.
const OPS_PER_CLIENT_MAX: usize = 8000;
/// Bound on a pause between two operations.
const PAUSE_NS_MAX: u64 = 3_000_000_000;
