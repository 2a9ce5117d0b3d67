//! What an operator does next.
//!
//! A pure function of the leader's status and of the machines: which identity each has, if any, and whether it shall
//! serve. Doing the first duty, looking again, and so on, ends with every machine that shall serve a voter, and nobody
//! else a member.

use std::collections::BTreeSet;

use aspen::message::ClusterStatus;
use aspen::types::NodeId;

/// A machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    pub server: u32,
    pub node: Option<NodeId>,
    /// It shall serve.
    pub is_wanted: bool,
    /// Its node was a member: once it is none any more it never comes back.
    pub was_member: bool,
    /// Its node was taken out of the cluster, and will stop.
    pub is_retired: bool,
}

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
    /// Make this learner a voter in the place of one that leaves, if one does.
    Promote {
        id: NodeId,
        leaving: BTreeSet<NodeId>,
    },
    /// No machine has this identity any more, or its machine shall not serve, and nobody takes its place.
    RemoveVoter {
        id: NodeId,
    },
    RemoveLearner {
        id: NodeId,
    },
    /// This machine's node is no member any more, or shall not become one: it can be set up anew.
    Retire {
        server: u32,
        id: NodeId,
    },
    /// A change is under way that another node, or the leader itself, is still committing; or a node that was taken out has
    /// not stopped yet.
    Wait,
}

/// The first thing to do, if there is any, in the order of the machines. `demoted` stay without a vote.
pub fn next(status: &ClusterStatus, machines: &[Machine], demoted: &BTreeSet<NodeId>) -> Option<Duty> {
    if !status.is_committed {
        return Some(Duty::Wait);
    }
    let [voters] = status.voters.as_slice() else { return Some(Duty::Finish) };
    // Those that were never added first: catching up takes a while.
    for machine in machines {
        let server = machine.server;
        match machine.node {
            _ if machine.is_retired => {}
            None if machine.is_wanted => return Some(Duty::Identify { server }),
            Some(id) if !voters.contains(&id) && !status.learners.contains(&id) => {
                // An id that is no newer than the membership is refused: it may have been used, or soon would have been.
                let is_fresh = id > status.membership.map_or(0, |point| point.index);
                let is_new = machine.is_wanted && !machine.was_member && is_fresh;
                return Some(if is_new { Duty::AddLearner { server, id } } else { Duty::Retire { server, id } });
            }
            _ => {}
        }
    }
    let serving: BTreeSet<NodeId> =
        machines.iter().filter(|machine| machine.is_wanted).filter_map(|m| m.node).collect();
    if let Some(id) = status.learners.difference(&serving).next() {
        return Some(Duty::RemoveLearner { id: *id });
    }
    // Those that are lost first: the others still help.
    let lost = lost(status, machines);
    let leaving = lost.first().copied().or_else(|| voters.difference(&serving).next().copied());
    let heir = status.learners.iter().find(|id| !demoted.contains(id));
    match (heir, leaving) {
        // One takes the place of one.
        (Some(id), leaving) => Some(Duty::Promote { id: *id, leaving: leaving.into_iter().collect() }),
        (None, Some(id)) => Some(Duty::RemoveVoter { id }),
        (None, None) => machines.iter().any(|machine| machine.is_retired).then_some(Duty::Wait),
    }
}

/// Voters that are on no machine any more.
pub fn lost(status: &ClusterStatus, machines: &[Machine]) -> BTreeSet<NodeId> {
    let living: BTreeSet<NodeId> = machines.iter().filter_map(|machine| machine.node).collect();
    status.voters.iter().flatten().filter(|id| !living.contains(id)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aspen::message::LogPoint;

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

    const MACHINE: Machine = Machine { server: 0, node: None, is_wanted: true, was_member: false, is_retired: false };

    fn serving(nodes: &[Option<NodeId>]) -> Vec<Machine> {
        (0..).zip(nodes).map(|(server, node)| Machine { server, node: *node, ..MACHINE }).collect()
    }

    fn and_spare(nodes: &[NodeId], spare: Option<NodeId>) -> Vec<Machine> {
        let mut machines: Vec<Machine> = serving(&nodes.iter().copied().map(Some).collect::<Vec<_>>());
        machines.push(Machine { server: 2, node: spare, is_wanted: false, ..MACHINE });
        machines
    }

    fn duty(status: &ClusterStatus, machines: &[Machine]) -> Option<Duty> {
        next(status, machines, &BTreeSet::new())
    }

    #[test]
    fn a_whole_cluster_needs_nothing() {
        let machines = serving(&[Some(1), Some(2), Some(3)]);
        assert_eq!(duty(&status(&[&[1, 2, 3]], &[]), &machines), None);
        assert_eq!(next(&status(&[&[1, 2]], &[3]), &machines, &[3].into()), None);
        assert_eq!(duty(&status(&[&[1, 2]], &[]), &and_spare(&[1, 2], None)), None);
    }

    #[test]
    fn a_machine_that_lost_everything_is_replaced_step_by_step() {
        let lost = serving(&[Some(1), Some(2), None]);
        assert_eq!(duty(&status(&[&[1, 2, 3]], &[]), &lost), Some(Duty::Identify { server: 2 }));
        let named = serving(&[Some(1), Some(2), Some(40)]);
        assert_eq!(duty(&status(&[&[1, 2, 3]], &[]), &named), Some(Duty::AddLearner { server: 2, id: 40 }));
        let promote = Duty::Promote { id: 40, leaving: [3].into() };
        assert_eq!(duty(&status(&[&[1, 2, 3]], &[40]), &named), Some(promote));
        assert_eq!(duty(&status(&[&[1, 2, 3], &[1, 2, 40]], &[]), &named), Some(Duty::Finish));
        assert_eq!(duty(&status(&[&[1, 2, 40]], &[]), &named), None);
    }

    #[test]
    fn who_has_no_machine_leaves() {
        let machines = serving(&[Some(1), Some(2), Some(40)]);
        assert_eq!(duty(&status(&[&[1, 2, 40]], &[3]), &machines), Some(Duty::RemoveLearner { id: 3 }));
        assert_eq!(duty(&status(&[&[1, 2, 3, 40]], &[]), &machines), Some(Duty::RemoveVoter { id: 3 }));
    }

    #[test]
    fn a_machine_that_shall_not_serve_leaves_and_is_set_up_anew() {
        let mut machines = and_spare(&[1, 2], Some(3));
        assert_eq!(duty(&status(&[&[1, 2, 3]], &[]), &machines), Some(Duty::RemoveVoter { id: 3 }));
        assert_eq!(duty(&status(&[&[1, 2]], &[3]), &machines), Some(Duty::RemoveLearner { id: 3 }));
        assert_eq!(duty(&status(&[&[1, 2]], &[]), &machines), Some(Duty::Retire { server: 2, id: 3 }));
        machines[2].is_retired = true;
        assert_eq!(duty(&status(&[&[1, 2]], &[]), &machines), Some(Duty::Wait));
        machines[2].is_wanted = true;
        assert_eq!(duty(&status(&[&[1, 2]], &[]), &machines), Some(Duty::Wait), "its identity is spent");
    }

    /// Another change was made between the allocation of the id and its use.
    #[test]
    fn who_came_too_late_is_set_up_anew() {
        let machines = serving(&[Some(1), Some(20)]);
        let changed_at =
            |index| ClusterStatus { membership: Some(LogPoint { term: 1, index }), ..status(&[&[1]], &[]) };
        assert_eq!(duty(&changed_at(19), &machines), Some(Duty::AddLearner { server: 1, id: 20 }));
        assert_eq!(duty(&changed_at(21), &machines), Some(Duty::Retire { server: 1, id: 20 }));
    }

    #[test]
    fn who_left_never_comes_back() {
        let mut machines = serving(&[Some(1), Some(2)]);
        assert_eq!(duty(&status(&[&[1]], &[]), &machines), Some(Duty::AddLearner { server: 1, id: 2 }));
        machines[1].was_member = true;
        assert_eq!(duty(&status(&[&[1]], &[]), &machines), Some(Duty::Retire { server: 1, id: 2 }));
    }

    #[test]
    fn a_new_machine_takes_the_place_of_a_lost_one_before_that_of_one_that_shall_leave() {
        let machines = and_spare(&[1, 40], Some(2));
        let promote = |leaving: NodeId| Some(Duty::Promote { id: 40, leaving: [leaving].into() });
        assert_eq!(duty(&status(&[&[1, 2, 3]], &[40]), &machines), promote(3));
        assert_eq!(duty(&status(&[&[1, 2]], &[40]), &machines), promote(2));
    }
}
