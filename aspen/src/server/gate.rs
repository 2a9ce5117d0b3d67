//! Admission: so many at a time, and no queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Admits up to a bound.
#[derive(Debug)]
pub(super) struct Gate {
    in_use: Arc<AtomicUsize>,
    max: usize,
}

/// One of the admitted; leaves when it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    in_use: Arc<AtomicUsize>,
}

impl Gate {
    pub(super) fn new(max: usize) -> Self {
        Gate { in_use: Arc::new(AtomicUsize::new(0)), max }
    }

    /// `None` when the bound is reached. Never waits.
    pub(super) fn enter(&self) -> Option<Permit> {
        let admitted = self
            .in_use
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |in_use| (in_use < self.max).then_some(in_use + 1));
        admitted.ok().map(|_| Permit { in_use: self.in_use.clone() })
    }

    pub(super) fn in_use(&self) -> usize {
        self.in_use.load(Ordering::SeqCst)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_use.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_bound_are_admitted() {
        let gate = Gate::new(2);
        let first = gate.enter();
        let second = gate.enter();
        assert!(first.is_some() && second.is_some() && gate.enter().is_none());
        drop(first);
        assert_eq!(gate.in_use(), 1);
        assert!(gate.enter().is_some());
    }
}
