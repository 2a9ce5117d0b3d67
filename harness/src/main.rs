//! The command line over aspen's workloads; everything is in the library.

use std::process::ExitCode;

use harness::Subject;

fn main() -> ExitCode {
    let subject = Subject::new(workloads::run, workloads::specs, workloads::bugs);
    harness::main(Subject {
        check_plan: workloads::check_plan,
        benches: workloads::bench::all,
        knobs: workloads::config::knobs,
        properties: workloads::oracles::properties,
        ..subject
    })
}
