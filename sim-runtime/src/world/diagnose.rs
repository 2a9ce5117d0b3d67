//! Why a run was given up, told so that a reader knows whom to ask: every task, where it was spawned, what it waits for.

use std::fmt::{self, Write};

use super::panics::PanicRecord;
use super::state::Inner;
use super::{HostId, Nanos};

/// Tasks listed by name; the rest is counted.
const TASKS_LISTED: usize = 64;

/// A run that ended without its main future.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// Nothing is runnable and no timer is left.
    Deadlock { at_ns: Nanos, tasks: Vec<TaskState> },
    /// Too many polls at one virtual instant. The busiest task comes first.
    Livelock { at_ns: Nanos, polls: u64, tasks: Vec<TaskState> },
    /// The virtual time is used up.
    TimeBudget { at_ns: Nanos, tasks: Vec<TaskState> },
    /// The number of events is used up.
    EventBudget { at_ns: Nanos, events: u64, tasks: Vec<TaskState> },
    /// A task panicked and nobody takes its result, or the main future panicked.
    Panic(PanicRecord),
    /// Somebody called `stop`.
    Stopped,
}

/// One task at the moment a run was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskState {
    pub host: HostId,
    pub host_name: String,
    pub boot: u32,
    pub name: String,
    /// `file:line:column` of the spawn.
    pub spawned_at: String,
    /// What it said it waits for at its last poll; empty when it did not say.
    pub waits_for: String,
    pub is_ready: bool,
    pub is_paused: bool,
    pub polls_at_instant: u64,
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TaskState { host_name, boot, name, spawned_at, waits_for, .. } = self;
        write!(f, "{host_name}#{boot} task `{name}` (spawned at {spawned_at}) ")?;
        match (self.is_paused, self.is_ready, waits_for.as_str()) {
            (true, true, _) => f.write_str("is ready on a paused host"),
            (_, true, _) => f.write_str("is ready"),
            (_, false, "") => f.write_str("waits for a future of its own"),
            (_, false, what) => write!(f, "waits for {what}"),
        }?;
        if self.polls_at_instant > 1 {
            write!(f, ", {} polls at this instant", self.polls_at_instant)?;
        }
        Ok(())
    }
}

impl Halt {
    /// The property that reports name: `deadlock`, `livelock`, `panic`, or `budget`.
    pub fn property(&self) -> &'static str {
        match self {
            Halt::Deadlock { .. } => "deadlock",
            Halt::Livelock { .. } => "livelock",
            Halt::TimeBudget { .. } | Halt::EventBudget { .. } => "budget",
            Halt::Panic(_) => "panic",
            Halt::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks = match self {
            Halt::Deadlock { at_ns, tasks } => {
                write!(f, "deadlock at {at_ns} ns: nothing is runnable and no timer is left")?;
                tasks
            }
            Halt::Livelock { at_ns, polls, tasks } => {
                write!(f, "livelock at {at_ns} ns: {polls} polls without time advancing")?;
                tasks
            }
            Halt::TimeBudget { at_ns, tasks } => {
                write!(f, "virtual time used up: the next timer is past the budget, at {at_ns} ns")?;
                tasks
            }
            Halt::EventBudget { at_ns, events, tasks } => {
                write!(f, "event budget used up after {events} events, at {at_ns} ns")?;
                tasks
            }
            Halt::Panic(panic) => {
                let PanicRecord { at_ns, host_name, boot, task, message, place, .. } = panic;
                return write!(f, "panic at {at_ns} ns on {host_name}#{boot}, task `{task}`: {message} ({place})");
            }
            Halt::Stopped => return f.write_str("stopped"),
        };
        f.write_str(&listed(tasks))
    }
}

/// A line for each task, the first of them if they are many.
pub(crate) fn listed(tasks: &[TaskState]) -> String {
    let mut text = String::new();
    for task in tasks.iter().take(TASKS_LISTED) {
        let _ = write!(text, "\n  {task}");
    }
    match tasks.len().saturating_sub(TASKS_LISTED) {
        0 => text,
        more => format!("{text}\n  and {more} more tasks"),
    }
}

impl std::error::Error for Halt {}

impl Inner {
    pub fn deadlock(&self) -> Halt {
        Halt::Deadlock { at_ns: self.now.get(), tasks: self.task_states() }
    }

    pub fn livelock(&self) -> Halt {
        let mut tasks = self.task_states();
        tasks.sort_by_key(|task| std::cmp::Reverse(task.polls_at_instant));
        Halt::Livelock { at_ns: self.now.get(), polls: self.polls_at_instant.get(), tasks }
    }

    pub fn budget_exhausted(&self, what: &str) -> Halt {
        let (at_ns, tasks) = (self.now.get(), self.task_states());
        match what {
            "events" => Halt::EventBudget { at_ns, events: self.trace.borrow().events(), tasks },
            _ => Halt::TimeBudget { at_ns, tasks },
        }
    }

    /// All tasks, by order of spawning.
    pub fn task_states(&self) -> Vec<TaskState> {
        let now = self.now.get();
        let tasks = self.tasks.borrow();
        let mut entries: Vec<_> = tasks.iter().map(|(_, entry)| entry).collect();
        entries.sort_by_key(|entry| entry.sequence);
        entries
            .into_iter()
            .map(|entry| {
                let mut waits_for = entry.waits_for.to_owned();
                if !entry.waits_on.is_empty() && !waits_for.is_empty() {
                    let _ = write!(waits_for, " `{}`", entry.waits_on);
                }
                TaskState {
                    host: entry.incarnation.host,
                    host_name: self.host_name(entry.incarnation.host),
                    boot: entry.incarnation.boot,
                    name: entry.name.to_owned(),
                    spawned_at: entry.spawned_at.to_string(),
                    waits_for,
                    is_ready: entry.scheduled,
                    is_paused: self.is_paused(entry.incarnation.host),
                    polls_at_instant: if entry.polled_at == now { entry.polls_at_instant } else { 0 },
                }
            })
            .collect()
    }
}
