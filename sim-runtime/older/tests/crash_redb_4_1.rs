//! The crash test of redb, pointed at redb 4.1.0: it finds the bug that 4.2.0 fixed, a panic on reopening after a power loss
//! that took back the growth of the file but not the header that speaks of it.
//!
//! That it does is the proof that the same test, passing on the release that aspen uses, means something.
#[path = "../../tests/crash_rig/mod.rs"]
mod crash_rig;
#[path = "../../tests/crash_rig/redb_engine.rs"]
mod redb_engine;

use std::io;

use crash_rig::{Plan, judge, record};
use redb_engine::Redb;
use sim_runtime::disk::{Disk, DiskConfig, OpenMode, SimFile};

/// redb 4.1 locks no ranges, so a plain file will do.
#[derive(Debug)]
pub struct Backend(SimFile);

impl Backend {
    pub fn open(path: &str, mode: OpenMode) -> io::Result<Backend> {
        Disk::current().open(path, mode).map(Backend)
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = self.0.read_at(out, offset)?;
        if read == out.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(data, offset)
    }
}

/// Runs with other transactions until the first panic; each point with this many random subsets.
const SUBSETS: u64 = 4;
const RUNS_MAX: u64 = 40;

#[test]
fn the_lost_growth_of_redb_4_1_is_found() {
    let (mut points_tried, mut images) = (0, 0);
    for seed in 1..=RUNS_MAX {
        let points = record::<Redb<false>>(seed, 120, DiskConfig::default());
        let plan = Plan { seed, subsets: SUBSETS, exhaust_max: 0, double_every: 0 };
        let findings = judge::<Redb<false>>(&points, &plan);
        points_tried += findings.points;
        images += findings.images;
        if let Some(failure) = findings.failures.first() {
            println!("found after {points_tried} points and {images} images, in run {seed}: {failure}");
            assert!(failure.contains("panicked"), "another failure than the known one");
            return;
        }
    }
    panic!("not found in {points_tried} points and {images} images");
}
