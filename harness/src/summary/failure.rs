//! Why a run failed: what was violated, how it came about, what happened around it, and how to see it again.

use std::collections::BTreeMap;

use sim_runtime::engine::record::TraceEvent;
use sim_runtime::engine::report::Violation;

use super::figures::moment;
use super::page::{Page, Tone};
use super::replay_command;
use super::run::Shown;
use crate::tally::Failure;

/// Steps shown of a long chain of causes: the first and the last ones.
const CHAIN_MAX: usize = 12;
/// Events shown on each side of the violation.
const AROUND: usize = 8;
/// Further violations listed by one line each.
const OTHERS_MAX: usize = 5;
/// Lines of stderr.
const STDERR_LINES: usize = 20;

pub(super) fn render(page: &mut Page, shown: &Shown<'_>) {
    let report = &shown.record.report;
    let Some(violation) = report.violations.first() else { return };
    page.gap();
    page.title(Tone::Bad, "VIOLATED", &format!("{}{}", violation.property, place(violation)));
    page.paragraph(&violation.message);
    for other in report.violations.iter().skip(1).take(OTHERS_MAX) {
        page.paragraph(&format!("also {}{}: {}", other.property, place(other), other.message));
    }
    if report.violations.len() > OTHERS_MAX + 1 {
        page.paragraph(&format!("and {} more", report.violations.len() - OTHERS_MAX - 1));
    }
    let events = &shown.record.events;
    if let Some(index) = index_of(violation, events) {
        chain(page, &causes(events, index));
        around(page, events, index);
    }
    stderr(page, shown.stderr);
    page.heading("See it again");
    let failure = Failure {
        seed: report.seed,
        property: violation.property.clone(),
        message: violation.message.clone(),
        artifact: report.artifact.clone(),
    };
    page.verbatim(&replay_command(shown.request, &failure));
}

/// The last lines that the run wrote, if any.
pub(super) fn stderr(page: &mut Page, text: &str) {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return;
    }
    page.heading("The run's last words on stderr");
    for line in &lines[lines.len().saturating_sub(STDERR_LINES)..] {
        page.verbatim(line);
    }
}

fn place(violation: &Violation) -> String {
    let at = violation.at_ns.map(|ns| format!(" at {}", moment(ns).trim_start())).unwrap_or_default();
    let node = violation.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    format!("{at}{node}")
}

/// The event at which the violation was seen: the last one up to then, on that node if it names one.
fn index_of(violation: &Violation, events: &[TraceEvent]) -> Option<usize> {
    let until = violation.at_ns.unwrap_or(u64::MAX);
    let blamed = |event: &TraceEvent| violation.node.as_ref().is_none_or(|node| *node == event.node);
    let last =
        |wanted: &dyn Fn(&TraceEvent) -> bool| events.iter().rposition(|event| event.at_ns <= until && wanted(event));
    last(&blamed).or_else(|| last(&|_| true))
}

/// The event at `index` and what led to it, earliest first, as far as events were kept.
fn causes(events: &[TraceEvent], index: usize) -> Vec<&TraceEvent> {
    let by_number: BTreeMap<u64, &TraceEvent> = events.iter().map(|event| (event.number, event)).collect();
    let mut chain = vec![&events[index]];
    while let Some(cause) = chain.last().and_then(|event| {
        // A cause comes before its effect, so the chain ends.
        event.cause.filter(|&cause| cause < event.number).and_then(|cause| by_number.get(&cause))
    }) {
        chain.push(cause);
    }
    chain.reverse();
    chain
}

fn chain(page: &mut Page, chain: &[&TraceEvent]) {
    if chain.len() < 2 {
        return;
    }
    page.heading("How it came about, each event caused by the one above it");
    let skipped = chain.len().saturating_sub(CHAIN_MAX);
    for (index, event) in chain.iter().enumerate() {
        if index == 1 && skipped > 0 {
            page.verbatim(&format!("… {skipped} more"));
        }
        if index == 0 || index > skipped {
            page.event(event, index + 1 == chain.len());
        }
    }
}

fn around(page: &mut Page, events: &[TraceEvent], index: usize) {
    page.heading("What happened around it");
    let (from, to) = (index.saturating_sub(AROUND), (index + AROUND + 1).min(events.len()));
    for (offset, event) in events[from..to].iter().enumerate() {
        page.event(event, from + offset == index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64, node: &str, cause: Option<u64>) -> TraceEvent {
        let (node, class, text) = (node.to_owned(), "poll".to_owned(), String::new());
        TraceEvent { number, at_ns: number * 10, node, class, text, cause }
    }

    fn violation(at_ns: Option<u64>, node: Option<&str>) -> Violation {
        Violation { property: String::new(), message: String::new(), at_ns, node: node.map(str::to_owned) }
    }

    #[test]
    fn the_violating_event_is_the_last_one_of_its_node_up_to_then() {
        let events = [event(1, "a", None), event(2, "b", None), event(3, "a", None), event(4, "b", None)];
        assert_eq!(index_of(&violation(Some(35), Some("b")), &events), Some(1));
        assert_eq!(index_of(&violation(Some(35), None), &events), Some(2));
        assert_eq!(index_of(&violation(Some(35), Some("c")), &events), Some(2), "a node without events");
        assert_eq!(index_of(&violation(None, None), &events), Some(3));
        assert_eq!(index_of(&violation(Some(5), None), &events), None);
    }

    #[test]
    fn causes_are_followed_as_far_as_events_were_kept_and_never_in_circles() {
        let events = [event(5, "a", Some(1)), event(6, "a", None), event(7, "b", Some(5)), event(8, "b", Some(7))];
        let numbers = |index| causes(&events, index).iter().map(|event| event.number).collect::<Vec<_>>();
        assert_eq!(numbers(3), [5, 7, 8]);
        assert_eq!(numbers(1), [6]);
        let circle = [event(1, "a", Some(2)), event(2, "a", Some(1))];
        assert_eq!(causes(&circle, 1).len(), 2);
    }
}
