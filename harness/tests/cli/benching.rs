//! `bench`: fixed work, equal digests, and what it prints.

use std::time::Duration;

use sim_runtime::engine::bench::{Bench, Figures};
use sim_runtime::world::{self, Class, World, WorldConfig};

use crate::program::Desk;

pub const TESTS: &[super::Test] = &[
    ("a_bench_does_the_same_work_every_time", a_bench_does_the_same_work_every_time),
    ("an_unknown_bench_is_a_usage_error", an_unknown_bench_is_a_usage_error),
];

fn a_bench_does_the_same_work_every_time() {
    let desk = Desk::new();
    // The exit code says that the digests of all runs agree.
    let value = desk.json("bench sleeps --runs 3", 0);
    assert_eq!((value["messages"].as_u64(), value["commits"].as_u64()), (Some(0), Some(100)));
    assert_eq!((value["runs"].as_u64(), value["sim_s"].as_f64()), (Some(3), Some(0.1)));
    assert!(value["cpu_s"].as_f64().unwrap() > 0.0 && value["memory_peak_kib"].as_u64().unwrap() > 0);
    let other = desk.json("bench sleeps --runs 1 --seed 2", 0);
    assert_ne!(value["digest"], other["digest"]);
    let text = desk.call("bench default --runs 2 --seeds 2").stdout;
    assert!(text.starts_with("default, seed 1, median of 2") && text.contains("peak memory"), "{text}");
}

fn an_unknown_bench_is_a_usage_error() {
    Desk::new().usage_error("bench fly", "unknown bench `fly`; there are: sleeps, default");
}

/// A world that sleeps a hundred times.
pub fn benches() -> Vec<Bench> {
    let run = |seed| {
        let world = World::new(WorldConfig::seeded(seed));
        let played = world.run(async {
            for _ in 0..100 {
                world::record(Class::Draw, &[world::task_draw()], b"");
                world::sleep(Duration::from_millis(1)).await;
            }
        });
        played.expect("a hundred sleeps end");
        Figures::of(&world, 100)
    };
    vec![Bench { name: "sleeps", run }]
}
