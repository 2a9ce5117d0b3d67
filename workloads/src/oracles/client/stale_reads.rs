//! Stale reads keep the bound that they promise, and time does not go back for a client that asks for it.
//!
//! A state that is at most `max_age` old when it is read contains everything that was acknowledged before the read began,
//! less `max_age`. The node measures the age by its own monotonic clock, which may be slow: the bound is judged under the
//! greatest rate error of the run, and not at all where that leaves nothing to judge. (Bailis and others, "Probabilistically
//! bounded staleness", 2012, call this t-visibility, here with certainty; Terry and others, "Session guarantees", 1994, the
//! rest.) That what is read is a state that ever was is the business of order by revision.

use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::{Fate, Operations, Write, fate, revision};
use crate::event::{Action, Event};

#[derive(Debug)]
pub struct StaleReads {
    operations: Operations,
    /// By so many ppm a server's clock may be too slow.
    clock_slow_ppm_max: u64,
}

/// Where nobody says how wrong the clocks are: real ones, slewed at the usual limit of 500 ppm each.
const CLOCK_SLOW_PPM: u64 = 1_000;
/// A clock that may be slower than this says too little.
const CLOCK_SLOW_PPM_JUDGED: u64 = 900_000;

impl Default for StaleReads {
    fn default() -> Self {
        StaleReads { operations: Operations::default(), clock_slow_ppm_max: CLOCK_SLOW_PPM }
    }
}

impl Oracle<Event> for StaleReads {
    fn property(&self) -> &'static str {
        "stale-reads"
    }

    fn workload(&self) -> Option<&'static str> {
        Some("kv")
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        if let Event::ClocksSlow { ppm_max } = event.event {
            self.clock_slow_ppm_max = ppm_max;
        }
        self.operations.on_event(event, judge);
    }

    fn finish(&mut self, _at_ns: Nanos, judge: &mut Judge<'_>) {
        let operations = self.operations.attempts();
        let told = Told::new(operations);
        for operation in operations {
            let (Action::StaleRead { bound, .. }, Fate::Answered(answer)) = (&*operation.input, fate(operation)) else {
                continue;
            };
            let at_ns = operation.returned.as_ref().map_or(0, |(moment, _)| moment.at_ns);
            if let Some(min) = bound.min_revision {
                judge.evaluated(true);
                if answer.revision < min {
                    let message = format!(
                        "operation {} asked for revision {min} at least and read revision {}",
                        operation.id, answer.revision
                    );
                    judge.violated(at_ns, None, message);
                }
            }
            let Some(max_age) = bound.max_age.filter(|_| self.clock_slow_ppm_max < CLOCK_SLOW_PPM_JUDGED) else {
                continue;
            };
            let max_age_ns = u64::try_from(max_age.as_nanos()).unwrap_or(u64::MAX);
            let real_ns = real(max_age_ns, self.clock_slow_ppm_max);
            let since_ns = operation.invoked.at_ns.saturating_sub(real_ns);
            let due = told.before(since_ns);
            judge.evaluated(due.is_some());
            if let Some((due, by)) = due.filter(|(due, _)| *due > answer.revision) {
                let message = format!(
                    "operation {} read revision {}, at most {max_age:?} old, but revision {due} had been told (by operation \
                     {by}) more than that before it began",
                    operation.id, answer.revision
                );
                judge.violated(at_ns, None, message);
            }
        }
    }
}

/// How long it takes at most until a clock that is too slow by `slow_ppm` has counted `counted_ns`.
fn real(counted_ns: u64, slow_ppm: u64) -> u64 {
    let real = u128::from(counted_ns) * 1_000_000 / u128::from(1_000_000 - slow_ppm);
    // The clock counts whole nanoseconds.
    u64::try_from(real).unwrap_or(u64::MAX).saturating_add(2)
}

/// The highest revision that anybody had been told, over time.
struct Told {
    /// Time, revision, and the operation that tells; each ascending.
    steps: Vec<(Nanos, u64, u64)>,
}

impl Told {
    fn new(operations: &[Write]) -> Told {
        let mut told: Vec<(Nanos, u64, u64)> = operations
            .iter()
            .filter_map(|operation| {
                let (moment, _) = operation.returned.as_ref()?;
                Some((moment.at_ns, revision(operation)?, operation.id))
            })
            .collect();
        told.sort_unstable();
        let mut steps: Vec<(Nanos, u64, u64)> = Vec::new();
        for step in told {
            if steps.last().is_none_or(|(_, highest, _)| *highest < step.1) {
                steps.push(step);
            }
        }
        Told { steps }
    }

    /// What had been told before `at_ns`, and by which operation.
    fn before(&self, at_ns: Nanos) -> Option<(u64, u64)> {
        let after = self.steps.partition_point(|(told_ns, _, _)| *told_ns < at_ns);
        self.steps[..after].last().map(|(_, revision, by)| (*revision, *by))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aspen::message::StaleBound;

    use super::super::super::testing::*;
    use super::*;

    fn within(ms: u64) -> StaleBound {
        StaleBound { max_age: Some(Duration::from_millis(ms)), min_revision: None }
    }

    fn from(revision: u64) -> StaleBound {
        StaleBound { max_age: None, min_revision: Some(revision) }
    }

    /// Revision 5 is told at 1 s, 6 at 2 s; then a read at 2.5 s.
    fn read(bound: StaleBound, sees: u64) -> Run {
        let mut run = Run::new();
        run.passes(1000).wrote(set("a", "1"), 5, 1);
        run.passes(1000).wrote(set("a", "2"), 6, 2);
        run.passes(500).read_stale(get("a"), bound, sees);
        run
    }

    #[test]
    fn an_old_state_within_the_bound_is_fine() {
        read(within(400), 6).accepts(StaleReads::default());
        read(within(600), 5).accepts(StaleReads::default());
        read(within(2000), 0).accepts(StaleReads::default());
        read(from(5), 5).accepts(StaleReads::default());
        read(from(5), 6).accepts(StaleReads::default());
    }

    #[test]
    fn a_state_beyond_the_bound_is_found() {
        read(within(400), 5).rejects(StaleReads::default(), "revision 6 had been told");
        read(within(1400), 4).rejects(StaleReads::default(), "revision 5 had been told");
        read(from(6), 5).rejects(StaleReads::default(), "asked for revision 6 at least and read revision 5");
    }

    #[test]
    fn a_slow_clock_counts_the_age_late() {
        let mut run = Run::new();
        run.emit(0, Event::ClocksSlow { ppm_max: 200_000 });
        run.passes(1000).wrote(set("a", "1"), 5, 1);
        // 400 ms by a clock that is a fifth too slow are 500 ms.
        run.passes(450).read_stale(get("a"), within(400), 4);
        run.accepts(StaleReads::default());
        let mut run = Run::new();
        run.emit(0, Event::ClocksSlow { ppm_max: 200_000 });
        run.passes(1000).wrote(set("a", "1"), 5, 1);
        run.passes(550).read_stale(get("a"), within(400), 4);
        run.rejects(StaleReads::default(), "revision 5 had been told");
    }
}
