//! What is judged, one property per file.
//!
//! - [`raft`]: what nodes say about themselves in memory, on every change
//! - [`durable`]: what is on their disks
//! - [`client`]: what clients were told
//! - [`contracts`]: what users build on the store, where a workload does
//! - [`liveness`]: what must be once faults are over
//!
//! An oracle says how often it evaluated its property, and how often that was not trivial: when the evaluation could
//! have come out otherwise, given what had been seen. None shares code with `aspen`.
//!
//! What a node said in a boot is void once the boot has ended, except for what it had made durable.
pub mod client;
pub mod contracts;
pub mod durable;
pub mod liveness;
pub mod raft;

#[cfg(test)]
mod testing;

use sim_runtime::checker::linearizability::Budget;
use sim_runtime::engine::Oracle;

use crate::event::Event;

/// What the oracles are told about the run.
#[derive(Clone, Debug, Default)]
pub struct OracleConfig {
    /// How much work the blind check of linearizability may do; beyond it the run is inconclusive.
    pub linearizability: Budget,
}

/// All oracles, in the order of their reports.
pub fn all(config: &OracleConfig) -> Vec<Box<dyn Oracle<Event>>> {
    let mut all: Vec<Box<dyn Oracle<Event>>> = vec![
        Box::new(raft::election_safety::ElectionSafety::default()),
        Box::new(raft::log_matching::LogMatching::default()),
        Box::new(raft::leader_completeness::LeaderCompleteness::default()),
        Box::new(raft::state_machine_safety::StateMachineSafety::default()),
        Box::new(raft::committed_immutable::CommittedImmutable::default()),
        Box::new(raft::order::Order::default()),
        Box::new(raft::membership::Membership::default()),
        Box::new(raft::monotonic::Monotonic::default()),
        Box::new(durable::durable_before_told::DurableBeforeTold::default()),
        Box::new(durable::durable_monotonic::DurableMonotonic::default()),
        Box::new(durable::no_hole::NoHole::default()),
        Box::new(durable::readable::Readable::default()),
        Box::new(durable::committed_on_a_quorum::CommittedOnAQuorum::default()),
    ];
    all.extend(of_clients(config));
    all.push(Box::new(contracts::upkeep::Upkeep::default()));
    all.push(Box::new(contracts::bounded::Bounded::default()));
    all.push(Box::new(liveness::convergence::Convergence::default()));
    all.push(Box::new(liveness::agreement::Agreement::default()));
    all.push(Box::new(liveness::steadfast::Steadfast::default()));
    all
}

/// Those that look only at what clients were told: they judge real processes as well. Each of a contract judges where its
/// workload is at work.
pub fn of_clients(config: &OracleConfig) -> Vec<Box<dyn Oracle<Event>>> {
    vec![
        Box::new(client::outcomes::Outcomes::default()),
        Box::new(client::exactly_once::ExactlyOnce::default()),
        Box::new(client::durability::Durability::default()),
        Box::new(client::order_by_revision::OrderByRevision::default()),
        Box::new(client::linearizability::Linearizability::new(config.linearizability)),
        Box::new(client::stale_reads::StaleReads::default()),
        Box::new(contracts::session_lifetime::SessionLifetime::default()),
        Box::new(contracts::mutual_exclusion::MutualExclusion::default()),
        Box::new(contracts::fencing::Fencing::default()),
        Box::new(contracts::bank_total::BankTotal::default()),
        Box::new(contracts::append_list::AppendList::default()),
    ]
}

/// What they judge, by name.
pub fn properties() -> Vec<String> {
    all(&OracleConfig::default()).iter().map(|oracle| oracle.property().to_owned()).collect()
}
