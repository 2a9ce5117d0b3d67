//! Every fault family of processes, clocks and links is injected when a spec asks for it, felt by its own observable, and
//! absent otherwise. The system is the smallest that feels them all: servers that send each other numbered messages with
//! a checksum, and read their clocks.

use std::collections::BTreeMap;
use std::time::Duration;

use sim_runtime::disk::{Disk, OpKind, OpenMode};
use sim_runtime::engine::faults::{clock as clock_faults, link, process};
use sim_runtime::engine::plan::{Fault, PARTITION_KINDS};
use sim_runtime::engine::record::{RunRecord, RunRequest};
use sim_runtime::engine::report::FaultCount;
use sim_runtime::engine::{Exit, Process, Server, Simulation, Spec, System, run};
use sim_runtime::isolate::in_process;
use sim_runtime::world::network::{self, Event as Arrival};
use sim_runtime::world::section::Lane;
use sim_runtime::world::{self, HostId, clock};

const PORT: u16 = 1;

struct Chatter;

fn sealed(number: u64) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend_from_slice(&(!number).to_le_bytes());
    bytes.resize(200, 0);
    bytes
}

fn is_whole(bytes: &[u8]) -> bool {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    word(0) == !word(8) && bytes[16..].iter().all(|byte| *byte == 0)
}

impl System for Chatter {
    type Event = ();

    fn server(&self, mut server: Server<()>) -> Process {
        Box::pin(async move {
            let asked = server.stop_signal();
            let peers: Vec<HostId> = server.hosts.iter().copied().filter(|host| *host != server.host).collect();
            let host = server.host;
            world::spawn("listen", async move {
                let mut inbox = network::bind(PORT);
                loop {
                    if let Arrival::Packet(packet) = inbox.recv().await
                        && !is_whole(&packet.bytes)
                    {
                        network::damage_found();
                    }
                }
            })
            .detach();
            let mut asked = Box::pin(asked);
            for number in 0.. {
                peers.iter().for_each(|peer| network::send(*peer, PORT, sealed(number)));
                clock::wall_ns(host);
                // Now and then nothing for a while, so that links idle.
                let pause = if number % 50 == 49 { 600 } else { 8 };
                if world::timeout(Duration::from_millis(pause), &mut asked).await.is_ok() {
                    return Exit::Stopped;
                }
            }
            Exit::Stopped
        })
    }

    fn may_be_wiped(&self, _server: u32) -> bool {
        true
    }

    fn wiped(&self, _server: u32, _host: HostId, _boot: u32) {
        run::notice::<()>("wipe");
    }

    fn misbehave(&self, family: &str, strength: u64, on: bool) {
        assert_eq!((family, strength), ("chatter/lie", 0));
        if on {
            run::notice::<()>(family);
        }
    }
}

fn run(spec: Spec, seed: u64) -> RunRecord {
    let simulation = Simulation::new(spec, || Chatter);
    in_process(|| simulation.run(&RunRequest { seed, spec: "chatter".to_owned(), ..RunRequest::default() }))
}

/// The counts of a few runs with one family.
fn counts(family: &str) -> BTreeMap<String, FaultCount> {
    let mut sum: BTreeMap<String, FaultCount> = BTreeMap::new();
    for seed in 0..2 {
        let spec = Spec::quiet("chatter", 3, 8).with_faults(family, [3, 3], [700, 2000]);
        let record = run(spec, seed);
        assert!(record.report.violations.is_empty(), "{family}: {:?}", record.report.violations);
        for (kind, count) in record.report.faults.expect("the run lived") {
            let total = sum.entry(kind).or_default();
            total.injected += count.injected;
            total.noticed += count.noticed;
        }
    }
    sum
}

#[test]
fn every_family_is_injected_and_felt() {
    let families = [process::FAMILIES, clock_faults::FAMILIES, link::FAMILIES, &["chatter/lie"]].concat();
    for family in families {
        let counts = counts(family);
        let count = counts[family];
        assert!(count.injected >= 4, "{family}: {count:?}");
        assert!(count.noticed > 0, "{family} was never felt: {count:?}");
        let others = counts.iter().filter(|(kind, count)| *kind != family && count.injected > 0);
        let others: Vec<_> = others.map(|(kind, _)| kind.as_str()).filter(|kind| !kind.starts_with("disk")).collect();
        assert!(others.is_empty(), "{family} brought {others:?}");
    }
}

#[test]
fn every_shape_of_partition_is_drawn_and_felt() {
    let mut felt: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 0..8 {
        let spec = Spec::quiet("chatter", 5, 8).with_faults("partition", [4, 4], [300, 1500]);
        for (kind, count) in run(spec, seed).report.faults.expect("the run lived") {
            *felt.entry(kind).or_default() += count.noticed;
        }
    }
    for kind in PARTITION_KINDS {
        assert!(felt[*kind] > 0, "{kind} was never felt");
    }
}

#[test]
fn clocks_that_are_off_and_pairs_that_are_far_apart_are_felt() {
    let mut spec = Spec::quiet("chatter", 3, 3);
    spec.world.clock_offset_ms = [5, 500];
    spec.world.clock_rate_ppm = [100, 50_000];
    spec.world.slow_pairs = [1, 1];
    spec.world.slow_pair_us = [5_000, 9_000];
    let faults = run(spec, 3).report.faults.expect("the run lived");
    for (kind, count) in [("clock-offset", 3), ("clock-skew", 3), ("slow-pair", 1)] {
        assert_eq!((faults[kind].injected, faults[kind].noticed), (count, count), "{kind}");
    }
}

#[test]
fn a_quiet_world_has_none() {
    for (kind, count) in run(Spec::quiet("chatter", 4, 5), 1).report.faults.expect("the run lived") {
        assert_eq!((count.injected, count.noticed), (0, 0), "{kind}");
    }
}

#[test]
fn a_loss_of_power_follows_half_of_the_disk_errors() {
    let errors_alone = Spec::quiet("errors", 3, 20).with_faults("disk-error", [4, 4], [700, 2000]);
    let with_losses = errors_alone.clone().with_faults("power-loss", [1, 1], [700, 2000]);
    // Of all that could be.
    let followed = |spec: Spec| {
        let simulation = Simulation::new(spec, || Chatter);
        let (mut followed, mut errors) = (0, 0);
        for seed in 0..50 {
            let plan = simulation.plan(seed);
            let losses: Vec<_> = plan.faults.iter().filter(|planned| planned.fault.family() == "power-loss").collect();
            for error in &plan.faults {
                let Fault::DiskError { op: OpKind::Write | OpKind::Sync, .. } = error.fault else { continue };
                let at = error.when.not_before_ns();
                let soon = at..at + 500_000_000;
                errors += 1;
                followed += u32::from(losses.iter().any(|loss| {
                    soon.contains(&loss.when.not_before_ns()) && loss.fault.target() == error.fault.target()
                }));
            }
        }
        (followed, errors)
    };
    assert_eq!(followed(errors_alone).0, 0, "what is off stays off");
    let (followed, errors) = followed(with_losses);
    assert!(errors > 80 && followed * 100 / errors > 40, "{followed} of {errors}");
}

/// Servers that write a file when they start, and then do nothing.
struct Maker;

impl System for Maker {
    type Event = ();

    fn server(&self, server: Server<()>) -> Process {
        Box::pin(async move {
            let make = move || -> std::io::Result<()> {
                let file = Disk::of(server.host).open("/made", OpenMode::CREATE)?;
                (0..200).try_for_each(|sector| file.write_at(&[1; 512], sector * 512))?;
                file.sync()
            };
            match Lane::new("make").run(make).await {
                Ok(()) => std::future::pending().await,
                Err(error) => Exit::Failed(error.to_string()),
            }
        })
    }
}

#[test]
fn power_is_lost_while_servers_start_for_the_first_time() {
    let losses = |spec: Spec| {
        let simulation = Simulation::new(spec, || Maker);
        let record = in_process(|| simulation.run(&RunRequest { spec: "maker".to_owned(), ..RunRequest::default() }));
        let metrics = record.report.metrics.expect("the run lived");
        (metrics.power_losses, metrics.restarts)
    };
    // Over before any other fault may begin.
    let mut spec = Spec::quiet("maker", 3, 1);
    spec.duration_ms = [900, 900];
    assert_eq!(losses(spec.clone()), (0, 0));
    let (lost, restarts) = losses(spec.with_faults("power-loss-at-start", [6, 6], [1, 50]));
    assert!(lost >= 3 && restarts >= 3, "{lost} losses of power, {restarts} restarts");
}
