//! Right and wrong courses of keys, and random ones from a model of the store.

use aspen::command::{Answer, Command, Expect, KeyMeta, Outcome, Pair, TxnResult};
use proptest::prelude::*;

use super::super::super::testing::{Run, delete, get, row, scan, set, transaction, txn_delete, txn_get, txn_set};
use super::super::generated::{Generated, Story};
use super::super::linearizability::Linearizability;
use super::super::{durability::Durability, exactly_once::ExactlyOnce, outcomes::Outcomes};
use super::OrderByRevision;
use crate::event::{Event, OpResult};
use sim_runtime::checker::linearizability::Budget;

fn swap(key: &str, expect: Expect, value: &str) -> Command {
    Command::CompareAndSwap { key: key.into(), expect, value: value.into() }
}

fn multi(pairs: &[(&str, &str)]) -> Command {
    let pairs = pairs.iter().map(|(key, value)| Pair { key: (*key).into(), value: (*value).into() });
    Command::SetMulti { pairs: pairs.collect() }
}

fn oracle() -> OrderByRevision {
    OrderByRevision::default()
}

#[test]
fn all_commands_in_sequence_are_fine() {
    let mut run = Run::new();
    run.wrote(set("a", "1"), 5, 1).wrote(multi(&[("a", "2"), ("b", "3")]), 6, 2);
    run.wrote(swap("a", Expect::Value(b"2".to_vec()), "4"), 8, 3).wrote(swap("b", Expect::ModRevision(6), "5"), 9, 2);
    let op = run.reads(0, scan(10));
    run.answered(op, 9, vec![row("a", "4", (5, 8, 3)), row("b", "5", (6, 9, 2))]);
    let op = run.writes(0, delete("a"));
    run.told(op, 10, Outcome::Deleted { existed: true }).read("a", 11, vec![]);
    run.wrote(swap("a", Expect::Absent, "6"), 12, 1);
    let op = run.writes(0, swap("a", Expect::Absent, "7"));
    let found = Some(KeyMeta { create_revision: 12, mod_revision: 12, version: 1 });
    run.told(op, 13, Outcome::NotMatched { found });
    let op = run.reads(0, scan(1));
    let rows = vec![row("a", "6", (12, 12, 1))];
    run.ends(op, OpResult::Answered(Answer { revision: 13, rows, more: true }));
    run.accepts(oracle());
}

#[test]
fn unknown_writes_are_placed_where_they_are_seen() {
    let mut run = Run::new();
    run.wrote(set("a", "1"), 5, 1);
    run.lost(1, set("a", "2"));
    run.read("a", 6, vec![row("a", "1", (5, 5, 1))]).wrote(set("a", "3"), 9, 3);
    run.read("a", 9, vec![row("a", "3", (5, 9, 3))]);
    run.accepts(oracle());
    // The version gap is filled only once.
    run.wrote(set("a", "4"), 12, 5);
    run.rejects(oracle(), "with version 4 right before revision 12");
}

#[test]
fn an_unknown_delete_explains_an_absence_and_a_new_version() {
    let mut run = Run::new();
    run.wrote(set("a", "1"), 5, 1);
    run.lost(1, delete("a"));
    run.read("a", 7, vec![]).wrote(set("a", "2"), 9, 1);
    run.accepts(oracle());
    run.read("a", 10, vec![]);
    run.rejects(oracle(), "not there at revision 10");
}

#[test]
fn an_unknown_set_multi_is_seen_whole_or_not_at_all() {
    let mut run = Run::new();
    run.wrote(set("b", "0"), 4, 1);
    run.lost(1, multi(&[("a", "1"), ("b", "2")]));
    run.read("a", 7, vec![row("a", "1", (6, 6, 1))]);
    run.accepts(oracle());
    run.read("b", 7, vec![row("b", "0", (4, 4, 1))]);
    run.rejects(oracle(), "key \"b\": seen at revision 7 as modified last at 4");
}

#[test]
fn a_stale_read_is_found() {
    let mut run = Run::new();
    run.wrote(set("a", "1"), 5, 1).wrote(set("a", "2"), 6, 2).read("a", 6, vec![row("a", "1", (5, 5, 1))]);
    run.rejects(oracle(), "seen at revision 6 as modified last at 5");
    // The same, honest about its revision: then real time tells.
    let mut run = Run::new();
    run.wrote(set("a", "1"), 5, 1).wrote(set("a", "2"), 6, 2).read("a", 5, vec![row("a", "1", (5, 5, 1))]);
    run.rejects(oracle(), "a read, has revision 5, but when it began revision Some(6) had been told");
}

#[test]
fn a_torn_set_multi_is_found_in_a_scan() {
    let mut run = Run::new();
    run.wrote(multi(&[("a", "1"), ("b", "2")]), 5, 1).wrote(multi(&[("a", "3"), ("b", "4")]), 6, 2);
    let op = run.reads(0, scan(10));
    run.answered(op, 6, vec![row("a", "3", (5, 6, 2)), row("b", "2", (5, 5, 1))]);
    run.rejects(oracle(), "key \"b\": seen at revision 6 as modified last at 5");
}

#[test]
fn a_wrong_revision_or_version_of_a_write_is_found() {
    let mut run = Run::new();
    run.wrote(set("a", "1"), 5, 1).wrote(set("b", "2"), 5, 1);
    run.rejects(oracle(), "has revision 5, but when it began");
    let mut run = Run::new();
    run.wrote(set("a", "1"), 5, 2);
    run.rejects(oracle(), "with version 1 right before revision 5");
    let mut run = Run::new();
    run.wrote(set("a", "1"), 5, 1).wrote(set("a", "2"), 6, 1);
    run.rejects(oracle(), "absent before revision 6");
}

#[test]
fn two_operations_of_one_revision_are_found() {
    let mut run = Run::new();
    let first = run.writes(0, set("a", "1"));
    let second = run.writes(1, set("b", "2"));
    run.told(first, 5, Outcome::Written { version: 1 }).told(second, 5, Outcome::Written { version: 1 });
    run.rejects(oracle(), "operations 1 and 2 both have revision 5");
}

#[test]
fn a_value_from_nowhere_is_found() {
    let mut run = Run::new();
    run.wrote(set("a", "1"), 5, 1).read("a", 7, vec![row("a", "7", (5, 6, 2))]);
    run.rejects(oracle(), "saw \"7\" under \"a\", which nobody wrote");
}

#[test]
fn a_write_that_is_seen_before_it_began_is_found() {
    let mut run = Run::new();
    run.wrote(set("b", "0"), 9, 1);
    run.lost(1, set("a", "1"));
    run.read("a", 9, vec![row("a", "1", (4, 4, 1))]);
    run.rejects(oracle(), "began when revision Some(9) had been told");
}

#[test]
fn compares_that_cannot_have_matched_are_found() {
    let mut run = Run::new();
    run.wrote(set("a", "1"), 5, 1).wrote(set("a", "2"), 6, 2);
    run.wrote(swap("a", Expect::Value(b"1".to_vec()), "3"), 7, 3);
    run.rejects(oracle(), "a compare found value \"1\" right before revision 7");
    let mut run = Run::new();
    run.wrote(set("a", "1"), 5, 1).wrote(set("a", "2"), 6, 2).wrote(swap("a", Expect::ModRevision(5), "3"), 7, 3);
    run.rejects(oracle(), "a compare found mod revision 5 right before revision 7");
    // Split brain: both swaps of one value win.
    let mut run = Run::new();
    run.wrote(set("a", "1"), 5, 1);
    for (value, revision) in [("2", 6), ("3", 7)] {
        run.wrote(swap("a", Expect::Value(b"1".to_vec()), value), revision, 2);
    }
    run.rejects(oracle(), "a compare found value \"1\" right before revision 7");
}

#[test]
fn an_unknown_value_can_be_replaced_by_one_compare_only() {
    let mut run = Run::new();
    run.wrote(set("a", "1"), 5, 1);
    run.lost(1, set("a", "2"));
    run.wrote(swap("a", Expect::Value(b"2".to_vec()), "3"), 8, 3);
    run.accepts(oracle());
    run.lost(1, set("a", "9"));
    run.wrote(swap("a", Expect::Value(b"2".to_vec()), "4"), 12, 5);
    run.rejects(oracle(), "and so did an earlier one");
}

#[test]
fn a_compare_that_had_to_match_is_found() {
    let found = Some(KeyMeta { create_revision: 5, mod_revision: 5, version: 1 });
    for (expect, found) in [(Expect::Value(b"1".to_vec()), found), (Expect::ModRevision(5), found)] {
        let mut run = Run::new();
        run.wrote(set("a", "1"), 5, 1);
        let op = run.writes(0, swap("a", expect, "2"));
        run.told(op, 6, Outcome::NotMatched { found });
        run.rejects(oracle(), "did not match, but had to");
    }
    let mut run = Run::new();
    let op = run.writes(0, swap("a", Expect::Absent, "2"));
    run.told(op, 6, Outcome::NotMatched { found: None });
    run.rejects(oracle(), "did not match, but had to");
}

#[test]
fn an_unexplained_modification_is_found() {
    // The row was created by something that nobody asked for.
    let mut run = Run::new();
    run.wrote(set("a", "1"), 7, 2);
    run.lost(1, set("b", "9"));
    run.read("a", 8, vec![row("a", "1", (5, 7, 2))]);
    run.rejects(oracle(), "modified at revision 5, but no operation can have done that");
}

#[test]
fn scans_of_a_wrong_shape_are_found() {
    let prepared = || {
        let mut run = Run::new();
        run.wrote(set("a", "1"), 5, 1).wrote(set("b", "2"), 6, 1);
        run
    };
    let (a, b) = (row("a", "1", (5, 5, 1)), row("b", "2", (6, 6, 1)));
    let told = |rows: Vec<_>, more: bool, limit: u32| {
        let mut run = prepared();
        let op = run.reads(0, scan(limit));
        run.ends(op, OpResult::Answered(Answer { revision: 6, rows, more }));
        run
    };
    told(vec![a.clone(), b.clone()], false, 2).accepts(oracle());
    told(vec![a.clone()], true, 1).accepts(oracle());
    told(vec![b.clone(), a.clone()], false, 10).rejects(oracle(), "was answered with rows");
    told(vec![a.clone(), b.clone()], false, 1).rejects(oracle(), "was answered with rows");
    told(vec![a.clone()], true, 2).accepts(oracle());
    told(vec![], true, 2).rejects(oracle(), "was answered with rows");
    told(vec![a.clone()], false, 10).rejects(oracle(), "key \"b\": not there at revision 6");
    told(vec![a, b], true, 2).rejects(oracle(), "told that there is more after \"b\"");
    let mut run = prepared();
    let op = run.reads(0, get("a"));
    run.answered(op, 6, vec![row("b", "2", (6, 6, 1))]);
    run.rejects(oracle(), "was answered with rows");
}

#[test]
fn impossible_revisions_of_a_row_are_found() {
    for meta in [(6, 5, 1), (5, 5, 2), (5, 6, 1), (5, 6, 3), (5, 9, 2)] {
        let mut run = Run::new();
        run.lost(0, set("a", "1"));
        run.read("a", 8, vec![row("a", "1", meta)]);
        run.rejects(oracle(), "which cannot be");
    }
}

fn got(rows: Option<aspen::command::KeyValue>) -> TxnResult {
    TxnResult::Got { row: rows }
}

fn transacted(run: &mut Run, command: Command, revision: u64, matched: bool, results: Vec<TxnResult>) {
    let op = run.writes(0, command);
    run.told(op, revision, Outcome::Transacted { matched, results });
}

#[test]
fn a_transaction_sees_the_state_before_it_and_its_own_changes() {
    let command = transaction(
        &[("a", Expect::Value(b"1".to_vec())), ("b", Expect::Absent)],
        &[txn_get("a"), txn_set("a", "2"), txn_get("a"), txn_set("b", "3"), txn_delete("c")],
        &[],
    );
    let results = |before: aspen::command::KeyValue, version| {
        let after = row("a", "2", (5, 7, 2));
        let wrote = |version| TxnResult::Written { version };
        vec![got(Some(before)), wrote(version), got(Some(after)), wrote(1), TxnResult::Deleted { existed: true }]
    };
    let told = |before, version, matched| {
        let mut run = Run::new();
        run.wrote(set("a", "1"), 5, 1).wrote(set("c", "9"), 6, 1);
        transacted(&mut run, command.clone(), 7, matched, results(before, version));
        run.read("c", 8, vec![]);
        run
    };
    told(row("a", "1", (5, 5, 1)), 2, true).accepts(oracle());
    told(row("a", "2", (5, 7, 2)), 2, true).rejects(oracle(), "which cannot be");
    told(row("a", "1", (5, 5, 1)), 3, true).rejects(oracle(), "the version of key \"a\" at revision 7");
}

#[test]
fn a_transaction_that_took_the_wrong_branch_is_found() {
    let swap = transaction(&[("a", Expect::Value(b"1".to_vec())), ("b", Expect::Absent)], &[txn_set("b", "2")], &[]);
    let mut run = Run::new();
    run.wrote(set("a", "1"), 5, 1);
    transacted(&mut run, swap.clone(), 6, false, vec![]);
    run.rejects(oracle(), "operation 2 at revision 6 took the branch for a comparison that does not hold");
    let mut run = Run::new();
    run.wrote(set("a", "0"), 5, 1);
    transacted(&mut run, swap.clone(), 6, false, vec![]);
    run.accepts(oracle());
    // What may have changed the key explains either branch.
    let mut run = Run::new();
    run.wrote(set("a", "1"), 5, 1);
    run.lost(1, delete("a"));
    transacted(&mut run, swap, 8, false, vec![]);
    run.accepts(oracle());
}

#[test]
fn a_transaction_that_found_what_was_not_there_is_found() {
    let mut run = Run::new();
    run.wrote(set("a", "1"), 5, 1).wrote(set("a", "2"), 6, 2);
    transacted(&mut run, transaction(&[("a", Expect::Value(b"1".to_vec()))], &[], &[]), 7, true, vec![]);
    run.rejects(oracle(), "a compare found value \"1\" right before revision 7");
    let mut run = Run::new();
    run.wrote(set("a", "1"), 5, 1);
    transacted(&mut run, transaction(&[("a", Expect::Absent)], &[], &[]), 7, true, vec![]);
    run.rejects(oracle(), "a comparison with absence held");
}

#[test]
fn half_an_unknown_transaction_is_found() {
    let mut run = Run::new();
    run.wrote(set("a", "0"), 4, 1).wrote(set("c", "0"), 5, 1);
    run.lost(1, transaction(&[], &[txn_set("a", "1"), txn_set("b", "2"), txn_delete("c")], &[txn_set("a", "3")]));
    run.read("a", 9, vec![row("a", "1", (4, 8, 2))]);
    let mut whole = run.clone();
    whole.read("b", 9, vec![row("b", "2", (8, 8, 1))]).read("c", 9, vec![]);
    whole.accepts(oracle());
    run.read("b", 9, vec![]);
    run.rejects(oracle(), "key \"b\"");
}

/// Every client oracle.
fn violations(story: &Story) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let mut add = |property: &'static str, verdicts: sim_runtime::engine::oracle::Verdicts| {
        assert!(verdicts.undecided().is_empty(), "{:?}", verdicts.undecided());
        found.extend(verdicts.violations().iter().map(|violation| (property, violation.message.clone())));
    };
    add("order-by-revision", story.run.verdicts(OrderByRevision::default()));
    add("linearizability", story.run.verdicts(Linearizability::new(Budget::default())));
    add("outcomes", story.run.verdicts(Outcomes::default()));
    add("exactly-once", story.run.verdicts(ExactlyOnce::default()));
    add("durability", story.run.verdicts(Durability::default()));
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// What the store really did is accepted by every client oracle, whatever the overlap and the losses.
    #[test]
    fn what_happened_is_accepted(count in 1usize..150, clients in 1u32..7, keys in 1u64..6, lost in 0u64..30, seed: u64) {
        let story = Generated { count, clients, keys, lost, seed }.story();
        let found = violations(&story);
        prop_assert!(found.is_empty(), "{found:#?}\n{:#?}", story.run.events);
    }

    /// One wrong detail of one reply is found.
    #[test]
    fn a_wrong_detail_is_rejected(count in 20usize..150, clients in 1u32..7, keys in 1u64..6, seed: u64, pick in 0usize..1000) {
        let mut story = Generated { count, clients, keys, lost: 0, seed }.story();
        let Some(what) = story.spoil(pick) else { return Err(TestCaseError::reject("nothing to spoil")) };
        let verdicts = story.run.verdicts(OrderByRevision::default());
        prop_assert!(!verdicts.violations().is_empty(), "{what}\n{:#?}", story.run.events);
    }

    /// A read of a value that was certainly overwritten is found by the blind check, whatever is lost.
    #[test]
    fn a_stale_read_is_rejected_blindly(
        count in 20usize..150, clients in 1u32..7, keys in 1u64..4, lost in 0u64..20, seed: u64, pick in 0usize..1000,
    ) {
        let mut story = Generated { count, clients, keys, lost, seed }.story();
        let Some(what) = story.make_a_read_stale(pick) else { return Err(TestCaseError::reject("no such read")) };
        let blind = story.run.verdicts(Linearizability::new(Budget::default()));
        prop_assert!(!blind.violations().is_empty(), "{what}\n{:#?}", story.run.events);
        let by_revision = story.run.verdicts(OrderByRevision::default());
        prop_assert!(!by_revision.violations().is_empty(), "{what}\n{:#?}", story.run.events);
    }
}

#[test]
fn the_generator_makes_all_kinds_of_outcomes() {
    let story = Generated { count: 600, clients: 6, keys: 5, lost: 10, seed: 7 }.story();
    let mut kinds = std::collections::BTreeMap::<&str, u32>::new();
    for event in &story.run.events {
        let Event::Returned { result, .. } = &event.event else { continue };
        let kind = match &**result {
            OpResult::Written(reply) => match reply.outcome {
                Outcome::Written { version: 1 } => "created",
                Outcome::Written { .. } => "modified",
                Outcome::Deleted { existed: true } => "deleted",
                Outcome::Deleted { existed: false } => "found nothing to delete",
                Outcome::NotMatched { found: Some(_) } => "found another",
                Outcome::NotMatched { found: None } => "found none",
                Outcome::Transacted { matched: true, .. } => "held",
                Outcome::Transacted { matched: false, .. } => "did not hold",
                _ => "else",
            },
            OpResult::Answered(answer) if answer.more => "more",
            OpResult::Answered(answer) if answer.rows.is_empty() => "empty",
            OpResult::Answered(_) => "rows",
            OpResult::Failed(_) => "failed",
            OpResult::Unknown(_) => "unknown",
        };
        *kinds.entry(kind).or_default() += 1;
    }
    assert_eq!(kinds.len(), 13, "{kinds:?}");
}
