//! Exactly once (Ongaro's dissertation, section 6.3): an operation has at most one effect, however often it was retried;
//! with a session, one per session and sequence number.
//!
//! An effect has a revision. All revisions under which a write was acknowledged, to any attempt, and under which its
//! value was seen, must be one.

use std::collections::BTreeMap;

use aspen::command::{Outcome, SessionSeq};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::{Fate, Operations, Write, Writers, fate, observed_rows};
use crate::event::{Action, Event};

#[derive(Debug, Default)]
pub struct ExactlyOnce {
    operations: Operations,
}

/// Where an effect was seen: its revision, by which operation, when.
type Evidence = BTreeMap<u64, (u64, Nanos)>;

fn acknowledged_effect(operation: &Write) -> Option<u64> {
    match fate(operation) {
        Fate::Acknowledged(reply) if !matches!(reply.outcome, Outcome::Nothing) => Some(reply.revision),
        _ => None,
    }
}

impl Oracle<Event> for ExactlyOnce {
    fn property(&self) -> &'static str {
        "exactly-once"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        self.operations.on_event(event, judge);
    }

    fn finish(&mut self, _at_ns: Nanos, judge: &mut Judge<'_>) {
        let attempts = self.operations.attempts();
        let ended = |operation: &Write| operation.returned.as_ref().map_or(0, |(moment, _)| moment.at_ns);
        // Attempts with the same session and number count as the first of them.
        let mut first_of: BTreeMap<SessionSeq, usize> = BTreeMap::new();
        let mut same_as: Vec<usize> = (0..attempts.len()).collect();
        let mut evidence: BTreeMap<usize, Evidence> = BTreeMap::new();
        let mut looked_at: BTreeMap<usize, u64> = BTreeMap::new();
        let mut see = |place: usize, revision: u64, by: &Write| {
            evidence.entry(place).or_default().entry(revision).or_insert((by.id, ended(by)));
            *looked_at.entry(place).or_default() += 1;
        };
        for (place, operation) in attempts.iter().enumerate() {
            if let Action::Write { session: Some(number), .. } = &*operation.input {
                same_as[place] = *first_of.entry(*number).or_insert(place);
            }
            if let Some(revision) = acknowledged_effect(operation) {
                see(same_as[place], revision, operation);
            }
        }
        let same_as_first = same_as.clone();
        let merged = self.operations.all();
        let writers = Writers::new(&merged, judge);
        let place_of: BTreeMap<u64, usize> =
            attempts.iter().enumerate().map(|(place, operation)| (operation.id, place)).collect();
        for (reader, row) in observed_rows(&merged) {
            if let Ok(Some(writer)) = writers.of(&row.key, &row.value) {
                see(same_as_first[place_of[&merged[writer].id]], row.meta.mod_revision, reader);
            }
        }
        for (place, evidence) in evidence {
            judge.evaluated(looked_at[&place] > 1);
            let mut revisions = evidence.iter();
            if let (Some((first, (by, _))), Some((second, (later_by, at_ns)))) = (revisions.next(), revisions.next()) {
                let message = format!(
                    "operation {} took effect twice: at revision {first} (operation {by} tells) and at {second} \
                     (operation {later_by} tells)",
                    attempts[place].id
                );
                judge.violated(*at_ns, None, message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;

    #[test]
    fn one_effect_is_fine_seen_by_many() {
        let mut run = Run::new();
        run.wrote(set("a", "1"), 5, 1);
        run.read("a", 6, vec![row("a", "1", (5, 5, 1))]).read("a", 7, vec![row("a", "1", (5, 5, 1))]);
        run.accepts(ExactlyOnce::default());
    }

    #[test]
    fn an_acknowledged_write_seen_at_another_revision_is_found() {
        let mut run = Run::new();
        run.wrote(set("a", "1"), 5, 1).read("a", 9, vec![row("a", "1", (5, 8, 2))]);
        run.rejects(ExactlyOnce::default(), "operation 1 took effect twice: at revision 5");
    }

    #[test]
    fn an_unknown_write_seen_at_two_revisions_is_found() {
        let mut run = Run::new();
        run.lost(0, set("a", "1"));
        run.read("a", 6, vec![row("a", "1", (5, 5, 1))]).read("a", 9, vec![row("a", "1", (5, 8, 2))]);
        run.rejects(ExactlyOnce::default(), "at 8 (operation 3 tells)");
    }

    #[test]
    fn a_retry_that_is_answered_with_another_revision_is_found() {
        let session = Some(SessionSeq { session: 4, seq: 1 });
        let mut run = Run::new();
        for revision in [5, 6] {
            let op = run.begins(0, Action::Write { session, command: delete("a") });
            run.told(op, revision, Outcome::Deleted { existed: true });
        }
        run.rejects(ExactlyOnce::default(), "operation 1 took effect twice");
    }
}
