//! A history: operations of concurrent clients with the moments they began and ended.
//!
//! The order of events is that in which they are reported, so two events at the same virtual time are still ordered:
//! what a client was told before another one asked did happen before, however little time lies between.

use std::collections::BTreeMap;

use crate::world::Nanos;

/// When something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Place in the order of all events of the history, from 0.
    pub order: u64,
    /// Virtual time in ns; for people.
    pub at_ns: Nanos,
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<I, O> {
    pub client: u64,
    /// Unique in the history.
    pub id: u64,
    pub input: I,
    pub invoked: Moment,
    /// `None`: the outcome is not known. The operation stays open to the end of the history: it may take effect at any
    /// later moment, or never.
    pub returned: Option<(Moment, O)>,
}

/// The operations of one run, in the order in which they were invoked.
#[derive(Clone, Debug)]
pub struct History<I, O> {
    operations: Vec<Operation<I, O>>,
    /// Operation id to place in `operations`.
    places: BTreeMap<u64, usize>,
    order_next: u64,
}

/// The report of an event makes no sense; the recorder is at fault, not the system under test.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    #[error("operation {0} was invoked twice")]
    InvokedTwice(u64),
    #[error("operation {0} ended but was never invoked")]
    NeverInvoked(u64),
    #[error("operation {0} ended twice")]
    EndedTwice(u64),
}

impl<I, O> History<I, O> {
    pub fn new() -> History<I, O> {
        History { operations: Vec::new(), places: BTreeMap::new(), order_next: 0 }
    }

    /// A client begins an operation. Until it ends its outcome is unknown.
    pub fn invoke(&mut self, client: u64, id: u64, at_ns: Nanos, input: I) -> Result<(), HistoryError> {
        if self.places.contains_key(&id) {
            return Err(HistoryError::InvokedTwice(id));
        }
        let invoked = self.moment(at_ns);
        self.places.insert(id, self.operations.len());
        self.operations.push(Operation { client, id, input, invoked, returned: None });
        Ok(())
    }

    /// A client learns the outcome of its operation.
    pub fn complete(&mut self, id: u64, at_ns: Nanos, output: O) -> Result<(), HistoryError> {
        let returned = self.moment(at_ns);
        let place = *self.places.get(&id).ok_or(HistoryError::NeverInvoked(id))?;
        let operation = &mut self.operations[place];
        if operation.returned.is_some() {
            return Err(HistoryError::EndedTwice(id));
        }
        operation.returned = Some((returned, output));
        Ok(())
    }

    /// All operations in the order in which they were invoked.
    pub fn operations(&self) -> &[Operation<I, O>] {
        &self.operations
    }

    /// The operations, split by a key of their input, each part in the order of invocation.
    ///
    /// A history over independent objects is linearizable if and only if the part of each object is (Herlihy and Wing,
    /// "Linearizability", 1990, theorem 1).
    pub fn partition<K: Ord>(self, key: impl Fn(&I) -> K) -> BTreeMap<K, Vec<Operation<I, O>>> {
        let mut parts: BTreeMap<K, Vec<Operation<I, O>>> = BTreeMap::new();
        for operation in self.operations {
            parts.entry(key(&operation.input)).or_default().push(operation);
        }
        parts
    }

    fn moment(&mut self, at_ns: Nanos) -> Moment {
        let order = self.order_next;
        self.order_next += 1;
        Moment { order, at_ns }
    }
}

impl<I, O> Default for History<I, O> {
    fn default() -> Self {
        History::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_at_the_same_time_keep_their_order() {
        let mut history = History::new();
        history.invoke(0, 1, 5, "first").unwrap();
        history.complete(1, 5, ()).unwrap();
        history.invoke(1, 2, 5, "second").unwrap();
        let [first, second] = history.operations() else { panic!("two operations") };
        assert!(first.returned.unwrap().0 < second.invoked);
        assert!(second.returned.is_none());
    }

    #[test]
    fn nonsense_is_refused() {
        let mut history = History::new();
        history.invoke(0, 1, 0, ()).unwrap();
        assert_eq!(history.invoke(0, 1, 1, ()), Err(HistoryError::InvokedTwice(1)));
        assert_eq!(history.complete(2, 1, ()), Err(HistoryError::NeverInvoked(2)));
        history.complete(1, 1, ()).unwrap();
        assert_eq!(history.complete(1, 1, ()), Err(HistoryError::EndedTwice(1)));
    }
}
