//! One fault alone.
//!
//! Most bugs need one fault, or none, and the others are in its way: they end leaderships, break connections, restart what
//! should stand still. A failure that hangs on luck is lost with any cut of a run like that, and all but certain once nothing
//! else disturbs it. So faults are tried by themselves, the latest before the violation first.

use super::lists::{Faults, List};
use super::{Shrinker, Trial};
use crate::engine::plan::Plan;

/// Each costs a run of the whole length.
const TRIED_MAX: usize = 16;

impl<T: Trial> Shrinker<'_, T> {
    /// Takes the plan with no fault, or else with one, if either fails.
    pub(super) fn one_fault(&mut self) {
        let plan = self.best.plan.clone();
        if plan.faults.len() < 2 {
            return;
        }
        let seen = self.best.at_ns.unwrap_or(plan.duration_ns);
        let mut numbers: Vec<usize> = (0..plan.faults.len()).collect();
        numbers.sort_by_key(|number| {
            let begins = plan.faults[*number].when.not_before_ns();
            (begins > seen, begins.abs_diff(seen))
        });
        let none = Faults.without(&plan, 0..plan.faults.len());
        let alone =
            numbers.into_iter().take(TRIED_MAX).map(|kept| Faults.filtered(&plan, &mut |number| number == kept));
        let candidates: Vec<Plan> = std::iter::once(none).chain(alone).collect();
        self.take_first(candidates);
    }
}
