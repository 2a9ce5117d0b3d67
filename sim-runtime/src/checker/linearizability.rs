//! Is a history linearizable? The search of Wing and Gong with Lowe's memoisation, as in Porcupine.
//!
//! A history is linearizable when every operation can be given one moment between its invocation and its return such
//! that the operations, in the order of those moments, are what a sequential [`Model`] would have done (Herlihy and
//! Wing, 1990). The search picks operations one by one and goes back when it is stuck (Wing and Gong, 1993); it never
//! visits the same set of operations with the same state twice (Lowe, "Testing for linearizability", 2017).
//!
//! Operations without a known outcome would drown that search, so they are treated on their own:
//! - they are taken only when no operation with a known outcome leads on, the fewest first, and only if what comes next
//!   needs them (the submodule `unknown`);
//! - a configuration is not visited if one with the same state, the same known operations and *fewer* unknown ones
//!   was: whatever the richer one can still do, the poorer one can do too;
//! - of several equal inputs the one invoked first is taken: it may do whatever the others may.
//!
//! The set of known operations is represented by a sum of 128-bit hashes, one per operation. Two different sets that
//! collide could hide a way out; at 10^9 configurations the chance of that is below 10^-20.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};

use self::explain::explain;
use self::unknown::{Unknown, Variant};
use super::history::Operation;

/// What an object does when one operation runs after the other.
pub trait Model {
    type State: Clone + Ord;
    type Input: Clone + PartialEq;
    type Output: Clone;

    fn initial(&self) -> Self::State;

    /// The state after `input`, or `None` if in `state` it could not have been answered with `output`.
    ///
    /// Without an output (the outcome is not known) the state if it takes effect.
    fn step(&self, state: &Self::State, input: &Self::Input, output: Option<&Self::Output>) -> Option<Self::State>;

    /// The state after `input` does not depend on the state before. Only makes the search faster.
    fn overwrites(&self, _input: &Self::Input) -> bool {
        false
    }

    /// With the outcome it had, the operation leaves every state in which it fits as it is. Such operations are placed
    /// as soon as they fit, and may be removed when a violation is made smaller.
    fn observes_only(&self, _operation: &Operation<Self::Input, Self::Output>) -> bool {
        false
    }

    /// If a history that has `kept` is linearizable, then it still is without `removed`, as far as `kept` goes. Says
    /// which operations with an effect may be removed when a violation is made smaller.
    fn independent(
        &self,
        _removed: &Operation<Self::Input, Self::Output>,
        _kept: &Operation<Self::Input, Self::Output>,
    ) -> bool {
        false
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<I, O> {
    Linearizable,
    Violation(Counterexample<I, O>),
    /// The budget ran out first. Nothing is known.
    Undecided,
}

/// A part of the history that is not linearizable, made as small as the budget allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counterexample<I, O> {
    /// In the order of invocation. An operation that ended after the prefix that is shown has no return.
    pub operations: Vec<Operation<I, O>>,
}

/// How much work a check may do, in steps of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub steps: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { steps: 20_000_000 }
    }
}

/// Steps of the model that may be spent on making a violation smaller.
const EXPLAIN_STEPS_MAX: u64 = 3_000_000;

/// Checks one object. `operations` in any order; takes what it uses from `budget`.
///
/// Making a violation smaller is paid for by a small budget of its own.
pub fn check<M: Model>(
    model: &M,
    operations: &[Operation<M::Input, M::Output>],
    budget: &mut Budget,
) -> Decision<M::Input, M::Output> {
    let mut explaining = Budget { steps: budget.steps.min(EXPLAIN_STEPS_MAX) };
    match search(model, operations, budget) {
        Found::Linearizable => Decision::Linearizable,
        Found::Undecided => Decision::Undecided,
        Found::Violation { stuck } => Decision::Violation(explain(model, operations, stuck, &mut explaining)),
    }
}

/// The operations of independent objects.
pub type Parts<K, M> = BTreeMap<K, Vec<Operation<<M as Model>::Input, <M as Model>::Output>>>;

/// Checks independent objects, each by itself; the first that is not linearizable, or could not be decided, is named.
pub fn check_parts<'a, K: Ord, M: Model>(
    model: &M,
    parts: &'a Parts<K, M>,
    budget: &mut Budget,
) -> (Decision<M::Input, M::Output>, Option<&'a K>) {
    let mut undecided = None;
    for (key, operations) in parts {
        match check(model, operations, budget) {
            Decision::Linearizable => {}
            Decision::Undecided => undecided = undecided.or(Some(key)),
            violation @ Decision::Violation(_) => return (violation, Some(key)),
        }
    }
    match undecided {
        Some(key) => (Decision::Undecided, Some(key)),
        None => (Decision::Linearizable, None),
    }
}

impl<I: Debug, O: Debug> Counterexample<I, O> {
    /// One line per operation: client, virtual times in ns, input, output.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for operation in &self.operations {
            let invoked = operation.invoked.at_ns;
            let line = match &operation.returned {
                Some((moment, output)) => {
                    format!("[{invoked} .. {}] {:?} -> {output:?}", moment.at_ns, operation.input)
                }
                None => format!("[{invoked} .. ?] {:?} -> unknown", operation.input),
            };
            let _ = writeln!(text, "client {} op {} {line}", operation.client, operation.id);
        }
        text
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Linearizable,
    /// No way leads past the return of this order.
    Violation {
        stuck: u64,
    },
    Undecided,
}

/// Invocations and returns of operations with a known outcome that are not yet placed, in order, as a linked list.
struct Entries {
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Operation, and whether this is its return. Unused for the two ends.
    what: Vec<(usize, bool)>,
    order: Vec<u64>,
    /// Per known operation its two entries.
    of_operation: Vec<(usize, usize)>,
}

const HEAD: usize = 0;

impl Entries {
    fn new(spans: &[(u64, u64)]) -> Entries {
        let mut events: Vec<(u64, usize, bool)> = Vec::with_capacity(spans.len() * 2);
        for (operation, (invoked, returned)) in spans.iter().enumerate() {
            events.push((*invoked, operation, false));
            events.push((*returned, operation, true));
        }
        events.sort_unstable();
        let tail = events.len() + 1;
        let mut entries = Entries {
            next: (1..=tail + 1).collect(),
            previous: (0..=tail).map(|at| at.saturating_sub(1)).collect(),
            what: vec![(usize::MAX, true); tail + 1],
            order: vec![u64::MAX; tail + 1],
            of_operation: vec![(0, 0); spans.len()],
        };
        for (place, (order, operation, is_return)) in events.into_iter().enumerate() {
            entries.what[place + 1] = (operation, is_return);
            entries.order[place + 1] = order;
            let of = &mut entries.of_operation[operation];
            if is_return { of.1 = place + 1 } else { of.0 = place + 1 }
        }
        entries
    }

    fn tail(&self) -> usize {
        self.what.len() - 1
    }

    fn is_empty(&self) -> bool {
        self.next[HEAD] == self.tail()
    }

    /// Operations that may be placed next: those invoked before the first return.
    fn candidates(&self) -> impl Iterator<Item = usize> {
        let mut at = HEAD;
        std::iter::from_fn(move || {
            at = self.next[at];
            let (operation, is_return) = self.what[at];
            (!is_return).then_some(operation)
        })
    }

    fn lift(&mut self, operation: usize) {
        let (invoked, returned) = self.of_operation[operation];
        for entry in [invoked, returned] {
            let (previous, next) = (self.previous[entry], self.next[entry]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
    }

    /// Undoes the latest `lift` not yet undone.
    fn unlift(&mut self, operation: usize) {
        let (invoked, returned) = self.of_operation[operation];
        for entry in [returned, invoked] {
            let (previous, next) = (self.previous[entry], self.next[entry]);
            self.next[previous] = entry;
            self.previous[next] = entry;
        }
    }
}

/// One set of known operations on the path of the search.
struct Frame<S> {
    /// The known operation whose placing led here.
    placed: Option<usize>,
    set: u128,
    variants: Vec<Variant<S>>,
    variant: usize,
    /// What is to be done next with the current variant.
    turn: Turn,
}

#[derive(Clone, Copy, Debug)]
enum Turn {
    /// Place an operation that only observes, if one fits. Then no alternative need be tried: wherever it stands in an
    /// order, that order is as good without it, and here it fits.
    Observe,
    /// Place the next operation, from this entry on.
    Place(usize),
    /// Go on to the next variant, or back.
    Leave,
}

impl<S> Frame<S> {
    fn new(placed: Option<usize>, set: u128, first: Variant<S>) -> Frame<S> {
        Frame { placed, set, variants: vec![first], variant: 0, turn: Turn::Observe }
    }
}

/// Which sets of unknown operations were taken when a state and set of known operations were reached; none contains
/// another.
type Visited<S> = BTreeMap<(u128, S), Vec<Vec<u32>>>;

fn visit<S: Ord + Clone>(visited: &mut Visited<S>, set: u128, state: &S, taken: &[u32]) -> bool {
    let before = visited.entry((set, state.clone())).or_default();
    if before.iter().any(|fewer| is_subset(fewer, taken)) {
        return false;
    }
    before.retain(|more| !is_subset(taken, more));
    before.push(taken.to_vec());
    true
}

/// Both ascending.
fn is_subset(small: &[u32], large: &[u32]) -> bool {
    if small.len() > large.len() {
        return false;
    }
    let mut rest = large.iter();
    small.iter().all(|wanted| rest.any(|have| have == wanted))
}

/// A number that stands for a known operation in the hash of a set.
fn weight(operation: usize) -> u128 {
    let half = |salt: u64| {
        let mut x = (operation as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt;
        for factor in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
            x = (x ^ (x >> 30)).wrapping_mul(factor);
        }
        x ^ (x >> 31)
    };
    (u128::from(half(0)) << 64) | u128::from(half(0x6a09_e667_f3bc_c908))
}

fn search<M: Model>(model: &M, operations: &[Operation<M::Input, M::Output>], budget: &mut Budget) -> Found {
    let mut known: Vec<&Operation<M::Input, M::Output>> = Vec::new();
    let mut unknown: Vec<&Operation<M::Input, M::Output>> = Vec::new();
    for operation in operations {
        if operation.returned.is_some() { known.push(operation) } else { unknown.push(operation) }
    }
    let unknown = Unknown::new(model, unknown);
    let observers: Vec<bool> = known.iter().map(|operation| model.observes_only(operation)).collect();
    let spans: Vec<(u64, u64)> = known
        .iter()
        .map(|operation| {
            let returned = operation.returned.as_ref().expect("only operations with a known outcome are in this list");
            (operation.invoked.order, returned.0.order)
        })
        .collect();
    let mut entries = Entries::new(&spans);
    let mut visited: Visited<M::State> = BTreeMap::new();
    let first = Variant { state: model.initial(), taken: Vec::new(), chain: 0 };
    visit(&mut visited, 0, &first.state, &first.taken);
    let mut stuck = 0;
    let mut path = vec![Frame::new(None, 0, first)];
    while let Some(frame) = path.last_mut() {
        if entries.is_empty() {
            return Found::Linearizable;
        }
        if budget.steps == 0 {
            return Found::Undecided;
        }
        let variant = &frame.variants[frame.variant];
        let step = |operation: usize| {
            let told = known[operation].returned.as_ref().map(|(_, told)| told);
            model.step(&variant.state, &known[operation].input, told)
        };
        let placed = match frame.turn {
            Turn::Observe => {
                frame.turn = Turn::Place(entries.next[HEAD]);
                let mut observer = entries.candidates().inspect(|_| budget.steps = budget.steps.saturating_sub(1));
                let observer = observer.find(|operation| observers[*operation] && step(*operation).is_some());
                if observer.is_some() {
                    frame.turn = Turn::Leave;
                }
                observer.map(|operation| (operation, variant.state.clone()))
            }
            Turn::Place(cursor) => {
                let (operation, is_return) = entries.what[cursor];
                if is_return {
                    // No known operation leads on: see which unknown ones could have come before.
                    let bound = entries.order[cursor];
                    stuck = stuck.max(bound);
                    frame.turn = Turn::Leave;
                    let blocked: Vec<_> = entries.candidates().map(|operation| known[operation]).collect();
                    let Some(more) = unknown.extend(model, variant, &blocked, bound, budget) else {
                        return Found::Undecided;
                    };
                    for variant in more {
                        if visit(&mut visited, frame.set, &variant.state, &variant.taken) {
                            frame.variants.push(variant);
                        }
                    }
                    continue;
                }
                frame.turn = Turn::Place(entries.next[cursor]);
                budget.steps -= 1;
                step(operation).map(|state| (operation, state))
            }
            Turn::Leave => {
                frame.variant += 1;
                frame.turn = Turn::Observe;
                if frame.variant == frame.variants.len() {
                    if let Some(placed) = frame.placed {
                        entries.unlift(placed);
                    }
                    path.pop();
                }
                continue;
            }
        };
        let Some((operation, state)) = placed else { continue };
        let set = frame.set.wrapping_add(weight(operation));
        if visit(&mut visited, set, &state, &variant.taken) {
            let taken = variant.taken.clone();
            entries.lift(operation);
            path.push(Frame::new(Some(operation), set, Variant { state, taken, chain: 0 }));
        }
    }
    Found::Violation { stuck }
}

mod explain;
mod unknown;

#[cfg(test)]
mod tests;
