//! A heap that nearly always has few elements.
//!
//! Most instants wake one task or as many as there are hosts, and most slices of time have few entries. The first few
//! elements are therefore not ordered at all: the largest is looked for. Only what comes on top is in a heap proper;
//! which elements those are does not matter.

use std::collections::BinaryHeap;

/// Elements that are not ordered. Looking through them costs less than sifting.
const FEW: usize = 16;

/// Yields the largest first, as the standard heap.
#[derive(Debug)]
pub(crate) struct ShortHeap<T> {
    few: Vec<T>,
    rest: BinaryHeap<T>,
}

impl<T: Ord> ShortHeap<T> {
    pub const fn new() -> ShortHeap<T> {
        ShortHeap { few: Vec::new(), rest: BinaryHeap::new() }
    }

    #[inline]
    pub fn push(&mut self, value: T) {
        if self.few.len() < FEW {
            self.few.push(value);
        } else {
            self.rest.push(value);
        }
    }

    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        self.pop_if(|_| true)
    }

    /// Yields the largest if it is `wanted`.
    #[inline]
    pub fn pop_if(&mut self, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        if !self.rest.is_empty() {
            return self.pop_rest_if(wanted);
        }
        let (first, others) = self.few.split_first()?;
        let (mut at, mut largest) = (0, first);
        for (index, value) in others.iter().enumerate() {
            if value > largest {
                (at, largest) = (index + 1, value);
            }
        }
        if wanted(largest) { Some(self.few.swap_remove(at)) } else { None }
    }

    /// The same when there are many.
    #[cold]
    fn pop_rest_if(&mut self, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        let few = self.few.iter().enumerate().max_by(|left, right| left.1.cmp(right.1));
        let largest = few.map(|(_, value)| value).max(self.rest.peek())?;
        if !wanted(largest) {
            return None;
        }
        match few {
            Some((at, value)) if Some(value) >= self.rest.peek() => Some(self.few.swap_remove(at)),
            _ => self.rest.pop(),
        }
    }

    #[cfg(test)]
    pub fn peek(&self) -> Option<&T> {
        self.few.iter().max().max(self.rest.peek())
    }

    pub fn retain(&mut self, mut wanted: impl FnMut(&T) -> bool) {
        self.few.retain(&mut wanted);
        self.rest.retain(wanted);
    }

    pub fn len(&self) -> usize {
        self.few.len() + self.rest.len()
    }

    pub fn clear(&mut self) {
        self.few.clear();
        self.rest.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::draws::Dice;

    #[test]
    fn behaves_like_the_standard_heap() {
        let (mut heap, mut model) = (ShortHeap::new(), BinaryHeap::new());
        let mut dice = Dice::new(1);
        for step in 0..20_000 {
            // Grows to beyond the few and shrinks to nothing, by turns.
            let grows = if step / 200 % 2 == 0 { 600_000 } else { 380_000 };
            if dice.chance(grows) {
                let value = dice.below(100);
                heap.push(value);
                model.push(value);
            } else if dice.chance(300_000) {
                let limit = dice.below(100);
                let expected = if model.peek() >= Some(&limit) { model.pop() } else { None };
                assert_eq!(heap.pop_if(|value| *value >= limit), expected, "step {step}");
            } else {
                assert_eq!(heap.pop(), model.pop(), "step {step}");
            }
            if step % 1_000 == 999 {
                heap.retain(|value| value % 3 > 0);
                model.retain(|value| value % 3 > 0);
            }
            assert_eq!((heap.peek(), heap.len()), (model.peek(), model.len()), "step {step}");
        }
        heap.clear();
        assert_eq!(heap.pop(), None);
    }
}
