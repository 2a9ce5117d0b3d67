//! The directory tree: which names lead to which files, and which of them would survive a power loss.
//!
//! Syncing a file does not make its name durable; syncing the directory does. A rename moves its file in one step: after a
//! power loss the name is old or new, never both. Within one directory the un-synced operations survive as a prefix,
//! since file systems journal them in order; directories are independent of each other, as if each were a file system of
//! its own, so a rename cannot leave one. See Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014).
//!
//! Pure, like [`super::file`], and with the same reading of times.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{Interval, Nanos};

/// A file for as long as anything refers to it: a name, a name that may come back, an open handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    File(FileId),
    Directory,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameChange {
    Create(String, Entry),
    Remove(String),
    /// From, to; both in one directory.
    Rename(String, String),
    /// A barrier for one directory.
    SyncDirectory(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct NameOp {
    when: Interval,
    change: NameChange,
}

#[derive(Clone, Debug)]
pub struct Names {
    current: BTreeMap<String, Entry>,
    persisted: BTreeMap<String, Entry>,
    log: Vec<NameOp>,
    busy_until: Nanos,
}

impl Default for Names {
    /// Only the root, which needs no sync.
    fn default() -> Names {
        let root = BTreeMap::from([("/".to_owned(), Entry::Directory)]);
        Names { current: root.clone(), persisted: root, log: Vec::new(), busy_until: 0 }
    }
}

impl Names {
    pub fn find(&self, path: &str) -> Option<Entry> {
        self.current.get(path).copied()
    }

    pub fn busy_until(&self) -> Nanos {
        self.busy_until
    }

    /// Full paths of what lies directly in `directory`, in order.
    pub fn list(&self, directory: &str) -> Vec<String> {
        self.current.keys().filter(|path| *path != "/" && parent(path) == directory).cloned().collect()
    }

    /// Performs the change. The caller has checked that it is possible.
    pub fn change(&mut self, when: Interval, change: NameChange) {
        debug_assert!(when.issue >= self.busy_until && when.complete >= when.issue, "name operations overlap");
        self.busy_until = when.complete;
        change.apply(&mut self.current);
        self.log.push(NameOp { when, change });
    }

    /// As [`super::file::File::settle`].
    pub fn settle(&mut self, horizon: Nanos) {
        if self.log.iter().any(|op| op.is_barrier() && op.when.complete_by(horizon)) {
            (self.persisted, self.log) = self.folded(horizon);
        }
    }

    /// The names a power loss at `at` would surely leave.
    pub fn durable_at(&self, at: Nanos) -> BTreeMap<String, Entry> {
        reachable(self.folded(at).0)
    }

    /// As [`super::file::File::crash`].
    pub fn crash(&mut self, at: Nanos) {
        self.settle(at);
        self.log.retain(|op| op.when.issued_by(at) && (op.when.complete_by(at) || !op.is_barrier()));
        self.current = self.persisted.clone();
        self.log.iter().for_each(|op| op.change.apply(&mut self.current));
        self.busy_until = self.busy_until.min(at);
    }

    /// How many un-synced operations each directory has at `at`. Settles first, so `at` must not lie in the world's
    /// future.
    pub fn pending(&mut self, at: Nanos) -> BTreeMap<String, usize> {
        self.settle(at);
        let mut counts = BTreeMap::new();
        for op in self.log.iter().filter(|op| op.when.issued_by(at) && !op.is_barrier()) {
            *counts.entry(op.change.directory().to_owned()).or_default() += 1;
        }
        counts
    }

    /// The power went at `at`; of each directory's pending operations the first `kept` survived. Returns how many were
    /// lost.
    pub fn lose_power(&mut self, at: Nanos, kept: &BTreeMap<String, usize>) -> u64 {
        self.settle(at);
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut survivors = std::mem::take(&mut self.persisted);
        let mut lost = 0;
        for op in self.log.iter().filter(|op| op.when.issued_by(at) && !op.is_barrier()) {
            let directory = op.change.directory();
            let position = seen.entry(directory).or_default();
            if *position < kept.get(directory).copied().unwrap_or(0) {
                op.change.apply(&mut survivors);
            } else {
                lost += 1;
            }
            *position += 1;
        }
        self.persisted = reachable(survivors);
        self.current = self.persisted.clone();
        self.log.clear();
        self.busy_until = 0;
        lost
    }

    /// Whether the sync of a directory is in flight at `at`.
    pub fn syncing_at(&self, at: Nanos) -> bool {
        self.log.iter().any(|op| op.is_barrier() && op.when.issued_by(at) && !op.when.complete_by(at))
    }

    /// Every name of a file, in order.
    pub fn files(&self) -> impl Iterator<Item = (&str, FileId)> {
        self.current.iter().filter_map(|(path, entry)| match entry {
            Entry::File(id) => Some((path.as_str(), *id)),
            Entry::Directory => None,
        })
    }

    /// Files that a name leads to, now or after some power loss.
    pub fn referenced(&self) -> BTreeSet<FileId> {
        let logged = self.log.iter().filter_map(|op| match &op.change {
            NameChange::Create(_, entry) => Some(entry),
            _ => None,
        });
        let entries = self.current.values().chain(self.persisted.values()).chain(logged);
        entries
            .filter_map(|entry| match entry {
                Entry::File(id) => Some(*id),
                Entry::Directory => None,
            })
            .collect()
    }

    /// Persisted names after the barriers completed by `at`, and the log that remains.
    fn folded(&self, at: Nanos) -> (BTreeMap<String, Entry>, Vec<NameOp>) {
        let mut persisted = self.persisted.clone();
        // Position of the last completed barrier of each directory.
        let mut barriers: BTreeMap<&str, usize> = BTreeMap::new();
        for (n, op) in self.log.iter().enumerate() {
            if op.is_barrier() && op.when.complete_by(at) {
                barriers.insert(op.change.directory(), n);
            }
        }
        let mut rest = Vec::new();
        for (n, op) in self.log.iter().enumerate() {
            if barriers.get(op.change.directory()).is_some_and(|barrier| n <= *barrier) {
                op.change.apply(&mut persisted);
            } else {
                rest.push(op.clone());
            }
        }
        (persisted, rest)
    }
}

impl NameOp {
    fn is_barrier(&self) -> bool {
        matches!(self.change, NameChange::SyncDirectory(_))
    }
}

impl NameChange {
    /// The directory whose sync makes this durable.
    fn directory(&self) -> &str {
        match self {
            NameChange::Create(path, _) | NameChange::Remove(path) | NameChange::Rename(_, path) => parent(path),
            NameChange::SyncDirectory(directory) => directory,
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, Entry>) {
        match self {
            NameChange::Create(path, entry) => {
                names.insert(path.clone(), *entry);
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
            NameChange::Rename(from, to) => {
                if let Some(entry) = names.remove(from) {
                    names.insert(to.clone(), entry);
                }
            }
            NameChange::SyncDirectory(_) => {}
        }
    }
}

/// The directory that holds `path`; the root holds itself.
pub fn parent(path: &str) -> &str {
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(slash) => &path[..slash],
    }
}

/// Without the names whose directories are gone.
fn reachable(names: BTreeMap<String, Entry>) -> BTreeMap<String, Entry> {
    let mut kept: BTreeMap<String, Entry> = BTreeMap::new();
    // In order a directory comes before what it holds.
    for (path, entry) in names {
        if path == "/" || kept.get(parent(&path)) == Some(&Entry::Directory) {
            kept.insert(path, entry);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: Nanos) -> Interval {
        Interval { issue: n, complete: n + 1 }
    }

    fn create(path: &str, id: u32) -> NameChange {
        NameChange::Create(path.to_owned(), Entry::File(FileId(id)))
    }

    fn rename(from: &str, to: &str) -> NameChange {
        NameChange::Rename(from.to_owned(), to.to_owned())
    }

    fn sync(directory: &str) -> NameChange {
        NameChange::SyncDirectory(directory.to_owned())
    }

    fn files(names: &Names) -> Vec<&str> {
        names.current.iter().filter(|(_, e)| **e != Entry::Directory).map(|(path, _)| path.as_str()).collect()
    }

    #[test]
    fn a_name_needs_its_directory_synced() {
        let mut names = Names::default();
        names.change(at(0), create("/kept", 1));
        names.change(at(1), sync("/"));
        names.change(at(2), create("/lost", 2));
        assert_eq!(files(&names), ["/kept", "/lost"]);
        assert_eq!(names.pending(10), BTreeMap::from([("/".to_owned(), 1)]));
        assert_eq!(names.lose_power(10, &BTreeMap::new()), 1);
        assert_eq!(files(&names), ["/kept"]);
    }

    #[test]
    fn a_sync_of_one_directory_says_nothing_of_another() {
        let mut names = Names::default();
        names.change(at(0), NameChange::Create("/d".to_owned(), Entry::Directory));
        names.change(at(1), create("/d/file", 1));
        names.change(at(2), sync("/d"));
        let mut lost = names.clone();
        lost.lose_power(10, &BTreeMap::new());
        assert_eq!(files(&lost), Vec::<&str>::new(), "the directory itself was not durable");
        names.change(at(3), sync("/"));
        names.lose_power(10, &BTreeMap::new());
        assert_eq!(files(&names), ["/d/file"]);
    }

    #[test]
    fn a_rename_is_old_or_new() {
        let mut names = Names::default();
        names.change(at(0), create("/db", 1));
        names.change(at(1), create("/db.new", 2));
        names.change(at(2), sync("/"));
        names.change(at(3), rename("/db.new", "/db"));
        let mut old = names.clone();
        old.lose_power(10, &BTreeMap::new());
        assert_eq!(old.find("/db"), Some(Entry::File(FileId(1))));
        assert_eq!(old.find("/db.new"), Some(Entry::File(FileId(2))));
        names.lose_power(10, &BTreeMap::from([("/".to_owned(), 1)]));
        assert_eq!(names.find("/db"), Some(Entry::File(FileId(2))));
        assert_eq!(names.find("/db.new"), None);
    }

    #[test]
    fn a_removed_file_may_come_back() {
        let mut names = Names::default();
        names.change(at(0), create("/wal", 1));
        names.change(at(1), sync("/"));
        names.change(at(2), NameChange::Remove("/wal".to_owned()));
        assert_eq!(names.referenced(), BTreeSet::from([FileId(1)]));
        names.lose_power(10, &BTreeMap::new());
        assert_eq!(files(&names), ["/wal"]);
    }

    #[test]
    fn a_crash_undoes_what_was_not_issued() {
        let mut names = Names::default();
        names.change(at(0), create("/a", 1));
        names.change(at(5), rename("/a", "/b"));
        names.change(at(8), sync("/"));
        names.crash(4);
        assert_eq!(files(&names), ["/a"]);
        assert!(names.durable_at(Nanos::MAX).len() == 1, "only the root: no directory was synced");
    }
}
