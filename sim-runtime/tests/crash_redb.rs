//! redb alone on the simulated disk: no acknowledged transaction is lost, whenever the power goes or an operation fails; of
//! those committed with `Durability::None` an unbroken prefix survives.
//!
//! `CRASH_POINTS=10000 CRASH_SUBSETS=2 cargo test --release -p sim-runtime --test crash_redb -- --nocapture` loses the
//! power at 10 000 operations, with two random subsets at each. `older/` points the same engine at redb 4.1.0.
mod crash_rig;
#[path = "crash_rig/redb_engine.rs"]
mod redb_engine;

use crash_rig::{Findings, Trial, every_subset, fail_everywhere, findings, live};
use redb_engine::Redb;
use sim_runtime::adapters::redb::RedbFile as Backend;
use sim_runtime::disk::DiskConfig;

fn trial(points: u64, transactions: u64, config: DiskConfig) -> Trial {
    Trial { points, transactions, config, double_every: 150 }
}

#[test]
fn every_acknowledged_transaction_survives_a_power_loss_at_any_operation() {
    let findings: Findings = findings::<Redb<false>>(&trial(2_000, 230, DiskConfig::default()));
    findings.assert_sound(2_000);
    assert!(findings.lost_transactions_max <= 1, "only the transaction being committed may be missing");
}

#[test]
fn lazy_transactions_survive_as_a_prefix() {
    let findings = findings::<Redb<true>>(&trial(500, 150, DiskConfig::default()));
    findings.assert_sound(500);
    assert!(findings.lost_transactions_max > 1, "nothing was lost that was allowed to be");
}

#[test]
fn every_subset_of_a_few_sectors_is_survived() {
    let findings = every_subset::<Redb<false>>(12, 256);
    println!("{findings:?}");
    assert_eq!(findings.failures, Vec::<String>::new());
    assert!(findings.exhausted > 30 && findings.images > 300, "too little was tried");
}

#[test]
fn an_error_at_any_operation_is_reported_and_loses_nothing() {
    let findings = fail_everywhere::<Redb<false>>(10);
    println!("{findings:?}");
    assert_eq!(findings.failures, Vec::<String>::new());
    assert!(findings.errors > 200 && findings.reported * 2 > findings.errors, "too little was tried");
}

#[test]
fn a_dropped_sync_is_caught() {
    let config = DiskConfig { lying_sync_ppm: 100_000, ..DiskConfig::default() };
    let findings = findings::<Redb<false>>(&trial(500, 60, config));
    assert!(!findings.failures.is_empty(), "one sync in ten did nothing, and nobody noticed");
}

#[test]
fn a_host_lives_through_many_power_losses() {
    let life = live::<Redb<false>>(7, 150, 120);
    life.assert_eventful();
    assert_eq!(life.digest, live::<Redb<false>>(7, 150, 120).digest, "the same seed gives the same life");
}
