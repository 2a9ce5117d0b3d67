//! A lock service under test, from an empty file: one server, a durable record of who holds the lock, clients that
//! acquire and release it over an unreliable network while the server crashes and loses power.
//!
//! The property: nobody holds the lock while somebody else does. The server keeps its promise only if a grant is on
//! disk before it is answered; `Lock { syncs: false }` forgets that, and is found out.
//!
//! `cargo run -p sim-runtime --example lock`

use std::time::Duration;

use sim_runtime::disk::{Disk, OpenMode};
use sim_runtime::engine::{
    Client, ClientProcess, Exit, Judge, OpKind, OpOutcome, Oracle, PlannedOp, Process, Server, Shape, Simulation, Spec,
    Stamped, System, Until, Workload,
};
use sim_runtime::world::draws::Stream;
use sim_runtime::world::network::{self, Event as Arrival, Packet};
use sim_runtime::world::{self, section::Lane};

const PORT: u16 = 7;

#[derive(Clone, Debug)]
pub enum Event {
    Acquired { client: u32 },
    Releasing { client: u32 },
}

struct Lock {
    syncs: bool,
}

impl System for Lock {
    type Event = Event;

    fn server(&self, server: Server<Event>) -> Process {
        let syncs = self.syncs;
        Box::pin(async move {
            let lane = Lane::new("record");
            let Ok(mut record) = lane.run(load).await else { return Exit::Failed("cannot read the record".into()) };
            let mut arrivals = network::bind(PORT);
            server.serving();
            loop {
                let Arrival::Packet(Packet { from, bytes, .. }) = arrivals.recv().await else { continue };
                let next = record.after(bytes[0], from.0, token_of(&bytes));
                if next != record && lane.run(move || store(next, syncs)).await.is_err() {
                    return Exit::Failed("cannot write the record".into());
                }
                record = next;
                let holds = record.holder == from.0 && record.token == token_of(&bytes);
                network::send(from, PORT, [&bytes[..], &[u8::from(holds)]].concat());
            }
        })
    }

    fn oracles(&self) -> Vec<Box<dyn Oracle<Event>>> {
        vec![Box::new(MutualExclusion { holder: None })]
    }
}

/// Who holds the lock (0: nobody), and the highest token ever granted.
#[derive(Clone, Copy, Default, PartialEq)]
struct Record {
    holder: u32,
    token: u64,
}

impl Record {
    /// A late copy of an old request has an old token and changes nothing.
    fn after(self, what: u8, from: u32, token: u64) -> Record {
        match what {
            b'a' if (self.holder == 0 || self.holder == from) && token > self.token => Record { holder: from, token },
            b'r' if self.holder == from && token == self.token => Record { holder: 0, token },
            _ => self,
        }
    }
}

fn token_of(message: &[u8]) -> u64 {
    u64::from_le_bytes(message[1..9].try_into().expect("a message carries a token"))
}

fn load() -> std::io::Result<Record> {
    let disk = Disk::of(world::current().host);
    let mode = OpenMode { create: true, create_new: false, truncate: false };
    let mut bytes = [0; 12];
    disk.open("/record", mode)?.read_at(&mut bytes, 0)?;
    disk.sync_dir("/")?;
    let (holder, token) = bytes.split_at(4);
    Ok(Record {
        holder: u32::from_le_bytes(holder.try_into().expect("4 bytes")),
        token: u64::from_le_bytes(token.try_into().expect("8 bytes")),
    })
}

fn store(record: Record, syncs: bool) -> std::io::Result<()> {
    let mode = OpenMode { create: false, create_new: false, truncate: false };
    let file = Disk::of(world::current().host).open("/record", mode)?;
    file.write_at(&[&record.holder.to_le_bytes()[..], &record.token.to_le_bytes()[..]].concat(), 0)?;
    if syncs { file.sync() } else { Ok(()) }
}

/// Clients that acquire, hold for a while, and release.
struct Contenders;

impl Workload<Event> for Contenders {
    fn name(&self) -> &'static str {
        "contenders"
    }

    fn plan(&self, shape: &Shape, draws: &mut Stream) -> Vec<Vec<PlannedOp>> {
        let rounds = |draws: &mut Stream| {
            let times = (0..shape.duration_ns / (20 * shape.pace_ns)).map(|round| round * 20 * shape.pace_ns);
            times.map(|at| PlannedOp { not_before_ns: at, op: draws.below(150_000_000).into() }).collect()
        };
        (0..shape.clients).map(|_| rounds(draws)).collect()
    }

    fn client(&self, client: Client<Event>, ops: Vec<PlannedOp>) -> ClientProcess {
        Box::pin(async move {
            let mut arrivals = network::bind(PORT);
            for op in ops {
                if !client.wait_for_turn(&op).await {
                    return;
                }
                let id = client.begin();
                let token = acquire(&client, &mut arrivals).await;
                client.emit(Event::Acquired { client: client.index });
                world::sleep(Duration::from_nanos(op.op.as_u64().expect("planned as a number"))).await;
                client.emit(Event::Releasing { client: client.index });
                while ask(&client, &mut arrivals, b'r', token).await != Some(false) {}
                client.end(id, OpKind::Write, OpOutcome::Ok);
            }
        })
    }
}

/// Tries with ever newer tokens, so that an earlier try that arrives late is an old one.
async fn acquire(client: &Client<Event>, arrivals: &mut network::Receiver) -> u64 {
    loop {
        let token = world::now_ns();
        if ask(client, arrivals, b'a', token).await == Some(true) {
            return token;
        }
        world::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether the server says that this client holds the lock under this token; `None` without an answer.
async fn ask(client: &Client<Event>, arrivals: &mut network::Receiver, what: u8, token: u64) -> Option<bool> {
    let message = [&[what][..], &token.to_le_bytes()[..]].concat();
    network::send(client.servers[0], PORT, message.clone());
    let deadline = world::now_ns() + 30_000_000;
    while let Ok(arrival) = world::timeout_at_ns(deadline, arrivals.recv()).await {
        if let Arrival::Packet(Packet { bytes, .. }) = arrival
            && let Some(answer) = bytes.strip_prefix(&message[..])
        {
            return Some(answer == [1]);
        }
    }
    None
}

struct MutualExclusion {
    holder: Option<u32>,
}

impl Oracle<Event> for MutualExclusion {
    fn property(&self) -> &'static str {
        "mutual-exclusion"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        match event.event {
            Event::Acquired { client } => {
                judge.evaluated(true);
                if let Some(holder) = self.holder {
                    let message = format!("client {client} got the lock while client {holder} held it");
                    judge.violated(event.at_ns, None, message);
                }
                self.holder = Some(client);
            }
            Event::Releasing { client } if self.holder == Some(client) => self.holder = None,
            Event::Releasing { .. } => {}
        }
    }

    fn finish(&mut self, _: u64, _: &mut Judge<'_>) {}
}

pub fn simulation(syncs: bool) -> Simulation<Event> {
    let spec = Spec::quiet("lock", 1, 10)
        .with_workload("contenders", [2, 5], [10, 10])
        .with_faults("crash", [0, 3], [20, 200])
        .with_faults("power-loss", [1, 4], [1, 30])
        .with_faults("partition", [0, 3], [50, 500])
        .with_faults("loss", [0, 2], [100, 1000]);
    simulation_of(spec, syncs)
}

pub fn simulation_of(spec: Spec, syncs: bool) -> Simulation<Event> {
    Simulation::new(spec, move || Lock { syncs }).workload(Contenders)
}

pub fn main() {
    let correct = simulation(true).sweep(0, Until::Seeds(30));
    correct.assert_clean();
    println!("{} seeds, {} locks taken and released, no violation", correct.seeds_run, correct.acknowledged);

    let forgetful = simulation(false).sweep(0, Until::Seeds(30));
    let found = forgetful.failed.first().expect("a server that forgets its grants is found out");
    let violation = &found.report.violations[0];
    println!("without the sync, seed {}: {}: {}", found.report.seed, violation.property, violation.message);
}
