//! Commands of operators, carried out by the leader.
//!
//! Which of openraft's errors are definite (read in its sources, `core/raft_core.rs` and `raft/api/management.rs` of
//! 0.10.0-alpha.37): a change of voters takes two entries, a joint configuration and then a uniform one, and the same
//! call reports the failure of either. A change of one entry fails before it is written with `ForwardToLeader`,
//! `ChangeMembershipError` and `PreconditionFailed`, which are then definite. A change of two entries may fail with the
//! first two after the joint entry is committed: only a failed precondition of our own is definite, since the second
//! step has another one. Everything else is unknown, as for writes.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, PreconditionFailed, RaftError};
use openraft::raft::{ClientWriteResponse, Precondition};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;
use openraft::{ChangeMembers, Instant, RaftMetrics, ServerState};

use crate::env::Env;
use crate::error::ErrorCode;
use crate::membership::{self, Change, Rules, Seen, Unmet, View};
use crate::message::{AdminReply, AdminRequest, ClusterStatus, LogPoint, MemberStatus, Refusal};
use crate::planted::planted;
use crate::server::{Refused, Server};
use crate::types::{LogId, Member, NodeId, TypeConfig};
use buggify::{assert_always, assert_reachable, assert_sometimes, buggify};

type Written<E> = Result<ClientWriteResponse<TypeConfig<E>>, RaftError<TypeConfig<E>, ClientWriteError<TypeConfig<E>>>>;

/// For a founder that leaves, so many blank entries are written at most.
const BLANK_ENTRIES_MAX: u64 = 100;

impl<E: Env> Server<E> {
    /// Carries out an operator's command, waiting for `budget` at most.
    pub(super) async fn admin(&self, request: AdminRequest, budget: Duration) -> Refused<AdminReply> {
        let late = |_| Refusal::new(ErrorCode::Timeout, format!("it was not done within {budget:?}"));
        let done = TypeConfig::<E>::timeout(budget, self.admin_unbounded(request, budget));
        let reply = done.await.map_err(late)??;
        if !matches!(reply, AdminReply::Status(_)) && buggify!(at "reply to an operator is lost", 0.1) {
            return Err(Refusal::new(ErrorCode::Timeout, "the reply was lost"));
        }
        Ok(reply)
    }

    async fn admin_unbounded(&self, request: AdminRequest, budget: Duration) -> Refused<AdminReply> {
        match request {
            AdminRequest::Upkeep(upkeep) => self.upkeep(upkeep).await.map(AdminReply::Upkept),
            of_leader => self.admin_of_leader(of_leader, budget).await,
        }
    }

    async fn admin_of_leader(&self, request: AdminRequest, budget: Duration) -> Refused<AdminReply> {
        let raft = &self.shared.raft;
        let leader = raft.as_leader().map_err(|forward| self.forward(forward))?;
        let metrics = raft.metrics().borrow_watched().clone();
        // A leader that removed itself goes on naming itself for ever, and leads on for a moment, in which openraft relies on
        // nobody to change the membership.
        let view = view(&metrics);
        let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(self.shared.config.id);
        if !leads || !view.is_led_by_a_member() {
            if leads {
                assert_reachable!("a leader that was removed was asked by an operator", owed_by = "membership");
            }
            return Err(Refusal {
                leader: self.hint(),
                ..Refusal::new(ErrorCode::NotLeader, "this node does not lead")
            });
        }
        match request {
            AdminRequest::Status => Ok(AdminReply::Status(self.status(&metrics))),
            AdminRequest::AllocateNodeId => self.allocate_node_id(&metrics).await.map(AdminReply::Allocated),
            AdminRequest::Change { change, expected } => {
                let view = self.past_the_ids_of_founders(&change, view).await?;
                membership::check(&change, &view, &self.rules()).map_err(|unmet| refused_by_guard(&unmet))?;
                let membership_log_id = metrics.membership_config.log_id().as_ref().map(LogPoint::from);
                if expected.is_some() && expected != membership_log_id && !planted!("change-of-older-membership") {
                    let entry = |point: Option<LogPoint>| {
                        point.map_or("no entry".to_owned(), |point| format!("entry {}", point.index))
                    };
                    let unmet = Unmet(format!(
                        "the membership is that of {}, not that of {}",
                        entry(membership_log_id),
                        entry(expected)
                    ));
                    return Err(refused_by_guard(&unmet));
                }
                let preconditions = [
                    Precondition::CommittedLeaderId { committed_leader_id: leader.to_committed_leader_id() },
                    Precondition::LastMembershipLogId { last_membership_log_id: *metrics.membership_config.log_id() },
                ];
                self.change(change, *metrics.membership_config.log_id(), preconditions).await.map(AdminReply::Changed)
            }
            AdminRequest::TransferLeadership { to } => {
                let checked = membership::check_transfer(to, &view, &self.rules());
                checked.map_err(|unmet| refused_by_guard(&unmet))?;
                self.transfer(to, budget).await.map(|()| AdminReply::Transferred)
            }
            AdminRequest::Upkeep(upkeep) => self.upkeep(upkeep).await.map(AdminReply::Upkept),
        }
    }

    async fn allocate_node_id(&self, metrics: &RaftMetrics<TypeConfig<E>>) -> Refused<NodeId> {
        let highest = metrics.membership_config.membership().nodes().map(|(id, _)| *id).max().unwrap_or(0);
        if planted!("node-id-reused") {
            return Ok(highest + 1);
        }
        loop {
            let written = self.written(self.shared.raft.write_blank().await, false, None)?;
            if written.index > highest {
                return Ok(written.index);
            }
            // Founders have small ids of their own choice.
            assert_reachable!("a blank entry had the number of a founder", owed_by = "");
        }
    }

    /// A founder that is to leave a cluster that has hardly written: blank entries bring the log past its id, so that no new
    /// node gets it. Nothing is written for a change that is refused anyway, nor for an id that is far away.
    async fn past_the_ids_of_founders(&self, change: &Change, view: View) -> Refused<View> {
        let near = |id: &NodeId| *id <= view.last_index + BLANK_ENTRIES_MAX;
        let Some(id) = view.to_be_passed(change).filter(near) else { return Ok(view) };
        let passed = View { last_index: id, ..view.clone() };
        if membership::check(change, &passed, &self.rules()).is_err() {
            return Ok(view);
        }
        assert_reachable!("blank entries brought the log past the id of a founder that leaves", owed_by = "");
        while self.written(self.shared.raft.write_blank().await, false, None)?.index < id {}
        Ok(passed)
    }

    async fn change(
        &self,
        change: Change,
        on: Option<LogId>,
        preconditions: [Precondition<TypeConfig<E>>; 2],
    ) -> Refused<LogPoint> {
        let (change, retain, two_entries) = match change {
            Change::AddLearner { id, address } => {
                (ChangeMembers::AddNodes(BTreeMap::from([(id, Member { address })])), true, false)
            }
            Change::Voters { add, remove, retain } => {
                let both =
                    ChangeMembers::Batch(vec![ChangeMembers::AddVoterIds(add), ChangeMembers::RemoveVoters(remove)]);
                (both, retain || planted!("removed-voter-stays-learner"), true)
            }
            Change::RemoveLearner { id } => (ChangeMembers::RemoveNodes([id].into()), true, false),
            // No change of its own: openraft goes on from the joint configuration to its newer half.
            // Who leaves the voters stays on as a learner: the change may have wanted that, and if it did not, learners
            // are easily removed.
            Change::Finish => (ChangeMembers::AddVoterIds([].into()), true, false),
        };
        if buggify!(at "membership change waits before it is made", 0.2) {
            TypeConfig::<E>::sleep(Duration::from_millis(self.shared.config.raft.election_max_ms)).await;
        }
        let written = self.shared.raft.change_membership_if(change, retain, preconditions).await;
        self.written(written, two_entries, on).map(|id| (&id).into())
    }

    /// See the module. `on` is the membership that the change was made on.
    fn written(&self, written: Written<E>, two_entries: bool, on: Option<LogId>) -> Refused<LogId> {
        let error = match written {
            Ok(response) => return Ok(response.log_id),
            Err(RaftError::Fatal(fatal)) => return Err(Refusal::new(ErrorCode::NodeFailed, fatal.to_string())),
            Err(RaftError::APIError(error)) => error,
        };
        let in_two = |text: String| {
            assert_reachable!("a change of voters may have stopped half way", owed_by = "membership");
            Refusal::new(ErrorCode::Discarded, text)
        };
        match error {
            ClientWriteError::ForwardToLeader(forward) if two_entries => {
                Err(Refusal { leader: self.forward(forward).leader, ..in_two("the leader lost its office".to_owned()) })
            }
            ClientWriteError::ForwardToLeader(forward) => Err(self.forward(forward)),
            ClientWriteError::PreconditionFailed(failed) => {
                let first_step = match &failed {
                    PreconditionFailed::LastMembershipLogIdMismatch { expected, .. } => *expected == on,
                    _ => false,
                };
                if two_entries && !first_step {
                    Err(in_two(failed.to_string()))
                } else {
                    Err(refused_by_guard(&failed))
                }
            }
            ClientWriteError::ChangeMembershipError(error) if two_entries => Err(in_two(error.to_string())),
            ClientWriteError::ChangeMembershipError(error) => Err(refused_by_guard(&error)),
            ClientWriteError::LogEntryDiscarded(forward) => {
                Err(Refusal { code: ErrorCode::Discarded, ..self.forward(forward) })
            }
        }
    }

    async fn transfer(&self, to: NodeId, budget: Duration) -> Refused<()> {
        let raft = &self.shared.raft;
        let me = self.shared.config.id;
        if to == me {
            return Ok(());
        }
        let failed = |reason: String| Refusal::new(ErrorCode::NodeFailed, reason);
        raft.trigger().transfer_leader(to).await.map_err(|fatal| failed(fatal.to_string()))?;
        let mut metrics = raft.metrics();
        let handed_over = metrics.wait_until(move |metrics| metrics.current_leader.is_some_and(|leader| leader != me));
        match TypeConfig::<E>::timeout(budget * 3 / 4, handed_over).await {
            Ok(Ok(metrics)) => {
                assert_sometimes!(metrics.current_leader == Some(to), "leadership went to the node it was meant for");
                Ok(())
            }
            Ok(Err(_)) => Err(failed("the node stopped".to_owned())),
            Err(_) => Err(Refusal::new(ErrorCode::Timeout, "nobody has taken over yet")),
        }
    }

    fn status(&self, metrics: &RaftMetrics<TypeConfig<E>>) -> ClusterStatus {
        let view = view(metrics);
        let membership = metrics.membership_config.membership();
        let member = |(id, member): (&NodeId, &Member)| {
            let seen = view.members.get(id).copied().unwrap_or_default();
            let silent_for_ms = seen.silent_for.map(|silent| u64::try_from(silent.as_millis()).unwrap_or(u64::MAX));
            (*id, MemberStatus { address: member.address.clone(), matched: seen.matched, silent_for_ms })
        };
        let members = membership.nodes().map(member).collect();
        assert_always!(
            view.voters.iter().all(|voters| !voters.is_empty()),
            "a cluster that has a leader has voters",
            view.voters
        );
        ClusterStatus {
            leader: view.leader,
            term: metrics.current_term,
            membership: metrics.membership_config.log_id().as_ref().map(LogPoint::from),
            is_committed: view.is_committed,
            voters: view.voters,
            learners: view.learners,
            members,
            last_index: view.last_index,
            wall_clock_ms: self.shared.env.wall_clock_ms(),
        }
    }

    fn rules(&self) -> Rules {
        let raft = &self.shared.config.raft;
        Rules {
            lag_entries_max: raft.lag_entries,
            silence_max: Duration::from_millis(2 * raft.election_max_ms),
            voters_max: self.shared.config.store.limits.voters_max,
        }
    }
}

fn refused_by_guard(reason: &dyn std::fmt::Display) -> Refusal {
    assert_reachable!("a change of the membership was refused by its guards", owed_by = "membership");
    Refusal::new(ErrorCode::PreconditionFailed, reason.to_string())
}

/// The cluster as this leader sees it.
fn view<E: Env>(metrics: &RaftMetrics<TypeConfig<E>>) -> View {
    let stored = &metrics.membership_config;
    let membership = stored.membership();
    let now = TypeConfig::<E>::now();
    let silent = |id: &NodeId| {
        let heard = metrics.heartbeat.as_ref()?.get(id)?.as_ref()?;
        let heard: InstantOf<TypeConfig<E>> = **heard;
        Some(now.saturating_duration_since(heard))
    };
    let matched = |id: &NodeId| metrics.replication.as_ref()?.get(id)?.as_ref().map(|id| id.index);
    View {
        leader: metrics.id,
        voters: membership.get_joint_config().clone(),
        learners: membership.learner_ids().collect(),
        is_committed: stored.log_id() == metrics.committed_membership_config.log_id(),
        last_index: metrics.last_log_index.unwrap_or(0),
        changed_at: stored.log_id().as_ref().map_or(0, |id| id.index),
        members: membership
            .nodes()
            .map(|(id, _)| (*id, Seen { matched: matched(id), silent_for: silent(id) }))
            .collect(),
    }
}
