//! Judges of a run: each checks one property over the stream of events.
//!
//! An oracle sees every event in the order of virtual time, keeps what it needs, and tells the [`Judge`] what it
//! evaluated and what it found. It never panics on what a system under test does: a violation is a value.

use std::collections::BTreeMap;

use super::report::{OracleCount, Violation};
use crate::world::{HostId, Nanos};

/// An event and where and when it happened.
#[derive(Clone, Debug)]
pub struct Stamped<E> {
    pub at_ns: Nanos,
    pub host: HostId,
    pub boot: u32,
    pub event: E,
}

/// Checks one property.
pub trait Oracle<E> {
    /// Kebab-case name of the property, as in reports.
    fn property(&self) -> &'static str;

    /// The workload without which there is nothing to judge: in a run without its clients the oracle may be idle.
    fn workload(&self) -> Option<&'static str> {
        None
    }

    /// Sees the next event.
    fn on_event(&mut self, event: &Stamped<E>, judge: &mut Judge<'_>);

    /// The run is over: `at_ns` is its end. Properties of whole histories are checked here.
    fn finish(&mut self, at_ns: Nanos, judge: &mut Judge<'_>);
}

/// What an oracle says, collected under its property.
pub struct Judge<'a> {
    property: &'static str,
    verdicts: &'a mut Verdicts,
}

/// Everything the oracles of a run said.
#[derive(Debug, Default)]
pub struct Verdicts {
    counts: BTreeMap<&'static str, (u64, u64)>,
    violations: Vec<Violation>,
    inconclusive: Vec<String>,
}

impl Judge<'_> {
    /// The property was evaluated once; `nontrivial` when the evaluation could have failed, given what was at hand.
    pub fn evaluated(&mut self, nontrivial: bool) {
        let count = self.verdicts.counts.entry(self.property).or_default();
        count.0 += 1;
        count.1 += u64::from(nontrivial);
    }

    /// The property does not hold.
    pub fn violated(&mut self, at_ns: Nanos, node: Option<String>, message: String) {
        let known = self.verdicts.violations.iter().filter(|known| known.property == self.property).count();
        if known < VIOLATIONS_PER_PROPERTY_MAX {
            let property = self.property.to_owned();
            self.verdicts.violations.push(Violation { property, message, at_ns: Some(at_ns), node });
        }
    }

    /// The property could not be decided (a search budget ran out): the run may not pass.
    pub fn undecided(&mut self, message: String) {
        self.verdicts.inconclusive.push(format!("{}: {message}", self.property));
    }
}

impl Verdicts {
    /// The judge for one property; it is listed from then on, even if it never evaluates anything.
    pub fn judge(&mut self, property: &'static str) -> Judge<'_> {
        self.counts.entry(property).or_default();
        Judge { property, verdicts: self }
    }

    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Why the run may not pass although nothing was violated.
    pub fn undecided(&self) -> &[String] {
        &self.inconclusive
    }

    pub fn counts(&self) -> Vec<OracleCount> {
        self.counts
            .iter()
            .map(|(property, (evaluated, nontrivial))| OracleCount {
                property: (*property).to_owned(),
                evaluated: *evaluated,
                nontrivial: *nontrivial,
            })
            .collect()
    }
}

/// One property is reported at most so often per run; the first violation is the one that matters.
const VIOLATIONS_PER_PROPERTY_MAX: usize = 5;
