//! `live` (feature `live`): the plan of a seed, carried out on real `aspen-node` processes and judged by the same oracles.
//!
//! The plan is that of the spec `live`, drawn as for a simulation: the same operations, the same faults. What an operating
//! system can do of it is done; time is the monotonic clock. A seed repeats the plan, not the run.
//!
//! - [`cluster`]: the processes; [`namespaces`]: a network of their own, where that is permitted
//! - [`chaos`]: faults, carried out; [`clients`]: the clients, and the record of what they were told
//! - [`judge`]: the verdict
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "this is the real world")]

pub mod chaos;
pub mod clients;
pub mod cluster;
pub mod judge;
pub mod namespaces;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use sim_runtime::engine::Plan;
use sim_runtime::engine::report::{Ops, RunReport};
use tokio::task::LocalSet;
use workloads::event::Event;

use crate::arguments::LiveArguments;
use crate::{Exit, UsageError, command, summary};
use chaos::Chaos;
use clients::Record;
use cluster::Cluster;
use namespaces::Namespaces;

/// The spec that plans are drawn from.
const SPEC: &str = "live";
/// Bound on convergence after the faults ended, and on the clients' last operations.
const CALM: Duration = Duration::from_secs(30);
/// Bound on the last words of all workloads, which take seconds.
const CHECK: Duration = Duration::from_secs(60);

/// Runs what was asked for; nothing is built.
pub fn execute(arguments: &LiveArguments) -> Result<Exit, UsageError> {
    check_binary(&arguments.node_bin, arguments.bug.as_deref())?;
    // Some bugs are of clients, and those are here. The nodes know the name, so this build does unless it is older.
    let _ = aspen::planted::enable(arguments.bug.as_deref());
    if !arguments.in_namespace && namespaces::permitted() {
        return namespaces::enter();
    }
    let directory = arguments.artifacts.join(format!("live-{}", arguments.seed));
    let unwritable = |error: std::io::Error| {
        UsageError::new(format!("{}: {error}; name another place with --artifacts", directory.display()))
    };
    if directory.exists() {
        fs::remove_dir_all(&directory).map_err(unwritable)?;
    }
    fs::create_dir_all(&directory).map_err(unwritable)?;
    let directory = directory.canonicalize().map_err(unwritable)?;
    let plan = plan(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| UsageError::new(format!("no runtime: {error}")))?;
    let (report, by_workload) = LocalSet::new().block_on(&runtime, run(arguments, &plan, &directory))?;
    match &report.artifact {
        None => drop(fs::remove_dir_all(&directory)),
        Some(_) => write_down(&directory, &plan).map_err(unwritable)?,
    }
    show(arguments, &plan, &report, &by_workload)?;
    Ok(report.verdict.into())
}

/// The plan of the seed, for as many nodes and as long as asked.
fn plan(arguments: &LiveArguments) -> Result<Plan, UsageError> {
    let mut spec = workloads::specs::spec(SPEC).ok_or_else(|| UsageError::new("this build has no spec `live`"))?;
    let ms = u64::try_from(arguments.time.as_millis()).unwrap_or(u64::MAX);
    spec.servers = vec![arguments.nodes];
    spec.duration_ms = [ms, ms];
    // Faults keep their density.
    for family in spec.faults.values_mut() {
        family.count = family.count.map(|count| (count * ms).div_ceil(PLANNED_MS));
    }
    Ok(workloads::specs::simulation(spec).plan(arguments.seed))
}

/// The duration that the counts of the spec are meant for.
const PLANNED_MS: u64 = 20_000;

/// The binary runs, and has the planted bugs if one is asked for.
fn check_binary(binary: &Path, bug: Option<&str>) -> Result<(), UsageError> {
    let mut command = std::process::Command::new(binary);
    command.args(["config", "--dev"]);
    if let Some(bug) = bug {
        command.env(PLANTED_VARIABLE, bug);
    }
    let output = command.output().map_err(|error| {
        let advice = "build it with `cargo build --release -p aspen --features production --bins`";
        UsageError::new(format!("--node-bin {}: {error}; {advice}", binary.display()))
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(UsageError::new(format!("--node-bin {} does not run: {said}", binary.display())));
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match bug {
        Some(bug) if !said.contains(&format!("the planted bug {bug} is on")) => {
            let advice = "build it with `--features production,planted`, in a target directory of its own";
            Err(UsageError::new(format!("--bug {bug}: {} has no such planted bug; {advice}", binary.display())))
        }
        _ => Ok(()),
    }
}

/// Which planted bug a node switches on, in a build that has them.
pub(crate) const PLANTED_VARIABLE: &str = "PLANTED_BUG";

async fn run(
    arguments: &LiveArguments,
    plan: &Plan,
    directory: &Path,
) -> Result<(RunReport, BTreeMap<String, Ops>), UsageError> {
    let network = if arguments.in_namespace {
        let built = Namespaces::build(plan.servers);
        Some(built.map_err(|error| UsageError::new(format!("the network namespaces cannot be built: {error}")))?)
    } else {
        None
    };
    let cluster = match Cluster::form(arguments, plan.servers, directory, network).await {
        Ok(cluster) => Rc::new(cluster),
        Err(reason) => {
            let artifact = Some(directory.display().to_string());
            let report = RunReport { artifact, ..judge::not_formed(plan, &reason) };
            return Ok((report, BTreeMap::new()));
        }
    };
    let record = Record::begin(plan.duration_ns);
    let mut chaos = Chaos::new(&cluster);
    let clients = clients::start(&cluster, &record, plan).await?;
    chaos.unleash(plan, &record).await;
    chaos.calm().await;
    record.emit(Event::Calm);
    if tokio::time::timeout(CALM, clients).await.is_err() {
        cluster.blame("convergence", "clients were still waiting 30 s after the faults had ended".to_owned(), &record);
    }
    let converged = cluster.converged(CALM).await;
    if let Err(reason) = &converged {
        cluster.blame("convergence", reason.clone(), &record);
    }
    record.emit(Event::Converged { result: converged.clone() });
    if converged.is_ok() {
        if tokio::time::timeout(CHECK, clients::check(&cluster, &record, plan)).await.is_err() {
            let message =
                format!("the last reads and writes were not done within {CHECK:?}, though all nodes were ready");
            cluster.blame("convergence", message, &record);
        }
        judge::compare_states(&cluster, &record).await;
    }
    cluster.stop_all(&record).await;
    judge::read_logs(&cluster, &record);
    let mut report = judge::report(&cluster, &record, plan, chaos.counts());
    if report.verdict != sim_runtime::engine::report::Verdict::Pass {
        report.artifact = Some(directory.display().to_string());
        let lines: Vec<String> = record.history();
        fs::write(directory.join("history.jsonl"), lines.join("\n"))
            .map_err(|error| UsageError::new(format!("the history cannot be written: {error}")))?;
    }
    Ok((report, record.ops_by_workload(plan)))
}

fn write_down(directory: &Path, plan: &Plan) -> std::io::Result<()> {
    fs::write(directory.join("plan.json"), serde_json::to_vec_pretty(plan)?)
}

fn show(
    arguments: &LiveArguments,
    plan: &Plan,
    report: &RunReport,
    by_workload: &BTreeMap<String, Ops>,
) -> Result<(), UsageError> {
    if arguments.json {
        return command::print_json(report);
    }
    summary::print(&summary::live::render(
        plan,
        report,
        by_workload,
        arguments.in_namespace,
        arguments.bug.as_deref(),
    ))?;
    Ok(())
}
