//! Sessions live as long as they were promised, and not again (Ongaro's dissertation, section 6.3).
//!
//! - A session that nobody closed is known until nothing has used it for its time to live, in log time. Log time runs with
//!   the monotonic clocks of leaders, so no faster than those are wrong.
//! - Once a client was told that a session is gone, nobody who asks later is told otherwise.
//! - Once the cluster has converged a leader's clock runs on, and a session that nobody uses is gone soon after its time.
//! - A number is too low only if a higher one was used.

use std::collections::BTreeMap;

use aspen::command::{Command, Outcome};
use sim_runtime::checker::history::Moment;
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::super::client::Operations;
use crate::event::{Action, Event, OpResult};

#[derive(Debug, Default)]
pub struct SessionLifetime {
    operations: Operations,
    converged_at_ns: Option<Nanos>,
    clock_slow_ppm_max: u64,
}

/// What is known of one session.
#[derive(Default)]
struct Known {
    ttl_ms: u64,
    /// When each use began, and when it was acknowledged.
    uses: Vec<(Moment, Moment)>,
    /// When the first attempt to close it began.
    closing: Option<Moment>,
    /// When somebody was first told that it is gone.
    gone: Option<Moment>,
    /// Numbers, with the moment at which each was first used.
    numbers: BTreeMap<u64, u64>,
}

impl Oracle<Event> for SessionLifetime {
    fn property(&self) -> &'static str {
        "session-lifetime"
    }

    fn workload(&self) -> Option<&'static str> {
        Some("session-storm")
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        match &event.event {
            Event::Converged { result: Ok(()) } => self.converged_at_ns = Some(event.at_ns),
            Event::ClocksSlow { ppm_max } => self.clock_slow_ppm_max = *ppm_max,
            _ => {}
        }
        self.operations.on_event(event, judge);
    }

    fn finish(&mut self, _at_ns: Nanos, judge: &mut Judge<'_>) {
        let attempts = self.operations.attempts();
        let mut sessions: BTreeMap<u64, Known> = BTreeMap::new();
        // First what is known of each, then what was said.
        for operation in attempts {
            let Action::Write { session, command } = &*operation.input else { continue };
            let told = operation.returned.as_ref().and_then(|(moment, result)| match &**result {
                OpResult::Written(reply) => Some((*moment, &reply.outcome)),
                _ => None,
            });
            if let (Command::OpenSession { ttl_ms }, Some((told, Outcome::SessionOpened { session }))) = (command, told)
            {
                let known = sessions.entry(*session).or_default();
                known.ttl_ms = *ttl_ms;
                known.uses.push((operation.invoked, told));
            }
            if let Command::CloseSession { session } = command {
                let known = sessions.entry(*session).or_default();
                known.closing = Some(known.closing.map_or(operation.invoked, |before| before.min(operation.invoked)));
            }
            let used = match command {
                Command::RefreshSession { session } | Command::CloseSession { session } => Some(*session),
                _ => session.map(|name| name.session),
            };
            let Some(known) = used.map(|id| sessions.entry(id).or_default()) else { continue };
            if let Some(name) = session {
                known.numbers.entry(name.seq).or_insert(operation.invoked.order);
            }
            match told {
                Some((told, Outcome::SessionUnknown | Outcome::SessionClosed)) => {
                    known.gone = Some(known.gone.map_or(told, |before| before.min(told)));
                }
                Some((_, Outcome::SessionStale)) | None => {}
                Some((told, _)) => known.uses.push((operation.invoked, told)),
            }
        }
        for operation in attempts {
            let Action::Write { session, command } = &*operation.input else { continue };
            let used = match command {
                Command::RefreshSession { session } | Command::CloseSession { session } => Some(*session),
                _ => session.map(|name| name.session),
            };
            let (Some(id), Some((told, result))) = (used, &operation.returned) else { continue };
            let OpResult::Written(reply) = &**result else { continue };
            let known = &sessions[&id];
            let wrong = match &reply.outcome {
                Outcome::SessionUnknown => {
                    judge.evaluated(true);
                    early(known, operation.invoked, *told)
                }
                Outcome::SessionStale => {
                    let number = session.map_or(0, |name| name.seq);
                    let higher = known.numbers.range(number + 1..).any(|(_, first)| *first < told.order);
                    judge.evaluated(true);
                    (!higher).then(|| format!("number {number} was too low, but nobody had used a higher one"))
                }
                _ => {
                    judge.evaluated(known.gone.is_some());
                    let since = known.gone.filter(|gone| *gone < operation.invoked);
                    let again =
                        since.map(|gone| format!("it was served, but it had been gone since {} ns", gone.at_ns));
                    again.or_else(|| self.late(known, operation.invoked))
                }
            };
            if let Some(wrong) = wrong {
                judge.violated(told.at_ns, None, format!("operation {} of session {id}: {wrong}", operation.id));
            }
        }
    }
}

impl SessionLifetime {
    /// Why the session cannot have been there any more, if so: all its life was after the cluster had converged.
    fn late(&self, known: &Known, asked: Moment) -> Option<String> {
        let first = known.uses.iter().map(|(began, _)| began.at_ns).min()?;
        let last = known.uses.iter().filter(|(began, _)| *began < asked).map(|(_, told)| told.at_ns).max()?;
        if known.ttl_ms == 0 || self.converged_at_ns.is_none_or(|at_ns| first < at_ns) {
            return None;
        }
        let idle_ns = asked.at_ns.saturating_sub(last);
        let slowest_ns = idle_ns / 1_000_000 * 1_000_000u64.saturating_sub(self.clock_slow_ppm_max);
        let due_ns = known.ttl_ms.saturating_mul(1_000_000).saturating_add(STANDSTILL_NS);
        (slowest_ns > due_ns).then(|| {
            format!("it was there {} ms after its last use, it had {} ms to live", idle_ns / 1_000_000, known.ttl_ms)
        })
    }
}

/// Why the session cannot have been gone, if so.
fn early(known: &Known, asked: Moment, told: Moment) -> Option<String> {
    if known.ttl_ms == 0 || known.closing.is_some_and(|closing| closing < told) {
        return None;
    }
    let last = known.uses.iter().filter(|(_, acknowledged)| *acknowledged < asked).map(|(began, _)| *began).max()?;
    let passed_ns = told.at_ns.saturating_sub(last.at_ns);
    let fastest_ns = passed_ns.saturating_add(passed_ns / 100 * RATE_ERROR_PERCENT);
    let ttl_ns = known.ttl_ms.saturating_mul(1_000_000);
    (fastest_ns < ttl_ns).then(|| {
        format!("it was gone {} ms after its last use, {} ms were promised", passed_ns / 1_000_000, known.ttl_ms)
    })
}

/// Log time may stand still for so long after a change of leaders: the new one may lag in what it has applied.
const STANDSTILL_NS: u64 = 5_000_000_000;
/// No clock of a spec that this is judged under is faster by more.
const RATE_ERROR_PERCENT: u64 = 25;

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;
    use aspen::command::SessionSeq;

    fn opened(ttl_ms: u64) -> Run {
        let mut run = Run::new();
        let op = run.writes(0, Command::OpenSession { ttl_ms });
        run.told(op, 4, Outcome::SessionOpened { session: 4 });
        run
    }

    fn uses(run: &mut Run, seq: u64, outcome: Outcome) {
        let session = Some(SessionSeq { session: 4, seq });
        let op = run.begins(0, Action::Write { session, command: set("a", &seq.to_string()) });
        run.told(op, 10 + seq, outcome);
    }

    #[test]
    fn what_expired_in_time_or_was_closed_is_fine() {
        let mut run = opened(1);
        uses(&mut run, 1, Outcome::SessionUnknown);
        run.accepts(SessionLifetime::default());
        let mut run = opened(1000);
        uses(&mut run, 2, Outcome::Written { version: 1 });
        uses(&mut run, 1, Outcome::SessionStale);
        let op = run.writes(0, Command::CloseSession { session: 4 });
        run.told(op, 30, Outcome::SessionClosed);
        uses(&mut run, 3, Outcome::SessionUnknown);
        run.accepts(SessionLifetime::default());
    }

    #[test]
    fn a_session_that_expires_early_is_found() {
        let mut run = opened(1000);
        uses(&mut run, 1, Outcome::SessionUnknown);
        run.rejects(SessionLifetime::default(), "1000 ms were promised");
    }

    #[test]
    fn a_session_that_outlives_its_time_in_calm_is_found() {
        let idle = |ms: u64| {
            let mut run = Run::new();
            run.emit(0, Event::Converged { result: Ok(()) });
            let op = run.writes(0, Command::OpenSession { ttl_ms: 300 });
            run.told(op, 4, Outcome::SessionOpened { session: 4 });
            run.passes(ms);
            uses(&mut run, 1, Outcome::Written { version: 1 });
            run
        };
        idle(5_200).accepts(SessionLifetime::default());
        idle(6_000).rejects(SessionLifetime::default(), "it had 300 ms to live");
    }

    #[test]
    fn a_session_that_comes_back_is_found() {
        let mut run = opened(1);
        uses(&mut run, 1, Outcome::SessionUnknown);
        uses(&mut run, 2, Outcome::Written { version: 1 });
        run.rejects(SessionLifetime::default(), "it had been gone since");
    }

    #[test]
    fn a_number_too_low_for_no_reason_is_found() {
        let mut run = opened(1000);
        uses(&mut run, 1, Outcome::SessionStale);
        run.rejects(SessionLifetime::default(), "nobody had used a higher one");
    }
}
