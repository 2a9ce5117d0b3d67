//! What each order of scheduling finds: a planted bug that needs three things to happen in one order, one of which is that
//! a ready task starves while messages go to another host and back.
//!
//! A lease is granted to the task `old`, which notes that it owns it without looking again. The lease is released and
//! granted anew: `new` notes that it owns it, `audit` looks who does. The bug is there when
//!
//! 1. `old`, ready since the first grant, runs only after `new`, which is a round trip later,
//! 2. and before the second round trip ends,
//! 3. and `audit`, woken after `new`, runs before it.
//!
//! `cargo test -p sim-runtime --test world_orders -- --nocapture` prints the seeds to detection.

use std::cell::Cell;
use std::rc::Rc;

use sim_runtime::sync::oneshot;
use sim_runtime::world::draws::Dice;
use sim_runtime::world::{self, HostId, Order, World, WorldConfig, network};

const SEEDS: u64 = 2_000;
const NOBODY: u8 = 0;
const OLD: u8 = 1;
const NEW: u8 = 2;

async fn echo() {
    let mut inbox = network::bind(1);
    loop {
        if let network::Event::Packet(packet) = inbox.recv().await {
            network::send(packet.from, 1, packet.bytes);
        }
    }
}

/// Whether the bug happened.
async fn lease(server: HostId, found: Rc<Cell<bool>>) {
    let mut inbox = network::bind(1);
    let (owner, audited) = (Rc::new(Cell::new(NOBODY)), Rc::new(Cell::new(NOBODY)));
    let note = |name: &'static str, who: u8| {
        let (grant, granted) = oneshot::channel();
        let owner = owner.clone();
        world::spawn_local(name, async move {
            let _ = granted.await;
            owner.set(who);
        })
        .detach();
        grant
    };
    let (old, new) = (note("old", OLD), note("new", NEW));
    let (audit, asked) = oneshot::channel();
    let (seen, owned) = (audited.clone(), owner.clone());
    world::spawn_local("audit", async move {
        let _ = asked.await;
        seen.set(owned.get() + 1);
    })
    .detach();
    // All of them wait for their turn.
    world::sleep(std::time::Duration::from_millis(5)).await;

    let _ = old.send(());
    network::send(server, 1, b"release".to_vec());
    inbox.recv().await;
    let _ = new.send(());
    let _ = audit.send(());
    network::send(server, 1, b"acquire".to_vec());
    inbox.recv().await;
    found.set(owner.get() == OLD && audited.get() == NOBODY + 1);
}

fn finds(config: WorldConfig) -> bool {
    let found = Rc::new(Cell::new(false));
    let seen = found.clone();
    World::new(config)
        .run(async move {
            let (client, server) = (world::add_host("client"), world::add_host("server"));
            world::boot(server, echo);
            world::boot(client, move || lease(server, seen));
            while world::running(client).is_some() {
                world::sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .unwrap();
    found.get()
}

/// The order that a seed draws.
type OrderOf = fn(u64) -> Order;

/// How many of the seeds find it, and the first.
fn detection(order: OrderOf, holds: bool) -> (usize, Option<u64>) {
    let hold_probability_ppm = if holds { 100_000 } else { 0 };
    let config = |seed| WorldConfig {
        order: order(seed),
        pct_polls: 40,
        hold_probability_ppm,
        hold_ns_max: 1_000_000,
        ..WorldConfig::seeded(seed)
    };
    let found: Vec<u64> = (0..SEEDS).filter(|&seed| finds(config(seed))).collect();
    (found.len(), found.first().copied())
}

#[test]
fn a_bug_of_depth_three_that_needs_starvation() {
    let orders: [(&str, OrderOf); 3] = [
        ("uniform", |_| Order::Uniform),
        ("pct, depth 1 to 5", |seed| Order::Pct { depth: 1 + u32::try_from(Dice::new(seed).below(5)).unwrap() }),
        ("fifo", |_| Order::Fifo),
    ];
    let mut with_holds = Vec::new();
    for (name, order) in orders {
        for holds in [false, true] {
            let (count, first) = detection(order, holds);
            let first = first.map_or("never".to_owned(), |seed| format!("first by seed {seed}"));
            println!("{name:18} holds {holds:5}: found by {count:2} of {SEEDS} seeds, {first}");
            if holds {
                with_holds.push(count);
            } else {
                assert_eq!(count, 0, "{name}: without holds no virtual time passes while a task is ready");
            }
        }
    }
    let [uniform, pct, fifo] = with_holds[..] else { unreachable!() };
    assert!(uniform >= 10 && pct >= 10, "both random orders find it: {uniform}, {pct}");
    assert!(fifo < uniform / 2 && fifo < pct / 2, "the order of waking hides one of the three: {fifo}");
}
