//! `aspen` under test: its operation alphabets, faults on its roles, its oracles.
//!
//! - [`cluster`]: aspen as a system under test; [`config`]: what its nodes and clients are configured with
//! - [`mod@env`], [`transport`]: the simulated world as aspen's environment
//! - [`byzantine`]: links that lie, for calibration
//! - [`kv`]: the workload over all commands and queries
//! - [`lock`], [`bank`], [`append_list`], [`session_storm`], [`admin`]: workloads over what users build on the store
//! - [`teller`]: a client whose operations the oracles see; [`seat`]: where it sits, in a simulation or in the real world;
//!   [`pace`]: when operations begin
//! - [`told`]: what nodes tell each other of their disks
//! - [`membership`]: operators who replace lost machines, grow and shrink the cluster; [`machines`]: which Raft node each machine is
//! - [`event`]: what the oracles see; [`metrics`]: openraft's view, reduced to what is judged
//! - [`power`]: how hard losses of power have to be
//! - [`scenario`]: scenarios of the corpus as tests; `property` (feature `proptest`): plans for property tests
//! - [`tester`]: scenarios by hand, a few lines each
//! - [`mod@bench`]: fixed amounts of work, to be timed
//! - [`mod@specs`]: the specs by name, and one run of one of them
pub mod admin;
pub mod append_list;
pub mod bank;
pub mod bench;
pub mod byzantine;
pub mod cluster;
pub mod config;
pub mod env;
pub mod event;
pub mod image;
pub mod kv;
pub mod lock;
pub mod machines;
pub mod membership;
pub mod metrics;
pub mod oracles;
pub mod pace;
pub mod power;
#[cfg(feature = "proptest")]
pub mod property;
pub mod scenario;
pub mod seat;
pub mod session_storm;
pub mod specs;
pub mod teller;
pub mod tester;
pub mod told;
pub mod transport;

pub use specs::{bugs, check_plan, run, specs};
pub use tester::AspenRaftTester;
