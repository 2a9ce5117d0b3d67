//! What a set of simulations offers by name, for command lines.

use serde::{Deserialize, Serialize};

/// A spec that a run can be generated from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecInfo {
    pub name: String,
    /// One line.
    pub about: String,
    /// For a calibration spec the properties that must fire, each at least once in a sweep, and no other.
    pub calibration: Option<Vec<String>>,
    /// Properties that may fire in it besides.
    #[serde(default)]
    pub tolerates: Vec<String>,
}

/// A planted bug that a run can switch on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BugInfo {
    pub name: String,
    /// For instance `durability` or `election`.
    pub family: String,
    /// The spec that must find it.
    pub spec: String,
    /// What it does, in one line.
    pub about: String,
    /// The real incident it resembles, in one line.
    pub like: String,
}
