//! How much a run may use.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bounds of one run's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// CPU time; beyond it the run was an endless loop. The kernel counts whole seconds, so this is rounded up.
    pub cpu: Duration,
    /// Address space in bytes; an allocation beyond it fails, which ends the run as out of memory.
    pub memory_bytes: u64,
    /// Stack of the simulation's thread in bytes.
    pub stack_bytes: usize,
    /// Wall time. A far backstop: the verdict is inconclusive, so that a loaded machine changes none.
    pub wall: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            cpu: Duration::from_secs(120),
            memory_bytes: 4 << 30,
            stack_bytes: STACK_BYTES,
            wall: Duration::from_secs(1800),
        }
    }
}

/// Unoptimised async code nests deeply; the pages are only used when touched.
pub(super) const STACK_BYTES: usize = 64 << 20;

/// After the first signal the process is killed for good.
const CPU_GRACE_S: u64 = 2;

impl Limits {
    /// Applies the bounds that the kernel enforces to this process, and forbids core dumps.
    pub(super) fn apply(&self) -> io::Result<()> {
        let seconds = self.cpu.as_secs() + u64::from(self.cpu.subsec_nanos() > 0);
        set(libc::RLIMIT_CORE, 0, 0)?;
        set(libc::RLIMIT_AS, self.memory_bytes, self.memory_bytes)?;
        set(libc::RLIMIT_CPU, seconds, seconds + CPU_GRACE_S)
    }
}

fn set(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointers are to a struct of ours.
    unsafe {
        if libc::getrlimit(resource, &raw mut limit) != 0 {
            return Err(io::Error::last_os_error());
        }
        // A stricter bound from outside stays.
        limit.rlim_max = limit.rlim_max.min(hard);
        limit.rlim_cur = limit.rlim_cur.min(soft).min(limit.rlim_max);
        if libc::setrlimit(resource, &raw const limit) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
