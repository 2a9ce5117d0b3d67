//! How much of the log the state machine no longer needs: the meeting point of the two stores.
//!
//! The log may be purged up to the newest durable snapshot, or up to the state that was durable when it was opened.

use std::sync::{Arc, Mutex, PoisonError};

use crate::types::LogId;

/// Shared by the log and the state machine of one node.
#[derive(Clone, Debug, Default)]
pub struct DurableFloor {
    inner: Arc<Mutex<Floor>>,
}

#[derive(Debug, Default)]
struct Floor {
    durable: Option<LogId>,
    applied: Option<LogId>,
}

impl DurableFloor {
    /// Everything up to `upto` survives a power loss without the log.
    pub fn raise(&self, upto: Option<LogId>) {
        let mut floor = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        floor.durable = floor.durable.max(upto);
    }

    /// Everything up to `upto` was applied, not necessarily durably.
    pub fn set_applied(&self, upto: Option<LogId>) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).applied = upto;
    }

    /// Whether the log may forget `index`.
    pub fn covers(&self, index: u64) -> bool {
        let floor = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        floor.durable.is_some_and(|durable| index <= durable.index)
    }

    pub(crate) fn applied(&self) -> Option<LogId> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).applied
    }
}
