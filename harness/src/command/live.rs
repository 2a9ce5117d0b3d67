//! `live`: real processes, in a build that has the feature of this name.

use crate::arguments::LiveArguments;
use crate::{Exit, UsageError};

#[cfg(feature = "live")]
pub(super) fn execute(arguments: &LiveArguments) -> Result<Exit, UsageError> {
    crate::live::execute(arguments)
}

#[cfg(not(feature = "live"))]
pub(super) fn execute(_: &LiveArguments) -> Result<Exit, UsageError> {
    Err(UsageError::new(
        "this build of the harness cannot start real processes; use \
         `cargo run --release -p harness --features live -- live --node-bin target/release/aspen-node`",
    ))
}
