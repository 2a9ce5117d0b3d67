//! Same seed, same run: the digest, the orders, and what one task less does to the others.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sim_runtime::sync::oneshot;
use sim_runtime::world::{self, Class, HostId, Order, Purpose, World, WorldConfig, network};

/// Hosts that send to each other, sleep, draw and spawn: a bit of everything that is recorded.
async fn busy_cluster() {
    let hosts: Vec<HostId> = (0..4).map(|id| world::add_host(&format!("n{id}"))).collect();
    for &host in &hosts {
        let peers = hosts.clone();
        world::boot(host, move || async move {
            let mut inbox = network::bind(1);
            let (first, answer) = oneshot::channel();
            world::spawn("sender", async move {
                for round in 0..20u64 {
                    world::sleep(Duration::from_nanos(world::task_draw() % 1_000_000)).await;
                    let to = peers[(world::task_draw() % 4) as usize];
                    network::send(to, 1, round.to_le_bytes().to_vec());
                }
                let _ = first.send(());
            })
            .detach();
            answer.await.unwrap();
            while let Ok(event) = world::timeout(Duration::from_millis(3), inbox.recv()).await {
                world::record(Class::Observe, &[1], format!("{event:?}").as_bytes());
            }
        });
    }
    world::sleep(Duration::from_millis(50)).await;
}

fn digest_of(config: WorldConfig) -> ((u64, u64), u64) {
    let world = World::new(config);
    world.run(busy_cluster()).unwrap();
    (world.digest(), world.events())
}

fn config(seed: u64) -> WorldConfig {
    WorldConfig { hold_probability_ppm: 50_000, hold_ns_max: 500_000, ..WorldConfig::seeded(seed) }
}

#[test]
fn the_same_seed_is_the_same_run_on_any_thread_and_whatever_ran_before() {
    for order in [Order::Uniform, Order::Fifo, Order::Pct { depth: 3 }] {
        let run = move |seed| digest_of(WorldConfig { order, ..config(seed) });
        let first = run(1);
        assert!(first.1 > 500, "only {} events", first.1);
        let other = run(2);
        assert_eq!(first, run(1));
        assert_ne!(first.0, other.0);
        let elsewhere = std::thread::spawn(move || run(1)).join().unwrap();
        assert_eq!(first, elsewhere);
    }
}

#[test]
fn checkpoints_agree_up_to_the_first_difference() {
    let run = |flip: bool| {
        let world = World::new(WorldConfig { checkpoint_every_log2: 2, ..WorldConfig::seeded(3) });
        world
            .run(async move {
                for step in 0..40u64 {
                    let field = if flip && step == 25 { step + 1 } else { step };
                    world::record(Class::Client, &[field], b"x");
                }
            })
            .unwrap();
        world.checkpoints()
    };
    let (left, right) = (run(false), run(true));
    let first_difference = left.iter().zip(&right).position(|(left, right)| left != right).expect("they differ");
    // Event 0 is the poll of main, event 26 carries the flipped field: the checkpoint after 28 events is the first.
    assert_eq!(left[first_difference].events, 28);
    assert!(left[first_difference..].iter().zip(&right[first_difference..]).all(|(left, right)| left != right));
}

/// Every part of an event counts: class, fields, their number, the bytes, the host and the time.
#[test]
fn one_changed_bit_in_any_part_of_an_event_changes_the_digest() {
    let run = |class: Class, fields: Vec<u64>, bytes: Vec<u8>, delay: u64, host: bool| {
        let world = World::new(WorldConfig::seeded(0));
        world
            .run(async move {
                let there = world::add_host("there");
                world::sleep(Duration::from_nanos(delay)).await;
                let task = async move {
                    world::record(class, &fields, &bytes);
                };
                if host {
                    world::boot(there, || task);
                    world::sleep(Duration::from_nanos(1)).await;
                } else {
                    task.await;
                }
            })
            .unwrap();
        world.digest()
    };
    for class in Class::ALL {
        let base = run(class, vec![1, 2], b"value".to_vec(), 5, false);
        assert_eq!(base, run(class, vec![1, 2], b"value".to_vec(), 5, false));
        let next = Class::ALL[(class as usize + 1) % Class::ALL.len()];
        for different in [
            run(next, vec![1, 2], b"value".to_vec(), 5, false),
            run(class, vec![1, 3], b"value".to_vec(), 5, false),
            run(class, vec![2, 1], b"value".to_vec(), 5, false),
            run(class, vec![1, 2, 0], b"value".to_vec(), 5, false),
            run(class, vec![1 << 63 | 1, 2], b"value".to_vec(), 5, false),
            run(class, vec![1, 2], b"valve".to_vec(), 5, false),
            run(class, vec![1, 2], b"value\0".to_vec(), 5, false),
            run(class, vec![1, 2], Vec::new(), 5, false),
            run(class, vec![1, 2], b"value".to_vec(), 6, false),
            run(class, vec![1, 2], b"value".to_vec(), 5, true),
        ] {
            assert_ne!(base, different, "{class:?}");
        }
    }
    assert!(Class::ALL.iter().enumerate().all(|(index, class)| *class as usize == index), "in order, without gap");
}

/// Every bit of every field and of the bytes' hash, for every number of fields that an event may have.
#[test]
fn every_bit_of_every_word_reaches_the_digest() {
    let digest = |fields: &[u64], bytes: &[u8]| {
        let world = World::new(WorldConfig::seeded(0));
        let (fields, bytes) = (fields.to_vec(), bytes.to_vec());
        world.run(async move { world::record(Class::Draw, &fields, &bytes) }).unwrap();
        world.digest()
    };
    let mut seen = BTreeSet::new();
    for count in 0..7usize {
        let fields = vec![0u64; count];
        assert!(seen.insert(digest(&fields, b"")), "{count} fields");
        for (index, bit) in (0..count).flat_map(|index| (0..64).map(move |bit| (index, bit))) {
            let mut flipped = fields.clone();
            flipped[index] ^= 1 << bit;
            assert!(seen.insert(digest(&flipped, b"")), "bit {bit} of field {index} of {count}");
        }
    }
    for bit in 0..64 {
        let mut bytes = [0u8; 8];
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(seen.insert(digest(&[], &bytes)), "bit {bit} of the bytes");
    }
}

type Log = Arc<Mutex<Vec<&'static str>>>;

/// Spawns the named tasks; each writes its name into the log so many times, yielding in between.
fn order_of(config: WorldConfig, names: &'static [&'static str], steps: usize) -> Vec<&'static str> {
    let log = Log::default();
    let written = log.clone();
    World::new(config)
        .run(async move {
            let handles: Vec<_> = names
                .iter()
                .map(|&name| {
                    let log = log.clone();
                    world::spawn(name, async move {
                        for _ in 0..steps {
                            log.lock().unwrap().push(name);
                            world::yield_now().await;
                        }
                    })
                })
                .collect();
            for handle in handles {
                handle.await.unwrap();
            }
        })
        .unwrap();
    Arc::try_unwrap(written).unwrap().into_inner().unwrap()
}

#[test]
fn fifo_is_the_order_of_readiness() {
    let config = WorldConfig { order: Order::Fifo, ..WorldConfig::default() };
    assert_eq!(order_of(config, &["a", "b", "c"], 2), ["a", "b", "c", "a", "b", "c"]);
}

#[test]
fn the_uniform_order_reaches_every_interleaving() {
    // 2 tasks with 3 steps each interleave in 20 ways. The rarest, strict alternation, needs six rising hashes: 1 in 720.
    let orders: BTreeSet<_> = (0..6_000).map(|seed| order_of(WorldConfig::seeded(seed), &["a", "b"], 3)).collect();
    assert_eq!(orders.len(), 20);
}

#[test]
fn pct_runs_the_highest_priority_until_it_waits_or_is_demoted() {
    let without_change = |seed| {
        let order = Order::Pct { depth: 0 };
        order_of(WorldConfig { order, ..WorldConfig::seeded(seed) }, &["a", "b", "c"], 4)
    };
    let mut first = BTreeSet::new();
    for seed in 0..50 {
        let order = without_change(seed);
        let mut groups = order.clone();
        groups.dedup();
        assert_eq!(groups.len(), 3, "without change points each task runs to its end: {order:?}");
        first.insert(groups);
    }
    assert_eq!(first.len(), 6, "all priorities are drawn");
    let with_change = |seed| {
        let order = Order::Pct { depth: 2 };
        let mut order =
            order_of(WorldConfig { order, pct_polls: 12, ..WorldConfig::seeded(seed) }, &["a", "b", "c"], 4);
        order.dedup();
        order.len()
    };
    assert!((0..50).any(|seed| with_change(seed) > 3), "change points interrupt a running task");
}

#[test]
fn one_task_less_reshuffles_no_other() {
    for seed in 0..100 {
        let with = order_of(WorldConfig::seeded(seed), &["a", "b", "c", "d", "intruder"], 5);
        let without = order_of(WorldConfig::seeded(seed), &["a", "b", "c", "d"], 5);
        let others: Vec<_> = with.into_iter().filter(|&name| name != "intruder").collect();
        assert_eq!(others, without, "seed {seed}");
    }
}

#[test]
fn a_hold_lets_others_run_on_while_a_ready_task_starves() {
    // Without holds the ticker cannot tick between the wake of the victim and its poll.
    let ticks_while_ready = |seed, hold_probability_ppm| {
        let config = WorldConfig { hold_probability_ppm, hold_ns_max: 1_000_000, ..WorldConfig::seeded(seed) };
        World::new(config)
            .run(async {
                let ticks = Arc::new(Mutex::new(0));
                let counted = ticks.clone();
                let (sender, receiver) = oneshot::channel();
                let victim = world::spawn("victim", async move {
                    receiver.await.unwrap();
                    *counted.lock().unwrap()
                });
                world::spawn("ticker", async move {
                    loop {
                        world::sleep(Duration::from_micros(10)).await;
                        *ticks.lock().unwrap() += 1;
                    }
                })
                .detach();
                world::sleep(Duration::from_millis(5)).await;
                let now = world::now_ns();
                sender.send(()).unwrap();
                let ticks = victim.await.unwrap();
                (ticks, world::now_ns() - now)
            })
            .unwrap()
    };
    let (_, waited) = ticks_while_ready(0, 0);
    assert_eq!(waited, 0);
    let longest = (0..200).map(|seed| ticks_while_ready(seed, 200_000).1).max().unwrap();
    assert!(longest > 500_000, "the longest hold was {longest} ns");
    assert!(longest <= 2_000_000, "two holds of at most 1 ms each");
}

#[test]
fn ties_between_equal_deadlines_are_drawn_and_stable() {
    let wake_order = |seed| {
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = log.clone();
        World::new(WorldConfig { order: Order::Fifo, ..WorldConfig::seeded(seed) })
            .run(async move {
                for id in 0..4 {
                    let log = log.clone();
                    world::at(1_000, move || log.lock().unwrap().push(id));
                }
                world::sleep(Duration::from_micros(2)).await;
            })
            .unwrap();
        Arc::try_unwrap(written).unwrap().into_inner().unwrap()
    };
    let orders: BTreeSet<Vec<i32>> = (0..500).map(wake_order).collect();
    assert_eq!(orders.len(), 24);
    assert_eq!(wake_order(7), wake_order(7));
}

#[test]
fn draws_of_a_task_depend_on_nothing_but_itself() {
    let drawn = |noise: bool| {
        World::new(WorldConfig::seeded(9))
            .run(async move {
                let task = world::spawn("drawer", async { [world::task_draw(), world::task_draw()] });
                if noise {
                    world::spawn("noise", async { world::task_draw() }).detach();
                    world::task_draw();
                }
                task.await.unwrap()
            })
            .unwrap()
    };
    assert_eq!(drawn(false), drawn(true));
    let [first, second] = drawn(false);
    assert_ne!(first, second);
}

#[test]
fn a_rebooted_host_draws_afresh() {
    World::new(WorldConfig::seeded(9))
        .run(async move {
            let host = world::add_host("n");
            let drawn = Arc::new(Mutex::new(Vec::new()));
            for _ in 0..2 {
                let drawn = drawn.clone();
                world::boot(host, || async move { drawn.lock().unwrap().push(world::task_draw()) });
                world::sleep(Duration::from_nanos(1)).await;
            }
            let drawn = drawn.lock().unwrap();
            assert_ne!(drawn[0], drawn[1]);
        })
        .unwrap();
}

#[test]
fn free_draws_are_those_of_the_seed() {
    const TEST: Purpose = Purpose("test");
    let drawn = |seed| {
        World::new(WorldConfig::seeded(seed)).enter(|| {
            let mut stream = world::stream(TEST, 5);
            let streamed: Vec<u64> = (0..20).map(|_| stream.next_u64()).collect();
            let drawn: Vec<u64> = (0..20).map(|ordinal| world::draw(TEST, 5, ordinal)).collect();
            assert_eq!(streamed, drawn);
            drawn
        })
    };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
}
