//! Clocks of hosts and what they do to timers: never early by the clock that measures them, whatever happens to its rate.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sim_runtime::world::host::Slowness;
use sim_runtime::world::{self, World, WorldConfig, clock};

const SECOND: u64 = 1_000_000_000;

/// Sleeps one second by the clock of a host, while `meanwhile` plays with it. Returns virtual and local time slept.
fn slept(meanwhile: impl AsyncFnOnce(world::HostId)) -> (u64, u64) {
    let result = Arc::new(Mutex::new((0, 0)));
    let written = result.clone();
    World::new(WorldConfig::seeded(1))
        .run(async move {
            let host = world::add_host("host");
            world::boot(host, move || async move {
                let (virtual_ns, local_ns) = (world::now_ns(), clock::monotonic_ns(host));
                world::sleep(Duration::from_secs(1)).await;
                let slept = (world::now_ns() - virtual_ns, clock::monotonic_ns(host) - local_ns);
                *written.lock().unwrap() = slept;
            });
            meanwhile(host).await;
            world::sleep(Duration::from_secs(9)).await;
        })
        .unwrap();
    *result.lock().unwrap()
}

#[test]
fn a_second_of_a_fast_clock_is_shorter() {
    let (virtual_ns, local_ns) = slept(async |host| clock::set_rate_ppm(host, 250_000));
    assert_eq!((virtual_ns, local_ns), (SECOND * 4 / 5, SECOND));
}

#[test]
fn a_timer_is_not_early_when_its_clock_becomes_slower() {
    let (virtual_ns, local_ns) = slept(async |host| {
        world::sleep(Duration::from_millis(500)).await;
        clock::set_rate_ppm(host, -500_000);
    });
    assert_eq!((virtual_ns, local_ns), (SECOND * 3 / 2, SECOND));
}

#[test]
fn the_wall_clock_jumps_and_stands_still_while_the_monotonic_one_goes_on() {
    World::new(WorldConfig::seeded(1))
        .run(async {
            let host = world::add_host("host");
            let wall = clock::wall_ns(host);
            clock::set_wall_offset_ns(host, -5_000_000_000);
            assert_eq!(clock::wall_ns(host), wall - 5 * SECOND);
            clock::freeze_wall(host, true);
            world::sleep(Duration::from_secs(2)).await;
            assert_eq!((clock::wall_ns(host), clock::monotonic_ns(host)), (wall - 5 * SECOND, 2 * SECOND));
            clock::freeze_wall(host, false);
            assert_eq!(clock::wall_ns(host), wall - 3 * SECOND);
            assert_eq!(clock::skewed_reads(host), clock::SkewedReads { rate: 0, wall: 3 });
            clock::set_rate_ppm(host, 1);
            clock::monotonic_ns(host);
            assert_eq!(clock::skewed_reads(host).rate, 1);
        })
        .unwrap();
}

#[test]
fn a_slow_host_takes_longer_for_what_others_do_at_once() {
    let finished = Arc::new(Mutex::new(Vec::new()));
    let written = finished.clone();
    World::new(WorldConfig::seeded(1))
        .run(async move {
            for (name, ppm) in [("quick", 0), ("slow", 500_000)] {
                let host = world::add_host(name);
                world::set_slowness(host, Slowness { ppm, ns_max: 10_000_000 });
                let written = written.clone();
                world::boot(host, move || async move {
                    for _ in 0..100 {
                        world::yield_now().await;
                    }
                    written.lock().unwrap().push((name, world::now_ns()));
                });
            }
            world::sleep(Duration::from_secs(5)).await;
            assert!(world::slow_waits() > 20);
        })
        .unwrap();
    let finished = finished.lock().unwrap();
    assert_eq!((finished[0], finished[1].0), (("quick", 0), "slow"));
    assert!(finished[1].1 > 100_000_000, "{finished:?}");
}
