//! `bench`: fixed work, equal digests, and what it prints.

use crate::program::Desk;

pub const TESTS: &[super::Test] = &[
    ("a_bench_does_the_same_work_every_time", a_bench_does_the_same_work_every_time),
    ("an_unknown_bench_is_a_usage_error", an_unknown_bench_is_a_usage_error),
];

fn a_bench_does_the_same_work_every_time() {
    let desk = Desk::new();
    let value = desk.json("bench pingpong --runs 1", 0);
    assert_eq!((value["messages"].as_u64(), value["commits"].as_u64()), (Some(120_000), Some(0)));
    assert_eq!(value["sim_s"].as_f64(), Some(60.3));
    assert!(value["cpu_s"].as_f64().unwrap() > 0.0 && value["memory_peak_kib"].as_u64().unwrap() > 0);
    let other = desk.json("bench pingpong --runs 1 --seed 2", 0);
    assert_ne!(value["digest"], other["digest"]);
    // The exit code says that the digests of both runs agree.
    let raft = desk.json("bench raft-memory --runs 2", 0);
    assert!(raft["commits"].as_u64().unwrap() > 2_000, "{raft}");
    let text = desk.call("bench default --runs 2 --seeds 2").stdout;
    assert!(text.starts_with("default, seed 1, median of 2") && text.contains("peak memory"), "{text}");
}

fn an_unknown_bench_is_a_usage_error() {
    Desk::new().usage_error("bench fly", "unknown bench `fly`; there are: pingpong, raft-memory, raft-real, default");
}
