//! A subject that does what its spec is called: a rolling digest over a few hundred events, and every way to go wrong.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use buggify::{Kind, Simulator, Site, assert_reachable, assert_sometimes, buggify};
use harness::Subject;
use serde_json::json;
use sim_runtime::engine::listing::{BugInfo, SpecInfo};
use sim_runtime::engine::record::{Checkpoint, RunRecord, RunRequest, TraceEvent};
use sim_runtime::engine::report::{
    AssertionCount, BuggifyCount, FaultCount, Metrics, Ops, OracleCount, PowerLossReport, RunReport, SCHEMA, Verdict,
    Violation,
};
use sim_runtime::isolate::Limits;

pub fn subject() -> Subject {
    let limits = Limits {
        cpu: Duration::from_secs(1),
        memory_bytes: 512 << 20,
        wall: Duration::from_secs(4),
        ..Limits::default()
    };
    let subject = Subject::new(run, specs, bugs);
    Subject { limits, check_plan, properties, benches: crate::benching::benches, ..subject }
}

fn properties() -> Vec<String> {
    ["durability", "linearizability", "election-safety"].map(str::to_owned).into()
}

/// Name, what it does, properties expected of a calibration.
const SPECS: [(&str, &str, Option<&[&str]>); 20] = [
    ("default", "passes; with a bug it may fail", None),
    ("mixed", "of ten seeds one fails, one is inconclusive, one aborts", None),
    ("mostly", "one seed in a hundred is inconclusive", None),
    ("uncovered", "owes a site that no run reaches", None),
    ("fails", "always fails, with a history of events", None),
    ("doubtful", "is always inconclusive", None),
    ("panics", "panics", None),
    ("aborts", "aborts", None),
    ("overflows", "overflows its stack", None),
    ("spins", "loops for ever", None),
    ("hoards", "allocates without bound", None),
    ("exits", "leaves without a result", None),
    ("stuck", "waits for ever", None),
    ("leaks", "puts an address into its events", None),
    ("leaks-silently", "reports something that its digest does not cover", None),
    ("calibrated", "violates one property in every second run, and another in its wake", Some(&["election-safety"])),
    ("silent", "expects a violation that never comes", Some(&["election-safety"])),
    ("overdone", "violates another property first", Some(&["election-safety"])),
    ("tolerant", "violates another property first, which it tolerates", Some(&["election-safety"])),
    ("noisy", "passes and prints to both streams", None),
];

fn specs() -> Vec<SpecInfo> {
    let spec = |(name, about, calibration): (&str, &str, Option<&[&str]>)| SpecInfo {
        name: name.to_owned(),
        about: about.to_owned(),
        calibration: calibration.map(|expected| expected.iter().map(|property| (*property).to_owned()).collect()),
        tolerates: if name == "tolerant" { vec!["durability".to_owned()] } else { Vec::new() },
    };
    SPECS.into_iter().chain(crate::leaks::SPECS).map(spec).collect()
}

fn bugs() -> Vec<BugInfo> {
    let bug = |(name, family): (&str, &str)| BugInfo {
        name: name.to_owned(),
        family: family.to_owned(),
        spec: "default".to_owned(),
        about: "a bug of the test".to_owned(),
        like: "none in real life".to_owned(),
    };
    [("easy", "durability"), ("hidden", "ordering"), ("foreseen", "ordering")].into_iter().map(bug).collect()
}

/// Events per run: the plan of this subject.
const STEPS: u64 = 500;
const CHECKPOINT_EVENTS: u64 = 64;
/// The event into which `leaks` puts an address.
pub const LEAK_AT: u64 = 300;

fn check_plan(plan: &serde_json::Value) -> Result<(), String> {
    plan["steps"].as_u64().map(|_| ()).ok_or_else(|| "`steps` is not a number".to_owned())
}

fn run(request: &RunRequest) -> RunRecord {
    if crate::leaks::SPECS.iter().any(|(name, ..)| *name == request.spec) {
        return crate::leaks::run(request);
    }
    let counter = Rc::new(Counter::default());
    let _installed = buggify::install(counter.clone());
    visit_sites(request);
    let violations = go_wrong(request);
    let planned = request.plan.as_ref().and_then(|plan| plan["steps"].as_u64());
    let steps = planned.unwrap_or(STEPS);
    let trace = Trace::of(request, steps);
    let inconclusive = match request.spec.as_str() {
        "doubtful" => true,
        "mixed" => request.seed % 10 == 5,
        "mostly" => request.seed % 100 == 5,
        _ => false,
    };
    let verdict = match (violations.is_empty(), inconclusive) {
        (false, _) => Verdict::Fail,
        (true, true) => Verdict::Inconclusive,
        (true, false) => Verdict::Pass,
    };
    let last = steps.saturating_sub(1);
    let events = match request.window {
        Some((from, to)) => trace.events.iter().filter(|event| (from..to).contains(&event.number)).cloned().collect(),
        None if verdict == Verdict::Fail => {
            trace.events.iter().filter(|event| event.number + 60 > last).cloned().collect()
        }
        None => Vec::new(),
    };
    RunRecord {
        report: report(request, &trace, &counter, verdict, violations),
        plan: json!({ "steps": steps }),
        summary: vec!["topology: 3 servers, 2 clients".to_owned(), "a line without a label".to_owned()],
        checkpoints: trace.checkpoints,
        events,
        history: Vec::new(),
        look: None,
        log: Vec::new(),
    }
}

fn report(
    request: &RunRequest,
    trace: &Trace,
    counter: &Counter,
    verdict: Verdict,
    violations: Vec<Violation>,
) -> RunReport {
    let steps = u64::try_from(trace.events.len()).unwrap();
    let leak = if request.spec == "leaks-silently" { u64::from(std::process::id()) } else { 0 };
    let mut power_loss = PowerLossReport { lost_then_served: request.seed % 2, ..PowerLossReport::default() };
    power_loss.shapes.holes = 2;
    power_loss.moments.in_sync = 2;
    let mut metrics = Metrics { elections: 2, rpcs: 1234, bytes_sent: 3_420_000, ..Metrics::default() };
    metrics.write_latency_us.max = 1500;
    metrics.syncs_per_commit.insert("log".to_owned(), 1.25);
    RunReport {
        schema: SCHEMA,
        seed: request.seed,
        spec: request.spec.clone(),
        verdict,
        violations,
        doubts: if verdict == Verdict::Inconclusive { vec!["too few steps".to_owned()] } else { Vec::new() },
        digest: Some(format!("{:032x}", trace.digest)),
        events: Some(steps),
        sim_time_ns: Some(steps * 1_000_000 + leak),
        wall_time_ms: 0,
        cpu_time_ms: 0,
        memory_peak_kib: 0,
        ops: Some(Ops { attempted: 100, ok: 95, failed: 2, unknown: 3 }),
        faults: Some(BTreeMap::from([("power-loss".to_owned(), FaultCount { injected: 2, noticed: 1 })])),
        assertions: Some(counter.assertions()),
        buggify: Some(counter.fault_points()),
        oracles: Some(vec![OracleCount { property: "durability".to_owned(), evaluated: 40, nontrivial: 3 }]),
        power_loss: Some(power_loss),
        metrics: Some(metrics),
        artifact: None,
    }
}

fn visit_sites(request: &RunRequest) {
    assert_reachable!("every run starts");
    assert_sometimes!(request.seed % 7 == 3, "a seed leaves a remainder of three");
    assert_sometimes!(request.seed == u64::MAX - 1, "no sweep comes here", owed_by = "uncovered");
    let _ = buggify!(at "subject.pause");
}

fn go_wrong(request: &RunRequest) -> Vec<Violation> {
    let violation = |property: &str| Violation {
        property: property.to_owned(),
        message: format!("seed {} broke it", request.seed),
        at_ns: Some((STEPS - 10) * 1_000_000),
        node: Some("node-2".to_owned()),
    };
    let bug = match (request.bug.as_deref(), request.seed) {
        // What shows it is a loss of power in these seeds; where there is none, the code inside the product.
        (Some("easy"), 4..10) if request.ablate.iter().any(|family| family == "power-loss") => None,
        (Some("easy"), 20..30) => Some(violation("linearizability")),
        (Some("easy"), 4..) => Some(violation("durability")),
        (Some("foreseen"), 1..) => Some(violation("always:aspen::log: the author knew")),
        _ => None,
    };
    if let Some(bug) = bug {
        return vec![bug];
    }
    match (request.spec.as_str(), request.seed % 10) {
        ("fails", _) => vec![violation("durability"), violation("linearizability")],
        ("mixed", 3) => vec![violation("durability")],
        ("mixed", 7) | ("aborts", _) => std::process::abort(),
        ("calibrated", seed) if seed % 2 == 1 => vec![violation("election-safety"), violation("durability")],
        ("overdone" | "tolerant", 1) => vec![violation("election-safety")],
        ("overdone" | "tolerant", 3) => vec![violation("durability"), violation("election-safety")],
        ("panics", _) => panic!("invariant of seed {} broken", request.seed),
        ("overflows", _) => unreachable!("{}", recurse(0)),
        ("spins", _) => loop {
            std::hint::spin_loop();
        },
        ("hoards", _) => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(std::hint::black_box(vec![1u8; 8 << 20]));
            }
        }
        ("exits", _) => std::process::exit(0),
        ("stuck", _) => {
            std::thread::sleep(Duration::from_secs(600));
            Vec::new()
        }
        ("noisy", _) => {
            println!("noise on stdout");
            eprintln!("noise on stderr");
            Vec::new()
        }
        _ => Vec::new(),
    }
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    recurse(depth + 1) + frame[1]
}

struct Trace {
    digest: u128,
    checkpoints: Vec<Checkpoint>,
    events: Vec<TraceEvent>,
}

impl Trace {
    fn of(request: &RunRequest, steps: u64) -> Trace {
        let mut trace = Trace { digest: u128::from(request.seed), checkpoints: Vec::new(), events: Vec::new() };
        for number in 0..steps {
            let heap = Box::new(0u8);
            let leak = match request.spec.as_str() {
                "leaks" if number == LEAK_AT => format!(" at {:p}", &raw const *heap),
                _ => String::new(),
            };
            let text = format!("step {} of seed {}{leak}", number, request.seed);
            for byte in text.bytes() {
                trace.digest =
                    (trace.digest ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
            }
            trace.events.push(TraceEvent {
                number,
                at_ns: number * 1_000_000,
                node: format!("node-{}", number % 3),
                class: "poll".to_owned(),
                text,
                cause: number.checked_sub(7),
            });
            if (number + 1).is_multiple_of(CHECKPOINT_EVENTS) {
                let half = |shift: u32| u64::try_from(trace.digest >> shift & u128::from(u64::MAX)).unwrap();
                trace.checkpoints.push(Checkpoint { events: number + 1, digest: (half(64), half(0)) });
            }
        }
        trace
    }
}

/// Counts visits, fires nothing.
#[derive(Default)]
struct Counter {
    visits: RefCell<BTreeMap<String, (u64, u64)>>,
}

impl Counter {
    fn count(&self, site: &Site) -> (u64, u64) {
        self.visits.borrow().get(&site.id()).copied().unwrap_or_default()
    }

    fn assertions(&self) -> Vec<AssertionCount> {
        let sites = buggify::catalogue().iter().filter(|site| site.kind != Kind::Buggify);
        let counted = |site: &&'static Site| {
            let (hits, passes) = self.count(site);
            AssertionCount {
                id: site.id(),
                kind: site.kind.name().to_owned(),
                file: site.file.to_owned(),
                line: site.line,
                hits,
                passes,
            }
        };
        sites.map(counted).collect()
    }

    fn fault_points(&self) -> Vec<BuggifyCount> {
        let sites = buggify::catalogue().iter().filter(|site| site.kind == Kind::Buggify);
        sites.map(|site| BuggifyCount { id: site.id(), live: true, visits: self.count(site).0, fired: 0 }).collect()
    }
}

impl Simulator for Counter {
    fn visit(&self, site: &'static Site, holds: bool, _details: Option<String>) {
        let mut visits = self.visits.borrow_mut();
        let count = visits.entry(site.id()).or_default();
        count.0 += 1;
        count.1 += u64::from(holds);
    }

    fn fire(&self, site: &'static Site, _probability: Option<f64>) -> bool {
        self.visit(site, false, None);
        false
    }
}
