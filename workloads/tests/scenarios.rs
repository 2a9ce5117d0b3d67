//! Scenarios by hand, where storage matters: what a node has on its disk decides what comes next.
//!
//! Each ends with every oracle having judged the run; what it asserts itself is what it is about.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use workloads::AspenRaftTester;
use workloads::byzantine;

/// A snapshot every five entries, and no log kept behind it.
const SHORT_LOGS: &[(&str, i64)] = &[("raft.snapshot_entries", 5), ("raft.log_keep_entries", 0)];

/// Far more entries than a scenario writes.
const NEVER_BY_ENTRIES: (&str, i64) = ("raft.snapshot_entries", 100_000);

#[test]
fn a_leader_that_restarts_has_what_it_acknowledged() {
    let mut tester = AspenRaftTester::new(3, "leader-restart");
    let leader = tester.check_one_leader();
    tester.write("a", "1").unwrap();
    tester.power_loss(leader);
    let next = tester.check_one_leader();
    assert_ne!(next, leader);
    assert_eq!(tester.read("a").unwrap().as_deref(), Some("1"));
    tester.restart_node(leader);
    tester.wait_for_log_sync();
    tester.end();
}

#[test]
fn all_nodes_lose_power_and_nothing_that_was_acknowledged() {
    let mut tester = AspenRaftTester::new(3, "total-shutdown");
    tester.write_many("key", 20).unwrap();
    for node in 0..3 {
        tester.power_loss(node);
    }
    assert!(tester.read("key-0").is_err(), "nobody is there");
    for node in 0..3 {
        tester.restart_node(node);
    }
    tester.check_one_leader();
    assert_eq!(tester.read("key-19").unwrap().as_deref(), Some("x"));
    tester.end();
}

#[test]
fn a_follower_that_lost_its_disk_comes_back_as_another_node() {
    let mut tester = AspenRaftTester::new(3, "lost-disk");
    let follower = (tester.check_one_leader() + 1) % 3;
    tester.write_many("key", 10).unwrap();
    let before = tester.metrics().ids[follower];
    tester.wipe(follower);
    tester.write("during", "1").unwrap();
    tester.add_learner(follower).unwrap();
    tester.promote_to_voter(follower).unwrap();
    tester.wait_for_log_sync();
    let state = tester.metrics();
    assert_ne!(state.ids[follower], before, "an identity is never used again");
    assert_eq!(state.voters(follower), [BTreeSet::from([0, 1, 2])]);
    tester.end();
}

#[test]
fn a_truncation_reverts_a_membership() {
    let mut tester = AspenRaftTester::new(3, "truncated-membership");
    let old = tester.check_one_leader();
    tester.disconnect(old);
    tester.begin_change(&[old, (old + 1) % 3]);
    tester.wait_until("the old leader has the change in its log", move |state| state.voters(old).len() == 2);
    let new = tester.check_one_leader();
    assert_ne!(new, old);
    tester.write("a", "1").unwrap();
    tester.connect(old);
    tester.wait_for_log_sync();
    assert_eq!(tester.metrics().voters(old), [BTreeSet::from([0, 1, 2])]);
    tester.end();
}

#[test]
fn a_node_that_lags_too_far_is_sent_a_snapshot() {
    let mut tester = AspenRaftTester::with_knobs(3, "lagging", SHORT_LOGS);
    let leader = tester.check_one_leader();
    let lagging = (leader + 1) % 3;
    tester.power_loss(lagging);
    let behind = tester.metrics().last(leader);
    tester.write_many("key", 30).unwrap();
    tester.wait_until("the entries that it lacks are gone", move |state| state.purged(leader) > behind + 5);
    tester.restart_node(lagging);
    tester.wait_for_log_sync();
    assert!(tester.metrics().snapshot(lagging) > behind + 5, "it was sent no entries");
    tester.end();
}

#[test]
fn a_snapshot_replaces_a_tail_that_conflicts() {
    let mut tester = AspenRaftTester::with_knobs(3, "snapshot-over-tail", SHORT_LOGS);
    let old = tester.check_one_leader();
    tester.disconnect(old);
    let committed = tester.metrics().last(old);
    for nth in 0..4 {
        tester.submit(old, &format!("lost-{nth}"), "x");
    }
    tester.wait_until("the old leader has a tail", move |state| state.last(old) == committed + 4);
    let new = tester.check_one_leader();
    tester.write_many("key", 30).unwrap();
    tester.wait_until("entries cannot mend it", move |state| state.purged(new) > committed + 4);
    tester.connect(old);
    tester.wait_for_log_sync();
    assert_eq!(tester.read("lost-3").unwrap(), None);
    tester.end();
}

#[test]
fn a_leader_that_is_not_heard_is_replaced_and_one_that_does_not_hear_steps_down() {
    for (name, deaf) in [("mute-leader", false), ("deaf-leader", true)] {
        let mut tester = AspenRaftTester::new(3, name);
        let old = tester.check_one_leader();
        for other in (0..3).filter(|other| *other != old) {
            let (from, to) = if deaf { (other, old) } else { (old, other) };
            tester.cut_one_way(from, to);
        }
        assert_ne!(tester.check_one_leader(), old);
        tester.write("a", "1").unwrap();
        tester.check_no_split_brain();
        tester.connect(old);
        tester.wait_for_log_sync();
        tester.end();
    }
}

#[test]
fn one_node_after_the_other_fails() {
    let mut tester = AspenRaftTester::new(3, "rolling-failures");
    for node in 0..3 {
        tester.power_loss(node);
        tester.write(&format!("without-{node}"), "x").unwrap();
        tester.restart_node(node);
        tester.wait_for_log_sync();
    }
    for node in 0..3 {
        assert_eq!(tester.read(&format!("without-{node}")).unwrap().as_deref(), Some("x"));
    }
    tester.end();
}

#[test]
fn two_of_five_may_be_down_and_three_may_not() {
    let mut tester = AspenRaftTester::new(5, "two-of-five");
    tester.crash_node(0);
    tester.power_loss(1);
    tester.write("a", "1").unwrap();
    tester.crash_node(2);
    assert!(tester.write("a", "2").is_err(), "two of five are no quorum");
    tester.restart_node(1);
    tester.write("a", "3").unwrap();
    assert_eq!(tester.read("a").unwrap().as_deref(), Some("3"));
    tester.end();
}

#[test]
fn a_deposed_leader_gives_up_its_long_tail() {
    let mut tester = AspenRaftTester::new(5, "long-tail");
    let old = tester.check_one_leader();
    tester.write("a", "1").unwrap();
    tester.disconnect(old);
    let committed = tester.metrics().last(old);
    for nth in 0..60 {
        tester.submit(old, &format!("lost-{nth}"), "x");
    }
    tester.wait_until("the tail is long", move |state| state.last(old) == committed + 60);
    tester.power_loss(old);
    tester.check_one_leader();
    tester.write("a", "2").unwrap();
    tester.restart_node(old);
    assert!(tester.metrics().last(old) > committed, "some of the tail was on its disk");
    tester.connect(old);
    tester.wait_for_log_sync();
    assert!(tester.metrics().last(old) < committed + 60);
    assert_eq!(tester.read("lost-0").unwrap(), None);
    tester.end();
}

#[test]
fn a_change_of_the_membership_outlives_its_leader() {
    let mut tester = AspenRaftTester::new(5, "joint-crash");
    let leader = tester.check_one_leader();
    let fewer: Vec<usize> = (0..5).filter(|node| *node != (leader + 1) % 5 && *node != (leader + 2) % 5).collect();
    tester.set_delay_range(Duration::from_millis(20), Duration::from_millis(30));
    tester.begin_change(&fewer);
    tester.wait_until("the joint configuration is in the leader's log", move |state| state.voters(leader).len() == 2);
    tester.power_loss(leader);
    tester.check_one_leader();
    tester.change_membership(&fewer).unwrap();
    tester.restart_node(leader);
    tester.wait_for_log_sync();
    assert_eq!(tester.metrics().voters(leader), [fewer.into_iter().collect()]);
    tester.end();
}

#[test]
fn a_node_that_restarts_while_it_receives_a_snapshot_starts_over() {
    let knobs = [SHORT_LOGS, &[("limits.snapshot_chunk_bytes", 64)]].concat();
    let mut tester = AspenRaftTester::with_knobs(3, "restart-during-install", &knobs);
    let leader = tester.check_one_leader();
    let lagging = (leader + 1) % 3;
    tester.power_loss(lagging);
    let behind = tester.metrics().last(leader);
    tester.write_many("key", 30).unwrap();
    tester.wait_until("the entries that it lacks are gone", move |state| state.purged(leader) > behind + 5);
    tester.set_delay_range(Duration::from_millis(5), Duration::from_millis(8));
    tester.restart_node(lagging);
    tester.wait_until("a snapshot is on its way", move |state| state.has_file(lagging, "incoming-"));
    tester.power_loss(lagging);
    tester.restart_node(lagging);
    tester.wait_for_log_sync();
    assert!(tester.metrics().snapshot(lagging) > behind + 5);
    tester.end();
}

#[test]
fn a_snapshot_is_due_by_bytes_long_before_it_is_by_entries() {
    let mut tester =
        AspenRaftTester::with_knobs(1, "snapshot-by-bytes", &[NEVER_BY_ENTRIES, ("raft.snapshot_bytes", 2_000)]);
    tester.write_many("key", 100).unwrap();
    tester.wait_until("a snapshot was taken", |state| state.snapshot(0) > 50);
    tester.end();
}

#[test]
fn a_snapshot_is_due_by_its_age_when_there_is_news() {
    let mut tester =
        AspenRaftTester::with_knobs(1, "snapshot-by-age", &[NEVER_BY_ENTRIES, ("raft.snapshot_age_ms", 5_000)]);
    tester.write("a", "1").unwrap();
    let written = tester.metrics().last(0);
    tester.wait_until("a snapshot was taken", move |state| state.snapshot(0) >= written);
    let first = tester.metrics().snapshot(0);
    tester.write("a", "2").unwrap();
    tester.wait_until("the next one was taken", move |state| state.snapshot(0) > first);
    tester.end();
}

#[test]
fn a_node_that_is_removed_is_a_spare() {
    let mut tester = AspenRaftTester::new(3, "spare");
    let spare = (tester.check_one_leader() + 1) % 3;
    tester.remove_node(spare).unwrap();
    tester.write("a", "1").unwrap();
    let leader = tester.check_one_leader();
    assert_eq!(tester.metrics().voters(leader), [(0..3).filter(|node| *node != spare).collect()]);
    tester.add_learner(spare).unwrap();
    tester.wait_for_log_sync();
    assert_eq!(tester.metrics().applied(spare), tester.metrics().last(leader));
    tester.end();
}

#[test]
fn bad_links_and_clocks_and_pauses_cost_time_only() {
    let mut tester = AspenRaftTester::new(3, "bad-weather");
    let leader = tester.check_one_leader();
    tester.set_unreliable(true);
    tester.clock_skew(leader, 3_600_000, 100);
    tester.enable_byzantine(byzantine::DUPLICATE, 50);
    tester.write_many("key", 20).unwrap();
    tester.set_unreliable(false);
    tester.set_loss(5);
    tester.pause(leader);
    assert_ne!(tester.check_one_leader(), leader);
    tester.resume(leader);
    tester.cut_pair(leader, (leader + 1) % 3);
    tester.write("after", "1").unwrap();
    tester.heal_pair(leader, (leader + 1) % 3);
    let report = tester.end().report;
    let faults = report.faults.unwrap();
    assert!(faults[byzantine::DUPLICATE].noticed > 0 && faults["pause"].injected == 1);
}

/// The proof that the oracles listen: a link that takes the entries out of appends breaks what Raft promises.
#[test]
fn a_violation_is_a_panic() {
    let broken = catch_unwind(AssertUnwindSafe(|| {
        let mut tester = AspenRaftTester::new(3, "lying-links");
        tester.write("a", "1").unwrap();
        tester.enable_byzantine(byzantine::CLEAR_ENTRIES, 100);
        tester.write("a", "2").unwrap();
        tester.end();
    }));
    let panic = broken.expect_err("a follower acknowledged entries that it does not have");
    let text = panic.downcast_ref::<String>().expect("a message");
    assert!(text.starts_with("committed-on-a-quorum is violated"), "{text}");
}

#[test]
fn the_same_scenario_is_the_same_run() {
    let scenario = || {
        let mut tester = AspenRaftTester::with_knobs(3, "twice", SHORT_LOGS);
        let leader = tester.check_one_leader();
        tester.write_many("key", 10).unwrap();
        tester.power_loss(leader);
        tester.write("a", "1").unwrap();
        tester.restart_node(leader);
        let report = tester.end().report;
        (report.digest, report.events, report.sim_time_ns)
    };
    let (once, again) = (scenario(), scenario());
    assert!(once.0.is_some());
    assert_eq!(once, again);
}
