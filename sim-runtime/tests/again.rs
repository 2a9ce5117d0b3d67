//! The same run again, in one process: replayed from its plan, verified, made small, explained. The lock service of the
//! examples without its sync is what fails; a server that shows an address is what is not deterministic.

use std::time::Duration;

use sim_runtime::engine::shrink::Size;
use sim_runtime::engine::{
    Client, ClientProcess, Exit, OpKind, OpOutcome, PlannedOp, Process, Server, Shape, Simulation, Spec, System, Until,
    Workload,
};
use sim_runtime::world::draws::Stream;
use sim_runtime::world::network;

#[path = "../examples/lock.rs"]
#[expect(dead_code, reason = "the example's main is not called here")]
mod lock;

const PORT: u16 = 1;

#[test]
fn a_failing_run_replays_explains_itself_and_becomes_small() {
    let broken = lock::simulation(false);
    let sweep = broken.sweep(0, Until::Seeds(30));
    let record = sweep.failed.first().expect("30 seeds suffice");

    let replayed = broken.replay(&record.planned());
    assert_eq!(replayed.report.digest, record.report.digest);

    let text = record.explain();
    for part in ["violates mutual-exclusion", "what led there:", "what happened last:", "got the lock while"] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }

    let small = broken.shrink(record, Duration::from_secs(20)).expect("it fails again");
    let (before, after) = (Size::of(&record.planned(), &[]), Size::of(&small.plan, &[]));
    assert!(after.operations * 10 < before.operations && after.faults < before.faults, "{before:?} to {after:?}");
    assert_eq!(broken.replay(&small.plan).report.violations[0].property, "mutual-exclusion");
}

#[test]
fn a_run_that_passes_is_not_made_small() {
    let correct = lock::simulation(true);
    assert_eq!(correct.shrink(&correct.seed(1), Duration::from_secs(1)), None);
}

#[test]
fn what_is_deterministic_is_verified() {
    let record = lock::simulation(true).verify(7).unwrap_or_else(|difference| panic!("{difference}"));
    assert_eq!(record.report.digest, lock::simulation(true).seed(7).report.digest);
}

#[test]
fn the_first_event_that_shows_an_address_is_named() {
    let spec = Spec::quiet("leak", 1, 2).with_workload("asking", [1, 1], [10, 10]);
    let leaking = Simulation::new(spec, || Leak).workload(Asking);
    let difference = leaking.verify(1).expect_err("its answers are addresses");
    let (left, right) = (difference.left.as_ref().expect("it sent"), difference.right.as_ref().expect("it sent"));
    assert_eq!((left.class.as_str(), left.node.as_str()), ("send", "server-0"), "{difference}");
    assert_ne!(left.text, right.text);
    assert!(difference.to_string().contains("the first differing event is #"), "{difference}");
}

/// Answers with the address of a thing on its heap.
struct Leak;

impl System for Leak {
    type Event = ();

    fn server(&self, server: Server<()>) -> Process {
        Box::pin(async move {
            let mut port = network::bind(PORT);
            server.serving();
            loop {
                let network::Event::Packet(packet) = port.recv().await else {
                    return Exit::Failed("a client is gone".to_owned());
                };
                let thing = Box::new([0u8; 96]);
                network::send(packet.from, PORT, thing.as_ptr().addr().to_le_bytes().to_vec());
            }
        })
    }
}

struct Asking;

impl Workload<()> for Asking {
    fn name(&self) -> &'static str {
        "asking"
    }

    fn plan(&self, _: &Shape, _: &mut Stream) -> Vec<Vec<PlannedOp>> {
        vec![(0..5).map(|nth| PlannedOp { not_before_ns: nth * 100_000_000, op: nth.into() }).collect()]
    }

    fn client(&self, client: Client<()>, ops: Vec<PlannedOp>) -> ClientProcess {
        Box::pin(async move {
            let mut port = network::bind(PORT);
            for op in ops {
                client.wait_for_turn(&op).await;
                let id = client.begin();
                network::send(client.servers[0], PORT, vec![0]);
                port.recv().await;
                client.end(id, OpKind::Read, OpOutcome::Ok);
            }
        })
    }
}
