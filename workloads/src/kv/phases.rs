//! Phases of a run: what all clients do more of for a while.
//!
//! A load that never changes keeps the store at one size and the log at one pace. Growth fills it, shrinking empties it
//! until reads and deletes find nothing, and quiet lets timers, elections and snapshots have the cluster to themselves.

use sim_runtime::world::Nanos;
use sim_runtime::world::draws::Stream;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Mixed,
    /// Hardly anything is removed.
    Grow,
    /// Most is removed.
    Shrink,
    /// Hardly anything is done.
    Quiet,
}

impl Phase {
    /// Operations come so many times more rarely.
    pub(super) fn slowness(self) -> u64 {
        if self == Phase::Quiet { 4 } else { 1 }
    }
}

/// The phases of a run in order, each with the time of its end.
#[derive(Debug)]
pub(super) struct Phases(Vec<(Nanos, Phase)>);

impl Phases {
    /// Half of the runs have one phase.
    pub(super) fn draw(duration_ns: Nanos, draws: &mut Stream) -> Phases {
        let mut phases = Vec::new();
        let mut ends_ns = 0;
        let changes = draws.below(2) == 0;
        while changes && ends_ns < duration_ns {
            let index = usize::try_from(draws.below(6)).expect("a small number");
            let phase = [Phase::Mixed, Phase::Mixed, Phase::Grow, Phase::Grow, Phase::Shrink, Phase::Quiet][index];
            let longest_ns = if phase == Phase::Quiet { duration_ns / 10 } else { duration_ns / 3 };
            ends_ns += 1 + duration_ns / 20 + draws.below(longest_ns.max(1));
            phases.push((ends_ns, phase));
        }
        Phases(phases)
    }

    pub(super) fn at(&self, at_ns: Nanos) -> Phase {
        let next = self.0.iter().find(|(ends_ns, _)| at_ns < *ends_ns);
        next.map_or(Phase::Mixed, |(_, phase)| *phase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_lasts_to_its_end() {
        let phases = Phases(vec![(10, Phase::Grow), (15, Phase::Quiet)]);
        assert_eq!([0, 9, 10, 14, 15, 99].map(|at| phases.at(at)), {
            use Phase::{Grow, Mixed, Quiet};
            [Grow, Grow, Quiet, Quiet, Mixed, Mixed]
        });
    }
}
