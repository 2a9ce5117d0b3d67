//! The scoreboard as a page of the book.

use std::collections::BTreeMap;

use super::shrink::SizeReport;
use crate::command::mutants::Hunt;
use crate::command::scoreboard::{Ablation, Repeat, Scoreboard, Shrunk};
use crate::tally::to_f64;

/// All of it, in Markdown.
pub fn markdown(board: &Scoreboard) -> String {
    let mut page = String::from("# The scoreboard\n\n");
    page.push_str(&paragraph(&head(board)));
    page.push_str(&hunts(board));
    page.push_str("\n## Without a fault family\n\n");
    page.push_str(&paragraph(&format!(
        "One family is off at a time. A bug is hunted again, from the first start, if the family happened in the run that had \
         found it: first on that very seed, then, if that one shows nothing any more, on the next {} seeds. \"Later\" means that \
         the seed of before was missed. What a family contributes on seeds before the finding one is not measured.",
        board.ablation_seeds
    )));
    page.push_str(&ablations(&board.families, "family", "found at once", "found later", "not found"));
    page.push('\n');
    page.push_str(&paragraph(&names("Families that change nothing for any bug", idle(&board.families))));
    page.push_str("\n## Without an oracle\n\n");
    page.push_str(&paragraph(&format!(
        "One oracle is away at a time, and what it had found from the first start is hunted again, from the finding seed on and \
         up to {} seeds further, until another oracle notices.",
        board.ablation_seeds
    )));
    page.push_str(&ablations(&board.oracles, "oracle", "found at once, by another", "found later", "not found"));
    page.push('\n');
    page.push_str(&paragraph(&names("Oracles whose absence changes nothing for any bug", idle(&board.oracles))));
    page.push('\n');
    page.push_str(&paragraph(&names(
        "Unproven, since they were first to fire for no planted bug from any start",
        board.unproven.iter().map(String::as_str).collect(),
    )));
    page.push_str(&shrunk(board));
    page.push_str("\n## The bugs\n\n");
    page.push_str("| bug | what it does | what it resembles |\n|---|---|---|\n");
    for bug in &board.about {
        page.push_str(&format!("| `{}` | {} | {} |\n", bug.name, bug.about, bug.like));
    }
    page
}

fn head(board: &Scoreboard) -> String {
    let found = board.bugs.iter().filter(|hunt| hunt.found).count();
    let mut medians: Vec<u64> = board.bugs.iter().filter_map(|hunt| hunt.seeds_to_detection).collect();
    medians.sort_unstable();
    let middle = medians.get(medians.len() / 2).map_or("none".to_owned(), u64::to_string);
    let worst = medians.last().map_or("none".to_owned(), u64::to_string);
    let on_default = board.bugs.iter().filter(|hunt| hunt.found && hunt.spec == "default").count();
    let runs = board.starts;
    let shrinks = match board.shrink_budget_s {
        0.0 => String::new(),
        budget => format!(" --shrink-budget {budget}s"),
    };
    format!(
        "Written by `harness scoreboard --starts {} --max-seeds {} --ablation-seeds {}{shrinks}`, which took {:.0} s and {:.0} s of CPU time. {found} of \
         {} planted bugs are found, {on_default} of them on the default spec. A bug is hunted from {runs} starts; the median of \
         the medians is {middle} seeds, the greatest {worst}. CPU time is the mean of the starts. An assertion inside the \
         product does not count as finding a bug.",
        board.starts,
        board.max_seeds,
        board.ablation_seeds,
        board.wall_s,
        board.cpu_s,
        board.bugs.len(),
    )
}

fn hunts(board: &Scoreboard) -> String {
    let mut table = String::from(
        "\n## The hunts\n\n| bug | family | spec | median seeds | range | CPU s | found by |\n|---|---|---|---|---|---|---|\n",
    );
    for hunt in &board.bugs {
        let shown = |seeds: Option<u64>| seeds.map_or("-".to_owned(), |seeds| seeds.to_string());
        let Hunt { bug, family, spec, seeds_to_detection, seeds_min, seeds_max, cpu_s, .. } = hunt;
        table.push_str(&format!(
            "| `{bug}` | {family} | {spec} | {} | {}..{} | {cpu_s:.1} | {} |\n",
            shown(*seeds_to_detection),
            shown(*seeds_min),
            shown(*seeds_max),
            finders(hunt)
        ));
    }
    table
}

/// What was first to notice, over all starts.
fn finders(hunt: &Hunt) -> String {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    hunt.starts
        .iter()
        .filter_map(|start| start.property.as_deref())
        .for_each(|name| *times.entry(name).or_default() += 1);
    if times.is_empty() {
        return "**not found**".to_owned();
    }
    let told = |(name, times): (&str, usize)| {
        if hunt.starts.len() > 1 { format!("{name} ({times})") } else { name.to_owned() }
    };
    times.into_iter().map(told).collect::<Vec<_>>().join(", ")
}

fn ablations(all: &[Ablation], what: &str, same: &str, later: &str, lost: &str) -> String {
    let mut table = format!("\n| {what} | bugs | {same} | {later} | {lost} |\n|---|---|---|---|---|\n");
    for Ablation { without, hunts } in all {
        let unaffected = hunts.iter().filter(|hunt| hunt.is_unaffected());
        let others: Vec<String> =
            unaffected.clone().filter(|hunt| hunt.property.as_deref() != Some(&hunt.property_before)).map(by).collect();
        let count = unaffected.count();
        let same = if others.is_empty() { count.to_string() } else { format!("{count}: {}", others.join(", ")) };
        let later: Vec<String> =
            hunts.iter().filter(|hunt| hunt.seeds.is_some() && !hunt.is_unaffected()).map(moved).collect();
        let lost: Vec<String> = hunts.iter().filter(|hunt| hunt.seeds.is_none()).map(|hunt| hunt.bug.clone()).collect();
        let cell = |names: Vec<String>| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
        table.push_str(&format!("| {without} | {} | {same} | {} | {} |\n", hunts.len(), cell(later), cell(lost)));
    }
    table
}

fn by(hunt: &Repeat) -> String {
    format!("{} by {}", hunt.bug, hunt.property.as_deref().unwrap_or("nobody"))
}

fn moved(hunt: &Repeat) -> String {
    let seeds = hunt.seeds.unwrap_or_default();
    let who = hunt.property.as_deref().filter(|property| *property != hunt.property_before);
    let who = who.map(|property| format!(" by {property}")).unwrap_or_default();
    format!("{} ({} to {seeds}{who})", hunt.bug, hunt.seeds_before)
}

/// How small the findings became.
fn shrunk(board: &Scoreboard) -> String {
    if board.shrunk.is_empty() {
        return String::new();
    }
    let median = |of: fn(&SizeReport) -> u64| {
        let mut sizes: Vec<u64> = board.shrunk.iter().map(|shrunk| of(&shrunk.to)).collect();
        sizes.sort_unstable();
        sizes[sizes.len() / 2]
    };
    let text = format!(
        "The run that found a bug from the first start is made small, for at most {} s each (`--shrink-budget`; `shrink` takes \
         2 minutes unless told otherwise). The medians are {} faults, {} operations and {} live fault points.",
        board.shrink_budget_s,
        median(|size| size.faults),
        median(|size| size.operations),
        median(|size| size.fault_points),
    );
    let mut table = format!("\n## Made small\n\n{}\n", paragraph(&text));
    table.push_str("| bug | runs tried | operations | faults | live fault points | servers | simulated s |\n|---|---|---|---|---|---|---|\n");
    for Shrunk { bug, runs, from, to } in &board.shrunk {
        let change = |of: fn(&SizeReport) -> u64| format!("{} to {}", of(from), of(to));
        let seconds = |size: &SizeReport| to_f64(size.duration_ns / 100_000_000) / 10.0;
        table.push_str(&format!(
            "| `{bug}` | {runs} | {} | {} | {} | {} | {} to {} |\n",
            change(|size| size.operations),
            change(|size| size.faults),
            change(|size| size.fault_points),
            change(|size| size.servers),
            seconds(from),
            seconds(to),
        ));
    }
    table
}

fn idle(all: &[Ablation]) -> Vec<&str> {
    all.iter().filter(|ablation| ablation.changes_nothing()).map(|ablation| ablation.without.as_str()).collect()
}

fn names(label: &str, names: Vec<&str>) -> String {
    let all = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!("{label}: {all}.")
}

/// Wrapped as the rest of the book is.
fn paragraph(text: &str) -> String {
    super::page::wrapped(text, COLUMNS_MAX).join("\n") + "\n"
}

const COLUMNS_MAX: usize = 120;
