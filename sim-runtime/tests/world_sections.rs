//! Blocking sections in virtual time: one after the other on a lane, effects at their time, and none after a death.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sim_runtime::world::section::{self, Lane};
use sim_runtime::world::{self, Cause, HostId, World, WorldConfig, network};

type Log = Arc<Mutex<Vec<(u64, &'static str)>>>;

fn log_at_now(log: &Log, what: &'static str) {
    log.lock().unwrap().push((world::now_ns(), what));
}

fn buffered(log: &Log, what: &'static str) {
    let log = log.clone();
    section::buffer(move || log_at_now(&log, what));
}

fn run<F: Future<Output = ()>>(seed: u64, main: impl FnOnce(Log) -> F) -> Vec<(u64, &'static str)> {
    let log = Log::default();
    World::new(WorldConfig::seeded(seed)).run(main(log.clone())).unwrap();
    std::mem::take(&mut *log.lock().unwrap())
}

const US: Duration = Duration::from_micros(1);

#[test]
fn a_lane_is_first_come_first_served_and_serial_in_virtual_time() {
    for seed in 0..20 {
        let written = run(seed, |log| async move {
            let lane = Lane::new("db");
            let mut handles = Vec::new();
            for (delay, name) in [(0, "a"), (1, "b"), (2, "c")] {
                let (lane, log) = (lane.clone(), log.clone());
                handles.push(world::spawn(name, async move {
                    world::sleep(delay * US).await;
                    let length = lane
                        .run(|| {
                            log_at_now(&log, name);
                            section::spend(10_000);
                            world::now_ns()
                        })
                        .await;
                    assert_eq!(world::now_ns(), length, "the result comes at the virtual end");
                }));
            }
            for handle in handles {
                handle.await.unwrap();
            }
        });
        assert_eq!(written, [(0, "a"), (10_000, "b"), (20_000, "c")]);
    }
}

#[test]
fn sections_of_different_lanes_overlap_and_time_goes_on_for_others() {
    let written = run(1, |log| async move {
        let (inner, ticks) = (log.clone(), log.clone());
        let section = |name: &'static str| {
            let log = inner.clone();
            world::spawn(name, async move {
                Lane::new(name).run(|| section::spend(10_000)).await;
                log_at_now(&log, name);
            })
        };
        let both = (section("left"), section("right"));
        world::sleep(4 * US).await;
        log_at_now(&ticks, "tick");
        both.0.await.unwrap();
        both.1.await.unwrap();
    });
    assert_eq!(written[0], (4_000, "tick"));
    assert!(written[1..].iter().all(|&(at, _)| at == 10_000), "{written:?}");
}

#[test]
fn effects_are_committed_at_the_end_with_the_time_they_happened_at() {
    let written = run(1, |log| async move {
        let inner = log.clone();
        let task = world::spawn("section", async move {
            Lane::new("db")
                .run(|| {
                    buffered(&inner, "start");
                    section::spend(3_000);
                    buffered(&inner, "middle");
                    section::spend(4_000);
                    assert_eq!(world::now_ns(), 7_000);
                })
                .await;
        });
        world::sleep(6 * US).await;
        assert!(log.lock().unwrap().is_empty(), "nothing is known before the end");
        task.await.unwrap();
        buffered(&log, "outside");
    });
    assert_eq!(written, [(0, "start"), (3_000, "middle"), (7_000, "outside")]);
}

/// A host dies in the middle of a section: what it had done by then happened, the rest never did.
#[test]
fn effects_after_a_death_are_dropped() {
    for death in [0, 2_999, 3_000, 3_001, 6_999, 7_000, 9_000] {
        let written = run(death, |log| async move {
            let host = world::add_host("n");
            let inner = log.clone();
            world::at(death, move || world::kill(host, Cause::PowerLoss));
            world::boot(host, move || async move {
                Lane::new("db")
                    .run(|| {
                        buffered(&inner, "start");
                        section::spend(3_000);
                        buffered(&inner, "middle");
                        section::spend(4_000);
                        buffered(&inner, "end");
                    })
                    .await;
                log_at_now(&inner, "result");
                world::sleep(Duration::from_secs(1)).await;
            });
            world::sleep(20 * US).await;
        });
        let mut happened: Vec<_> = written.iter().map(|&(_, what)| what).collect();
        // At the instant of the end, either may come first; the order of equal deadlines is drawn.
        if death == 7_000 {
            assert_eq!(happened[..3], ["start", "middle", "end"]);
            continue;
        }
        if death == 0 {
            // The action may come before the boot's first poll at the same instant.
            happened.retain(|&what| what != "start");
        }
        let expected: &[&str] = match death {
            0 => &[],
            1..3_000 => &["start"],
            3_000..7_000 => &["start", "middle"],
            _ => &["start", "middle", "end", "result"],
        };
        assert_eq!(happened, expected, "death at {death}");
    }
}

/// A fault triggered from inside a section takes effect at the time the section has reached, not at its start.
#[test]
fn a_kill_from_inside_a_section_lands_at_its_time() {
    let written = run(3, |log| async move {
        let host = world::add_host("n");
        let (inner, hooked) = (log.clone(), log.clone());
        world::on_kill(move |dead, cause, at| {
            if dead.host != HostId::DRIVER && cause == Cause::PowerLoss {
                hooked.lock().unwrap().push((at, "killed"));
            }
        });
        world::boot(host, move || async move {
            Lane::new("db")
                .run(|| {
                    section::spend(2_000);
                    buffered(&inner, "before");
                    world::kill(world::current().host, Cause::PowerLoss);
                    assert!(world::is_alive(world::current()), "not yet");
                    section::spend(1);
                    buffered(&inner, "after");
                    network::send(HostId::DRIVER, 1, b"too late".to_vec());
                })
                .await;
        });
        world::sleep(10 * US).await;
    });
    assert_eq!(written, [(2_000, "before"), (2_000, "killed")]);
}

#[test]
fn a_message_from_a_section_leaves_at_its_time_or_never() {
    for (dies, expected) in [(false, 1), (true, 0)] {
        let world = World::new(WorldConfig::default());
        world
            .run(async move {
                let mut inbox = network::bind(1);
                let host = world::add_host("n");
                world::boot(host, || async {
                    section::run("send", || {
                        section::spend(5_000);
                        network::send(HostId::DRIVER, 1, b"hello".to_vec());
                    })
                    .await;
                    world::sleep(Duration::from_secs(1)).await;
                });
                if dies {
                    world::sleep(4 * US).await;
                    world::kill(host, Cause::Crash);
                }
                let received = world::timeout(Duration::from_millis(5), inbox.recv()).await;
                assert_eq!(received.is_ok(), !dies);
                assert!(dies || world::now_ns() >= 105_000, "sent at 5 us, at least 100 us under way");
            })
            .unwrap();
        assert_eq!(world.network_counts().sent, expected);
    }
}

/// The caller may stop waiting, a thread in a system call does not.
#[test]
fn a_section_whose_caller_is_gone_keeps_its_lane_until_its_end() {
    let written = run(5, |log| async move {
        let lane = Lane::new("db");
        let (used, inner) = (lane.clone(), log.clone());
        let waiting = world::timeout(
            US,
            used.run(|| {
                section::spend(10_000);
                buffered(&inner, "effect");
            }),
        );
        assert!(waiting.await.is_err());
        // A caller that leaves before its turn gives the turn up.
        assert!(world::timeout(US, lane.run(|| log_at_now(&log, "never"))).await.is_err());
        lane.run(|| log_at_now(&log, "next")).await;
    });
    assert_eq!(written, [(10_000, "effect"), (10_000, "next")]);
}

#[test]
fn a_panic_in_a_section_surfaces_at_its_end_and_frees_the_lane() {
    let written = run(6, |log| async move {
        let lane = Lane::new("db");
        let used = lane.clone();
        let result = world::spawn("fragile", async move {
            used.run(|| {
                section::spend(2_000);
                panic!("disk on fire");
            })
            .await
        })
        .await;
        assert!(result.unwrap_err().is_panic());
        log_at_now(&log, "told");
        lane.run(|| log_at_now(&log, "free")).await;
    });
    assert_eq!(written, [(2_000, "told"), (2_000, "free")]);
}

#[test]
fn a_panic_in_an_effect_is_told_and_breaks_nothing_else() {
    let world = World::new(WorldConfig { halt_on_panic: false, ..WorldConfig::default() });
    world
        .run(async {
            section::run("work", || {
                section::spend(3_000);
                section::buffer(|| panic!("in an effect"));
                section::spend(3_000);
            })
            .await;
            assert!(!section::active());
            section::run("more work", || section::spend(1)).await;
        })
        .unwrap();
    let panics = world.panics();
    assert_eq!((panics.len(), panics[0].at_ns, panics[0].message.as_str()), (1, 6_000, "in an effect"));
}

#[test]
fn a_wake_from_inside_a_section_is_not_seen_before_its_time() {
    let written = run(7, |log| async move {
        let (sender, receiver) = sim_runtime::sync::oneshot::channel();
        let waiter = world::spawn("waiter", async move {
            receiver.await.unwrap();
            log_at_now(&log, "woken");
        });
        world::sleep(US).await;
        section::run("work", move || {
            section::spend(4_000);
            sender.send(()).unwrap();
        })
        .await;
        waiter.await.unwrap();
    });
    assert_eq!(written, [(5_000, "woken")]);
}
