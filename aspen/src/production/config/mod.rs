//! Configuration of `aspen-node`: environment, then file, then command line, each overruling the one before.
//!
//! - [`options`]: every option, once; [`load`]: collects the values and where each came from
//! - [`check`]: turns them into [`Settings`], or says what is wrong with all of them at once
//! - [`directory`]: what an earlier start left in the data directory, and whether the values fit it
//!
//! Secrets are never given on the command line, which everybody on the machine can read: only the names of files are.

mod check;
mod directory;
mod load;
mod options;

pub use check::{Finding, Secret, Settings, Severity, settings};
pub use directory::{Kept, cluster_of};
pub use load::{LoadError, Origin, Values, load, load_from};
pub use options::{OPTIONS, OptionSpec, command};
