//! What a power loss leaves: any legal subset of what no sync had made durable.
//!
//! The unit is a sector of a file with un-synced bytes. A drive writes a sector whole or not at all, so it survives as
//! one of its *versions*: as persisted, or as the cache held it after some un-synced write. Sectors survive in any order,
//! so writes are reordered, lost in the middle and torn. A file's length is journaled: of its un-synced changes a prefix
//! survives, before or after the data they belong to; what lies past the length that survived is gone, and a grown file
//! without its data reads as zeros.
//!
//! [`Pending`] lists the units, [`Choice`] says what becomes of each, [`Choice::draw`] picks one so that every [`Shape`]
//! is common, and [`Choice::enumerate`] lists all where few are pending.
//!
//! Pure: the choice is an argument, chance is a function that the caller supplies.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::file::{Change, File, Nanos, Op};
use super::image::{Image, SECTOR_BYTES};
use super::names::FileId;

/// What survived of the pending sectors, in the order in which they were written. A write counts as torn when some of
/// its sectors survived and some did not; the other shapes keep or lose whole writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    None,
    All,
    Prefix,
    Suffix,
    Holes,
    Torn,
}

/// Un-synced operations of one file.
#[derive(Clone, Debug)]
pub struct PendingFile {
    pub id: FileId,
    persisted: Image,
    ops: Vec<Op>,
    /// The persisted length, then the length after each change of it, with the position of the operation that made it.
    lengths: Vec<(u64, Option<usize>)>,
}

/// A sector with un-synced bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingSector {
    /// Index into [`Pending::files`].
    file: usize,
    sector: u64,
    /// Positions of the writes that touched it, in order. The last one owns the sector.
    versions: Vec<usize>,
}

/// Everything that a power loss at one time may take.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    files: Vec<PendingFile>,
    /// In the order of the owning writes.
    sectors: Vec<PendingSector>,
    /// Un-synced name operations per directory.
    directories: BTreeMap<String, usize>,
}

/// What becomes of each pending unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Per pending sector: 0 = as persisted, n = as after the n-th un-synced write to it.
    versions: Vec<usize>,
    /// Per file: how many changes of its length survive.
    lengths: Vec<usize>,
    /// Per directory: how many name operations survive.
    pub(super) names: BTreeMap<String, usize>,
}

/// What a choice did to the pending sectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Toll {
    /// `None` when no sector was pending.
    pub shape: Option<Shape>,
    pub sectors_pending: u64,
    /// Per file, only those that lost some.
    pub sectors_lost: BTreeMap<FileId, u64>,
    /// Files whose length went back.
    pub lengths_lost: u64,
}

impl Pending {
    /// What is pending in `files` at `at`, which must not lie in the world's future: the files settle.
    pub(super) fn at<'a>(
        at: Nanos,
        files: impl Iterator<Item = (FileId, &'a mut File)>,
        directories: BTreeMap<String, usize>,
    ) -> Pending {
        let mut pending = Pending { directories, ..Pending::default() };
        for (id, file) in files {
            file.settle(at);
            let ops: Vec<Op> =
                file.log().filter(|op| op.when.issued_by(at) && !op.change.is_barrier()).cloned().collect();
            if !ops.is_empty() {
                pending.add(PendingFile::new(id, file.persisted().clone(), ops));
            }
        }
        let files = &pending.files;
        pending.sectors.sort_by_key(|sector| (files[sector.file].order(sector.owner()), sector.file, sector.sector));
        pending
    }

    pub fn sector_count(&self) -> usize {
        self.sectors.len()
    }

    /// Files with anything pending, in order.
    pub fn files(&self) -> impl Iterator<Item = FileId> {
        self.files.iter().map(|file| file.id)
    }

    /// Nothing at all: no sector, no length, no name.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.directories.is_empty()
    }

    /// The files as the choice leaves them. Files without pending operations stay as persisted and are not listed.
    pub fn outcome(&self, choice: &Choice) -> Vec<(FileId, Image)> {
        let mut chosen: Vec<BTreeMap<usize, Vec<u64>>> = vec![BTreeMap::new(); self.files.len()];
        for (sector, version) in self.sectors.iter().zip(&choice.versions) {
            if *version > 0 {
                chosen[sector.file].entry(sector.versions[version - 1]).or_default().push(sector.sector);
            }
        }
        let files = self.files.iter().zip(&choice.lengths).zip(chosen);
        files.map(|((file, length), chosen)| (file.id, file.survivor(*length, &chosen))).collect()
    }

    pub fn toll(&self, choice: &Choice) -> Toll {
        let survived: Vec<bool> =
            self.sectors.iter().zip(&choice.versions).map(|(s, v)| self.survives(s, *v, choice)).collect();
        let mut sectors_lost = BTreeMap::new();
        for (sector, _) in self.sectors.iter().zip(&survived).filter(|(_, survived)| !**survived) {
            *sectors_lost.entry(self.files[sector.file].id).or_default() += 1;
        }
        let lengths_lost = self.files.iter().zip(&choice.lengths).filter(|(f, n)| **n + 1 < f.lengths.len()).count();
        Toll {
            shape: classify(&self.writes().iter().map(|write| &survived[write.clone()]).collect::<Vec<_>>()),
            sectors_pending: self.sectors.len() as u64,
            sectors_lost,
            lengths_lost: lengths_lost as u64,
        }
    }

    fn survives(&self, sector: &PendingSector, version: usize, choice: &Choice) -> bool {
        let length = self.files[sector.file].lengths[choice.lengths[sector.file]].0;
        version == sector.versions.len() && sector.sector * SECTOR_BYTES < length
    }

    fn add(&mut self, file: PendingFile) {
        let index = self.files.len();
        let mut touched: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (position, op) in file.ops.iter().enumerate() {
            for sector in op.change.sectors() {
                touched.entry(sector).or_default().push(position);
            }
        }
        let length = file.lengths.last().expect("begins with the persisted length").0;
        // What was written and then cut off by a shrinking `set_len` is nothing to lose.
        let inside = touched.into_iter().filter(|(sector, _)| sector * SECTOR_BYTES < length);
        self.sectors.extend(inside.map(|(sector, versions)| PendingSector { file: index, sector, versions }));
        self.files.push(file);
    }

    /// Ranges of `sectors` that one write owns.
    fn writes(&self) -> Vec<std::ops::Range<usize>> {
        let mut writes: Vec<std::ops::Range<usize>> = Vec::new();
        for n in 0..self.sectors.len() {
            let same = n > 0 && {
                let (a, b) = (&self.sectors[n - 1], &self.sectors[n]);
                (a.file, a.owner()) == (b.file, b.owner())
            };
            match writes.last_mut() {
                Some(last) if same => last.end = n + 1,
                _ => writes.push(n..n + 1),
            }
        }
        writes
    }
}

impl PendingSector {
    fn owner(&self) -> usize {
        *self.versions.last().expect("a sector is pending because a write touched it")
    }
}

impl PendingFile {
    fn new(id: FileId, persisted: Image, ops: Vec<Op>) -> PendingFile {
        let mut lengths = vec![(persisted.len(), None)];
        let mut length = persisted.len();
        for (position, op) in ops.iter().enumerate() {
            let after = match &op.change {
                Change::Write { offset, bytes } => length.max(offset + bytes.len() as u64),
                Change::SetLen(len) => *len,
                Change::Sync | Change::SyncFailed | Change::SyncFailedReadable => length,
            };
            if after != length {
                length = after;
                lengths.push((length, Some(position)));
            }
        }
        PendingFile { id, persisted, ops, lengths }
    }

    /// Where an operation stands among those of all files.
    fn order(&self, op: usize) -> (Nanos, FileId, usize) {
        (self.ops[op].when.issue, self.id, op)
    }

    /// How many changes of the length were made by operations before `cut`.
    fn lengths_before(&self, cut: (Nanos, FileId, usize)) -> usize {
        self.lengths[1..].iter().take_while(|(_, op)| op.is_some_and(|op| self.order(op) < cut)).count()
    }

    /// The file with `chosen[op]` = the sectors that survive as the cache held them after `op`.
    fn survivor(&self, lengths_kept: usize, chosen: &BTreeMap<usize, Vec<u64>>) -> Image {
        let mut cache = self.persisted.clone();
        let mut platter = self.persisted.clone();
        for (position, op) in self.ops.iter().enumerate() {
            op.change.apply(&mut cache);
            let kept = self.lengths[1..=lengths_kept].iter().any(|(_, op)| *op == Some(position));
            if let (Change::SetLen(len), true) = (&op.change, kept) {
                platter.set_len(*len);
            }
            for sector in chosen.get(&position).into_iter().flatten() {
                platter.copy_sector(&cache, *sector);
            }
        }
        platter.set_len(self.lengths[lengths_kept].0);
        platter
    }
}

impl Change {
    fn sectors(&self) -> std::ops::Range<u64> {
        match self {
            Change::Write { offset, bytes } if !bytes.is_empty() => {
                offset / SECTOR_BYTES..(offset + bytes.len() as u64).div_ceil(SECTOR_BYTES)
            }
            _ => 0..0,
        }
    }
}

/// Chance: a uniform number below its argument, which is at least 1.
pub type Below<'a> = &'a mut dyn FnMut(u64) -> u64;

impl Choice {
    /// Nothing un-synced survives.
    pub fn none(pending: &Pending) -> Choice {
        Choice {
            versions: vec![0; pending.sectors.len()],
            lengths: vec![0; pending.files.len()],
            names: BTreeMap::new(),
        }
    }

    /// Everything un-synced survives.
    pub fn all(pending: &Pending) -> Choice {
        Choice {
            versions: pending.sectors.iter().map(|sector| sector.versions.len()).collect(),
            lengths: pending.files.iter().map(|file| file.lengths.len() - 1).collect(),
            names: pending.directories.clone(),
        }
    }

    /// Every possible choice, when there are at most `max` of them.
    pub fn enumerate(pending: &Pending, max: usize) -> Option<Vec<Choice>> {
        let sectors = pending.sectors.iter().map(|sector| sector.versions.len());
        let lengths = pending.files.iter().map(|file| file.lengths.len() - 1);
        let bounds: Vec<usize> = sectors.chain(lengths).chain(pending.directories.values().copied()).collect();
        let total =
            bounds.iter().try_fold(1usize, |total, bound| total.checked_mul(bound + 1).filter(|n| *n <= max))?;
        Some((0..total).map(|n| Choice::numbered(pending, &bounds, n)).collect())
    }

    fn numbered(pending: &Pending, bounds: &[usize], mut number: usize) -> Choice {
        let mut digits = bounds.iter().map(|bound| {
            let digit = number % (bound + 1);
            number /= bound + 1;
            digit
        });
        Choice {
            versions: digits.by_ref().take(pending.sectors.len()).collect(),
            lengths: digits.by_ref().take(pending.files.len()).collect(),
            names: pending.directories.keys().cloned().zip(digits).collect(),
        }
    }

    /// One choice, such that each shape that is possible at all is common.
    pub fn draw(pending: &Pending, below: Below) -> Choice {
        let writes = pending.writes();
        let mut choice = Choice::none(pending);
        choice.draw_sectors(pending, &writes, below);
        choice.names = pending
            .directories
            .iter()
            .map(|(directory, count)| {
                let kept = match below(3) {
                    0 => 0,
                    1 => *count,
                    _ => below(*count as u64 + 1) as usize,
                };
                (directory.clone(), kept)
            })
            .collect();
        choice
    }

    fn draw_sectors(&mut self, pending: &Pending, writes: &[std::ops::Range<usize>], below: Below) {
        let mut shapes = vec![Shape::None, Shape::All];
        if writes.iter().any(|write| write.len() > 1) {
            shapes.extend([Shape::Torn; 2]);
        }
        if writes.len() >= 2 {
            shapes.extend([Shape::Prefix, Shape::Prefix, Shape::Suffix, Shape::Suffix]);
        }
        if writes.len() >= 3 {
            shapes.extend([Shape::Holes; 2]);
        }
        match shapes[below(shapes.len() as u64) as usize] {
            Shape::None => self.draw_lengths(pending, below),
            Shape::All => *self = Choice { names: std::mem::take(&mut self.names), ..Choice::all(pending) },
            Shape::Prefix => self.draw_prefix(pending, writes, below),
            Shape::Suffix => {
                let first = writes[1 + below(writes.len() as u64 - 1) as usize].start;
                self.keep(pending, |n, _| n >= first, below);
                self.draw_lengths(pending, below);
            }
            Shape::Holes => {
                let kept: Vec<bool> = writes.iter().map(|_| below(2) == 0).collect();
                let of = owner_of_each(writes);
                self.keep(pending, |n, _| kept[of[n]], below);
                self.draw_lengths(pending, below);
            }
            Shape::Torn => {
                let eighths = 1 + below(7);
                self.keep(pending, |_, below| below(8) < eighths, below);
                self.draw_lengths(pending, below);
            }
        }
    }

    /// What was written before some write, and perhaps some sectors of that write.
    fn draw_prefix(&mut self, pending: &Pending, writes: &[std::ops::Range<usize>], below: Below) {
        let cut = &writes[1 + below(writes.len() as u64 - 1) as usize];
        let order = |n: usize| {
            let sector = &pending.sectors[n];
            pending.files[sector.file].order(sector.owner())
        };
        let first_lost = order(cut.start);
        for (sector, version) in pending.sectors.iter().zip(&mut self.versions) {
            let file = &pending.files[sector.file];
            *version = sector.versions.iter().take_while(|op| file.order(**op) < first_lost).count();
        }
        if below(4) == 0 {
            for n in cut.clone().take(below(cut.len() as u64) as usize) {
                self.versions[n] = pending.sectors[n].versions.len();
            }
        }
        // Usually the length that belongs to the prefix, sometimes the journal was ahead of the data.
        let journal_ahead = below(3) == 0;
        for (file, kept) in pending.files.iter().zip(&mut self.lengths) {
            let before = file.lengths_before(first_lost);
            let ahead = (file.lengths.len() - 1 - before) as u64;
            *kept = before + if journal_ahead { below(ahead + 1) as usize } else { 0 };
        }
    }

    /// Keeps the latest version of each sector that `keep` names; of the others one in two survives in an older version.
    fn keep(&mut self, pending: &Pending, keep: impl Fn(usize, Below) -> bool, below: Below) {
        for (n, sector) in pending.sectors.iter().enumerate() {
            self.versions[n] = if keep(n, below) {
                sector.versions.len()
            } else if sector.versions.len() > 1 && below(2) == 0 {
                below(sector.versions.len() as u64) as usize
            } else {
                0
            };
        }
    }

    /// Mostly the latest length, so that what survived of the data shows; otherwise any.
    fn draw_lengths(&mut self, pending: &Pending, below: Below) {
        for (file, kept) in pending.files.iter().zip(&mut self.lengths) {
            let changes = file.lengths.len() - 1;
            *kept = if changes == 0 || below(4) > 0 { changes } else { below(changes as u64 + 1) as usize };
        }
    }
}

/// For each sector the number of the write that owns it.
fn owner_of_each(writes: &[std::ops::Range<usize>]) -> Vec<usize> {
    writes.iter().enumerate().flat_map(|(n, write)| write.clone().map(move |_| n)).collect()
}

/// `survived` per write, per sector.
fn classify(survived: &[&[bool]]) -> Option<Shape> {
    if survived.is_empty() {
        return None;
    }
    let whole = |write: &&[bool]| write.iter().all(|survived| *survived);
    if survived.iter().any(|write| !whole(write) && write.iter().any(|survived| *survived)) {
        return Some(Shape::Torn);
    }
    let kept: Vec<bool> = survived.iter().map(whole).collect();
    let turns = kept.windows(2).filter(|pair| pair[0] != pair[1]).count();
    Some(match (turns, kept[0]) {
        (0, true) => Shape::All,
        (0, false) => Shape::None,
        (1, true) => Shape::Prefix,
        (1, false) => Shape::Suffix,
        _ => Shape::Holes,
    })
}

#[cfg(test)]
#[path = "power_loss_tests.rs"]
mod tests;
