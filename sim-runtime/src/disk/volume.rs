//! Everything a disk holds: files, names, and the open files that have lost theirs.
//!
//! A clone costs a reference count per page, so a crash test keeps one per operation. Pure: times and choices are
//! arguments, and what may fail fails as the system call would.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use super::config::Role;
use super::device::fault;
use super::file::{File, Interval, Nanos};
use super::image::{Image, PAGE_BYTES, SECTOR_BYTES};
use super::names::{Entry, FileId, NameChange, Names, parent};
use super::power_loss::{Choice, Pending, Toll};

/// How to open a file. As std's `OpenOptions`; everything may be read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    pub create: bool,
    /// Fails when the name exists. Implies `create`.
    pub create_new: bool,
    pub truncate: bool,
}

impl OpenMode {
    pub const EXISTING: OpenMode = OpenMode { create: false, create_new: false, truncate: false };
    pub const CREATE: OpenMode = OpenMode { create: true, create_new: false, truncate: false };
    pub const CREATE_NEW: OpenMode = OpenMode { create: true, create_new: true, truncate: false };
    pub const TRUNCATE: OpenMode = OpenMode { create: true, create_new: false, truncate: true };
}

/// What the disk was doing when the power went. Files of [`Role::State`] do not count, unless in sync: they always have
/// something pending, and what matters is where the file that commits rest on stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// No write since the last sync.
    BeforeWrite,
    /// Written or writing, and no sync begun.
    BetweenWriteAndSync,
    /// A sync, of a file or a directory, was in flight.
    InSync,
    /// The host had booted and not yet declared itself recovered.
    InRecovery,
}

/// A named file as a reader sees it, and what of it would survive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    pub path: String,
    /// Name of its [`Role`].
    pub role: String,
    /// As a reader sees it.
    pub len_bytes: u64,
    /// Length of what a power loss would surely leave under this name; `None` when it may leave none.
    pub synced_len_bytes: Option<u64>,
    /// Written since the last sync, counted as often as written.
    pub pending_bytes: u64,
}

#[derive(Clone, Debug)]
struct Slot {
    file: File,
    role: Role,
    /// Open handles of the incarnation that lives.
    handles: u32,
}

#[derive(Clone, Debug)]
pub struct Volume {
    files: Vec<Option<Slot>>,
    names: Names,
    role_of: fn(&str) -> Role,
}

impl Default for Volume {
    fn default() -> Volume {
        Volume { files: Vec::new(), names: Names::default(), role_of: |_| Role::Other }
    }
}

impl Volume {
    /// Says what files are for, also those that exist.
    pub fn set_roles(&mut self, role_of: fn(&str) -> Role) {
        self.role_of = role_of;
        for (path, id) in self.named_files() {
            self.slot_mut(id).role = role_of(&path);
        }
    }

    pub(super) fn role_of(&self) -> fn(&str) -> Role {
        self.role_of
    }

    pub fn file(&self, id: FileId) -> &File {
        &self.slot(id).file
    }

    pub fn file_mut(&mut self, id: FileId) -> &mut File {
        &mut self.slot_mut(id).file
    }

    pub fn role(&self, id: FileId) -> Role {
        self.slot(id).role
    }

    /// When the next name operation may be issued.
    pub fn names_busy_until(&self) -> Nanos {
        self.names.busy_until()
    }

    /// The file that `path` leads to and whether opening it so must create it.
    pub fn find_to_open(&self, path: &str, mode: OpenMode) -> io::Result<Option<FileId>> {
        check_path(path)?;
        match self.names.find(path) {
            Some(Entry::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            Some(Entry::File(_)) if mode.create_new => Err(io::ErrorKind::AlreadyExists.into()),
            Some(Entry::File(id)) => Ok(Some(id)),
            None if !mode.create && !mode.create_new => Err(io::ErrorKind::NotFound.into()),
            None => self.check_directory(parent(path)).map(|()| None),
        }
    }

    pub fn create(&mut self, when: Interval, path: &str) -> FileId {
        let id = self.add((self.role_of)(path));
        self.names.change(when, NameChange::Create(path.to_owned(), Entry::File(id)));
        id
    }

    /// A file without a name, gone with its last handle.
    pub fn create_anonymous(&mut self) -> FileId {
        self.add(Role::Other)
    }

    pub fn opened(&mut self, id: FileId) {
        self.slot_mut(id).handles += 1;
    }

    pub fn closed(&mut self, id: FileId) {
        let slot = self.slot_mut(id);
        slot.handles = slot.handles.saturating_sub(1);
        if slot.handles == 0 {
            self.collect();
        }
    }

    pub fn exists(&self, path: &str) -> bool {
        self.names.find(path).is_some()
    }

    pub fn lookup(&self, path: &str) -> Option<FileId> {
        match self.names.find(path) {
            Some(Entry::File(id)) => Some(id),
            _ => None,
        }
    }

    /// Full paths of what lies directly in `directory`, in order.
    pub fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        self.check_directory(directory)?;
        Ok(self.names.list(directory))
    }

    /// Directories that must be made so that `path` is one, outermost first.
    pub fn missing_directories(&self, path: &str) -> io::Result<Vec<String>> {
        let mut missing = Vec::new();
        if path == "/" {
            return Ok(missing);
        }
        check_path(path)?;
        let mut directory = path;
        loop {
            match self.names.find(directory) {
                Some(Entry::Directory) => break,
                Some(Entry::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => missing.push(directory.to_owned()),
            }
            directory = parent(directory);
        }
        missing.reverse();
        Ok(missing)
    }

    pub fn create_directory(&mut self, when: Interval, path: &str) {
        self.names.change(when, NameChange::Create(path.to_owned(), Entry::Directory));
    }

    /// Whether a file of this name can be removed.
    pub fn check_remove(&self, path: &str) -> io::Result<()> {
        match self.names.find(path) {
            None => Err(io::ErrorKind::NotFound.into()),
            Some(Entry::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            Some(Entry::File(_)) => Ok(()),
        }
    }

    pub fn remove(&mut self, when: Interval, path: &str) {
        self.names.change(when, NameChange::Remove(path.to_owned()));
    }

    /// Whether the file `from` can be renamed to `to`, replacing what is there.
    pub fn check_rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_path(to)?;
        self.check_remove(from)?;
        if parent(from) != parent(to) {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        match self.names.find(to) {
            Some(Entry::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            _ => Ok(()),
        }
    }

    pub fn rename(&mut self, when: Interval, from: &str, to: &str) {
        let id = self.lookup(from);
        self.names.change(when, NameChange::Rename(from.to_owned(), to.to_owned()));
        if let Some(id) = id {
            self.slot_mut(id).role = (self.role_of)(to);
        }
    }

    pub fn check_directory(&self, path: &str) -> io::Result<()> {
        match self.names.find(path) {
            Some(Entry::Directory) => Ok(()),
            Some(Entry::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub fn sync_directory(&mut self, when: Interval, path: &str) {
        self.names.change(when, NameChange::SyncDirectory(path.to_owned()));
    }

    /// Lets what completed by `horizon` become final. As [`File::settle`]; saves memory, changes nothing visible.
    pub fn settle_names(&mut self, horizon: Nanos) {
        self.names.settle(horizon);
        self.collect();
    }

    /// The sum of all file lengths in bytes, as readers see them.
    pub fn used_bytes(&self) -> u64 {
        self.files.iter().flatten().map(|slot| slot.file.current().len()).sum()
    }

    /// Every named file at `at`, by path.
    pub fn file_states(&self, at: Nanos) -> Vec<FileState> {
        let durable = self.names.durable_at(at);
        let state = |(path, id): (String, FileId)| {
            let (file, has_name) = (self.file(id), durable.get(&path) == Some(&Entry::File(id)));
            FileState {
                role: self.role(id).name().to_owned(),
                len_bytes: file.current_at(at).len(),
                synced_len_bytes: has_name.then(|| file.durable_at(at).len()),
                pending_bytes: file.pending_bytes_at(at),
                path,
            }
        };
        self.named_files().into_iter().map(state).collect()
    }

    /// The file that a power loss at `at` would surely leave under this name.
    pub fn durable_at(&self, path: &str, at: Nanos) -> Option<Image> {
        match self.names.durable_at(at).get(path) {
            Some(Entry::File(id)) => Some(self.file(*id).durable_at(at)),
            _ => None,
        }
    }

    /// What a fault that is meant for a role aims at: that role, unless all files there are have none, because the system
    /// does not tell them apart. Then it is any of them.
    pub(super) fn aimed(&self, role: Role) -> Role {
        let files = self.named_files();
        let roleless = !files.is_empty() && files.iter().all(|(_, id)| self.role(*id) == Role::Other);
        if roleless { Role::Other } else { role }
    }

    /// The named files of a role, each as a power loss at `at` would surely leave it.
    pub(super) fn durable_by_role(&self, role: Role, at: Nanos) -> BTreeMap<FileId, Image> {
        let files = self.names.files().filter(|(_, id)| self.role(*id) == role);
        files.map(|(_, id)| (id, self.file(id).durable_at(at))).collect()
    }

    /// The named files of a role as readers see them, by path.
    pub fn contents_by_role(&self, role: Role) -> BTreeMap<String, Image> {
        let files = self.named_files().into_iter().filter(|(_, id)| self.role(*id) == role);
        files.map(|(path, id)| (path, self.file(id).current().clone())).collect()
    }

    /// What a power loss at `at` would surely leave, as a disk of its own.
    pub fn durable_copy(&self, at: Nanos) -> Volume {
        let mut copy = self.clone();
        let pending = copy.pending(at);
        copy.lose_power(at, &pending, &Choice::none(&pending));
        copy
    }

    /// Flips one bit of a named file, on the platter and for readers. `false` where the file has none, or where its sector has
    /// un-synced bytes.
    pub fn flip_bit(&mut self, path: &str, byte: u64, bit: u32) -> bool {
        let Some(id) = self.lookup(path) else { return false };
        let file = self.file_mut(id);
        let sector = byte / SECTOR_BYTES;
        let mut bytes = file.persisted().sector(sector);
        bytes[usize::try_from(byte % SECTOR_BYTES).expect("within a sector")] ^= 1 << (bit % 8);
        file.spoil(sector, &bytes, fault::BIT_ROT)
    }

    /// Makes one sector of a named file unreadable. `false` if there is no such file.
    pub fn lose_sector(&mut self, path: &str, sector: u64) -> bool {
        let Some(id) = self.lookup(path) else { return false };
        self.file_mut(id).defects.add_latent(sector);
        true
    }

    /// Makes the files of a role unusable: the first page of each is noise.
    pub fn scramble(&mut self, role: Role, at: Nanos) {
        for (id, mut image) in self.durable_by_role(role, at) {
            let noise = [b'#'; PAGE_BYTES as usize];
            let len = usize::try_from(image.len()).unwrap_or(usize::MAX).min(noise.len());
            image.write(0, &noise[..len]);
            self.file_mut(id).restart_from(image);
        }
    }

    /// Full paths of what a power loss at `at` would surely leave directly in `directory`, in order.
    pub fn durable_list_at(&self, directory: &str, at: Nanos) -> Vec<String> {
        let names = self.names.durable_at(at).into_keys();
        names.filter(|path| path != "/" && parent(path) == directory).collect()
    }

    /// The file that a reader at `at` sees under the name that `path` has now.
    pub fn current_at(&self, path: &str, at: Nanos) -> Option<Image> {
        self.lookup(path).map(|id| self.file(id).current_at(at))
    }

    /// The process died at `at`, which must not lie in the world's future: what it had not issued never happened.
    pub fn crash(&mut self, at: Nanos) {
        self.names.crash(at);
        for slot in self.files.iter_mut().flatten() {
            slot.file.crash(at);
            slot.handles = 0;
        }
        self.collect();
    }

    /// What a power loss at `at` could take. `at` must not lie in the world's future.
    pub fn pending(&mut self, at: Nanos) -> Pending {
        let directories = self.names.pending(at);
        let slots = self.files.iter_mut().enumerate();
        let files = slots.filter_map(|(n, slot)| slot.as_mut().map(|slot| (file_id(n), &mut slot.file)));
        Pending::at(at, files, directories)
    }

    /// The power went at `at`; `choice` says what became of `pending`, which must be of the same time. Returns the toll
    /// and how many name operations were lost.
    pub fn lose_power(&mut self, at: Nanos, pending: &Pending, choice: &Choice) -> (Toll, u64) {
        let toll = pending.toll(choice);
        let mut survivors: BTreeMap<FileId, Image> = pending.outcome(choice).into_iter().collect();
        for (n, slot) in self.files.iter_mut().enumerate() {
            let Some(slot) = slot else { continue };
            // Whatever is not listed had nothing pending: what is on the platter is all there is.
            let survivor = survivors.remove(&file_id(n)).unwrap_or_else(|| slot.file.persisted().clone());
            slot.file.restart_from(survivor);
            slot.handles = 0;
        }
        let names_lost = self.names.lose_power(at, &choice.names);
        self.collect();
        let role_of = self.role_of;
        self.set_roles(role_of);
        (toll, names_lost)
    }

    /// What the disk is doing at `at`, recovery aside.
    pub fn moment(&self, at: Nanos) -> Moment {
        let mut pending = false;
        for slot in self.files.iter().flatten() {
            for op in slot.file.log().filter(|op| op.when.issued_by(at)) {
                if op.change.is_barrier() && !op.when.complete_by(at) {
                    return Moment::InSync;
                }
            }
            pending |= slot.role != Role::State && slot.file.unsynced_at(at);
        }
        match (self.names.syncing_at(at), pending) {
            (true, _) => Moment::InSync,
            (false, true) => Moment::BetweenWriteAndSync,
            (false, false) => Moment::BeforeWrite,
        }
    }

    fn named_files(&self) -> Vec<(String, FileId)> {
        self.names.files().map(|(path, id)| (path.to_owned(), id)).collect()
    }

    fn add(&mut self, role: Role) -> FileId {
        let id = file_id(self.files.len());
        self.files.push(Some(Slot { file: File::default(), role, handles: 0 }));
        id
    }

    /// Forgets files that nothing leads to any more.
    fn collect(&mut self) {
        let idle = |slot: &Option<Slot>| slot.as_ref().is_some_and(|slot| slot.handles == 0);
        if !self.files.iter().any(idle) {
            return;
        }
        let referenced = self.names.referenced();
        for (n, slot) in self.files.iter_mut().enumerate() {
            if idle(slot) && !referenced.contains(&file_id(n)) {
                *slot = None;
            }
        }
    }

    fn slot(&self, id: FileId) -> &Slot {
        self.files[id.0 as usize].as_ref().expect("a file lives as long as a name or a handle leads to it")
    }

    fn slot_mut(&mut self, id: FileId) -> &mut Slot {
        self.files[id.0 as usize].as_mut().expect("a file lives as long as a name or a handle leads to it")
    }
}

fn file_id(index: usize) -> FileId {
    FileId(u32::try_from(index).expect("fewer than 2^32 files in one run"))
}

/// Paths are absolute, without `.`, `..`, empty parts or a slash at the end: whoever builds them knows them.
fn check_path(path: &str) -> io::Result<()> {
    let parts_ok =
        path.strip_prefix('/').is_some_and(|rest| !rest.split('/').any(|part| matches!(part, "" | "." | "..")));
    if parts_ok { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain absolute path")) }
}
