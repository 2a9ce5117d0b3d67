//! Large steps: random thinnings of everything at once.
//!
//! Cutting one stretch at a time needs hundreds of runs of a large plan, and a failure that hangs on luck is lost at
//! each. A plan with an eighth of everything rarely fails, but it runs fast, and there are many of them; one that does
//! fail saves more than any cut.

use super::lists::{FaultPoints, Faults, Knobs, List, Operations};
use super::{Shrinker, Trial};
use crate::world::Purpose;
use crate::world::draws::Key;

/// Percentages that are kept, and how many thinnings of each are tried.
const ROUNDS: [(u64, u64); 3] = [(10, 24), (25, 16), (60, 12)];

impl<T: Trial> Shrinker<'_, T> {
    /// Thins the plan until no thinning fails any more.
    pub(super) fn plunge(&mut self) {
        for (keep_percent, attempts) in ROUNDS {
            let mut depth = 0;
            loop {
                let (plan, knobs) = (self.best.plan.clone(), Knobs(self.knobs));
                if Operations.len(&plan) + Faults.len(&plan) <= SMALL {
                    return;
                }
                let thin = |attempt| {
                    let entity = crate::world::entity(&[keep_percent, depth, attempt]);
                    let mut draws = Key::of_seed(plan.seed).stream(Purpose("shrink"), entity);
                    let mut thinned = plan.clone();
                    for list in [&Operations as &dyn List, &Faults, &FaultPoints, &knobs] {
                        thinned = list.filtered(&thinned, &mut |_| draws.below(100) < keep_percent);
                    }
                    thinned.key = plan.key.wrapping_add(attempt);
                    thinned
                };
                if self.take_first((0..attempts).map(thin)).is_none() {
                    break;
                }
                depth += 1;
            }
        }
    }
}

/// Below this cutting is quicker.
const SMALL: usize = 12;
