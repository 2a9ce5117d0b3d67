//! Channels and locks: order of arrival, cancellation that loses nothing, and closing.

use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use sim_runtime::sync::{Mutex, mpsc, watch};
use sim_runtime::world::{self, Order, World, WorldConfig};

const US: Duration = Duration::from_micros(1);

fn run(main: impl Future<Output = ()>) {
    World::new(WorldConfig { order: Order::Fifo, ..WorldConfig::default() }).run(main).unwrap();
}

#[test]
fn a_mutex_serves_in_order_of_arrival_whatever_the_scheduler_prefers() {
    for seed in 0..20 {
        World::new(WorldConfig::seeded(seed))
            .run(async {
                let mutex = Arc::new(Mutex::new(Vec::new()));
                let first = mutex.lock().await;
                let handles: Vec<_> = (0..10u32)
                    .map(|id| {
                        let mutex = mutex.clone();
                        world::spawn("waiter", async move {
                            world::sleep(id * US).await;
                            mutex.lock().await.push(id);
                        })
                    })
                    .collect();
                world::sleep(20 * US).await;
                drop(first);
                for handle in handles {
                    handle.await.unwrap();
                }
                assert_eq!(*mutex.lock().await, (0..10).collect::<Vec<_>>());
            })
            .unwrap();
    }
}

#[test]
fn a_cancelled_waiter_passes_the_lock_on() {
    run(async {
        let mutex = Arc::new(Mutex::new(1));
        let held = mutex.lock().await;
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let mutex = mutex.clone();
                world::spawn("waiter", async move { *mutex.lock().await += 1 })
            })
            .collect();
        world::sleep(US).await;
        // The first is cancelled while it waits, the second after the lock was handed to it.
        waiters[0].abort();
        world::sleep(US).await;
        drop(held);
        waiters[1].abort();
        world::sleep(US).await;
        assert_eq!(*mutex.try_lock().expect("nobody holds it"), 2);
    });
}

#[test]
fn senders_of_a_full_channel_are_served_in_order_and_cancelled_ones_send_nothing() {
    run(async {
        let (sender, mut receiver) = mpsc::channel(2);
        let handles: Vec<_> = (0..6)
            .map(|id| {
                let sender = sender.clone();
                world::spawn("sender", async move { sender.send(id).await })
            })
            .collect();
        world::sleep(US).await;
        assert_eq!(sender.try_send(99), Err(mpsc::TrySendError::Full(99)));
        handles[3].abort();
        // Room appears and goes to 2; then 2 is cancelled before it takes it, and 4 gets it.
        assert_eq!(receiver.try_recv(), Ok(0));
        handles[2].abort();
        let mut received = vec![0];
        drop(sender);
        while let Some(id) = receiver.recv().await {
            received.push(id);
        }
        assert_eq!(received, [0, 1, 4, 5]);
        assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Closed));
    });
}

#[test]
fn a_dropped_receiver_gives_waiting_senders_their_values_back() {
    run(async {
        let (sender, receiver) = mpsc::channel(1);
        sender.send(1).await.unwrap();
        let weak = sender.downgrade();
        let waiting = world::spawn("sender", async move { sender.send(2).await });
        world::sleep(US).await;
        drop(receiver);
        assert_eq!(waiting.await.unwrap(), Err(mpsc::SendError(2)));
        assert!(weak.upgrade().is_none());
        let (unbounded, mut receiver) = mpsc::unbounded();
        for id in 0..10_000 {
            unbounded.try_send(id).unwrap();
        }
        assert_eq!((receiver.len(), receiver.try_recv()), (10_000, Ok(0)));
    });
}

#[test]
fn watchers_wake_in_the_order_in_which_they_began_to_wait() {
    run(async {
        let (sender, receiver) = watch::channel(0);
        let log = Arc::new(StdMutex::new(Vec::new()));
        let watchers: Vec<_> = [3u32, 1, 2]
            .map(|id| {
                let (mut receiver, log) = (receiver.clone(), log.clone());
                world::spawn("watcher", async move {
                    world::sleep(id * US).await;
                    receiver.changed().await.unwrap();
                    log.lock().unwrap().push((id, *receiver.borrow()));
                })
            })
            .into_iter()
            .collect();
        world::sleep(10 * US).await;
        sender.send(7).unwrap();
        for watcher in watchers {
            watcher.await.unwrap();
        }
        assert_eq!(*log.lock().unwrap(), [(1, 7), (2, 7), (3, 7)]);
        drop(receiver);
        assert_eq!(sender.send(8), Err(watch::SendError(8)));
    });
}

#[test]
fn the_last_value_is_seen_after_the_sender_is_gone() {
    run(async {
        let (sender, mut receiver) = watch::channel(0);
        sender.send(1).unwrap();
        drop(sender);
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(*receiver.borrow_and_update(), 1);
        assert_eq!(receiver.changed().await, Err(watch::Closed));
    });
}

#[test]
fn sending_while_borrowing_panics_instead_of_hanging() {
    let (sender, receiver) = watch::channel(0);
    let borrowed = receiver.borrow();
    let sent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sender.send(1)));
    assert!(sent.is_err());
    drop(borrowed);
    assert_eq!(sender.send(2), Ok(()));
}
