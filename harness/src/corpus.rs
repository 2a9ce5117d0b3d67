//! The corpus: scenarios that once failed, one file each, run by every CI.

use std::fs;
use std::path::{Path, PathBuf};

use crate::UsageError;
use crate::artifact::Artifact;

/// One scenario.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub path: PathBuf,
    pub artifact: Artifact,
}

/// All scenarios of a directory, by name.
///
/// # Errors
/// When the directory or a file in it cannot be read.
pub fn read(directory: &Path) -> Result<Vec<Entry>, UsageError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| unreadable(directory, &error))? {
        let path = entry.map_err(|error| unreadable(directory, &error))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.into_iter().map(|path| Ok(Entry { name: name_of(&path), artifact: Artifact::read(&path)?, path })).collect()
}

/// Keeps `artifact` under `name`, without what only its failing run had.
///
/// # Errors
/// When the name is taken or not a file name, or the file cannot be written.
pub fn add(directory: &Path, name: &str, mut artifact: Artifact, why: &str) -> Result<PathBuf, UsageError> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(UsageError::new(format!("{name:?} is no name for a scenario; use letters, digits and dashes")));
    }
    let path = directory.join(format!("{name}.json"));
    if path.exists() {
        let shown = path.display();
        return Err(UsageError::new(format!("{shown} exists already; choose another name with --name")));
    }
    let record = &mut artifact.record;
    record.checkpoints.clear();
    record.events.clear();
    record.history.clear();
    (record.report.assertions, record.report.buggify, record.report.artifact) = (None, None, None);
    artifact.stderr.clear();
    artifact.why = Some(why.to_owned());
    artifact.write(&path)?;
    Ok(path)
}

/// The name of a scenario in this file: without directory and endings.
pub fn name_of(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name.strip_suffix(".json").unwrap_or(&name);
    name.strip_suffix(".small").unwrap_or(name).to_owned()
}

fn unreadable(path: &Path, error: &std::io::Error) -> UsageError {
    UsageError::new(format!("cannot read {}: {error}; pass the corpus with --dir", path.display()))
}
