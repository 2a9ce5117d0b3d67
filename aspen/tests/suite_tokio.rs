//! Both stores pass openraft's storage suite on tokio with real files, with default knobs and with the extremes that
//! send every read to disk and cut every batch.

mod support;

use aspen::conformance::storage_suite;
use aspen::store::StoreConfig;
use openraft::AsyncRuntime;
use support::TokioEnv;

#[test]
fn the_stores_pass_openrafts_suite() {
    run(StoreConfig::default());
}

#[test]
fn the_stores_pass_openrafts_suite_without_a_cache_and_with_the_smallest_batches() {
    run(StoreConfig {
        cache_bytes: 0,
        flush_batch_entries_max: 1,
        queue_operations_max: 1,
        checkpoint_pages: 1,
        snapshot_step_rows: 1,
        apply_batch_entries_max: 1,
        ..StoreConfig::default()
    });
}

fn run(config: StoreConfig) {
    let dir = tempfile::tempdir().unwrap();
    let mut runtime = <openraft::impls::TokioRuntime as AsyncRuntime>::new(2);
    let env = TokioEnv::default();
    runtime.block_on(storage_suite(&env, dir.path().to_owned(), config)).unwrap_or_else(|error| panic!("{error}"));
}
