//! What a node keeps is bounded, however long it runs: its log by the distance of snapshots, its disk by what is stored
//! (Raft, section 7: the log is compacted, so that it does not use up the disk).
//!
//! The bound allows for a few snapshots that were late, for files whose space is kept to be used again, and for every large
//! value that was ever written, since few of them are more than all else. Superseded snapshots
//! are counted: small ones pass under any bound in bytes for long.

use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::super::client::effects;
use super::super::raft::named;
use crate::event::{Action, Event};

#[derive(Debug, Default)]
pub struct Bounded {
    /// Of all values larger than [`ENTRY_BYTES`] that clients wrote.
    large_bytes: u64,
}

impl Oracle<Event> for Bounded {
    fn property(&self) -> &'static str {
        "bounded"
    }

    fn workload(&self) -> Option<&'static str> {
        // Owed where an operator looks after the nodes: the runs that are long enough.
        Some("admin")
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        if let Event::Invoked { action, .. } = &event.event
            && let Action::Write { command, .. } = &**action
        {
            let values = effects(command).into_iter().filter_map(|(_, value)| value);
            let bytes = values.map(|value| u64::try_from(value.len()).unwrap_or(u64::MAX));
            self.large_bytes += bytes.filter(|bytes| *bytes > ENTRY_BYTES).sum::<u64>();
        }
        let Event::Usage { node, usage } = &event.event else { return };
        let log_max = usage.compacted_at * LATE_SNAPSHOTS_MAX + SLACK_ENTRIES;
        let disk_max = SLACK_BYTES + usage.compacted_at * ENTRY_BYTES + self.large_bytes * COPIES;
        judge.evaluated(usage.last_index > 0);
        if usage.log_entries > log_max {
            let message = format!(
                "the log keeps {} applied entries of {}, with a snapshot every {} it may have {log_max}",
                usage.log_entries, usage.last_index, usage.compacted_at
            );
            judge.violated(event.at_ns, named(*node), message);
        }
        if usage.snapshots > SNAPSHOTS_MAX {
            let message = format!("the disk holds {} snapshots, {SNAPSHOTS_MAX} are allowed", usage.snapshots);
            judge.violated(event.at_ns, named(*node), message);
        }
        if usage.disk_bytes > disk_max {
            let message = format!("the disk holds {} bytes, {disk_max} are allowed", usage.disk_bytes);
            judge.violated(event.at_ns, named(*node), message);
        }
    }

    fn finish(&mut self, _at_ns: Nanos, _judge: &mut Judge<'_>) {}
}

/// Snapshots that may be late in a row.
const LATE_SNAPSHOTS_MAX: u64 = 4;
/// The newest one, and superseded ones that are still being sent to the other nodes.
const SNAPSHOTS_MAX: u64 = 8;
/// Entries that come while a snapshot is built on a slow disk.
const SLACK_ENTRIES: u64 = 2_000;
/// An empty node, its state, two snapshots and a write-ahead log.
const SLACK_BYTES: u64 = 48 << 20;
/// An entry takes less in the log, on average.
const ENTRY_BYTES: u64 = 16 << 10;
/// Of a value: in the log and in pages that it left there, in the state and in its write-ahead log, in two snapshots.
const COPIES: u64 = 6;

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;
    use crate::event::Usage;
    use aspen::command::Command;

    fn used(log_entries: u64, disk_bytes: u64) -> Run {
        let mut run = Run::new();
        let usage = Usage { log_entries, last_index: 50_000, compacted_at: 90, disk_bytes, snapshots: 2 };
        run.emit(1, Event::Usage { node: 1, usage });
        run
    }

    #[test]
    fn a_compacted_log_is_fine() {
        used(120, 3 << 20).accepts(Bounded::default());
    }

    #[test]
    fn superseded_snapshots_that_stay_are_found() {
        let mut run = Run::new();
        let usage = Usage { log_entries: 5, last_index: 900, compacted_at: 90, disk_bytes: 3 << 20, snapshots: 9 };
        run.emit(1, Event::Usage { node: 1, usage });
        run.rejects(Bounded::default(), "the disk holds 9 snapshots");
    }

    #[test]
    fn large_values_may_take_room_and_small_ones_may_not() {
        let run = |bytes: usize| {
            let mut run = Run::new();
            for revision in 0..10 {
                run.wrote(Command::Set { key: b"k".to_vec(), value: vec![0; bytes] }, 5 + revision, 1);
            }
            let usage =
                Usage { log_entries: 120, last_index: 50_000, compacted_at: 90, disk_bytes: 60 << 20, snapshots: 2 };
            run.emit(1, Event::Usage { node: 1, usage });
            run
        };
        run(1 << 20).accepts(Bounded::default());
        run(1 << 10).rejects(Bounded::default(), "the disk holds");
    }

    #[test]
    fn a_log_and_a_disk_that_only_grow_are_found() {
        used(49_000, 3 << 20).rejects(Bounded::default(), "the log keeps 49000 applied entries of 50000");
        used(120, 3 << 30).rejects(Bounded::default(), "the disk holds");
    }
}
