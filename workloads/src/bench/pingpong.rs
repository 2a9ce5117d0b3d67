//! Ten hosts that ask each other: what tasks, timers and messages cost.
//!
//! Every host has an ordered connection to every other and sends one request of 128 bytes every 10 ms to a random peer.
//! Each request is a task of its own that awaits the reply under a timeout of 1 s; the sender does not wait, so every
//! simulator given this does the same 60 000 requests whatever its latencies.
//!
//! A connection numbers its frames; its reader keeps what overtook until what comes before has arrived.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sim_runtime::sync::oneshot;
use sim_runtime::world::network::{self, Event, NetworkConfig, Receiver};
use sim_runtime::world::{self, HostId, Purpose, World, WorldConfig};

use super::Figures;

const HOSTS: usize = 10;
const FRAME_BYTES: usize = 128;
const REQUESTS_PER_HOST: u64 = 6_000;
const PERIOD_NS: u64 = 10_000_000;
const START_NS: u64 = 200_000_000;
/// The last request leaves at 60.19 s and is answered within 20 ms.
const END_NS: u64 = 60_300_000_000;
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);
/// Ports of the connections that a host accepted, and of those that it opened; plus the index of the peer.
const ACCEPTED: u16 = 100;
const OPENED: u16 = 200;

type Waiting = Arc<Mutex<BTreeMap<u64, oneshot::Sender<()>>>>;

fn frame(number: u64, id: u64) -> Vec<u8> {
    let mut frame = [0; FRAME_BYTES];
    frame[..8].copy_from_slice(&number.to_le_bytes());
    frame[8..16].copy_from_slice(&id.to_le_bytes());
    frame.to_vec()
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The receiving end of a connection: frames in the order in which they were sent.
struct Ordered {
    port: Receiver,
    next: u64,
    early: BTreeMap<u64, Vec<u8>>,
}

impl Ordered {
    fn bind(port: u16) -> Ordered {
        Ordered { port: network::bind(port), next: 0, early: BTreeMap::new() }
    }

    async fn recv(&mut self) -> Vec<u8> {
        loop {
            if let Some(bytes) = self.early.remove(&self.next) {
                self.next += 1;
                return bytes;
            }
            let Event::Packet(packet) = self.port.recv().await else { continue };
            let number = word(&packet.bytes, 0);
            if number == self.next {
                self.next += 1;
                return packet.bytes;
            }
            self.early.insert(number, packet.bytes);
        }
    }
}

/// Answers the requests of one connection.
async fn serve(mut requests: Ordered, peer: HostId, reply_port: u16) {
    let mut sent = 0;
    loop {
        let request = requests.recv().await;
        network::send(peer, reply_port, frame(sent, word(&request, 8)));
        sent += 1;
    }
}

/// Hands the replies of one connection to those who wait for them.
async fn replies(mut replies: Ordered, waiting: Waiting) {
    loop {
        let id = word(&replies.recv().await, 8);
        let waiter = waiting.lock().expect("one thread").remove(&id);
        if let Some(waiter) = waiter {
            // It may have given up; then it is counted as a timeout.
            let _ = waiter.send(());
        }
    }
}

async fn host(me: usize, hosts: Vec<HostId>, replied: Rc<Cell<u64>>) {
    let port = |base: u16, index: usize| base + u16::try_from(index).expect("few hosts");
    let waiting = Waiting::default();
    let peers: Vec<usize> = (0..HOSTS).filter(|&peer| peer != me).collect();
    for &peer in &peers {
        let accepted = Ordered::bind(port(ACCEPTED, peer));
        world::spawn("serve", serve(accepted, hosts[peer], port(OPENED, me))).detach();
        let opened = Ordered::bind(port(OPENED, peer));
        world::spawn("replies", replies(opened, waiting.clone())).detach();
    }
    let mut draws = world::stream(Purpose("peer"), u64::try_from(me).expect("few hosts"));
    let mut sent = [0; HOSTS];
    for id in 0..REQUESTS_PER_HOST {
        world::sleep_until_ns(START_NS + id * PERIOD_NS).await;
        let peer = *draws.pick(&peers).expect("there are peers");
        let (waiter, reply) = oneshot::channel();
        waiting.lock().expect("one thread").insert(id, waiter);
        network::send(hosts[peer], port(ACCEPTED, me), frame(sent[peer], id));
        sent[peer] += 1;
        let replied = replied.clone();
        let request = async move {
            if let Ok(Ok(())) = world::timeout(REPLY_TIMEOUT, reply).await {
                replied.set(replied.get() + 1);
            }
        };
        world::spawn_local("request", request).detach();
    }
    std::future::pending::<()>().await;
}

/// Runs it.
///
/// # Panics
/// If a request was not answered.
pub fn run(seed: u64) -> Figures {
    let network = NetworkConfig { latency_ns: 1_000_000, jitter_ns: 9_000_000, ..NetworkConfig::default() };
    let world = World::new(WorldConfig { network, ..WorldConfig::seeded(seed) });
    let replied = Rc::new(Cell::new(0));
    let counted = replied.clone();
    let main = async move {
        let hosts: Vec<HostId> = (0..HOSTS).map(|index| world::add_host(&format!("host-{index}"))).collect();
        for (index, &id) in hosts.iter().enumerate() {
            let (hosts, replied) = (hosts.clone(), counted.clone());
            world::boot(id, move || host(index, hosts, replied));
        }
        world::sleep_until_ns(END_NS).await;
    };
    world.run(main).expect("the run reaches its end");
    let requests = u64::try_from(HOSTS).expect("few hosts") * REQUESTS_PER_HOST;
    assert_eq!(replied.get(), requests, "every request is answered in time");
    Figures::of(&world, 0)
}
