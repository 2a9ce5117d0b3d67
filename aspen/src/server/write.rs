//! Writes: checked, stamped, proposed, and answered with what the state machine said, or with how sure it is that
//! nothing happened.
//!
//! Which of openraft's errors are definite (read in its sources, `core/raft_core.rs` of 0.10.0-alpha.37):
//!
//! | error | where it comes from | outcome |
//! |---|---|---|
//! | `ForwardToLeader` | `RaftMsg::ClientWrite` with another leader than expected, and `write_entries` before `leader_append_entries`: the only places that complete a normal write with it, both before an entry exists | definite |
//! | `LogEntryDiscarded` | the entry was truncated or purged past; another leader may have committed it | unknown |
//! | `Fatal`, or the responder was dropped | the core stopped, at any moment | unknown |
//! | `ChangeMembershipError`, `PreconditionFailed` | never for a normal write | unknown, to be safe |
//! | no answer within the budget | the entry may be in the log | unknown |

use std::time::Duration;

use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use openraft::type_config::TypeConfigExt;

use crate::codec;
use crate::command::{Command, Proposal, Reply, SessionSeq};
use crate::env::Env;
use crate::error::ErrorCode;
use crate::message::Refusal;
use crate::room::REFUSE_PERCENT;
use crate::server::{Refused, Server};
use crate::types::{Payload, TypeConfig};
use buggify::{assert_always, assert_reachable, assert_sometimes, buggify};

impl<E: Env> Server<E> {
    /// Proposes a command and waits, for `budget` at most, until it is applied.
    pub(super) async fn write(
        &self,
        session: Option<SessionSeq>,
        command: Command,
        budget: Duration,
    ) -> Refused<Reply> {
        let shared = &self.shared;
        let deadline = TypeConfig::<E>::now() + budget;
        let full = || {
            assert_reachable!("a proposal was refused because too many were in flight");
            let in_flight = shared.config.store.limits.proposals_in_flight_max;
            Refusal::new(ErrorCode::Overloaded, format!("{in_flight} proposals are in flight"))
        };
        if buggify!(at "no more proposals are admitted", 0.02) {
            return Err(full());
        }
        let permit = shared.proposals.enter().ok_or_else(full)?;
        let leader = shared.raft.as_leader().map_err(|forward| self.forward(forward))?;
        let mut proposal = Proposal { log_time_ms: 0, session, command };
        self.check(&proposal)?;
        self.check_room(&proposal.command)?;
        if buggify!(at "proposal waits before it is made", 0.1) {
            TypeConfig::<E>::sleep(Duration::from_millis(shared.config.raft.heartbeat_ms)).await;
        }
        proposal.log_time_ms = self.log_time_ms(leader.term());
        let (responder, mut completed) = ProgressResponder::complete_only();
        // Only under the leadership whose clock stamped it. Otherwise an office could continue another's time.
        let request = shared.raft.write(proposal).responder(responder).with_leader(leader.to_committed_leader_id());
        match TypeConfig::<E>::timeout_at(deadline, request.into_future()).await {
            Ok(Ok(())) => {}
            Ok(Err(fatal)) => return Err(Refusal::new(ErrorCode::NodeFailed, fatal.to_string())),
            Err(_) => return Err(Refusal::new(ErrorCode::Timeout, "the node was too busy to take the proposal")),
        }
        let result = match TypeConfig::<E>::timeout_at(deadline, &mut completed).await {
            Ok(result) => result,
            Err(_) => {
                assert_reachable!("a proposal was not applied in time");
                // It is still in flight, and counts as such until its fate is known.
                drop(TypeConfig::<E>::spawn(async move {
                    let _ = completed.await;
                    drop(permit);
                }));
                return Err(Refusal::new(ErrorCode::Timeout, format!("it was not applied within {budget:?}")));
            }
        };
        drop(permit);
        let reply = match result {
            Ok(result) => self.outcome(result)?,
            Err(_) => return Err(Refusal::new(ErrorCode::NodeFailed, "the node stopped with the proposal in flight")),
        };
        if buggify!(at "reply to a write is lost", 0.05) {
            return Err(Refusal::new(ErrorCode::Timeout, "the reply was lost"));
        }
        Ok(reply)
    }

    /// What is to be stored needs room.
    fn check_room(&self, command: &Command) -> Refused<()> {
        let shared = &self.shared;
        let usage = || shared.env.disk_usage(&shared.config.data_dir);
        let bytes = command.bytes() as u64;
        let short = command.stores()
            && (shared.room.is_short(TypeConfig::<E>::now(), bytes, usage)
                || buggify!(at "disk looks nearly full", 0.02));
        if short {
            assert_reachable!("a proposal was refused because the disk was nearly full");
            let message = format!("the disk of this node is more than {REFUSE_PERCENT} % full");
            return Err(Refusal::new(ErrorCode::DiskFull, message));
        }
        Ok(())
    }

    fn check(&self, proposal: &Proposal) -> Refused<()> {
        let of_session = matches!(
            proposal.command,
            Command::OpenSession { .. } | Command::RefreshSession { .. } | Command::CloseSession { .. }
        );
        let malformed = match proposal.session {
            Some(_) if of_session => Some("a command about sessions is not part of one"),
            Some(SessionSeq { seq: 0, .. }) => Some("the numbers of a session begin with 1"),
            _ => None,
        };
        if let Some(message) = malformed {
            return Err(Refusal::new(ErrorCode::Malformed, message));
        }
        let limits = &self.shared.config.store.limits;
        // The log time is not stamped yet; its encoding takes 10 bytes at most.
        let encoded_bytes = codec::encode_payload(&Payload::Normal(proposal.clone())).len() + 10;
        limits
            .check_command(&proposal.command, encoded_bytes)
            .map_err(|error| Refusal::new(ErrorCode::LimitExceeded, error.to_string()))
    }

    /// See the table above.
    fn outcome(&self, result: ClientWriteResult<TypeConfig<E>>) -> Refused<Reply> {
        match result {
            Ok(response) => {
                let (reply, log_id) = (response.data, response.log_id);
                assert_always!(
                    reply.revision <= log_id.index,
                    "a reply is not of a later entry than the one applied",
                    reply,
                    log_id
                );
                assert_sometimes!(
                    reply.revision < log_id.index,
                    "a write was answered with the reply to an earlier attempt"
                );
                Ok(reply)
            }
            Err(ClientWriteError::ForwardToLeader(forward)) => {
                assert_reachable!("a write was refused after the node had lost its office");
                Err(self.forward(forward))
            }
            Err(ClientWriteError::LogEntryDiscarded(forward)) => {
                assert_reachable!("a proposal was discarded from the log of a deposed leader", owed_by = "network");
                Err(Refusal { code: ErrorCode::Discarded, ..self.forward(forward) })
            }
            Err(other) => Err(Refusal::new(ErrorCode::NodeFailed, other.to_string())),
        }
    }
}
