//! What a task handle promises, how hangs and panics are told, and that a world leaves nothing behind.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sim_runtime::sync::{mpsc, oneshot};
use sim_runtime::world::{self, Halt, HostStatus, JoinError, World, WorldConfig, network};

fn world() -> World {
    World::new(WorldConfig::default())
}

/// Counts its own drop.
struct Dropped(Arc<AtomicU32>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_handle_resolves_to_the_result_and_dropping_it_detaches() {
    let done = Arc::new(AtomicU32::new(0));
    let counted = done.clone();
    let result = world().run(async move {
        let kept = world::spawn("kept", async {
            world::sleep(Duration::from_millis(2)).await;
            7
        });
        drop(world::spawn("dropped", async move {
            world::sleep(Duration::from_millis(1)).await;
            counted.fetch_add(1, Ordering::Relaxed);
        }));
        assert!(!kept.is_finished());
        kept.await
    });
    assert_eq!(result, Ok(Ok(7)));
    assert_eq!(done.load(Ordering::Relaxed), 1);
}

#[test]
fn abort_drops_the_future_but_not_a_result() {
    let dropped = Arc::new(AtomicU32::new(0));
    let [sleeping, fresh, myself] = [(); 3].map(|()| Dropped(dropped.clone()));
    world()
        .run(async move {
            let handle = world::spawn("sleeping", async move {
                let _guard = sleeping;
                world::sleep(Duration::from_secs(1)).await;
            });
            world::sleep(Duration::from_millis(1)).await;
            handle.abort();
            assert_eq!(handle.await, Err(JoinError::Cancelled));
            assert_eq!(world::now_ns(), 1_000_000, "the sleep was not waited for");

            let handle = world::spawn("never polled", async move { drop(fresh) });
            handle.abort();
            assert_eq!(handle.await, Err(JoinError::Cancelled));

            // A task that aborts itself goes no further than its next wait.
            let (sender, receiver) = oneshot::channel::<world::JoinHandle<()>>();
            let handle = world::spawn("myself", async move {
                let _guard = myself;
                receiver.await.unwrap().abort();
                world::yield_now().await;
                unreachable!("aborted");
            });
            let (done, finished) = oneshot::channel();
            world::spawn("passes on", async move {
                sender.send(handle).ok().unwrap();
                done.send(()).unwrap();
            })
            .detach();
            finished.await.unwrap();

            let handle = world::spawn("finished", async { 3 });
            world::sleep(Duration::from_millis(1)).await;
            handle.abort();
            assert_eq!(handle.await, Ok(3));
        })
        .unwrap();
    assert_eq!(dropped.load(Ordering::Relaxed), 3);
}

#[test]
fn timeouts_fire_on_time_and_the_future_wins_a_tie() {
    world()
        .run(async {
            let sleep = |ms| async move { world::sleep(Duration::from_millis(ms)).await };
            assert!(world::timeout(Duration::from_millis(2), sleep(5)).await.is_err());
            assert_eq!(world::now_ns(), 2_000_000);
            assert!(world::timeout(Duration::from_millis(2), sleep(2)).await.is_ok());
            assert!(world::timeout(Duration::ZERO, async {}).await.is_ok());
        })
        .unwrap();
}

#[test]
fn many_cancelled_timers_are_swept() {
    let world = world();
    world
        .run(async {
            for _ in 0..20_000 {
                let _ = world::timeout(Duration::from_secs(3_600), world::sleep(Duration::from_nanos(1))).await;
            }
        })
        .unwrap();
    assert_eq!(world.now(), 20_000);
}

#[test]
fn a_deadlock_names_every_task_and_what_it_waits_for() {
    let halt = world()
        .run(async {
            let host = world::add_host("alpha");
            world::boot(host, || async {
                network::bind(1).recv().await;
            });
            let (_kept, mut receiver) = mpsc::channel::<()>(1);
            let (_sender, reply) = oneshot::channel::<()>();
            world::spawn("asker", async move {
                let _ = reply.await;
            })
            .detach();
            receiver.recv().await;
        })
        .unwrap_err();
    let Halt::Deadlock { tasks, .. } = &halt else { panic!("{halt}") };
    assert_eq!(tasks.len(), 3);
    assert_eq!(halt.property(), "deadlock");
    let text = halt.to_string();
    for part in
        ["driver#0 task `main`", "waits for a value from a channel", "alpha#1 task `main`", "waits for a message"]
    {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    assert!(text.contains("task `asker` (spawned at sim-runtime/tests/world_tasks.rs:"), "{text}");
    assert!(text.contains("waits for a oneshot value"), "{text}");
}

#[test]
fn a_livelock_names_the_busiest_task_first() {
    let halt = World::new(WorldConfig { polls_per_instant_max: 1_000, ..WorldConfig::default() })
        .run(async {
            world::spawn("quiet", world::sleep(Duration::from_secs(1))).detach();
            world::spawn("spinner", async {
                loop {
                    world::yield_now().await;
                }
            })
            .detach();
            world::sleep(Duration::from_millis(1)).await;
        })
        .unwrap_err();
    let Halt::Livelock { at_ns: 0, polls: 1_001, tasks } = &halt else { panic!("{halt}") };
    assert_eq!(tasks[0].name, "spinner");
    assert!(tasks[0].polls_at_instant > 990);
}

/// Neither a sleep that is over already nor an action that schedules itself may spin unseen.
#[test]
fn loops_that_do_not_advance_time_are_livelocks_too() {
    let config = || WorldConfig { polls_per_instant_max: 1_000, ..WorldConfig::default() };
    let halt = World::new(config())
        .run::<()>(async {
            loop {
                world::sleep(Duration::ZERO).await;
            }
        })
        .unwrap_err();
    assert_eq!(halt.property(), "livelock");

    fn again() {
        world::at(0, again);
    }
    let halt = World::new(config())
        .run(async {
            again();
            world::sleep(Duration::from_millis(1)).await;
        })
        .unwrap_err();
    assert_eq!(halt.property(), "livelock");
}

#[test]
fn budgets_end_a_run() {
    let forever = || async {
        loop {
            world::sleep(Duration::from_millis(1)).await;
        }
    };
    let time = World::new(WorldConfig { time_budget: 10_000_000, ..WorldConfig::default() });
    let halt = time.run::<()>(forever()).unwrap_err();
    assert!(matches!(halt, Halt::TimeBudget { at_ns: 10_000_000, .. }), "{halt}");
    let events = World::new(WorldConfig { event_budget: 100, ..WorldConfig::default() });
    let halt = events.run::<()>(forever()).unwrap_err();
    assert!(matches!(halt, Halt::EventBudget { events: 100..=101, .. }), "{halt}");
    assert_eq!(world().run(async { world::stop() }), Err(Halt::Stopped));
}

#[test]
fn a_panic_goes_to_the_awaiter_and_is_recorded() {
    let world = world();
    let joined = world.run(async {
        let handle = world::spawn("fragile", async {
            world::sleep(Duration::from_millis(3)).await;
            panic!("broke at {}", 3);
        });
        handle.await
    });
    assert_eq!(joined, Ok(Err(JoinError::Panic { message: "broke at 3".to_owned() })));
    let panics = world.panics();
    assert_eq!(panics.len(), 1);
    assert_eq!((panics[0].at_ns, panics[0].task.as_str()), (3_000_000, "fragile"));
    assert!(panics[0].place.contains("world_tasks.rs:"), "{}", panics[0].place);
}

#[test]
fn a_panic_that_nobody_takes_halts_the_run_unless_told_otherwise() {
    let program = || async {
        drop(world::spawn("fragile", async { panic!("broke") }));
        world::sleep(Duration::from_millis(1)).await;
        world::now_ns()
    };
    let halt = world().run(program()).unwrap_err();
    let Halt::Panic(panic) = &halt else { panic!("{halt}") };
    assert_eq!((panic.at_ns, panic.message.as_str()), (0, "broke"));

    let lenient = World::new(WorldConfig { halt_on_panic: false, ..WorldConfig::default() });
    assert_eq!(lenient.run(program()), Ok(1_000_000));
    assert_eq!(lenient.panics().len(), 1);
}

#[test]
fn a_handle_dropped_after_the_panic_halts_too() {
    let halt = world().run(async {
        let handle = world::spawn("fragile", async { panic!("broke") });
        world::sleep(Duration::from_millis(1)).await;
        drop(handle);
        world::sleep(Duration::from_millis(1)).await;
    });
    assert!(matches!(halt, Err(Halt::Panic(_))), "{halt:?}");
}

#[test]
fn panics_in_destructors_actions_and_the_main_future_are_told() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let in_drop = world().run(async {
        let bomb = Bomb;
        world::spawn("armed", async move {
            let _bomb = bomb;
        })
        .detach();
        world::sleep(Duration::from_millis(1)).await;
    });
    assert!(matches!(&in_drop, Err(Halt::Panic(panic)) if panic.message == "dropped"), "{in_drop:?}");

    let in_action = world().run(async {
        world::at(5, || panic!("acted"));
        world::sleep(Duration::from_millis(1)).await;
    });
    assert!(matches!(&in_action, Err(Halt::Panic(panic)) if panic.message == "acted" && panic.at_ns == 5));

    let in_main = world().run(async {
        world::sleep(Duration::from_millis(1)).await;
        panic!("at the top");
    });
    assert!(matches!(&in_main, Err(Halt::Panic(panic)) if panic.message == "at the top" && panic.task == "main"));
}

#[test]
fn a_host_whose_main_ends_or_panics_ends_with_it() {
    let world = World::new(WorldConfig { halt_on_panic: false, ..WorldConfig::default() });
    world
        .run(async {
            let (quits, breaks) = (world::add_host("quits"), world::add_host("breaks"));
            assert_eq!(world::host_status(quits), HostStatus::NeverBooted);
            let dropped = Arc::new(AtomicU32::new(0));
            let guard = Dropped(dropped.clone());
            let first = world::boot(quits, move || async move {
                world::spawn("orphan", async move {
                    let _guard = guard;
                    world::sleep(Duration::from_secs(1)).await;
                })
                .detach();
                world::sleep(Duration::from_millis(1)).await;
            });
            world::boot(breaks, || async { panic!("on start") });
            assert_eq!(world::host_status(quits), HostStatus::Running(first));
            world::sleep(Duration::from_millis(2)).await;
            assert_eq!(world::host_status(quits), HostStatus::Exited);
            assert_eq!(dropped.load(Ordering::Relaxed), 1, "the orphan died with its process");
            assert_eq!(world::host_status(breaks), HostStatus::Panicked);
            let second = world::boot(quits, || async {});
            assert_eq!((first.boot, second.boot), (1, 2));
        })
        .unwrap();
    assert_eq!(world.panics()[0].host, world::HostId(2));
}

#[test]
fn a_world_leaves_nothing_behind_however_it_ends() {
    for halts in [false, true] {
        let dropped = Arc::new(AtomicU32::new(0));
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (wakers, guards) = (kept.clone(), [(); 4].map(|()| Dropped(dropped.clone())));
        let world = world();
        let result = world.run(async move {
            let [in_host, in_action, in_main, in_hook] = guards;
            let host = world::add_host("n");
            world::on_kill(move |_, _, _| {
                let _guard = &in_hook;
            });
            world::boot(host, move || async move {
                let _guard = in_host;
                let waker = std::future::poll_fn(|cx| std::task::Poll::Ready(cx.waker().clone())).await;
                wakers.lock().unwrap().push(waker);
                std::future::pending::<()>().await;
            });
            world::at(u64::MAX, move || drop(in_action));
            world::sleep(Duration::from_millis(1)).await;
            let _guard = in_main;
            if halts {
                std::future::pending::<()>().await;
            }
        });
        assert_eq!(result.is_err(), halts);
        assert!(!world::in_world());
        assert_eq!(dropped.load(Ordering::Relaxed), 3, "tasks, actions and the main future are gone");
        drop(world);
        assert_eq!(dropped.load(Ordering::Relaxed), 4, "hooks go with the world");
        for waker in kept.lock().unwrap().drain(..) {
            waker.wake();
        }
    }
}

#[test]
fn a_world_can_run_again_and_time_goes_on() {
    let world = world();
    for round in 1..=3 {
        let now = world.run(async {
            world::spawn("task", world::sleep(Duration::from_millis(5))).await.unwrap();
            world::now_ns()
        });
        assert_eq!(now, Ok(round * 5_000_000));
    }
}

/// A waker is no more than the key of its task: the same task of the next world must not answer to it.
#[test]
fn a_waker_wakes_its_task_in_its_world_and_on_its_thread_only() {
    let kept = Arc::new(Mutex::new(Vec::<std::task::Waker>::new()));
    for round in 1..=3 {
        let (kept, polls) = (kept.clone(), Arc::new(AtomicU32::new(0)));
        world()
            .run(async move {
                let (wakers, counted) = (kept.clone(), polls.clone());
                let waiting = std::future::poll_fn(move |cx| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    wakers.lock().unwrap().push(cx.waker().clone());
                    std::task::Poll::<()>::Pending
                });
                world::spawn("waiting", waiting).detach();
                world::sleep(Duration::from_millis(1)).await;

                let wakers = std::mem::take(&mut *kept.lock().unwrap());
                let (own, older) = wakers.split_last().unwrap();
                older.iter().for_each(std::task::Waker::wake_by_ref);
                std::thread::scope(|scope| scope.spawn(|| own.wake_by_ref()).join().unwrap());
                world::sleep(Duration::from_millis(1)).await;
                assert_eq!((older.len(), polls.load(Ordering::Relaxed)), (round - 1, 1));

                own.wake_by_ref();
                world::sleep(Duration::from_millis(1)).await;
                assert_eq!(polls.load(Ordering::Relaxed), 2);
                kept.lock().unwrap().extend(wakers);
                kept.lock().unwrap().truncate(round);
            })
            .unwrap();
    }
}

#[test]
fn a_world_inside_a_world_is_refused() {
    let result = world().run(async { world().run(async {}) });
    assert!(matches!(&result, Err(Halt::Panic(panic)) if panic.message.contains("already running")), "{result:?}");
    assert!(!world::in_world());
    world().run(async {}).unwrap();
}

#[test]
#[should_panic(expected = "this needs a running simulation")]
fn outside_a_world_there_is_no_time() {
    world::now_ns();
}

#[test]
fn the_trace_tells_what_led_to_what() {
    let world = World::new(WorldConfig { window: Some((0, 40)), ring: 2, ..WorldConfig::default() });
    world
        .run(async {
            let (asker, server) = (world::add_host("asker"), world::add_host("server"));
            world::boot(server, || async {
                network::bind(1).recv().await;
                world::record(world::Class::Observe, &[77], b"");
                world::note(|| "seen".to_owned());
            });
            world::boot(asker, move || async move { network::send(server, 1, b"hello".to_vec()) });
            world::sleep(Duration::from_millis(1)).await;
        })
        .unwrap();
    let trace = world.trace();
    let observed = trace.iter().find(|event| event.class == "observe").expect("in the window");
    assert!(observed.text.contains("77") && observed.text.contains("seen"), "{}", observed.text);
    let chain: Vec<(&str, &str)> =
        std::iter::successors(Some(observed), |event| trace.iter().find(|other| Some(other.number) == event.cause))
            .map(|event| (event.node.as_str(), event.class.as_str()))
            .collect();
    let expected =
        [("server", "observe"), ("server", "poll"), ("server", "deliver"), ("asker", "send"), ("asker", "poll")];
    assert_eq!(chain[..5], expected);
    assert!(trace.iter().map(|event| event.number).is_sorted());
}

#[test]
fn what_surrounds_a_violation_is_kept() {
    let world = World::new(WorldConfig { ring: 8, ..WorldConfig::default() });
    world
        .run(async {
            for step in 0..1_000 {
                world::record(world::Class::Client, &[step], b"");
                if step == 500 {
                    world::mark_violation();
                    world::note(|| "here".to_owned());
                }
            }
        })
        .unwrap();
    let kept: Vec<u64> = world.trace().iter().map(|event| event.number).collect();
    assert_eq!(kept[..8], [494, 495, 496, 497, 498, 499, 500, 501]);
    assert_eq!(kept[8..72], (502..566).collect::<Vec<_>>());
    assert!(world.trace()[7].text.contains("here"));
    assert_eq!(kept.last(), Some(&1_001), "the end of the run is the last event");
}

/// Between two steps of a run by hand nothing happens; in the next one everything goes on where it was.
#[test]
fn what_a_step_began_goes_on_in_the_next_and_ends_with_the_last() {
    let world = World::new(WorldConfig::seeded(1));
    let (ticks, drops) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (counted, dropped) = (ticks.clone(), Dropped(drops.clone()));
    let sleep = |ms| async move { world::sleep(Duration::from_millis(ms)).await };
    world
        .drive(async move {
            let host = world::add_host("ticker");
            world::boot(host, move || async move {
                let _dropped = dropped;
                loop {
                    world::sleep(Duration::from_millis(10)).await;
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
        })
        .expect("the first step ends");
    assert_eq!((world.now(), ticks.load(Ordering::Relaxed)), (0, 0));
    world.drive(sleep(35)).expect("the second step ends");
    assert_eq!((world.now(), ticks.load(Ordering::Relaxed)), (35_000_000, 3));
    world.drive(sleep(10)).expect("the third step ends");
    assert_eq!(ticks.load(Ordering::Relaxed), 4);
    assert_eq!(drops.load(Ordering::Relaxed), 0);
    world.run(async {}).expect("the last step ends");
    assert_eq!(drops.load(Ordering::Relaxed), 1, "the last step ends every host");
}
