//! Ordered streams: every byte in order or the connection breaks, whatever the links do.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sim_runtime::world::network::stream::{self, GIVE_UP_NS, Stream, StreamError, WINDOW_BYTES};
use sim_runtime::world::network::{self, NetworkConfig};
use sim_runtime::world::{self, Cause, HostId, World, WorldConfig};

const MS: Duration = Duration::from_millis(1);

fn with_network(seed: u64, network: NetworkConfig) -> World {
    World::new(WorldConfig { network, ..WorldConfig::seeded(seed) })
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

/// Accepts one connection and returns what it read from it, and how that ended.
fn reader(host: HostId, into: &Arc<Mutex<Vec<u8>>>, ends: &Arc<Mutex<Vec<Result<(), StreamError>>>>) {
    let (into, ends) = (into.clone(), ends.clone());
    world::boot(host, move || async move {
        let mut listener = stream::listen(7);
        let mut accepted = listener.accept().await;
        let mut buffer = [0; 1000];
        let end = loop {
            match accepted.read(&mut buffer).await {
                Ok(0) => break Ok(()),
                Ok(read) => into.lock().unwrap().extend_from_slice(&buffer[..read]),
                Err(error) => break Err(error),
            }
        };
        ends.lock().unwrap().push(end);
        std::future::pending::<()>().await;
    });
}

type Transfer = (Vec<u8>, Vec<Result<(), StreamError>>, Result<(), StreamError>);

/// Sends `bytes` over one connection; `meanwhile` is told both hosts.
fn transfer(world: &World, bytes: Vec<u8>, meanwhile: impl AsyncFnOnce(HostId, HostId)) -> Transfer {
    let (read, ends) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let sent = Arc::new(Mutex::new(Ok(())));
    let outcome = sent.clone();
    world
        .run(async {
            let (from, to) = (world::add_host("from"), world::add_host("to"));
            reader(to, &read, &ends);
            world::boot(from, move || async move {
                let send = async {
                    let mut connection = stream::connect(to, 7).await?;
                    connection.write_all(&bytes).await?;
                    connection.shut_down();
                    // Until the other end has read everything or the connection breaks.
                    match connection.read(&mut [0]).await {
                        Ok(_) => Ok(()),
                        Err(error) => Err(error),
                    }
                };
                let result: Result<(), StreamError> = send.await;
                *outcome.lock().unwrap() = result;
                std::future::pending::<()>().await;
            });
            meanwhile(from, to).await;
        })
        .unwrap();
    let sent = *sent.lock().unwrap();
    (read.lock().unwrap().clone(), ends.lock().unwrap().clone(), sent)
}

#[test]
fn bytes_arrive_whole_and_in_order_over_links_that_lose_reorder_and_damage() {
    let network = NetworkConfig {
        loss_ppm: 100_000,
        corrupt_ppm: 50_000,
        duplicate_ppm: 100_000,
        reorder_ppm: 200_000,
        reorder_ns_max: 50_000_000,
        jitter_ns: 5_000_000,
        ..NetworkConfig::default()
    };
    for seed in 0..6 {
        let world = with_network(seed, network.clone());
        let (read, ends, _) = transfer(&world, pattern(300_000), async |_, _| world::sleep(60_000 * MS).await);
        assert_eq!(read, pattern(300_000), "seed {seed}");
        assert_eq!(ends, [Ok(())], "seed {seed}");
        let counts = world.network_counts();
        assert!(counts.lost > 0 && counts.damage_found > 0, "{counts:?}");
    }
}

#[test]
fn a_writer_waits_when_nobody_reads() {
    let world = with_network(1, NetworkConfig::default());
    let written = Arc::new(Mutex::new(0));
    let count = written.clone();
    world
        .run(async move {
            let (from, to) = (world::add_host("from"), world::add_host("to"));
            world::boot(to, || async {
                let mut listener = stream::listen(7);
                let _unread = listener.accept().await;
                std::future::pending::<()>().await;
            });
            world::boot(from, move || async move {
                let mut connection = stream::connect(to, 7).await.unwrap();
                loop {
                    let taken = connection.write(&[1; 5000]).await.unwrap();
                    *count.lock().unwrap() += taken;
                }
            });
            world::sleep(1000 * MS).await;
        })
        .unwrap();
    assert_eq!(*written.lock().unwrap(), WINDOW_BYTES, "as much as the window, and no more");
}

#[test]
fn reads_and_writes_are_sometimes_partial() {
    let world = with_network(3, NetworkConfig::default());
    let portions = Arc::new(Mutex::new(Vec::new()));
    let taken = portions.clone();
    world
        .run(async move {
            let (from, to) = (world::add_host("from"), world::add_host("to"));
            world::boot(to, || async {
                let mut listener = stream::listen(7);
                let mut accepted = listener.accept().await;
                let mut buffer = vec![0; 1 << 17];
                while accepted.read(&mut buffer).await.unwrap() > 0 {}
            });
            world::boot(from, move || async move {
                let mut connection = stream::connect(to, 7).await.unwrap();
                for _ in 0..200 {
                    let count = connection.write(&[1; 100]).await.unwrap();
                    taken.lock().unwrap().push(count);
                }
            });
            world::sleep(1000 * MS).await;
        })
        .unwrap();
    let portions = portions.lock().unwrap();
    let partial = portions.iter().filter(|count| **count < 100).count();
    assert!((5..60).contains(&partial), "{partial} of {} writes were partial", portions.len());
    assert!(portions.iter().all(|count| *count > 0));
}

/// When each attempt ended, and how.
type Connections = Arc<Mutex<Vec<(u64, Option<StreamError>)>>>;

async fn connect_from(host: HostId, to: HostId, into: &Connections) {
    let into = into.clone();
    let began = world::now_ns();
    world::boot(host, move || async move {
        let error = stream::connect(to, 7).await.err();
        into.lock().unwrap().push((world::now_ns() - began, error));
    });
    while world::running(host).is_some() {
        world::sleep(10 * MS).await;
    }
}

#[test]
fn nobody_there_is_refused_and_silence_times_out() {
    let world = with_network(1, NetworkConfig::default());
    let results = Arc::new(Mutex::new(Vec::new()));
    let seen = results.clone();
    world
        .run(async move {
            let (from, to) = (world::add_host("from"), world::add_host("to"));
            // Without power: silence.
            connect_from(from, to, &seen).await;
            // Up, but nobody listens.
            world::boot(to, std::future::pending::<()>);
            connect_from(from, to, &seen).await;
            // Listening, but cut off: silence again.
            world::kill(to, Cause::Crash);
            world::boot(to, || async {
                let mut listener = stream::listen(7);
                let _accepted = listener.accept().await;
                std::future::pending::<()>().await;
            });
            network::cut(from, to);
            connect_from(from, to, &seen).await;
            network::heal(from, to);
            connect_from(from, to, &seen).await;
        })
        .unwrap();
    let results = results.lock().unwrap();
    let errors: Vec<_> = results.iter().map(|(_, error)| *error).collect();
    assert_eq!(errors, [Some(StreamError::TimedOut), Some(StreamError::Refused), Some(StreamError::TimedOut), None]);
    assert!(results[0].0 >= GIVE_UP_NS && results[1].0 < 10_000_000, "{results:?}");
}

#[test]
fn a_crash_resets_and_a_loss_of_power_is_silent_until_somebody_asks() {
    for (cause, expected) in [(Cause::Crash, StreamError::Reset), (Cause::PowerLoss, StreamError::TimedOut)] {
        let world = with_network(2, NetworkConfig::default());
        // More than the window, so that the sender is still at it.
        let (read, _, sent) = transfer(&world, pattern(10_000_000), async |_, to| {
            world::sleep(5 * MS).await;
            world::kill(to, cause);
            world::sleep(30_000 * MS).await;
        });
        assert_eq!(sent, Err(expected), "{cause:?}");
        assert!(pattern(10_000_000).starts_with(&read), "what arrived is a prefix");
    }
    // Rebooted: the machine says that it knows of no such connection.
    let world = with_network(2, NetworkConfig::default());
    let (_, _, sent) = transfer(&world, pattern(10_000_000), async |_, to| {
        world::sleep(5 * MS).await;
        world::kill(to, Cause::PowerLoss);
        world::sleep(300 * MS).await;
        world::boot(to, std::future::pending::<()>);
        world::sleep(5_000 * MS).await;
    });
    assert_eq!(sent, Err(StreamError::Reset));
}

#[test]
fn a_cut_delays_and_a_long_one_breaks() {
    let world = with_network(4, NetworkConfig::default());
    let (read, ends, _) = transfer(&world, pattern(2_000_000), async |from, to| {
        world::sleep(3 * MS).await;
        network::cut(from, to);
        world::sleep(4_000 * MS).await;
        network::heal(from, to);
        world::sleep(20_000 * MS).await;
    });
    assert_eq!((read, ends), (pattern(2_000_000), vec![Ok(())]));
    let (read, ends, sent) =
        transfer(&with_network(4, NetworkConfig::default()), pattern(2_000_000), async |from, to| {
            world::sleep(3 * MS).await;
            network::cut(from, to);
            world::sleep(40_000 * MS).await;
        });
    assert_eq!(sent, Err(StreamError::TimedOut));
    // The other end heard nothing, and believes in the connection: it is half open.
    assert!(ends.is_empty() && read.len() < 2_000_000);
}

#[test]
fn connections_break_in_the_middle() {
    let network = NetworkConfig { reset_ppm: 20_000, ..NetworkConfig::default() };
    let broken = (0..20).filter(|seed| {
        let world = with_network(*seed, network.clone());
        let (read, ends, sent) = transfer(&world, pattern(500_000), async |_, _| world::sleep(20_000 * MS).await);
        assert!(pattern(500_000).starts_with(&read), "seed {seed}: what arrived is a prefix");
        let whole = read.len() == 500_000;
        assert!(whole || ends == [Err(StreamError::Reset)] || sent.is_err(), "seed {seed}: {ends:?} {sent:?}");
        !whole
    });
    assert!(broken.count() > 5);
}

#[test]
fn dropping_a_stream_with_bytes_unread_resets_the_other_end() {
    let world = with_network(5, NetworkConfig::default());
    let seen = Arc::new(Mutex::new(None));
    let result = seen.clone();
    world
        .run(async move {
            let (from, to) = (world::add_host("from"), world::add_host("to"));
            world::boot(to, || async {
                let mut listener = stream::listen(7);
                let accepted: Stream = listener.accept().await;
                world::sleep(50 * MS).await;
                drop(accepted);
                std::future::pending::<()>().await;
            });
            world::boot(from, move || async move {
                let mut connection = stream::connect(to, 7).await.unwrap();
                connection.write_all(&[1; 100]).await.unwrap();
                *result.lock().unwrap() = Some(connection.read(&mut [0]).await);
                std::future::pending::<()>().await;
            });
            world::sleep(1000 * MS).await;
        })
        .unwrap();
    assert_eq!(*seen.lock().unwrap(), Some(Err(StreamError::Reset)));
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let network = NetworkConfig { loss_ppm: 50_000, jitter_ns: 3_000_000, reset_ppm: 1000, ..NetworkConfig::default() };
    let digest = |seed| {
        let world = with_network(seed, network.clone());
        let _ = transfer(&world, pattern(200_000), async |_, _| world::sleep(20_000 * MS).await);
        world.digest()
    };
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));
}
