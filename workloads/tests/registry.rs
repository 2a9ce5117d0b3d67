//! The registry of assertion and fault sites is complete: what the linker collected is what the sources say.
//!
//! "Never reached" is only exact if every site is registered, also one in code that never runs. So this test reads the
//! sources of the linked crates, finds every use of the macros by its text, and compares the places with the catalogue.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use buggify::Kind;
use workloads as _;

/// Crates whose sites are linked into this test.
const CRATES: &[&str] = &["aspen", "sim-runtime", "workloads"];

const MACROS: &[(&str, Kind)] = &[
    ("assert_always!(", Kind::Always),
    ("assert_sometimes!(", Kind::Sometimes),
    ("assert_reachable!(", Kind::Reachable),
    ("assert_unreachable!(", Kind::Unreachable),
    ("buggify!(", Kind::Buggify),
];

#[test]
fn every_site_in_the_sources_is_registered() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above");
    let mut in_sources = BTreeSet::new();
    for name in CRATES {
        for file in rust_files(&root.join(name).join("src")) {
            let text = fs::read_to_string(&file).expect("a source file can be read");
            let place = file.strip_prefix(root).expect("below the root").to_str().expect("UTF-8").to_owned();
            in_sources.extend(sites_in(&text).into_iter().map(|(line, kind)| (place.clone(), line, kind)));
        }
    }
    let registered: BTreeSet<_> = buggify::catalogue()
        .iter()
        .filter(|site| CRATES.iter().any(|name| site.file.starts_with(&format!("{name}/src/"))))
        .map(|site| (site.file.to_owned(), site.line, site.kind))
        .collect();
    let missing: Vec<_> = in_sources.difference(&registered).collect();
    let unknown: Vec<_> = registered.difference(&in_sources).collect();
    assert!(missing.is_empty(), "in the sources but not registered: {missing:#?}");
    assert!(unknown.is_empty(), "registered but not found in the sources: {unknown:#?}");
    assert!(registered.len() > 100, "only {} sites: the scan found nothing", registered.len());
}

#[test]
fn ids_are_unique() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for site in buggify::catalogue() {
        places.entry(site.id()).or_default().push(format!("{}:{}", site.file, site.line));
    }
    let shared: Vec<_> = places.iter().filter(|(_, places)| places.len() > 1).collect();
    assert!(shared.is_empty(), "an id names more than one place: {shared:#?}");
}

#[test]
fn every_owing_spec_exists() {
    let specs: Vec<String> = workloads::specs().into_iter().map(|spec| spec.name).collect();
    for site in buggify::catalogue() {
        for owed_by in site.owed_by.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            assert!(specs.iter().any(|spec| spec == owed_by), "{}: no spec is named {owed_by}", site.id());
        }
    }
}

#[test]
fn there_are_enough_sites_to_mean_something() {
    let count = |kinds: &[Kind]| {
        let sites = buggify::catalogue().iter();
        sites.filter(|site| site.file.starts_with("aspen/src/") && kinds.contains(&site.kind)).count()
    };
    assert!(count(&[Kind::Buggify]) >= 25);
    assert!(count(&[Kind::Sometimes, Kind::Reachable]) >= 40);
}

/// Line and kind of every use of a macro outside comments and unit tests.
fn sites_in(text: &str) -> Vec<(u32, Kind)> {
    let mut sites = Vec::new();
    for (number, line) in (1u32..).zip(text.lines()) {
        let code = line.trim_start();
        if code.starts_with("#[cfg(test)]") {
            break;
        }
        if code.starts_with("//") {
            continue;
        }
        for (name, kind) in MACROS {
            for (at, _) in code.match_indices(name) {
                let before = code[..at].chars().next_back();
                if !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == '`') {
                    sites.push((number, *kind));
                }
            }
        }
    }
    sites
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a source folder can be listed") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
