//! Hand-made runs for the tests of oracles: each event takes one millisecond, node n is host n.

use std::collections::{BTreeMap, BTreeSet};

use aspen::command::{Answer, Command, Compare, Expect, KeyMeta, KeyValue, Outcome, Query, Reply, TxnOp};
use aspen::message::StaleBound;
use aspen::observe::{EntryMeta, Observation};
use aspen::types::{CommittedLeaderId, LeaderId, LogId, NodeId, Vote};
use sim_runtime::engine::oracle::Verdicts;
use sim_runtime::engine::{Oracle, Stamped};
use sim_runtime::world::HostId;

use crate::event::{Action, Down, DurableImage, Event, ImageReason, MembershipView, NodeMetrics, OpResult, Role};

/// Index and term.
pub(crate) fn id(index: u64, term: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(term), index }
}

pub(crate) fn vote(term: u64, voted_for: NodeId, committed: bool) -> Vote {
    Vote { leader_id: LeaderId { term, voted_for }, committed }
}

/// Index, term, payload hash.
pub(crate) fn entry((index, term, payload_hash): (u64, u64, u64)) -> EntryMeta {
    EntryMeta { log_id: id(index, term), payload_hash, is_membership: false }
}

pub(crate) fn image(entries: &[(u64, u64, u64)]) -> DurableImage {
    let log = entries.iter().map(|meta| (meta.0, entry(*meta))).collect();
    DurableImage { log, ..DurableImage::default() }
}

pub(crate) fn set(key: &str, value: &str) -> Command {
    Command::Set { key: key.into(), value: value.into() }
}

pub(crate) fn delete(key: &str) -> Command {
    Command::Delete { key: key.into() }
}

pub(crate) fn transaction(compare: &[(&str, Expect)], then: &[TxnOp], otherwise: &[TxnOp]) -> Command {
    let compared = |(key, expect): &(&str, Expect)| Compare { key: (*key).into(), expect: expect.clone() };
    Command::Transaction {
        compare: compare.iter().map(compared).collect(),
        then: then.to_vec(),
        otherwise: otherwise.to_vec(),
    }
}

pub(crate) fn txn_set(key: &str, value: &str) -> TxnOp {
    TxnOp::Set { key: key.into(), value: value.into() }
}

pub(crate) fn txn_delete(key: &str) -> TxnOp {
    TxnOp::Delete { key: key.into() }
}

pub(crate) fn txn_get(key: &str) -> TxnOp {
    TxnOp::Get { key: key.into() }
}

pub(crate) fn get(key: &str) -> Query {
    Query::Get { key: key.into() }
}

pub(crate) fn scan(limit: u32) -> Query {
    Query::Scan { start: Vec::new(), end: None, limit }
}

/// Create revision, mod revision, version.
pub(crate) fn row(key: &str, value: &str, (create_revision, mod_revision, version): (u64, u64, u64)) -> KeyValue {
    let meta = KeyMeta { create_revision, mod_revision, version };
    KeyValue { key: key.into(), value: value.into(), meta }
}

/// Events of a run, in order.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    at_ns: u64,
    boots: BTreeMap<NodeId, u32>,
    metrics: BTreeMap<NodeId, NodeMetrics>,
    next_op: u64,
    pub events: Vec<Stamped<Event>>,
}

impl Run {
    pub(crate) fn new() -> Run {
        Run { at_ns: 0, boots: BTreeMap::new(), metrics: BTreeMap::new(), next_op: 1, events: Vec::new() }
    }

    pub(crate) fn emit(&mut self, node: NodeId, event: Event) -> &mut Run {
        self.at_ns += 1_000_000;
        self.emit_now(node, event)
    }

    /// At the same time as the event before.
    pub(crate) fn emit_now(&mut self, node: NodeId, event: Event) -> &mut Run {
        let host = HostId(u32::try_from(node).unwrap());
        let boot = self.boots.get(&node).copied().unwrap_or(0);
        self.events.push(Stamped { at_ns: self.at_ns, host, boot, event });
        self
    }

    pub(crate) fn boot(&mut self, node: NodeId) -> &mut Run {
        *self.boots.entry(node).or_insert(0) += 1;
        self.emit(node, Event::Booted { node })
    }

    pub(crate) fn down(&mut self, node: NodeId) -> &mut Run {
        self.metrics.remove(&node);
        self.emit(node, Event::Down { node, cause: Down::Crash })
    }

    pub(crate) fn store(&mut self, node: NodeId, observation: Observation) -> &mut Run {
        self.emit(node, Event::Store { node, observation })
    }

    pub(crate) fn opens(&mut self, node: NodeId, entries: &[(u64, u64, u64)]) -> &mut Run {
        let entries = entries.iter().copied().map(entry).collect();
        self.store(node, Observation::LogOpened { vote: None, purged: None, committed: None, entries })
    }

    pub(crate) fn appends(&mut self, node: NodeId, entries: &[(u64, u64, u64)]) -> &mut Run {
        self.store(node, Observation::Appended { entries: entries.iter().copied().map(entry).collect() })
    }

    pub(crate) fn flushes(&mut self, node: NodeId, (index, term): (u64, u64)) -> &mut Run {
        self.store(node, Observation::Flushed { upto: id(index, term) })
    }

    pub(crate) fn truncates(&mut self, node: NodeId, after: Option<(u64, u64)>) -> &mut Run {
        self.store(node, Observation::Truncated { after: after.map(|(index, term)| id(index, term)) })
    }

    pub(crate) fn applies(&mut self, node: NodeId, (index, term): (u64, u64), state_hash: u64) -> &mut Run {
        self.store(node, Observation::Applied { log_id: id(index, term), state_hash })
    }

    /// The metrics of the node before, changed.
    pub(crate) fn metrics(&mut self, node: NodeId, change: impl FnOnce(&mut NodeMetrics)) -> &mut Run {
        let metrics = self.metrics.entry(node).or_insert_with(|| NodeMetrics {
            node,
            role: Role::Follower,
            term: 0,
            vote: vote(0, node, false),
            leader: None,
            last_log_index: None,
            committed: None,
            applied: None,
            snapshot: None,
            purged: None,
            membership: MembershipView::default(),
            committed_membership: MembershipView::default(),
        });
        change(metrics);
        let metrics = Box::new(metrics.clone());
        self.emit(node, Event::Metrics(metrics))
    }

    pub(crate) fn leads(&mut self, node: NodeId, term: u64) -> &mut Run {
        self.metrics(node, |metrics| {
            metrics.role = Role::Leader;
            metrics.term = term;
            metrics.leader = Some(node);
            metrics.vote = vote(term, node, true);
        })
    }

    pub(crate) fn follows(&mut self, node: NodeId, term: u64, leader: NodeId) -> &mut Run {
        self.metrics(node, |metrics| {
            metrics.role = Role::Follower;
            metrics.term = term;
            metrics.leader = Some(leader);
            metrics.vote = vote(term, leader, true);
        })
    }

    /// The node, in `term`, knows that everything up to the entry is committed.
    pub(crate) fn commits(&mut self, node: NodeId, term: u64, (index, of_term): (u64, u64)) -> &mut Run {
        self.metrics(node, |metrics| {
            metrics.term = term;
            metrics.committed = Some(id(index, of_term));
        })
    }

    /// All nodes have these voters in force.
    pub(crate) fn voters(&mut self, nodes: &[NodeId], voters: &[NodeId]) -> &mut Run {
        let voters: BTreeSet<NodeId> = voters.iter().copied().collect();
        for node in nodes {
            let view =
                MembershipView { log_id: Some(id(0, 0)), voters: vec![voters.clone()], learners: BTreeSet::new() };
            self.metrics(*node, |metrics| {
                metrics.membership = view.clone();
                metrics.committed_membership = view;
            });
        }
        self
    }

    /// At the same time as the event before.
    pub(crate) fn image_now(&mut self, node: NodeId, image: DurableImage, reason: ImageReason) -> &mut Run {
        self.emit_now(node, Event::Image { node, image: Box::new(image), reason })
    }

    pub(crate) fn image(&mut self, node: NodeId, image: DurableImage, reason: ImageReason) -> &mut Run {
        self.at_ns += 1_000_000;
        self.image_now(node, image, reason)
    }

    /// A client begins an operation; returns its id.
    pub(crate) fn begins(&mut self, client: u32, action: Action) -> u64 {
        let op = self.next_op;
        self.next_op += 1;
        self.emit(100, Event::Invoked { client, op, action: action.into() });
        op
    }

    pub(crate) fn writes(&mut self, client: u32, command: Command) -> u64 {
        self.begins(client, Action::Write { session: None, command })
    }

    /// The command is made for the id.
    pub(crate) fn begins_as(&mut self, command: impl FnOnce(u64) -> Command) -> u64 {
        let command = command(self.next_op);
        self.writes(0, command)
    }

    pub(crate) fn reads(&mut self, client: u32, query: Query) -> u64 {
        self.begins(client, Action::Read(query))
    }

    pub(crate) fn ends(&mut self, op: u64, result: OpResult) -> &mut Run {
        self.emit(100, Event::Returned { client: 0, op, result: result.into() })
    }

    pub(crate) fn told(&mut self, op: u64, revision: u64, outcome: Outcome) -> &mut Run {
        self.ends(op, OpResult::Written(Reply { revision, outcome }))
    }

    pub(crate) fn answered(&mut self, op: u64, revision: u64, rows: Vec<KeyValue>) -> &mut Run {
        self.ends(op, OpResult::Answered(Answer { revision, rows, more: false }))
    }

    /// A whole write, acknowledged with this revision and version.
    pub(crate) fn wrote(&mut self, command: Command, revision: u64, version: u64) -> &mut Run {
        let op = self.writes(0, command);
        self.told(op, revision, Outcome::Written { version })
    }

    /// Nothing happens for so long.
    pub(crate) fn passes(&mut self, ms: u64) -> &mut Run {
        self.at_ns += ms * 1_000_000;
        self
    }

    /// A whole stale read that found nothing at this revision.
    pub(crate) fn read_stale(&mut self, query: Query, bound: StaleBound, revision: u64) -> &mut Run {
        let op = self.begins(0, Action::StaleRead { query, bound });
        self.answered(op, revision, Vec::new())
    }

    /// A whole read of one key at this revision.
    pub(crate) fn read(&mut self, key: &str, revision: u64, rows: Vec<KeyValue>) -> &mut Run {
        let op = self.reads(0, get(key));
        self.answered(op, revision, rows)
    }

    /// A write that never returns; its id.
    pub(crate) fn lost(&mut self, client: u32, command: Command) -> u64 {
        let op = self.writes(client, command);
        self.ends(op, OpResult::Unknown("silence".to_owned()));
        op
    }

    pub(crate) fn verdicts(&self, mut oracle: impl Oracle<Event>) -> Verdicts {
        let mut verdicts = Verdicts::default();
        for event in &self.events {
            oracle.on_event(event, &mut verdicts.judge(oracle.property()));
        }
        oracle.finish(self.at_ns, &mut verdicts.judge(oracle.property()));
        verdicts
    }

    /// Nothing is violated, and something was evaluated.
    pub(crate) fn accepts(&self, oracle: impl Oracle<Event>) {
        let verdicts = self.verdicts(oracle);
        assert!(verdicts.violations().is_empty(), "{:#?}", verdicts.violations());
        assert!(verdicts.undecided().is_empty(), "{:?}", verdicts.undecided());
        assert!(verdicts.counts()[0].evaluated > 0, "nothing was evaluated");
    }

    /// The first violation says this, and it came from an evaluation that was not trivial.
    pub(crate) fn rejects(&self, oracle: impl Oracle<Event>, saying: &str) {
        let verdicts = self.verdicts(oracle);
        let first = verdicts.violations().first().expect("a violation");
        assert!(first.message.contains(saying), "{}", first.message);
        assert!(verdicts.counts()[0].nontrivial > 0 || verdicts.counts()[0].evaluated > 0, "nothing was evaluated");
    }
}
