//! Convergence: once faults are over the cluster elects a leader, everybody catches up, a fresh write is acknowledged
//! and reads are served (Raft, section 5.6: steady leadership as long as broadcast time is much below the election
//! timeout).
//!
//! How long that may take is computed by whoever drives the run; here it counts that it did happen, and that the reads
//! that follow were answered; what is asked of a single node, whoever leads, is none of them.

use std::collections::BTreeSet;

use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use crate::event::{Action, Event, OpResult};

#[derive(Debug, Default)]
pub struct Convergence {
    calm_at_ns: Option<Nanos>,
    converged_at_ns: Option<Nanos>,
    /// Operations that began after convergence and have not ended.
    open: BTreeSet<u64>,
}

impl Oracle<Event> for Convergence {
    fn property(&self) -> &'static str {
        "convergence"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        match &event.event {
            Event::Calm => self.calm_at_ns = Some(event.at_ns),
            Event::Converged { result } => {
                judge.evaluated(true);
                match result {
                    Ok(()) => self.converged_at_ns = Some(event.at_ns),
                    Err(reason) => {
                        let message = format!("the cluster does not converge once faults are over: {reason}");
                        judge.violated(event.at_ns, None, message);
                    }
                }
            }
            // A stale read may be meant for one node, also for one that is down for good.
            Event::Invoked { op, action, .. }
                if self.converged_at_ns.is_some() && !matches!(**action, Action::StaleRead { .. }) =>
            {
                self.open.insert(*op);
            }
            Event::Returned { op, result, .. } if self.open.remove(op) => {
                judge.evaluated(true);
                if let OpResult::Failed(reason) | OpResult::Unknown(reason) = &**result {
                    let message = format!("operation {op} was not served though the cluster had converged: {reason}");
                    judge.violated(event.at_ns, None, message);
                }
            }
            _ => {}
        }
    }

    fn finish(&mut self, at_ns: Nanos, judge: &mut Judge<'_>) {
        if let Some(calm_at_ns) = self.calm_at_ns
            && self.converged_at_ns.is_none()
        {
            let waited = (at_ns - calm_at_ns) / 1_000_000;
            judge
                .undecided(format!("the run ended {waited} ms after the last fault, before the cluster had converged"));
        }
        for op in &self.open {
            judge.violated(at_ns, None, format!("operation {op}, begun after the cluster had converged, never ended"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;

    fn converged(result: Result<(), String>) -> Run {
        let mut run = Run::new();
        run.emit(0, Event::Calm).emit(0, Event::Converged { result });
        run
    }

    #[test]
    fn a_cluster_that_converges_and_serves_is_fine() {
        let mut run = converged(Ok(()));
        run.read("a", 5, vec![]);
        run.accepts(Convergence::default());
    }

    #[test]
    fn a_cluster_that_does_not_is_found() {
        converged(Err("two nodes lead".to_owned())).rejects(Convergence::default(), "two nodes lead");
    }

    #[test]
    fn a_read_that_is_refused_afterwards_is_found() {
        let mut run = converged(Ok(()));
        let op = run.reads(0, get("a"));
        run.ends(op, OpResult::Failed("no leader".to_owned()));
        run.rejects(Convergence::default(), "was not served");
        let mut run = converged(Ok(()));
        run.reads(0, get("a"));
        run.rejects(Convergence::default(), "never ended");
    }

    #[test]
    fn a_node_that_is_down_for_good_need_not_answer_for_itself() {
        let mut run = converged(Ok(()));
        run.read("a", 5, vec![]);
        let op = run.begins(0, Action::StaleRead { query: get("a"), bound: Default::default() });
        run.ends(op, OpResult::Failed("nobody there".to_owned()));
        run.accepts(Convergence::default());
    }

    #[test]
    fn a_run_that_is_cut_short_is_undecided() {
        let mut run = Run::new();
        run.emit(0, Event::Calm);
        assert!(!run.verdicts(Convergence::default()).undecided().is_empty());
    }
}
