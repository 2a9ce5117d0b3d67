//! Committed on a quorum (Raft, section 5.3, on stable storage as figure 2 demands): at the first moment any node
//! reports an index committed, copies of the entry are durable on a quorum.
//!
//! A copy is the same index, term and payload in the durable log of a voter, or a durable state or snapshot that covers
//! it. The voters are those of a configuration that the leader may have committed under: the one in force on the node
//! that reports, or on a node that led then; of a joint configuration a quorum of both. A node whose disk was spent on
//! purpose counts as having had a copy.
//!
//! Evaluated whenever images of enough nodes are taken at one time: right after a report that raises the highest
//! committed index anywhere (all entries that became committed with it), and at the end or when the whole cluster lost
//! power (every entry ever committed).

use std::collections::{BTreeMap, BTreeSet};

use aspen::observe::Observation;
use aspen::types::{LogId, NodeId};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::super::raft::{Boots, NodeLog, term_of};
use crate::event::{DurableImage, Event, Role};

#[derive(Debug, Default)]
pub struct CommittedOnAQuorum {
    boots: Boots,
    logs: BTreeMap<NodeId, NodeLog>,
    /// Term and, where known, payload of committed entries by index.
    committed: BTreeMap<u64, (u64, Option<u64>)>,
    /// The highest index reported as committed, and the one before the latest raise.
    highest: Option<u64>,
    raise: Option<Raise>,
    /// The configuration in force, as each node that runs sees it, and whether it leads.
    configurations: BTreeMap<NodeId, (Configuration, bool)>,
    /// Every configuration that any node had in force, by the index of its entry.
    known: BTreeMap<u64, Vec<Configuration>>,
    /// The last one seen anywhere, for moments at which nobody runs.
    latest: Configuration,
    spent: BTreeSet<NodeId>,
    images: BTreeMap<NodeId, DurableImage>,
    images_at_ns: Nanos,
}

/// A report that raised the highest committed index.
#[derive(Debug)]
struct Raise {
    at_ns: Nanos,
    node: NodeId,
    /// The highest index before.
    above: Option<u64>,
}

/// Sets of voters; a quorum of each is needed.
type Configuration = Vec<BTreeSet<NodeId>>;

impl CommittedOnAQuorum {
    fn commits(&mut self, node: NodeId, id: LogId, at_ns: Nanos) {
        if self.highest >= Some(id.index) {
            return;
        }
        // A second raise at the same time is judged by the same images.
        let above = match &self.raise {
            Some(raise) if raise.at_ns == at_ns => raise.above,
            _ => self.highest,
        };
        self.raise = Some(Raise { at_ns, node, above });
        self.highest = Some(id.index);
        let from = above.map_or(0, |above| above + 1);
        // The store may trail openraft and still have there what is about to be replaced. If it has the entry itself,
        // then by log matching it has all entries before.
        if let Some(log) = self.logs.get(&node).filter(|log| log.term_at(id.index) == Some(term_of(id))) {
            for entry in log.entries.range(from..=id.index).map(|(_, entry)| entry) {
                self.committed.insert(entry.log_id.index, (term_of(entry.log_id), Some(entry.payload_hash)));
            }
        }
        self.committed.entry(id.index).or_insert((term_of(id), None));
    }

    fn applied(&mut self, node: NodeId, id: LogId, at_ns: Nanos) {
        self.commits(node, id, at_ns);
        let log = self.logs.entry(node).or_default();
        let payload = log.entries.get(&id.index).filter(|entry| entry.log_id == id).map(|entry| entry.payload_hash);
        if payload.is_some() {
            self.committed.insert(id.index, (term_of(id), payload));
        }
    }

    /// The configurations of which one must have a quorum of copies.
    fn candidates(&self) -> Vec<&Configuration> {
        let reporter = self.raise.as_ref().map(|raise| raise.node);
        let mut candidates: Vec<&Configuration> = self
            .configurations
            .iter()
            .filter(|(node, (_, leads))| *leads || reporter == Some(**node))
            .map(|(_, (configuration, _))| configuration)
            .collect();
        if candidates.is_empty() {
            candidates.push(&self.latest);
        }
        candidates.retain(|configuration| !configuration.is_empty());
        candidates
    }

    /// The configuration that was in force when the entry was appended, and all later ones.
    fn configurations_from(&self, index: u64) -> Vec<&Configuration> {
        let first = self.known.range(..=index).next_back().map_or(0, |(first, _)| *first);
        self.known.range(first..).flat_map(|(_, configurations)| configurations).collect()
    }

    /// Judges the images that were taken at one time.
    fn judge_images(&mut self, judge: &mut Judge<'_>) {
        let images = std::mem::take(&mut self.images);
        let Some(highest) = self.highest else { return };
        if images.is_empty() {
            return;
        }
        let at_ns = self.images_at_ns;
        let candidates = self.candidates();
        let complete = candidates.iter().any(|configuration| {
            let mut voters = configuration.iter().flatten();
            voters.all(|voter| images.contains_key(voter) || self.spent.contains(voter))
        });
        if !complete {
            return;
        }
        let fresh = self.raise.as_ref().filter(|raise| raise.at_ns == at_ns);
        let from = fresh.and_then(|raise| raise.above).map_or(0, |above| above + 1);
        let entries = self.committed.range(from..=highest);
        for (index, (term, payload)) in entries {
            judge.evaluated(true);
            let holds = |voter: &NodeId| {
                self.spent.contains(voter)
                    || images.get(voter).is_some_and(|image| has_copy(image, *index, *term, *payload))
            };
            // A leader may have committed it under a configuration that another has followed since.
            let followed = self.configurations_from(*index);
            let is_on_a_quorum = |configuration: &&Configuration| {
                configuration.iter().all(|voters| voters.iter().filter(|voter| holds(voter)).count() * 2 > voters.len())
            };
            if !candidates.iter().chain(&followed).any(is_on_a_quorum) {
                let holders: Vec<NodeId> = images.keys().filter(|node| holds(node)).copied().collect();
                let message = format!(
                    "entry {index} of term {term} is committed (says node {:?}), but durable only on {holders:?} of {:?}",
                    self.raise.as_ref().map(|raise| raise.node),
                    candidates
                );
                judge.violated(at_ns, None, message);
                return;
            }
        }
    }
}

fn has_copy(image: &DurableImage, index: u64, term: u64, payload: Option<u64>) -> bool {
    let covered = image.applied.map(|id| id.index).max(image.snapshot.map(|id| id.index));
    let logged = image.log.get(&index);
    covered >= Some(index)
        || logged.is_some_and(|entry| {
            term_of(entry.log_id) == term && payload.is_none_or(|payload| payload == entry.payload_hash)
        })
}

impl Oracle<Event> for CommittedOnAQuorum {
    fn property(&self) -> &'static str {
        "committed-on-a-quorum"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        if self.images_at_ns != event.at_ns {
            self.judge_images(judge);
        }
        if self.boots.is_void(event) {
            return;
        }
        match &event.event {
            Event::Image { node, image, .. } => {
                self.images_at_ns = event.at_ns;
                self.images.insert(*node, (**image).clone());
            }
            Event::Metrics(metrics) => {
                let (voters, leads) = (&metrics.membership.voters, metrics.role == Role::Leader);
                let known = self.configurations.get(&metrics.node);
                let is_news = known.is_none_or(|(configuration, led)| configuration != voters || *led != leads);
                if is_news && !voters.is_empty() {
                    self.latest.clone_from(voters);
                    let at = metrics.membership.log_id.map_or(0, |id| id.index);
                    let known = self.known.entry(at).or_default();
                    if !voters.is_empty() && !known.contains(voters) {
                        known.push(voters.clone());
                    }
                    self.configurations.insert(metrics.node, (voters.clone(), leads));
                }
                if let Some(committed) = metrics.committed {
                    self.commits(metrics.node, committed, event.at_ns);
                }
            }
            Event::Store { node, observation } => {
                match observation {
                    Observation::Applied { log_id, .. } => self.applied(*node, *log_id, event.at_ns),
                    Observation::LogOpened { committed: Some(committed), .. } => {
                        self.logs.entry(*node).or_default().observe(observation);
                        self.commits(*node, *committed, event.at_ns);
                    }
                    _ => {}
                }
                self.logs.entry(*node).or_default().observe(observation);
            }
            Event::Down { node, .. } => {
                self.logs.remove(node);
                self.configurations.remove(node);
            }
            Event::Spent { node } | Event::Damaged { node } => {
                self.spent.insert(*node);
            }
            _ => {}
        }
    }

    fn finish(&mut self, _at_ns: Nanos, judge: &mut Judge<'_>) {
        self.judge_images(judge);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;
    use crate::event::ImageReason;

    const LOG: [(u64, u64, u64); 3] = [(0, 0, 10), (1, 1, 11), (2, 1, 12)];

    /// Node 1 of three leads and has entries 0 to 2 in its log; 0 is committed.
    fn three_nodes() -> Run {
        let mut run = Run::new();
        run.boot(1).boot(2).boot(3).voters(&[1, 2, 3], &[1, 2, 3]).leads(1, 1);
        run.appends(1, &LOG).commits(1, 1, (0, 0)).image_now(1, image(&LOG[..1]), ImageReason::Commit);
        run.image_now(2, image(&LOG[..1]), ImageReason::Commit).image_now(3, image(&[]), ImageReason::Commit);
        run
    }

    #[test]
    fn two_copies_of_three_are_a_quorum_wherever_they_are() {
        let mut run = three_nodes();
        run.commits(1, 1, (2, 1)).image_now(1, image(&[]), ImageReason::Commit);
        let covered = DurableImage { snapshot: Some(id(2, 1)), ..DurableImage::default() };
        run.image_now(2, image(&LOG), ImageReason::Commit).image_now(3, covered, ImageReason::Commit);
        run.accepts(CommittedOnAQuorum::default());
    }

    #[test]
    fn one_copy_of_three_is_found() {
        let mut run = three_nodes();
        run.commits(1, 1, (2, 1)).image_now(1, image(&LOG), ImageReason::Commit);
        run.image_now(2, image(&LOG[..2]), ImageReason::Commit).image_now(3, image(&[]), ImageReason::Commit);
        run.rejects(CommittedOnAQuorum::default(), "entry 2 of term 1 is committed");
    }

    #[test]
    fn a_copy_with_another_payload_is_none() {
        let mut run = three_nodes();
        run.commits(1, 1, (1, 1)).image_now(1, image(&LOG), ImageReason::Commit);
        run.image_now(2, image(&[(0, 0, 10), (1, 1, 99)]), ImageReason::Commit);
        run.image_now(3, image(&[]), ImageReason::Commit);
        run.rejects(CommittedOnAQuorum::default(), "durable only on [1]");
    }

    #[test]
    fn images_of_some_nodes_only_prove_nothing() {
        let mut run = three_nodes();
        run.commits(1, 1, (2, 1)).image_now(1, image(&LOG), ImageReason::Commit);
        run.image_now(2, image(&[]), ImageReason::Commit);
        run.accepts(CommittedOnAQuorum::default());
    }

    #[test]
    fn what_was_committed_and_is_gone_at_the_end_is_found() {
        let mut run = three_nodes();
        run.commits(1, 1, (2, 1)).image(1, image(&LOG), ImageReason::End);
        run.image_now(2, image(&LOG[..1]), ImageReason::End).image_now(3, image(&[]), ImageReason::End);
        run.rejects(CommittedOnAQuorum::default(), "entry 1 of term 1 is committed");
    }

    #[test]
    fn a_spent_node_counts() {
        let mut run = three_nodes();
        run.commits(1, 1, (2, 1)).emit(2, Event::Spent { node: 2 }).image(1, image(&LOG), ImageReason::End);
        run.image_now(3, image(&[]), ImageReason::End);
        run.accepts(CommittedOnAQuorum::default());
    }

    #[test]
    fn a_joint_configuration_needs_both_quorums() {
        let joint = |run: &mut Run| {
            for node in [1, 2, 3] {
                run.metrics(node, |metrics| {
                    metrics.membership.log_id = Some(id(1, 1));
                    metrics.membership.voters = vec![[1, 2, 3].into(), [3].into()];
                });
            }
        };
        let mut run = three_nodes();
        joint(&mut run);
        run.commits(1, 1, (2, 1)).image_now(1, image(&LOG), ImageReason::Commit);
        run.image_now(2, image(&LOG), ImageReason::Commit).image_now(3, image(&[]), ImageReason::Commit);
        run.rejects(CommittedOnAQuorum::default(), "durable only on [1, 2]");
    }

    #[test]
    fn an_entry_may_be_committed_under_a_configuration_that_was_followed_by_another() {
        let change = |run: &mut Run, at: u64, voters: &[&[NodeId]]| {
            let voters: Configuration = voters.iter().map(|voters| voters.iter().copied().collect()).collect();
            run.metrics(1, |metrics| {
                metrics.membership.log_id = Some(id(at, 1));
                metrics.membership.voters = voters;
            });
        };
        // Entries 1 and 2 on nodes 2 and 3: a quorum of {1, 2, 3}, which was in force, but not of {1, 2}.
        for (changed_at, is_fine) in [(3, true), (1, false)] {
            let mut run = three_nodes();
            change(&mut run, changed_at, &[&[1, 2, 3], &[1, 2]]);
            run.commits(1, 1, (2, 1)).image_now(1, image(&[]), ImageReason::Commit);
            run.image_now(2, image(&LOG), ImageReason::Commit).image_now(3, image(&LOG), ImageReason::Commit);
            if is_fine {
                run.accepts(CommittedOnAQuorum::default());
            } else {
                run.rejects(CommittedOnAQuorum::default(), "but durable only on");
            }
        }
    }
}
