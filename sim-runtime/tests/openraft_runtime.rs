//! openraft's own conformance suite for runtimes, on the simulated one.

use openraft_rt::testing::Suite;

use sim_runtime::adapters::openraft::SimRuntime;

#[test]
fn the_runtime_passes_openrafts_suite() {
    Suite::<SimRuntime>::test_all();
}
