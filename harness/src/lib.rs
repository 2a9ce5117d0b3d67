//! The command line: run, sweep, verify and replay seeds.
//!
//! - [`Subject`]: the simulations that this executable offers; the shipped one names those of `workloads`
//! - [`arguments`]: what can be asked, [`command`]: one file per command
//! - [`artifact`]: runs on disk, versioned, naming the build that made them
//! - [`tally`], [`coverage`]: many runs merged; two runs are compared by [`sim_runtime::engine::difference`]
//! - [`trial`]: candidates of a shrink; [`scenario`]: what a shrunk run must reach; [`corpus`]: scenarios that are kept
//! - `live` (feature `live`): real processes instead of simulated ones
//! - [`summary`]: what people read
//! - [`exit`]: what scripts read
//!
//! Every run happens in a process of its own ([`sim_runtime::isolate`]); this one only starts them and reports.
//! Everything that scripts rely on is in `docs/cli.md`.

pub mod arguments;
pub mod artifact;
pub mod command;
pub mod corpus;
pub mod coverage;
pub mod error;
pub mod exit;
mod interrupt;
#[cfg(feature = "live")]
pub mod live;
pub mod progress;
pub mod scenario;
pub mod subject;
pub mod summary;
pub mod tally;
pub mod trial;

use std::process::ExitCode;

pub use error::UsageError;
pub use exit::Exit;
pub use subject::Subject;

/// The whole program. Must be called first thing in `main`: the same executable also serves as the process that forks
/// runs.
pub fn main(subject: Subject) -> ExitCode {
    if let Some(code) = sim_runtime::isolate::enter(subject.run) {
        return code;
    }
    let exit = match arguments::parse(std::env::args_os()) {
        Ok(arguments) => command::execute(&subject, arguments),
        Err(arguments::Stop::Print(text)) => {
            return match summary::print(&text) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("error: {error}");
                    Exit::Usage.into()
                }
            };
        }
        Err(arguments::Stop::Usage(error)) => Err(error),
    };
    exit.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        Exit::Usage
    })
    .into()
}
