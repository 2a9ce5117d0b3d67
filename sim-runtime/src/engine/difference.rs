//! Where two runs of the same request part.
//!
//! Digests are rolling, so once two runs differ every later checkpoint differs too; the first differing one brackets
//! the first differing event.

use std::fmt;

use super::record::{RunRecord, TraceEvent};
use serde::Serialize;

/// Two runs that should have been the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// In one sentence.
    pub message: String,
    /// Events (first, past the last) that contain the first differing one.
    pub window: Option<(u64, u64)>,
    /// Number of the first differing event.
    pub first_event: Option<u64>,
    /// It, on either side; null where that side had ended.
    pub left: Option<TraceEvent>,
    pub right: Option<TraceEvent>,
    /// The equal events before it.
    pub before: Vec<TraceEvent>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for event in &self.before {
            write!(f, "\n  both  {event}")?;
        }
        for (side, event) in [("one", &self.left), ("other", &self.right)] {
            if let Some(event) = event {
                write!(f, "\n  {side:5} {event}")?;
            }
        }
        Ok(())
    }
}

/// Equal events shown before the first differing one.
const BEFORE_MAX: usize = 8;

impl Difference {
    fn new(message: String, window: Option<(u64, u64)>) -> Difference {
        Difference { message, window, first_event: None, left: None, right: None, before: Vec::new() }
    }

    /// Compares digests, checkpoints, and everything else that a run reports; `None` when all are equal.
    pub fn between(left: &RunRecord, right: &RunRecord) -> Option<Difference> {
        if let Some(window) = differing_window(left, right) {
            let (from, to) = window;
            let message = format!("the digests part between event {from} and event {to}");
            return Some(Difference::new(message, Some(window)));
        }
        if left.report.digest != right.report.digest {
            let show = |record: &RunRecord| record.report.digest.clone().unwrap_or_else(|| ending(record));
            return Some(Difference::new(format!("{} against {}", show(left), show(right)), None));
        }
        let (left_report, right_report) = (timeless(left), timeless(right));
        let fields = left_report.as_object().zip(right_report.as_object());
        let differing = fields.and_then(|(left, right)| {
            left.iter().find(|(name, value)| right.get(*name) != Some(value)).map(|(name, _)| name.clone())
        });
        if let Some(field) = differing {
            return Some(Difference::new(format!("the digests are equal but `{field}` of the report differs"), None));
        }
        (left.plan != right.plan).then(|| Difference::new("the plans differ".to_owned(), None))
    }

    /// Names the first differing event, from both sides' events of [`Self::window`].
    pub fn locate(&mut self, left: &[TraceEvent], right: &[TraceEvent]) {
        let equal = left.iter().zip(right).take_while(|(left, right)| left == right).count();
        let (left_event, right_event) = (left.get(equal), right.get(equal));
        let Some(first) = left_event.or(right_event) else {
            self.message.push_str("; their rendered events are equal, so the difference is in bytes or comes and goes");
            return;
        };
        self.first_event = Some(first.number);
        self.message = format!("the first differing event is #{}", first.number);
        self.left = left_event.cloned();
        self.right = right_event.cloned();
        self.before = left[equal.saturating_sub(BEFORE_MAX)..equal].to_vec();
    }
}

/// Between the last equal checkpoint and the first differing one.
fn differing_window(left: &RunRecord, right: &RunRecord) -> Option<(u64, u64)> {
    let equal = left.checkpoints.iter().zip(&right.checkpoints).take_while(|(left, right)| left == right).count();
    let from = equal.checked_sub(1).map_or(0, |last| left.checkpoints[last].events);
    let end =
        |record: &RunRecord| record.checkpoints.get(equal).map(|checkpoint| checkpoint.events).or(record.report.events);
    let unequal = equal < left.checkpoints.len().max(right.checkpoints.len());
    let digests_differ = left.report.digest != right.report.digest || left.report.events != right.report.events;
    match (end(left), end(right)) {
        (Some(left), Some(right)) if unequal || digests_differ => Some((from, left.max(right).max(from + 1))),
        _ => None,
    }
}

/// The report without what depends on the machine.
fn timeless(record: &RunRecord) -> serde_json::Value {
    let mut report = record.report.clone();
    report.wall_time_ms = 0;
    report.cpu_time_ms = 0;
    report.memory_peak_kib = 0;
    report.artifact = None;
    serde_json::to_value(report).expect("a report has string keys only")
}

fn ending(record: &RunRecord) -> String {
    let violation = record.report.violations.first();
    violation.map_or_else(|| "no result".to_owned(), |violation| format!("no result ({})", violation.message))
}

#[cfg(test)]
mod tests {
    use crate::engine::record::{Checkpoint, RunRequest};
    use crate::isolate::{Death, Outcome};

    use super::*;

    fn record(digests: &[u64]) -> RunRecord {
        let outcome = Outcome {
            result: Err(Death::Abort),
            stderr_tail: String::new(),
            cpu_us: digests.len() as u64,
            wall_us: 0,
            memory_kib: 0,
        };
        let mut record = outcome.into_record(&RunRequest::default());
        let checkpoint =
            |(index, digest): (usize, &u64)| Checkpoint { events: 100 * (index as u64 + 1), digest: (0, *digest) };
        record.checkpoints = digests.iter().enumerate().map(checkpoint).collect();
        record.report.digest = digests.last().map(|digest| format!("{digest:032x}"));
        record.report.events = Some(100 * digests.len() as u64 + 50);
        record
    }

    fn event(number: u64, text: &str) -> TraceEvent {
        TraceEvent {
            number,
            at_ns: number,
            node: String::new(),
            class: "poll".to_owned(),
            text: text.to_owned(),
            cause: None,
        }
    }

    #[test]
    fn equal_runs_have_no_difference_whatever_the_time_they_took() {
        let mut slow = record(&[1, 2]);
        slow.report.wall_time_ms = 5;
        assert_eq!(Difference::between(&record(&[1, 2]), &slow), None);
    }

    #[test]
    fn checkpoints_bracket_the_first_difference() {
        let window = |left: &[u64], right: &[u64]| Difference::between(&record(left), &record(right)).unwrap().window;
        assert_eq!(window(&[1, 2, 3], &[1, 9, 8]), Some((100, 200)));
        assert_eq!(window(&[5, 2], &[1, 2]), Some((0, 100)));
        assert_eq!(window(&[1, 2, 3], &[1, 2]), Some((200, 300)), "one side ended earlier");
        let mut tail = record(&[1, 2]);
        tail.report.digest = Some("f".repeat(32));
        assert_eq!(Difference::between(&record(&[1, 2]), &tail).unwrap().window, Some((200, 250)));
    }

    #[test]
    fn a_report_that_differs_under_equal_digests_is_a_difference() {
        let mut other = record(&[1]);
        other.report.sim_time_ns = Some(1);
        let difference = Difference::between(&record(&[1]), &other).unwrap();
        assert!(difference.message.contains("`sim_time_ns`"), "{}", difference.message);
        let mut other = record(&[1]);
        other.plan = "another".into();
        assert_eq!(Difference::between(&record(&[1]), &other).unwrap().message, "the plans differ");
    }

    #[test]
    fn the_first_differing_event_is_named_with_what_came_before() {
        let mut difference = Difference::new(String::new(), Some((0, 5)));
        let left = [event(0, "a"), event(1, "b"), event(2, "c")];
        difference.locate(&left, &[event(0, "a"), event(1, "x"), event(2, "c")]);
        assert_eq!(difference.first_event, Some(1));
        assert_eq!((difference.left.unwrap().text, difference.right.unwrap().text), ("b".to_owned(), "x".to_owned()));
        assert_eq!(difference.before, [event(0, "a")]);

        let mut difference = Difference::new(String::new(), Some((0, 5)));
        difference.locate(&left, &left[..2]);
        assert_eq!((difference.first_event, difference.right), (Some(2), None));

        let mut difference = Difference::new(String::new(), Some((0, 5)));
        difference.locate(&left, &left);
        assert_eq!(difference.first_event, None);
        assert!(difference.message.contains("rendered events are equal"));
    }
}
