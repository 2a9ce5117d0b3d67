//! The scoreboard.

use super::page::{Page, Tone};
use super::table;
use crate::command::mutants::Hunt;

pub fn render(hunts: &[Hunt], seeds_max: u64) -> String {
    let mut page = Page::default();
    let found = hunts.iter().filter(|hunt| hunt.found).count();
    let tone = if found == hunts.len() { Tone::Good } else { Tone::Bad };
    page.title(
        tone,
        &format!("{found} of {} planted bugs found", hunts.len()),
        &format!("(at most {seeds_max} seeds each)"),
    );
    page.gap();
    let mut rows = vec![["bug", "family", "spec", "seeds", "CPU s", "found by"].map(str::to_owned).to_vec()];
    rows.extend(hunts.iter().map(|hunt| {
        vec![
            hunt.bug.clone(),
            hunt.family.clone(),
            hunt.spec.clone(),
            hunt.seeds_to_detection.map_or("-".to_owned(), |seeds| seeds.to_string()),
            format!("{:.2}", hunt.cpu_s),
            hunt.property.clone().unwrap_or_else(|| "NOT FOUND".to_owned()),
        ]
    }));
    table::columns(&rows).lines().for_each(|line| page.verbatim(line));
    page.finish()
}
