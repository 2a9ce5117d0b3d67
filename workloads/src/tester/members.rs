//! Who is a member of the cluster of a tester, and who votes.

use std::collections::BTreeSet;

use aspen::error::ClientError;
use aspen::types::NodeId;

use super::AspenRaftTester;
use super::client::Hand;
use super::faults::erase;
use super::operator::{self, Wish};
use super::stage::Stage;
use crate::{machines, transport};

impl AspenRaftTester {
    /// Makes a node a learner. A machine that has no identity, since it was wiped or removed, is given a new one and is
    /// started.
    ///
    /// # Errors
    /// If it is not one after 20 s. It may become one later.
    pub fn add_learner(&mut self, node: usize) -> Result<(), ClientError> {
        self.thread.ask(move |stage| {
            let address = transport::address(stage.host(node));
            let number = u32::try_from(node).expect("nodes are numbered by u32");
            let id = match machines::node_on(number) {
                Some(id) => id,
                None => stage.with_client(|hand| async move { hand.aspen.allocate_node_id().await })?,
            };
            machines::identify(number, id);
            stage.by_hand.count_on(number, true);
            stage.by_hand.enter(|| stage.by_hand.fleet().boot(node));
            stage.wish(Wish::Learner { id, address })
        })
    }

    /// Gives a learner a vote, when it has caught up. Voters that are on no machine any more lose theirs in the same
    /// change.
    ///
    /// # Errors
    /// If it has none after 20 s. It may get it later.
    pub fn promote_to_voter(&mut self, node: usize) -> Result<(), ClientError> {
        self.thread.ask(move |stage| {
            let machines = stage.nodes();
            stage.wish(Wish::Voter { id: id_on(stage, node), machines })
        })
    }

    /// Makes exactly these nodes, all of them members, the voters. Who was one stays on as a learner.
    ///
    /// # Errors
    /// If they are not after 20 s. They may be later.
    pub fn change_membership(&mut self, voters: &[usize]) -> Result<(), ClientError> {
        let voters = voters.to_vec();
        self.thread.ask(move |stage| {
            let wanted = voters.iter().map(|node| id_on(stage, *node)).collect();
            stage.wish(Wish::Voters(wanted))
        })
    }

    /// Begins to make exactly these nodes the voters, and does not wait for what becomes of it.
    pub fn begin_change(&mut self, voters: &[usize]) {
        let voters = voters.to_vec();
        self.act(move |stage| {
            let wanted: BTreeSet<NodeId> = voters.iter().map(|node| id_on(stage, *node)).collect();
            stage.by_hand.client(move |client| {
                let addresses = client.servers.iter().map(|host| transport::address(*host)).collect();
                Box::pin(async move {
                    // Whoever is interested looks at the membership.
                    let _ = operator::try_once(&Hand::new(client, addresses, false), &Wish::Voters(wanted)).await;
                })
            });
        });
    }

    /// Takes a node out of the cluster. Its machine, wiped and without an identity, stays down as a spare.
    ///
    /// # Errors
    /// If it is still a member after 20 s.
    pub fn remove_node(&mut self, node: usize) -> Result<(), ClientError> {
        self.thread.ask(move |stage| {
            stage.wish(Wish::Gone { id: id_on(stage, node) })?;
            stage.drive(async { erase(stage, node) });
            Ok(())
        })
    }
}

impl Stage {
    fn wish(&self, wish: Wish) -> Result<(), ClientError> {
        self.with_client(|hand| async move { operator::fulfil(&hand, wish).await })
    }
}

fn id_on(stage: &Stage, node: usize) -> NodeId {
    stage.host(node);
    let number = u32::try_from(node).expect("nodes are numbered by u32");
    machines::node_on(number).unwrap_or_else(|| panic!("the machine of node {node} has no identity: add it first"))
}
