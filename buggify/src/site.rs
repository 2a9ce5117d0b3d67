//! One place in the source: what it is called, where it stands, what it promises.

use std::sync::atomic::{AtomicBool, AtomicU32};

/// What a site promises, or offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The condition holds at every visit.
    Always,
    /// The condition holds at one visit at least, over many runs.
    Sometimes,
    /// The place is visited at least once, over many runs.
    Reachable,
    /// The place is never visited.
    Unreachable,
    /// A fault point.
    Buggify,
}

impl Kind {
    /// The name used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Always => "always",
            Kind::Sometimes => "sometimes",
            Kind::Reachable => "reachable",
            Kind::Unreachable => "unreachable",
            Kind::Buggify => "buggify",
        }
    }
}

/// A fault point or assertion in the source. Written by the macros only.
#[derive(Debug)]
pub struct Site {
    pub kind: Kind,
    /// `crate::module` of the place.
    pub module: &'static str,
    /// What is asserted, in words; for a fault point, its name.
    pub message: &'static str,
    pub file: &'static str,
    pub line: u32,
    pub column: u32,
    /// The specs that must reach this site, comma-separated.
    pub owed_by: &'static str,
    #[doc(hidden)]
    pub index: AtomicU32,
    #[doc(hidden)]
    pub reported: AtomicBool,
}

impl Site {
    /// `crate::module: message`, stable across builds and unique by test.
    pub fn id(&self) -> String {
        format!("{}: {}", self.module, self.message)
    }

    /// Whether `spec` must reach this site.
    pub fn is_owed_by(&self, spec: &str) -> bool {
        self.owed_by.split(',').any(|owed| owed.trim() == spec)
    }

    #[doc(hidden)]
    pub const fn new(
        kind: Kind,
        module: &'static str,
        message: &'static str,
        at: (&'static str, u32, u32),
        owed_by: &'static str,
    ) -> Site {
        Site {
            kind,
            module,
            message,
            file: at.0,
            line: at.1,
            column: at.2,
            owed_by,
            index: AtomicU32::new(u32::MAX),
            reported: AtomicBool::new(false),
        }
    }
}
