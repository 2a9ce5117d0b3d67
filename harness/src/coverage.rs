//! Which sites a spec owes, and which of them any run has reached.
//!
//! Sites are registered at link time, so a site in code that never ran is missing here by name.

use std::collections::BTreeSet;

use buggify::{Kind, Site};
use serde::Serialize;
use sim_runtime::engine::report::AssertionCount;

/// The sometimes and reachable sites that name one spec as owing them.
#[derive(Clone, Debug)]
pub struct Coverage {
    owed: Vec<&'static Site>,
    unreached: BTreeSet<String>,
}

/// As in the JSON of `sweep`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CoverageReport {
    pub reached: usize,
    pub total: usize,
    /// Ids, in the order of the sources.
    pub unreached: Vec<String>,
}

impl Coverage {
    pub fn owed_by(spec: &str) -> Coverage {
        let owes =
            |site: &&&'static Site| matches!(site.kind, Kind::Sometimes | Kind::Reachable) && site.is_owed_by(spec);
        let owed: Vec<&'static Site> = buggify::catalogue().iter().filter(owes).copied().collect();
        let unreached = owed.iter().map(|site| site.id()).collect();
        Coverage { owed, unreached }
    }

    /// Adds what one run reached: a condition that held, or a place that was visited.
    pub fn add(&mut self, assertions: &[AssertionCount]) {
        for assertion in assertions.iter().filter(|assertion| assertion.passes > 0) {
            self.unreached.remove(&assertion.id);
        }
    }

    pub fn is_complete(&self) -> bool {
        self.unreached.is_empty()
    }

    /// In the order of the sources.
    pub fn unreached(&self) -> impl Iterator<Item = &'static Site> {
        self.owed.iter().copied().filter(|site| self.unreached.contains(&site.id()))
    }

    pub fn report(&self) -> CoverageReport {
        CoverageReport {
            reached: self.owed.len() - self.unreached.len(),
            total: self.owed.len(),
            unreached: self.unreached().map(Site::id).collect(),
        }
    }
}
