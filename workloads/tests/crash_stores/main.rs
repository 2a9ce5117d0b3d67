//! The stores of one node through many power losses and crashes, without Raft around them: a driver does what openraft
//! would do to them, and checks after each death that what was acknowledged is there and what is there is right.
//!
//! A second host that never dies applies the same entries: it knows the state hash at every index, and its snapshots are
//! what the node is sent when it falls behind.

mod node;
mod others;
mod strict;
mod truth;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aspen::conformance::storage_suite;
use aspen::store::StoreConfig;
use sim_runtime::adapters::sqlite;
use sim_runtime::disk::{Disk, DiskConfig, ErrorRates};
use sim_runtime::isolate::in_process;
use sim_runtime::world::{self, Cause, HostStatus, Purpose, World, WorldConfig};
use workloads::env::SimEnv;

use crate::node::Node;
use crate::others::others;
use crate::strict::Strict;
use crate::truth::{Mailbox, Shared, lock};

fn lives(seed: u64, boots: u64) -> BTreeMap<String, u64> {
    in_process(move || {
        let _vfs = sqlite::install();
        let seen = Rc::new(RefCell::new(BTreeMap::new()));
        let _installed = buggify::install(Rc::new(Strict { visits: Cell::new(0), seen: seen.clone() }));
        let truth = Shared::default();
        let world = World::new(WorldConfig::seeded(seed));
        let done = world.run(async {
            let mailbox: Arc<Mutex<Mailbox>> = Arc::default();
            let (host, other) = (world::add_host("node"), world::add_host("others"));
            let (told, asked) = (truth.clone(), mailbox.clone());
            world::boot(other, move || others(told, asked));
            let disk = Disk::of(host);
            let mut chance = world::stream(Purpose("deaths"), 0);
            let mut errors_met = 0;
            for boot in 1..=boots {
                let cause = if chance.below(4) == 0 { Cause::Crash } else { Cause::PowerLoss };
                let skip = if chance.below(4) == 0 { chance.below(60) } else { chance.below(4000) };
                // A boot that ended earlier leaves its death behind: it is not for the next one.
                let death = move || match world::running(host) {
                    Some(running) if u64::from(running.boot) == boot => world::kill(host, cause),
                    _ => {}
                };
                disk.at_op(skip, chance.below(1_000_000) as u32, death);
                // Every third boot is on a disk that errs now and then.
                let ppm = if chance.below(3) == 0 { 300 } else { 0 };
                let errors =
                    ErrorRates { read_ppm: ppm, write_ppm: ppm, sync_ppm: 4 * ppm, name_ppm: ppm, full_ppm: ppm };
                disk.set_config(DiskConfig { errors, ..DiskConfig::default() });
                let (told, asked) = (truth.clone(), mailbox.clone());
                world::boot(host, move || Node::boot(told, asked));
                while world::running(host).is_some() {
                    world::sleep(Duration::from_micros(500)).await;
                }
                let status = world::host_status(host);
                assert!(status == HostStatus::Killed(cause) || (ppm > 0 && status == HostStatus::Exited), "{status:?}");
                errors_met += u64::from(status == HostStatus::Exited);
                // Nobody waits for an answer any more; wait until none comes.
                while mailbox.lock().unwrap().wanted.is_some() {
                    world::sleep(Duration::from_micros(500)).await;
                }
                world::sleep(Duration::from_millis(100)).await;
                mailbox.lock().unwrap().snapshot = None;
            }
            errors_met
        });
        let errors_met = done.unwrap_or_else(|halt| panic!("seed {seed}: {halt}"));
        let truth = lock(&truth);
        assert!(truth.boots > boots / 2, "seed {seed}: {} boots got through recovery", truth.boots);
        let mut seen = seen.take();
        for (what, count) in [("boots", truth.boots), ("installs", truth.installs), ("snapshots", truth.snapshots)] {
            seen.insert(what.into(), count);
        }
        seen.insert("ended by a disk error".into(), errors_met);
        seen.insert("truncations".into(), truth.truncations);
        seen.insert("committed".into(), truth.committed.len() as u64);
        seen
    })
}

#[test]
fn the_stores_live_through_many_deaths() {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let seeds = std::env::var("CRASH_SEEDS").map_or(4, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        for (what, count) in lives(seed, 40) {
            *seen.entry(what).or_default() += count;
        }
    }
    for (what, count) in &seen {
        eprintln!("{count:8} {what}");
    }
    for what in ["installs", "snapshots", "truncations", "ended by a disk error"] {
        assert!(seen[what] > 10, "{what}: {}", seen[what]);
    }
}

#[test]
fn the_stores_pass_openrafts_suite_in_the_simulator() {
    in_process(|| {
        let _vfs = sqlite::install();
        let seen = Rc::default();
        let _installed = buggify::install(Rc::new(Strict { visits: Cell::new(0), seen }));
        let world = World::new(WorldConfig::seeded(1));
        let done = world.run(async {
            let host = world::add_host("node");
            let passed = Arc::new(Mutex::new(None));
            let result = passed.clone();
            world::boot(host, move || async move {
                let env = SimEnv::new(None);
                let suite = storage_suite(&env, Path::new("/suite").to_owned(), StoreConfig::default()).await;
                *result.lock().unwrap() = Some(suite.map_err(|error| error.to_string()));
            });
            while world::running(host).is_some() {
                world::sleep(Duration::from_millis(10)).await;
            }
            passed.lock().unwrap().take()
        });
        assert_eq!(done.unwrap_or_else(|halt| panic!("{halt}")), Some(Ok(())));
    });
}
