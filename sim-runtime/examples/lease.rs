//! A lease under test: a monitor lets one of two replicas serve at a time, by clocks that do not agree.
//!
//! The monitor (server 0) grants a lease for 300 ms of its own clock; the holder counts by its own, from the moment it
//! asked. The property: once somebody has served under a newer grant, nobody serves under an older one. It holds as long
//! as the holder stops early enough for the worst clock; one that counts the whole 300 ms, or looks at the time before
//! its write to disk and not after it, is found out.
//!
//! `cargo run -p sim-runtime --example lease`

use std::time::{Duration, Instant};

use sim_runtime::disk::{Disk, OpenMode};
use sim_runtime::engine::{
    Client, ClientProcess, Exit, Judge, OpKind, OpOutcome, Oracle, PlannedOp, Process, Server, Shape, Simulation, Spec,
    Stamped, System, Until, Workload,
};
use sim_runtime::world::draws::Stream;
use sim_runtime::world::network::{self, Event as Arrival, Packet};
use sim_runtime::world::{self, HostId, section::Lane};

const PORT: u16 = 7;
const LEASE: Duration = Duration::from_millis(300);
/// Clocks are up to 10 % off, so two of them up to 22 % apart.
const SAFE: Duration = Duration::from_millis(230);

/// How a replica decides that it may serve.
#[derive(Clone, Copy, PartialEq)]
pub enum Care {
    Careful,
    /// Believes that its clock and the monitor's agree.
    CountsItAll,
    /// Looks at the clock only before it writes.
    LooksOnce,
}

/// A replica served under this grant.
#[derive(Clone, Debug)]
pub struct Served {
    grant: u64,
}

struct Leased(Care);

impl System for Leased {
    type Event = Served;

    fn server(&self, server: Server<Served>) -> Process {
        let care = self.0;
        match server.index {
            0 => Box::pin(monitor(server)),
            _ => Box::pin(replica(server, care)),
        }
    }

    fn oracles(&self) -> Vec<Box<dyn Oracle<Served>>> {
        vec![Box::new(OneHolder { newest: 0 })]
    }
}

/// Answers `[grant held, when asked]` with the same moment and the grant that is held from now on.
async fn monitor(server: Server<Served>) -> Exit {
    let lane = Lane::new("grants");
    let Ok(mut grant) = lane.run(load).await else { return Exit::Failed("cannot read the last grant".into()) };
    // A lease from before a crash may still run.
    let (mut holder, mut free_at) = (None, Instant::now() + LEASE);
    let mut arrivals = network::bind(PORT);
    server.serving();
    loop {
        let Some((from, [held, asked])) = received(arrivals.recv().await) else { continue };
        if holder != Some(from) || held != grant {
            if Instant::now() < free_at {
                continue;
            }
            grant += 1;
            if lane.run(move || store("/grant", grant)).await.is_err() {
                return Exit::Failed("cannot write the grant".into());
            }
            holder = Some(from);
        }
        free_at = Instant::now() + LEASE;
        network::send(from, PORT, message([grant, asked]));
    }
}

async fn replica(server: Server<Served>, care: Care) -> Exit {
    let lane = Lane::new("served");
    let mut arrivals = network::bind(PORT);
    server.serving();
    let booted = Instant::now();
    let (mut grant, mut until, mut ask_at) = (0, booted, booted);
    let lasts = if care == Care::CountsItAll { LEASE } else { SAFE };
    loop {
        let arrival = world::timeout(Duration::from_millis(40), arrivals.recv()).await;
        if Instant::now() >= ask_at {
            ask_at = Instant::now() + Duration::from_millis(40);
            let asked = u64::try_from(booted.elapsed().as_nanos()).expect("a run is short");
            network::send(server.hosts[0], PORT, message([grant, asked]));
        }
        match arrival.ok().and_then(received) {
            Some((from, [granted, asked])) if from == server.hosts[0] => {
                (grant, until) = (granted, booted + Duration::from_nanos(asked) + lasts);
            }
            Some((client, request)) if Instant::now() < until => {
                if lane.run(move || store("/served", request[0])).await.is_err() {
                    return Exit::Failed("cannot write".into());
                }
                if care == Care::LooksOnce || Instant::now() < until {
                    server.emit(Served { grant });
                    network::send(client, PORT, message(request));
                }
            }
            _ => {}
        }
    }
}

fn message(words: [u64; 2]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn received(arrival: Arrival) -> Option<(HostId, [u64; 2])> {
    let Arrival::Packet(Packet { from, bytes, .. }) = arrival else { return None };
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    Some((from, [word(0), word(8)]))
}

fn load() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    open("/grant")?.read_at(&mut bytes, 0)?;
    Ok(u64::from_le_bytes(bytes))
}

fn store(path: &str, word: u64) -> std::io::Result<()> {
    let file = open(path)?;
    file.write_at(&word.to_le_bytes(), 0)?;
    file.sync()
}

fn open(path: &str) -> std::io::Result<sim_runtime::disk::SimFile> {
    let disk = Disk::current();
    let file = disk.open(path, OpenMode { create: true, create_new: false, truncate: false })?;
    disk.sync_dir("/")?;
    Ok(file)
}

/// Clients that ask both replicas; whoever holds the lease answers.
struct Askers;

impl Workload<Served> for Askers {
    fn name(&self) -> &'static str {
        "askers"
    }

    fn plan(&self, shape: &Shape, draws: &mut Stream) -> Vec<Vec<PlannedOp>> {
        let mut ops = || {
            let times = (0..shape.duration_ns / shape.pace_ns).map(|nth| nth * shape.pace_ns);
            times.map(|at| PlannedOp { not_before_ns: at + draws.below(shape.pace_ns), op: ().into() }).collect()
        };
        (0..shape.clients).map(|_| ops()).collect()
    }

    fn client(&self, client: Client<Served>, ops: Vec<PlannedOp>) -> ClientProcess {
        Box::pin(async move {
            let mut arrivals = network::bind(PORT);
            for op in ops {
                if !client.wait_for_turn(&op).await {
                    return;
                }
                let id = client.begin();
                for replica in &client.servers[1..] {
                    network::send(*replica, PORT, message([id, 0]));
                }
                let mut outcome = OpOutcome::Unknown;
                let deadline = world::now_ns() + 30_000_000;
                while let Ok(arrival) = world::timeout_at_ns(deadline, arrivals.recv()).await {
                    if received(arrival).is_some_and(|(_, answer)| answer[0] == id) {
                        outcome = OpOutcome::Ok;
                        break;
                    }
                }
                client.end(id, OpKind::Read, outcome);
            }
        })
    }
}

struct OneHolder {
    newest: u64,
}

impl Oracle<Served> for OneHolder {
    fn property(&self) -> &'static str {
        "one-holder"
    }

    fn on_event(&mut self, event: &Stamped<Served>, judge: &mut Judge<'_>) {
        let grant = event.event.grant;
        judge.evaluated(true);
        if grant < self.newest {
            let message = format!("grant {grant} was served under after grant {}", self.newest);
            judge.violated(event.at_ns, Some(world::host_name(event.host)), message);
        }
        self.newest = self.newest.max(grant);
    }

    fn finish(&mut self, _: u64, _: &mut Judge<'_>) {}
}

pub fn simulation(care: Care) -> Simulation<Served> {
    let mut spec = Spec::quiet("lease", 3, 15)
        .with_workload("askers", [2, 4], [5, 15])
        .with_faults("crash", [0, 3], [20, 500])
        .with_faults("partition", [1, 4], [50, 1000])
        .with_faults("pause", [0, 2], [50, 800])
        .with_faults("latency", [0, 1], [100, 500]);
    spec.world.clock_rate_ppm = [0, 100_000];
    spec.world.disk_stall_ppm = [0, 2_000];
    spec.world.disk_stall_ms = [10, 500];
    spec.conclusive.acked_min = 100;
    Simulation::new(spec, move || Leased(care)).workload(Askers)
}

pub fn main() {
    let careful = simulation(Care::Careful).sweep(0, Until::Seeds(50));
    careful.assert_clean();
    println!("{} seeds, {} requests served, no violation", careful.seeds_run, careful.acknowledged);

    for (care, name) in [(Care::CountsItAll, "counts it all"), (Care::LooksOnce, "looks once")] {
        let broken = simulation(care);
        let sweep = broken.sweep(0, Until::Seeds(50));
        let found = sweep.failed.first().expect("it is found out");
        let small = broken.shrink(found, Duration::from_secs(5)).expect("it fails again");
        println!("\na replica that {name} fails in {} of 50 seeds; made small:", sweep.failed.len());
        print!("{}", broken.replay(&small.plan).explain());
    }
}
