//! Properties of the store over random plans: linearizability, durability across restarts, safety of membership
//! changes. A counterexample is small already when it is reported, and its file goes the way of every other failure:
//! `replay`, `shrink`, `seeds add`.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use harness::artifact::Artifact;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use sim_runtime::engine::{Plan, Spec};
use workloads::property::{Violated, holds, plans};

/// Runs of one plan, each under another key.
const KEYS: u64 = 2;

/// The spec, but of a few seconds: many small plans tell more than few large ones, and shrink faster.
fn short(name: &str) -> Spec {
    let spec = workloads::specs::spec(name).expect("the spec exists");
    Spec { duration_ms: [2000, 4000], servers: vec![3], ..spec }
}

struct Counterexample {
    plan: Plan,
    violated: Box<Violated>,
}

/// Tries `cases` plans of `spec`; how often the oracle of `property` had something to judge, or the smallest plan that
/// violates anything.
fn test(spec: Spec, property: &str, cases: u32, bug: Option<&str>) -> Result<u64, Box<Counterexample>> {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: SHRINK_TRIES_MAX, ..Config::default() };
    // Always the same cases: what is random here is drawn from seeds, and a sweep tries others.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let judged = Cell::new(0);
    let last: RefCell<Option<Box<Violated>>> = RefCell::default();
    let result =
        TestRunner::new_with_rng(config, rng).run(&plans(spec), |plan| match holds(&plan, KEYS, property, bug) {
            Ok(more) => {
                judged.set(judged.get() + more);
                Ok(())
            }
            Err(violated) => {
                let first = &violated.record.report.violations[0];
                let reason = format!("{}: {}", first.property, first.message);
                last.replace(Some(violated));
                Err(TestCaseError::fail(reason))
            }
        });
    match result {
        Ok(()) => Ok(judged.get()),
        Err(TestError::Fail(_, plan)) => {
            let violated = last.take().expect("a failing case leaves its run");
            Err(Box::new(Counterexample { plan, violated }))
        }
        Err(TestError::Abort(reason)) => panic!("the strategy gave up: {reason}"),
    }
}

fn must_hold(spec: &str, property: &str) {
    match test(short(spec), property, 4, None) {
        Ok(judged) => assert!(judged > 0, "{property} had nothing to judge in any case"),
        Err(found) => {
            let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("property-{property}.json"));
            found.write(&file);
            let first = &found.violated.record.report.violations[0];
            panic!(
                "{}: {}\n{} operations and {} faults are enough; see it with\n  cargo run -p harness -- replay {file}\nand keep it with `shrink` and `seeds add`",
                first.property,
                first.message,
                operations(&found.plan),
                found.plan.faults.len(),
                file = file.display(),
            );
        }
    }
}

impl Counterexample {
    fn write(&self, file: &Path) {
        let artifact = Artifact::new(&self.violated.request, &self.violated.record, "").expect("this build has a name");
        artifact.write(file).expect("the file can be written");
    }
}

fn operations(plan: &Plan) -> usize {
    plan.clients.iter().map(|client| client.ops.len()).sum()
}

#[test]
fn histories_are_linearizable_whatever_is_cut_off() {
    must_hold("partitions", "linearizability");
}

#[test]
fn what_was_acknowledged_survives_restarts_and_power_losses() {
    must_hold("power", "durability");
}

#[test]
fn membership_changes_are_safe() {
    must_hold("membership", "membership");
}

#[test]
fn a_counterexample_becomes_a_scenario_that_fails_with_the_bug_and_passes_without() {
    let bug = "append-acked-early";
    let Err(found) = test(short("power"), "durability", 10, Some(bug)) else {
        panic!("appends that are acknowledged before their sync were never noticed")
    };
    let size = (operations(&found.plan), found.plan.faults.len());
    assert!(size.0 <= 50 && size.1 <= 3, "{size:?} operations and faults");

    let directory = tempfile::tempdir().expect("a temporary directory");
    found.write(&directory.path().join("found.json"));
    let shrunk = call(directory.path(), "shrink found.json --budget 10s");
    assert_eq!(shrunk.status.code(), Some(0), "{}", String::from_utf8_lossy(&shrunk.stderr));
    let add = call(directory.path(), "seeds add found.small.json --name kept --dir seeds --why guarded");
    assert_eq!(add.status.code(), Some(0), "{}", String::from_utf8_lossy(&add.stderr));
    assert_eq!(call(directory.path(), "seeds verify --dir seeds").status.code(), Some(0));
    let broken = call(directory.path(), &format!("seeds verify --dir seeds --bug {bug}"));
    assert_eq!(broken.status.code(), Some(1), "{}", String::from_utf8_lossy(&broken.stdout));
}

fn call(directory: &Path, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_harness"))
        .args(line.split(' '))
        .current_dir(directory)
        .output()
        .expect("the program starts")
}

/// Bound on the smaller plans that are tried for one counterexample.
const SHRINK_TRIES_MAX: u32 = 40;
