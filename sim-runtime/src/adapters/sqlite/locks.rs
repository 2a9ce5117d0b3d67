//! Locks between the connections to one database file, as SQLite's unix VFS takes them within one process.
//!
//! Pure: a connection is a number, a refused lock is `false`, nothing ever waits.

use std::collections::BTreeMap;

/// SQLite's five states of a database file, by its numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    #[default]
    None = 0,
    Shared = 1,
    Reserved = 2,
    Pending = 3,
    Exclusive = 4,
}

impl Level {
    pub fn of(number: i32) -> Option<Level> {
        [Level::None, Level::Shared, Level::Reserved, Level::Pending, Level::Exclusive]
            .into_iter()
            .find(|level| *level as i32 == number)
    }
}

#[derive(Debug, Default)]
pub(super) struct FileLocks {
    holders: BTreeMap<u64, Level>,
}

impl FileLocks {
    /// Raises a connection's lock. `false` = busy; a refused `Exclusive` keeps `Pending`, so that readers run out.
    pub fn lock(&mut self, who: u64, wanted: Level) -> bool {
        let held = self.level(who);
        if held >= wanted {
            return true;
        }
        let others = self.others(who);
        match wanted {
            Level::None => true,
            Level::Shared => self.grant(who, Level::Shared, others < Level::Pending),
            Level::Reserved => self.grant(who, Level::Reserved, others < Level::Reserved),
            Level::Pending | Level::Exclusive => {
                if !self.grant(who, Level::Pending, others < Level::Reserved) {
                    return false;
                }
                self.grant(who, wanted, wanted == Level::Pending || others == Level::None)
            }
        }
    }

    /// Lowers a connection's lock.
    pub fn unlock(&mut self, who: u64, to: Level) {
        match to {
            Level::None => {
                self.holders.remove(&who);
            }
            _ if self.level(who) > to => {
                self.holders.insert(who, to);
            }
            _ => {}
        }
    }

    /// Whether anybody, the asking connection included, means to write.
    pub fn is_reserved(&self) -> bool {
        self.holders.values().any(|level| *level >= Level::Reserved)
    }

    fn grant(&mut self, who: u64, level: Level, free: bool) -> bool {
        if free {
            self.holders.insert(who, level);
        }
        free
    }

    fn level(&self, who: u64) -> Level {
        self.holders.get(&who).copied().unwrap_or_default()
    }

    fn others(&self, who: u64) -> Level {
        self.holders.iter().filter(|(other, _)| **other != who).map(|(_, level)| *level).max().unwrap_or_default()
    }
}

/// The slots of a write-ahead log's shared memory: each exclusive to one connection, or shared by several.
#[derive(Debug, Default)]
pub(super) struct SlotLocks {
    slots: [Slot; SLOTS],
}

/// `SQLITE_SHM_NLOCK`.
pub(super) const SLOTS: usize = 8;

#[derive(Debug, Default)]
struct Slot {
    exclusive: Option<u64>,
    /// Connections, each as often as it holds the slot.
    shared: Vec<u64>,
}

impl SlotLocks {
    pub fn lock_shared(&mut self, who: u64, slots: std::ops::Range<usize>) -> bool {
        let free = self.slots[slots.clone()].iter().all(|slot| slot.exclusive.is_none_or(|owner| owner == who));
        if free {
            self.slots[slots].iter_mut().for_each(|slot| slot.shared.push(who));
        }
        free
    }

    pub fn lock_exclusive(&mut self, who: u64, slots: std::ops::Range<usize>) -> bool {
        let free = self.slots[slots.clone()].iter().all(|slot| {
            slot.exclusive.is_none_or(|owner| owner == who) && slot.shared.iter().all(|owner| *owner == who)
        });
        if free {
            self.slots[slots].iter_mut().for_each(|slot| slot.exclusive = Some(who));
        }
        free
    }

    pub fn unlock_shared(&mut self, who: u64, slots: std::ops::Range<usize>) {
        for slot in &mut self.slots[slots] {
            if let Some(position) = slot.shared.iter().position(|owner| *owner == who) {
                slot.shared.remove(position);
            }
        }
    }

    pub fn unlock_exclusive(&mut self, who: u64, slots: std::ops::Range<usize>) {
        self.slots[slots].iter_mut().filter(|slot| slot.exclusive == Some(who)).for_each(|slot| slot.exclusive = None);
    }

    pub fn release_all(&mut self, who: u64) {
        for slot in &mut self.slots {
            slot.shared.retain(|owner| *owner != who);
            slot.exclusive = slot.exclusive.filter(|owner| *owner != who);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writer_beside_readers_and_alone_to_commit() {
        let mut locks = FileLocks::default();
        assert!(locks.lock(1, Level::Shared) && locks.lock(2, Level::Shared));
        assert!(locks.lock(1, Level::Reserved));
        assert!(!locks.lock(2, Level::Reserved));
        assert!(locks.is_reserved());
        assert!(!locks.lock(1, Level::Exclusive), "a reader is in");
        assert!(!locks.lock(3, Level::Shared), "and no further one comes");
        locks.unlock(2, Level::None);
        assert!(locks.lock(1, Level::Exclusive));
        locks.unlock(1, Level::Shared);
        assert!(locks.lock(3, Level::Shared));
    }

    #[test]
    fn slots_are_shared_or_exclusive() {
        let mut slots = SlotLocks::default();
        assert!(slots.lock_shared(1, 3..4) && slots.lock_shared(2, 3..4));
        assert!(!slots.lock_exclusive(1, 0..8), "another reads slot 3");
        assert!(slots.lock_exclusive(1, 0..3));
        assert!(!slots.lock_shared(2, 2..3));
        slots.unlock_shared(2, 3..4);
        assert!(slots.lock_exclusive(1, 3..4));
        slots.release_all(1);
        assert!(slots.lock_exclusive(2, 0..8));
    }
}
