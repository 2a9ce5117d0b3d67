//! A replicated key-value node: openraft over a redb log and a SQLite state machine.
//!
//! - [`types`]: openraft's type parameters, fixed once
//! - [`command`]: what clients ask for and what they are told
//! - [`limits`]: every bound, with units
//! - [`codec`]: what is written to disk and sent, byte by byte
//! - [`log_store`]: the Raft log, in redb; [`state_machine`]: the state, in SQLite; [`snapshot`]: the state in one file
//! - [`store`]: the stores of one data directory, opened together; [`floor`] and [`health`] are what they share
//! - [`conformance`]: openraft's storage suite, in any environment
//! - [`env`]: the seam to the world; [`transport`] is its network part, [`observe`] what a node tells an observer
//! - [`planted`]: defects that a simulator must find (feature `planted`)
//!
//! The code that ships is the code that is simulated: there is no simulation-only path in this crate.
pub mod codec;
pub mod command;
pub mod conformance;
pub mod env;
pub mod floor;
pub mod health;
pub mod limits;
pub mod log_store;
pub mod observe;
pub mod planted;
pub mod snapshot;
pub mod state_machine;
pub mod store;
pub mod transport;
pub mod types;
