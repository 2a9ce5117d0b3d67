//! A replicated key-value node: openraft over a redb log and a SQLite state machine.
//!
//! - [`types`]: openraft's type parameters, fixed once
//! - [`command`]: what clients ask for and what they are told; [`error`]: why they were not served
//! - [`node`]: a running node: its network, its server, its stores and their common life
//! - [`membership`]: who belongs to the cluster, and which changes of that are refused
//! - [`client`]: finds the leader, retries, says whether a failed operation may have happened
//! - [`message`]: what nodes and clients say to each other
//! - [`codec`], [`log_store`], [`state_machine`], [`snapshot`], [`store`]: what a node keeps on disk; [`health`] and
//!   [`floor`] are what the stores tell each other
//! - [`config`]: the tunables; [`limits`]: every bound, with units; [`room`]: when the disk is nearly full
//! - [`mod@env`]: the seam to the world; [`transport`] is its network part, [`observe`] what a node tells an observer
//! - [`conformance`]: what every implementation of a seam must do, as checks
//! - `production`: the node for the real world (feature `production`)
//! - [`planted`]: defects that a simulator must find (feature `planted`)
//!
//! The code that ships is the code that is simulated: there is no simulation-only path in this crate.

mod bytes;
pub mod client;
pub mod codec;
pub mod command;
pub mod config;
pub mod conformance;
mod detach;
pub mod env;
pub mod error;
pub mod floor;
pub mod health;
pub mod limits;
pub mod log_store;
pub mod membership;
pub mod message;
mod network;
pub mod node;
pub mod observe;
pub mod planted;
#[cfg(feature = "production")]
pub mod production;
pub mod room;
mod server;
pub mod snapshot;
pub mod state_machine;
pub mod store;
pub mod transport;
pub mod types;
