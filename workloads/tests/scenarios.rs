//! Scenarios by hand, where storage matters: what a node has on its disk decides what comes next.
//!
//! Each test ends with every oracle having judged the run; what it asserts itself is what the scenario is about.

use workloads::AspenRaftTester;

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
    let lost: u64 = (0..3).map(|node| tester.power_loss(node)).sum();
    assert!(lost < 10_000, "{lost} sectors were not synced");
    assert!(tester.read("key-0").is_err(), "nobody is there");
    (0..3).for_each(|node| tester.restart_node(node));
    tester.check_one_leader();
    assert_eq!(tester.read("key-19").unwrap().as_deref(), Some("x"));
    tester.end();
}
