//! Makes a violation small enough to be read.
//!
//! Only what may be left out is: the operations that are shown are not linearizable by themselves, so neither is the
//! history that has them. How small it gets depends on the budget.

use super::super::history::Operation;
use super::{Budget, Counterexample, Found, Model, search};

/// Makes a violation smaller: first the shortest prefix that is one, then without what may be left out.
///
/// Each step keeps "if the smaller history is a violation, so is the larger", so what is shown is a real one.
/// `stuck` is the return that the search could not get past: no shorter prefix is a violation.
pub(super) fn explain<M: Model>(
    model: &M,
    operations: &[Operation<M::Input, M::Output>],
    stuck: u64,
    budget: &mut Budget,
) -> Counterexample<M::Input, M::Output> {
    let mut violates = |candidate: &[Operation<M::Input, M::Output>]| {
        // Small histories are cheap; one that is not may not starve the others.
        let mut slice = Budget { steps: budget.steps / 4 };
        let before = slice.steps;
        let found = search(model, candidate, &mut slice);
        budget.steps -= before - slice.steps;
        match found {
            Found::Violation { .. } => Smaller::Violates,
            Found::Linearizable => Smaller::Fine,
            Found::Undecided if before < EXPLAIN_STEPS_MIN => Smaller::GiveUp,
            Found::Undecided => Smaller::Fine,
        }
    };
    let mut kept = shortest_prefix(operations, stuck, &mut violates);
    let mut round = 0;
    loop {
        let size = kept.len();
        // Observers that forbid leaving out most effects go first, in the first round.
        let broad: Vec<bool> = kept
            .iter()
            .map(|operation| round == 0 && model.observes_only(operation) && is_broad(model, &kept, operation))
            .collect();
        if broad.contains(&true) {
            drop_in_chunks(model, &mut kept, &broad, &mut violates);
        }
        let any = vec![true; kept.len()];
        let go_on = drop_in_chunks(model, &mut kept, &any, &mut violates);
        round += 1;
        if !go_on || (kept.len() == size && round > 1) {
            return Counterexample { operations: kept };
        }
    }
}

/// What a smaller history turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Smaller {
    Violates,
    /// Linearizable, or too hard to tell.
    Fine,
    /// The budget is used up.
    GiveUp,
}

/// Below so many steps a search is not worth beginning.
const EXPLAIN_STEPS_MIN: u64 = 1_000;

/// The observation depends on many effects of the history, as far as the first ones tell.
fn is_broad<M: Model>(
    model: &M,
    operations: &[Operation<M::Input, M::Output>],
    observer: &Operation<M::Input, M::Output>,
) -> bool {
    let effects = operations.iter().filter(|operation| !model.observes_only(operation)).take(16);
    effects.filter(|effect| !model.independent(effect, observer)).nth(2).is_some()
}

/// Removes what may go as long as the rest is a violation, in chunks of half of what is there down to one by one.
/// `false` when the budget was used up.
fn drop_in_chunks<M: Model>(
    model: &M,
    kept: &mut Vec<Operation<M::Input, M::Output>>,
    eligible: &[bool],
    violates: &mut impl FnMut(&[Operation<M::Input, M::Output>]) -> Smaller,
) -> bool {
    // What is still there, of the operations at the beginning.
    let mut there: Vec<usize> = (0..kept.len()).collect();
    let all = kept.clone();
    // Per operation with an effect one that needs it.
    let mut blocker: Vec<Option<usize>> = vec![None; all.len()];
    let mut chunk = all.len().div_ceil(2);
    let mut go_on = true;
    while chunk > 0 && go_on {
        let mut from = 0;
        while from < there.len() && go_on {
            let to = (from + chunk).min(there.len());
            let mut stays: Vec<bool> = (0..there.len())
                .map(|at| !((from..to).contains(&at) && eligible[there[at]] && model.observes_only(&all[there[at]])))
                .collect();
            for at in from..to {
                let place = there[at];
                if !stays[at] || !eligible[place] || model.observes_only(&all[place]) {
                    continue;
                }
                // What was in the way last time mostly still is.
                let in_the_way =
                    |other: usize| stays[other] && other != at && !model.independent(&all[place], &all[there[other]]);
                let still = blocker[place].and_then(|blocker| there.binary_search(&blocker).ok());
                let found =
                    still.filter(|other| in_the_way(*other)).or_else(|| (0..there.len()).find(|at| in_the_way(*at)));
                blocker[place] = found.map(|other| there[other]);
                stays[at] = found.is_some();
            }
            let smaller: Vec<usize> =
                there.iter().zip(&stays).filter(|(_, stays)| **stays).map(|(place, _)| *place).collect();
            let removed = there.len() - smaller.len();
            from = to;
            if removed > 0 {
                let candidate: Vec<_> = smaller.iter().map(|place| all[*place].clone()).collect();
                let found = violates(&candidate);
                go_on = found != Smaller::GiveUp;
                if found == Smaller::Violates {
                    there = smaller;
                    from -= removed;
                }
            }
        }
        chunk = chunk.min(there.len()) / 2;
    }
    *kept = there.into_iter().map(|place| all[place].clone()).collect();
    go_on
}

/// The shortest prefix (by returns) that is a violation. A prefix of a linearizable history is linearizable.
fn shortest_prefix<I: Clone, O: Clone>(
    operations: &[Operation<I, O>],
    stuck: u64,
    violates: &mut impl FnMut(&[Operation<I, O>]) -> Smaller,
) -> Vec<Operation<I, O>> {
    let mut violates = |candidate: &[Operation<I, O>]| violates(candidate) == Smaller::Violates;
    let mut returns: Vec<u64> =
        operations.iter().filter_map(|operation| operation.returned.as_ref().map(|(moment, _)| moment.order)).collect();
    returns.sort_unstable();
    returns.retain(|order| *order >= stuck);
    let prefix = |last_return: u64| -> Vec<Operation<I, O>> {
        let mut kept: Vec<Operation<I, O>> =
            operations.iter().filter(|operation| operation.invoked.order <= last_return).cloned().collect();
        for operation in &mut kept {
            if operation.returned.as_ref().is_some_and(|(moment, _)| moment.order > last_return) {
                operation.returned = None;
            }
        }
        kept.sort_by_key(|operation| operation.invoked.order);
        kept
    };
    // Mostly it is the return at which the search was stuck, or one soon after: double the distance, then halve it.
    let (mut low, mut high) = (0, 0);
    let last = returns.len().saturating_sub(1);
    while high < last && !violates(&prefix(returns[high])) {
        low = high + 1;
        high = (high * 2 + 1).min(last);
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if violates(&prefix(returns[middle])) { high = middle } else { low = middle + 1 }
    }
    let shortest = returns.get(high).map(|last| prefix(*last)).unwrap_or_default();
    // An undecided prefix may have misled the search: then nothing is cut.
    if violates(&shortest) { shortest } else { prefix(u64::MAX) }
}
