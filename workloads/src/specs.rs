//! The specs by name, and one run of one of them.

use serde::Deserialize;
use sim_runtime::engine::listing::{BugInfo, SpecInfo};
use sim_runtime::engine::record::{RunRecord, RunRequest};
use sim_runtime::engine::{Plan, Simulation, Spec};

use crate::admin::{Admin, AdminOp};
use crate::append_list::{AppendList, ListTxn};
use crate::bank::{Bank, BankOp};
use crate::cluster::AspenCluster;
use crate::config::knobs;
use crate::event::Event;
use crate::kv::Kv;
use crate::kv::alphabet::KvOp;
use crate::lock::{Lock, LockOp};
use crate::membership::{Membership, OperatorOp};
use crate::session_storm::{SessionStorm, StormOp};

/// Name and text of every spec.
const TEXTS: &[(&str, &str)] = &[
    ("default", include_str!("../specs/default.toml")),
    ("quiet", include_str!("../specs/quiet.toml")),
    ("power", include_str!("../specs/power.toml")),
    ("disk", include_str!("../specs/disk.toml")),
    ("network", include_str!("../specs/network.toml")),
    ("beyond-quorum", include_str!("../specs/beyond-quorum.toml")),
    ("old-image", include_str!("../specs/old-image.toml")),
    ("lying-sync", include_str!("../specs/lying-sync.toml")),
    ("dirty-pages", include_str!("../specs/dirty-pages.toml")),
    ("partitions", include_str!("../specs/partitions.toml")),
    ("byzantine", include_str!("../specs/byzantine.toml")),
    ("byzantine-duplicate", include_str!("../specs/byzantine-duplicate.toml")),
    ("byzantine-entries", include_str!("../specs/byzantine-entries.toml")),
    ("byzantine-term", include_str!("../specs/byzantine-term.toml")),
    ("membership", include_str!("../specs/membership.toml")),
    ("mixed", include_str!("../specs/mixed.toml")),
    ("soak", include_str!("../specs/soak.toml")),
    ("large", include_str!("../specs/large.toml")),
    ("clocks", include_str!("../specs/clocks.toml")),
    ("live", include_str!("../specs/live.toml")),
];

/// The spec with this name, if there is one.
pub fn spec(name: &str) -> Option<Spec> {
    let (name, text) = TEXTS.iter().find(|(known, _)| *known == name)?;
    Some(Spec::parse(name, text).expect("a test reads every spec"))
}

/// What can be run, by name.
pub fn specs() -> Vec<SpecInfo> {
    TEXTS
        .iter()
        .filter_map(|(name, _)| spec(name))
        .map(|spec| SpecInfo {
            name: spec.name,
            about: spec.about,
            calibration: (!spec.expects.is_empty()).then_some(spec.expects),
            tolerates: spec.tolerates,
        })
        .collect()
}

/// The planted bugs of this build. Empty unless aspen was built with its feature `planted`.
pub fn bugs() -> Vec<BugInfo> {
    #[cfg(feature = "planted")]
    let bugs = aspen::planted::BUGS
        .iter()
        .map(|bug| BugInfo {
            name: bug.name.to_owned(),
            family: bug.family.to_owned(),
            spec: bug.spec.to_owned(),
            about: bug.about.to_owned(),
            like: bug.like.to_owned(),
        })
        .collect();
    #[cfg(not(feature = "planted"))]
    let bugs = Vec::new();
    bugs
}

/// A simulation of aspen.
pub fn simulation(spec: Spec) -> Simulation<Event> {
    Simulation::new(spec, AspenCluster::new)
        .workload(Kv)
        .workload(Membership)
        .workload(Lock)
        .workload(Bank)
        .workload(AppendList)
        .workload(SessionStorm)
        .workload(Admin)
}

/// Runs one request on this thread.
///
/// # Panics
/// If the request names a spec or a bug that does not exist: the command line checks that first.
pub fn run(request: &RunRequest) -> RunRecord {
    let spec = spec(&request.spec).expect("the spec was checked");
    #[cfg(feature = "planted")]
    assert!(aspen::planted::enable(request.bug.as_deref()), "the bug was checked");
    #[cfg(not(feature = "planted"))]
    assert!(request.bug.is_none(), "this build has no planted bugs");
    simulation(spec).run(request)
}

/// Whether a plan from outside can be run by this build; if not, why.
pub fn check_plan(plan: &serde_json::Value) -> Result<(), String> {
    let plan = Plan::read(plan)?;
    for client in &plan.clients {
        let read = match client.workload.as_str() {
            "kv" => reads_as::<KvOp>,
            "membership" => reads_as::<OperatorOp>,
            "lock" => reads_as::<LockOp>,
            "bank" => reads_as::<BankOp>,
            "append-list" => reads_as::<ListTxn>,
            "session-storm" => reads_as::<StormOp>,
            "admin" => reads_as::<AdminOp>,
            unknown => return Err(format!("the plan names the workload {unknown:?}, which this build does not have")),
        };
        for planned in &client.ops {
            read(&planned.op).map_err(|error| format!("the operation {}: {error}", planned.op))?;
        }
    }
    match plan.knobs.keys().find(|name| !knobs().iter().any(|knob| knob.name == **name)) {
        Some(unknown) => Err(format!("the plan sets the tunable {unknown}, which this build does not have")),
        None => Ok(()),
    }
}

fn reads_as<O: for<'de> Deserialize<'de>>(op: &serde_json::Value) -> Result<(), serde_json::Error> {
    O::deserialize(op).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_of_one_to_seven_voters_change_their_membership() {
        let simulation = simulation(spec("membership").expect("it is one of them"));
        let founders = |seed| {
            let plan = simulation.plan(seed);
            crate::config::founders(plan.servers, |name| plan.knobs[name])
        };
        let drawn: std::collections::BTreeSet<u32> = (0..100).map(founders).collect();
        assert_eq!(drawn, (1..=7).collect());
    }

    #[test]
    fn a_plan_that_was_edited_wrongly_is_refused() {
        let plan = serde_json::to_value(simulation(spec("default").expect("it is one of them")).plan(1)).unwrap();
        assert_eq!(check_plan(&plan), Ok(()));
        let edits: &[(&str, serde_json::Value, &str)] = &[
            ("/servers", 0.into(), "0 servers"),
            ("/servers", 1_000_000.into(), "1000000 servers"),
            ("/version", 9.into(), "version 9"),
            ("/world/network/lateny", 3.into(), "world.network.lateny"),
            ("/faults/0/fault/crash", serde_json::json!({}), "cannot be read"),
            ("/knobs/unheard", 3.into(), "unheard"),
            ("/clients/0/ops/0/extra", true.into(), "clients.0.ops.0.extra"),
        ];
        for (path, value, part) in edits {
            let mut edited = plan.clone();
            let (parent, name) = path.rsplit_once('/').unwrap();
            edited.pointer_mut(parent).unwrap()[name] = value.clone();
            let refused = check_plan(&edited).unwrap_err();
            assert!(refused.contains(part), "{path}: {refused}");
        }
    }

    #[test]
    fn every_spec_can_be_read_and_has_its_name() {
        for (name, text) in TEXTS {
            let spec = Spec::parse(name, text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(spec.name, *name);
            assert!(!spec.about.is_empty());
        }
    }
}
