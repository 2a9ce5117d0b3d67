//! What a message costs: ten hosts, 60 000 requests, each its own task that waits for its reply under a timeout.
//!
//! `cargo run --release -p sim-runtime --example pingpong [seed]` runs the same seed three times, asserts that the digest is
//! the same, and prints the time per message with everything on that a simulation has on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sim_runtime::sync::oneshot;
use sim_runtime::world::network::{self, Event};
use sim_runtime::world::{self, HostId, World, WorldConfig};

const HOSTS: u32 = 10;
const REQUESTS_PER_HOST: u64 = 6_000;
const PORT: u16 = 1;

type Waiting = Arc<Mutex<BTreeMap<u64, oneshot::Sender<u64>>>>;

fn message(kind: u8, id: u64) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[0] = kind;
    bytes[1..9].copy_from_slice(&id.to_le_bytes());
    bytes
}

/// Answers requests and hands replies to those who wait for them.
async fn serve(waiting: Waiting) {
    let mut inbox = network::bind(PORT);
    loop {
        let Event::Packet(packet) = inbox.recv().await else { continue };
        let id = u64::from_le_bytes(packet.bytes[1..9].try_into().expect("eight bytes"));
        if packet.bytes[0] == 0 {
            network::send(packet.from, PORT, message(1, id));
        } else {
            let reply = waiting.lock().expect("one thread").remove(&id);
            if let Some(reply) = reply {
                let _ = reply.send(id);
            }
        }
    }
}

async fn host(peers: Vec<HostId>) {
    let waiting = Waiting::default();
    world::spawn("serve", serve(waiting.clone())).detach();
    for id in 0..REQUESTS_PER_HOST {
        let to = peers[(id % u64::from(HOSTS)) as usize];
        let waiting = waiting.clone();
        world::spawn("request", async move {
            let (reply, answer) = oneshot::channel();
            waiting.lock().expect("one thread").insert(id, reply);
            network::send(to, PORT, message(0, id));
            let answer = world::timeout(Duration::from_secs(1), answer).await;
            assert_eq!(answer, Ok(Ok(id)));
        })
        .detach();
        if id % 8 == 7 {
            world::sleep(Duration::from_micros(100)).await;
        }
    }
    std::future::pending::<()>().await;
}

fn run(seed: u64) -> World {
    let world = World::new(WorldConfig::seeded(seed));
    world
        .run(async {
            let hosts: Vec<HostId> = (0..HOSTS).map(|id| world::add_host(&format!("host {id}"))).collect();
            for &id in &hosts {
                let peers = hosts.clone();
                world::boot(id, || host(peers));
            }
            world::sleep(Duration::from_secs(1)).await;
        })
        .expect("every request is answered");
    world
}

fn main() {
    let seed = std::env::args().nth(1).and_then(|seed| seed.parse().ok()).unwrap_or(42);
    let mut digests = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        let world = run(seed);
        let elapsed = start.elapsed();
        let (messages, (high, low)) = (world.network_counts().delivered, world.digest());
        assert_eq!(messages, 2 * u64::from(HOSTS) * REQUESTS_PER_HOST);
        println!(
            "seed {seed}: digest {high:016x}{low:016x}, {} events, {} polls, {messages} messages, {:.1} ms, {} ns each",
            world.events(),
            world.polls(),
            elapsed.as_secs_f64() * 1e3,
            elapsed.as_nanos() / u128::from(messages),
        );
        digests.push(world.digest());
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "one seed, one run");
}
