//! Runs of a real world with one leak of the machine each, for `verify` to find.
//!
//! All of them record [`BEFORE`] equal events first, in one poll, so the event that differs is known.

#![allow(unsafe_code)] // Leaks on purpose: entropy past the guards, memory that nobody wrote.

use std::collections::HashMap;
use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::time::Duration;

use serde_json::json;
use sim_runtime::disk::{Disk, OpenMode};
use sim_runtime::engine::record::{RunRecord, RunRequest};
use sim_runtime::engine::report::{RunReport, SCHEMA, Verdict};
use sim_runtime::escape::{self, Answers};
use sim_runtime::world::{self, Class, Purpose, World, WorldConfig, clock, network};

/// Names of the specs and what leaks.
pub const SPECS: [(&str, &str, Option<&[&str]>); 5] = [
    ("leaks-nothing", "a world without a leak", None),
    ("leaks-map-order", "iterates a map with keys of the machine's entropy", None),
    ("leaks-address", "draws with an address as its key", None),
    ("leaks-padding", "sends a record with a byte of padding that nobody wrote", None),
    ("leaks-a-byte", "writes a byte more into a file in one of two processes", None),
];

/// Events before the leak: the first poll, and those that the run records.
pub const BEFORE: u64 = 1_500;

pub fn run(request: &RunRequest) -> RunRecord {
    let config =
        WorldConfig { window: request.window, checkpoint_every_log2: 6, ring: 0, ..WorldConfig::seeded(request.seed) };
    let world = World::new(config);
    let spec = request.spec.clone();
    let _answers = escape::install(Answers {
        entropy: |bytes| bytes.fill(1),
        monotonic_ns: || clock::monotonic_ns(world::current().host),
        wall_ns: || 0,
        sleep: |_| {},
    });
    let played = world.run(async move {
        for step in 1..BEFORE {
            world::record(Class::Client, &[step], b"the same on both sides");
        }
        leak(&spec).await;
        for step in 0..BEFORE {
            world::record(Class::Client, &[step], b"whatever it was before");
        }
    });
    played.expect("the run reaches its end");
    record(request, &world)
}

async fn leak(spec: &str) {
    match spec {
        "leaks-nothing" => {}
        "leaks-map-order" => {
            let mut map = HashMap::with_hasher(RealKeys::new());
            map.extend((0..1_000u64).map(|key| (key, ())));
            for key in map.keys() {
                world::record(Class::Observe, &[*key], b"");
            }
        }
        "leaks-address" => {
            let object = Box::new(0u8);
            let address = u64::try_from((&raw const *object).addr()).expect("64 bits");
            let delay = world::draw(Purpose("delay"), address, 0) % 1_000_000;
            world::sleep(Duration::from_nanos(1 + delay)).await;
        }
        "leaks-padding" => {
            let host = world::add_host("peer");
            network::send(host, 1, padded(5, 6));
        }
        "leaks-a-byte" => {
            let mode = OpenMode { create: true, create_new: false, truncate: false };
            let file = Disk::current().open("/file", mode).expect("an empty disk");
            // Only one of the two sides finds this around it.
            let length = 100 + usize::from(std::env::var_os("SIM_PADDING").is_some());
            file.write_at(&vec![7; length], 0).expect("a disk without faults");
        }
        other => unreachable!("{other}"),
    }
}

/// What std's maps have when nobody answers `getrandom`.
struct RealKeys(u64);

impl RealKeys {
    fn new() -> RealKeys {
        let _suspended = escape::suspend();
        let mut bytes = [0u8; 8];
        // SAFETY: the buffer is ours and has this length.
        let length = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        assert_eq!(length, 8);
        RealKeys(u64::from_le_bytes(bytes))
    }
}

impl BuildHasher for RealKeys {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

#[repr(C)]
struct Padded {
    tag: u32,
    /// Behind it the compiler leaves a byte.
    flags: [u8; 3],
    value: u64,
}

/// The bytes of a record as a careless program writes them: memory of the allocator, with what was in it before.
fn padded(tag: u32, value: u64) -> Vec<u8> {
    let record = Box::<Padded>::new_uninit();
    let record = Box::into_raw(record).cast::<Padded>();
    // SAFETY: a fresh allocation of this type; each field is written. The byte between them is read through a volatile
    // pointer, as the kernel would read it.
    unsafe {
        (&raw mut (*record).tag).write(tag);
        (&raw mut (*record).flags).write([1, 2, 3]);
        (&raw mut (*record).value).write(value);
        let bytes = (0..size_of::<Padded>()).map(|at| record.cast::<u8>().add(at).read_volatile()).collect();
        drop(Box::from_raw(record));
        bytes
    }
}

fn record(request: &RunRequest, world: &World) -> RunRecord {
    let (high, low) = world.digest();
    RunRecord {
        report: RunReport {
            schema: SCHEMA,
            seed: request.seed,
            spec: request.spec.clone(),
            verdict: Verdict::Pass,
            violations: Vec::new(),
            doubts: Vec::new(),
            digest: Some(format!("{high:016x}{low:016x}")),
            events: Some(world.events()),
            sim_time_ns: None,
            wall_time_ms: 0,
            cpu_time_ms: 0,
            memory_peak_kib: 0,
            ops: None,
            faults: None,
            assertions: None,
            buggify: None,
            oracles: None,
            power_loss: None,
            metrics: None,
            artifact: None,
        },
        plan: json!({ "steps": 0 }),
        summary: Vec::new(),
        checkpoints: world.checkpoints(),
        events: world.trace(),
        history: Vec::new(),
        look: None,
        log: Vec::new(),
    }
}
