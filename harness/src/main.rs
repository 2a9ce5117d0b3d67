//! The shipped command line: `harness` over the simulations of `workloads`.

use std::process::ExitCode;

use harness::Subject;
use sim_runtime::engine::listing::{BugInfo, SpecInfo};
use sim_runtime::engine::record::{RunRecord, RunRequest};

fn main() -> ExitCode {
    harness::main(Subject::new(run, specs, bugs))
}

fn run(request: &RunRequest) -> RunRecord {
    unreachable!("no spec `{}` is offered", request.spec)
}

fn specs() -> Vec<SpecInfo> {
    Vec::new()
}

fn bugs() -> Vec<BugInfo> {
    Vec::new()
}
