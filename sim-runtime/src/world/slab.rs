//! Values at small stable indices, reused last-in first-out, so that ids stay dense and nothing is allocated per event.
//!
//! A [`Key`] carries a generation: an old key never finds the value that took its place.

// A key is a number of the width of a pointer.
const _: () = assert!(usize::BITS == 64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub slot: u32,
    generation: u32,
}

impl Key {
    /// Finds nothing in any slab.
    pub const NONE: Key = Key { slot: u32::MAX, generation: u32::MAX };

    #[inline]
    pub fn to_number(self) -> usize {
        (self.generation as usize) << 32 | self.slot as usize
    }

    #[inline]
    pub fn from_number(number: usize) -> Key {
        Key { slot: (number & 0xffff_ffff) as u32, generation: (number >> 32) as u32 }
    }
}

#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    first_generation: u32,
}

impl<T> Slab<T> {
    pub const fn new() -> Slab<T> {
        Slab::of_generation(0)
    }

    /// Counts the generations of its slots from this one.
    pub const fn of_generation(first_generation: u32) -> Slab<T> {
        Slab { entries: Vec::new(), free: Vec::new(), first_generation }
    }

    #[inline]
    pub fn insert(&mut self, value: T) -> Key {
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.entries[slot as usize];
            entry.1 = Some(value);
            return Key { slot, generation: entry.0 };
        }
        let slot = u32::try_from(self.entries.len()).expect("fewer than 2^32 values live at once");
        self.entries.push((self.first_generation, Some(value)));
        Key { slot, generation: self.first_generation }
    }

    #[inline]
    pub fn get(&self, key: Key) -> Option<&T> {
        let entry = self.entries.get(key.slot as usize)?;
        if entry.0 == key.generation { entry.1.as_ref() } else { None }
    }

    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.slot as usize)?;
        if entry.0 == key.generation { entry.1.as_mut() } else { None }
    }

    #[inline]
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.entries.get_mut(key.slot as usize)?;
        if entry.0 != key.generation {
            return None;
        }
        let value = entry.1.take()?;
        entry.0 = entry.0.wrapping_add(1);
        self.free.push(key.slot);
        Some(value)
    }

    /// All values with their keys, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        (0u32..).zip(&self.entries).filter_map(|(slot, (generation, value))| {
            value.as_ref().map(|value| (Key { slot, generation: *generation }, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_does_not_find_the_successor() {
        let mut slab = Slab::new();
        let old = slab.insert("old");
        assert_eq!(slab.remove(old), Some("old"));
        let new = slab.insert("new");
        assert_eq!(new.slot, old.slot);
        assert_eq!(slab.get(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get(new), Some(&"new"));
        assert_eq!(slab.get(Key::NONE), None);
    }
}
