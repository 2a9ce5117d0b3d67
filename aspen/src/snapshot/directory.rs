//! The snapshot files of a data directory: which one is current.
//!
//! At most one is current: the one with the greatest log id. Older ones go once nobody reads them any more, leftovers
//! of a crash when the node starts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use buggify::{assert_reachable, assert_sometimes};

use super::file::{INCOMING_PREFIX, SnapshotFile};
use super::format::Header;
use super::read::verify_file;
use crate::env::Env;
use crate::types::{LogId, SnapshotMeta};

const PREFIX: &str = "snapshot-";
const SUFFIX: &str = ".snap";
/// A snapshot is built under this name.
const BUILDING: &str = "building-snapshot";

/// A snapshot file and what it says of itself.
#[derive(Debug)]
pub struct Current<E: Env> {
    pub meta: SnapshotMeta,
    pub state_hash: u64,
    pub file: SnapshotFile<E>,
}

impl<E: Env> Clone for Current<E> {
    fn clone(&self) -> Self {
        Current { meta: self.meta.clone(), state_hash: self.state_hash, file: self.file.clone() }
    }
}

/// The name of a snapshot that ends with `last`.
pub fn path_of(dir: &Path, last: Option<LogId>) -> PathBuf {
    let (term, index) = last.map_or((0, 0), |last| (last.leader_id.term, last.index));
    dir.join(format!("{PREFIX}{index:020}-{term:020}{SUFFIX}"))
}

pub fn building_path(dir: &Path) -> PathBuf {
    dir.join(BUILDING)
}

/// What [`open`] found.
pub struct Opened<E: Env> {
    pub current: Option<Current<E>>,
    /// Snapshots that did not match their checksum, with what was wrong; their files were set aside as
    /// `damaged-*`.
    pub damaged: Vec<String>,
}

/// Removes what a crash left half-written. First of all: on a full disk the rest of a start needs the room. Synchronous.
pub fn remove_leftovers<E: Env>(env: &E, dir: &Path) -> io::Result<()> {
    remove_building(env, dir)?;
    remove_incoming(env, dir)
}

/// Finds the newest snapshot whose checksum matches, and removes older ones. Synchronous.
pub fn open<E: Env>(env: &E, dir: &Path, lane: &E::Lane) -> io::Result<Opened<E>> {
    let mut opened = Opened { current: None, damaged: Vec::new() };
    let mut names: Vec<String> = env.list(dir)?.iter().filter_map(|path| name_of(path)).collect();
    // The name sorts by index, then term.
    names.sort();
    for name in names.into_iter().rev() {
        let path = dir.join(&name);
        if !(name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            continue;
        }
        if opened.current.is_some() {
            assert_reachable!("an old snapshot was cleaned up at start");
            env.remove(&path)?;
            continue;
        }
        let file = Arc::new(env.open(&path)?);
        match verify_file(file) {
            Ok((header, checksum, len)) => {
                let file = SnapshotFile::new(lane.clone(), env.open(&path)?, path, len, checksum);
                let Header { meta, state_hash, .. } = header;
                opened.current = Some(Current { meta, state_hash, file });
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                opened.damaged.push(format!("{name}: {error}"));
                // Kept for whoever wants to know what happened to it.
                env.rename(&path, &dir.join(format!("damaged-{name}")))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(opened)
}

/// Removes those of `retired` that nobody reads, and returns the others. Synchronous.
pub fn remove_unused<E: Env>(env: &E, retired: Vec<SnapshotFile<E>>) -> io::Result<Vec<SnapshotFile<E>>> {
    let mut kept = Vec::new();
    for file in retired {
        assert_sometimes!(file.is_shared(), "a snapshot was superseded while it was being sent");
        if file.is_shared() {
            kept.push(file);
            continue;
        }
        let path = file.path().to_owned();
        drop(file);
        if env.exists(&path)? {
            assert_reachable!("an old snapshot was cleaned up");
            env.remove(&path)?;
        }
    }
    Ok(kept)
}

/// Removes the snapshot that was being built. Synchronous.
pub fn remove_building<E: Env>(env: &E, dir: &Path) -> io::Result<()> {
    let path = building_path(dir);
    if env.exists(&path)? {
        assert_reachable!("a half-built snapshot was removed");
        env.remove(&path)?;
    }
    Ok(())
}

/// Removes what transfers left behind. Synchronous.
pub fn remove_incoming<E: Env>(env: &E, dir: &Path) -> io::Result<()> {
    for name in env.list(dir)?.iter().filter_map(|path| name_of(path)) {
        if name.starts_with(INCOMING_PREFIX) {
            env.remove(&dir.join(name))?;
        }
    }
    Ok(())
}

fn name_of(path: &Path) -> Option<String> {
    path.file_name().and_then(|name| name.to_str()).map(str::to_owned)
}
