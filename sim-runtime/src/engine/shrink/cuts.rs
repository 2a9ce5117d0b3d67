//! The removals of [`shrink`](super::shrink), one at a time, for whoever asks "and this one?" step by step.
//!
//! A test runner that owns the loop (proptest) cannot be handed to the shrinker as a [`Trial`](super::Trial): it wants
//! the next candidate when it is done with the one before. Here the shrinker's place in its loops is data.

use super::Size;
use super::lists::{Clients, FaultPoints, Faults, Knobs, List, Operations};
use super::simpler::sooner;
use crate::engine::plan::Plan;
use crate::engine::system::Knob;

/// Goes through the candidates for a smaller plan.
#[derive(Clone, Debug)]
pub struct Cuts {
    knobs: &'static [Knob],
    best: Plan,
    /// Which list is being cut; past the last one, times are.
    list: usize,
    /// Length of what is cut out, and where. Zero: this list is yet to be begun.
    part: usize,
    from: usize,
    /// Size of the plan when the lists were begun: as long as a round makes it smaller there is another.
    round: Size,
}

/// In the order in which they are cut: what takes most with it comes first.
const LISTS: usize = 5;

impl Cuts {
    /// Nothing is cut from `plan` yet.
    pub fn new(plan: Plan, knobs: &'static [Knob]) -> Cuts {
        let round = Size::of(&plan, knobs);
        Cuts { knobs, best: plan, list: 0, part: 0, from: 0, round }
    }

    /// The smallest plan that was accepted.
    pub fn best(&self) -> &Plan {
        &self.best
    }

    /// The next smaller plan. `None` when nothing more can be left out.
    pub fn next(&mut self) -> Option<Plan> {
        while self.list < LISTS {
            let len = with_list(self.list, self.knobs, |list| list.len(&self.best));
            if self.part == 0 {
                (self.part, self.from) = (len, 0);
            }
            if self.from < len {
                let range = self.from..(self.from + self.part).min(len);
                self.from = range.end;
                return Some(with_list(self.list, self.knobs, |list| list.without(&self.best, range)));
            }
            (self.part, self.from) = (self.part / 2, 0);
            if self.part == 0 {
                self.list += 1;
            }
        }
        let shorter = sooner(&self.best);
        if self.list == LISTS && shorter != self.best {
            return Some(shorter);
        }
        let size = Size::of(&self.best, self.knobs);
        if size == self.round {
            return None;
        }
        (self.round, self.list, self.part) = (size, 0, 0);
        self.next()
    }

    /// The candidate that [`Cuts::next`] gave last will do.
    pub fn accept(&mut self, candidate: Plan) {
        self.best = candidate;
        // What followed the removed part has moved to its place.
        self.from = self.from.saturating_sub(self.part);
    }

    /// The candidate that [`Cuts::next`] gave last will not do.
    pub fn refuse(&mut self) {
        if self.list == LISTS {
            // Times that cannot be halved now are not tried again in this round.
            self.list += 1;
        }
    }
}

fn with_list<T>(number: usize, knobs: &[Knob], use_it: impl FnOnce(&dyn List) -> T) -> T {
    match number {
        0 => use_it(&Faults),
        1 => use_it(&Clients),
        2 => use_it(&FaultPoints),
        3 => use_it(&Operations),
        _ => use_it(&Knobs(knobs)),
    }
}
