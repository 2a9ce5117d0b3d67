//! Many runs in one process: for tests of one's own, without the command line.
//!
//! Each seed runs alone, on a fresh thread under a process-wide lock. The command line is stricter: there every seed
//! has a process of its own, so that an abort is that seed's verdict and nothing static leaks from one to the next.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::record::RunRecord;
use super::report::Verdict;
use super::simulation::Simulation;

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// So many seeds were run.
    Seeds(u64),
    /// So much time has passed.
    Time(Duration),
    /// Every *sometimes* and *reachable* site that owes itself to the spec was reached; at most so many seeds.
    Covered { seeds_max: u64 },
}

/// What came of many runs.
#[derive(Debug, Default)]
pub struct Sweep {
    pub seeds_run: u64,
    /// Acknowledged operations of all runs.
    pub acknowledged: u64,
    /// Runs with a violation, in order of their seeds.
    pub failed: Vec<RunRecord>,
    pub inconclusive: Vec<RunRecord>,
    /// Ids of owed sites that no run reached.
    pub unreached: Vec<String>,
}

impl Sweep {
    /// That no run failed, and at most 2 % were inconclusive.
    ///
    /// # Panics
    /// With the [explanation](RunRecord::explain) of the first run that failed, or the doubts of the first inconclusive
    /// one.
    pub fn assert_clean(&self) {
        if let Some(record) = self.failed.first() {
            panic!("{} of {} seeds fail, the first:\n{}", self.failed.len(), self.seeds_run, record.explain());
        }
        let inconclusive = u64::try_from(self.inconclusive.len()).unwrap_or(u64::MAX);
        if let Some(record) = self.inconclusive.first().filter(|_| inconclusive * 50 > self.seeds_run) {
            let (seed, why) = (record.report.seed, record.report.doubts.join("; "));
            panic!("{inconclusive} of {} runs are inconclusive, the first is seed {seed}: {why}", self.seeds_run);
        }
    }
}

impl<E: Clone + 'static> Simulation<E> {
    /// Runs the seeds from `start` on.
    pub fn sweep(&self, start: u64, until: Until) -> Sweep {
        let begun = Instant::now();
        let mut sweep = Sweep::default();
        let mut unreached = owed(self.spec_name());
        for seed in start.. {
            let done = match until {
                Until::Seeds(seeds) => sweep.seeds_run >= seeds,
                Until::Time(time) => begun.elapsed() >= time,
                Until::Covered { seeds_max } => unreached.is_empty() || sweep.seeds_run >= seeds_max,
            };
            if done {
                break;
            }
            let record = self.seed(seed);
            sweep.seeds_run += 1;
            sweep.acknowledged += record.report.ops.map_or(0, |ops| ops.ok);
            for reached in record.report.assertions.iter().flatten().filter(|count| count.passes > 0) {
                unreached.remove(&reached.id);
            }
            match record.report.verdict {
                Verdict::Pass => {}
                Verdict::Fail => sweep.failed.push(record),
                Verdict::Inconclusive => sweep.inconclusive.push(record),
            }
        }
        sweep.unreached = unreached.into_iter().collect();
        sweep
    }
}

/// Ids of the sites that a spec must reach.
pub fn owed(spec: &str) -> BTreeSet<String> {
    let sites = buggify::catalogue().iter();
    sites
        .filter(|site| matches!(site.kind, buggify::Kind::Sometimes | buggify::Kind::Reachable))
        .filter(|site| site.is_owed_by(spec))
        .map(|site| site.id())
        .collect()
}
