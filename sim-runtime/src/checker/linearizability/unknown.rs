//! When to take an operation whose outcome is not known.
//!
//! Wherever such an operation is in a valid order, it can be moved to a later place until what follows needs it, or be
//! left out if nothing does. So it is enough to take it right before an operation that goes on differently after it.

use super::super::history::Operation;
use super::{Budget, Model};

/// A state that is reached with some unknown operations taken.
pub(super) struct Variant<S> {
    pub state: S,
    /// Unknown operations taken so far, ascending.
    pub taken: Vec<u32>,
    /// How many of `taken` were taken since the last known operation.
    pub chain: u32,
}

/// The operations of a history whose outcome is not known, in the order of invocation.
pub(super) struct Unknown<'a, M: Model> {
    operations: Vec<&'a Operation<M::Input, M::Output>>,
    /// Per operation the latest earlier one with the same input. It is taken first: it may do whatever this one may.
    same_before: Vec<Option<u32>>,
    /// Per operation that overwrites the state: another unknown one that changes what it leaves.
    followed: Vec<bool>,
}

impl<'a, M: Model> Unknown<'a, M> {
    pub fn new(model: &M, mut operations: Vec<&'a Operation<M::Input, M::Output>>) -> Unknown<'a, M> {
        operations.sort_by_key(|operation| operation.invoked.order);
        let changes_what_is_left = |state: &M::State| {
            let mut others = operations.iter().filter(|other| !model.overwrites(&other.input));
            others.any(|other| model.step(state, &other.input, None).is_some_and(|next| next != *state))
        };
        let followed = operations
            .iter()
            .map(|operation| {
                model.overwrites(&operation.input)
                    && model
                        .step(&model.initial(), &operation.input, None)
                        .is_some_and(|left| changes_what_is_left(&left))
            })
            .collect();
        Unknown { same_before: earlier_equals(&operations), followed, operations }
    }

    /// The variants that one more unknown operation makes of `from`. `None` when the budget ran out.
    ///
    /// `next` are the known operations that may be placed next; unknown ones must have been invoked before `bound`.
    pub fn extend(
        &self,
        model: &M,
        from: &Variant<M::State>,
        next: &[&Operation<M::Input, M::Output>],
        bound: u64,
        budget: &mut Budget,
    ) -> Option<Vec<Variant<M::State>>> {
        let step = |state: &M::State, operation: &Operation<M::Input, M::Output>| {
            model.step(state, &operation.input, operation.returned.as_ref().map(|(_, told)| told))
        };
        let without: Vec<Option<M::State>> = next.iter().map(|operation| step(&from.state, operation)).collect();
        let mut variants = Vec::new();
        for (place, operation) in self.operations.iter().enumerate() {
            if operation.invoked.order > bound {
                break;
            }
            let index = u32::try_from(place).expect("a history has fewer than 2^32 operations");
            let taken_already = |index: &u32| from.taken.binary_search(index).is_ok();
            if taken_already(&index) || self.same_before[place].is_some_and(|earlier| !taken_already(&earlier)) {
                continue;
            }
            let overwrites = model.overwrites(&operation.input);
            // An overwrite makes what was taken in this chain pointless.
            if from.chain > 0 && overwrites {
                continue;
            }
            budget.steps = budget.steps.checked_sub(1)?;
            let Some(state) = model.step(&from.state, &operation.input, None) else { continue };
            if state == from.state {
                continue;
            }
            let needed = !overwrites
                || self.followed[place]
                || next.iter().zip(&without).any(|(known, without)| match (step(&state, known), without) {
                    (None, _) => false,
                    (Some(_), None) => true,
                    // It may as well come after an operation that only observes, and before which it makes no odds.
                    (Some(after), Some(before)) => after != *before && !(after == state && *before == from.state),
                });
            if needed {
                let mut taken = from.taken.clone();
                taken.insert(taken.partition_point(|have| *have < index), index);
                variants.push(Variant { state, taken, chain: from.chain + 1 });
            }
        }
        Some(variants)
    }
}

fn earlier_equals<I: PartialEq, O>(unknown: &[&Operation<I, O>]) -> Vec<Option<u32>> {
    let mut latest_of_each: Vec<usize> = Vec::new();
    let mut earlier = Vec::with_capacity(unknown.len());
    for (place, operation) in unknown.iter().enumerate() {
        match latest_of_each.iter_mut().find(|latest| unknown[**latest].input == operation.input) {
            Some(latest) => {
                earlier.push(Some(u32::try_from(*latest).expect("a history has fewer than 2^32 operations")));
                *latest = place;
            }
            None => {
                earlier.push(None);
                latest_of_each.push(place);
            }
        }
    }
    earlier
}
