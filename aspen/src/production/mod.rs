//! The node in the real world (feature `production`): the same [`crate::node::Node`] that is simulated, on tokio, real
//! files and iroh, with an HTTP interface and a command line around it.
//!
//! - [`mod@env`]: the production [`crate::env::Env`]; [`runtime`]: openraft on tokio; [`lane`]: a storage lane is a thread
//! - [`transport`]: messages over QUIC; peers are known by their public keys
//! - [`secret`]: the cluster's secret, the node's key, the bearer token; [`ticket`]: what lets a new node in
//! - [`config`]: environment, file and command line, and where each value came from
//! - [`daemon`]: a running `aspen-node`: the node, its edges, their start and stop
//! - [`admin`]: changes of membership and other administration, independent of what asks for it
//! - [`membership`]: who is let in; [`side`]: what nodes ask each other beside Raft; [`disk`]: is there room
//! - [`http`]: the interface for clients and operators; [`client`]: its client; [`cli`]: the command `aspen`
//!
//! Nothing here decides anything about consensus or storage: what needs no outside world lives outside this module,
//! where it is simulated.
pub mod admin;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod disk;
pub mod env;
pub mod http;
pub mod lane;
pub mod membership;
pub mod runtime;
pub mod secret;
pub mod side;
pub mod ticket;
pub mod transport;
