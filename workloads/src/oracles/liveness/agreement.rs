//! Agreement after calm: one leader, one uniform membership, identical logs and states inside the core.
//!
//! The core are the nodes that run when the cluster has converged, without those whose disk was damaged on purpose. At that moment they must agree on what openraft says;
//! at the end of the run, on what is on their disks, wherever two of them still hold the same index.

use std::collections::{BTreeMap, BTreeSet};

use aspen::types::NodeId;
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::super::raft::{Boots, named};
use crate::event::{DurableImage, Event, ImageReason, NodeMetrics, Role};

#[derive(Debug, Default)]
pub struct Agreement {
    boots: Boots,
    /// The latest view of each node that runs.
    views: BTreeMap<NodeId, NodeMetrics>,
    core: Vec<NodeId>,
    damaged: BTreeSet<NodeId>,
    images: BTreeMap<NodeId, DurableImage>,
}

impl Agreement {
    fn check_views(&mut self, at_ns: Nanos, judge: &mut Judge<'_>) {
        self.core = self.views.keys().copied().filter(|node| !self.damaged.contains(node)).collect();
        judge.evaluated(self.core.len() > 1);
        let leaders: Vec<NodeId> =
            self.views.values().filter(|view| view.role == Role::Leader).map(|view| view.node).collect();
        let [leader] = leaders.as_slice() else {
            judge.violated(at_ns, None, format!("converged, but the leaders are {leaders:?}"));
            return;
        };
        let leading = &self.views[leader];
        for view in self.views.values().filter(|view| self.core.contains(&view.node)) {
            let mut differs = |what: &str, is: String, expected: String| {
                if is != expected {
                    let message = format!("converged, but {what} is {is}, and {expected} on the leader, node {leader}");
                    judge.violated(at_ns, named(view.node), message);
                }
            };
            differs("the leader", format!("{:?}", view.leader), format!("{:?}", Some(leader)));
            differs("the term", view.term.to_string(), leading.term.to_string());
            differs(
                "the last log index",
                format!("{:?}", view.last_log_index),
                format!("{:?}", leading.last_log_index),
            );
            differs("the membership", format!("{:?}", view.membership), format!("{:?}", leading.membership));
        }
        if leading.membership.voters.len() != 1 || leading.membership != leading.committed_membership {
            let message = format!(
                "converged, but the membership {:?} is not a uniform one in force: {:?} is committed",
                leading.membership, leading.committed_membership
            );
            judge.violated(at_ns, named(*leader), message);
        }
    }

    fn check_images(&self, at_ns: Nanos, judge: &mut Judge<'_>) {
        let core: Vec<(&NodeId, &DurableImage)> =
            self.images.iter().filter(|(node, _)| self.core.contains(node)).collect();
        for (place, (node, image)) in core.iter().enumerate() {
            for (other, theirs) in &core[..place] {
                let differing = image.log.iter().find(|(index, entry)| {
                    theirs
                        .log
                        .get(index)
                        .is_some_and(|their| (their.log_id, their.payload_hash) != (entry.log_id, entry.payload_hash))
                });
                judge.evaluated(image.log.keys().any(|index| theirs.log.contains_key(index)));
                if let Some((index, entry)) = differing {
                    let message = format!(
                        "the logs of nodes {node} and {other} differ at index {index}: {entry:?} and {:?}",
                        theirs.log[index]
                    );
                    judge.violated(at_ns, named(**node), message);
                }
                let same_point = image.applied == theirs.applied && image.applied.is_some();
                judge.evaluated(same_point);
                if same_point && image.state_hash != theirs.state_hash {
                    let message = format!(
                        "the states of nodes {node} and {other} after {:?} differ: {:x?} and {:x?}",
                        image.applied, image.state_hash, theirs.state_hash
                    );
                    judge.violated(at_ns, named(**node), message);
                }
            }
        }
    }
}

impl Oracle<Event> for Agreement {
    fn property(&self) -> &'static str {
        "agreement"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        if self.boots.is_void(event) {
            return;
        }
        match &event.event {
            Event::Metrics(metrics) => {
                self.views.insert(metrics.node, (**metrics).clone());
            }
            Event::Down { node, .. } => {
                self.views.remove(node);
            }
            Event::Damaged { node } => {
                self.damaged.insert(*node);
            }
            Event::Converged { result: Ok(()) } => self.check_views(event.at_ns, judge),
            Event::Image { node, image, reason: ImageReason::End } => {
                self.images.insert(*node, (**image).clone());
            }
            _ => {}
        }
    }

    fn finish(&mut self, at_ns: Nanos, judge: &mut Judge<'_>) {
        self.check_images(at_ns, judge);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;

    fn three_nodes() -> Run {
        let mut run = Run::new();
        run.boot(1).boot(2).boot(3).voters(&[1, 2, 3], &[1, 2, 3]).leads(1, 4).follows(2, 4, 1).follows(3, 4, 1);
        run
    }

    fn converged(run: &mut Run) -> &mut Run {
        run.emit(0, Event::Converged { result: Ok(()) })
    }

    #[test]
    fn nodes_that_agree_are_fine() {
        let mut run = three_nodes();
        converged(&mut run);
        let log = [(5, 1, 50), (6, 2, 60)];
        let mut first = image(&log);
        (first.applied, first.state_hash) = (Some(id(6, 2)), Some(7));
        run.image(1, first.clone(), ImageReason::End).image_now(2, image(&log[..1]), ImageReason::End);
        run.image_now(3, first, ImageReason::End);
        run.accepts(Agreement::default());
    }

    #[test]
    fn two_leaders_and_a_joint_membership_are_found() {
        let mut run = three_nodes();
        run.leads(2, 3);
        converged(&mut run);
        run.rejects(Agreement::default(), "the leaders are [1, 2]");
        let mut run = three_nodes();
        for node in [1, 2, 3] {
            run.metrics(node, |metrics| metrics.membership.voters.push([4].into()));
        }
        converged(&mut run);
        run.rejects(Agreement::default(), "is not a uniform one in force");
    }

    #[test]
    fn a_node_that_lags_is_found() {
        let mut run = three_nodes();
        run.metrics(1, |metrics| metrics.last_log_index = Some(9));
        converged(&mut run);
        run.rejects(Agreement::default(), "the last log index is None, and Some(9) on the leader");
    }

    #[test]
    fn a_damaged_node_is_outside_the_core() {
        let mut run = three_nodes();
        run.emit(3, Event::Damaged { node: 3 }).metrics(3, |metrics| metrics.last_log_index = Some(0));
        converged(&mut run);
        run.image(1, image(&[(5, 1, 50)]), ImageReason::End).image_now(2, image(&[(5, 1, 50)]), ImageReason::End);
        run.image_now(3, image(&[(5, 1, 51)]), ImageReason::End);
        run.accepts(Agreement::default());
    }

    #[test]
    fn logs_and_states_that_differ_are_found() {
        let mut run = three_nodes();
        converged(&mut run);
        run.image(1, image(&[(5, 1, 50)]), ImageReason::End).image_now(2, image(&[(5, 1, 51)]), ImageReason::End);
        run.rejects(Agreement::default(), "the logs of nodes 2 and 1 differ at index 5");
        let mut run = three_nodes();
        converged(&mut run);
        for (node, state_hash) in [(1, 7), (2, 8)] {
            let mut image = image(&[]);
            (image.applied, image.state_hash) = (Some(id(6, 2)), Some(state_hash));
            run.image_now(node, image, ImageReason::End);
        }
        run.rejects(Agreement::default(), "the states of nodes 2 and 1 after");
    }
}
