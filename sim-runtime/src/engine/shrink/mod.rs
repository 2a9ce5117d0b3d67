//! From a failing plan to a small one that still fails the same way.
//!
//! Delta debugging (Zeller and Hildebrandt, TSE 2002, `ddmin` without complements) over everything that a plan lists:
//! clients, faults, live fault points, operations, tunables, the noise of the world, servers, times. Since draws are
//! functions of stable names, what is removed reshuffles nothing else; a candidate that passes by bad luck is given
//! other keys. One fault alone ([`alone`]), stretches of the run ([`stretches`]) and random thinnings ([`plunge`]) come first,
//! since a small plan runs faster than a large one.
//!
//! The shrinker decides what to try; whoever runs it decides how ([`Trial`]): in processes side by side, or in a test.

mod alone;
#[cfg(feature = "proptest")]
pub(super) mod cuts;
mod lists;
mod plunge;
mod simpler;
mod stretches;

use super::plan::Plan;
use super::system::Knob;
use crate::world::Nanos;

/// A plan that still fails, and when it did.
#[derive(Clone, Debug, PartialEq)]
pub struct Failing {
    pub plan: Plan,
    /// Virtual time of the violation in ns; `None` when the run died without a record.
    pub at_ns: Option<Nanos>,
}

/// Runs candidates.
pub trait Trial {
    /// The first of `candidates` that still fails as the original did, by its number, perhaps under another key. `None`
    /// when none does, or when there is no time left.
    fn first_failing(&mut self, candidates: impl Iterator<Item = Plan> + Send) -> Option<(usize, Failing)>;

    /// No time is left.
    fn is_over(&self) -> bool;
}

/// How much there is in a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub servers: u32,
    /// Clients with operations.
    pub clients: usize,
    pub operations: usize,
    pub faults: usize,
    /// Live fault points.
    pub fault_points: usize,
    /// Tunables that differ from their defaults.
    pub knobs: usize,
    pub duration_ns: Nanos,
}

impl Size {
    pub fn of(plan: &Plan, knobs: &[Knob]) -> Size {
        Size {
            servers: plan.servers,
            clients: plan.clients.iter().filter(|client| !client.ops.is_empty()).count(),
            operations: plan.clients.iter().map(|client| client.ops.len()).sum(),
            faults: plan.faults.len(),
            fault_points: plan.buggify.live.len(),
            knobs: knobs.iter().filter(|knob| plan.knobs.get(knob.name) != Some(&knob.default)).count(),
            duration_ns: plan.duration_ns,
        }
    }
}

/// Makes `failing` as small as `trial` allows. `knobs` are the tunables of the system with their defaults.
pub fn shrink(failing: Failing, knobs: &[Knob], trial: &mut impl Trial) -> Failing {
    let mut shrinker = Shrinker { best: failing, knobs, trial };
    shrinker.end_earlier();
    shrinker.one_fault();
    shrinker.shortest_stretch();
    shrinker.simplify_at_once();
    shrinker.plunge();
    loop {
        let before = shrinker.best.plan.clone();
        shrinker.end_earlier();
        shrinker.shortest_stretch();
        shrinker.simplify_at_once();
        shrinker.reduce(lists::Faults);
        shrinker.reduce(lists::Clients);
        shrinker.reduce(lists::FaultPoints);
        shrinker.reduce(lists::Operations);
        shrinker.reduce(lists::Knobs(knobs));
        shrinker.simplify();
        if shrinker.best.plan == before || shrinker.trial.is_over() {
            return shrinker.best;
        }
    }
}

struct Shrinker<'a, T> {
    best: Failing,
    knobs: &'a [Knob],
    trial: &'a mut T,
}

impl<T: Trial> Shrinker<'_, T> {
    /// Takes the first candidate that still fails.
    fn take_first(&mut self, candidates: impl IntoIterator<Item = Plan, IntoIter: Send>) -> Option<usize> {
        if self.trial.is_over() {
            return None;
        }
        let (number, failing) = self.trial.first_failing(candidates.into_iter())?;
        self.best = failing;
        Some(number)
    }

    /// Takes the candidate if it is another plan and still fails.
    fn take(&mut self, candidate: Plan) -> bool {
        candidate != self.best.plan && self.take_first([candidate]).is_some()
    }

    /// Removes as much of a list as possible: first large parts, then smaller ones, at last single elements.
    fn reduce(&mut self, list: impl lists::List) {
        let mut part = list.len(&self.best.plan);
        while part > 0 && !self.trial.is_over() {
            let mut from = 0;
            loop {
                let len = list.len(&self.best.plan);
                let starts: Vec<usize> = (from..len).step_by(part).collect();
                let plan = self.best.plan.clone();
                let candidates = starts.iter().map(|&start| list.without(&plan, start..(start + part).min(len)));
                match self.take_first(candidates) {
                    // What follows the removed part has moved to its place.
                    Some(number) => from = starts[number],
                    None => break,
                }
            }
            part /= 2;
        }
    }
}

#[cfg(test)]
mod tests;
