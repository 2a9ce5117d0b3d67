//! openraft's own conformance suite for runtimes, on the simulated one, and what the suite does not ask.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft_rt::testing::Suite;
use openraft_rt::{AsyncRuntime, Instant};
use rand::Rng;
use sim_runtime::adapters::openraft::{SimInstant, SimRuntime};
use sim_runtime::world::{self, Cause, Order, World, WorldConfig, section};

#[test]
fn the_runtime_passes_openrafts_suite() {
    Suite::<SimRuntime>::test_all();
}

/// The suite's checks hold in every order, and with tasks held back.
#[test]
fn the_suite_passes_in_any_order_of_tasks() {
    for seed in 0..40 {
        for order in [Order::Uniform, Order::Fifo, Order::Pct { depth: 2 }] {
            let holds = if seed % 2 == 0 { 0 } else { 100_000 };
            let config = WorldConfig {
                order,
                hold_probability_ppm: holds,
                hold_ns_max: 1_000_000,
                pct_polls: 1_000,
                ..WorldConfig::seeded(seed)
            };
            Suite::<SimRuntime>::test_all_on(&mut SimRuntime::with_config(config));
        }
    }
}

#[test]
fn a_blocking_call_takes_virtual_time_and_goes_on_without_its_caller() {
    SimRuntime::run(async {
        let now = SimInstant::now();
        let result = SimRuntime::spawn_blocking(|| {
            section::spend(3_000_000);
            7
        })
        .await;
        assert_eq!(result.unwrap(), 7);
        assert_eq!(now.elapsed(), Duration::from_millis(3));

        let done = Arc::new(Mutex::new(false));
        let written = done.clone();
        drop(SimRuntime::spawn_blocking(move || *written.lock().unwrap() = true));
        SimRuntime::sleep(Duration::from_millis(1)).await;
        assert!(*done.lock().unwrap());

        let broken = SimRuntime::spawn_blocking(|| panic!("disk on fire")).await;
        assert!(broken.unwrap_err().to_string().contains("disk on fire"));
    });
}

#[test]
fn instants_and_timers_follow_the_clock_of_the_host() {
    World::new(WorldConfig::default())
        .run(async {
            let host = world::add_host("slow");
            world::clock::set_rate_ppm(host, -500_000);
            let seen = Arc::new(Mutex::new(None));
            let written = seen.clone();
            world::boot(host, move || async move {
                let start = SimInstant::now();
                SimRuntime::sleep_until(start + Duration::from_millis(2)).await;
                let virtual_ns = world::now_ns();
                let elapsed = start.elapsed();
                let late = SimRuntime::timeout_at(SimInstant::now(), std::future::pending::<()>()).await.is_err();
                *written.lock().unwrap() = Some((elapsed, virtual_ns, late));
            });
            world::sleep(Duration::from_millis(10)).await;
            assert_eq!(*seen.lock().unwrap(), Some((Duration::from_millis(2), 4_000_000, true)));
        })
        .unwrap();
    let zero: SimInstant = World::new(WorldConfig::default()).enter(SimInstant::now);
    let before = zero - Duration::from_secs(1);
    assert_eq!((zero - before, before - zero), (Duration::from_secs(1), Duration::ZERO));
}

/// The numbers of a task depend on its identity only: another boot, another task, another seed draws others.
#[test]
fn random_numbers_belong_to_the_task() {
    let drawn = |seed| {
        World::new(WorldConfig::seeded(seed))
            .run(async {
                let host = world::add_host("n");
                let drawn = Arc::new(Mutex::new(Vec::new()));
                for _boot in 0..2 {
                    let log = drawn.clone();
                    world::boot(host, move || async move {
                        for _task in 0..2 {
                            let log = log.clone();
                            drop(SimRuntime::spawn(async move {
                                let mut rng = SimRuntime::thread_rng();
                                let mut bytes = [0; 8];
                                rng.fill_bytes(&mut bytes);
                                let word = SimRuntime::thread_rng().next_u64();
                                log.lock().unwrap().push((word, u64::from_le_bytes(bytes), rng.next_u32()));
                            }));
                        }
                        std::future::pending::<()>().await;
                    });
                    world::sleep(Duration::from_millis(1)).await;
                    world::kill(host, Cause::Crash);
                }
                let mut drawn = drawn.lock().unwrap().clone();
                drawn.sort_unstable();
                drawn
            })
            .unwrap()
    };
    let (first, other) = (drawn(1), drawn(2));
    assert_eq!(first, drawn(1));
    assert_eq!(first.len(), 4);
    let mut words: Vec<u64> = first.iter().chain(&other).flat_map(|&(word, bytes, _)| [word, bytes]).collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), 16, "no number is drawn twice");
}

#[test]
#[should_panic(expected = "deadlock")]
fn blocking_on_what_never_comes_is_named() {
    SimRuntime::run(std::future::pending::<()>());
}
