//! What the engine asks of any system once all faults are over, whatever its own oracles look at: that it serves again,
//! and that nobody waits for ever. The system is one server that answers, and can be told to fail at it.

use std::time::Duration;

use sim_runtime::engine::record::{RunRecord, RunRequest};
use sim_runtime::engine::report::Verdict;
use sim_runtime::engine::{
    Client, ClientProcess, Cluster, Exit, OpKind, OpOutcome, Outside, PlannedOp, Process, Server, Shape, Simulation,
    Spec, System, Workload,
};
use sim_runtime::isolate::in_process;
use sim_runtime::world::draws::Stream;
use sim_runtime::world::network::{self, Event};
use sim_runtime::world::{self, sleep};

const PORT: u16 = 1;

#[derive(Clone, Copy, PartialEq)]
enum Defect {
    None,
    /// The second request is never answered, nor any after it.
    Deaf,
    /// After a crash it does not come back.
    RefusesToStart,
    /// It never says that it serves.
    Silent,
    Panics,
    /// It says by itself that it has not recovered.
    NotConverged,
}

struct Answering(Defect);

impl System for Answering {
    type Event = ();

    fn server(&self, server: Server<()>) -> Process {
        let defect = self.0;
        Box::pin(async move {
            if server.boot > 1 && defect == Defect::RefusesToStart {
                return Exit::Failed("my record is damaged".to_owned());
            }
            let mut port = network::bind(PORT);
            if defect != Defect::Silent {
                server.serving();
            }
            let mut answered = 0;
            loop {
                let Event::Packet(packet) = port.recv().await else { continue };
                assert!(defect != Defect::Panics, "a request of {} bytes", packet.bytes.len());
                if answered > 0 && defect == Defect::Deaf {
                    std::future::pending::<()>().await;
                }
                answered += 1;
                network::send(packet.from, PORT, packet.bytes);
            }
        })
    }

    fn converge<'a>(&'a self, cluster: &'a Cluster) -> Outside<'a, Result<(), String>> {
        match self.0 {
            Defect::NotConverged => Box::pin(async { Err("two leaders".to_owned()) }),
            _ => Default.converge(cluster),
        }
    }
}

/// For what a system does by default.
struct Default;

impl System for Default {
    type Event = ();

    fn server(&self, _: Server<()>) -> Process {
        unreachable!("it is never booted")
    }
}

/// Asks `tries` times and then says that it does not know; 0 for a client that waits for ever.
struct Asking {
    tries: u32,
}

impl Workload<()> for Asking {
    fn name(&self) -> &'static str {
        "asking"
    }

    fn plan(&self, shape: &Shape, _: &mut Stream) -> Vec<Vec<PlannedOp>> {
        let ops = (0..10).map(|nth| PlannedOp { not_before_ns: nth * 400_000_000, op: nth.into() });
        vec![ops.collect(); shape.clients as usize]
    }

    fn client(&self, client: Client<()>, ops: Vec<PlannedOp>) -> ClientProcess {
        let tries = self.tries;
        Box::pin(async move {
            let mut port = network::bind(PORT);
            for op in ops {
                if !client.wait_for_turn(&op).await {
                    return;
                }
                let id = client.begin();
                let mut outcome = OpOutcome::Unknown;
                let mut tried = 0;
                while tries == 0 || tried < tries {
                    tried += 1;
                    network::send(client.servers[0], PORT, vec![1]);
                    let answer = world::timeout(Duration::from_millis(50), port.recv()).await;
                    if matches!(answer, Ok(Event::Packet(_))) {
                        outcome = OpOutcome::Ok;
                        break;
                    }
                    sleep(Duration::from_millis(50)).await;
                }
                client.end(id, OpKind::Read, outcome);
            }
        })
    }
}

fn run(defect: Defect, tries: u32) -> RunRecord {
    let spec = Spec::quiet("recovery", 1, 5).with_workload("asking", [2, 2], [10, 10]).with_faults(
        "crash",
        [1, 1],
        [100, 100],
    );
    let simulation = Simulation::new(spec, move || Answering(defect)).workload(Asking { tries });
    in_process(|| simulation.run(&RunRequest { seed: 1, ..RunRequest::default() }))
}

fn first(record: &RunRecord) -> (&str, &str) {
    let violation = record.report.violations.first().expect("it is found");
    (&violation.property, &violation.message)
}

#[test]
fn a_system_that_recovers_passes() {
    assert_eq!(run(Defect::None, 0).report.verdict, Verdict::Pass);
}

#[test]
fn a_client_that_waits_all_through_the_calm_phase_is_a_hang() {
    let record = run(Defect::Deaf, 0);
    let (property, message) = first(&record);
    assert_eq!(property, "hang");
    assert!(message.starts_with("30 s after the faults ended client-0 still waits"), "{message}");
    assert!(message.contains("server-0#2 task `main`"), "{message}");
}

#[test]
fn a_client_that_gives_up_is_none() {
    assert_eq!(run(Defect::Deaf, 2).report.verdict, Verdict::Pass);
}

#[test]
fn a_server_that_does_not_come_back_is_a_violation_although_its_clients_give_up() {
    let record = run(Defect::RefusesToStart, 2);
    let (property, message) = first(&record);
    assert_eq!(property, "convergence");
    assert!(message.contains("server-0") && message.contains("my record is damaged"), "{message}");
}

#[test]
fn a_system_that_never_says_that_it_serves_is_believed_to() {
    assert_eq!(run(Defect::Silent, 2).report.verdict, Verdict::Pass);
}

#[test]
fn what_a_system_says_of_its_recovery_counts() {
    assert_eq!(first(&run(Defect::NotConverged, 2)), ("convergence", "two leaders"));
}

#[test]
fn a_panic_names_its_place_and_task() {
    let record = run(Defect::Panics, 2);
    let (property, message) = first(&record);
    assert_eq!(property, "panic");
    assert!(message.contains("a request of 1 bytes (sim-runtime/tests/recovery.rs:"), "{message}");
    assert!(message.contains("task `main`"), "{message}");
    assert_eq!(record.report.violations[0].node.as_deref(), Some("server-0"));
}

#[test]
#[should_panic(expected = "fault family \"los\" is not one of")]
fn a_spec_built_in_code_is_checked_too() {
    let spec = Spec::quiet("recovery", 1, 5).with_faults("los", [1, 1], [10, 10]);
    drop(Simulation::new(spec, || Answering(Defect::None)));
}
