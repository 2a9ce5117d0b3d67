//! What an operator does next.
//!
//! A pure function of the leader's status and of the machines: which identity each has, if any. Doing the first duty,
//! looking again, and so on, ends with every machine a voter and nobody else a member.

use std::collections::BTreeSet;

use aspen::message::ClusterStatus;
use aspen::types::NodeId;

/// One step towards a whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Complete a change that was interrupted.
    Finish,
    /// Give a machine that has none an identity.
    Identify {
        server: u32,
    },
    /// Let this machine's node catch up.
    AddLearner {
        server: u32,
        id: NodeId,
    },
    /// Make this learner a voter in the place of those that are gone.
    Promote {
        id: NodeId,
        gone: BTreeSet<NodeId>,
    },
    /// No machine has this identity any more, and nobody takes its place.
    RemoveVoter {
        id: NodeId,
    },
    RemoveLearner {
        id: NodeId,
    },
    /// A change is under way that another node, or the leader itself, is still committing.
    Wait,
}

/// The first thing to do, if there is any. `machines` are the identities by server; `demoted` stay without a vote.
pub fn next(status: &ClusterStatus, machines: &[Option<NodeId>], demoted: &BTreeSet<NodeId>) -> Option<Duty> {
    if !status.is_committed {
        return Some(Duty::Wait);
    }
    let [voters] = status.voters.as_slice() else { return Some(Duty::Finish) };
    let living: BTreeSet<NodeId> = machines.iter().flatten().copied().collect();
    let gone: BTreeSet<NodeId> = voters.difference(&living).copied().collect();
    // Those that were never added first: catching up takes a while.
    for (server, machine) in (0u32..).zip(machines) {
        match machine {
            None => return Some(Duty::Identify { server }),
            Some(id) if !voters.contains(id) && !status.learners.contains(id) => {
                return Some(Duty::AddLearner { server, id: *id });
            }
            Some(_) => {}
        }
    }
    if let Some(id) = status.learners.difference(&living).next() {
        return Some(Duty::RemoveLearner { id: *id });
    }
    let heir = status.learners.iter().find(|id| !demoted.contains(id));
    match (heir, gone.first()) {
        // One takes the place of one.
        (Some(id), gone) => Some(Duty::Promote { id: *id, gone: gone.into_iter().copied().collect() }),
        (None, Some(id)) => Some(Duty::RemoveVoter { id: *id }),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(voters: &[&[NodeId]], learners: &[NodeId]) -> ClusterStatus {
        ClusterStatus {
            leader: 1,
            term: 1,
            membership: None,
            is_committed: true,
            voters: voters.iter().map(|voters| voters.iter().copied().collect()).collect(),
            learners: learners.iter().copied().collect(),
            members: Default::default(),
            last_index: 100,
            wall_clock_ms: 0,
        }
    }

    fn duty(status: &ClusterStatus, machines: &[Option<NodeId>]) -> Option<Duty> {
        next(status, machines, &BTreeSet::new())
    }

    #[test]
    fn a_whole_cluster_needs_nothing() {
        assert_eq!(duty(&status(&[&[1, 2, 3]], &[]), &[Some(1), Some(2), Some(3)]), None);
        let demoted = next(&status(&[&[1, 2]], &[3]), &[Some(1), Some(2), Some(3)], &[3].into());
        assert_eq!(demoted, None);
    }

    #[test]
    fn a_machine_that_lost_everything_is_replaced_step_by_step() {
        let lost = [Some(1), Some(2), None];
        assert_eq!(duty(&status(&[&[1, 2, 3]], &[]), &lost), Some(Duty::Identify { server: 2 }));
        let named = [Some(1), Some(2), Some(40)];
        assert_eq!(duty(&status(&[&[1, 2, 3]], &[]), &named), Some(Duty::AddLearner { server: 2, id: 40 }));
        let promote = Duty::Promote { id: 40, gone: [3].into() };
        assert_eq!(duty(&status(&[&[1, 2, 3]], &[40]), &named), Some(promote));
        assert_eq!(duty(&status(&[&[1, 2, 3], &[1, 2, 40]], &[]), &named), Some(Duty::Finish));
        assert_eq!(duty(&status(&[&[1, 2, 40]], &[]), &named), None);
    }

    #[test]
    fn who_has_no_machine_leaves() {
        let machines = [Some(1), Some(2), Some(40)];
        assert_eq!(duty(&status(&[&[1, 2, 40]], &[3]), &machines), Some(Duty::RemoveLearner { id: 3 }));
        assert_eq!(duty(&status(&[&[1, 2, 3, 40]], &[]), &machines), Some(Duty::RemoveVoter { id: 3 }));
    }
}
