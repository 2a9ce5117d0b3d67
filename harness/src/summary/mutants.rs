//! The scoreboard.

use super::page::{Page, Tone};
use super::table;
use crate::command::mutants::{Hunt, MutantsReport};

pub fn render(report: &MutantsReport) -> String {
    let mut page = Page::default();
    let hunts = &report.bugs;
    let found = hunts.iter().filter(|hunt| hunt.found).count();
    let tone = if found == hunts.len() { Tone::Good } else { Tone::Bad };
    page.title(
        tone,
        &format!("{found} of {} planted bugs found", hunts.len()),
        &format!("(at most {} seeds each{})", report.max_seeds, conditions(report)),
    );
    page.gap();
    let has_range = hunts.iter().any(|hunt| hunt.starts.len() > 1);
    let mut head = vec!["bug", "family", "spec", if has_range { "median seeds" } else { "seeds" }];
    head.extend(has_range.then_some("range"));
    head.extend(["CPU s", "found by"]);
    let mut rows = vec![head.into_iter().map(str::to_owned).collect()];
    rows.extend(hunts.iter().map(|hunt| row(hunt, has_range)));
    table::columns(&rows).lines().for_each(|line| page.verbatim(line));
    page.finish()
}

fn conditions(report: &MutantsReport) -> String {
    let starts = report.bugs.iter().map(|hunt| hunt.starts.len()).max().filter(|starts| *starts > 1);
    let starts = starts.map(|starts| format!(", from {starts} starts")).unwrap_or_default();
    let without: String = report.without.iter().map(|property| format!(", without the oracle {property}")).collect();
    let ablate: String = report.ablate.iter().map(|family| format!(", without {family} faults")).collect();
    starts + &without + &ablate
}

fn row(hunt: &Hunt, has_range: bool) -> Vec<String> {
    let shown = |seeds: Option<u64>| seeds.map_or("-".to_owned(), |seeds| seeds.to_string());
    let mut row = vec![hunt.bug.clone(), hunt.family.clone(), hunt.spec.clone(), shown(hunt.seeds_to_detection)];
    row.extend(has_range.then(|| format!("{}..{}", shown(hunt.seeds_min), shown(hunt.seeds_max))));
    row.push(format!("{:.2}", hunt.cpu_s));
    let property = hunt.property.clone().filter(|_| hunt.found);
    row.push(property.unwrap_or_else(|| "NOT FOUND".to_owned()));
    row
}
