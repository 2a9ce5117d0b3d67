//! A heap that nearly always has one element or none.
//!
//! Most instants wake one task, and most slices of time have one entry: then nothing is sifted. One element lives outside
//! of the heap proper; which one does not matter.

use std::collections::BinaryHeap;

/// Yields the largest first, as the standard heap.
#[derive(Debug)]
pub(crate) struct ShortHeap<T> {
    one: Option<T>,
    rest: BinaryHeap<T>,
}

impl<T: Ord> ShortHeap<T> {
    pub const fn new() -> ShortHeap<T> {
        ShortHeap { one: None, rest: BinaryHeap::new() }
    }

    #[inline]
    pub fn push(&mut self, value: T) {
        if self.one.is_none() {
            self.one = Some(value);
        } else {
            self.rest.push(value);
        }
    }

    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.rest.is_empty() || self.one.as_ref() >= self.rest.peek() { self.one.take() } else { self.rest.pop() }
    }

    #[inline]
    pub fn peek(&self) -> Option<&T> {
        if self.rest.is_empty() { self.one.as_ref() } else { self.one.as_ref().max(self.rest.peek()) }
    }

    pub fn retain(&mut self, mut wanted: impl FnMut(&T) -> bool) {
        self.one = self.one.take().filter(&mut wanted);
        self.rest.retain(wanted);
    }

    pub fn len(&self) -> usize {
        usize::from(self.one.is_some()) + self.rest.len()
    }

    pub fn clear(&mut self) {
        self.one = None;
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
        for step in 0..10_000 {
            if dice.chance(550_000) {
                let value = dice.below(100);
                heap.push(value);
                model.push(value);
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
