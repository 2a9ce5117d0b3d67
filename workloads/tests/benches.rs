//! The benches do the work that they are described to do. That it is the same every time is what their exit code says.

use sim_runtime::isolate::in_process;

#[test]
fn the_benches_do_what_they_are_described_to_do() {
    let run = |name: &str| {
        let bench = workloads::bench::all().into_iter().find(|bench| bench.name == name).expect("a known bench");
        in_process(move || (bench.run)(1))
    };
    let pingpong = run("pingpong");
    assert_eq!((pingpong.messages, pingpong.commits, pingpong.sim_ns), (120_000, 0, 60_300_000_000));
    let raft = run("raft-memory");
    assert!(raft.commits > 2_000 && raft.sim_ns == 61_000_000_000, "{raft:?}");
}
