//! A dead incarnation is mute: tests that try hard to make one speak.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sim_runtime::sync::{self, mpsc, oneshot, watch};
use sim_runtime::world::{self, Cause, Class, HostId, HostStatus, Incarnation, World, WorldConfig, network, section};

const MS: Duration = Duration::from_millis(1);

/// Tries everything when dropped.
struct Screamer {
    peer: HostId,
    channel: mpsc::Sender<&'static str>,
    reply: Option<oneshot::Sender<&'static str>>,
    watched: watch::Sender<&'static str>,
    foreign_waker: Arc<Mutex<Option<std::task::Waker>>>,
    spoken: Arc<AtomicU32>,
}

impl Drop for Screamer {
    fn drop(&mut self) {
        let spoken = self.spoken.clone();
        let count = move || {
            spoken.fetch_add(1, Ordering::Relaxed);
        };
        network::send(self.peer, 1, b"from the grave".to_vec());
        world::record(Class::Observe, &[666], b"from the grave");
        world::note(|| "from the grave".to_owned());
        drop(world::spawn("ghost", {
            let count = count.clone();
            async move { count() }
        }));
        drop(world::spawn_on(Incarnation { host: self.peer, boot: 1 }, "ghost", {
            let count = count.clone();
            async move { count() }
        }));
        world::at(world::now_ns() + 1, count.clone());
        section::buffer(count);
        let _ = network::bind(9).try_recv();
        network::cut(self.peer, self.peer);
        world::kill(self.peer, Cause::Crash);
        world::pause(self.peer);
        world::stop();
        assert_eq!(self.channel.try_send("from the grave"), Err(mpsc::TrySendError::Closed("from the grave")));
        assert_eq!(self.reply.take().unwrap().send("from the grave"), Err("from the grave"));
        assert_eq!(self.watched.send("from the grave"), Err(watch::SendError("from the grave")));
        assert!(!self.watched.send_if_modified(|value| {
            *value = "from the grave";
            true
        }));
        assert!(world::is_mute());
        if let Some(waker) = self.foreign_waker.lock().unwrap().take() {
            waker.wake();
        }
        panic!("from the grave");
    }
}

#[test]
fn a_dead_incarnation_says_nothing_whatever_its_destructors_try() {
    let spoken = Arc::new(AtomicU32::new(0));
    let screamers = spoken.clone();
    let world = World::new(WorldConfig { ring: 10_000, notes: true, ..WorldConfig::default() });
    world
        .run(async move {
            let (victim, peer) = (world::add_host("victim"), world::add_host("peer"));
            let heard = Arc::new(Mutex::new(Vec::new()));
            let listened = heard.clone();
            let foreign_waker = Arc::new(Mutex::new(None));
            let shared_waker = foreign_waker.clone();
            world::boot(peer, move || async move {
                let mut inbox = network::bind(1);
                world::spawn(
                    "sleeper",
                    std::future::poll_fn(move |cx| {
                        shared_waker.lock().unwrap().get_or_insert_with(|| cx.waker().clone());
                        std::task::Poll::<()>::Pending
                    }),
                )
                .detach();
                loop {
                    let event = inbox.recv().await;
                    listened.lock().unwrap().push(event);
                }
            });
            let (channel, mut from_channel) = mpsc::channel(4);
            let (reply, answer) = oneshot::channel();
            let (watched, mut watcher) = watch::channel("alive");
            let screamer = Screamer { peer, channel, reply: Some(reply), watched, foreign_waker, spoken: screamers };
            world::boot(victim, move || async move {
                let screamer = screamer;
                world::spawn("screams too late", async move {
                    world::sleep(10 * MS).await;
                    drop(screamer);
                })
                .detach();
                std::future::pending::<()>().await;
            });
            world::sleep(MS).await;

            world::kill(victim, Cause::PowerLoss);

            // The closed ends are seen, the values are not.
            assert_eq!(from_channel.recv().await, None);
            assert_eq!(answer.await, Err(oneshot::Closed));
            assert!(watcher.changed().await.is_err());
            assert_eq!(*watcher.borrow(), "alive");
            world::sleep(20 * MS).await;
            assert!(heard.lock().unwrap().is_empty());
            assert!(!network::is_cut(peer, peer));
            assert!(matches!(world::host_status(peer), HostStatus::Running(_)));
        })
        .unwrap();
    assert_eq!(spoken.load(Ordering::Relaxed), 0);
    assert_eq!(world.panics(), []);
    assert!(world.trace().iter().all(|event| event.class != "observe" && !event.text.contains("grave")));
}

/// What a dead host held of a primitive shared with the living (the engine does that) is released, not leaked.
#[test]
fn the_living_get_what_the_dead_held() {
    World::new(WorldConfig::default())
        .run(async {
            let lock = Arc::new(sync::Mutex::new(5));
            let lane = section::Lane::new("shared");
            let (held, used) = (lock.clone(), lane.clone());
            let host = world::add_host("n");
            let joined = Arc::new(Mutex::new(None));
            let handle = joined.clone();
            world::boot(host, move || async move {
                let inner = world::spawn("worker", std::future::pending::<()>());
                *handle.lock().unwrap() = Some(inner);
                let _guard = held.lock().await;
                used.run(|| section::spend(50_000_000)).await;
            });
            world::sleep(MS).await;
            world::kill(host, Cause::Crash);
            assert_eq!(*lock.lock().await, 5);
            lane.run(|| ()).await;
            assert_eq!(world::now_ns(), 1_000_000);
            let handle = joined.lock().unwrap().take().unwrap();
            assert_eq!(handle.await, Err(world::JoinError::Cancelled));
        })
        .unwrap();
}

#[test]
fn hooks_see_a_dead_host_before_its_destructors_run() {
    struct Last(Arc<Mutex<Vec<String>>>);
    impl Drop for Last {
        fn drop(&mut self) {
            self.0.lock().unwrap().push("destructor".to_owned());
        }
    }
    let log = Arc::new(Mutex::new(Vec::new()));
    let written = log.clone();
    World::new(WorldConfig::default())
        .run(async move {
            let host = world::add_host("n");
            let hooked = log.clone();
            world::on_kill(move |dead, cause, at| {
                assert!(!world::is_alive(dead));
                hooked.lock().unwrap().push(format!("{} boot {} {cause:?} at {at}", dead.host.0, dead.boot));
            });
            let last = Last(log.clone());
            world::boot(host, move || async move {
                let _last = last;
                std::future::pending::<()>().await;
            });
            world::sleep(MS).await;
            world::kill(host, Cause::Crash);
            world::kill(host, Cause::Crash);
            // The process is dead, its page cache is not.
            world::kill(host, Cause::PowerLoss);
            world::kill(host, Cause::PowerLoss);
            log.lock().unwrap().push("end".to_owned());
        })
        .unwrap();
    let written = written.lock().unwrap();
    let expected = ["1 boot 1 Crash at 1000000", "destructor", "1 boot 1 PowerLoss at 1000000", "end"];
    assert_eq!(written[..4], expected);
}

#[test]
fn a_host_that_kills_itself_dies_right_after_the_poll() {
    World::new(WorldConfig::default())
        .run(async {
            let steps = Arc::new(Mutex::new(Vec::new()));
            let host = world::add_host("n");
            let log = steps.clone();
            world::boot(host, move || async move {
                world::kill(world::current().host, Cause::Crash);
                log.lock().unwrap().push("still in the poll");
                world::yield_now().await;
                log.lock().unwrap().push("after it");
            });
            world::sleep(MS).await;
            assert_eq!(*steps.lock().unwrap(), ["still in the poll"]);
            assert_eq!(world::host_status(host), HostStatus::Killed(Cause::Crash));
        })
        .unwrap();
}

#[test]
fn a_paused_host_stands_still_and_catches_up() {
    World::new(WorldConfig::default())
        .run(async {
            let (host, peer) = (world::add_host("n"), world::add_host("peer"));
            let log = Arc::new(Mutex::new(Vec::new()));
            let written = log.clone();
            world::boot(host, move || async move {
                let mut inbox = network::bind(1);
                let ticks = written.clone();
                world::spawn("ticker", async move {
                    loop {
                        world::sleep(MS).await;
                        ticks.lock().unwrap().push(("tick", world::now_ns() / 1_000_000));
                    }
                })
                .detach();
                loop {
                    inbox.recv().await;
                    written.lock().unwrap().push(("message", world::now_ns() / 1_000_000));
                }
            });
            world::boot(peer, move || async move {
                world::sleep(5 * MS / 2).await;
                network::send(host, 1, vec![1]);
            });
            world::sleep(3 * MS / 2).await;
            world::pause(host);
            world::sleep(10 * MS).await;
            assert_eq!(*log.lock().unwrap(), [("tick", 1)]);
            world::resume(host);
            world::sleep(MS / 4).await;
            let mut caught_up = log.lock().unwrap().clone();
            caught_up.sort_unstable();
            assert_eq!(caught_up, [("message", 11), ("tick", 1), ("tick", 11)]);
            world::pause(host);
            world::kill(host, Cause::Crash);
            world::resume(host);
            assert_eq!(world::host_status(host), HostStatus::Killed(Cause::Crash));
        })
        .unwrap();
}

/// Each host has its own clock; a task sleeps by the clock of its host.
#[test]
fn a_fast_host_sleeps_shorter() {
    World::new(WorldConfig::default())
        .run(async {
            let host = world::add_host("fast");
            world::clock::set_rate_ppm(host, 250_000);
            world::clock::set_wall_offset_ns(host, -7);
            let woke = Arc::new(Mutex::new((0, 0)));
            let noted = woke.clone();
            world::boot(host, move || async move {
                world::sleep(5 * MS).await;
                *noted.lock().unwrap() = (world::now_ns(), world::clock::monotonic_ns(world::current().host));
            });
            world::sleep(10 * MS).await;
            assert_eq!(*woke.lock().unwrap(), (4_000_000, 5_000_000));
            let wall = world::clock::wall_ns(host) - world::clock::wall_ns(HostId::DRIVER);
            assert_eq!(wall, 2_500_000 - 7);
        })
        .unwrap();
}
