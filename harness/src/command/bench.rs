//! `bench`: fixed work against the clock.
//!
//! The work is the same in every run of a seed, and its digest says so; only the time differs. Of several runs the median
//! counts. The benches run on a fresh thread of this process; `default` runs seeds as `run` does, each in a process.

use std::time::{Duration, Instant};

use serde::Serialize;
use sim_runtime::engine::bench::Bench;
use sim_runtime::engine::record::RunRequest;
use sim_runtime::engine::report::SCHEMA;
use sim_runtime::isolate::{Runner, in_process, peak_memory_kib, thread_cpu_time};

use crate::arguments::BenchArguments;
use crate::tally::to_f64;
use crate::{Exit, Subject, UsageError, summary};

/// The bench that runs a spec.
const DEFAULT: &str = "default";

/// One run of a bench.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Timed {
    wall: Duration,
    cpu: Duration,
    sim: Duration,
    events: u64,
    messages: u64,
    commits: u64,
    digest: String,
    memory_kib: u64,
}

/// The JSON of `bench`.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    schema: u32,
    pub bench: String,
    pub seed: u64,
    pub runs: usize,
    pub wall_s: f64,
    pub cpu_s: f64,
    pub sim_s: f64,
    pub sim_s_per_wall_s: f64,
    pub sim_s_per_cpu_s: f64,
    pub events: u64,
    pub messages: u64,
    pub commits: u64,
    pub messages_per_cpu_s: f64,
    pub commits_per_cpu_s: f64,
    pub memory_peak_kib: u64,
    pub digest: String,
}

pub(super) fn execute(subject: &Subject, arguments: &BenchArguments) -> Result<Exit, UsageError> {
    let benches = (subject.benches)();
    let bench = benches.iter().find(|bench| bench.name == arguments.bench);
    if bench.is_none() && arguments.bench != DEFAULT {
        let names: Vec<&str> = benches.iter().map(|bench| bench.name).chain([DEFAULT]).collect();
        let (name, names) = (&arguments.bench, names.join(", "));
        return Err(UsageError::new(format!("unknown bench `{name}`; there are: {names}")));
    }
    let mut runs = Vec::new();
    for _ in 0..arguments.runs.get() {
        runs.push(match bench {
            Some(bench) => time(*bench, arguments.seed),
            None => time_spec(subject, arguments.seed, arguments.seeds)?,
        });
    }
    let same = runs.windows(2).all(|pair| pair[0].digest == pair[1].digest && pair[0].events == pair[1].events);
    let report = BenchReport::of(arguments, &mut runs);
    if arguments.json {
        super::print_json(&report)?;
    } else {
        summary::print(&summary::bench::render(&report))?;
    }
    if !same {
        eprintln!("the runs differ: this build is not deterministic");
        return Ok(Exit::NotDeterministic);
    }
    Ok(Exit::Pass)
}

fn time(bench: Bench, seed: u64) -> Timed {
    in_process(|| {
        let (started, cpu) = (Instant::now(), thread_cpu_time());
        let figures = (bench.run)(seed);
        let (wall, cpu) = (started.elapsed(), thread_cpu_time() - cpu);
        Timed {
            wall,
            cpu,
            sim: Duration::from_nanos(figures.sim_ns),
            events: figures.events,
            messages: figures.messages,
            commits: figures.commits,
            digest: format!("{:016x}{:016x}", figures.digest.0, figures.digest.1),
            memory_kib: peak_memory_kib(),
        }
    })
}

/// Runs of the default spec, one after the other. The digest is that of all of theirs.
fn time_spec(subject: &Subject, first: u64, seeds: u64) -> Result<Timed, UsageError> {
    subject.spec(DEFAULT)?;
    let mut runner = Runner::new(subject.limits);
    let (mut cpu_us, mut sim_ns, mut events, mut messages, mut commits, mut memory_kib) = (0, 0, 0, 0, 0, 0);
    let mut digests = String::new();
    let started = Instant::now();
    for seed in (0..seeds).map(|nth| first.wrapping_add(nth)) {
        let request = RunRequest { seed, spec: DEFAULT.to_owned(), ..RunRequest::default() };
        let outcome = runner.run(&request);
        cpu_us += outcome.cpu_us;
        memory_kib = memory_kib.max(outcome.memory_kib);
        let report = outcome.into_record(&request).report;
        sim_ns += report.sim_time_ns.unwrap_or(0);
        events += report.events.unwrap_or(0);
        messages += report.metrics.as_ref().map_or(0, |metrics| metrics.rpcs);
        commits += report.ops.map_or(0, |ops| ops.ok);
        digests.push_str(report.digest.as_deref().unwrap_or("none"));
    }
    let wall = started.elapsed();
    let digest = xxhash_rust::xxh3::xxh3_128(digests.as_bytes());
    Ok(Timed {
        wall,
        cpu: Duration::from_micros(cpu_us),
        sim: Duration::from_nanos(sim_ns),
        events,
        messages,
        commits,
        digest: format!("{digest:032x}"),
        memory_kib,
    })
}

impl BenchReport {
    fn of(arguments: &BenchArguments, runs: &mut [Timed]) -> BenchReport {
        runs.sort_by_key(|run| run.cpu);
        let median = &runs[runs.len() / 2];
        let mut walls: Vec<Duration> = runs.iter().map(|run| run.wall).collect();
        walls.sort_unstable();
        let wall = walls[walls.len() / 2].as_secs_f64();
        let (cpu, sim) = (median.cpu.as_secs_f64(), median.sim.as_secs_f64());
        BenchReport {
            schema: SCHEMA,
            bench: arguments.bench.clone(),
            seed: arguments.seed,
            runs: runs.len(),
            wall_s: wall,
            cpu_s: cpu,
            sim_s: sim,
            sim_s_per_wall_s: sim / wall,
            sim_s_per_cpu_s: sim / cpu,
            events: median.events,
            messages: median.messages,
            commits: median.commits,
            messages_per_cpu_s: to_f64(median.messages) / cpu,
            commits_per_cpu_s: to_f64(median.commits) / cpu,
            memory_peak_kib: median.memory_kib,
            digest: median.digest.clone(),
        }
    }
}
