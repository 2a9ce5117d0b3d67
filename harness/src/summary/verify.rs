//! The result of a verification, for people.

use sim_runtime::engine::record::TraceEvent;
use sim_runtime::engine::report::{RunReport, Verdict};

use super::page::{Page, Tone};
use super::{figures, run};
use sim_runtime::engine::difference::Difference;

pub fn render(report: &RunReport, verdict: Verdict, difference: Option<&Difference>) -> String {
    let mut page = Page::default();
    let what = format!("seed {}, spec {}", report.seed, report.spec);
    match difference {
        None => {
            page.title(Tone::Good, "SAME", &format!("{what}: two fresh processes gave the same run"));
            page.gap();
            page.entry("events", &figures::count(report.events.unwrap_or_default()));
            page.entry("digest", report.digest.as_deref().unwrap_or("none: the run left no record, both times"));
        }
        Some(difference) => {
            page.title(Tone::Bad, "NOT DETERMINISTIC", &what);
            page.gap();
            page.paragraph(&difference.message);
            if let Some((from, to)) = difference.window {
                page.paragraph(&format!("found between the checkpoints at event {from} and event {to}"));
            }
            sides(&mut page, difference);
        }
    }
    let (tone, word) = run::tone(verdict);
    let word = page.toned(tone, &word.to_lowercase());
    page.entry("verdict", &word);
    page.entry("artifact", report.artifact.as_deref().unwrap_or_default());
    if let Some(violation) = report.violations.first().filter(|_| difference.is_none()) {
        page.entry("violated", &format!("{}: {}", violation.property, violation.message));
    }
    page.finish()
}

fn sides(page: &mut Page, difference: &Difference) {
    if difference.first_event.is_none() {
        return;
    }
    if !difference.before.is_empty() {
        page.heading("The same until here");
        difference.before.iter().for_each(|event| page.event(event, false));
    }
    for (name, event) in [("Then, in the first process", &difference.left), ("and in the second", &difference.right)] {
        page.heading(name);
        show(page, event.as_ref());
    }
    page.gap();
}

fn show(page: &mut Page, event: Option<&TraceEvent>) {
    match event {
        Some(event) => page.event(event, true),
        None => page.verbatim("nothing: it had ended"),
    }
}
