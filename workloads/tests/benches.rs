//! The benches do the work that they are described to do, the same every time.

use sim_runtime::isolate::in_process;

#[test]
fn a_bench_does_the_same_work_every_time() {
    let run = |name: &str, seed: u64| {
        let bench = workloads::bench::all().into_iter().find(|bench| bench.name == name).expect("a known bench");
        in_process(move || (bench.run)(seed))
    };
    let pingpong = run("pingpong", 1);
    assert_eq!((pingpong.messages, pingpong.commits, pingpong.sim_ns), (120_000, 0, 60_300_000_000));
    let raft = run("raft-memory", 1);
    assert!(raft.commits > 2_000 && raft.sim_ns == 61_000_000_000, "{raft:?}");
    assert_eq!(raft, run("raft-memory", 1));
    assert_ne!(raft.digest, run("raft-memory", 2).digest);
}
