//! Seeds in ascending order, in descending order and each in a process that ran nothing before: the same digests.
//!
//! What ran before in the same zygote must not be seen by what runs now. `SEEDS=200 cargo test --profile sim -p harness
//! --test orders` is the full size; this executable is its own zygote, so it has its own `main`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use sim_runtime::engine::record::RunRequest;
use sim_runtime::isolate::{Limits, Outcome, Runner, Surroundings, enter, fresh};

/// Without `SEEDS`: what a debug build does in a few seconds.
const SEEDS: u64 = 4;

type Digests = BTreeMap<u64, Option<String>>;

fn main() -> ExitCode {
    if let Some(code) = enter(workloads::run) {
        return code;
    }
    let seeds = std::env::var("SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("SEEDS is a number"));
    let ascending = in_one_zygote(0..seeds);
    let descending = in_one_zygote((0..seeds).rev());
    assert_eq!(ascending, descending, "what ran before is seen");
    let alone: Digests = (0..seeds)
        .map(|seed| {
            let request = request(seed);
            (seed, digest(fresh(&request, Limits::default(), Surroundings::Strange), &request))
        })
        .collect();
    assert_eq!(ascending, alone, "a process that ran others differs from one that ran none");
    assert!(ascending.values().all(Option::is_some), "every run leaves a record: {ascending:?}");
    println!("{seeds} seeds, three orders: the same digests");
    ExitCode::SUCCESS
}

fn request(seed: u64) -> RunRequest {
    RunRequest { seed, spec: "default".to_owned(), ..RunRequest::default() }
}

fn in_one_zygote(seeds: impl Iterator<Item = u64>) -> Digests {
    let mut runner = Runner::new(Limits::default());
    seeds
        .map(|seed| {
            let request = request(seed);
            (seed, digest(runner.run(&request), &request))
        })
        .collect()
}

fn digest(outcome: Outcome, request: &RunRequest) -> Option<String> {
    outcome.into_record(request).report.digest
}
