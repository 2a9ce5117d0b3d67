//! What a test may do to nodes, links and clocks. Everything lasts until it is undone, or until the end.

use std::time::Duration;

use super::AspenRaftTester;
use super::stage::Stage;
use crate::{byzantine, machines};

impl AspenRaftTester {
    /// Cuts a node off from all other nodes, both ways. Clients still reach it.
    pub fn disconnect(&mut self, node: usize) {
        self.act(move |stage| {
            for other in (0..stage.nodes()).filter(|other| *other != node) {
                cut(stage, node, other);
                cut(stage, other, node);
            }
        });
    }

    /// Heals every link of a node.
    pub fn connect(&mut self, node: usize) {
        self.act(move |stage| {
            for other in (0..stage.nodes()).filter(|other| *other != node) {
                heal(stage, node, other);
                heal(stage, other, node);
            }
        });
    }

    /// Cuts two nodes off from each other.
    pub fn cut_pair(&mut self, a: usize, b: usize) {
        self.act(move |stage| {
            cut(stage, a, b);
            cut(stage, b, a);
        });
    }

    pub fn heal_pair(&mut self, a: usize, b: usize) {
        self.act(move |stage| {
            heal(stage, a, b);
            heal(stage, b, a);
        });
    }

    /// What `from` sends does not reach `to`; the other direction is as it was.
    pub fn cut_one_way(&mut self, from: usize, to: usize) {
        self.act(move |stage| cut(stage, from, to));
    }

    pub fn heal_one_way(&mut self, from: usize, to: usize) {
        self.act(move |stage| heal(stage, from, to));
    }

    /// All links lose a tenth of the messages and duplicate and reorder some, or none of this.
    pub fn set_unreliable(&mut self, unreliable: bool) {
        let ppm = move |ppm: u32| if unreliable { ppm } else { 0 };
        self.act(move |stage| {
            stage.by_hand.nemesis().change_links(|links| {
                links.loss_ppm = ppm(100_000);
                links.duplicate_ppm = ppm(50_000);
                links.reorder_ppm = ppm(100_000);
                links.reorder_ns_max = if unreliable { 30_000_000 } else { 0 };
            });
        });
    }

    /// A message takes between `min` and `max` on its way.
    pub fn set_delay_range(&mut self, min: Duration, max: Duration) {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).expect("a delay of centuries");
        let (least, most) = (ns(min), ns(max));
        assert!(least <= most, "the range of delays {min:?} to {max:?} is empty");
        self.act(move |stage| {
            stage.by_hand.nemesis().change_links(|links| {
                links.latency_ns = least;
                links.jitter_ns = most - least;
            });
        });
    }

    /// This share of all messages is lost, in percent.
    pub fn set_loss(&mut self, percent: u32) {
        self.act(move |stage| {
            stage.by_hand.nemesis().change_links(|links| links.loss_ppm = percent.min(100) * 10_000);
        });
    }

    /// Kills a node's process, which stays down. What it wrote and did not sync survives.
    pub fn crash_node(&mut self, node: usize) {
        self.act(move |stage| {
            stage.host(node);
            stage.by_hand.fleet().crash(node, 0);
        });
    }

    /// Takes the power from a node's machine, which stays down. Returns how many sectors, written but not synced, did not
    /// survive.
    pub fn power_loss(&mut self, node: usize) -> u64 {
        self.act(move |stage| {
            stage.host(node);
            stage.by_hand.fleet().power_loss(node, 0)
        })
    }

    /// Destroys a node's disk; its machine stays down and has no identity until it is added again, with
    /// [`add_learner`](AspenRaftTester::add_learner). That a majority keeps its disks is up to the test.
    pub fn wipe(&mut self, node: usize) {
        self.act(move |stage| erase(stage, node));
    }

    /// Starts a node that is down, and waits until it runs: it has read what is on its disk.
    ///
    /// # Panics
    /// Also if it refuses to run.
    pub fn restart_node(&mut self, node: usize) {
        self.thread.ask(move |stage| {
            stage.host(node);
            stage.by_hand.enter(|| stage.by_hand.fleet().boot(node));
            stage.wait_until("the node runs", |state, stage| {
                assert!(stage.by_hand.fleet().is_up(node), "node {node} refuses to run");
                (state.nodes.contains_key(&node) || state.ids[node].is_none()).then_some(())
            });
        });
    }

    /// Suspends a node's process: messages wait for it, and its clocks go on.
    pub fn pause(&mut self, node: usize) {
        self.act(move |stage| {
            stage.host(node);
            stage.by_hand.nemesis().pause(node);
        });
    }

    pub fn resume(&mut self, node: usize) {
        self.act(move |stage| {
            stage.host(node);
            stage.by_hand.nemesis().resume(node);
        });
    }

    /// Sets how far off a node's clock is: the wall clock in ms, the rate of both clocks in ppm.
    pub fn clock_skew(&mut self, node: usize, offset_ms: i64, rate_ppm: i64) {
        self.act(move |stage| {
            stage.host(node);
            stage.by_hand.nemesis().skew_clock(node, offset_ms * 1_000_000, rate_ppm);
        });
    }

    /// From now on links lie, in one of the ways of [`byzantine::FAMILIES`], to this share of the messages, in percent.
    /// Raft does not promise to survive that: a test that uses it expects a panic.
    pub fn enable_byzantine(&mut self, family: &str, percent: u32) {
        assert!(byzantine::FAMILIES.contains(&family), "{family} is not one of {:?}", byzantine::FAMILIES);
        let family = family.to_owned();
        self.act(move |stage| {
            stage.by_hand.fleet().misbehave(&family, u64::from(percent.min(100)) * 10_000, true);
        });
    }

    /// Does something that takes effect at once.
    pub(super) fn act<T: Send + 'static>(&mut self, action: impl FnOnce(&Stage) -> T + Send + 'static) -> T {
        self.thread.ask(move |stage| stage.drive(async { action(stage) }))
    }
}

fn cut(stage: &Stage, from: usize, to: usize) {
    stage.by_hand.nemesis().cut_link(stage.host(from), stage.host(to));
}

fn heal(stage: &Stage, from: usize, to: usize) {
    stage.by_hand.nemesis().heal_link(stage.host(from), stage.host(to));
}

/// The machine loses its disk and its identity, and nobody counts on it.
pub(super) fn erase(stage: &Stage, node: usize) {
    stage.host(node);
    let number = u32::try_from(node).expect("nodes are numbered by u32");
    if machines::node_on(number).is_some() {
        stage.by_hand.fleet().erase(node, 0);
        stage.by_hand.count_on(number, false);
    }
}
