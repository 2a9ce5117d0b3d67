//! Membership (Raft, section 6; Ongaro's dissertation, chapter 4): at most one change is uncommitted, a configuration in
//! force was proposed, and one leads to the next only through a joint one.
//!
//! - A leader appends no entry that changes the membership while another such entry in its log is not committed.
//! - The configuration that a node has in force stands in some log, at the same log id, and is the same on every node.
//! - Two configurations that follow each other in a leader's log have a set of voters in common, or differ by one voter:
//!   then every quorum of the one meets every quorum of the other.
//!
//! What a node says while it stops is not judged: openraft then shows a configuration whose entry its log refused.

use std::collections::{BTreeMap, BTreeSet};

use aspen::observe::Observation;
use aspen::types::{LogId, NodeId};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::{Boots, NodeLog, named, shown, term_of};
use crate::event::{Event, MembershipView, NodeMetrics, Role};

#[derive(Debug, Default)]
pub struct Membership {
    boots: Boots,
    logs: BTreeMap<NodeId, NodeLog>,
    /// Log ids (index and term) of all entries ever seen that change the membership.
    proposed: BTreeSet<(u64, u64)>,
    /// What each of them says, and who said so first.
    in_force: BTreeMap<(u64, u64), (MembershipView, NodeId)>,
    /// The last one of each node.
    latest: BTreeMap<NodeId, MembershipView>,
}

impl Membership {
    fn check(&mut self, metrics: &NodeMetrics, at_ns: Nanos, judge: &mut Judge<'_>) {
        self.one_at_a_time(metrics, at_ns, judge);
        let view = &metrics.membership;
        let Some(id) = view.log_id else { return };
        let known = self.in_force.get(&key(id));
        let is_news = self.latest.get(&metrics.node) != Some(view);
        if is_news {
            judge.evaluated(known.is_some_and(|(_, witness)| *witness != metrics.node));
            if !self.proposed.contains(&key(id)) {
                let message = format!("{} is in force as a configuration, but nobody proposed it", shown(id));
                judge.violated(at_ns, named(metrics.node), message);
            }
        }
        match known {
            Some((other, witness)) if other != view => {
                let message = format!("{} says {view:?}, but {other:?} on node {witness}", shown(id));
                judge.violated(at_ns, named(metrics.node), message);
            }
            Some(_) => {}
            None => {
                self.in_force.insert(key(id), (view.clone(), metrics.node));
            }
        }
        if is_news && metrics.role == Role::Leader {
            self.follows(metrics, at_ns, judge);
        }
        self.latest.insert(metrics.node, view.clone());
    }

    fn one_at_a_time(&self, metrics: &NodeMetrics, at_ns: Nanos, judge: &mut Judge<'_>) {
        let (Role::Leader, Some(last)) = (metrics.role, metrics.last_log_index) else { return };
        let Some(log) = self.logs.get(&metrics.node) else { return };
        let from = metrics.committed.map_or(0, |id| id.index + 1);
        if from > last {
            return;
        }
        let open: Vec<LogId> = log
            .entries
            .range(from..=last)
            .filter(|(_, entry)| entry.is_membership)
            .map(|(_, entry)| entry.log_id)
            .collect();
        judge.evaluated(!open.is_empty());
        // What a leader found in its log was proposed by another, who knew what was committed then. It answers for its own.
        let own = |id: &LogId| term_of(*id) == metrics.term;
        if let [first, second, ..] = open.as_slice()
            && own(open.last().unwrap_or(second))
        {
            let message =
                format!("{} and {} both change the membership and are uncommitted", shown(*first), shown(*second));
            judge.violated(at_ns, named(metrics.node), message);
        }
    }

    /// The leader's configuration follows the one before in its log, if that is known.
    fn follows(&self, metrics: &NodeMetrics, at_ns: Nanos, judge: &mut Judge<'_>) {
        let (Some(log), Some(id)) = (self.logs.get(&metrics.node), metrics.membership.log_id) else { return };
        let mut earlier = log.entries.range(..id.index).rev().map(|(_, entry)| entry);
        let Some(before) = earlier.find(|entry| entry.is_membership) else { return };
        let Some((old, _)) = self.in_force.get(&key(before.log_id)) else { return };
        judge.evaluated(old.voters != metrics.membership.voters);
        if !meets(&old.voters, &metrics.membership.voters) {
            let message =
                format!("{:?} follows {:?}: two quorums need not meet", metrics.membership.voters, old.voters);
            judge.violated(at_ns, named(metrics.node), message);
        }
    }
}

fn key(id: LogId) -> (u64, u64) {
    (id.index, term_of(id))
}

/// Whether every quorum of one configuration meets every quorum of the other.
fn meets(old: &[BTreeSet<NodeId>], new: &[BTreeSet<NodeId>]) -> bool {
    let shared = old.iter().any(|voters| new.contains(voters));
    let one_step = matches!((old, new), ([old], [new]) if old.symmetric_difference(new).count() <= 1);
    shared || one_step
}

impl Oracle<Event> for Membership {
    fn property(&self) -> &'static str {
        "membership"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        if self.boots.is_void(event) {
            return;
        }
        match &event.event {
            Event::Store { node, observation } => {
                if let Observation::Appended { entries } | Observation::LogOpened { entries, .. } = observation {
                    let changes = entries.iter().filter(|entry| entry.is_membership);
                    self.proposed.extend(changes.map(|entry| key(entry.log_id)));
                }
                self.logs.entry(*node).or_default().observe(observation);
            }
            Event::Metrics(metrics) if metrics.role != Role::Shutdown => self.check(metrics, event.at_ns, judge),
            Event::Down { node, .. } => {
                self.logs.remove(node);
                self.latest.remove(node);
            }
            _ => {}
        }
    }

    fn finish(&mut self, _at_ns: Nanos, _judge: &mut Judge<'_>) {}
}

#[cfg(test)]
mod tests {
    use aspen::observe::EntryMeta;

    use super::super::super::testing::*;
    use super::*;

    fn change(index: u64, term: u64) -> EntryMeta {
        EntryMeta { is_membership: true, ..entry((index, term, 1)) }
    }

    fn view(log: (u64, u64), voters: &[&[NodeId]]) -> MembershipView {
        let voters = voters.iter().map(|voters| voters.iter().copied().collect()).collect();
        MembershipView { log_id: Some(id(log.0, log.1)), voters, learners: BTreeSet::new() }
    }

    fn in_force(run: &mut Run, node: NodeId, view: &MembershipView) {
        run.metrics(node, |metrics| metrics.membership = view.clone());
    }

    /// Node 1 leads; both changes are in its log.
    fn two_changes(voters: &[&[NodeId]]) -> Run {
        let mut run = Run::new();
        run.boot(1).boot(2).leads(1, 1);
        run.store(1, Observation::Appended { entries: vec![change(0, 0), change(5, 1)] });
        in_force(&mut run, 1, &view((0, 0), &[&[1, 2, 3]]));
        in_force(&mut run, 2, &view((0, 0), &[&[1, 2, 3]]));
        in_force(&mut run, 1, &view((5, 1), voters));
        run
    }

    #[test]
    fn a_change_through_a_joint_configuration_is_fine() {
        two_changes(&[&[1, 2, 3], &[1, 2, 4]]).accepts(Membership::default());
        two_changes(&[&[1, 2, 3, 4]]).accepts(Membership::default());
    }

    #[test]
    fn a_jump_to_other_voters_is_found() {
        two_changes(&[&[1, 2, 4]]).rejects(Membership::default(), "two quorums need not meet");
    }

    #[test]
    fn two_uncommitted_changes_are_found() {
        let mut run = Run::new();
        run.boot(1).leads(1, 1).store(1, Observation::Appended { entries: vec![change(4, 1), change(5, 1)] });
        run.metrics(1, |metrics| {
            metrics.last_log_index = Some(5);
            metrics.committed = Some(id(3, 1));
        });
        run.rejects(Membership::default(), "both change the membership");
    }

    /// What is in the log is of these terms, the leader's own is 3, and nothing from index 4 on is committed as it knows.
    fn inherited(terms: &[u64]) -> Run {
        let mut run = Run::new();
        let entries: Vec<EntryMeta> = (4..).zip(terms).map(|(index, term)| change(index, *term)).collect();
        let last = entries.last().map(|entry| entry.log_id.index);
        run.boot(1).leads(1, 3).store(1, Observation::Appended { entries });
        run.metrics(1, |metrics| {
            metrics.last_log_index = last;
            metrics.committed = Some(id(3, 1));
        });
        run
    }

    #[test]
    fn changes_that_a_leader_found_in_its_log_were_for_others_to_judge() {
        inherited(&[2, 2]).accepts(Membership::default());
        inherited(&[3]).accepts(Membership::default());
        // The bug of single-server changes: on top of one that may yet be lost (Ongaro, raft-dev, 2015).
        inherited(&[2, 3]).rejects(Membership::default(), "both change the membership");
        inherited(&[2, 2, 3]).rejects(Membership::default(), "both change the membership");
    }

    #[test]
    fn a_configuration_that_nobody_proposed_is_found() {
        let mut run = Run::new();
        run.boot(1);
        in_force(&mut run, 1, &view((5, 1), &[&[1]]));
        run.rejects(Membership::default(), "nobody proposed it");
    }

    #[test]
    fn a_node_that_stops_may_show_a_configuration_that_its_log_refused() {
        let mut run = two_changes(&[&[1, 2, 3, 4]]);
        run.metrics(1, |metrics| {
            metrics.role = Role::Shutdown;
            metrics.membership = view((6, 1), &[&[1]]);
        });
        run.accepts(Membership::default());
    }

    #[test]
    fn nodes_that_read_the_same_entry_differently_are_found() {
        let mut run = Run::new();
        run.boot(1).boot(2).store(1, Observation::Appended { entries: vec![change(5, 1)] });
        in_force(&mut run, 1, &view((5, 1), &[&[1, 2]]));
        in_force(&mut run, 2, &view((5, 1), &[&[1, 2, 3]]));
        run.rejects(Membership::default(), "says");
    }
}
