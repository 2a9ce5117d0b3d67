//! A reader of a node's data directory that shares no code with the node.
//!
//! An oracle that decoded files with the product's own codec would share its bugs: a checksum over the wrong bytes, a
//! field left out on both sides. This one is written from `docs/format.md` and from SQLite's description of its format; of
//! `aspen` it uses the types of the vocabulary only. It sees a simulated disk as a power loss would leave it for sure:
//! what was synced, names included.
//!
//! - [`decode`]: from files to [`DurableImage`]; [`Files`], [`DurableFiles`]: where files come from
//! - [`bytes`]: cursors, seals, postcard; [`values`]: what stands in seals
//! - [`log`]: the redb file; [`snapshot`]: snapshot files
//! - [`state`]: the database in force, over [`pages`] (file and write-ahead log) and [`btree`] (tables and indexes)
//!
//! Nothing here draws, records, sleeps, or touches SQLite: looking at a disk changes nothing in a run.

mod btree;
mod bytes;
mod log;
mod pages;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;
mod values;

use std::path::Path;

use sim_runtime::disk::{Disk, Image};

use crate::event::DurableImage;

/// The files of a node.
pub trait Files {
    /// A file; `None` when there is none of this name.
    fn read(&self, path: &Path) -> Option<Image>;

    /// Names, without the directory, of what lies directly in `dir`; none when there is no such directory.
    fn list(&self, dir: &Path) -> Vec<String>;
}

/// What a power loss now would surely leave on a simulated disk.
#[derive(Clone, Debug)]
pub struct DurableFiles<'a> {
    disk: &'a Disk,
}

impl<'a> DurableFiles<'a> {
    pub fn new(disk: &'a Disk) -> Self {
        DurableFiles { disk }
    }
}

impl Files for DurableFiles<'_> {
    fn read(&self, path: &Path) -> Option<Image> {
        self.disk.durable(text(path))
    }

    fn list(&self, dir: &Path) -> Vec<String> {
        let paths = self.disk.durable_list(text(dir));
        paths.iter().filter_map(|path| path.rsplit('/').next()).map(str::to_owned).collect()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of a simulated disk are UTF-8")
}

/// Of what the node with its data in `dir` has durably, the log alone: most of an image's cost is the state.
pub fn decode_log(files: &impl Files, dir: &Path) -> DurableImage {
    let mut defects = Vec::new();
    let log = log::read(files, dir, &mut defects).unwrap_or_default();
    DurableImage {
        vote: log.vote,
        purged: log.purged,
        committed: log.committed,
        log: log.entries,
        defects,
        ..DurableImage::default()
    }
}

/// What the node with its data in `dir` has durably. An empty directory, or one in which the first start was
/// interrupted, is an empty image without defects.
pub fn decode(files: &impl Files, dir: &Path) -> DurableImage {
    let mut defects = Vec::new();
    let names = files.list(dir);
    let log = log::read(files, dir, &mut defects);
    let state = state::read(files, dir, &mut defects);
    let snapshot = snapshot::read(files, dir, &names, &mut defects);
    let has_state = names.iter().any(|name| name == state::POINTER);
    match &log {
        // The log is made first, and used only once the state is there.
        Some(log) if !has_state && !log.is_new() => {
            defects.push(format!("{} is in use, but there is no {}", log::FILE, state::POINTER));
        }
        None if has_state => defects.push(format!("there is a state, but no {}", log::FILE)),
        _ => {}
    }
    if snapshot.is_some() && !has_state {
        defects.push(format!("there is a snapshot, but no {}", state::POINTER));
    }
    let log = log.unwrap_or_default();
    DurableImage {
        vote: log.vote,
        purged: log.purged,
        committed: log.committed,
        log: log.entries,
        applied: state.as_ref().and_then(|state| state.applied),
        state_hash: state.map(|state| state.hash),
        snapshot,
        defects,
    }
}
