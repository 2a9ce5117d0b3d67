//! Messages: what arrives, when, and what a cut, a dead process or a loss of power does to them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sim_runtime::world::network::{self, Event, NetworkConfig, Packet};
use sim_runtime::world::{self, Cause, HostId, World, WorldConfig};

const MS: Duration = Duration::from_millis(1);

fn with_network(seed: u64, network: NetworkConfig) -> World {
    World::new(WorldConfig { network, ..WorldConfig::seeded(seed) })
}

/// Sends numbered messages between two hosts, 10 us apart, and returns (number, sent, received) in order of arrival.
fn arrivals(world: &World, count: u64, noise: bool) -> Vec<(u64, u64, u64)> {
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let written = arrived.clone();
    world
        .run(async move {
            let (from, to, other) = (world::add_host("from"), world::add_host("to"), world::add_host("other"));
            world::boot(to, move || async move {
                let mut inbox = network::bind(7);
                loop {
                    let Event::Packet(packet) = inbox.recv().await else { continue };
                    if packet.from == from {
                        let word = |at: usize| u64::from_le_bytes(packet.bytes[at..at + 8].try_into().unwrap());
                        written.lock().unwrap().push((word(0), word(8), world::now_ns()));
                    }
                }
            });
            world::boot(from, move || async move {
                for number in 0..count {
                    let now = world::now_ns();
                    network::send(to, 7, [number.to_le_bytes(), now.to_le_bytes()].concat());
                    world::sleep(Duration::from_micros(10)).await;
                }
            });
            if noise {
                world::boot(other, move || async move {
                    for _ in 0..count {
                        network::send(to, 7, vec![0; 16]);
                        world::sleep(Duration::from_micros(3)).await;
                    }
                });
            }
            world::sleep(100 * MS).await;
        })
        .unwrap();
    Arc::try_unwrap(arrived).unwrap().into_inner().unwrap()
}

#[test]
fn latency_stays_in_its_bounds_and_jitter_reorders() {
    let network = NetworkConfig { latency_ns: 100_000, jitter_ns: 50_000, ..NetworkConfig::default() };
    let arrived = arrivals(&with_network(1, network), 500, false);
    assert_eq!(arrived.len(), 500);
    assert!(arrived.iter().all(|&(_, sent, received)| (100_000..=150_000).contains(&(received - sent))));
    assert!(arrived.windows(2).any(|pair| pair[0].0 > pair[1].0), "50 us of jitter reorder messages 10 us apart");

    let steady = NetworkConfig { jitter_ns: 0, ..NetworkConfig::default() };
    let arrived = arrivals(&with_network(1, steady), 100, false);
    assert!(arrived.iter().all(|&(_, sent, received)| received - sent == 100_000));
}

#[test]
fn spikes_loss_and_duplicates_come_as_often_as_asked() {
    let spiky = NetworkConfig { spike_ppm: 100_000, spike_ns_max: 10_000_000, ..NetworkConfig::default() };
    let world = with_network(2, spiky);
    let late = arrivals(&world, 1_000, false).iter().filter(|&&(_, sent, got)| got - sent > 150_000).count();
    assert!((70..130).contains(&late), "{late}");
    assert!((70..130).contains(&world.network_counts().spikes));

    let world = with_network(2, NetworkConfig { loss_ppm: 200_000, ..NetworkConfig::default() });
    let arrived = arrivals(&world, 1_000, false).len() as u64;
    assert!((750..850).contains(&arrived), "{arrived}");
    assert_eq!(world.network_counts().lost, 1_000 - arrived);

    let world = with_network(2, NetworkConfig { duplicate_ppm: 200_000, ..NetworkConfig::default() });
    let arrived = arrivals(&world, 1_000, false).len() as u64;
    assert_eq!(world.network_counts().duplicated, arrived - 1_000);
    assert!((1_150..1_250).contains(&arrived), "{arrived}");
}

#[test]
fn corruption_flips_exactly_one_bit() {
    let world = with_network(3, NetworkConfig { corrupt_ppm: 1_000_000, ..NetworkConfig::default() });
    world
        .run(async {
            let mut inbox = network::bind(1);
            network::send(HostId::DRIVER, 1, vec![0; 64]);
            let Event::Packet(Packet { bytes, .. }) = inbox.recv().await else { panic!("a packet") };
            assert_eq!(bytes.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
        })
        .unwrap();
    assert_eq!(world.network_counts().corrupted, 1);
}

/// Draws belong to a link: traffic on another one changes neither loss nor latency here.
#[test]
fn one_links_traffic_reshuffles_no_other() {
    let network = NetworkConfig { loss_ppm: 100_000, spike_ppm: 50_000, spike_ns_max: 1_000_000, ..Default::default() };
    let alone = arrivals(&with_network(4, network.clone()), 300, false);
    let beside = arrivals(&with_network(4, network), 300, true);
    assert_eq!(alone, beside);
}

#[test]
fn a_cut_takes_what_is_in_flight_even_when_healed_before_arrival() {
    let world = World::new(WorldConfig::default());
    world
        .run(async {
            let (a, b) = (world::add_host("a"), world::add_host("b"));
            let heard = Arc::new(Mutex::new(Vec::new()));
            for (host, peer) in [(a, b), (b, a)] {
                let heard = heard.clone();
                world::boot(host, move || async move {
                    let mut inbox = network::bind(1);
                    world::spawn("sender", async move {
                        for number in 0..3u8 {
                            network::send(peer, 1, vec![number]);
                            world::sleep(10 * MS).await;
                        }
                    })
                    .detach();
                    loop {
                        if let Event::Packet(packet) = inbox.recv().await {
                            heard.lock().unwrap().push((packet.from, packet.bytes[0]));
                        }
                    }
                });
            }
            // Message 0 is in flight for at least 100 us; message 1 is sent into the cut; message 2 is free again.
            world::sleep(Duration::from_micros(50)).await;
            network::cut(a, b);
            network::cut(a, b);
            network::heal(a, b);
            world::sleep(5 * MS).await;
            network::cut(a, b);
            world::sleep(10 * MS).await;
            network::heal_all();
            assert!(!network::is_cut(a, b));
            world::sleep(20 * MS).await;
            let mut heard = heard.lock().unwrap().clone();
            heard.sort_unstable();
            assert_eq!(heard, [(a, 2), (b, 0), (b, 1), (b, 2)], "only the direction that was cut lost messages");
            let counts = network::counts();
            assert_eq!((counts.cuts, counts.cut_drops, counts.delivered), (2, 2, 4));
        })
        .unwrap();
}

#[test]
fn a_dead_process_refuses_and_a_dark_machine_is_silent() {
    World::new(WorldConfig::default())
        .run(async {
            let server = world::add_host("server");
            let mut inbox = network::bind(1);
            let mut ask = async |what: &'static str| {
                inbox.send(server, 80, b"hello".to_vec());
                (what, world::timeout(10 * MS, inbox.recv()).await.ok())
            };
            let refused = Some(Event::Refused { host: server, port: 80 });
            assert_eq!(ask("never booted").await.1, None);
            world::boot(server, || async {
                let _deaf = network::bind(81);
                world::sleep(15 * MS).await;
                let mut inbox = network::bind(80);
                while let Event::Packet(packet) = inbox.recv().await {
                    inbox.send(packet.from, packet.from_port, b"hi".to_vec());
                }
            });
            assert_eq!(ask("another port").await.1, refused);
            world::sleep(20 * MS).await;
            let answer = Packet { from: server, from_port: 80, bytes: b"hi".to_vec() };
            assert_eq!(ask("bound").await.1, Some(Event::Packet(answer)));
            world::kill(server, Cause::Crash);
            assert_eq!(ask("crashed").await.1, refused);
            network::cut(server, HostId::DRIVER);
            assert_eq!(ask("crashed, the way back is cut").await.1, None);
            network::heal_all();
            world::kill(server, Cause::PowerLoss);
            assert_eq!(ask("no power").await.1, None);
            assert_eq!(network::counts().silent_drops, 2);
        })
        .unwrap();
}

#[test]
fn links_can_be_slow_by_themselves() {
    World::new(WorldConfig::default())
        .run(async {
            let far = world::add_host("far");
            world::boot(far, || async {
                let mut inbox = network::bind(1);
                while let Event::Packet(packet) = inbox.recv().await {
                    inbox.send(packet.from, packet.from_port, packet.bytes);
                }
            });
            let mut inbox = network::bind(1);
            let slow = NetworkConfig { latency_ns: 40_000_000, jitter_ns: 0, ..NetworkConfig::default() };
            network::configure_link(far, HostId::DRIVER, Some(slow));
            network::send(far, 1, vec![]);
            inbox.recv().await;
            assert!((40_100_000..=40_150_000).contains(&world::now_ns()), "{}", world::now_ns());
            network::heal_all();
            network::send(far, 1, vec![]);
            inbox.recv().await;
            assert!(world::now_ns() < 40_500_000);
        })
        .unwrap();
}

#[test]
fn a_reboot_hears_what_arrives_after_it_and_nothing_queued_before() {
    World::new(WorldConfig::default())
        .run(async {
            let host = world::add_host("n");
            let heard = Arc::new(Mutex::new(Vec::new()));
            let boot = || {
                let heard = heard.clone();
                world::boot(host, move || async move {
                    let mut inbox = network::bind(1);
                    world::sleep(5 * MS).await;
                    loop {
                        if let Event::Packet(packet) = inbox.recv().await {
                            heard.lock().unwrap().push(packet.bytes[0]);
                        }
                    }
                })
            };
            boot();
            world::sleep(MS).await;
            network::send(host, 1, vec![1]);
            world::sleep(MS).await;
            world::kill(host, Cause::Crash);
            network::send(host, 1, vec![2]);
            boot();
            world::sleep(10 * MS).await;
            assert_eq!(*heard.lock().unwrap(), [2]);
        })
        .unwrap();
}

/// Counts after 2000 messages over links that behave so.
fn counts_of(network: NetworkConfig) -> network::NetworkCounts {
    let world = with_network(9, network);
    arrivals(&world, 2000, false);
    world.network_counts()
}

#[test]
fn held_messages_are_overtaken_and_slow_links_are_slow() {
    let held =
        NetworkConfig { reorder_ppm: 100_000, reorder_ns_max: 5_000_000, jitter_ns: 0, ..NetworkConfig::default() };
    let counts = counts_of(held);
    assert!((150..260).contains(&counts.held_back), "{counts:?}");
    assert!(counts.overtaken * 10 > counts.held_back * 9, "{counts:?}");
    let slow = NetworkConfig { slow_ns: 7_000_000, ..NetworkConfig::default() };
    let arrived = arrivals(&with_network(9, slow), 10, false);
    assert!(arrived.iter().all(|&(_, sent, received)| received - sent >= 7_100_000));
}

#[test]
fn what_does_not_fit_waits_and_what_waits_too_long_is_lost() {
    // 16 bytes every 10 us are 1.6 MB/s.
    let counts = counts_of(NetworkConfig { bytes_per_s: 2_000_000, ..NetworkConfig::default() });
    assert_eq!((counts.delivered, counts.queue_drops), (2000, 0));
    let counts = counts_of(NetworkConfig { bytes_per_s: 1_000_000, ..NetworkConfig::default() });
    assert!(counts.queued > 1500 && counts.delivered == 2000, "{counts:?}");
    let counts = counts_of(NetworkConfig { bytes_per_s: 10_000, ..NetworkConfig::default() });
    assert!(counts.queue_drops > 1000, "a second of the link is 625 messages: {counts:?}");
}

#[test]
fn connections_hang_break_and_are_refused() {
    let counts = counts_of(NetworkConfig { hangs: true, ..NetworkConfig::default() });
    assert_eq!((counts.hung, counts.delivered), (2000, 0));
    let counts = counts_of(NetworkConfig { refuse_ppm: 200_000, ..NetworkConfig::default() });
    assert!((300..500).contains(&counts.refused_by_fault) && counts.delivered < 1700, "{counts:?}");
    let counts = counts_of(NetworkConfig { reset_ppm: 200_000, ..NetworkConfig::default() });
    assert!((300..500).contains(&counts.resets), "{counts:?}");
    assert_eq!(counts.delivered, 2000, "what breaks on arrival has arrived");
}

#[test]
fn an_idle_connection_is_dead_when_it_is_needed_and_then_made_anew() {
    let world = with_network(1, NetworkConfig { idle_dead_ns: 50_000_000, ..NetworkConfig::default() });
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let written = arrived.clone();
    world
        .run(async move {
            let (from, to) = (world::add_host("from"), world::add_host("to"));
            world::boot(to, move || async move {
                let mut inbox = network::bind(7);
                while let Event::Packet(packet) = inbox.recv().await {
                    written.lock().unwrap().push(packet.bytes[0]);
                }
            });
            world::boot(from, move || async move {
                for (number, pause_ms) in [(0, 10), (1, 100), (2, 10), (3, 600), (4, 10), (5, 600), (6, 0)] {
                    network::send(to, 7, vec![number]);
                    world::sleep(pause_ms * MS).await;
                }
            });
            world::sleep(3_000 * MS).await;
        })
        .unwrap();
    // 0 and 1 follow each other; 2 finds the link dead; 4 comes after it was made anew but was idle again, as does 6.
    let arrived = arrived.lock().unwrap().clone();
    assert_eq!(arrived[..2], [0, 1]);
    assert!(!arrived.contains(&2) && world.network_counts().idle_drops >= 2, "{arrived:?}");
}

#[test]
fn a_clog_delays_everything_and_loses_nothing() {
    let world = with_network(1, NetworkConfig::default());
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let written = arrived.clone();
    world
        .run(async move {
            let (from, to) = (world::add_host("from"), world::add_host("to"));
            network::clog(from, to, 50_000_000);
            world::boot(to, move || async move {
                let mut inbox = network::bind(7);
                while let Event::Packet(packet) = inbox.recv().await {
                    written.lock().unwrap().push((packet.bytes[0], world::now_ns()));
                }
            });
            world::boot(from, move || async move {
                for number in 0..10 {
                    network::send(to, 7, vec![number]);
                    world::sleep(MS).await;
                }
            });
            world::sleep(200 * MS).await;
        })
        .unwrap();
    let arrived = arrived.lock().unwrap();
    assert_eq!(arrived.len(), 10);
    assert!(arrived.iter().all(|(_, at)| *at >= 50_000_000));
    assert_eq!(world.network_counts().clogged, 10);
}
