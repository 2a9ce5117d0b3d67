//! What was done to the system, and what of it mattered.
//!
//! *Injected* counts what was done; *noticed* counts an observable of the kind itself: a power loss that lost a
//! sector, a cut that dropped a packet, an error that reached the engine. A fault that is never noticed tests nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::plan::PARTITION_KINDS;
use super::report::FaultCount;
use super::spec::families;

/// Fault counts of one run, by kind.
pub struct Ledger {
    counts: RefCell<BTreeMap<String, FaultCount>>,
}

impl Default for Ledger {
    fn default() -> Self {
        let always = ["clock-offset", "clock-skew", "slow-pair"];
        let kinds = families().chain(always).chain(PARTITION_KINDS.iter().copied());
        let counts = kinds.map(|kind| (kind.to_owned(), FaultCount::default())).collect();
        Ledger { counts: RefCell::new(counts) }
    }
}

impl Ledger {
    pub fn injected(&self, kind: &str, count: u64) {
        self.counts.borrow_mut().entry(kind.to_owned()).or_default().injected += count;
    }

    pub fn noticed(&self, kind: &str, count: u64) {
        self.counts.borrow_mut().entry(kind.to_owned()).or_default().noticed += count;
    }

    pub fn counts(&self) -> BTreeMap<String, FaultCount> {
        self.counts.borrow().clone()
    }
}
